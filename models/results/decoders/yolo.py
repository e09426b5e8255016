"""YOLO in its generations, and the digits model's grid."""

from collections.abc import Sequence

import numpy as np

from models.results.card_file import COCO_ANCHORS, Card
from models.results.decoders.head import (
    MAX_CANDIDATES,
    Head,
    are_shares,
    best_class,
    cell_size,
    detections,
    sigmoid,
    softmax,
    suppress,
)  # fmt: skip
from schemas.contract.errors import EngineError
from schemas.contract.results import Result

_MAX_LOG_SIZE = 10.0  # exp(10) cells are more than any picture
_MAX_LOG_GRID = 4.0  # as in training


def yolov2(head: Head) -> Result:
    """Darknet's region layer, map (1, h, w, A * (5 + C)) of x, y, w, h, objectness, classes for each anchor.

    Centre = (cell + sigmoid(xy)) * stride, size = exp(wh) * anchor * stride with anchors in cells, score =
    sigmoid(objectness) * softmax(classes). Source: region_layer.c of Darknet; YOLO9000 (2017), section 2.
    """
    anchors = np.array(head.card.anchors or COCO_ANCHORS, np.float32)
    cells = _cells(head.tensors[0], len(anchors))
    stride = cell_size(head, head.tensors[0])
    boxes = _cell_boxes(cells, anchors * stride, stride)
    return best_class(head, boxes, sigmoid(cells[..., 4]), softmax(cells[..., 5:]))


def yolov3(head: Head) -> Result:
    """Darknet's yolo layers, one map each (1, h, w, A * (5 + C)), as yolov2 but with anchors in pixels of the model's
    picture and independent classes: score = sigmoid(objectness) * sigmoid(class). Source: yolo_layer.c of Darknet.
    """
    each = len(head.card.anchors) // len(head.tensors)
    boxes, objectness, classes = [], [], []
    for i, tensor in enumerate(head.tensors):
        cells = _cells(tensor, each)
        anchors = np.array(head.card.anchors[i * each : (i + 1) * each], np.float32)
        boxes.append(_cell_boxes(cells, anchors, cell_size(head, tensor)).reshape(-1, 4))
        objectness.append(sigmoid(cells[..., 4]).reshape(-1))
        classes.append(sigmoid(cells[..., 5:]).reshape(-1, cells.shape[-1] - 5))
    return best_class(head, np.concatenate(boxes), np.concatenate(objectness), np.concatenate(classes))


def grid(head: Head) -> Result:
    """One box a cell, map (1, h, w, 5 + C) of objectness, x, y, w, h, classes: the digits model's head.

    Centre = (cell + 0.5 + xy / 4) * stride, size = exp(wh / 4) * anchor * stride, the one anchor in cells (2 x 2 if the
    card has none), score = sigmoid(objectness) * max(softmax(classes)). Of boxes that overlap the best is kept, whatever
    their classes. Source: training/decode.py; the quarter keeps boxes fine where an int8 step is a tenth.
    """
    tensor = head.tensors[0]
    cells, stride = _cells(tensor, 1)[:, :, 0], cell_size(head, tensor)
    centre = (_corners(tensor)[:, :, 0] + 0.5 + cells[..., 1:3] / 4) * stride
    anchor = np.array((head.card.anchors or ((2.0, 2.0),))[0], np.float32)
    half = np.exp(np.clip(cells[..., 3:5] / 4, -_MAX_LOG_GRID, _MAX_LOG_GRID)) * anchor * stride / 2
    boxes = np.concatenate([centre - half, centre + half], axis=-1)
    return best_class(head, boxes, sigmoid(cells[..., 0]), softmax(cells[..., 5:]), across_classes=True)


