"""Operators whose kernel slides over the map: convolutions and pools.

Equations (1) and (2) of DeepThings (2018), generalised to any kernel, stride, dilation and padding: output rows ``[a, b)``
of a window operator need input rows ``[a*s - p, (b-1)*s - p + (k-1)*d + 1)``, clipped to the map; what was clipped is
padding at a true image border and is the only padding that a tile's graph holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import numpy as np

from models.graph.file import Graph, Op, Tensor
from models.graph.ops.rule import DYNAMIC_RANGE, SAME, VALID, Emitter, Needs, Rule, depth, two_pixels
from schemas.contract.plan import Region


class Window(NamedTuple):
    """One axis of a window operator; sizes in elements."""

    kernel: int
    stride: int
    dilation: int
    pad: int
    size: int

    @property
    def reach(self) -> int:
        return (self.kernel - 1) * self.dilation + 1

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Input interval of output interval ``[start, stop)``, not clipped: eq. (1) and (2)."""
        low = start * self.stride - self.pad
        return low, low + (stop - start - 1) * self.stride + self.reach

    def clipped(self, start: int, stop: int) -> tuple[int, int]:
        low, high = self.span(start, stop)
        return max(low, 0), min(high, self.size)

    def padding(self, start: int, stop: int) -> tuple[int, int]:
        low, high = self.span(start, stop)
        return max(-low, 0), max(high - self.size, 0)

    def touching(self, start: int, stop: int, out: int) -> tuple[int, int]:
        """The outputs, of ``out``, whose windows touch the input interval."""
        return max(-((self.reach - 1 - start - self.pad) // self.stride), 0), min((stop - 1 + self.pad) // self.stride + 1, out)

    def bordered(self, start: int, stop: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """An input interval whose own SAME padding is the map's, and the outputs that it makes.

        It begins at a multiple of the stride and ends a multiple of the stride before the map's end.
        """
        low, high = self.clipped(start, stop)
        low, high = low // self.stride * self.stride, self.size - (self.size - high) // self.stride * self.stride
        return (low, high), (low // self.stride, -(-high // self.stride))

    def is_same(self, size: int, out: int, padding: tuple[int, int]) -> bool:
        """Whether SAME padding of an input of ``size`` is exactly ``padding``.

        tflite-runtime 2.14 computes SAME wrongly where the stride is larger than the kernel.
        """
        total = max((out - 1) * self.stride + self.reach - size, 0)
        return self.stride <= self.kernel and -(-size // self.stride) == out and padding == (total // 2, total - total // 2)


def window_of(kernel: int, stride: int, dilation: int, padding: int, size: int, out: int) -> Window:
    """The window along an axis of an input of ``size`` and an output of ``out``."""
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0) if padding == SAME else 0
    return Window(kernel, stride, dilation, total // 2, size)


@dataclass(frozen=True)
class WindowRule(Rule):
    """Convolutions and pools: a kernel that slides over the map."""

    map_slot = 0
    pad_with_minimum: bool = False

    def kernel(self, graph: Graph, op: Op) -> tuple[int, int]:
        return int(op.option("filter_height")), int(op.option("filter_width"))

    def windows(self, graph: Graph, op: Op) -> tuple[Window, Window]:
        _, height, width, _ = graph.tensors[op.inputs[0]].shape
        _, out_height, out_width, _ = graph.tensors[op.outputs[0]].shape
        kernel, padding = self.kernel(graph, op), int(op.option("padding"))
        return (
            window_of(kernel[0], op.option("stride_h"), op.option("dilation_h_factor") or 1, padding, height, out_height),
            window_of(kernel[1], op.option("stride_w"), op.option("dilation_w_factor") or 1, padding, width, out_width),
        )

    def axes(self, graph: Graph, op: Op) -> tuple[Window, ...]:
        """Those along which the kernel slides."""
        return self.windows(graph, op)

    def blocker(self, graph: Graph, op: Op) -> str | None:
        for window, out in zip(self.axes(graph, op), graph.tensors[op.outputs[0]].shape[1:-1]):
            if min(window.kernel, window.stride, window.dilation, out) < 1:
                return "its kernel, stride, dilation or output is empty"
            low, high = window.span(out - 1, out)
            if low >= window.size or (op.option("padding") == VALID and high > window.size):
                return "its shape does not follow from its window"
        return None

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        vertical, horizontal = self.windows(graph, op)
        y0, y1 = vertical.clipped(out.y0, out.y1)
        x0, x1 = horizontal.clipped(out.x0, out.x1)
        return {0: Region(y0, x0, y1, x1)}

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        vertical, horizontal = self.windows(emitter.source, op)
        rows, cols = vertical.padding(out.y0, out.y1), horizontal.padding(out.x0, out.x1)
        data, padding = given[0], VALID
        if rows != (0, 0) or cols != (0, 0):
            _, height, width, _ = emitter.tensors[data].shape
            if vertical.is_same(height, out.height, rows) and horizontal.is_same(width, out.width, cols):
                padding = SAME
            else:
                data = emitter.pad(data, rows, cols, lowest=self.pad_with_minimum)
        inputs = (data, *(emitter.constant(t) for t in op.inputs[1:]))
        emitter.ops.append(
            replace(op, inputs=inputs, outputs=tuple(outputs), options={**op.options, "padding": padding})
        )


def _weights_blocker(weights: Tensor, data: Tensor) -> str | None:
    """Why no tile can be computed with these weights; None: it can."""
    if len(weights.shape) != 4:
        return f"its weights have shape {weights.shape}"
    if data.dtype == "float32" and weights.dtype != "float32":
        return DYNAMIC_RANGE
    return None


class ConvRule(WindowRule):
    """CONV_2D and DEPTHWISE_CONV_2D."""

    def kernel(self, graph: Graph, op: Op) -> tuple[int, int]:
        _, height, width, _ = graph.tensors[op.inputs[1]].shape
        return height, width

    def blocker(self, graph: Graph, op: Op) -> str | None:
        data = graph.tensors[op.inputs[0]]
        if reason := _weights_blocker(graph.tensors[op.inputs[1]], data):
            return reason
        if data.dtype == "float32" and op.option("padding") == SAME and self.kernel(graph, op) != (1, 1):
            for window, out in zip(self.windows(graph, op), graph.tensors[op.outputs[0]].shape[1:3]):
                if window.span(out - 1, out)[1] < window.size:
                    return "its kernel is smaller than its stride: tflite-runtime's SAME padding of it is wrong"
        return super().blocker(graph, op)

    def grow(self, graph: Graph, op: Op, out: Region) -> Region:
        """Of one pixel XNNPACK makes a float convolution by another kernel on Arm, which sums in another order."""
        is_float = graph.tensors[op.inputs[0]].dtype == "float32"
        return two_pixels(graph, op, out) if op.kind == "CONV_2D" and is_float else out

    def flops(self, graph: Graph, op: Op) -> float:
        shape = graph.tensors[op.inputs[1]].shape if len(op.inputs) > 1 else ()
        if len(shape) != 4:  # one that no runtime takes
            return super().flops(graph, op)
        _, height, width, channels = shape
        return 2.0 * height * width * depth(graph.tensors[op.outputs[0]].shape) * (channels if op.kind == "CONV_2D" else 1)


class PoolRule(WindowRule):
    """MAX_POOL_2D and AVERAGE_POOL_2D.

    The divisor of an average with partial windows changes at the border. Such a tile takes more, so that its own SAME
    padding is the map's, and drops what its inner borders spoil.
    """

    def is_partial(self, graph: Graph, op: Op) -> bool:
        """Whether it averages windows that leave the map."""
        sizes = graph.tensors[op.outputs[0]].shape[1:3]
        windows = zip(self.windows(graph, op), sizes)
        return op.kind == "AVERAGE_POOL_2D" and any(window.padding(0, out) != (0, 0) for window, out in windows)

    def blocker(self, graph: Graph, op: Op) -> str | None:
        if op.kind == "AVERAGE_POOL_2D":
            if self.is_partial(graph, op) and any(w.stride > w.kernel for w in self.windows(graph, op)):
                return "its kernel is smaller than its stride: tflite-runtime's SAME padding of it is wrong"
            maps = [graph.tensors[t].shape[1:3] for t in (op.inputs[0], op.outputs[0])]
            if maps[1] == (1, 1) and maps[0] != self.kernel(graph, op):
                return "its only window leaves pixels over: without them tflite-runtime sums in another order"
        return super().blocker(graph, op)

    def grow(self, graph: Graph, op: Op, out: Region) -> Region:
        """A window as large as its input is a global average to tflite-runtime, whose kernel sums in another order."""
        return two_pixels(graph, op, out) if op.kind == "AVERAGE_POOL_2D" else out

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        if not self.is_partial(graph, op):
            return super().needs(graph, op, out)
        vertical, horizontal = self.windows(graph, op)
        ((y0, y1), _), ((x0, x1), _) = vertical.bordered(out.y0, out.y1), horizontal.bordered(out.x0, out.x1)
        return {0: Region(y0, x0, y1, x1)}

    def computed(self, graph: Graph, op: Op, out: Region) -> Region:
        if not self.is_partial(graph, op):
            return out
        vertical, horizontal = self.windows(graph, op)
        (_, (y0, y1)), (_, (x0, x1)) = vertical.bordered(out.y0, out.y1), horizontal.bordered(out.x0, out.x1)
        return Region(y0, x0, y1, x1)

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        if not self.is_partial(emitter.source, op):
            super().emit(emitter, op, out, given, outputs)
            return
        made = self.computed(emitter.source, op, out)
        pooled = emitter.larger(op.outputs[0], made, out, outputs[0])
        emitter.ops.append(replace(op, inputs=(given[0],), outputs=(pooled,)))
        emitter.crop(pooled, op.outputs[0], out, made, outputs[0])

    def flops(self, graph: Graph, op: Op) -> float:
        height, width = self.kernel(graph, op)
        return float(height * width * depth(graph.tensors[op.outputs[0]].shape))


class TransposeConvRule(Rule):
    """TRANSPOSE_CONV: its window slides over the output, and every input pixel adds to what it covers.

    A tile computes all that its input pixels cover, without padding, and takes its own part out.
    """

    map_slot = 2

    def windows(self, graph: Graph, op: Op) -> tuple[Window, Window]:
        _, *kernel, _ = graph.tensors[op.inputs[1]].shape
        _, *given, _ = graph.tensors[op.inputs[2]].shape
        _, *made, _ = graph.tensors[op.outputs[0]].shape
        strides, padding = (op.option("stride_h"), op.option("stride_w")), int(op.option("padding"))
        vertical, horizontal = (
            window_of(k, s, 1, padding, size, out) for k, s, size, out in zip(kernel, strides, made, given)
        )
        return vertical, horizontal

    def blocker(self, graph: Graph, op: Op) -> str | None:
        data = graph.tensors[op.inputs[2]]
        if reason := _weights_blocker(graph.tensors[op.inputs[1]], data):
            return reason
        for window, given in zip(self.windows(graph, op), data.shape[1:3]):
            if not 1 <= window.stride <= window.kernel:
                return "its kernel is smaller than its stride: no input reaches some of its outputs"
            is_same, end = op.option("padding") == SAME, window.span(given - 1, given)[1]
            if window.size != end if not is_same else window.size > end or given != -(-window.size // window.stride):
                return "its shape does not follow from its window"
        return None

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        vertical, horizontal = self.windows(graph, op)
        _, height, width, _ = graph.tensors[op.inputs[2]].shape
        (y0, y1), (x0, x1) = vertical.touching(out.y0, out.y1, height), horizontal.touching(out.x0, out.x1, width)
        return {2: Region(y0, x0, y1, x1)}

    def flops(self, graph: Graph, op: Op) -> float:
        shape, given = (graph.tensors[t].shape for t in op.inputs[1:3]) if len(op.inputs) > 2 else ((), ())
        if (len(shape), len(given)) != (4, 4):  # one that no runtime takes
            return super().flops(graph, op)
        made = graph.tensors[op.outputs[0]].shape
        return 2.0 * prod(shape) * given[1] * given[2] / max(made[1] * made[2], 1)

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        vertical, horizontal = self.windows(emitter.source, op)
        need = self.needs(emitter.source, op, out)[2]
        (y0, y1), (x0, x1) = vertical.span(need.y0, need.y1), horizontal.span(need.x0, need.x1)
        made = Region(y0, x0, y1, x1)
        like = emitter.source.tensors[op.outputs[0]].shape
        size = emitter.literal(f"size{len(emitter.ops)}", np.array([like[0], made.height, made.width, like[3]], np.int32))
        inputs = (size, emitter.constant(op.inputs[1]), given[2], *(emitter.constant(t) for t in op.inputs[3:]))
        covered = emitter.larger(op.outputs[0], made, out, outputs[0])
        emitter.ops.append(replace(op, inputs=inputs, outputs=(covered,), options={**op.options, "padding": VALID}))
        emitter.crop(covered, op.outputs[0], out, made, outputs[0])
