"""Outputs of a model become results in the source image's coordinates: one function a decoder, all of them in a table.

The law: an empty list means that the model saw nothing. Whatever else goes wrong is an exception, and a NaN goes wrong.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from models.graph.file import Graph
from models.results.card_file import Card
from models.results.decoders import maps, pose, ssd, yolo
from models.results.decoders.head import Head
from schemas.contract.errors import EngineError, PlanError
from schemas.contract.plan import Pixels, digest
from schemas.contract.results import Output, Result

_SHOWN = 32  # outputs of a model without a decoder that are told of


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
        EngineError: an output holds NaN or infinity, or what it holds leads to such a place or to a class below 0, or is no
            score where one must be: the model is broken, got values that it cannot take, or is of another kind.
        PlanError: an output of the card is missing, or OpenCV is (non-maximum suppression).
    """
    with np.errstate(all="ignore"):  # what overflows is not finite, and that is looked for
        head = _head(card, outputs, quantization, picture, pixels)
        if card.decoder == "raw":
            return _raw(outputs, head)
        return DECODERS[card.decoder](head)


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
) -> np.ndarray | None:
    """The class of every pixel of the source image, uint8 of shape ``picture``; the nearest cell of the model's map.

    Of detections that have masks it is the class's number and one. None: the model says nothing of pixels.

    Raises:
        EngineError, PlanError: as ``decode``.
    """
    head = _head(card, outputs, quantization, picture, pixels)
    if card.decoder == "segmentation":
        return maps.source_map(head, maps.class_map(head))
    if card.decoder in ("yolov8", "yolo_end_to_end") and len(head.tensors) > 1:
        return maps.source_map(head, yolo.instance_map(head))
    return None


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
    return Head(card, names, [_real(outputs[name], quantization.get(name)) for name in names], picture, pixels)


def _real(array: np.ndarray, quantization: tuple[float, int] | None) -> np.ndarray:
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if quantization is None:
        return array
    scale, zero_point = quantization
    return (array.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _raw(outputs: Mapping[str, np.ndarray], head: Head) -> Result:
    """Shapes and statistics, and a digest of the bytes; what they mean is for others to say."""
    told = []
    for name, values in list(zip(head.names, head.tensors))[:_SHOWN]:
        given = outputs[name]
        values = np.nan_to_num(values.astype(np.float64))  # doubles may be beyond a single's range
        low, high, mean = (float(f(values)) for f in (np.min, np.max, np.mean)) if values.size else (0.0, 0.0, 0.0)
        told.append(
            Output(
                name=name, shape=given.shape, dtype=str(given.dtype), low=low, high=high, mean=mean,
                digest=digest(np.ascontiguousarray(given).tobytes()),
            )
        )  # fmt: skip
    return Result(task="raw", outputs=tuple(told))


DECODERS: Final[dict[str, Callable[[Head], Result]]] = {
    "yolov2": yolo.yolov2,
    "yolov3": yolo.yolov3,
    "yolov5": yolo.yolov5,
    "yolov8": yolo.yolov8,
    "yolo_end_to_end": yolo.end_to_end,
    "grid": yolo.grid,
    "ssd": ssd.ssd,
    "ssd_anchors": ssd.ssd_anchors,
    "efficientdet": ssd.efficientdet,
    "blaze": ssd.blaze,
    "top_k": maps.top_k,
    "segmentation": maps.segmentation,
    "movenet": pose.movenet,
    "heatmaps": pose.heatmaps,
    "landmarks": pose.landmarks,
}
