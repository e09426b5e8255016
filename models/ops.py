"""One rule per operator: which region of its inputs an output region needs, and the operator that computes just that.

Equations (1) and (2) of DeepThings (2018), generalised to any kernel, stride, dilation and padding: output rows ``[a, b)``
of a window operator need input rows ``[a*s - p, (b-1)*s - p + (k-1)*d + 1)``, clipped to the map; what was clipped is
padding at a true image border and is the only padding that a tile's graph holds. A rule that cannot keep the result
bit for bit says why in ``blocker``, and the operator stays in the tail.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from models.graph import MOVES, Graph, Op, Quantization, Tensor
from models.tflite_schema import OPTIONS
from schemas.plan import MAPS, Region, digest

SAME, VALID = 0, 1
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

    def crop(self, tensor: int, source: int, inner: Region, outer: Region) -> int:
        """``inner`` of a local tensor that holds ``outer`` of ``source``."""
        if inner == outer:
            return tensor
        begin = np.array([0, inner.y0 - outer.y0, inner.x0 - outer.x0, 0], np.int32)
        size = np.array([-1, inner.height, inner.width, -1], np.int32)
        name = self.source.tensors[source].name
        given = [tensor, self.literal(name + "/begin", begin), self.literal(name + "/size", size)]
        return self.op("SLICE", given, self.local(source, inner, f"/crop{len(self.ops)}"), "Slice")


class Rule:
    """How one kind of operator is tiled. Regions are of the full maps; all outputs of an operator share one region."""

    def blocker(self, graph: Graph, op: Op) -> str | None:
        """Why this operator cannot be tiled exactly, or None."""
        return None

    def grow(self, graph: Graph, op: Op, out: Region) -> Region:
        """The smallest region around ``out`` that can be computed at all."""
        return out

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        """The region of each data input that ``out`` needs."""
        return {slot: out for slot, t in enumerate(op.inputs) if t >= 0 and t not in graph.constant}

    def flops(self, graph: Graph, op: Op) -> float:
        """Floating point (or integer) operations for one element of the output map, over all channels."""
        return float(graph.tensors[op.outputs[0]].shape[-1])

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        """Adds the operator; ``given`` holds the local tensor of each data input, cropped to what it needs."""
        inputs = tuple(given[s] if s in given else emitter.constant(t) for s, t in enumerate(op.inputs))
        emitter.ops.append(replace(op, inputs=inputs, outputs=tuple(outputs)))


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
        _, height, width, _ = graph.tensors[op.outputs[0]].shape
        if op.kind != "AVERAGE_POOL_2D" or (out.height, out.width) != (1, 1) or (height, width) == (1, 1):
            return out
        if width > 1:
            x0 = min(out.x0, width - 2)
            return Region(out.y0, x0, out.y1, x0 + 2)
        y0 = min(out.y0, height - 2)
        return Region(y0, out.x0, y0 + 2, out.x1)

    def flops(self, graph: Graph, op: Op) -> float:
        height, width = self.kernel(graph, op)
        return float(height * width * graph.tensors[op.outputs[0]].shape[3])


class ElementwiseRule(Rule):
    """Element by element; constant operands are broadcast, or cropped where they cover the map."""

    def blocker(self, graph: Graph, op: Op) -> str | None:
        out = graph.tensors[op.outputs[0]].shape
        if op.kind == "PRELU" and graph.tensors[op.inputs[-1]].shape[-1:] != out[3:]:
            return "its slopes are not one per channel: tflite-runtime reads past their end"
        if op.kind == "QUANTIZE" and _changes_sign_and_scale(graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]):
            return "between int8 and uint8 of other scales ai-edge-litert rounds by where an element lies"
        if op.kind == "MUL" and len(set(op.inputs)) == 1 and graph.tensors[op.outputs[0]].dtype != "float32":
            return "the square of a quantized map: ai-edge-litert's rounding depends on the operators around it"
        if op.kind in ("ADD", "SUB", "MUL") and _overflows(graph, op):
            return "its scales are 128 times its output's: the kernel that takes over from XNNPACK is not exact"
        for t in op.inputs:
            shape = graph.tensors[t].shape if t >= 0 else ()
            if t >= 0 and t not in graph.constant and shape[1:3] != out[1:3]:
                return "it broadcasts one map over another"
            if t in graph.constant and graph.tensors[t].data is None and max(_map_axes(shape)) > 1:
                return "it joins the map with a constant that is computed"
            if t in graph.constant and graph.tensors[t].dtype not in MAPS:
                return f"it joins the map with a constant of {graph.tensors[t].dtype}"
        return None

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        inputs = [given[s] if s in given else self._constant(emitter, t, out) for s, t in enumerate(op.inputs)]
        emitter.ops.append(replace(op, inputs=tuple(inputs), outputs=tuple(outputs)))

    def _constant(self, emitter: Emitter, source: int, out: Region) -> int:
        tensor = emitter.source.tensors[source]
        height, width = _map_axes(tensor.shape)
        if height == 1 and width == 1:
            return emitter.constant(source)
        rows = slice(out.y0, out.y1) if height > 1 else slice(None)
        cols = slice(out.x0, out.x1) if width > 1 else slice(None)
        part = tensor.array()[..., rows, cols, :] if height > 1 or len(tensor.shape) > 2 else tensor.array()[cols, :]
        return emitter.literal(f"{tensor.name}/{out}", part, tensor.quantization)


def _changes_sign_and_scale(given: Tensor, made: Tensor) -> bool:
    """Equal scales need no rounding: that is how an int8 model takes a uint8 image."""
    scales = [t.quantization.scale if t.quantization else () for t in (given, made)]
    return {given.dtype, made.dtype} == {"int8", "uint8"} and scales[0] != scales[1]


def _overflows(graph: Graph, op: Op) -> bool:
    specs = [graph.tensors[t].quantization for t in (*op.inputs, *op.outputs)]
    *given, made = (spec.scale[0] if spec else 1.0 for spec in specs)
    return (float(np.prod(given)) if op.kind == "MUL" else max(given)) >= 128 * made


def _map_axes(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an operand that is broadcast against NHWC."""
    padded = (1, 1, 1, *shape)
    return padded[-3], padded[-2]


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


