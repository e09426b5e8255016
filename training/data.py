"""Training data: frames drawn once into shards on disk, random crops of them, and what the network should say of each.

Shards make the training's speed independent of the generator's: a frame of 320 pixels is drawn in 20 ms and gives
other crops every time it is used.
"""

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.scenes.scenes import TRAINING, Studio
from training.decode import SIZE_BASE, STEP, STRIDE

SHARD = 500  # frames
_BORDER = 114  # the grey of the letterbox
Rows = NDArray[np.float32]
"""Digits: class, x0, y0, x1, y1."""


def make_shards(folder: Path, seed: int, frames: int) -> None:
    """Draws the frames that are not there yet: ``frames-NNN.npy`` (uint8) and ``boxes-NNN.npy`` (frame, then ``Rows``)."""
    folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    studio: Studio | None = None
    for shard in range(-(-frames // SHARD)):
        images, boxes = folder / f"frames-{shard:03}.npy", folder / f"boxes-{shard:03}.npy"
        if boxes.exists():
            continue
        studio = studio or Studio(seed, "train")
        pixels = np.empty((SHARD, TRAINING.height, TRAINING.width, 3), np.uint8)
        rows = []
        for i in range(SHARD):
            scene = studio.scene(shard * SHARD + i, TRAINING)
            pixels[i] = scene.image
            rows += [(i, int(char), *box) for char, *box in scene.boxes]
        np.save(images, pixels)
        temporary = folder / "boxes.tmp.npy"
        np.save(temporary, np.array(rows, np.float32).reshape(-1, 6))
        os.replace(temporary, boxes)  # noqa: PTH105


class Crops:
    """Random crops of ``size`` pixels of the shards in ``folder``; reproducible by their number."""

    def __init__(self, folder: Path, size: int, seed: int, frames: int) -> None:
        self.size, self.seed = size, seed
        shards = [f"{i:03}" for i in range(-(-frames // SHARD))]
        self.images = [np.load(folder / f"frames-{s}.npy", mmap_mode="r") for s in shards]
        self.rows: list[list[Rows]] = []
        for s in shards:
            rows = np.load(folder / f"boxes-{s}.npy")
            ends = np.searchsorted(rows[:, 0], np.arange(SHARD + 1))
            self.rows.append([rows[a:b, 1:] for a, b in zip(ends[:-1], ends[1:])])

    def crop(self, number: int) -> tuple[NDArray[np.uint8], Rows]:
        """Crop ``number``: another place, size, brightness and colour each time."""
        random = np.random.default_rng([self.seed, number])
        shard, i = int(random.integers(len(self.images))), int(random.integers(SHARD))
        frame, rows = self.images[shard][i], self.rows[shard][i].copy()
        zoom = float(np.exp(random.uniform(-0.3, 0.3)))
        side = min(round(self.size / zoom), frame.shape[0])
        zoom = self.size / side
        # Half of the crops are centred on a digit, so that few are empty.
        limit = frame.shape[0] - side
        corner = random.integers(0, limit + 1, 2)
        if len(rows) and random.random() < 0.5:
            _, x0, y0, x1, y1 = rows[random.integers(len(rows))]
            middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + random.normal(0, side / 5, 2)
            corner = np.clip(middle - side / 2, 0, limit).astype(int)
        x, y = corner
        image = cv2.resize(frame[y : y + side, x : x + side], (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        rows[:, 1::2] = (rows[:, 1::2] - x) * zoom
        rows[:, 2::2] = (rows[:, 2::2] - y) * zoom
        rows = _visible(rows, self.size)
        return _recolour(random, np.asarray(image, np.uint8), rows), rows


def _visible(rows: Rows, size: int) -> Rows:
    """Digits that are mostly inside, cut at the border."""
    inside = np.clip(rows[:, 1:], 0, size)
    area = (rows[:, 3] - rows[:, 1]) * (rows[:, 4] - rows[:, 2])
    seen = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
    return np.concatenate([rows[:, :1], inside], axis=1)[seen > 0.75 * area]


def _recolour(random: np.random.Generator, image: NDArray[np.uint8], rows: Rows) -> NDArray[np.uint8]:
    """Another brightness, contrast and order of channels; at times inverted, grey, or beside a letterbox's border."""
    table = np.arange(256, dtype=np.float32)
    table = (table - 128) * random.uniform(0.6, 1.3) + 128 + random.normal(0, 18)
    if random.random() < 0.15:
        table = 255 - table
    image = np.asarray(np.clip(table, 0, 255).astype(np.uint8)[image])
    if random.random() < 0.3:
        image = image[..., random.permutation(3)]
    if random.random() < 0.15:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if random.random() < 0.15:
        band, side = int(random.integers(4, image.shape[0] // 3)), int(random.integers(4))
        start, stop = (0, band) if side < 2 else (image.shape[0] - band, image.shape[0])
        axis = side % 2  # 0: rows, 1: columns
        low, high = rows[:, 2 - axis], rows[:, 4 - axis]
        if not ((low < stop) & (high > start)).any():
            image = image.copy()
            (image if axis == 0 else image.transpose(1, 0, 2))[start:stop] = _BORDER
    return image


def targets(rows: Rows, size: int) -> NDArray[np.float32]:
    """What each cell should say: (size / stride, size / stride, 7): weight of objectness, objectness, class, box.

    The cell that holds a digit's centre, and of large digits those within a fifth of its size, are positive. Cells
    further out but inside the digit have weight 0: they may say what they like, for suppression removes it. The box is
    that of ``decode``: dx, dy, log width, log height, each in its units.
    """
    cells = size // STRIDE
    made = np.zeros((cells, cells, 7), np.float32)
    made[..., 0] = 1
    centre = (np.arange(cells, dtype=np.float32) + 0.5) * STRIDE
    order = np.argsort(-(rows[:, 3] - rows[:, 1]) * (rows[:, 4] - rows[:, 2]))  # small digits last: they win
    for near in (0.36, 0.2):
        for kind, x0, y0, x1, y1 in rows[order]:
            cx, cy, w, h = (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, 2.0), max(y1 - y0, 2.0)
            xs = np.flatnonzero(np.abs(centre - cx) <= max(near * w, STRIDE / 2))
            ys = np.flatnonzero(np.abs(centre - cy) <= max(near * h, STRIDE / 2))
            part = made[np.ix_(ys, xs)]
            if near > 0.3:
                part[..., 0] = 0
            else:
                part[..., 0], part[..., 1], part[..., 2] = 1, 1, kind
                part[..., 3] = (cx - centre[xs])[None] / (STRIDE * STEP)
                part[..., 4] = (cy - centre[ys])[:, None] / (STRIDE * STEP)
                part[..., 5], part[..., 6] = np.log(w / SIZE_BASE) / STEP, np.log(h / SIZE_BASE) / STEP
            made[np.ix_(ys, xs)] = part
    return made
