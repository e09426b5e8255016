"""A model's card and its graph: the card is read or guessed, completed by the graph, or refused because it does not fit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from models.card_file import COCO_ANCHORS, COCO_KEYPOINTS, Card, Input, describe, read_card
from models.graph import Graph, Op, Tensor, load
from models.partition import image_input
from models.prepare import prepared
from schemas.errors import PlanError

__all__ = ["Card", "Input", "check_card", "complete", "describe", "guess", "load_card", "read_card"]

_POST_PROCESS = "TFLite_Detection_PostProcess"
_PASSING = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "CAST")  # the meaning of a tensor goes through these
_RESCALING = ("MUL", "DIV", "SUB", "ADD")
_MAX_CLASSES = 256  # of a segmentation: a map of classes is uint8


def load_card(model: Path, graph: Graph | None = None) -> tuple[Card, bool]:
    """The card of a model file: the TOML beside it (same stem), or else a guess (then True). Checked and completed.

    Raises:
        PlanError: no model, a broken card, or a card that does not fit the graph.
    """
    graph = graph or prepared(load(model))
    path = model.with_suffix(".toml")
    guessed = not path.is_file()
    card = guess(graph) if guessed else read_card(path)
    card = complete(card, graph)
    check_card(card, graph, str(path))
    return card, guessed


# --- guess -----------------------------------------------------------------------------------------------------------


def guess(graph: Graph) -> Card:
    """A sensible card from shapes and last operators; ``raw`` where they tell nothing.

    Raises:
        PlanError: the model has no image input.
    """
    image = graph.tensors[image_input(graph)]
    state = _guess_state(graph)
    outputs = [graph.tensors[t] for t in graph.outputs if graph.tensors[t].name not in state]
    inside = _rescales(graph, image_input(graph))
    values: dict[str, Any] = {"decoder": "raw"}
    if _post_process(graph):
        values = {"decoder": "ssd"}
    elif outputs:
        values = _guess_output(graph, outputs[0], image)
    return Card(**values, input=Input(scale=1.0) if inside else Input(), state=state)


def _guess_output(graph: Graph, output: Tensor, image: Tensor) -> dict[str, Any]:
    shape, (maker, _) = output.shape, _made(graph, graph.by_name[output.name])
    height, width = image.shape[1:3]
    cells = (height // 8) * (width // 8) + (height // 16) * (width // 16) + (height // 32) * (width // 32)
    if len(shape) >= 2 and max(shape[:-1]) == 1 and (maker == "SOFTMAX" or shape[-1] >= 100):
        return {"decoder": "top_k"}
    if shape == (1, 1, 17, 3):
        return {"decoder": "movenet"}
    if len(shape) == 3 and shape[1] == 3 * cells and shape[2] > 5:
        return {"decoder": "yolov5"}
    if len(shape) == 3 and cells in shape[1:] and min(shape[1:]) > 4:
        return {"decoder": "yolov8"}
    if len(shape) in (3, 4) and shape[0] == 1 and shape[1] * 4 >= height and shape[2] * 4 >= width:
        if len(shape) == 4 or "int" in output.dtype:
            return {"decoder": "segmentation"}
    elif len(shape) == 4 and shape[1] * 8 <= height and shape[3] % 5 == 0 and shape[3] // 5 > 5:
        return {"decoder": "yolov2", "anchors": COCO_ANCHORS}
    elif len(shape) == 3 and shape[0] == 1 and min(shape[1:]) > 5 and max(shape[1:]) >= 10 * min(shape[1:]):
        return {"decoder": "yolov5" if shape[2] < shape[1] else "yolov8"}
    return {"decoder": "raw"}


def _guess_state(graph: Graph) -> dict[str, str]:
    """Outputs that are as some input beside the image, paired by their names' ends (lstm_c -> init_lstm_c)."""
    state: dict[str, str] = {}
    outputs = [graph.tensors[t] for t in graph.outputs]
    for t in graph.inputs:
        given = graph.tensors[t]
        alike = [out for out in outputs if _kind(out) == _kind(given)]
        named = [out for out in alike if given.name.endswith(out.name.rpartition("/")[2])]
        if t != image_input(graph) and (alike if len(alike) == 1 else len(named) == 1):
            state[(alike if len(alike) == 1 else named)[0].name] = given.name
    return state


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.quantization


