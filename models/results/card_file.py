"""A model card: what a .tflite does not say of itself. TOML beside the model, or a guess from the graph.

How pixels become input values, what the outputs mean, what the classes are called. A card is checked against its graph
when it is loaded, so that a decoder may rely on shapes. Everything in a card is optional except ``decoder``::

    decoder = "yolov2"                  # what the outputs are; `task` follows from it
    labels = "coco.txt"                 # a file beside the card, one label a line, or a list
    anchors = [[0.57, 0.68], [1.87, 2.06]]
    score_threshold = 0.3

    [input]
    scale = 0.00392156862745098         # value = pixel * scale + offset; one number, or one for each channel
    colour = "rgb"
    fit = "letterbox"
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator

from schemas.contract.errors import PlanError
from schemas.contract.plan import MAX_FRAMES, Channels, Record
from schemas.contract.results import Share, Task
from schemas.contract.text import OneLine
from schemas.host.files import read_file
from schemas.host.toml import parse

Decoder: TypeAlias = Literal[
    "yolov2", "yolov3", "yolov5", "yolov8", "yolo_end_to_end", "grid", "ssd", "ssd_anchors", "efficientdet", "blaze",
    "top_k", "segmentation", "movenet", "heatmaps", "landmarks", "raw",
]  # fmt: skip
Positive = Annotated[float, Field(gt=0.0, le=1e6)]

TASKS: Final[dict[str, Task]] = {
    **dict.fromkeys(("yolov2", "yolov3", "yolov5", "yolov8", "yolo_end_to_end", "grid"), "detect"),
    **dict.fromkeys(("ssd", "ssd_anchors", "efficientdet", "blaze"), "detect"),
    "top_k": "classify",
    "segmentation": "segment",
    **dict.fromkeys(("movenet", "heatmaps", "landmarks"), "pose"),
    "raw": "raw",
}

# The anchors of YOLOv2 on COCO, in cells of 32 pixels (Darknet, cfg/yolov2.cfg).
COCO_ANCHORS: Final = (
    (0.57273, 0.677385),
    (1.87446, 2.06253),
    (3.33843, 5.47434),
    (7.88282, 3.52778),
    (9.77052, 9.16828),
)
# The keypoints of COCO, in the order of PoseNet and MoveNet.
COCO_KEYPOINTS: Final = tuple(
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle".split()
)
# The points of MediaPipe's detectors of faces and palms.
FACE_KEYPOINTS: Final = ("right_eye", "left_eye", "nose", "mouth", "right_ear", "left_ear")
PALM_KEYPOINTS: Final = ("wrist", "index", "middle", "ring", "little", "thumb_base", "thumb")
BACKGROUND: Final = ("background", "__background__", "???")  # a first label of this name stands for no class

_STRETCHED: Final = ("top_k", "segmentation", "ssd", "ssd_anchors")
_MAX_BYTES = 2**20


class Input(Record):
    """How an image becomes the model's input, see ``schemas.contract.plan.Pixels``. No ``fit``: what goes with the decoder."""

    scale: Channels = 1.0 / 255.0
    offset: Channels = 0.0
    colour: Literal["rgb", "bgr"] = "rgb"
    fit: Literal["letterbox", "stretch"] | None = None
    step: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 1


class Card(Record):
    """What a model's inputs and outputs mean.

    ``outputs`` names the tensors that the decoder reads, in its order, and ``logits`` says that scores are not yet
    probabilities; the graph tells both where the card does not. ``anchors`` are (width, height), in cells for yolov2 and
    grid, in pixels for yolov3 (there those of the first output come first). ``box_units`` is what yolov5 and yolov8
    boxes are in; absent: pixels if any coordinate exceeds 2. ``stride`` is pixels a cell; absent: input over map.
    ``strides`` of blaze are those of its layers, ``anchor_scale`` is efficientdet's. ``state`` maps an output to the input
    that gets it with the next frame of the same source; ``inputs`` has the value of every other input beside the image: one
    number, or as many as the input holds. ``made`` is free.
    """

    decoder: Decoder
    task: Task = "raw"
    labels: tuple[OneLine, ...] = ()
    anchors: tuple[tuple[Positive, Positive], ...] = ()
    input: Input = Input()
    score_threshold: Share | None = None
    iou_threshold: Share = 0.45
    max_detections: Annotated[int, Field(ge=1, le=1000)] = 100
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    keypoints: tuple[OneLine, ...] = ()
    stride: Positive | None = None
    box_units: Literal["normalized", "pixels"] | None = None
    logits: bool | None = None
    outputs: tuple[str, ...] = ()
    strides: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(max_length=16)] = ()
    anchor_scale: Positive | None = None
    state: dict[str, str] = {}
    inputs: dict[str, float | tuple[float, ...]] = {}
    made: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _task_of_decoder(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("decoder"), str) or values["decoder"] not in TASKS:
            return values
        task = TASKS[values["decoder"]]
        if values.get("task", task) != task:
            raise ValueError(
                f"task {values['task']!r} does not go with decoder {values['decoder']!r}, which does {task!r}"
            )
        return {**values, "task": task}

    @property
    def threshold(self) -> float:
        """Least score of a detection or class: the card's, or 0.25 for detectors (MediaPipe's: one half) and 0 for others."""
        if self.score_threshold is not None:
            return self.score_threshold
        if self.decoder in ("blaze", "landmarks"):
            return 0.5
        return 0.25 if self.task == "detect" else 0.0

    @property
    def fit(self) -> Literal["letterbox", "stretch"]:
        """How frames of another size are fitted: the card's way, or the one that networks of its kind are trained with."""
        return self.input.fit or ("stretch" if self.decoder in _STRETCHED else "letterbox")

    def label(self, index: int, classes: int | None = None) -> str:
        """The name of a class that the model numbers from 0. ``classes``: how many it has, background included.

        A file that starts with a background label and has one more than the classes is one ahead of the model.
        """
        index += self.has_background and (classes is None or len(self.labels) == classes + 1)
        return self.labels[index] if index < len(self.labels) else f"class {index}"

    @property
    def has_background(self) -> bool:
        return bool(self.labels) and self.labels[0].lower() in BACKGROUND

    def keypoint(self, index: int, count: int) -> str:
        """The name of a keypoint; COCO's if the card has none and there are 17."""
        names = self.keypoints or (COCO_KEYPOINTS if count == len(COCO_KEYPOINTS) else ())
        return names[index] if index < len(names) else f"point {index}"

    def pixels(self) -> dict[str, Any]:
        """The keyword arguments of ``schemas.contract.plan.Pixels`` that a card decides."""
        return {**dict(self.input), "fit": self.fit}


