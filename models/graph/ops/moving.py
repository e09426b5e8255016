"""Operators that only move elements: borders, channels, blocks of pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from models.graph.file import Graph, Op
from models.graph.ops.rule import Emitter, Needs, Rule
from schemas.contract.plan import Region, digest


class PadRule(Rule):
    """PAD and PADV2 of the map's borders (and channels)."""

    map_slot = 0

    def widths(self, graph: Graph, op: Op) -> np.ndarray:
        return graph.tensors[op.inputs[1]].array().astype(np.int64)

    def blocker(self, graph: Graph, op: Op) -> str | None:
        given = graph.tensors[op.inputs[1]]
        if given.data is None or given.shape != (4, 2) or given.dtype not in ("int32", "int64"):
            return "its widths are not constant"
        widths = self.widths(graph, op)
        if widths[0].any() or (widths < 0).any():
            return "it pads the batch"
        given_shape, made_shape = (np.array(graph.tensors[t].shape) for t in (op.inputs[0], op.outputs[0]))
        if len(given_shape) != 4 or (given_shape + widths.sum(axis=1) != made_shape).any():
            return "its widths do not make its output of its input"
        return None

    def grow(self, graph: Graph, op: Op, out: Region) -> Region:
        """Around the nearest true pixel: a region of padding alone has no input."""
        (top, _), (left, _) = self.widths(graph, op)[1:3]
        _, height, width, _ = graph.tensors[op.inputs[0]].shape
        return Region(
            int(min(out.y0, top + height - 1)),
            int(min(out.x0, left + width - 1)),
            int(max(out.y1, top + 1)),
            int(max(out.x1, left + 1)),
        )

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        (top, _), (left, _) = self.widths(graph, op)[1:3]
        _, height, width, _ = graph.tensors[op.inputs[0]].shape
        y0, y1 = max(out.y0 - top, 0), min(out.y1 - top, height)
        x0, x1 = max(out.x0 - left, 0), min(out.x1 - left, width)
        return {0: Region(int(y0), int(x0), int(y1), int(x1))}

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        widths = self.widths(emitter.source, op)
        top, left = int(widths[1][0]), int(widths[2][0])
        part = self.needs(emitter.source, op, out)[0]
        rows = (part.y0 + top - out.y0, out.y1 - part.y1 - top)
        cols = (part.x0 + left - out.x0, out.x1 - part.x1 - left)
        pads = emitter.literal(f"pads{len(emitter.ops)}", np.array([(0, 0), rows, cols, widths[3]], np.int32))
        inputs = (given[0], pads, *(emitter.constant(t) for t in op.inputs[2:]))
        emitter.ops.append(replace(op, inputs=inputs, outputs=tuple(outputs)))


class ConcatRule(Rule):
    """CONCATENATION of channels."""

    def blocker(self, graph: Graph, op: Op) -> str | None:
        if op.option("axis") not in (3, -1):
            return f"it joins axis {op.option('axis')}, not channels"
        if any(t in graph.constant for t in op.inputs):
            return "it joins the map with a constant"
        return None


class SplitRule(Rule):
    """SPLIT and SPLIT_V of channels."""

    def blocker(self, graph: Graph, op: Op) -> str | None:
        axis = graph.tensors[op.inputs[0 if op.kind == "SPLIT" else 2]]
        if axis.data is None or axis.dtype != "int32" or int(axis.array().reshape(-1)[0]) not in (3, -1):
            return "it splits another axis than channels"
        return None


