"""What is said of a whole picture, or of each of its pixels."""

import numpy as np

from models.results.card_file import Card
from models.results.decoders.head import Head, bounded, softmax
from models.results.geometry import placed
from schemas.contract.errors import EngineError
from schemas.contract.results import Classification, Result, Segment


def top_k(head: Head) -> Result:
    """(1, C) scores, after a softmax if they are logits: the best ``top_k`` of at least the threshold, none that is 0."""
    scores = head.tensors[0].reshape(-1)
    scores = softmax(scores) if head.card.logits else scores
    order = [int(i) for i in np.argsort(-scores, kind="stable")[: head.card.top_k]]
    found = [
        Classification(label=head.card.label(i, len(scores)), index=i, score=bounded(float(scores[i])))
        for i in order
        if scores[i] >= head.card.threshold and scores[i] > 0
    ]
    return Result(task="classify", classes=tuple(found))


def segmentation(head: Head) -> Result:
    """A map of classes (1, h, w) or of class scores (1, h, w, C): each class's share of the source image's pixels.

    Counted by cells: a picture's size is a stranger's word, and its map may be larger than the memory.
    """
    classes = class_map(head)
    seen = [np.bincount(places, minlength=cells) for places, cells in zip(_cells_of_pixels(head, classes), classes.shape)]
    counts = np.bincount(classes.reshape(-1), np.outer(*seen).reshape(-1))
    order = [int(i) for i in np.argsort(-counts, kind="stable")[: head.card.max_detections]]
    shares = [(i, round(float(counts[i]) / (head.picture[0] * head.picture[1]), 4)) for i in order]
    count = None if head.tensors[0].dtype.kind != "f" else max(head.tensors[0].shape[-1], 2)
    segments = [
        Segment(label=head.card.label(i, count) if count else _name(head.card, i), index=i, share=share)
        for i, share in shares
        if share >= max(head.card.threshold, 0.0001)
    ]
    return Result(task="segment", segments=tuple(segments))


def _name(card: Card, index: int) -> str:
    return card.labels[index] if index < len(card.labels) else f"class {index}"


def source_map(head: Head, classes: np.ndarray) -> np.ndarray:
    """The class of every pixel of the source image, from a map of (h, w) cells of the model's picture."""
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


def class_map(head: Head) -> np.ndarray:
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