def _cells(tensor: np.ndarray, anchors: int) -> np.ndarray:
    _, height, width, channels = tensor.shape
    return tensor.reshape(height, width, anchors, channels // anchors)


def _corners(tensor: np.ndarray) -> np.ndarray:
    """The place (x, y) of every cell of a map (1, h, w, ...), as (h, w, 1, 2)."""
    return np.stack(np.meshgrid(np.arange(tensor.shape[2]), np.arange(tensor.shape[1])), axis=-1)[:, :, None]


def _cell_boxes(cells: np.ndarray, sizes: np.ndarray, stride: np.ndarray) -> np.ndarray:
    """(h, w, A, 4 or more) of x, y, w, h and (A, 2) sizes in pixels -> (h, w, A, 4) corners in the model's pixels."""
    centre = (_corners(cells[None]) + sigmoid(cells[..., :2])) * stride
    half = np.exp(np.clip(cells[..., 2:4], -_MAX_LOG_SIZE, _MAX_LOG_SIZE)) * sizes / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def yolov5(head: Head) -> Result:
    """An exported YOLOv5, (1, n, 5 + C) of centre x, y, w, h, objectness, classes; all of them decoded in the graph.

    Source: ultralytics/yolov5, export.py and utils/general.py (score = objectness * class).
    """
    rows = head.tensors[0][0]
    are_shares(head, rows[:, 4:])
    return best_class(head, _centred(head, rows[:, :4]), rows[:, 4], rows[:, 5:])


def yolov8(head: Head) -> Result:
    """An exported YOLOv8 to v12, (1, 4 + C, n) of centre x, y, w, h, classes (or its transpose: n is the larger).

    With keypoints in the card each row goes on with x, y and a score for each of them; with a second output, whose masks
    (``instance_map``) are sums, with their shares. Source: ultralytics/ultralytics, nn/modules/head.py; it has no objectness.
    """
    rows, classes = _rows(head), _classes(head)
    are_shares(head, rows[:, 4 : 4 + classes])
    scores = rows[:, 4 : 4 + classes]
    points = _points(head, rows[:, 4 + classes :]) if head.card.keypoints else None
    return best_class(head, _centred(head, rows[:, :4]), np.ones(len(rows), np.float32), scores, points=points)


def end_to_end(head: Head) -> Result:
    """A YOLO that suppresses double detections itself (v10, 26): (1, n, 6 or more) of x0, y0, x1, y1, score, class, best first.

    What follows in a row is as of ``yolov8``. Source: ultralytics/ultralytics, nn/modules/head.py, postprocess.
    """
    rows = head.tensors[0][0]
    are_shares(head, rows[:, 4])
    keep = np.flatnonzero(rows[:, 4] >= head.card.threshold)
    rows = rows[keep[np.argsort(-rows[keep, 4], kind="stable")]][: head.card.max_detections]
    if (rows[:, 5] != np.round(rows[:, 5])).any():
        raise EngineError(f"decoder {head.card.decoder!r}: the model's classes are no whole numbers, such as {rows[0, 5]:g}")
    boxes = rows[:, :4] * _unit(head, head.tensors[0][0, :, :4])
    points = _points(head, rows[:, 6:]) if head.card.keypoints else None
    return detections(head, boxes, rows[:, 4], rows[:, 5].astype(np.int64), None, points)


def instance_map(head: Head) -> np.ndarray:
    """Class + 1 of every cell of the masks' map, uint8 (h, w); 0 where no detection is. For ``yolov8`` and ``end_to_end``.

    A mask is where the sum of the prototypes (1, h, w, K), weighed by a row's last K values, is positive inside its box.
    """
    prototypes = head.tensors[1][0]
    height, width, count = prototypes.shape
    if head.card.decoder == "yolov8":
        rows, classes = _rows(head), _classes(head)
        best = rows[:, 4 : 4 + classes].argmax(1)
        scores, corners = rows[np.arange(len(rows)), 4 + best], _centred(head, rows[:, :4])
    else:
        rows = head.tensors[0][0]
        best, scores, corners = rows[:, 5].astype(np.int64), rows[:, 4], rows[:, :4] * _unit(head, rows[:, :4])
    keep = np.flatnonzero(scores >= head.card.threshold)
    keep = keep[np.argsort(-scores[keep], kind="stable")][:MAX_CANDIDATES]
    if head.card.decoder == "yolov8":
        keep = keep[suppress(head.card, corners[keep], scores[keep], best[keep])]
    keep = keep[: head.card.max_detections]
    found = np.zeros((height, width), np.uint8)
    scale = np.array((width / head.pixels.width, height / head.pixels.height) * 2)
    for i in reversed(keep):  # the best on top
        x0, y0, x1, y1 = np.clip(np.round(corners[i] * scale), 0, (width, height) * 2).astype(int)
        inside = prototypes[y0:y1, x0:x1] @ rows[i, -count:] > 0
        found[y0:y1, x0:x1][inside] = min(best[i] + 1, 255)
    return found


def _rows(head: Head) -> np.ndarray:
    rows = head.tensors[0][0]
    return np.asarray(rows.T if rows.shape[0] <= rows.shape[1] else rows)


def _classes(head: Head) -> int:
    return classes_of(head.card, [tensor.shape for tensor in head.tensors])


def classes_of(card: Card, shapes: Sequence[tuple[int, ...]]) -> int:
    """How many classes the rows of ``yolov8`` have, by the shapes of its outputs."""
    return min(shapes[0][1:]) - 4 - extra_of(card, shapes)


def extra_of(card: Card, shapes: Sequence[tuple[int, ...]]) -> int:
    """Values at the end of each row: three for each keypoint, and one for each prototype of a mask."""
    return 3 * len(card.keypoints) + (shapes[1][3] if len(shapes) > 1 else 0)


def _points(head: Head, values: np.ndarray) -> np.ndarray:
    """(n, K, 3) of x, y in the model's pixels and a score, of (n, 3 K or more)."""
    points = values[:, : 3 * len(head.card.keypoints)].reshape(len(values), -1, 3).astype(np.float64)
    points[..., :2] *= _unit(head, points[..., :2])[:2]
    return points


def _centred(head: Head, boxes: np.ndarray) -> np.ndarray:
    """(n, 4) centre and size, normalized or in pixels -> corners in the model's pixels."""
    boxes = boxes * _unit(head, boxes)
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def _unit(head: Head, places: np.ndarray) -> np.ndarray:
    """The model's pixels in one unit of its places (x, y, x, y)."""
    units = head.card.box_units or ("pixels" if places.size and float(np.abs(places).max()) > 2.0 else "normalized")
    return np.array((head.pixels.width, head.pixels.height) * 2 if units == "normalized" else (1, 1, 1, 1), np.float32)