def _rescales(graph: Graph, image: int) -> bool:
    """Whether the model scales its pixels itself: a float input whose only reader is arithmetic with a constant."""
    readers = [graph.ops[i] for i in graph.consumers.get(image, [])]
    return len(readers) == 1 and readers[0].kind in _RESCALING and len(graph.data_inputs(readers[0])) == 1


def _made(graph: Graph, t: int) -> tuple[str, int]:
    """The operator that gives a tensor its meaning, and the first tensor that it reads (-1: none)."""
    t = _source(graph, t)
    if t not in graph.producer:
        return "", t
    op = graph.ops[graph.producer[t]]
    return op.label, op.inputs[0] if op.inputs else -1


def _post_process(graph: Graph) -> tuple[str, ...]:
    """Names of the outputs boxes, classes, scores, count, in that order; empty if the model has no such operator."""
    for op in graph.ops:
        if op.custom_code == _POST_PROCESS:
            sources = {_source(graph, t): graph.tensors[t].name for t in graph.outputs}
            return tuple(sources[t] for t in op.outputs) if set(op.outputs) <= set(sources) else ()
    return ()


def _source(graph: Graph, t: int) -> int:
    """The tensor whose meaning ``t`` has: what it was before operators that only change its form."""
    while t in graph.producer and _passes(op := graph.ops[graph.producer[t]]) and op.inputs and op.inputs[0] >= 0:
        t = op.inputs[0]
    return t


def _passes(op: Op) -> bool:
    return all(part.kind in _PASSING for part in op.parts or (op,))


# --- complete and check ----------------------------------------------------------------------------------------------


def complete(card: Card, graph: Graph) -> Card:
    """The card with what only the graph knows: which outputs the decoder reads, and whether they are logits."""
    outputs = card.outputs or _outputs(card, graph)
    logits = card.logits
    if logits is None and outputs and outputs[0] in graph.by_name:
        maker, _ = _made(graph, graph.by_name[outputs[0]])
        logits = card.decoder in ("top_k", "heatmaps", "segmentation") and maker not in ("SOFTMAX", "LOGISTIC")
    return card.model_copy(update={"outputs": outputs, "logits": logits})


def _outputs(card: Card, graph: Graph) -> tuple[str, ...]:
    tensors = [graph.tensors[t] for t in graph.outputs if graph.tensors[t].name not in card.state]
    if card.decoder == "ssd":
        return _post_process(graph) or tuple(t.name for t in tensors[:4])
    if card.decoder == "yolov3":
        return tuple(t.name for t in tensors if len(t.shape) == 4)
    if card.decoder == "heatmaps":
        count = len(card.keypoints or COCO_KEYPOINTS)
        sizes = {t.shape[-1]: t.name for t in reversed(tensors) if len(t.shape) == 4}
        named = tuple(sizes[n] for n in (count, 2 * count) if n in sizes)
        return named if count in sizes else tuple(t.name for t in tensors[:1])
    return tuple(t.name for t in (tensors if card.decoder == "raw" else tensors[:1]))


class _Misfit(Exception):
    """What a decoder needs of the outputs that it does not find."""


