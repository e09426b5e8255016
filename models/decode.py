"""Outputs of a model become results in the source image's coordinates: one function a decoder, all of them in a table.

The law: an empty list means that the model saw nothing. Whatever else goes wrong is an exception, and a NaN goes wrong.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models import opencv
from models.card_file import COCO_ANCHORS, Card
from models.geometry import clipped, placed, to_source
from models.graph import Graph
from schemas.errors import EngineError, PlanError
from schemas.plan import Pixels
from schemas.results import Classification, Detection, Keypoint, Result, Segment

_MAX_CANDIDATES = 5000  # that go into non-maximum suppression: the best ones
_MAX_CLASSES = 2**20
_MAX_LOG_SIZE = 10.0  # exp(10) cells are more than any picture
_MAX_LOG_GRID = 4.0  # as in training


@dataclass(frozen=True, eq=False)
class Head:
    """What a decoder gets: the card, its tensors (real values; integers without quantization stay), the two pictures.

    ``picture`` is (height, width) of the source image, ``pixels`` describes the model's.
    """

    card: Card
    tensors: list[np.ndarray]
    picture: tuple[int, int]
    pixels: Pixels


def decode(
    card: Card,
    outputs: Mapping[str, np.ndarray],
    quantization: Mapping[str, tuple[float, int]],
    picture: tuple[int, int],
    pixels: Pixels,
) -> Result:
    """A model's outputs by name -> what they say of the source image of ``picture = (height, width)`` pixels.

    ``card`` is complete and checked (``load_card``); ``quantization`` is what ``quantization_of`` says of the graph.

    Raises:
        EngineError: an output holds NaN or infinity, or what it holds leads to such a place or to a class below 0: the model
            is broken or got values that it cannot take.
        PlanError: an output of the card is missing, or OpenCV is (non-maximum suppression).
    """
    with np.errstate(all="ignore"):  # what overflows is not finite, and that is looked for
        return DECODERS[card.decoder](_head(card, outputs, quantization, picture, pixels))


def quantization_of(graph: Graph) -> dict[str, tuple[float, int]]:
    """Scale and zero point of every quantized output, by name."""
    found = {}
    for tensor in (graph.tensors[t] for t in graph.outputs):
        if tensor.quantization and tensor.dtype != "float32":
            q = tensor.quantization
            found[tensor.name] = (q.scale[0], q.zero_point[0] if q.zero_point else 0)
    return found


def segmentation_map(
    card: Card,
    outputs: Mapping[str, np.ndarray],
    quantization: Mapping[str, tuple[float, int]],
    picture: tuple[int, int],
    pixels: Pixels,
) -> np.ndarray:
    """The class of every pixel of the source image, uint8 of shape ``picture``; the nearest cell of the model's map.

    Raises:
        EngineError, PlanError: as ``decode``.
    """
    return _source_map(_head(card, outputs, quantization, picture, pixels))


def _head(
    card: Card,
    outputs: Mapping[str, np.ndarray],
    quantization: Mapping[str, tuple[float, int]],
    picture: tuple[int, int],
    pixels: Pixels,
) -> Head:
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(np.size(array) - np.isfinite(array).sum())
            raise EngineError(f"output {name!r} holds {bad} values of {array.size} that are not finite numbers")
    names = card.outputs or tuple(name for name in outputs if name not in card.state)
    missing = [name for name in names if name not in outputs]
    if missing:
        raise PlanError(f"decoder {card.decoder!r} needs output {missing[0]!r}, the model gave {sorted(outputs)}"[:300])
    return Head(card, [_real(outputs[name], quantization.get(name)) for name in names], picture, pixels)


def _real(array: np.ndarray, quantization: tuple[float, int] | None) -> np.ndarray:
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if quantization is None:
        return array
    scale, zero_point = quantization
    return (array.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


# --- detection -------------------------------------------------------------------------------------------------------


def _yolov2(head: Head) -> Result:
    """Darknet's region layer, map (1, h, w, A * (5 + C)) of x, y, w, h, objectness, classes for each anchor.

    Centre = (cell + sigmoid(xy)) * stride, size = exp(wh) * anchor * stride with anchors in cells, score =
    sigmoid(objectness) * softmax(classes). Source: region_layer.c of Darknet; YOLO9000 (2017), section 2.
    """
    anchors = np.array(head.card.anchors or COCO_ANCHORS, np.float32)
    cells = _cells(head.tensors[0], len(anchors))
    stride = _stride(head, head.tensors[0])
    boxes = _cell_boxes(cells, anchors * stride, stride)
    return _best_class(head, boxes, _sigmoid(cells[..., 4]), _softmax(cells[..., 5:]))


def _yolov3(head: Head) -> Result:
    """Darknet's yolo layers, one map each (1, h, w, A * (5 + C)), as yolov2 but with anchors in pixels of the model's
    picture and independent classes: score = sigmoid(objectness) * sigmoid(class). Source: yolo_layer.c of Darknet.
    """
    each = len(head.card.anchors) // len(head.tensors)
    boxes, objectness, classes = [], [], []
    for i, tensor in enumerate(head.tensors):
        cells = _cells(tensor, each)
        anchors = np.array(head.card.anchors[i * each : (i + 1) * each], np.float32)
        boxes.append(_cell_boxes(cells, anchors, _stride(head, tensor)).reshape(-1, 4))
        objectness.append(_sigmoid(cells[..., 4]).reshape(-1))
        classes.append(_sigmoid(cells[..., 5:]).reshape(-1, cells.shape[-1] - 5))
    return _best_class(head, np.concatenate(boxes), np.concatenate(objectness), np.concatenate(classes))


def _grid(head: Head) -> Result:
    """One box a cell, map (1, h, w, 5 + C) of objectness, x, y, w, h, classes: the digits model's head.

    Centre = (cell + 0.5 + xy / 4) * stride, size = exp(wh / 4) * anchor * stride, the one anchor in cells (2 x 2 if the
    card has none), score = sigmoid(objectness) * max(softmax(classes)). Of boxes that overlap the best is kept, whatever
    their classes. Source: models/training/decode.py; the quarter keeps boxes fine where an int8 step is a tenth.
    """
    tensor = head.tensors[0]
    cells, stride = _cells(tensor, 1)[:, :, 0], _stride(head, tensor)
    centre = (_corners(tensor)[:, :, 0] + 0.5 + cells[..., 1:3] / 4) * stride
    anchor = np.array((head.card.anchors or ((2.0, 2.0),))[0], np.float32)
    half = np.exp(np.clip(cells[..., 3:5] / 4, -_MAX_LOG_GRID, _MAX_LOG_GRID)) * anchor * stride / 2
    boxes = np.concatenate([centre - half, centre + half], axis=-1)
    return _best_class(head, boxes, _sigmoid(cells[..., 0]), _softmax(cells[..., 5:]), across_classes=True)


def _cells(tensor: np.ndarray, anchors: int) -> np.ndarray:
    _, height, width, channels = tensor.shape
    return tensor.reshape(height, width, anchors, channels // anchors)


def _corners(tensor: np.ndarray) -> np.ndarray:
    """The place (x, y) of every cell of a map (1, h, w, ...), as (h, w, 1, 2)."""
    return np.stack(np.meshgrid(np.arange(tensor.shape[2]), np.arange(tensor.shape[1])), axis=-1)[:, :, None]


def _stride(head: Head, tensor: np.ndarray) -> np.ndarray:
    """Pixels of the model's picture between two cells, (x, y)."""
    if head.card.stride is not None:
        return np.full(2, head.card.stride, np.float32)
    return np.array((head.pixels.width / tensor.shape[2], head.pixels.height / tensor.shape[1]), np.float32)


