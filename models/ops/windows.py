"""Operators whose kernel slides over the map: convolutions and pools.

Equations (1) and (2) of DeepThings (2018), generalised to any kernel, stride, dilation and padding: output rows ``[a, b)``
of a window operator need input rows ``[a*s - p, (b-1)*s - p + (k-1)*d + 1)``, clipped to the map; what was clipped is
padding at a true image border and is the only padding that a tile's graph holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from models.graph import Graph, Op
from models.ops.rule import SAME, VALID, Emitter, Needs, Rule
from schemas.plan import Region


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

    def is_same(self, size: int, out: int, padding: tuple[int, int]) -> bool:
        """Whether SAME padding of an input of ``size`` is exactly ``padding``.

        tflite-runtime 2.14 computes SAME wrongly where the stride is larger than the kernel.
        """
        total = max((out - 1) * self.stride + self.reach - size, 0)
        return self.stride <= self.kernel and -(-size // self.stride) == out and padding == (total // 2, total - total // 2)


def _window(kernel: int, stride: int, dilation: int, padding: int, size: int, out: int) -> Window:
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0) if padding == SAME else 0
    return Window(kernel, stride, dilation, total // 2, size)


@dataclass(frozen=True)
class WindowRule(Rule):
    """Convolutions and pools: a kernel that slides over the map."""

    pad_with_minimum: bool = False

    def kernel(self, graph: Graph, op: Op) -> tuple[int, int]:
        return int(op.option("filter_height")), int(op.option("filter_width"))

    def windows(self, graph: Graph, op: Op) -> tuple[Window, Window]:
        _, height, width, _ = graph.tensors[op.inputs[0]].shape
        _, out_height, out_width, _ = graph.tensors[op.outputs[0]].shape
        kernel, padding = self.kernel(graph, op), int(op.option("padding"))
        return (
            _window(kernel[0], op.option("stride_h"), op.option("dilation_h_factor") or 1, padding, height, out_height),
            _window(kernel[1], op.option("stride_w"), op.option("dilation_w_factor") or 1, padding, width, out_width),
        )

    def blocker(self, graph: Graph, op: Op) -> str | None:
        for window, out in zip(self.windows(graph, op), graph.tensors[op.outputs[0]].shape[1:3]):
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
                data = self.pad(emitter, op.inputs[0], data, rows, cols)
        inputs = (data, *(emitter.constant(t) for t in op.inputs[1:]))
        emitter.ops.append(
            replace(op, inputs=inputs, outputs=tuple(outputs), options={**op.options, "padding": padding})
        )

    def pad(self, emitter: Emitter, source: int, data: int, rows: tuple[int, int], cols: tuple[int, int]) -> int:
        like = emitter.tensors[data]
        shape = (like.shape[0], like.shape[1] + sum(rows), like.shape[2] + sum(cols), like.shape[3])
        padded = emitter.tensor(replace(like, name=f"{like.name}/pad{len(emitter.ops)}", shape=shape))
        widths = emitter.literal(like.name + "/pads", np.array([(0, 0), rows, cols, (0, 0)], np.int32))
        if not self.pad_with_minimum:
            return emitter.op("PAD", [data, widths], padded, "Pad")
        dtype = np.dtype(like.dtype)
        lowest = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
        value = emitter.literal(like.name + "/lowest", np.array([lowest], dtype), like.quantization)
        return emitter.op("PADV2", [data, widths, value], padded, "PadV2")


class ConvRule(WindowRule):
    """CONV_2D and DEPTHWISE_CONV_2D."""

    def kernel(self, graph: Graph, op: Op) -> tuple[int, int]:
        _, height, width, _ = graph.tensors[op.inputs[1]].shape
        return height, width

    def blocker(self, graph: Graph, op: Op) -> str | None:
        weights, data = graph.tensors[op.inputs[1]], graph.tensors[op.inputs[0]]
        if len(weights.shape) != 4:
            return f"its weights have shape {weights.shape}"
        if data.dtype == "float32" and weights.dtype != "float32":
            return "dynamic-range quantization scales by the whole map's extremes"
        if data.dtype == "float32" and op.option("padding") == SAME and self.kernel(graph, op) != (1, 1):
            for window, out in zip(self.windows(graph, op), graph.tensors[op.outputs[0]].shape[1:3]):
                if window.span(out - 1, out)[1] < window.size:
                    return "its kernel is smaller than its stride: tflite-runtime's SAME padding of it is wrong"
        return super().blocker(graph, op)

    def grow(self, graph: Graph, op: Op, out: Region) -> Region:
        """Of one pixel XNNPACK makes a float convolution by another kernel on Arm, which sums in another order."""
        is_float = graph.tensors[op.inputs[0]].dtype == "float32"
        return _two_pixels(graph, op, out) if op.kind == "CONV_2D" and is_float else out

    def flops(self, graph: Graph, op: Op) -> float:
        shape = graph.tensors[op.inputs[1]].shape if len(op.inputs) > 1 else ()
        if len(shape) != 4:  # one that no runtime takes
            return super().flops(graph, op)
        _, height, width, depth = shape
        channels = graph.tensors[op.outputs[0]].shape[3]
        return 2.0 * height * width * channels * (depth if op.kind == "CONV_2D" else 1)


class PoolRule(WindowRule):
    """MAX_POOL_2D and AVERAGE_POOL_2D."""

    def blocker(self, graph: Graph, op: Op) -> str | None:
        if op.kind == "AVERAGE_POOL_2D":
            for window, out in zip(self.windows(graph, op), graph.tensors[op.outputs[0]].shape[1:3]):
                if window.padding(0, out) != (0, 0):
                    return "SAME average-pool with partial windows: its divisor changes at the border"
            maps = [graph.tensors[t].shape[1:3] for t in (op.inputs[0], op.outputs[0])]
            if maps[1] == (1, 1) and maps[0] != self.kernel(graph, op):
                return "its only window leaves pixels over: without them tflite-runtime sums in another order"
        return super().blocker(graph, op)

    def grow(self, graph: Graph, op: Op, out: Region) -> Region:
        """A window as large as its input is a global average to tflite-runtime, whose kernel sums in another order."""
        return _two_pixels(graph, op, out) if op.kind == "AVERAGE_POOL_2D" else out

    def flops(self, graph: Graph, op: Op) -> float:
        height, width = self.kernel(graph, op)
        return float(height * width * graph.tensors[op.outputs[0]].shape[3])


def _two_pixels(graph: Graph, op: Op, out: Region) -> Region:
    """``out``, or two pixels around it where it is one of a larger map."""
    _, height, width, _ = graph.tensors[op.outputs[0]].shape
    if (out.height, out.width) != (1, 1) or (height, width) == (1, 1):
        return out
    if width > 1:
        x0 = min(out.x0, width - 2)
        return Region(out.y0, x0, out.y1, x0 + 2)
    y0 = min(out.y0, height - 2)
    return Region(y0, out.x0, y0 + 2, out.x1)