def check_card(card: Card, graph: Graph, name: str = "the card") -> None:
    """Whether a card fits its model; ``name`` is what the message calls the card.

    Raises:
        PlanError: a decoder that does not fit the outputs, labels, anchors or keypoints of a wrong number, an unknown
            tensor, a state whose two ends differ. One line with card, value and what is expected.
    """
    card = complete(card, graph)
    image = graph.tensors[image_input(graph)]
    made = {graph.tensors[t].name: graph.tensors[t] for t in graph.outputs}
    for output in card.outputs:
        if output not in made:
            raise PlanError(f"{name}: outputs names {output!r}, but the model's outputs are {_names(made)}")
    _check_state(card, graph, made, image, name)
    tensors = [made[output] for output in card.outputs]
    for tensor in tensors:
        if tensor.nbytes == 0:
            raise PlanError(f"{name}: output {tensor.name!r} of shape {tensor.shape} is empty")
    try:
        classes = _FORMS[card.decoder](card, tensors, image) if card.decoder in _FORMS else None
    except _Misfit as misfit:
        raise PlanError(f"{name}: {misfit}") from None
    if card.decoder == "segmentation" and classes is None:
        classes = _argmax_classes(graph, tensors[0])
    if classes is not None and card.labels and not _labels_fit(card, classes):
        raise PlanError(
            f"{name}: {len(card.labels)} labels do not fit decoder {card.decoder!r}: "
            f"output {tensors[0].name!r} {tensors[0].shape} has {classes} classes"
        )