def _cell_boxes(cells: np.ndarray, sizes: np.ndarray, stride: np.ndarray) -> np.ndarray:
    """(h, w, A, 4 or more) of x, y, w, h and (A, 2) sizes in pixels -> (h, w, A, 4) corners in the model's pixels."""
    centre = (_corners(cells[None]) + _sigmoid(cells[..., :2])) * stride
    half = np.exp(np.clip(cells[..., 2:4], -_MAX_LOG_SIZE, _MAX_LOG_SIZE)) * sizes / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def _yolov5(head: Head) -> Result:
    """An exported YOLOv5, (1, n, 5 + C) of centre x, y, w, h, objectness, classes; all of them decoded in the graph.

    Source: ultralytics/yolov5, export.py and utils/general.py (score = objectness * class).
    """
    rows = head.tensors[0][0]
    return _best_class(head, _centred(head, rows[:, :4]), rows[:, 4], rows[:, 5:])


def _yolov8(head: Head) -> Result:
    """An exported YOLOv8 to v12, (1, 4 + C, n) of centre x, y, w, h, classes (or its transpose: n is the larger).

    Source: ultralytics/ultralytics, nn/modules/head.py; it has no objectness.
    """
    rows = head.tensors[0][0]
    rows = rows.T if rows.shape[0] <= rows.shape[1] else rows
    return _best_class(head, _centred(head, rows[:, :4]), np.ones(len(rows), np.float32), rows[:, 4:])


