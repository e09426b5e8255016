"""Operators that only move elements: borders, channels, blocks of pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from models.graph import Graph, Op
from models.ops.rule import Emitter, Needs, Rule
from schemas.plan import Region, digest


class PadRule(Rule):
    """PAD and PADV2 of the map's borders (and channels)."""

    def widths(self, graph: Graph, op: Op) -> np.ndarray:
        return graph.tensors[op.inputs[1]].array().astype(np.int64)

    def blocker(self, graph: Graph, op: Op) -> str | None:
        given = graph.tensors[op.inputs[1]]
        if given.data is None or given.shape != (4, 2) or given.dtype not in ("int32", "int64"):
            return "its widths are not constant"
        widths = self.widths(graph, op)
        if widths[0].any() or (widths < 0).any():
            return "it pads the batch"
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


class BlocksRule(Rule):
    """SPACE_TO_DEPTH, DEPTH_TO_SPACE and RESIZE_NEAREST_NEIGHBOR by a power of two: one pixel and a block of pixels."""

    def factor(self, graph: Graph, op: Op) -> int:
        """Output pixels per input pixel, or minus input pixels per output pixel."""
        if op.kind == "SPACE_TO_DEPTH":
            return -int(op.option("block_size"))
        if op.kind == "DEPTH_TO_SPACE":
            return int(op.option("block_size"))
        return graph.tensors[op.outputs[0]].shape[1] // graph.tensors[op.inputs[0]].shape[1]

    def blocker(self, graph: Graph, op: Op) -> str | None:
        if op.kind != "RESIZE_NEAREST_NEIGHBOR" and int(op.option("block_size")) < 1:
            return "its block is empty"
        _, height, width, _ = graph.tensors[op.inputs[0]].shape
        _, out_height, out_width, _ = graph.tensors[op.outputs[0]].shape
        factor = self.factor(graph, op)
        if factor < 0:
            return None if (height, width) == (out_height * -factor, out_width * -factor) else "its block does not divide it"
        if op.kind == "DEPTH_TO_SPACE":
            return None if (out_height, out_width) == (height * factor, width * factor) else "its shape is another"
        if factor not in (2, 4, 8) or (out_height, out_width) != (height * factor, width * factor):
            return "it resizes by other than 2, 4 or 8"
        if op.option("align_corners"):
            return "it aligns corners: its positions depend on the whole map"
        return None

    def grow(self, graph: Graph, op: Op, out: Region) -> Region:
        f = self.factor(graph, op)
        if f < 0:
            return out
        return Region(out.y0 // f * f, out.x0 // f * f, -(-out.y1 // f) * f, -(-out.x1 // f) * f)

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        f = self.factor(graph, op)
        scaled = [v // f for v in out] if f > 0 else [v * -f for v in out]
        return {0: Region(*scaled)}

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        inputs: tuple[int, ...] = (given[0],)
        if op.kind == "RESIZE_NEAREST_NEIGHBOR":
            inputs += (emitter.literal(f"size{len(emitter.ops)}", np.array([out.height, out.width], np.int32)),)
        emitter.ops.append(replace(op, inputs=inputs, outputs=tuple(outputs)))


class MovesRule(Rule):
    """A chain of operators that only move elements: see ``models.moves``. A tile gathers what it needs."""

    by_axis = False

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        return {0: op.options["movement"].needs(out)}

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        movement, data, axis = op.options["movement"], given[0], 3
        indices = movement.shuffled
        if indices is None:
            indices, axis = movement.within(out)[None], 0
            like = emitter.tensors[data]
            size = np.array([prod(like.shape)], np.int32)
            flat = emitter.tensor(replace(like, name=f"{like.name}/flat{len(emitter.ops)}", shape=(int(size[0]),)))
            data = emitter.op("RESHAPE", [data, emitter.literal("flat", size)], flat, "Reshape", new_shape=size)
        name = f"moves/{digest(indices.tobytes())}"  # tiles of one class have the same
        emitter.op("GATHER", [data, emitter.literal(name, indices)], outputs[0], "Gather", axis=axis)