def read_card(path: Path) -> Card:
    """The card in a TOML file, its labels read; not yet checked against a graph.

    Raises:
        PlanError: not readable, no TOML (file and line), an unknown key or a bad value, no such labels file.
    """
    text = _read(path, "card")
    values = _parsed(path, text)
    if isinstance(values.get("labels"), str):
        values["labels"] = read_labels(path.parent / values["labels"])
    try:
        return Card.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(_shown(part) for part in first["loc"] if not str(part).startswith(("tuple[", "float")))
        given = "" if isinstance(first["input"], dict) else f" {str(first['input'])[:60]!r}"
        reason = first["msg"].removeprefix("Value error, ")
        raise PlanError(f"{path}: {where}{given}: {reason}" if where else f"{path}: {reason}") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return parse(text)
    except ValueError as error:
        raise PlanError(f"{path}: {_with_line(str(error), text)}") from error


def _shown(part: object) -> str:
    """A key of the file, in one short line."""
    return str(part)[:60].encode("unicode_escape").decode()


def _with_line(message: str, text: str) -> str:
    found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if found is None:
        return message
    line = found[1] or text.count("\n") + 1
    return f"line {line}: {message[: found.start()]}"


def _read(path: Path, what: str) -> str:
    try:
        return read_file(path, _MAX_BYTES, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlanError(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from error


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels, one a line, up to the first empty line. Lines such as ``0  person`` or ``1: cat`` are numbered.

    They count as numbered only if all are, in rising order; gaps are filled with ``???``, and a list from 1 on starts
    at 0 (a detector's classes begin with the first label).

    Raises:
        PlanError: not readable, or no label in it.
    """
    lines = [line.strip() for line in _read(path, "labels file").strip().splitlines()]
    lines = lines[: lines.index("")] if "" in lines else lines
    if not lines:
        raise PlanError(f"{path} holds no label: give one a line")
    numbered = [re.fullmatch(r"(\d{1,5})(?:\s*[:,]\s*|\s+)(\S.*)", line) for line in lines]
    found = [(int(match[1]), match[2]) for match in numbered if match]
    numbers = [number for number, _ in found]
    if len(found) < len(lines) or numbers != sorted(set(numbers)):
        return tuple(lines)
    names, first = dict(found), min(1, numbers[0])
    return tuple(names.get(i, BACKGROUND[-1]) for i in range(first, numbers[-1] + 1))


def card_text(card: Card) -> str:
    """The TOML that ``read_card`` reads as this card: what is not as if it were absent."""
    return toml_text(card.model_dump(exclude_defaults=True, exclude={"task"}, mode="json"))


def toml_text(values: Mapping[str, Any]) -> str:
    """Values of a card as TOML, its tables last."""
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if key not in tables]
    for table, rows in tables.items():
        lines += ["", f"[{table}]", *(f"{_key(key)} = {_toml(value)}" for key, value in rows.items())]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def describe(card: Card) -> str:
    """One line for a terminal: task, decoder, classes, thresholds, input."""
    scale, offset = card.input.scale, card.input.offset
    words = [f"{card.task} by {card.decoder}" if card.task != "raw" else "raw outputs, no decoder"]
    words += [f"{len(card.labels)} labels"] if card.labels else []
    words += [f"{len(card.anchors)} anchors"] if card.anchors else []
    words += [f"score >= {card.threshold:g}"] if card.threshold else []
    words += [f"IoU {card.iou_threshold:g}"] if card.task == "detect" and card.decoder != "ssd" else []
    words += [f"top {card.top_k}"] if card.task == "classify" else []
    words += [f"state {', '.join(f'{a} -> {b}' for a, b in card.state.items())}"] if card.state else []
    words += [f"{card.fit} {card.input.colour}"]
    words += [f"every {card.input.step}th picture"] if card.input.step > 1 else []
    if (scale, offset) != (Input().scale, Input().offset):
        words += [f"pixel x {_number(scale)}" + (f" + {_number(offset)}" if offset else "")]
    return ", ".join(words)


def _number(value: Channels) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "(" + " ".join(f"{v:.6g}" for v in value) + ")"
