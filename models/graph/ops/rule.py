"""What a rule is, and the graph of one tile that rules add to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.graph.file import Graph, Op, Quantization, Tensor
from models.graph.tflite_schema import OPTIONS
from schemas.contract.plan import Region

SAME, VALID = 0, 1
DYNAMIC_RANGE = "dynamic-range quantization scales by the whole map's extremes"
Needs = dict[int, Region]  # by position among the operator's inputs


def whole(graph: Graph, tensor: int) -> Region:
    """The region that covers all of a rank 4 tensor."""
    _, height, width, _ = graph.tensors[tensor].shape
    return Region(0, 0, height, width)


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
        shape = (like.shape[0], region.height, region.width, like.shape[3])
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
        begin = np.array([0, inner.y0 - outer.y0, inner.x0 - outer.x0, 0], np.int32)
        size = np.array([-1, inner.height, inner.width, -1], np.int32)
        name = self.source.tensors[source].name
        given = [tensor, self.literal(name + "/begin", begin), self.literal(name + "/size", size)]
        made = self.local(source, inner, f"/crop{len(self.ops)}") if into < 0 else into
        return self.op("SLICE", given, made, "Slice")

    def larger(self, source: int, outer: Region, inner: Region, tensor: int) -> int:
        """The tensor for ``outer`` of ``source``, of which ``tensor`` gets ``inner``: see ``crop``."""
        return tensor if inner == outer else self.local(source, outer, "/larger")

    def pad(self, data: int, rows: tuple[int, int], cols: tuple[int, int], lowest: bool = False) -> int:
        """A local tensor with a border of zeros, or of the least number of its dtype."""
        if rows == cols == (0, 0):
            return data
        like = self.tensors[data]
        shape = (like.shape[0], like.shape[1] + sum(rows), like.shape[2] + sum(cols), like.shape[3])
        padded = self.tensor(replace(like, name=f"{like.name}/pad{len(self.ops)}", shape=shape))
        widths = self.literal(like.name + "/pads", np.array([(0, 0), rows, cols, (0, 0)], np.int32))
        if not lowest:
            return self.op("PAD", [data, widths], padded, "Pad")
        dtype = np.dtype(like.dtype)
        least = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
        value = self.literal(like.name + "/lowest", np.array([least], dtype), like.quantization)
        return self.op("PADV2", [data, widths, value], padded, "PadV2")


class Rule:
    """How one kind of operator is tiled. Regions are of the full maps; all outputs of an operator share one region.

    ``by_axis``: the rows that it computes and needs follow from rows alone, and columns from columns, line by line; but what
    a single pixel grows to may be anything.
    """

    by_axis = True

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
        """Floating point (or integer) operations for one element of the output map, over all channels."""
        return float(graph.tensors[op.outputs[0]].shape[-1])

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        """Adds the operator; ``given`` holds the local tensor of each data input, cropped to what it needs."""
        inputs = tuple(given[s] if s in given else emitter.constant(t) for s, t in enumerate(op.inputs))
        emitter.ops.append(replace(op, inputs=inputs, outputs=tuple(outputs)))


def two_pixels(graph: Graph, op: Op, out: Region) -> Region:
    """``out``, or two pixels around it where it is one of a larger map."""
    _, height, width, _ = graph.tensors[op.outputs[0]].shape
    if (out.height, out.width) != (1, 1) or (height, width) == (1, 1):
        return out
    if width > 1:
        x0 = min(out.x0, width - 2)
        return Region(out.y0, x0, out.y1, x0 + 2)
    y0 = min(out.y0, height - 2)
    return Region(y0, out.x0, y0 + 2, out.x1)