def _centred(head: Head, boxes: np.ndarray) -> np.ndarray:
    """(n, 4) centre and size, normalized or in pixels -> corners in the model's pixels."""
    units = head.card.box_units or ("pixels" if boxes.size and float(np.abs(boxes).max()) > 2.0 else "normalized")
    if units == "normalized":
        boxes = boxes * np.array((head.pixels.width, head.pixels.height) * 2, np.float32)
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def _ssd(head: Head) -> Result:
    """The four outputs of TFLite_Detection_PostProcess: boxes (1, n, 4) as y0, x0, y1, x1 normalized, classes (1, n),
    scores (1, n), count (1,). Suppression was done in the graph. Source: detection_postprocess.cc of TFLite.
    """
    boxes, classes, scores, count = (tensor.reshape(-1) for tensor in head.tensors)
    n = min(int(count[0]), len(scores))
    corners = boxes.reshape(-1, 4)[:n, [1, 0, 3, 2]] * np.array((head.pixels.width, head.pixels.height) * 2)
    keep = np.flatnonzero(scores[:n] >= head.card.threshold)
    order = keep[np.argsort(-scores[keep], kind="stable")][: head.card.max_detections]
    return _detections(head, corners[order], scores[order], classes[order].astype(np.int64), None)


def _best_class(
    head: Head, boxes: np.ndarray, objectness: np.ndarray, classes: np.ndarray, across_classes: bool = False
) -> Result:
    """Boxes (..., 4) in the model's pixels, objectness (...), class scores (..., C): each box's best class, suppressed."""
    count = classes.shape[-1]
    boxes, classes = boxes.reshape(-1, 4), classes.reshape(-1, count)
    index = classes.argmax(axis=1)
    scores = objectness.reshape(-1) * classes[np.arange(len(index)), index]
    keep = np.flatnonzero(scores >= head.card.threshold)
    keep = keep[np.argsort(-scores[keep], kind="stable")][:_MAX_CANDIDATES]
    groups = np.zeros_like(index) if across_classes else index
    _check_finite(head, boxes[keep])
    keep = keep[_suppress(head.card, boxes[keep], scores[keep], groups[keep])][: head.card.max_detections]
    return _detections(head, boxes[keep], scores[keep], index[keep], count)


