"""Imports a Darknet network: cfg and weights become a graph and the text of its card.

Covers what YOLOv2, YOLOv2-tiny, YOLOv3 and YOLOv3-tiny are made of. A section or an option that would change the result
and that we do not know is refused by name; options that matter to training alone are passed over, as Darknet does.
The head stays out of the graph: its input, the last convolution's map, is the output, and the card tells the decoder the
rest. Sources: parser.c, convolutional_layer.c, maxpool_layer.c, region_layer.c and yolo_layer.c of github.com/pjreddie/darknet.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.graph.build import ACTIVATIONS, Network, fold
from models.graph.file import Graph
from models.results.card_file import read_labels
from schemas.contract.errors import PlanError
from schemas.host.files import check_file, read_file

_MAX_CFG = 2**20  # bytes; Darknet's own have less than 10,000
_MAX_SECTIONS = 1000
_MAX_SIDE, _MAX_CHANNELS, _MAX_ELEMENTS = 4096, 2**16, 2**29  # of a map
_MAX_WINDOW = 64  # kernel, stride, padding
_MAX_CLASSES, _MAX_ANCHORS, _MAX_ANCHOR = 10_000, 100, 10_000.0

# Options that change what a layer computes, with the value at which they do not; None: they may not be there at all.
_UNSUPPORTED: dict[str, dict[str, float | None]] = {
    "convolutional": {
        **dict.fromkeys(("groups", "dilation"), 1.0),
        **dict.fromkeys(("binary", "xnor", "flipped", "antialiasing", "dontload", "dontloadscales", "numload"), 0.0),
        **dict.fromkeys(("stride_x", "stride_y", "share_index"), None),
    },
    "maxpool": {"maxpool_depth": 0.0, "antialiasing": 0.0, "stride_x": None, "stride_y": None},
    "route": {"groups": 1.0},
    "reorg": {"reverse": 0.0, "flatten": 0.0, "extra": 0.0},
    "shortcut": {"alpha": 1.0, "beta": 1.0, "weights_type": None},
    "upsample": {"scale": 1.0},
    "region": {"coords": 4.0, "background": 0.0, "classfix": 0.0, "tree": None, "map": None},
    "yolo": {"scale_x_y": 1.0, "new_coords": 0.0, "map": None},
}


@dataclass(frozen=True)
class Section:
    """One section of a cfg. ``number`` 0 is [net], so section ``n`` is what Darknet calls layer ``n - 1``."""

    number: int
    kind: str
    line: int
    values: dict[str, str]

    def error(self, message: str) -> PlanError:
        return PlanError(f"{self}: {message}")

    def __str__(self) -> str:
        layer = f"layer {self.number - 1}, " if self.number else ""
        return f"section {self.number} [{self.kind}] ({layer}line {self.line})"

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """An option from ``low`` to ``high``; ``default`` None: it must be there."""
        text = self.values.get(key)
        if text is None and default is not None:
            text = str(default)
        if text is None:
            raise self.error(f"{key} is missing")
        value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,9}", text) else None
        if value is None or not low <= value <= high:
            raise self.error(f"{key}={text[:40]}: it must be a whole number from {low} to {high}")
        return value

    def numbers(self, key: str) -> list[float]:
        """A list with commas between; empty if it is not there."""
        items = [item.strip() for item in self.values.get(key, "").removesuffix(",").split(",")]
        try:
            values = [float(item) for item in items] if items != [""] else []
        except ValueError:
            raise self.error(f"{key}={self.values[key][:80]}: no list of numbers") from None
        if not all(math.isfinite(value) for value in values):
            raise self.error(f"{key}={self.values[key][:80]}: not finite")
        return values

    def integers(self, key: str) -> list[int]:
        values = self.numbers(key)
        if any(value != int(value) for value in values):
            raise self.error(f"{key}={self.values[key][:80]}: not all whole numbers")
        return [int(value) for value in values]

    def activation(self, default: str) -> str:
        name = self.values.get("activation", default)
        if name not in ("linear", *ACTIVATIONS):
            raise self.error(f"activation={name[:40]} is not supported: only linear, {', '.join(ACTIVATIONS)} are")
        return name

    def refuse_unsupported(self) -> None:
        for key, neutral in _UNSUPPORTED.get(self.kind, {}).items():
            if key in self.values and (neutral is None or self.numbers(key) != [neutral]):
                raise self.error(f"{key}={self.values[key][:40]} is not supported")


def parse_cfg(text: str) -> list[Section]:
    """The sections of a cfg, [net] first. As in Darknet, spaces mean nothing and the first of equal keys counts.

    Raises:
        PlanError: a line that is no section, no ``key=value`` and no comment; no [net] at the beginning.
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.split("[#;]", raw, maxsplit=1)[0].strip()
        key, equals, value = (part.strip() for part in line.partition("="))
        if line.startswith("[") and line.endswith("]"):
            sections.append(Section(len(sections), line[1:-1].strip()[:40], number, {}))
            if len(sections) > _MAX_SECTIONS:
                raise PlanError(f"line {number}: more than {_MAX_SECTIONS} sections")
        elif line and not (equals and key and sections):
            raise PlanError(f"line {number}: {line[:60]!r} is no [section], no key=value in a section and no comment")
        elif line:
            sections[-1].values.setdefault(key, value)
    if not sections or sections[0].kind not in ("net", "network"):
        raise PlanError("the cfg does not begin with a [net] section")
    return sections