def _names(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(repr(name) for name in tensors)[:300]


def _labels_fit(card: Card, classes: int) -> bool:
    return len(card.labels) == classes or (len(card.labels) == classes + 1 and card.has_background)


def _check_state(card: Card, graph: Graph, made: Mapping[str, Tensor], image: Tensor, name: str) -> None:
    given = {graph.tensors[t].name: graph.tensors[t] for t in graph.inputs if graph.tensors[t].name != image.name}
    for output, input_ in card.state.items():
        if output not in made:
            raise PlanError(f"{name}: state: the model has no output {output!r}, its outputs are {_names(made)}")
        if input_ not in given:
            others = _names(given) or "none"
            raise PlanError(
                f"{name}: state: the model has no input {input_!r}, its inputs beside the image are {others}"
            )
        if _kind(made[output]) != _kind(given[input_]):
            raise PlanError(
                f"{name}: state: output {output!r} is {made[output].dtype}{made[output].shape}, not as input {input_!r} "
                f"{given[input_].dtype}{given[input_].shape} (or its quantization differs)"
            )
    if len(set(card.state.values())) != len(card.state):
        raise PlanError(f"{name}: state: two outputs lead to the same input")


def _argmax_classes(graph: Graph, tensor: Tensor) -> int | None:
    maker, source = _made(graph, graph.by_name[tensor.name])
    return graph.tensors[source].shape[-1] if maker == "ARG_MAX" and source >= 0 and graph.tensors[source].shape else None


def _need(fits: bool, card: Card, tensor: Tensor, needed: str) -> None:
    if not fits:
        raise _Misfit(
            f"decoder {card.decoder!r} does not fit output {tensor.name!r} {tensor.dtype}{tensor.shape}: it needs {needed}"
        )


def _yolov2(card: Card, tensors: list[Tensor], image: Tensor) -> int:
    return _anchored(card, tensors[0], len(card.anchors or COCO_ANCHORS))


def _anchored(card: Card, tensor: Tensor, anchors: int) -> int:
    _need(len(tensor.shape) == 4, card, tensor, "1 x H x W x anchors * (5 + classes)")
    channels, each = tensor.shape[3], 5 + len(card.labels)
    if card.labels and card.anchors and channels % each == 0 and channels != anchors * each:
        raise _Misfit(
            f"{anchors} anchors do not fit decoder {card.decoder!r}: output {tensor.name!r} {tensor.shape} with "
            f"{len(card.labels)} labels needs {channels // each}"
        )
    classes = channels // anchors - 5
    if channels % anchors or classes < 1:
        raise _Misfit(
            f"{anchors} anchors do not fit decoder {card.decoder!r}: "
            f"output {tensor.name!r} {tensor.shape} has {channels} channels, not anchors * (5 + classes)"
        )
    return classes


def _yolov3(card: Card, tensors: list[Tensor], image: Tensor) -> int:
    if not tensors or not card.anchors or len(card.anchors) % len(tensors):
        raise _Misfit(
            f"{len(card.anchors)} anchors do not fit decoder 'yolov3': "
            f"{len(tensors)} outputs need as many each, those of the first output first"
        )
    return max(_anchored(card, tensor, len(card.anchors) // len(tensors)) for tensor in tensors)


def _yolov5(card: Card, tensors: list[Tensor], image: Tensor) -> int:
    shape = tensors[0].shape
    _need(len(shape) == 3 and shape[0] == 1 and shape[2] > 5, card, tensors[0], "1 x boxes x (5 + classes)")
    return shape[2] - 5


def _yolov8(card: Card, tensors: list[Tensor], image: Tensor) -> int:
    shape = tensors[0].shape
    fits = len(shape) == 3 and shape[0] == 1 and min(shape[1:]) > 4
    _need(fits, card, tensors[0], "1 x (4 + classes) x boxes")
    return min(shape[1:]) - 4


def _ssd(card: Card, tensors: list[Tensor], image: Tensor) -> None:
    if len(tensors) != 4:
        raise _Misfit(f"decoder 'ssd' does not fit {len(tensors)} outputs: it needs boxes, classes, scores and count")
    for tensor in tensors:
        _need(tensor.dtype in ("float32", "float16"), card, tensor, f"the four float outputs of {_POST_PROCESS}")


def _grid(card: Card, tensors: list[Tensor], image: Tensor) -> int:
    shape = tensors[0].shape
    _need(len(shape) == 4 and shape[3] > 5, card, tensors[0], "1 x H x W x (5 + classes)")
    if len(card.anchors) > 1:
        raise _Misfit(f"{len(card.anchors)} anchors do not fit decoder 'grid': it takes one or none")
    return shape[3] - 5


def _top_k(card: Card, tensors: list[Tensor], image: Tensor) -> int:
    shape = tensors[0].shape
    _need(bool(shape) and max(shape[:-1], default=1) == 1 and shape[-1] > 1, card, tensors[0], "1 x classes")
    return shape[-1]


def _segmentation(card: Card, tensors: list[Tensor], image: Tensor) -> int | None:
    tensor, shape = tensors[0], tensors[0].shape
    whole = len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)
    _need(len(shape) in (3, 4) and shape[0] == 1, card, tensor, "1 x H x W classes or 1 x H x W x classes scores")
    if whole and "int" in tensor.dtype and tensor.quantization is None:
        return None
    _need(len(shape) == 4 and shape[3] <= _MAX_CLASSES, card, tensor, f"1 x H x W x classes, {_MAX_CLASSES} at most")
    return max(shape[3], 2)


def _movenet(card: Card, tensors: list[Tensor], image: Tensor) -> None:
    shape = tensors[0].shape
    _need(
        len(shape) >= 2 and shape[-1] == 3 and max(shape[:-2], default=1) == 1, card, tensors[0], "1 x 1 x points x 3"
    )
    _check_keypoints(card, tensors[0], shape[-2])


def _heatmaps(card: Card, tensors: list[Tensor], image: Tensor) -> None:
    shape = tensors[0].shape
    _need(len(shape) == 4, card, tensors[0], "1 x H x W x points")
    _check_keypoints(card, tensors[0], shape[3])
    if len(tensors) > 1:
        _need(tensors[1].shape == (*shape[:3], 2 * shape[3]), card, tensors[1], "offsets, 1 x H x W x 2 * points")


def _check_keypoints(card: Card, tensor: Tensor, count: int) -> None:
    if card.keypoints and len(card.keypoints) != count:
        raise _Misfit(
            f"{len(card.keypoints)} keypoints do not fit decoder {card.decoder!r}: "
            f"output {tensor.name!r} {tensor.shape} has {count}"
        )


_FORMS: Final[dict[str, Callable[[Card, list[Tensor], Tensor], int | None]]] = {
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
}
