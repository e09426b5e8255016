"""A model's graph as tiles can be cut of it, with the same bits: shapes folded, sparse weights dense, the image NHWC.

The tensors keep their numbers. What is prepared already stays as it is, so a part of it may be prepared again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import TypeAlias

import numpy as np

from models.graph.file import Graph, Op, Tensor
from schemas.contract.errors import PlanError
from schemas.contract.plan import MAPS, MAX_FRAMES

_MAX_SIDE = 16384  # as in schemas.contract.plan.Pixels
_FEW = 1024  # elements of what is folded: shapes, sizes, axes
_TO_NHWC = [0, 2, 3, 1]
_PASSING = ("QUANTIZE", "DEQUANTIZE", "CAST", "MUL", "ADD", "SUB", "DIV")  # that pixels go through in any layout
Values: TypeAlias = Sequence[np.ndarray]


def prepared(graph: Graph) -> Graph:
    """``graph`` with all of this done, and itself if there is nothing to do."""
    return channels_last(folded(graph))


def folded(graph: Graph) -> Graph:
    """What is computed of shapes and of few constant integers alone becomes constant.

    Tensors have the shapes that the file tells: a batch that it leaves open is 1.
    """
    tensors, ops = list(graph.tensors), list[Op]()
    for op in graph.ops:
        made = None if set(op.outputs) & set(graph.outputs) else _computed(tensors, op)
        if made is None:
            ops.append(op)
        else:
            for t, values in zip(op.outputs, made):
                raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
                tensors[t] = replace(tensors[t], shape=values.shape, data=raw)
    return graph if len(ops) == len(graph.ops) else Graph(tensors, ops, graph.inputs, graph.outputs)


def _computed(tensors: Sequence[Tensor], op: Op) -> list[np.ndarray] | None:
    """The values of an operator's outputs, or None: they depend on more, or no rule here computes them."""
    specs = [tensors[t] for t in op.outputs]
    if not specs or any(t.dtype not in ("int32", "int64") or prod(t.shape) > _FEW for t in specs):
        return None
    given = [tensors[t] for t in op.inputs if t >= 0]
    if op.kind == "SHAPE" and given:
        return [np.array(given[0].shape, specs[0].dtype)] if min(given[0].shape, default=1) > 0 else None
    known = all(t.data is not None and t.dtype in ("int32", "int64") and prod(t.shape) <= _FEW for t in given)
    if op.kind not in _COMPUTE or not known:
        return None
    try:
        made = _COMPUTE[op.kind](op, [t.array() for t in given])
    except (ValueError, IndexError, TypeError, ArithmeticError):  # numpy's, of what no runtime takes either
        return None
    alike = [values.shape for values in made] == [t.shape for t in specs]
    return [values.astype(t.dtype) for values, t in zip(made, specs)] if alike else None


def _part(op: Op, given: Values) -> list[np.ndarray]:
    """STRIDED_SLICE without ellipsis and new axes."""
    values, begins, ends, strides = given
    if op.option("ellipsis_mask") or op.option("new_axis_mask") or op.option("offset"):
        raise ValueError("not computed here")
    index: list[slice | int] = []
    for i, (begin, end, stride) in enumerate(zip(begins.tolist(), ends.tolist(), strides.tolist())):
        first = None if op.option("begin_mask") >> i & 1 else begin
        last = None if op.option("end_mask") >> i & 1 else end
        index.append(begin if op.option("shrink_axis_mask") >> i & 1 else slice(first, last, stride))
    return [values[tuple(index)]]


def _squeezed(op: Op, given: Values) -> list[np.ndarray]:
    axes = [int(axis) for axis in op.options.get("squeeze_dims", ())]
    return [np.squeeze(given[0], tuple(axes) or None)]


def _filled(_: Op, given: Values) -> list[np.ndarray]:
    return [np.broadcast_to(given[1].reshape(()), given[0].tolist())]


def _counted(_: Op, given: Values) -> list[np.ndarray]:
    numbers = range(*(int(v) for v in given))
    return [np.array(numbers if len(numbers) <= _FEW else [])]


def _repeated(_: Op, given: Values) -> list[np.ndarray]:
    times = given[1].tolist()
    return [np.tile(given[0], times if prod(times) <= _FEW else 0)]