class Weights:
    """A .weights file, read from front to back."""

    def __init__(self, path: Path) -> None:
        check_file(path, "weights")
        try:
            self.size = path.stat().st_size
            self._data = np.memmap(path, np.uint8, "r") if self.size else np.zeros(0, np.uint8)
        except OSError as error:
            raise PlanError(f"cannot read the weights {path}: {error.strerror}") from error
        if self.size < 16:
            raise PlanError(f"the weights {path} end in their header: expected at least 16 bytes, found {self.size}")
        major, minor, _ = (int(n) for n in self._data[:12].view("<i4"))
        # As parser.c: 64 bits count the images seen since version 0.2; absurd versions mark an older layout.
        wide = 0 <= major < 1000 and 0 <= minor < 1000 and major * 10 + minor >= 2
        self.offset = 20 if wide else 16

    def take(self, section: Section, *shapes: tuple[int, ...]) -> list[np.ndarray]:
        """The next float32 arrays of these shapes.

        Raises:
            PlanError: the file ends before.
        """
        counts = [math.prod(shape) for shape in shapes]
        end = self.offset + 4 * sum(counts)
        if end > self.size:
            raise section.error(
                f"the weights file is too short: expected {end} bytes up to this section, found {self.size}"
            )
        arrays = []
        for shape, count in zip(shapes, counts):
            part = self._data[self.offset : self.offset + 4 * count]
            arrays.append(np.frombuffer(part.tobytes(), "<f4").astype(np.float32, copy=False).reshape(shape))
            self.offset += 4 * count
        return arrays


@dataclass(frozen=True)
class Head:
    """A [region] or [yolo] section: ``tensor`` is the map that it decodes; ``anchors`` width and height in turn."""

    section: Section
    tensor: int
    classes: int
    anchors: tuple[float, ...]
    mask: tuple[int, ...]


