"""What all decoders share: what they get, how scores and places become results, how double detections are suppressed."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.results import opencv
from models.results.card_file import Card
from models.results.geometry import clipped, to_source
from schemas.contract.errors import EngineError
from schemas.contract.plan import Pixels
from schemas.contract.results import Detection, Keypoint, Result

MAX_CANDIDATES = 5000  # that go into non-maximum suppression: the best ones
_MAX_CLASSES = 2**20
_TOLERANCE = 0.01  # of a score: a step of an int8 output


@dataclass(frozen=True, eq=False)
class Head:
    """What a decoder gets: the card, its tensors (real values; integers without quantization stay) and their names, the
    two pictures.

    ``picture`` is (height, width) of the source image, ``pixels`` describes the model's.
    """

    card: Card
    names: tuple[str, ...]
    tensors: list[np.ndarray]
    picture: tuple[int, int]
    pixels: Pixels


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def cell_size(head: Head, tensor: np.ndarray) -> np.ndarray:
    """Pixels of the model's picture between two cells, (x, y)."""
    if head.card.stride is not None:
        return np.full(2, head.card.stride, np.float32)
    return np.array((head.pixels.width / tensor.shape[2], head.pixels.height / tensor.shape[1]), np.float32)


def best_class(
    head: Head,
    boxes: np.ndarray,
    objectness: np.ndarray,
    classes: np.ndarray,
    across_classes: bool = False,
    points: np.ndarray | None = None,
) -> Result:
    """Boxes (..., 4) in the model's pixels, objectness (...), class scores (..., C): each box's best class, suppressed.

    ``points`` as of ``detections``.
    """
    count = classes.shape[-1]
    boxes, classes = boxes.reshape(-1, 4), classes.reshape(-1, count)
    index = classes.argmax(axis=1)
    scores = objectness.reshape(-1) * classes[np.arange(len(index)), index]
    keep = np.flatnonzero(scores >= head.card.threshold)
    keep = keep[np.argsort(-scores[keep], kind="stable")][:MAX_CANDIDATES]
    groups = np.zeros_like(index) if across_classes else index
    check_finite(head, boxes[keep])
    keep = keep[suppress(head.card, boxes[keep], scores[keep], groups[keep])][: head.card.max_detections]
    return detections(head, boxes[keep], scores[keep], index[keep], count, None if points is None else points[keep])


def are_shares(head: Head, scores: np.ndarray) -> None:
    """Whether these are scores at all.

    Raises:
        EngineError: some are not from 0 to 1: the decoder is another's.
    """
    if scores.size and not -_TOLERANCE <= scores.min() <= scores.max() <= 1 + _TOLERANCE:
        raise EngineError(
            f"decoder {head.card.decoder!r}: the scores go from {scores.min():.4g} to {scores.max():.4g}, not 0 to 1: "
            "the model is of another kind, name its decoder in a card"
        )


def suppress(card: Card, boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> list[int]:
    """Indices of the boxes that no better box of their group overlaps by more than the card allows, best first."""
    if not len(boxes):
        return []
    cv2 = opencv.load("suppressing double detections")
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    kept: Any = cv2.dnn.NMSBoxesBatched(
        sides.tolist(), scores.astype(float).tolist(), groups.tolist(), 0.0, card.iou_threshold
    )
    return sorted((int(i) for i in np.asarray(kept).reshape(-1)), key=lambda i: (-scores[i], i))


def detections(
    head: Head,
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    count: int | None,
    points: np.ndarray | None = None,
) -> Result:
    """Boxes (n, 4) in the model's pixels, in order; those that lie outside the source image are left out.

    ``points``: (n, K, 3) of x, y in the model's pixels and a score.
    """
    if classes.size and not 0 <= classes.min() <= classes.max() < _MAX_CLASSES:
        raise EngineError(f"decoder {head.card.decoder!r}: the model gives classes {classes.min()} to {classes.max()}")
    corners = clipped(to_source(boxes, head.picture, head.pixels), head.picture)
    found = []
    for i, (box, score, index) in enumerate(
        zip(np.round(corners, 2).tolist(), scores.tolist(), classes.tolist(), strict=True)
    ):
        if box[2] > box[0] and box[3] > box[1]:
            label = head.card.label(index, count)
            own = () if points is None else placed_points(head, points[i, :, :2], points[i, :, 2])
            found.append(Detection(label=label, index=index, score=bounded(score), box=tuple(box), keypoints=own))
    return Result(task=head.card.task, detections=tuple(found))


def check_finite(head: Head, places: np.ndarray) -> None:
    if not np.isfinite(places).all():
        raise EngineError(f"decoder {head.card.decoder!r}: the model's outputs lead to a place that is no finite number")


def bounded(value: float) -> float:
    return round(min(max(value, 0.0), 1.0), 4)


def placed_points(head: Head, points: np.ndarray, scores: np.ndarray) -> tuple[Keypoint, ...]:
    """Points (K, 2) as x, y in the model's pixels. All are listed, however low their scores."""
    check_finite(head, points)
    places = np.round(clipped(to_source(points, head.picture, head.pixels), head.picture), 2).tolist()
    names = [head.card.keypoint(i, len(places)) for i in range(len(places))]
    return tuple(
        Keypoint(name=name, x=x, y=y, score=bounded(score))
        for name, (x, y), score in zip(names, places, scores.tolist(), strict=True)
    )
