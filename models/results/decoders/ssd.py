"""SSD and its kin: boxes that are refined from anchors, in the graph or here.

Anchors are generated, not listed: (n, 4) of centre x, y, width and height, in shares of the model's picture. Rows of cells
come first, then cells, then the anchors of a cell; layers with small cells come before those with large ones.
"""

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np

from models.results.card_file import Card
from models.results.decoders.head import Head, are_shares, best_class, detections, sigmoid
from schemas.contract.results import Result

_LEVELS = range(3, 8)  # of EfficientDet: cells of 8 to 128 pixels
_BOX_CODER = np.array((10.0, 10.0, 5.0, 5.0), np.float32)  # of TensorFlow's SSD: y, x, h, w are so many times too large
_LAYERS = 6  # of the same
_MAX_LOG_SIZE = 10.0  # exp(10) pictures are more than any


def ssd(head: Head) -> Result:
    """The four outputs of TFLite_Detection_PostProcess: boxes (1, n, 4) as y0, x0, y1, x1 normalized, classes (1, n),
    scores (1, n), count (1,). Suppression was done in the graph. Source: detection_postprocess.cc of TFLite.
    """
    boxes, classes, scores, count = (tensor.reshape(-1) for tensor in head.tensors)
    n = min(int(count[0]), len(scores))
    corners = boxes.reshape(-1, 4)[:n, [1, 0, 3, 2]] * _picture(head)
    keep = np.flatnonzero(scores[:n] >= head.card.threshold)
    order = keep[np.argsort(-scores[keep], kind="stable")][: head.card.max_detections]
    return detections(head, corners[order], scores[order], classes[order].astype(np.int64), None)


def blaze(head: Head) -> Result:
    """MediaPipe's detectors of faces, palms and bodies: (1, n, 4 + 2K) of centre x, y, width, height and K points in
    pixels from the anchor's centre, and (1, n, 1) of logits.

    Source: google-ai-edge/mediapipe, tensors_to_detections_calculator.cc and ssd_anchors_calculator.cc (fixed size).
    """
    rows, scores = head.tensors[0][0], sigmoid(np.clip(head.tensors[1][0], -100, 100))
    size = np.array((head.pixels.width, head.pixels.height), np.float32)
    centres = blaze_anchors(head.card.strides, (head.pixels.height, head.pixels.width))[:, :2] * size
    middle, half = centres + rows[:, :2], rows[:, 2:4] / 2
    places = rows[:, 4:].reshape(len(rows), -1, 2) + centres[:, None]
    points = np.concatenate([places, np.ones((*places.shape[:2], 1))], axis=2) if places.size else None
    boxes = np.concatenate([middle - half, middle + half], axis=1)
    return best_class(head, boxes, np.ones(len(rows), np.float32), scores, points=points)


def ssd_anchors(head: Head) -> Result:
    """TensorFlow's SSD without its post-processing: (1, n, 4) of y, x, h, w against the anchors, and (1, n, 1 + C) scores
    whose first class is the background. Source: tensorflow/models, object_detection: multiple_grid_anchor_generator.py,
    faster_rcnn_box_coder.py.
    """
    scores = sigmoid(head.tensors[1][0]) if head.card.logits else head.tensors[1][0]
    are_shares(head, scores)
    boxes = _refined(head, head.tensors[0][0] / _BOX_CODER, grid_anchors((head.pixels.height, head.pixels.width)))
    return best_class(head, boxes, np.ones(len(boxes), np.float32), scores[:, 1:])


def efficientdet(head: Head) -> Result:
    """EfficientDet without its post-processing: (1, n, 4) of y, x, h, w against the anchors, and (1, n, C) scores.

    Source: google/automl, efficientdet/tf2/anchors.py; the Lite models of 320 to 448 pixels have an ``anchor_scale`` of 3.
    """
    scores = sigmoid(head.tensors[1][0]) if head.card.logits else head.tensors[1][0]
    are_shares(head, scores)
    anchors = pyramid_anchors((head.pixels.height, head.pixels.width), anchor_scale(head.card, head.pixels.width))
    boxes = _refined(head, head.tensors[0][0], anchors)
    return best_class(head, boxes, np.ones(len(boxes), np.float32), scores)


def _picture(head: Head) -> np.ndarray:
    return np.array((head.pixels.width, head.pixels.height) * 2, np.float32)


def _refined(head: Head, offsets: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Corners in the model's pixels of (n, 4) y, x, h, w: steps in sizes of the anchor, sizes as logarithms of theirs."""
    middle = anchors[:, :2] + offsets[:, [1, 0]] * anchors[:, 2:]
    half = np.exp(np.clip(offsets[:, [3, 2]], -_MAX_LOG_SIZE, _MAX_LOG_SIZE)) * anchors[:, 2:] / 2
    return np.asarray(np.concatenate([middle - half, middle + half], axis=1) * _picture(head))


def blaze_anchors(strides: Sequence[int], picture: tuple[int, int]) -> np.ndarray:
    """Two anchors a cell for each layer, one where there is only one layer; layers of one stride share their cells."""
    each = 2 if len(strides) > 1 else 1
    layers = [(stride, each * strides.count(stride)) for stride in dict.fromkeys(strides)]
    height, width = picture
    found = [_cells(ceil(height / stride), ceil(width / stride), [(1.0, 1.0)] * n) for stride, n in layers]
    return np.concatenate(found)


def grid_anchors(picture: tuple[int, int]) -> np.ndarray:
    """Six layers from cells of 16 pixels on, scales 0.2 to 0.95, three anchors a cell in the first and six in the others."""
    scales = [0.2 + 0.75 * i / (_LAYERS - 1) for i in range(_LAYERS)] + [1.0]
    height, width = (ceil(side / 16) for side in picture)
    short, found = min(picture), []
    unit = short / picture[1], short / picture[0]
    for i in range(_LAYERS):
        shapes = [(0.1, 1.0), (scales[i], 2.0), (scales[i], 0.5)]
        if i:
            shapes = [(scales[i], ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)]
            shapes += [(sqrt(scales[i] * scales[i + 1]), 1.0)]
        sizes = [(scale * sqrt(ratio) * unit[0], scale / sqrt(ratio) * unit[1]) for scale, ratio in shapes]
        found.append(_cells(height, width, sizes))
        height, width = ceil(height / 2), ceil(width / 2)
    return np.concatenate(found)


def pyramid_anchors(picture: tuple[int, int], scale: float) -> np.ndarray:
    """Nine anchors a cell, of three sizes within an octave and three ratios, on five levels."""
    found = []
    for level in _LEVELS:
        height, width = (ceil(side / 2**level) for side in picture)
        sizes = [
            (base * sqrt(ratio) / width, base / sqrt(ratio) / height)
            for octave in range(3) for ratio in (1.0, 2.0, 0.5) if (base := scale * 2 ** (octave / 3))
        ]  # fmt: skip
        found.append(_cells(height, width, sizes))
    return np.concatenate(found)


def anchor_scale(card: Card, width: int) -> float:
    """EfficientDet's: the card's, or that of the published models of this size."""
    return card.anchor_scale or (3.0 if width in (320, 384, 448) else 4.0)


def _cells(height: int, width: int, sizes: Sequence[tuple[float, float]]) -> np.ndarray:
    y, x, i = (axis.reshape(-1) for axis in np.mgrid[:height, :width, : len(sizes)])
    centres = np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=1)
    return np.concatenate([centres, np.array(sizes)[i]], axis=1).astype(np.float32)
