"""From the network's map to boxes, the formula of the card's ``decoder = "grid"``.

Cell (row j, column i) of the map holds 15 numbers: o, dx, dy, dw, dh, c0 .. c9.

    score = sigmoid(o) * max(softmax(c))        label = argmax(c)
    centre x = (i + 0.5 + dx / 4) * 8           width  = 16 * exp(dw / 4)
    centre y = (j + 0.5 + dy / 4) * 8           height = 16 * exp(dh / 4)

in pixels of the model's input. The quarter keeps boxes fine where one step of an int8 map is a tenth. Of boxes that
overlap by more than ``iou`` the best is kept, whatever their labels: two digits are never at one place. What runs is
``models.results.decode``; this is the formula that the network is trained for, and tests hold the one against the other.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

STRIDE = 8
STEP = 0.25
SIZE_BASE = 16.0
CHANNELS = 15


class Digit(NamedTuple):
    """A digit that was found: its label, score and box in pixels."""

    label: str
    score: float
    x0: float
    y0: float
    x1: float
    y1: float


def decode(output: NDArray[np.float32], threshold: float, iou: float) -> list[Digit]:
    """The digits of a map (1, rows, columns, 15), best first."""
    cells = output[0].reshape(-1, CHANNELS).astype(np.float64)
    classes = np.exp(cells[:, 5:] - cells[:, 5:].max(axis=1, keepdims=True))
    scores = 1 / (1 + np.exp(-np.clip(cells[:, 0], -60, 60))) / classes.sum(axis=1)
    found = np.flatnonzero(scores >= threshold)
    if not len(found):
        return []
    cells, scores, labels = cells[found], scores[found], classes[found].argmax(axis=1)
    place = np.stack([found % output.shape[2], found // output.shape[2]], axis=1)
    centre = (place + 0.5 + cells[:, 1:3] * STEP) * STRIDE
    size = SIZE_BASE * np.exp(np.clip(cells[:, 3:5] * STEP, -4, 4))
    corner = centre - size / 2
    kept = cv2.dnn.NMSBoxes(np.hstack([corner, size]).tolist(), scores.tolist(), threshold, iou)
    return [
        Digit(str(labels[i]), float(scores[i]), *map(float, corner[i]), *map(float, corner[i] + size[i]))
        for i in np.asarray(kept, int).reshape(-1)
    ]
