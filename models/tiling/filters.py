"""Blocks that are divided by filters: each task computes some of the last axis of what the block makes.

LOP, layer output partitioning (Stahl et al., DeeperThings, 2019): a convolution or a dense layer needs all of its input for
any of its outputs, so its filters are what is divided, and no node holds them all. Operators that keep channels apart
(depthwise, pools, element by element) follow with the same channels. Law: a channel is computed of the same numbers in the
same order either way, so the bits stay the same.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

import numpy as np

from models.graph.file import Graph, Op, Quantization, Tensor
from models.graph.ops.clips import is_over_frames
from models.graph.tflite_schema import OPTIONS
from schemas.contract.errors import PlanError
from schemas.contract.plan import MAPS, Box

Range: TypeAlias = tuple[int, int]  # of channels, half-open
_FILTERS = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0, "CONV_3D": 4}  # the axis of the weights
_CHANNELWISE = frozenset(
    "ADD SUB MUL DIV MINIMUM MAXIMUM SQUARED_DIFFERENCE RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 LEAKY_RELU PRELU LOGISTIC TANH "
    "HARD_SWISH GELU ELU ABS NEG SQUARE SQRT RSQRT EXP LOG FLOOR CEIL ROUND QUANTIZE DEQUANTIZE CAST "
    "MAX_POOL_2D AVERAGE_POOL_2D RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RESHAPE REDUCE_MAX REDUCE_MIN".split()
)
_NOTHING: Range = (0, 0)  # of an input that is not needed
_OF_FRAMES = ("RESHAPE", "REDUCE_MAX", "REDUCE_MIN")  # where they keep channels apart
PARTIALS = "/partials"  # ends the name of a tensor that holds the partial sums of a layer (models.tiling.partials)
_PART_INPUT = re.compile(r".*/in\d+")  # the name of what such a part reads
LEAST = 8
_UNITS = (16, LEAST)  # channels of a task are multiples of the first of these that leaves each one some: runtimes have other
# kernels for a few channels, which sum in another order (a 3x3 convolution of one channel has)


@dataclass(frozen=True)
class FilterTask:
    """A task's graph, its inputs in the order of ``inputs``; the boxes of what it reads and makes, by tensor."""

    graph: Graph
    inputs: dict[int, Box]
    outputs: dict[int, Box]