def _suppress(card: Card, boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> list[int]:
    """Indices of the boxes that no better box of their group overlaps by more than the card allows, best first."""
    if not len(boxes):
        return []
    cv2 = opencv.load("suppressing double detections")
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    kept: Any = cv2.dnn.NMSBoxesBatched(
        sides.tolist(), scores.astype(float).tolist(), groups.tolist(), 0.0, card.iou_threshold
    )
    return sorted((int(i) for i in np.asarray(kept).reshape(-1)), key=lambda i: (-scores[i], i))


def _detections(head: Head, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, count: int | None) -> Result:
    """Boxes (n, 4) in the model's pixels, in order; those that lie outside the source image are left out."""
    if classes.size and not 0 <= classes.min() <= classes.max() < _MAX_CLASSES:
        raise EngineError(f"decoder {head.card.decoder!r}: the model gives classes {classes.min()} to {classes.max()}")
    corners = clipped(to_source(boxes, head.picture, head.pixels), head.picture)
    found = []
    for box, score, index in zip(np.round(corners, 2).tolist(), scores.tolist(), classes.tolist(), strict=True):
        if box[2] > box[0] and box[3] > box[1]:
            label = head.card.label(index, count)
            found.append(Detection(label=label, index=index, score=_score(score), box=tuple(box)))
    return Result(task="detect", detections=tuple(found))


def _check_finite(head: Head, places: np.ndarray) -> None:
    if not np.isfinite(places).all():
        raise EngineError(f"decoder {head.card.decoder!r}: the model's outputs lead to a place that is no finite number")


def _score(value: float) -> float:
    return round(min(max(value, 0.0), 1.0), 4)


# --- whole pictures --------------------------------------------------------------------------------------------------


def _top_k(head: Head) -> Result:
    """(1, C) scores, after a softmax if they are logits: the best ``top_k`` of at least the threshold, none that is 0."""
    scores = head.tensors[0].reshape(-1)
    scores = _softmax(scores) if head.card.logits else scores
    order = [int(i) for i in np.argsort(-scores, kind="stable")[: head.card.top_k]]
    found = [
        Classification(label=head.card.label(i, len(scores)), index=i, score=_score(float(scores[i])))
        for i in order
        if scores[i] >= head.card.threshold and scores[i] > 0
    ]
    return Result(task="classify", classes=tuple(found))


def _segmentation(head: Head) -> Result:
    """A map of classes (1, h, w) or of class scores (1, h, w, C): each class's share of the source image's pixels.

    Counted by cells: a picture's size is a stranger's word, and its map may be larger than the memory.
    """
    classes = _class_map(head)
    seen = [np.bincount(places, minlength=cells) for places, cells in zip(_cells_of_pixels(head, classes), classes.shape)]
    counts = np.bincount(classes.reshape(-1), np.outer(*seen).reshape(-1))
    order = [int(i) for i in np.argsort(-counts, kind="stable")[: head.card.max_detections]]
    shares = [(i, round(float(counts[i]) / (head.picture[0] * head.picture[1]), 4)) for i in order]
    count = None if head.tensors[0].dtype.kind != "f" else head.tensors[0].shape[-1]
    segments = [
        Segment(label=head.card.label(i, count) if count else _name(head.card, i), index=i, share=share)
        for i, share in shares
        if share >= max(head.card.threshold, 0.0001)
    ]
    return Result(task="segment", segments=tuple(segments))


def _name(card: Card, index: int) -> str:
    return card.labels[index] if index < len(card.labels) else f"class {index}"


def _source_map(head: Head) -> np.ndarray:
    """The class of every pixel of the source image, uint8."""
    classes = _class_map(head)
    y, x = _cells_of_pixels(head, classes)
    return np.asarray(classes[y[:, None], x])


def _cells_of_pixels(head: Head, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row of ``classes`` for each row of the source image, and the column for each column."""
    rows, cols = classes.shape
    height, width = head.picture
    where = placed(height, width, head.pixels)
    y = (where.y0 + (np.arange(height) + 0.5) * where.height / height) * rows / head.pixels.height
    x = (where.x0 + (np.arange(width) + 0.5) * where.width / width) * cols / head.pixels.width
    return np.minimum(y.astype(int), rows - 1), np.minimum(x.astype(int), cols - 1)


def _class_map(head: Head) -> np.ndarray:
    """(h, w) uint8 of a map of classes or of scores; a single score a pixel means: class 1 from one half on."""
    tensor = head.tensors[0]
    if tensor.dtype.kind == "f":
        if tensor.shape[-1] > 1:
            return np.asarray(tensor[0].argmax(axis=-1), np.uint8)
        return np.asarray(tensor[0, ..., 0] > (0.0 if head.card.logits else 0.5), np.uint8)
    classes = tensor.reshape(tensor.shape[1:3])
    if classes.min() < 0 or classes.max() > 255:
        raise EngineError(f"the segmentation map holds classes {classes.min()} to {classes.max()}, not 0 to 255")
    return np.asarray(classes, np.uint8)


# --- pose ------------------------------------------------------------------------------------------------------------


def _movenet(head: Head) -> Result:
    """(1, 1, K, 3) of y, x, score, places normalized. Source: TensorFlow Hub, movenet/singlepose."""
    rows = head.tensors[0].reshape(-1, 3)
    points = rows[:, [1, 0]] * np.array((head.pixels.width, head.pixels.height), np.float32)
    return _keypoints(head, points, rows[:, 2])


def _heatmaps(head: Head) -> Result:
    """(1, h, w, K) scores, and maybe (1, h, w, 2K) offsets in pixels, all y before all x: each map's highest cell.

    With offsets as PoseNet: place = cell * stride + offset, stride = (input - 1) / (map - 1) unless the card has one.
    Without: the middle of the cell. Source: tensorflow/tfjs-models, posenet/single_pose.
    """
    maps = head.tensors[0][0]
    height, width, count = maps.shape
    best = maps.reshape(-1, count).argmax(axis=0)
    y, x, k = best // width, best % width, np.arange(count)
    scores = maps[y, x, k]
    cells = np.stack([x, y], axis=1).astype(np.float32)
    if len(head.tensors) > 1:
        offsets = head.tensors[1][0]
        between = ((head.pixels.width - 1) / max(width - 1, 1), (head.pixels.height - 1) / max(height - 1, 1))
        stride = np.array(between if head.card.stride is None else (head.card.stride,) * 2)
        points = cells * stride + np.stack([offsets[y, x, k + count], offsets[y, x, k]], axis=1)
    else:
        points = (cells + 0.5) * _stride(head, head.tensors[0])
    return _keypoints(head, points, _sigmoid(scores) if head.card.logits else scores)


def _keypoints(head: Head, points: np.ndarray, scores: np.ndarray) -> Result:
    """Points (K, 2) as x, y in the model's pixels. All are listed, however low their scores."""
    _check_finite(head, points)
    places = np.round(clipped(to_source(points, head.picture, head.pixels), head.picture), 2).tolist()
    names = [head.card.keypoint(i, len(places)) for i in range(len(places))]
    return Result(
        task="pose",
        keypoints=tuple(
            Keypoint(name=name, x=x, y=y, score=_score(score))
            for name, (x, y), score in zip(names, places, scores.tolist(), strict=True)
        ),
    )


def _raw(head: Head) -> Result:
    return Result(task="raw")


DECODERS: Final[dict[str, Callable[[Head], Result]]] = {
    "yolov2": _yolov2,
    "yolov3": _yolov3,
    "yolov5": _yolov5,
    "yolov8": _yolov8,
    "ssd": _ssd,
    "grid": _grid,
    "top_k": _top_k,
    "segmentation": _segmentation,
    "movenet": _movenet,
    "heatmaps": _heatmaps,
    "raw": _raw,
}