class SliceRule(Rule):
    """SLICE, and STRIDED_SLICE with positive strides of rows and columns; of channels any."""

    map_slot = 0

    def steps(self, graph: Graph, op: Op) -> list[tuple[int, int]]:
        """The first element and the stride of each axis."""
        begins, *others = (graph.tensors[t].array().reshape(-1).tolist() for t in op.inputs[1:])
        if op.kind == "SLICE":
            return [(begin, 1) for begin in begins]
        shape, mask = graph.tensors[op.inputs[0]].shape, int(op.option("begin_mask"))
        firsts = (begin + size if begin < 0 else begin for begin, size in zip(begins, shape))
        return [(0 if mask >> i & 1 else first, stride) for i, (first, stride) in enumerate(zip(firsts, others[1]))]

    def blocker(self, graph: Graph, op: Op) -> str | None:
        given = [graph.tensors[t] for t in op.inputs[1:] if t >= 0]
        if len(given) != (2 if op.kind == "SLICE" else 3) or any(
            t.data is None or t.shape != (4,) or t.dtype not in ("int32", "int64") for t in given
        ):
            return "what it takes is not constant"
        if any(op.option(name) for name in ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask", "offset")):
            return "it changes the number of dimensions"
        before, after = (graph.tensors[t].shape for t in (op.inputs[0], op.outputs[0]))
        steps = self.steps(graph, op)
        for (first, stride), size, made in list(zip(steps, before, after))[: 4 if op.kind == "SLICE" else 3]:
            if stride < 1 or not 0 <= first <= first + (made - 1) * stride < size:
                return "it takes elements backwards, or some that are not there: tflite-runtime reads past its map's end"
        return None

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        (y, down), (x, right) = self.steps(graph, op)[1:3]
        y0, x0 = y + out.y0 * down, x + out.x0 * right
        return {0: Region(y0, x0, y0 + (out.height - 1) * down + 1, x0 + (out.width - 1) * right + 1)}

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        begins, ends, *strides = (emitter.source.tensors[t].array().reshape(-1).copy() for t in op.inputs[1:])
        begins[:3] = 0  # a tile has what is needed alone
        ends[:3] = (1, out.height, out.width) if op.kind == "SLICE" else emitter.tensors[given[0]].shape[:3]
        inputs = (emitter.literal(f"slice{len(emitter.ops)}/{i}", v) for i, v in enumerate((begins, ends, *strides)))
        masks = {} if op.kind == "SLICE" else {name: op.option(name) & 8 for name in ("begin_mask", "end_mask")}
        made = replace(op, inputs=(given[0], *inputs), outputs=tuple(outputs), options={**op.options, **masks})
        emitter.ops.append(made)


class BlocksRule(Rule):
    """SPACE_TO_DEPTH and DEPTH_TO_SPACE: one pixel and a block of pixels."""

    map_slot = 0

    def factor(self, op: Op) -> int:
        """Output pixels per input pixel, or minus input pixels per output pixel."""
        size = int(op.option("block_size"))
        return -size if op.kind == "SPACE_TO_DEPTH" else size

    def blocker(self, graph: Graph, op: Op) -> str | None:
        if int(op.option("block_size")) < 1:
            return "its block is empty"
        small, large = op.inputs[0], op.outputs[0]
        factor = self.factor(op)
        if factor < 0:
            factor, small, large = -factor, large, small
        (height, width), whole = (graph.tensors[t].shape[1:3] for t in (small, large))
        return None if whole == (height * factor, width * factor) else "its block does not divide it"

    def grow(self, graph: Graph, op: Op, out: Region) -> Region:
        f = self.factor(op)
        if f < 0:
            return out
        return Region(out.y0 // f * f, out.x0 // f * f, -(-out.y1 // f) * f, -(-out.x1 // f) * f)

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        f = self.factor(op)
        return {0: Region(*(v // f if f > 0 else v * -f for v in out))}


class MovesRule(Rule):
    """A chain of operators that only move elements: see ``models.graph.permutations``. A tile gathers what it needs."""

    by_axis = False

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        return {0: op.options["movement"].needs(out)}

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        movement, data, axis = op.options["movement"], given[0], 3
        indices = movement.shuffled
        if indices is None:
            indices, axis, like, unit = movement.within(out), 0, emitter.tensors[data], movement.unit
            size = np.array([prod(like.shape)] if unit == 1 else [prod(like.shape) // unit, unit], np.int32)
            flat = emitter.tensor(replace(like, name=f"{like.name}/flat{len(emitter.ops)}", shape=tuple(size.tolist())))
            data = emitter.op("RESHAPE", [data, emitter.literal("flat", size)], flat, "Reshape", new_shape=size)
            indices = (indices if unit == 1 else indices[..., 0])[None]
        name = f"moves/{digest(indices.tobytes())}"  # tiles of one class have the same
        emitter.op("GATHER", [data, emitter.literal(name, indices)], outputs[0], "Gather", axis=axis)
