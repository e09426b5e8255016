"""Operators that compute each element, or each position, of a map by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from models.graph.file import Graph, Op, Tensor
from models.graph.ops.rule import DYNAMIC_RANGE, Emitter, Needs, Rule, sides, two_pixels
from models.graph.runtime import runtime
from schemas.contract.plan import MAPS, Region

ONE = Region(0, 0, 1, 1)
_ALONG_AXES = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REVERSE_V2", "GATHER")


class ElementwiseRule(Rule):
    """Element by element; constant operands are broadcast, or cropped where they cover the map."""

    ranks = (4, 5)

    def blocker(self, graph: Graph, op: Op) -> str | None:
        out = graph.tensors[op.outputs[0]].shape
        if op.kind == "PRELU" and graph.tensors[op.inputs[-1]].shape[-1:] != out[-1:]:
            return "its slopes are not one per channel: tflite-runtime reads past their end"
        if op.kind == "QUANTIZE" and _changes_sign_and_scale(graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]):
            return "between int8 and uint8 of other scales ai-edge-litert rounds by where an element lies"
        if op.kind == "MUL" and len(set(op.inputs)) == 1 and graph.tensors[op.outputs[0]].dtype != "float32":
            return "the square of a quantized map: ai-edge-litert's rounding depends on the operators around it"
        if op.kind in ("ADD", "SUB", "MUL") and _overflows(graph, op):
            return "its scales are 128 times its output's: the kernel that takes over from XNNPACK is not exact"
        for t in op.inputs:
            shape = graph.tensors[t].shape if t >= 0 else ()
            if t >= 0 and t not in graph.constant and (len(shape) != len(out) or sides(shape) not in (sides(out), (1, 1))):
                return "it broadcasts one map over another"
            if t in graph.constant and graph.tensors[t].data is None and max(_map_axes(shape)) > 1:
                return "it joins the map with a constant that is computed"
            if t in graph.constant and graph.tensors[t].dtype not in MAPS:
                return f"it joins the map with a constant of {graph.tensors[t].dtype}"
        return None

    def needs(self, graph: Graph, op: Op, out: Region) -> Needs:
        """A map of one pixel is for all of another: the weights of a squeeze-and-excitation, whole for each tile."""
        needs = super().needs(graph, op, out)
        return {slot: ONE if sides(graph.tensors[op.inputs[slot]].shape) == (1, 1) else out for slot in needs}

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


class PositionRule(Rule):
    """Operators that compute, or move, the channels of each position by themselves."""

    map_slot = 0

    def beyond(self, graph: Graph, op: Op) -> str | None:
        if op.kind not in _ALONG_AXES:
            return None
        axes = graph.tensors[op.inputs[1]]
        if axes.data is None or axes.dtype != "int32" or op.option("batch_dims"):
            return "its axis or its indices are not constant"
        along = [int(op.option("axis"))] if op.kind == "GATHER" else axes.array().reshape(-1).tolist()
        return None if along in ([3], [-1]) else f"it works along axes {along} of its map, not along channels"

    def blocker(self, graph: Graph, op: Op) -> str | None:
        given, made = (graph.tensors[t] for t in (op.inputs[0], op.outputs[0]))
        if given.shape[:3] != made.shape[:3]:
            return "its shape is another"
        if op.kind == "LOCAL_RESPONSE_NORMALIZATION" and given.shape[3] % 4:
            return f"its {given.shape[3]} channels are no multiple of 4: ai-edge-litert rounds by where an element lies"
        if op.kind == "MEAN" and given.dtype == "float32" and runtime().startswith("tflite-runtime"):
            return "tflite-runtime sums floats in an order that depends on where they lie"
        return None

    def flops(self, graph: Graph, op: Op) -> float:
        made = graph.tensors[op.outputs[0]].shape
        given = graph.tensors[op.inputs[0]].shape if op.inputs else ()
        return max(prod(given), prod(made)) / max(prod(sides(made)), 1)


class DenseRule(Rule):
    """FULLY_CONNECTED of the channels of each position, as ConvNeXt has it."""

    map_slot = 0

    def blocker(self, graph: Graph, op: Op) -> str | None:
        given, weights, made = (graph.tensors[t] for t in (*op.inputs[:2], op.outputs[0]))
        if given.dtype == "float32" and weights.dtype != "float32":
            return DYNAMIC_RANGE
        is_by_position = op.option("keep_num_dims") and given.shape[:3] == made.shape[:3]
        if not is_by_position or weights.shape != (made.shape[3], given.shape[3]):
            return "its shape is another"
        return None

    def grow(self, graph: Graph, op: Op, out: Region) -> Region:
        """As a convolution: of one pixel other kernels compute on Arm."""
        return two_pixels(graph, op, out)

    def flops(self, graph: Graph, op: Op) -> float:
        if len(op.inputs) < 2:  # one that no runtime takes
            return super().flops(graph, op)
        return 2.0 * prod(graph.tensors[op.inputs[1]].shape[-1:]) * graph.tensors[op.outputs[0]].shape[3]
