"""RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR in all their conventions of corners.

A tile computes with its own coordinates, and they must round as the map's do. Where the scale is p/q and q a power of two,
or an integer factor, that holds for tiles which begin at multiples of p rows. Elsewhere the tile is padded to the whole
map's size along that axis, resized, and what it needs is taken out: exact at any scale, for the price of a whole resize.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor, gcd
from typing import NamedTuple

import numpy as np

from models.graph.file import Graph, Op
from models.graph.ops.rule import Emitter, Needs, Rule
from schemas.contract.plan import Region

_FIXED_POINT = 2**16  # builtin kernels of nearest neighbours count in parts of it


class Axis(NamedTuple):
    """One axis of a resize; sizes in elements. Corners are aligned, or pixels' centres are, or their first edges."""

    size: int
    made: int
    corners: bool
    centers: bool
    nearest: bool

    @property
    def steps(self) -> tuple[int, int]:
        """p and q: p steps of the input are q of the output."""
        both = (self.size - 1, self.made - 1) if self.corners and self.made > 1 else (self.size, self.made)
        divisor = gcd(*both)
        return both[0] // divisor, both[1] // divisor

    @property
    def is_cropped(self) -> bool:
        """Whether a tile of a part of the input gives the same bits."""
        p, q = self.steps
        if self.nearest:
            return not self.corners and (q == 1 or (p == 1 and self._rounds_alike(q)))
        return q & (q - 1) == 0 and p > 0 and not (self.corners and self.made == 1)

    def _rounds_alike(self, factor: int) -> bool:
        """Whether each output finds its input in every kernel: in fixed point, and in float32 without centres."""
        outputs = np.arange(self.made)
        found = np.floor(outputs.astype(np.float32) * (np.float32(self.size) / np.float32(self.made)))
        return self.made * factor < _FIXED_POINT and (self.centers or np.array_equal(found, outputs // factor))

    def place(self, output: int) -> float:
        """Where an output lies in the input."""
        p, q = self.steps
        return (output + 0.5) * p / q - 0.5 if self.centers and not self.corners else output * p / q

    def spans(self, start: int, stop: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """For outputs ``[start, stop)``: the input that they need, that which is resized, and what that makes."""
        (p, q), more = self.steps, int(self.corners)
        low, high = max(floor(self.place(start)), 0), min(floor(self.place(stop - 1)) + 2, self.size)
        if not self.is_cropped:  # one more: kernels round what lies on a pixel to one side or the other
            return (max(low - 1, 0), min(high + 1, self.size)), (0, self.size), (0, self.made)
        first, last = start // q, -((more - stop) // q)
        if not self.nearest:
            first, last = min(first, low // p, (self.size - more) // p - 1), max(last, -((more - high) // p))
        given, made = (first * p, last * p + more), (first * q, last * q + more)
        return given, given, made


class ResizeRule(Rule):
    """See the module's text."""

    map_slot = 0

    def axes(self, graph: Graph, op: Op) -> tuple[Axis, Axis]:
        before, after = (graph.tensors[t].shape for t in (op.inputs[0], op.outputs[0]))
        corners, centers = bool(op.option("align_corners")), bool(op.option("half_pixel_centers"))
        nearest = op.kind == "RESIZE_NEAREST_NEIGHBOR"
        return Axis(before[1], after[1], corners, centers, nearest), Axis(before[2], after[2], corners, centers, nearest)

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        vertical, horizontal = self.axes(graph, op)
        (y0, y1), (x0, x1) = vertical.spans(out.y0, out.y1)[0], horizontal.spans(out.x0, out.x1)[0]
        return {0: Region(y0, x0, y1, x1)}

    def computed(self, graph: Graph, op: Op, out: Region) -> Region:
        vertical, horizontal = self.axes(graph, op)
        (y0, y1), (x0, x1) = vertical.spans(out.y0, out.y1)[2], horizontal.spans(out.x0, out.x1)[2]
        return Region(y0, x0, y1, x1)

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        vertical, horizontal = self.axes(emitter.source, op)
        has, made = self.needs(emitter.source, op, out)[0], self.computed(emitter.source, op, out)
        (y0, y1), (x0, x1) = vertical.spans(out.y0, out.y1)[1], horizontal.spans(out.x0, out.x1)[1]
        data = emitter.pad(given[0], (has.y0 - y0, y1 - has.y1), (has.x0 - x0, x1 - has.x1))
        size = emitter.literal(f"size{len(emitter.ops)}", np.array([made.height, made.width], np.int32))
        resized = emitter.larger(op.outputs[0], made, out, outputs[0])
        emitter.ops.append(replace(op, inputs=(data, size), outputs=(resized,)))
        emitter.crop(resized, op.outputs[0], out, made, outputs[0])