class Importer:
    """Adds section after section to a network; ``heads`` by the number of their layer."""

    def __init__(self, net: Section, weights: Weights) -> None:
        shape = (
            net.integer("height", None, 1, _MAX_SIDE),
            net.integer("width", None, 1, _MAX_SIDE),
            net.integer("channels", 3, 1, 3),
        )
        if shape[2] == 2:
            raise net.error("channels=2: a picture has 3, or 1")
        self.network = Network(shape)
        self.weights = weights
        self.heads: dict[int, Head] = {}
        self._damaged: PlanError | None = None  # waits until all is read: the wrong file is better told by its size

    def add(self, section: Section) -> None:
        if section.kind not in _LAYERS:
            raise section.error(f"unknown section: only net, {', '.join(_LAYERS)} are supported")
        section.refuse_unsupported()
        made, name = len(self.network.tensors), f"{_NAMES.get(section.kind, section.kind)}{section.number - 1}"
        self.network.layers.append(_LAYERS[section.kind](self, section, name))
        for tensor in self.network.tensors[made:]:
            if tensor.data is None and math.prod(tensor.shape) > _MAX_ELEMENTS:
                raise section.error(f"its map {tensor.shape} has more than {_MAX_ELEMENTS} elements")

    def _input(self, section: Section) -> int:
        return self._layer(section, section.number - 2) if section.number > 1 else 0

    def _layer(self, section: Section, number: int) -> int:
        """The output of a layer; of negative ``number``, counted from this section back."""
        index = number + section.number - 1 if number < 0 else number
        if not 0 <= index < section.number - 1:
            raise section.error(f"layer {number} is none of the {section.number - 1} layers before it")
        if index in self.heads:
            raise section.error(f"it reads layer {index}, the output of {self.heads[index].section}")
        return self.network.layers[index]

    def _shape(self, tensor: int) -> tuple[int, ...]:
        return self.network.tensors[tensor].shape

    def _fits(self, section: Section, source: int, kernel: int, pad: int) -> None:
        _, height, width, _ = self._shape(source)
        if min(height, width) + pad < kernel:
            raise section.error(f"size={kernel} is larger than its {height}x{width} input with padding {pad}")

    def convolutional(self, section: Section, name: str) -> int:
        source = self._input(section)
        depth, filters = self._shape(source)[3], section.integer("filters", 1, 1, _MAX_CHANNELS)
        size, stride = section.integer("size", 1, 1, _MAX_WINDOW), section.integer("stride", 1, 1, _MAX_WINDOW)
        half = section.integer("pad", 0, 0, _MAX_WINDOW)
        pad = size // 2 if half else section.integer("padding", 0, 0, _MAX_WINDOW)
        self._fits(section, source, size, 2 * pad)
        normalized, activation = section.integer("batch_normalize", 0, 0, 1), section.activation("logistic")
        shapes = [(filters,)] * (4 if normalized else 1)
        bias, *norm, weights = self.weights.take(section, *shapes, (filters, depth, size, size))
        kernel = weights.transpose(0, 2, 3, 1)
        if normalized:
            with np.errstate(all="ignore"):
                kernel, bias = fold(kernel, bias, norm[0], norm[1], norm[2])
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            message = "its weights are not finite numbers: the weights file is damaged, or of another cfg"
            self._damaged = self._damaged or section.error(message)
        return self.network.conv(name, source, np.ascontiguousarray(kernel), bias, stride, activation, pad)

    def maxpool(self, section: Section, name: str) -> int:
        source, stride = self._input(section), section.integer("stride", 1, 1, _MAX_WINDOW)
        size = section.integer("size", stride, 1, _MAX_WINDOW)
        pad = section.integer("padding", size - 1, 0, 2 * (size - 1))
        self._fits(section, source, size, pad)
        return self.network.maxpool(name, source, size, stride, pad)

    def route(self, section: Section, name: str) -> int:
        sources = [self._layer(section, number) for number in section.integers("layers")]
        if not sources:
            raise section.error("layers is missing")
        sizes = {self._shape(t)[1:3] for t in sources}
        if len(sizes) > 1:
            raise section.error(f"it joins maps of different sizes: {', '.join(f'{h}x{w}' for h, w in sorted(sizes))}")
        return self.network.route(name, sources)

    def reorg(self, section: Section, name: str) -> int:
        source, stride = self._input(section), section.integer("stride", 1, 1, _MAX_WINDOW)
        _, height, width, depth = self._shape(source)
        if height % stride or width % stride or depth % (stride * stride):
            raise section.error(f"stride={stride} does not divide its {height}x{width}x{depth} input")
        return self.network.reorg(name, source, stride)

    def shortcut(self, section: Section, name: str) -> int:
        given = section.integers("from")
        if len(given) != 1:
            raise section.error(f"from={section.values.get('from', '')[:40]}: it must name one layer")
        sources = (self._input(section), self._layer(section, given[0]))
        shapes = [self._shape(t)[1:] for t in sources]
        if shapes[0] != shapes[1]:
            raise section.error(f"it adds maps of different shapes: {shapes[0]} and {shapes[1]}")
        return self.network.shortcut(name, sources, section.activation("linear"))

    def upsample(self, section: Section, name: str) -> int:
        source, factor = self._input(section), section.integer("stride", 2, 1, 8)
        _, height, width, _ = self._shape(source)
        if factor not in (2, 4, 8) or factor * max(height, width) > _MAX_SIDE:
            raise section.error(f"stride={factor} on a {height}x{width} map: only 2, 4 and 8, up to {_MAX_SIDE} pixels")
        return self.network.upsample(name, source, factor)

    def region(self, section: Section, name: str) -> int:
        if section.integer("softmax", 0, 0, 1) != 1:
            raise section.error("softmax=0 is not supported")
        return self._head(section, masked=False)

    def yolo(self, section: Section, name: str) -> int:
        return self._head(section, masked=True)

    def _head(self, section: Section, masked: bool) -> int:
        source, classes = self._input(section), section.integer("classes", 20, 1, _MAX_CLASSES)
        count, anchors = section.integer("num", 1, 1, _MAX_ANCHORS), section.numbers("anchors")
        if len(anchors) != 2 * count or not all(0 < a <= _MAX_ANCHOR for a in anchors):
            raise section.error(f"num={count} anchors are {2 * count} positive numbers, found {len(anchors)} numbers")
        mask = tuple(section.integers("mask") if masked else ()) or tuple(range(count))
        if len(set(mask)) != len(mask) or min(mask) < 0 or max(mask) >= count:
            raise section.error(f"mask={section.values['mask'][:40]}: it must name anchors from 0 to {count - 1} once")
        depth, expected = self._shape(source)[3], len(mask) * (5 + classes)
        if depth != expected:
            raise section.error(
                f"{len(mask)} anchors and {classes} classes take {expected} channels, its input has {depth}"
            )
        head = Head(section, source, classes, tuple(anchors), mask)
        for other in self.heads.values():
            if section.kind == "region" or other.section.kind == "region":
                raise section.error(f"a second head beside {other.section}")
            if other.tensor == source:
                raise section.error(f"it decodes the same map as {other.section}")
            if (other.classes, len(other.mask)) != (classes, len(mask)):
                raise section.error(f"it has {len(mask)} anchors and {classes} classes, not as many as {other.section}")
        self.heads[section.number - 1] = head
        return source

    def graph(self) -> Graph:
        """The network, its outputs in the order of the heads.

        Raises:
            PlanError: no head, weights left over, or weights that are no numbers.
        """
        file, last = self.weights, len(self.network.layers)
        if file.offset != file.size:
            raise PlanError(
                f"the weights file is too long: expected {file.offset} bytes up to the last section, {last}, "
                f"found {file.size}"
            )
        if self._damaged:
            raise self._damaged
        if not self.heads:
            raise PlanError("the cfg has no [region] and no [yolo] section: nothing would decode its output")
        outputs = tuple(head.tensor for head in self.heads.values())
        return Graph(self.network.tensors, self.network.ops, (0,), outputs).pruned()


