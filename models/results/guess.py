"""What a model's outputs are, told from evidence: names, makers, pairs of outputs, numbers of boxes, metadata in the file.

Law: where the evidence does not suffice, the answer is ``raw``. A shape alone is no evidence unless few models could have it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from models.graph.file import Graph, Op, Tensor
from models.graph.metadata import About
from models.graph.prepare import image_input
from models.results.card_file import COCO_ANCHORS, COCO_KEYPOINTS, FACE_KEYPOINTS, PALM_KEYPOINTS, Card, Input
from models.results.decoders.ssd import blaze_anchors, grid_anchors, pyramid_anchors

POST_PROCESS = "TFLite_Detection_PostProcess"
_PASSING = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "CAST")  # the meaning of a tensor goes through these
_RESCALING = ("MUL", "DIV", "SUB", "ADD")
_SIGNED = Input(scale=1 / 127.5, offset=-1.0)  # pixels from -1 to 1
_IMAGENET = (1000, 1001)
_SEGMENTED = (19, 21, 150, 151)  # classes of Cityscapes, Pascal VOC, ADE20K
_REMEMBERED = re.compile(r"state|hidden|lstm|gru|memory|init|prev", re.IGNORECASE)
_MASK = re.compile(r"segm|mask|matt", re.IGNORECASE)
# MediaPipe's detectors, by the values in a row of theirs: the label, its points, strides that they have had, and whether
# their pixels go from -1 to 1.
_BLAZE: Final[dict[int, tuple[str, tuple[str, ...], tuple[tuple[int, ...], ...], bool]]] = {
    16: ("face", FACE_KEYPOINTS, ((8, 16, 16, 16), (4,), (16, 32, 32, 32)), True),
    18: ("palm", PALM_KEYPOINTS, ((8, 16, 16, 16), (8, 16, 32, 32, 32)), False),
    12: ("person", (), ((8, 16, 32, 32, 32), (8, 16, 16, 16)), True),
}

Values = dict[str, Any]


@dataclass(frozen=True)
class _Look:
    """What there is to see: the graph, its outputs without those that are a state, its image, what its file says."""

    graph: Graph
    outputs: list[Tensor]
    image: Tensor
    about: About

    def maker(self, tensor: Tensor) -> str:
        return made_by(self.graph, self.graph.by_name[tensor.name])[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[-3], self.image.shape[-2]

    @property
    def cells(self) -> int:
        """Of YOLO's three maps together."""
        height, width = self.size
        return sum((height // stride) * (width // stride) for stride in (8, 16, 32))


def guess(graph: Graph, about: About = About()) -> Card:  # noqa: B008 - it is frozen
    """The card that the evidence bears; ``raw`` where there is too little.

    Raises:
        PlanError: the model has no image input.
    """
    image = graph.tensors[image_input(graph)]
    state = _guess_state(graph)
    look = _Look(graph, [graph.tensors[t] for t in graph.outputs if graph.tensors[t].name not in state], image, about)
    values: Values = {"decoder": "raw"}
    if look.outputs:
        values = next((found for rule in _RULES if (found := rule(look))), values)
    given = values.pop("input", Input())
    if about.scale and image.dtype == "float32":
        given = Input(scale=_channels(about.scale), offset=_channels(about.offset))
    elif _rescales(graph, image_input(graph)):
        given = Input(scale=1.0)
    return Card(**values, input=given, state=state)


def _channels(values: Sequence[float]) -> Any:
    return values[0] if len(set(values)) == 1 else tuple(values)


def _post_processed(look: _Look) -> Values | None:
    return {"decoder": "ssd"} if post_process(look.graph) else None


def _anchored(look: _Look) -> Values | None:
    """Boxes and scores in rows, as many as an anchor generator makes for this size."""
    pair = pair_of(look.outputs)
    if pair is None:
        return None
    (_, rows, each), (_, _, classes) = pair[0].shape, pair[1].shape
    if each in _BLAZE and classes == 1:
        label, keypoints, known, is_signed = _BLAZE[each]
        for strides in known:
            if rows == len(blaze_anchors(strides, look.size)):
                values: Values = {"decoder": "blaze", "strides": strides, "labels": (label,), "keypoints": keypoints}
                return values | {"iou_threshold": 0.3} | ({"input": _SIGNED} if is_signed else {})
    if each == 4 and classes > 1:
        if rows == len(grid_anchors(look.size)):
            return {"decoder": "ssd_anchors", "input": _SIGNED}
        if rows == len(pyramid_anchors(look.size, 4.0)):
            return {"decoder": "efficientdet", "input": _SIGNED}
    return None


def _yolo(look: _Look) -> Values | None:
    """Rows for each cell of three maps, or what the exporter says."""
    rows, about = rows_of(look.outputs, look.image), look.about
    if rows is None or about.task in ("obb", "classify"):
        return None
    shape, masks = rows[0].shape, len(rows) > 1
    if about.task:
        if masks != (about.task == "segment") or (about.task == "pose") != (about.keypoints > 0):
            return None
        count = about.keypoints
        points = COCO_KEYPOINTS if count == len(COCO_KEYPOINTS) else tuple(f"point {i}" for i in range(count))
        extra = 3 * count + (rows[1].shape[3] if masks else 0)
        if shape[2] == 6 + extra and shape[1] != 4 + extra + len(about.labels):
            return {"decoder": "yolo_end_to_end", "keypoints": points}
        if 4 + extra + len(about.labels) in shape[1:]:
            return {"decoder": "yolov8", "keypoints": points}
        return {"decoder": "yolov5"} if shape[2] == 5 + len(about.labels) else None
    if not masks and shape[1] == 3 * look.cells and shape[2] > 5:
        return {"decoder": "yolov5"}
    extra = rows[1].shape[3] if masks else 0
    if look.cells in shape[1:] and min(shape[1:]) > 4 + extra:
        is_pose = not masks and min(shape[1:]) == 5 + 3 * len(COCO_KEYPOINTS)  # or 52 classes: nobody can tell
        return None if is_pose else {"decoder": "yolov8"}
    return {"decoder": "yolo_end_to_end"} if shape == (1, 300, 6 + extra) else None


def _pose(look: _Look) -> Values | None:
    return {"decoder": "movenet"} if look.outputs[0].shape == (1, 1, len(COCO_KEYPOINTS), 3) else None


def _classes(look: _Look) -> Values | None:
    """One score for each class, and nothing besides."""
    if len(look.outputs) > 1:
        return None
    output = look.outputs[0]
    shape, labels = output.shape, len(look.about.labels)
    if len(shape) < 2 or max(shape[:-1]) != 1 or shape[-1] < 2:
        return None
    told = look.maker(output) == "SOFTMAX" or shape[-1] in _IMAGENET or shape[-1] in (labels, labels - 1)
    return {"decoder": "top_k"} if told else None


def _pixels(look: _Look) -> Values | None:
    """A class, or scores of classes, for each pixel or each few."""
    output = look.outputs[0]
    shape, labels = output.shape, look.about.labels
    height, width = look.size
    if len(shape) not in (3, 4) or shape[0] != 1 or shape[1] * 16 < height or shape[2] * 16 < width:
        return None
    if "int" in output.dtype and output.quantization is None:
        return {"decoder": "segmentation"} if len(shape) == 3 or shape[3] == 1 else None
    if len(shape) == 3 or len(look.outputs) > 1:
        return None
    count = shape[3]
    if count == 1 and (len(labels) in (1, 2) or _MASK.search(output.name)):
        return {"decoder": "segmentation", "labels": ("background", *labels) if len(labels) == 1 else labels}
    told = look.maker(output) == "SOFTMAX" or count in _SEGMENTED or count == len(labels)
    return {"decoder": "segmentation"} if count > 1 and told else None


def _yolov2(look: _Look) -> Values | None:
    """The paper's network on COCO."""
    (height, width), channels = look.size, len(COCO_ANCHORS) * (5 + 80)
    is_map = look.outputs[0].shape == (1, height // 32, width // 32, channels)
    return {"decoder": "yolov2", "anchors": COCO_ANCHORS} if is_map else None


_RULES: Final[tuple[Callable[[_Look], Values | None], ...]] = (
    _post_processed, _anchored, _yolo, _pose, _classes, _yolov2, _pixels,
)  # fmt: skip


def pair_of(outputs: Iterable[Tensor]) -> list[Tensor] | None:
    """Boxes (1, n, 4 or more) and scores (1, n, classes) among the outputs, in this order; None: there is no such pair.

    Of two that could both be boxes those with "box" or "reg" in their name are, or else those with fewer values.
    """
    rows = [t for t in outputs if len(t.shape) == 3 and t.shape[0] == 1]
    if len(rows) != 2 or rows[0].shape[1] != rows[1].shape[1]:
        return None
    boxes = [t for t in rows if t.shape[2] >= 4]
    if len(boxes) == 2:
        named = [t for t in boxes if re.search("box|reg|loc", t.name, re.IGNORECASE)]
        boxes = named if len(named) == 1 else sorted(boxes, key=lambda t: t.shape[2])
    return [boxes[0], *(t for t in rows if t is not boxes[0])] if boxes else None


def rows_of(outputs: Iterable[Tensor], image: Tensor) -> list[Tensor] | None:
    """A YOLO's rows (1, a, b), and the prototypes of its masks if there are some; None: the outputs are others."""
    outputs = list(outputs)
    rows = [t for t in outputs if len(t.shape) == 3 and t.shape[0] == 1]
    masks = [t for t in outputs if len(t.shape) == 4 and t.shape[1:3] == (image.shape[1] // 4, image.shape[2] // 4)]
    return [*rows, *masks] if len(rows) == 1 and len(masks) <= 1 and len(outputs) == 1 + len(masks) else None


def _guess_state(graph: Graph) -> dict[str, str]:
    """Outputs that are as some input beside the image, paired by their names' ends (lstm_c -> init_lstm_c), or the only
    such pair where the input is called a state."""
    state: dict[str, str] = {}
    outputs = [graph.tensors[t] for t in graph.outputs]
    for t in graph.inputs:
        given = graph.tensors[t]
        alike = [out for out in outputs if kind_of(out) == kind_of(given)]
        named = [out for out in alike if given.name.endswith(out.name.rpartition("/")[2])]
        if len(alike) == 1 and not named and _REMEMBERED.search(given.name):
            named = alike
        if t != image_input(graph) and len(named) == 1:
            state[named[0].name] = given.name
    return state


def kind_of(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.quantization


def _rescales(graph: Graph, image: int) -> bool:
    """Whether the model scales its pixels itself: a float input whose only reader is arithmetic with a constant."""
    readers = [graph.ops[i] for i in graph.consumers.get(image, [])]
    return len(readers) == 1 and readers[0].kind in _RESCALING and len(graph.data_inputs(readers[0])) == 1


def made_by(graph: Graph, t: int) -> tuple[str, int]:
    """The operator that gives a tensor its meaning, and the first tensor that it reads (-1: none)."""
    t = source_of(graph, t)
    if t not in graph.producer:
        return "", t
    op = graph.ops[graph.producer[t]]
    return op.label, op.inputs[0] if op.inputs else -1


def post_process(graph: Graph) -> tuple[str, ...]:
    """Names of the outputs boxes, classes, scores, count, in that order; empty if the model has no such operator."""
    for op in graph.ops:
        if op.custom_code == POST_PROCESS:
            sources = {source_of(graph, t): graph.tensors[t].name for t in graph.outputs}
            return tuple(sources[t] for t in op.outputs) if set(op.outputs) <= set(sources) else ()
    return ()


def source_of(graph: Graph, t: int) -> int:
    """The tensor whose meaning ``t`` has: what it was before operators that only change its form."""
    while t in graph.producer and _passes(op := graph.ops[graph.producer[t]]) and op.inputs and op.inputs[0] >= 0:
        t = op.inputs[0]
    return t


def _passes(op: Op) -> bool:
    return all(part.kind in _PASSING for part in op.parts or (op,))