def _divided(_: Op, given: Values) -> list[np.ndarray]:
    if not given[1].all():
        raise ZeroDivisionError
    return [given[0] // given[1]]


_COMPUTE: dict[str, Callable[[Op, Values], list[np.ndarray]]] = {
    "STRIDED_SLICE": _part,
    "SQUEEZE": _squeezed,
    "SLICE": lambda _, v: [v[0][tuple(slice(b, None if n < 0 else b + n) for b, n in zip(v[1].tolist(), v[2].tolist()))]],
    "GATHER": lambda op, v: [np.take(v[0], v[1], int(op.option("axis")))],
    "PACK": lambda op, v: [np.stack(v, int(op.option("axis")))],
    "UNPACK": lambda op, v: [np.take(v[0], i, int(op.option("axis"))) for i in range(v[0].shape[int(op.option("axis"))])],
    "CONCATENATION": lambda op, v: [np.concatenate(v, int(op.option("axis")))],
    "RESHAPE": lambda _, v: [v[0].reshape(v[1].reshape(-1).tolist())],
    "EXPAND_DIMS": lambda _, v: [np.expand_dims(v[0], int(v[1]))],
    "TRANSPOSE": lambda _, v: [v[0].transpose(v[1].tolist())],
    "CAST": lambda _, v: [v[0]],
    "ADD": lambda _, v: [v[0] + v[1]],
    "SUB": lambda _, v: [v[0] - v[1]],
    "MUL": lambda _, v: [v[0] * v[1]],
    "FLOOR_DIV": _divided,
    "MAXIMUM": lambda _, v: [np.maximum(v[0], v[1])],
    "MINIMUM": lambda _, v: [np.minimum(v[0], v[1])],
    "REDUCE_PROD": lambda op, v: [np.prod(v[0], tuple(v[1].reshape(-1).tolist()), keepdims=bool(op.option("keep_dims")))],
    "FILL": _filled,
    "RANGE": _counted,
    "TILE": _repeated,
    "BROADCAST_TO": lambda _, v: [np.broadcast_to(v[0], v[1].tolist())],
}  # fmt: skip


def channels_last(graph: Graph) -> Graph:
    """The graph whose image is NHWC, if its image is NCHW and all that it does with it is to transpose it.

    How pixels become the input is the caller's business; tensors before the transposition get the other layout.
    """
    found: dict[int, int] | None = None
    for t in graph.inputs:
        shape = graph.tensors[t].shape
        if len(shape) == 4 and shape[0] == 1 and shape[1] in (1, 3, 4) and (found := _before_transposition(graph, t)):
            break
    if not found:
        return graph
    tensors = list(graph.tensors)
    before = {t for t, replaced in found.items() if t == replaced}
    for t in before:
        tensors[t] = replace(tensors[t], shape=tuple(tensors[t].shape[axis] for axis in _TO_NHWC))
    kept = [op for op in graph.ops if not (op.kind == "TRANSPOSE" and op.inputs[0] in before)]
    ops = [replace(op, inputs=tuple(found.get(t, t) for t in op.inputs)) for op in kept]
    return Graph(tensors, ops, graph.inputs, graph.outputs)


def _before_transposition(graph: Graph, image: int) -> dict[int, int]:
    """Each tensor that is in the image's layout by itself, each that is a transposed one by that; {}: some end elsewhere."""
    found, todo = {image: image}, [image]
    while todo:
        t = todo.pop()
        if t in graph.outputs:
            return {}
        for op in (graph.ops[i] for i in graph.consumers.get(t, ())):
            others = [graph.tensors[other] for other in op.inputs[1:] if other >= 0]
            constant = len(op.outputs) == 1 and op.inputs[0] == t and all(other.data is not None for other in others)
            if constant and op.kind == "TRANSPOSE" and _order(others) == _TO_NHWC:
                found[op.outputs[0]] = t
                if op.outputs[0] in graph.outputs:
                    return {}
            elif constant and op.kind in _PASSING and _is_alike(graph.tensors[op.outputs[0]], graph.tensors[t], others):
                found[op.outputs[0]] = op.outputs[0]
                todo.append(op.outputs[0])
            else:
                return {}
    return found if len(set(found.values())) < len(found) else {}


def _order(constants: Sequence[Tensor]) -> list[int]:
    """That of a TRANSPOSE, by its constants."""
    return constants[0].array().reshape(-1).tolist() if constants and constants[0].dtype in ("int32", "int64") else []


def _is_alike(made: Tensor, given: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether an operator with these constants keeps the shape in any layout."""
    return made.shape == given.shape and all(prod(other.shape) == 1 for other in others)


def image_input(graph: Graph) -> int:
    """The model's input that takes the picture: the first of rank 4 with three channels (or grey alone, or with opacity), or
    a clip of such pictures.

    Raises:
        PlanError: there is none.
    """
    shapes = {t: graph.tensors[t].shape for t in graph.inputs}
    maps = [t for rank in (4, 5) for t, shape in shapes.items() if len(shape) == rank and shape[0] == 1]
    for channels in (3, 1, 4):
        for t in maps:
            if shapes[t][-1] == channels and graph.tensors[t].dtype in MAPS:
                if max(shapes[t]) > _MAX_SIDE or max(shapes[t][1:-3], default=1) > MAX_FRAMES:
                    most = f"at most {_MAX_SIDE} pixels a side, and {MAX_FRAMES} frames of a clip"
                    raise PlanError(f"the model's image is {shapes[t]}: {most}")
                return t
    specs = [graph.tensors[t] for t in graph.inputs]
    names = ", ".join(f"{spec.name} {spec.shape}" for spec in specs)
    told = f"the model has no image input (1 x H x W x 3, 1 or 4 of float32, uint8 or int8), only {names}"
    if any(len(spec.shape) in (4, 5) and spec.shape[0] > 1 for spec in specs):
        told += ": convert it with a batch of 1"
    raise PlanError(told)
