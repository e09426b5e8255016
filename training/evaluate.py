"""How good a .tflite of ours is, on frames whose fonts and backgrounds training never saw.

AP50: the area under precision over recall (the upper envelope, all points) at IoU 0.5, for each label, and their mean.
A frame's readings are right if they are the true ones and no others.
"""

import functools
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.scenes.glyphs import DIGITS
from edge_agent.sources.scenes.panels import DigitBox
from edge_agent.sources.scenes.scenes import VIEW, Scene, Studio
from models.results.readings import read_panels
from schemas.contract.results import Detection
from training.view import Reader

_LOWEST = 0.01  # AP looks at detections of all scores


def evaluate(path: Path, seed: int, frames: int) -> dict[str, Any]:
    """Figures of the model on ``frames`` held-out frames: ap50, ap50_of (by label), readings and what they rest on."""
    cv2.setNumThreads(1)
    reader, studio = Reader(path, _LOWEST), _studio(seed)
    found, truth, right, panels_right, panels = [], [], 0, 0, 0
    start = time.monotonic()
    for i in range(frames):
        scene = studio.scene(i, VIEW)
        digits = reader.read(scene.image)
        found.append(digits)
        truth.append(scene.boxes)
        good = readings_right((d for d in digits if d.score >= reader.threshold), scene)
        right += good == (len(scene.readings), 0)
        panels_right, panels = panels_right + good[0], panels + len(scene.readings)
    shown = {box[0] for boxes in truth for box in boxes}
    ap = {label: average_precision(found, truth, label) for label in DIGITS if label in shown}
    return {
        "model": path.name,
        "frames": frames,
        "seed": seed,
        "ap50": round(float(np.mean(list(ap.values()))), 4),
        "ap50_of": {label: round(value, 4) for label, value in ap.items()},
        "readings": round(right / frames, 4),
        "panels": round(panels_right / panels, 4),
        "digits": sum(map(len, truth)),
        "threshold": reader.threshold,
        "seconds": round(time.monotonic() - start, 1),
    }


@functools.lru_cache(maxsize=2)
def _studio(seed: int) -> Studio:
    return Studio(seed, "test")


def readings_right(digits: Iterable[Detection], scene: Scene) -> tuple[int, int]:
    """Panels of the scene that were read right, and readings that are of no panel."""
    read, wanted = Counter(read_panels(digits)), Counter(scene.readings)
    return sum((read & wanted).values()), sum((read - wanted).values())


def average_precision(found: Sequence[Sequence[Detection]], truth: Sequence[Sequence[DigitBox]], label: str) -> float:
    """AP at IoU 0.5 of one label over all frames; a true box is found once."""
    ranked = sorted(((d.score, i, d) for i, ds in enumerate(found) for d in ds if d.label == label), key=lambda r: -r[0])
    wanted = [np.array([b[1:] for b in boxes if b[0] == label]).reshape(-1, 4) for boxes in truth]
    free = [np.ones(len(w), bool) for w in wanted]
    total = sum(map(len, wanted))
    hits = np.zeros(len(ranked))
    for k, (_, i, digit) in enumerate(ranked):
        if len(wanted[i]):
            iou = overlaps(np.array(digit.box), wanted[i]) * free[i]
            best = int(iou.argmax())
            if iou[best] >= 0.5:
                hits[k], free[i][best] = 1, False
    if not total or not len(ranked):
        return 0.0
    recall = np.cumsum(hits) / total
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def overlaps(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of a box with each of ``boxes`` (n, 4), corners."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(shared / ((box[2:] - box[:2]).prod() + areas - shared))


def write(path: Path, figures: Any) -> None:
    path.write_text(json.dumps(figures, indent=1) + "\n")
