"""A model's card and its graph: the card is read or guessed, completed by the graph, or refused because it does not fit."""

import contextlib
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Final

from models.graph.file import Graph, Tensor, load
from models.graph.metadata import about
from models.graph.prepare import image_input, prepared
from models.results.card_file import COCO_ANCHORS, COCO_KEYPOINTS, Card, Input, describe, read_card
from models.results.decoders.pose import points_of
from models.results.decoders.ssd import anchor_scale, blaze_anchors, grid_anchors, pyramid_anchors
from models.results.decoders.yolo import classes_of, extra_of
from models.results.guess import POST_PROCESS, guess, kind_of, made_by, pair_of, post_process, rows_of
from schemas.contract.errors import PlanError

__all__ = ["Card", "Input", "check_card", "complete", "describe", "guess", "load_card", "read_card"]

_MAX_CLASSES = 256  # of a segmentation: a map of classes is uint8
_ANCHORED = ("ssd_anchors", "efficientdet", "blaze")  # that read boxes and scores
_SCORED = (*_ANCHORED, "top_k", "heatmaps", "segmentation")  # whose scores may be logits


def load_card(model: Path, graph: Graph | None = None) -> tuple[Card, bool]:
    """The card of a model file: the TOML beside it (same stem), or else a guess (then True). Checked and completed.

    Labels that the file holds are those of a card without any, if they are as many as the model's classes.

    Raises:
        PlanError: no model, a broken card, or a card that does not fit the graph.
    """
    graph = graph or prepared(load(model))
    path = model.with_suffix(".toml")
    guessed = not path.is_file()
    known = about(model)
    card = complete(guess(graph, known) if guessed else read_card(path), graph)
    check_card(card, graph, str(path))
    if known.labels and not card.labels:
        named = card.model_copy(update={"labels": known.labels})
        with contextlib.suppress(PlanError):  # they are of something else
            check_card(named, graph)
            card = named
    return card, guessed


# --- complete and check ----------------------------------------------------------------------------------------------


def complete(card: Card, graph: Graph) -> Card:
    """The card with what only the graph knows: which outputs the decoder reads, and whether they are logits."""
    outputs = card.outputs or _outputs(card, graph)
    logits = card.logits
    scores = outputs[1:2] if card.decoder in _ANCHORED else outputs[:1]
    if logits is None and scores and scores[0] in graph.by_name:
        maker, _ = made_by(graph, graph.by_name[scores[0]])
        logits = card.decoder in _SCORED and maker not in ("SOFTMAX", "LOGISTIC")
    return card.model_copy(update={"outputs": outputs, "logits": logits})


def _outputs(card: Card, graph: Graph) -> tuple[str, ...]:
    tensors = [graph.tensors[t] for t in graph.outputs if graph.tensors[t].name not in card.state]
    if card.decoder == "ssd":
        return post_process(graph) or tuple(t.name for t in tensors[:4])
    if card.decoder in _ANCHORED:
        return tuple(t.name for t in pair_of(tensors) or tensors[:2])
    if card.decoder in ("yolov8", "yolo_end_to_end"):
        return tuple(t.name for t in rows_of(tensors, graph.tensors[image_input(graph)]) or tensors[:1])
    if card.decoder == "landmarks":
        places = [t for t in tensors if prod(t.shape) > 1][:1]
        return tuple(t.name for t in (*places, *[t for t in tensors if prod(t.shape) == 1][:1]))
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
        if kind_of(made[output]) != kind_of(given[input_]):
            raise PlanError(
                f"{name}: state: output {output!r} is {made[output].dtype}{made[output].shape}, not as input {input_!r} "
                f"{given[input_].dtype}{given[input_].shape} (or its quantization differs)"
            )
    if len(set(card.state.values())) != len(card.state):
        raise PlanError(f"{name}: state: two outputs lead to the same input")
    for input_, value in card.inputs.items():
        if input_ not in given:
            others = _names(given) or "none"
            raise PlanError(f"{name}: inputs: the model has no input {input_!r}, its inputs beside the image are {others}")
        if input_ in card.state.values():
            raise PlanError(f"{name}: inputs: {input_!r} is a state, which starts at zero")
        if isinstance(value, tuple) and len(value) != prod(given[input_].shape):
            needed = f"give one, or {prod(given[input_].shape)}"
            raise PlanError(f"{name}: inputs: {len(value)} values for {input_!r} {given[input_].shape}: {needed}")