def lines(size: int, count: int) -> list[int]:
    """Where ``count`` parts of ``size`` channels begin, and the end: as even as whole vectors allow.

    Raises:
        PlanError: there are too few channels.
    """
    if count == 1:
        return [0, size]
    unit = next((unit for unit in _UNITS if size >= unit * count), 0)
    if not unit:
        raise PlanError(f"{size} channels cannot be divided among {count} tasks: each takes {LEAST} at least")
    units = -(-size // unit)
    return [min(unit * (units * i // count), size) for i in range(count)] + [size]


def has_filters(graph: Graph, ops: Iterable[int]) -> bool:
    """Whether there are weights to divide."""
    return any(_weights(graph, graph.ops[i]) is not None for i in ops)


def keeps_channels(graph: Graph, ops: Iterable[int]) -> bool:
    """Whether each of these operators can compute some of its channels of the same of its inputs."""
    return all(len(graph.ops[i].outputs) == 1 and slice_of(graph, graph.ops[i], (0, LEAST)) is not None for i in ops)


def filter_task(
    graph: Graph, ops: Sequence[int], given: Sequence[int], made: Sequence[int], part: tuple[int, int]
) -> FilterTask:
    """The task ``part`` = (number, of so many) of a block of ``ops`` that makes ``made`` of ``given``.

    Raises:
        PlanError: there are fewer channels than tasks.
    """
    wanted = {t: _range(graph, t, part) for t in made}
    need, sliced = _needs(graph, ops, wanted)
    emitter = _Emitter(graph)
    inputs = {t: _box(graph, t, need[t]) for t in given if t in need}
    for t in inputs:
        emitter.hold(t, need[t])
    for i in ops:
        op = graph.ops[i]
        if all(t not in need for t in op.outputs):
            continue
        if i in sliced:
            emitter.slice(op, sliced[i])
        else:
            emitter.copy(op)
    outputs = tuple(emitter.part(t, wanted[t]) for t in made)
    starts = tuple(emitter.held[t][0] for t in inputs)
    found = Graph(emitter.tensors, emitter.ops, starts, outputs).pruned()
    return FilterTask(found, inputs, {t: _box(graph, t, wanted[t]) for t in made})


def divided(graph: Graph, ops: Sequence[int], made: Sequence[int], count: int) -> set[tuple[int, Range]]:
    """The operators whose weights a block's tasks divide, each with the filters of every task."""
    found: set[tuple[int, Range]] = set()
    for number in range(count):
        _, sliced = _needs(graph, ops, {t: _range(graph, t, (number, count)) for t in made})
        found.update((i, out) for i, out in sliced.items() if _weights(graph, graph.ops[i]) is not None)
    return found


def _range(graph: Graph, tensor: int, part: tuple[int, int]) -> Range:
    number, count = part
    channels = graph.tensors[tensor].shape[-1]
    if graph.tensors[tensor].name.endswith(PARTIALS):
        return channels * number // count, channels * (number + 1) // count
    ends = lines(channels, count)
    return ends[number], ends[number + 1]


def _box(graph: Graph, tensor: int, channels: Range) -> Box:
    return Box((*((0, size) for size in graph.tensors[tensor].shape[:-1]), channels))


def _full(graph: Graph, tensor: int) -> Range:
    shape = graph.tensors[tensor].shape
    return 0, shape[-1] if shape else 1


def _needs(
    graph: Graph, ops: Sequence[int], wanted: dict[int, Range]
) -> tuple[dict[int, Range], dict[int, Range]]:
    """Backwards: the channels of each tensor that the task needs, and of each operator that computes only some its own."""
    need, sliced = dict(wanted), dict[int, Range]()
    for i in reversed(ops):
        op = graph.ops[i]
        asked = [need[t] for t in op.outputs if t in need]
        if not asked:
            continue
        out = min(low for low, _ in asked), max(high for _, high in asked)
        is_some = out != _full(graph, op.outputs[0]) or _is_part_input(graph, op)
        known = slice_of(graph, op, out) if len(op.outputs) == 1 and is_some else None
        if known is not None:
            sliced[i] = out
        for slot, t in enumerate(op.inputs):
            if t >= 0 and t not in graph.constant:
                own = known.get(slot, _full(graph, t)) if known is not None else _full(graph, t)
                if own == _NOTHING:
                    continue
                need[t] = (min(need[t][0], own[0]), max(need[t][1], own[1])) if t in need else own
    return need, sliced


def slice_of(graph: Graph, op: Op, out: Range) -> dict[int, Range] | None:
    """The channels of each data input that some channels of an operator's output need; None: it needs all of everything.

    Inputs that are not named are needed whole.
    """
    if _is_part_input(graph, op):
        begin = int(graph.tensors[op.inputs[1]].array()[-1])
        return {0: (begin + out[0], begin + out[1])}
    if op.kind == "CONCATENATION" and graph.tensors[op.outputs[0]].name.endswith(PARTIALS):
        size = graph.tensors[op.inputs[0]].shape[-1]
        ends = [(max(out[0] - slot * size, 0), min(out[1] - slot * size, size)) for slot in range(len(op.inputs))]
        return {slot: (low, high) if low < high else _NOTHING for slot, (low, high) in enumerate(ends)}
    if any(t.dtype not in MAPS for t in (graph.tensors[t] for t in (*graph.data_inputs(op), *op.outputs))):
        return None
    channels = graph.tensors[op.outputs[0]].shape[-1]
    weights = _weights(graph, op)
    if weights is not None:
        return {} if _sliceable(graph, op, out) else None
    if op.kind == "DEPTHWISE_CONV_2D":
        times = channels // max(graph.tensors[op.inputs[0]].shape[-1], 1)
        if not _sliceable(graph, op, out) or times < 1 or out[0] % times or out[1] % times:
            return None
        return {0: (out[0] // times, out[1] // times)}
    computed = any(t in graph.constant and graph.tensors[t].data is None for t in op.inputs if t >= 0)
    if op.kind not in _CHANNELWISE or computed or (op.kind in _OF_FRAMES and not is_over_frames(graph, op)):
        return None
    return {
        slot: out for slot, t in enumerate(op.inputs)
        if t >= 0 and t not in graph.constant and graph.tensors[t].shape[-1] == channels
    }  # fmt: skip


def _is_part_input(graph: Graph, op: Op) -> bool:
    return op.kind == "SLICE" and _PART_INPUT.fullmatch(graph.tensors[op.outputs[0]].name) is not None


def _weights(graph: Graph, op: Op) -> int | None:
    """The slot of the weights that are divided by filters; None: there are none, or they cannot be."""
    if op.kind not in _FILTERS or len(op.inputs) < 2 or op.inputs[1] not in graph.constant:
        return None
    weights, data = graph.tensors[op.inputs[1]], graph.tensors[op.inputs[2 if op.kind == "TRANSPOSE_CONV" else 0]]
    axis = _FILTERS[op.kind]
    if len(weights.shape) <= axis or weights.shape[axis] != graph.tensors[op.outputs[0]].shape[-1]:
        return None
    grouped = op.kind == "CONV_2D" and weights.shape[-1] != data.shape[-1]
    hybrid = data.dtype == "float32" and weights.dtype != "float32"
    return None if grouped or hybrid or op.option("weights_format") else 1


def _sliceable(graph: Graph, op: Op, out: Range) -> bool:
    """Whether its constants are there, or are float16 that is made float32."""
    if op.kind == "CONV_3D" and (out[0] % LEAST or out[1] % LEAST):  # tflite-runtime has another kernel for the rest
        return False
    for slot, t in enumerate(op.inputs):
        if (slot == 0 and op.kind != "TRANSPOSE_CONV") or t < 0 or t not in graph.constant:
            continue
        tensor = graph.tensors[t]
        if tensor.data is None and graph.ops[graph.producer[t]].kind != "DEQUANTIZE":
            return False
    return out[0] < out[1]


class _Emitter:
    """A task's graph in the making: the source's tensors keep their numbers, those that differ are new."""

    def __init__(self, source: Graph) -> None:
        self.source = source
        self.tensors: list[Tensor] = list(source.tensors)
        self.ops: list[Op] = [op for op in source.ops if op.outputs and all(t in source.constant for t in op.outputs)]
        self.held: dict[int, tuple[int, Range]] = {}  # tensor of the source: where it is, which channels
        self._slices: dict[tuple[int, int, Range], int] = {}

    def hold(self, source: int, channels: Range) -> int:
        """A place for some channels of a tensor."""
        if channels == _full(self.source, source):
            self.held[source] = source, channels
        else:
            like = self.source.tensors[source]
            shape = (*like.shape[:-1], channels[1] - channels[0])
            self.held[source] = self._add(replace(like, name=f"{like.name}/{channels[0]}", shape=shape)), channels
        return self.held[source][0]

    def part(self, source: int, channels: Range) -> int:
        """Some channels of a tensor that is here, cut out if it has more."""
        at, own = self.held[source]
        if own == channels:
            return at
        like = self.tensors[at]
        begin = np.zeros(len(like.shape), np.int32)
        size = np.full(len(like.shape), -1, np.int32)
        begin[-1], size[-1] = channels[0] - own[0], channels[1] - channels[0]
        shape = (*like.shape[:-1], channels[1] - channels[0])
        made = self._add(replace(like, name=f"{like.name}/cut{channels[0]}", shape=shape))
        given = (at, self._literal("begin", begin), self._literal("size", size))
        self.ops.append(Op("SLICE", given, (made,), OPTIONS.index("Slice")))
        return made

    def copy(self, op: Op) -> None:
        """An operator as it is."""
        inputs = tuple(t if t < 0 or t in self.source.constant else self.part(t, _full(self.source, t)) for t in op.inputs)
        self.ops.append(replace(op, inputs=inputs))
        for t in op.outputs:
            self.held[t] = t, _full(self.source, t)

    def slice(self, op: Op, out: Range) -> None:
        """An operator that computes some channels."""
        known = slice_of(self.source, op, out)
        assert known is not None
        if _is_part_input(self.source, op) or op.kind == "CONCATENATION":
            parts = [self.part(op.inputs[slot], own) for slot, own in known.items() if own != _NOTHING]
            if len(parts) == 1:
                self.held[op.outputs[0]] = parts[0], out
            else:
                self.ops.append(replace(op, inputs=tuple(parts), outputs=(self.hold(op.outputs[0], out),)))
            return
        channels = self.source.tensors[op.outputs[0]].shape[-1]
        inputs = []
        for slot, t in enumerate(op.inputs):
            if t < 0:
                inputs.append(t)
            elif t not in self.source.constant:
                inputs.append(self.part(t, known.get(slot, _full(self.source, t))))
            elif op.kind.startswith(("RESIZE_", "REDUCE_")):
                inputs.append(t)
            elif (op.kind, slot) in (("TRANSPOSE_CONV", 0), ("RESHAPE", 1)):
                shape = self.source.tensors[t].array().copy()
                shape[-1] = out[1] - out[0]
                inputs.append(self._literal("shape", shape))
            else:
                axis = _FILTERS.get(op.kind, -1) if slot == 1 else -1
                inputs.append(self._constant(t, axis, out, channels))
        options = op.options
        if op.kind == "RESHAPE":
            made = self.source.tensors[op.outputs[0]].shape
            options = {"new_shape": np.array((*made[:-1], out[1] - out[0]), np.int32)}
        self.ops.append(replace(op, inputs=tuple(inputs), outputs=(self.hold(op.outputs[0], out),), options=options))

    def _constant(self, source: int, axis: int, out: Range, channels: int) -> int:
        """Of a constant that has something for each channel that of some of them; any other as it is."""
        tensor = self.source.tensors[source]
        if not tensor.shape or tensor.shape[axis] != channels or channels == 1:
            return source
        key = (source, axis, out)
        if key not in self._slices:
            if tensor.data is None:
                op = self.source.ops[self.source.producer[source]]
                stored = self._constant(op.inputs[0], axis, out, channels)
                made = self._add(cut(tensor, axis, out))
                self.ops.append(replace(op, inputs=(stored,), outputs=(made,)))
                self._slices[key] = made
            else:
                is_first = all(known[0] != source for known in self._slices)
                part = cut(tensor, axis, out)
                self._slices[key] = self._add(part if is_first else replace(part, buffer=0))
        return self._slices[key]

    def _literal(self, name: str, values: np.ndarray) -> int:
        raw = values.view(np.uint8).reshape(-1)
        return self._add(Tensor(f"{name}{len(self.tensors)}", values.shape, str(values.dtype), None, raw))

    def _add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def cut(tensor: Tensor, axis: int, out: Range) -> Tensor:
    """Some of a constant along an axis. Along the first one its bytes stay where they are."""
    axis %= len(tensor.shape)
    shape = (*tensor.shape[:axis], out[1] - out[0], *tensor.shape[axis + 1 :])
    q: Any = tensor.quantization
    if q and len(q.scale) > 1 and q.axis % len(tensor.shape) == axis:
        zeros = q.zero_point[out[0] : out[1]] if len(q.zero_point) > 1 else q.zero_point
        q = Quantization(q.scale[out[0] : out[1]], zeros, q.axis)
    data = tensor.data
    if data is not None and axis == 0:
        row = data.size // tensor.shape[0]
        data = data[out[0] * row : out[1] * row]
    elif data is not None:
        where = tuple(slice(None) for _ in range(axis))
        data = np.ascontiguousarray(tensor.array()[(*where, slice(*out))]).view(np.uint8).reshape(-1)
        assert data.size == prod(shape) * tensor.itemsize
    return replace(tensor, name=f"{tensor.name}/{out[0]}", shape=shape, quantization=q, data=data)
