"""Trains the network on crops, on one core; goes on from its last checkpoint.

AdamW, one cycle of the learning rate, an exponential mean of the weights (which is what is exported). Crops are drawn
by number, so a resumed run sees the same ones.
"""

import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from training.data import Crops, targets
from training.decode import SIZE_BASE, STEP, STRIDE
from training.network import Detector

CHECKPOINT = "checkpoint.pt"
BATCH, CROP, RATE = 32, 160, 4e-3  # crops a step, their pixels, the highest learning rate
_SAVE_EVERY = 250  # steps


def train(
    folder: Path, seed: int, steps: int, frames: int, *, batch: int = BATCH, size: int = CROP, rate: float = RATE
) -> tuple[Detector, float]:
    """The mean network after ``steps`` steps, and the minutes they took. Shards and checkpoint lie in ``folder``."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(seed)
    crops = Crops(folder / "shards", size, seed, frames)
    network = Detector().to(memory_format=torch.channels_last)
    mean = Detector()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}], rate)
    step, spent = _resume(folder, network, mean, optimizer)
    start, seen = time.monotonic(), []
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = rate * _cycle(step / steps)
        images, wanted = _batch(crops, range(step * batch, (step + 1) * batch))
        with torch.autocast("cpu", torch.bfloat16):  # 1.45 times faster here, also without matrix units
            output = network(images)
        parts = loss(output.float(), wanted)
        optimizer.zero_grad(set_to_none=True)
        sum(parts).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        step += 1
        _follow(mean, network, min(0.998, step / (step + 20)))
        seen.append([p.item() for p in parts])
        if step % 50 == 0:
            minutes = spent + (time.monotonic() - start) / 60
            parts_seen = " ".join(f"{v:.3f}" for v in np.mean(seen, axis=0))
            print(f"step {step} of {steps}, {minutes:.1f} min, loss (object, box, class) {parts_seen}", flush=True)
            seen.clear()
        if step % _SAVE_EVERY == 0 or step == steps:
            minutes = spent + (time.monotonic() - start) / 60
            state = {"step": step, "minutes": minutes, "network": network.state_dict(), "mean": mean.state_dict()}
            torch.save({**state, "optimizer": optimizer.state_dict()}, folder / "checkpoint.tmp")
            (folder / "checkpoint.tmp").replace(folder / CHECKPOINT)
    return mean.eval(), spent + (time.monotonic() - start) / 60


def _resume(folder: Path, network: Detector, mean: Detector, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    if not (folder / CHECKPOINT).exists():
        mean.load_state_dict(network.state_dict())
        return 0, 0.0
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    network.load_state_dict(state["network"])
    mean.load_state_dict(state["mean"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["minutes"])


def _cycle(done: float) -> float:
    """Share of the peak rate: up over the first twentieth, then down along a cosine."""
    return done / 0.05 + 0.02 if done < 0.05 else 0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * (done - 0.05) / 0.95))


def _batch(crops: Crops, numbers: range) -> tuple[torch.Tensor, torch.Tensor]:
    made = [crops.crop(n) for n in numbers]
    images = torch.from_numpy(np.stack([image for image, _ in made])).permute(0, 3, 1, 2)  # channels last
    wanted = np.stack([targets(rows, crops.size) for _, rows in made])
    return images.float().div_(255), torch.from_numpy(wanted)


def _follow(mean: Detector, network: Detector, keep: float) -> None:
    with torch.no_grad():
        for old, new in zip(mean.state_dict().values(), network.state_dict().values()):
            if old.dtype.is_floating_point:
                old.mul_(keep).add_(new, alpha=1 - keep)
            else:
                old.copy_(new)


def loss(output: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Focal loss of objectness, generalized IoU and distance of boxes, cross entropy of labels; per positive cell."""
    cells = output.permute(0, 2, 3, 1).reshape(-1, output.shape[1])
    wanted = wanted.reshape(-1, wanted.shape[-1])
    weight, there = wanted[:, 0], wanted[:, 1]
    entropy = functional.binary_cross_entropy_with_logits(cells[:, 0], there, reduction="none")
    focus = (torch.sigmoid(cells[:, 0]) - there).abs().detach() ** 1.5
    positive = there > 0
    count = positive.sum().clamp(min=1)
    found = (entropy * focus * weight).sum() / count * 3
    if not positive.any():
        zero = output.sum() * 0
        return found, zero, zero
    cells, wanted = cells[positive], wanted[positive]
    near = functional.smooth_l1_loss(cells[:, 1:5], wanted[:, 3:7], beta=0.5)
    boxes = (1 - _generalized_iou(_box(cells[:, 1:5]), _box(wanted[:, 3:7]))).mean() * 2 + near * 0.3
    names = functional.cross_entropy(cells[:, 5:], wanted[:, 2].long(), label_smoothing=0.02)
    return found, boxes, names


def _box(values: torch.Tensor) -> torch.Tensor:
    """Corners, in pixels from the cell's centre."""
    centre = values[:, :2] * (STEP * STRIDE)
    size = SIZE_BASE * torch.exp((values[:, 2:] * STEP).clamp(-3, 3))
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def _generalized_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    def area(box: torch.Tensor) -> torch.Tensor:
        return (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])

    both = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    shared, outer = both[:, 0] * both[:, 1], hull[:, 0] * hull[:, 1]
    union = area(a) + area(b) - shared
    return shared / union - (outer - union) / outer