def check_inputs(card: Card, graph: Graph, path: Path) -> None:
    """Whether the card says what every input of a model gets that is not its image.

    Raises:
        PlanError: it does not; the line says what to write where.
    """
    image, known = image_input(graph), {*card.state.values(), *card.inputs}
    missing = [graph.tensors[t] for t in graph.inputs if t != image and graph.tensors[t].name not in known]
    needed = [tensor for tensor in missing if graph.consumers.get(graph.by_name[tensor.name])]
    if needed:
        tensor = needed[0]
        raise PlanError(
            f"the model needs {tensor.name!r} {tensor.dtype}{tensor.shape} beside its image: give it in {path}, as "
            f"[inputs] \"{tensor.name}\" = 0.0 (one number, or {prod(tensor.shape)}), or under [state] if it is what an output "
            "gave for the frame before"
        )


def _argmax_classes(graph: Graph, tensor: Tensor) -> int | None:
    maker, source = made_by(graph, graph.by_name[tensor.name])
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
    shapes = [tensor.shape for tensor in tensors]
    fits = len(shapes[0]) == 3 and shapes[0][0] == 1 and min(shapes[0][1:]) > 4
    _need(fits, card, tensors[0], "1 x (4 + classes) x boxes")
    _check_prototypes(card, tensors)
    _need(classes_of(card, shapes) > 0, card, tensors[0], f"4 values, classes, and {extra_of(card, shapes)} more in a row")
    return classes_of(card, shapes)


def _end_to_end(card: Card, tensors: list[Tensor], image: Tensor) -> None:
    shapes = [tensor.shape for tensor in tensors]
    _check_prototypes(card, tensors)
    fits = len(shapes[0]) == 3 and shapes[0][0] == 1 and shapes[0][2] == 6 + extra_of(card, shapes[:2])
    _need(fits, card, tensors[0], "1 x boxes x (x0, y0, x1, y1, score, class), and what keypoints and masks add")


def _check_prototypes(card: Card, tensors: list[Tensor]) -> None:
    if len(tensors) > 1:
        _need(len(tensors[1].shape) == 4, card, tensors[1], "prototypes of masks, 1 x H x W x K")


def _ssd_anchors(card: Card, tensors: list[Tensor], image: Tensor) -> int:
    return _paired(card, tensors, 4, len(grid_anchors(_size(image)))) - 1


def _efficientdet(card: Card, tensors: list[Tensor], image: Tensor) -> int:
    return _paired(card, tensors, 4, len(pyramid_anchors(_size(image), anchor_scale(card, image.shape[-2]))))


def _blaze(card: Card, tensors: list[Tensor], image: Tensor) -> int:
    if not card.strides:
        raise _Misfit("decoder 'blaze' needs the strides of its layers, such as strides = [8, 16, 16, 16]")
    points = len(card.keypoints) or (tensors[0].shape[-1] - 4) // 2 if tensors[0].shape else 0
    return _paired(card, tensors, 4 + 2 * points, len(blaze_anchors(card.strides, _size(image))))


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-3], image.shape[-2]


def _paired(card: Card, tensors: list[Tensor], each: int, anchors: int) -> int:
    """The classes of a pair of boxes and scores."""
    if len(tensors) != 2:
        raise _Misfit(f"decoder {card.decoder!r} does not fit {len(tensors)} outputs: it needs boxes and scores")
    _need(tensors[0].shape == (1, anchors, each), card, tensors[0], f"1 x {anchors} x {each}, a row for each anchor")
    shape = tensors[1].shape
    _need(len(shape) == 3 and shape[:2] == (1, anchors), card, tensors[1], f"1 x {anchors} x classes")
    return shape[2]


def _landmarks(card: Card, tensors: list[Tensor], image: Tensor) -> None:
    fits = points_of(card, prod(tensors[0].shape)) > 0
    _need(fits, card, tensors[0], f"2 to 5 values for each of {len(card.keypoints) or 'its'} keypoints")


def _ssd(card: Card, tensors: list[Tensor], image: Tensor) -> None:
    if len(tensors) != 4:
        raise _Misfit(f"decoder 'ssd' does not fit {len(tensors)} outputs: it needs boxes, classes, scores and count")
    for tensor in tensors:
        _need(tensor.dtype in ("float32", "float16"), card, tensor, f"the four float outputs of {POST_PROCESS}")


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
    "yolo_end_to_end": _end_to_end,
    "ssd": _ssd,
    "ssd_anchors": _ssd_anchors,
    "efficientdet": _efficientdet,
    "blaze": _blaze,
    "landmarks": _landmarks,
    "grid": _grid,
    "top_k": _top_k,
    "segmentation": _segmentation,
    "movenet": _movenet,
    "heatmaps": _heatmaps,
}