_ELEMENTWISE = (
    "ADD SUB MUL DIV MINIMUM MAXIMUM SQUARED_DIFFERENCE RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 LEAKY_RELU PRELU LOGISTIC TANH "
    "HARD_SWISH ELU ABS NEG SQUARE SQRT RSQRT EXP LOG FLOOR CEIL ROUND QUANTIZE DEQUANTIZE CAST"
).split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, ElementwiseRule()),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), ConvRule()),
    "MAX_POOL_2D": PoolRule(pad_with_minimum=True),
    "AVERAGE_POOL_2D": PoolRule(),
    **dict.fromkeys(("PAD", "PADV2"), PadRule()),
    "CONCATENATION": ConcatRule(),
    **dict.fromkeys(("SPLIT", "SPLIT_V"), SplitRule()),
    MOVES: MovesRule(),
    **dict.fromkeys(("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "RESIZE_NEAREST_NEIGHBOR"), BlocksRule()),
}


_FEWEST_INPUTS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "PAD": 2, "PADV2": 3, "SPLIT": 2, "SPLIT_V": 3}
_LAST_CLAMP = 3  # ActivationFunctionType: NONE, RELU, RELU_N1_TO_1, RELU6, then TANH and SIGN_BIT


def blocker(graph: Graph, op: Op) -> str | None:
    """Why ``op`` cannot be tiled bit for bit, or None."""
    rule = RULES.get(op.kind)
    if rule is None:
        return "no rule can tile it"
    if not op.outputs or len(op.inputs) < _FEWEST_INPUTS.get(op.kind, 1) or min(op.inputs[:2]) < 0:
        return "inputs or outputs are missing"
    if op.option("fused_activation_function") > _LAST_CLAMP:
        return "its fused activation is more than a clamp: other kernels than XNNPACK's compute it"
    for t in (*graph.data_inputs(op), *op.outputs):
        if len(graph.tensors[t].shape) != 4:
            return f"tensor {graph.tensors[t].name!r} of shape {graph.tensors[t].shape} is no NHWC map"
        if min(graph.tensors[t].shape) < 1:
            return f"tensor {graph.tensors[t].name!r} of shape {graph.tensors[t].shape} is empty"
        if graph.tensors[t].dtype not in MAPS:
            return f"tensor {graph.tensors[t].name!r} is {graph.tensors[t].dtype}: only {', '.join(MAPS)} are exact"
    if isinstance(rule, (WindowRule, PadRule, BlocksRule)) and graph.data_inputs(op) != [op.inputs[0]]:
        return "an input beside its map is not constant"
    if len({graph.tensors[t].shape[1:3] for t in op.outputs}) != 1:
        return "its outputs are maps of different sizes"
    return rule.blocker(graph, op)


def flops_of(graph: Graph, ops: Iterable[int]) -> int:
    """Operations of these operators over whole tensors, whether they can be tiled or not."""
    total = 0.0
    for op in (graph.ops[i] for i in ops if graph.ops[i].outputs):
        made = graph.tensors[op.outputs[0]].shape
        if op.kind in RULES and len(made) == 4:
            total += made[1] * made[2] * RULES[op.kind].flops(graph, op)
        elif op.kind == "FULLY_CONNECTED" and len(op.inputs) > 1:
            total += 2 * prod(graph.tensors[op.inputs[1]].shape)
        else:
            total += prod(made)
    return int(total)
