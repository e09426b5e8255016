"""Layers whose sum over input channels is made in parts: what LIP and fused pairs divide (DeeperThings, 2019).

A convolution or dense layer becomes N over some of its input channels each, whose results are added in the order of the
parts. Law: the order is the graph's, so that the bits are the same whoever computes a part and whatever arrives first; but
they are not the model's own, which sums at once. All parts lie side by side in one tensor, of which a task makes its own.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from models.graph.file import Graph, Op, Tensor
from models.graph.tflite_schema import OPTIONS
from models.tiling.filters import LEAST, PARTIALS, cut, lines
from schemas.contract.errors import PlanError

_INPUT_AXIS = {"CONV_2D": 3, "FULLY_CONNECTED": 1}  # of the weights
_FOLLOWING = ("RELU", "RELU6", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH")
_ZERO = {"fused_activation_function": 0}


def layer_of(graph: Graph, name: str) -> int:
    """The operator with weights that makes the tensor ``name``, or what an activation turns into it.

    Raises:
        PlanError: there is none that may be summed in parts; the message says why.
    """
    t = graph.by_name.get(name, -1)
    while graph.producer.get(t, -1) >= 0 and graph.ops[graph.producer[t]].kind in _FOLLOWING:
        t = graph.ops[graph.producer[t]].inputs[0]
    index = graph.producer.get(t, -1)
    if index < 0 or graph.ops[index].kind not in _INPUT_AXIS:
        raise PlanError(f"{name} is not made by a convolution or dense layer: its input channels cannot be divided")
    op = graph.ops[index]
    data, weights = (graph.tensors[i] for i in op.inputs[:2])
    if data.dtype != "float32" or weights.dtype != "float32":
        raise PlanError(
            f"{name} is quantized: partial sums would each be rounded to its output's scale; divide it by filters instead"
        )
    if weights.data is None or weights.shape[_INPUT_AXIS[op.kind]] != data.shape[-1]:
        raise PlanError(f"{name} has weights that are computed, or groups: its input channels cannot be divided")
    return index


def is_summable(graph: Graph, name: str, count: int) -> bool:
    """Whether a layer may be summed in so many parts."""
    try:
        return graph.tensors[graph.ops[layer_of(graph, name)].inputs[0]].shape[-1] >= LEAST * count
    except PlanError:
        return False


def with_partials(graph: Graph, parts: Mapping[str, int]) -> Graph:
    """``graph`` with the layers that make these tensors summed in so many parts each.

    Raises:
        PlanError: as ``layer_of``, or there are fewer input channels than parts.
    """
    if not parts:
        return graph
    wanted = {layer_of(graph, name): count for name, count in parts.items()}
    made = _Maker(graph)
    for i, op in enumerate(graph.ops):
        if i in wanted:
            made.divide(op, wanted[i])
        else:
            made.ops.append(op)
    return Graph(made.tensors, made.ops, graph.inputs, graph.outputs, graph.file)


class _Maker:
    def __init__(self, source: Graph) -> None:
        self.tensors: list[Tensor] = list(source.tensors)
        self.ops: list[Op] = []

    def divide(self, op: Op, count: int) -> None:
        data, weights, out = (self.tensors[t] for t in (*op.inputs[:2], op.outputs[0]))
        ends, name, filters = lines(data.shape[-1], count), out.name, out.shape[-1]
        bias = op.inputs[2] if len(op.inputs) > 2 else -1
        nothing = -1 if bias < 0 else self._literal(f"{name}/nothing", np.zeros(filters, np.float32))
        found = []
        for number, part in enumerate(zip(ends, ends[1:])):
            given = self._slice(op.inputs[0], f"{name}/in{number}", *part)
            own = self._add(replace(cut(weights, _INPUT_AXIS[op.kind], part), name=f"{weights.name}/{number}", buffer=0))
            inputs = (given, own, nothing if number else bias) if len(op.inputs) > 2 else (given, own)
            found.append(self._add(replace(out, name=f"{name}/part{number}")))
            self.ops.append(replace(op, inputs=inputs, outputs=(found[-1],), options={**op.options, **_ZERO}))
        beside = self._add(replace(out, name=name + PARTIALS, shape=(*out.shape[:-1], count * filters)))
        self._op("CONCATENATION", found, beside, "Concatenation", axis=len(out.shape) - 1)
        total = self._slice(beside, f"{name}/of0", 0, filters)
        for number in range(1, count):
            last = number + 1 == count
            more = self._slice(beside, f"{name}/of{number}", number * filters, (number + 1) * filters)
            into = op.outputs[0] if last else self._add(replace(out, name=f"{name}/sum{number}"))
            activation = int(op.option("fused_activation_function")) if last else 0
            total = self._op("ADD", [total, more], into, "Add", fused_activation_function=activation)

    def _slice(self, source: int, name: str, start: int, stop: int) -> int:
        like = self.tensors[source]
        begin, size = np.zeros(len(like.shape), np.int32), np.full(len(like.shape), -1, np.int32)
        begin[-1], size[-1] = start, stop - start
        given = [source, self._literal(f"{name}/begin", begin), self._literal(f"{name}/size", size)]
        return self._op("SLICE", given, self._add(replace(like, name=name, shape=(*like.shape[:-1], stop - start))), "Slice")

    def _literal(self, name: str, values: np.ndarray) -> int:
        return self._add(Tensor(name, values.shape, str(values.dtype), None, values.view(np.uint8).reshape(-1)))

    def _op(self, kind: str, inputs: list[int], output: int, options: str, **values: Any) -> int:
        self.ops.append(Op(kind, tuple(inputs), (output,), OPTIONS.index(options), values))
        return output

    def _add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1
