"""What a rule is, and the graph of one tile that rules add to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from models.graph.file import Graph, Op, Quantization, Tensor
from models.graph.tflite_schema import OPTIONS
from schemas.contract.plan import Region

SAME, VALID = 0, 1
DYNAMIC_RANGE = "dynamic-range quantization scales by the whole map's extremes"
Needs = dict[int, Region]  # by position among the operator's inputs
Shape = tuple[int, ...]


def sides(shape: Shape) -> tuple[int, int]:
    """Height and width of a map: NHWC, or frames before rows (NDHWC)."""
    return shape[-3], shape[-2]


def sized(shape: Shape, height: int, width: int) -> Shape:
    """The shape of a map with another height and width."""
    return (*shape[:-3], height, width, shape[-1])


def depth(shape: Shape) -> int:
    """Elements of a pixel: its channels, in all frames."""
    return prod(shape[:-3]) * shape[-1]


def whole(graph: Graph, tensor: int) -> Region:
    """The region that covers all of a map."""
    return Region(0, 0, *sides(graph.tensors[tensor].shape))


class Emitter:
    """Collects the graph of one tile: new tensors and operators, constants of the source graph copied by reference."""

    def __init__(self, source: Graph) -> None:
        self.source = source
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []
        self._constants: dict[int, int] = {}

    def tensor(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def local(self, source: int, region: Region, note: str = "") -> int:
        """A new tensor like ``source``, of the size of ``region``."""
        like = self.source.tensors[source]
        shape = sized(like.shape, region.height, region.width)
        return self.tensor(replace(like, name=like.name + note, shape=shape, data=None))

    def constant(self, source: int) -> int:
        """A constant of the source graph; one that is computed of constants (float16 weights) brings its operator."""
        if source < 0:
            return -1
        if source not in self._constants:
            self._constants[source] = self.tensor(self.source.tensors[source])
            if self.source.tensors[source].data is None:
                op = self.source.ops[self.source.producer[source]]
                outputs = (self._constants[source],)
                self.ops.append(replace(op, inputs=tuple(self.constant(t) for t in op.inputs), outputs=outputs))
        return self._constants[source]

    def literal(self, name: str, values: np.ndarray, quantization: Quantization | None = None) -> int:
        raw = np.ascontiguousarray(values).view(np.uint8).reshape(-1) if values.size else np.zeros(0, np.uint8)
        return self.tensor(Tensor(name, values.shape, str(values.dtype), quantization, raw))

    def op(self, kind: str, inputs: Sequence[int], output: int, options: str, **values: Any) -> int:
        self.ops.append(Op(kind, tuple(inputs), (output,), OPTIONS.index(options), values))
        return output

    def crop(self, tensor: int, source: int, inner: Region, outer: Region, into: int = -1) -> int:
        """``inner`` of a local tensor that holds ``outer`` of ``source``: a new tensor, or ``into``."""
        if inner == outer:
            return tensor
        frames = len(self.tensors[tensor].shape) - 3
        begin = np.array([*[0] * frames, inner.y0 - outer.y0, inner.x0 - outer.x0, 0], np.int32)
        size = np.array([*[-1] * frames, inner.height, inner.width, -1], np.int32)
        name = self.source.tensors[source].name
        given = [tensor, self.literal(name + "/begin", begin), self.literal(name + "/size", size)]
        made = self.local(source, inner, f"/crop{len(self.ops)}") if into < 0 else into
        return self.op("SLICE", given, made, "Slice")

    def larger(self, source: int, outer: Region, inner: Region, tensor: int) -> int:
        """The tensor for ``outer`` of ``source``, of which ``tensor`` gets ``inner``: see ``crop``."""
        return tensor if inner == outer else self.local(source, outer, "/larger")

    def pad(self, data: int, *widths: tuple[int, int], lowest: bool = False) -> int:
        """A local tensor with a border of zeros, or of the least number of its dtype; ``widths`` of all axes between the
        first and the last one.
        """
        if not any(map(any, widths)):
            return data
        like, around = self.tensors[data], ((0, 0), *widths, (0, 0))
        shape = tuple(size + sum(pads) for size, pads in zip(like.shape, around))
        padded = self.tensor(replace(like, name=f"{like.name}/pad{len(self.ops)}", shape=shape))
        borders = self.literal(like.name + "/pads", np.array(around, np.int32))
        if not lowest:
            return self.op("PAD", [data, borders], padded, "Pad")
        dtype = np.dtype(like.dtype)
        least = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
        value = self.literal(like.name + "/lowest", np.array([least], dtype), like.quantization)
        return self.op("PADV2", [data, borders, value], padded, "PadV2")


class Rule:
    """How one kind of operator is tiled. Regions are of the full maps; all outputs of an operator share one region.

    ``by_axis``: the rows that it computes and needs follow from rows alone, and columns from columns, line by line; but what
    a single pixel grows to may be anything. ``ranks`` of the maps that it takes.
    """

    by_axis = True
    ranks: tuple[int, ...] = (4,)
    map_slot: int | None = None  # the only input that may depend on the image, if it is only one

    def beyond(self, graph: Graph, op: Op) -> str | None:
        """Why this operator needs more than a region, whatever its tensors are, or None."""
        return None

    def blocker(self, graph: Graph, op: Op) -> str | None:
        """Why this operator cannot be tiled exactly, or None."""
        return None

    def grow(self, graph: Graph, op: Op, out: Region) -> Region:
        """The smallest region around ``out`` that can be computed at all."""
        return out

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        """The region of each data input that ``out`` needs."""
        return {slot: out for slot, t in enumerate(op.inputs) if t >= 0 and t not in graph.constant}

    def computed(self, graph: Graph, op: Op, out: Region) -> Region:
        """What a tile computes to have ``out``."""
        return out

    def flops(self, graph: Graph, op: Op) -> float:
        """Floating point (or integer) operations for one pixel of the output map, over all channels and frames."""
        return float(depth(graph.tensors[op.outputs[0]].shape))

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        """Adds the operator; ``given`` holds the local tensor of each data input, cropped to what it needs."""
        inputs = tuple(given[s] if s in given else emitter.constant(t) for s, t in enumerate(op.inputs))
        emitter.ops.append(replace(op, inputs=inputs, outputs=tuple(outputs)))


def two_pixels(graph: Graph, op: Op, out: Region) -> Region:
    """``out``, or two pixels around it where it is one of a larger map."""
    height, width = sides(graph.tensors[op.outputs[0]].shape)
    if (out.height, out.width) != (1, 1) or (height, width) == (1, 1):
        return out
    if width > 1:
        x0 = min(out.x0, width - 2)
        return Region(out.y0, x0, out.y1, x0 + 2)
    y0 = min(out.y0, height - 2)
    return Region(y0, out.x0, y0 + 2, out.x1)