_LAYERS = {
    kind: getattr(Importer, kind)
    for kind in ("convolutional", "maxpool", "route", "reorg", "shortcut", "upsample", "region", "yolo")
}
_NAMES = {"convolutional": "conv", "maxpool": "max"}  # as the builder calls them


def import_darknet(cfg: Path, weights: Path, names: Path | None = None) -> tuple[Graph, str]:
    """The network of a cfg and its weights, and the text of its card (TOML). ``names``: a label on each line.

    Raises:
        PlanError: a file cannot be read, or the cfg's section (its number is named) does not fit, is not supported, or
            takes more or less weights than the file has.
    """
    text = _read(cfg)
    try:
        sections = parse_cfg(text)
        importer = Importer(sections[0], Weights(weights))
        for section in sections[1:]:
            importer.add(section)
        graph = importer.graph()
    except PlanError as error:
        raise PlanError(f"{cfg}: {error}") from error
    heads = list(importer.heads.values())
    return graph, _card(heads, _labels(names, heads[0].classes))


def _read(path: Path) -> str:
    return read_file(path, _MAX_CFG, "cfg file").decode("utf-8-sig", "replace")


def _labels(names: Path | None, classes: int) -> Sequence[str]:
    if names is None:
        return [f"class{i}" for i in range(classes)]
    labels = read_labels(names)
    if len(labels) != classes:
        raise PlanError(f"{names} has {len(labels)} labels, the network {classes} classes")
    return labels


def _card(heads: Sequence[Head], labels: Sequence[str]) -> str:
    """See ``models.results.card.Card``: anchors in cells for yolov2, in pixels and in the order of the outputs for yolov3."""
    decoder = "yolov2" if heads[0].section.kind == "region" else "yolov3"
    anchors = [head.anchors[2 * i : 2 * i + 2] for head in heads for i in head.mask]
    lines = [
        'task = "detect"',
        f'decoder = "{decoder}"',
        f"labels = [{', '.join(_quoted(label) for label in labels)}]",
        f"anchors = [{', '.join(f'[{width}, {height}]' for width, height in anchors)}]",
        "",
        "[input]",
        f"scale = {1 / 255}",
        'colour = "rgb"',
        'fit = "letterbox"',
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML string. What JSON escapes, TOML escapes alike, but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
