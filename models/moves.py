"""Operators that only move elements, seen as one: a chain of TRANSPOSE and RESHAPE from a map to a map.

Channel shuffles and Darknet's reorg are written so. Between the chain's ends there are no maps, so no rule could tile the
operators one by one; together they are a permutation, and a region of it needs certain elements of its input.
"""

from collections.abc import Sequence
from math import ceil, prod

import numpy as np

from models.graph import MOVES, Graph, Op, Tensor
from schemas.plan import Region

_RESHAPING = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_MOVING = (*_RESHAPING, "TRANSPOSE")
_MAX_ELEMENTS = 2**22  # of a map: what is known of each takes four bytes, and twelve for a while


class Movement:
    """A permutation: ``elements`` (height, width, channels) has the place of each in an input of ``shape``, flat."""

    def __init__(self, elements: np.ndarray, shape: tuple[int, ...]) -> None:
        self.elements, self.shape = elements, shape
        _, width, depth = shape
        axes = (elements // (width * depth), elements // depth % width)
        self._ends = [np.stack([axis.min(2), axis.max(2)]) for axis in axes]
        self.shuffled = self._of_channels()

    def _of_channels(self) -> np.ndarray | None:
        """The order of the channels, if it is that alone."""
        order = self.elements[0, 0]
        if self.elements.shape != self.shape or order.max() >= order.size:
            return None
        pixels = np.arange(0, self.elements.size, order.size, dtype=np.int32).reshape(*self.shape[:2], 1)
        return order if np.array_equal(pixels + order, self.elements) else None

    def needs(self, out: Region) -> Region:
        """The hull of the input elements that a region is made of."""
        inside = (slice(None), *_slices(out))
        (y0, y1), (x0, x1) = ((int(low.min()), int(high.max()) + 1) for low, high in (ends[inside] for ends in self._ends))
        return Region(y0, x0, y1, x1)

    def reach(self, axis: int) -> int:
        """The most input lines between the first and the last that an output line needs; axis 0: rows, 1: columns."""
        low, high = self._ends[axis]
        return int((high.max(1 - axis) - low.min(1 - axis)).max()) + 1

    def within(self, out: Region) -> np.ndarray:
        """The elements of a region, by their places in what it needs."""
        need = self.needs(out)
        rows, cols, channels = np.unravel_index(self.elements[_slices(out)], self.shape)
        shape = (need.height, need.width, self.shape[2])
        return np.ravel_multi_index((rows - need.y0, cols - need.x0, channels), shape).astype(np.int32)


def _slices(region: Region) -> tuple[slice, slice]:
    return slice(region.y0, region.y1), slice(region.x0, region.x1)


def joined(graph: Graph) -> Graph:
    """``graph`` with each chain whose regions need no more than regions as one operator; the tensors stay."""
    found: dict[int, Op] = {}
    gone: set[int] = set()
    for i in range(len(graph.ops)):
        if i not in gone and (chain := _chain(graph, i)) is not None:
            ops, movement = chain
            found[ops[-1]] = _as_one([graph.ops[j] for j in ops], movement)
            gone.update(ops)
    if not found:
        return graph
    kept = [found.get(i, op) for i, op in enumerate(graph.ops) if i in found or i not in gone]
    return Graph(graph.tensors, kept, graph.inputs, graph.outputs)


def _chain(graph: Graph, start: int) -> tuple[list[int], Movement] | None:
    """The longest chain from an operator on that can be tiled, and what it moves where."""
    first = graph.ops[start]
    source = graph.tensors[first.inputs[0]] if first.kind in _MOVING and first.inputs else None
    if source is None or not _is_map(source):
        return None
    elements = np.arange(prod(source.shape), dtype=np.int32).reshape(source.shape)
    chain: list[int] = []
    best: tuple[list[int], Movement] | None = None
    readers = [start]
    while len(readers) == 1:
        op = graph.ops[readers[0]]
        after = _moved(graph, op, elements)
        if after is None or after.shape != graph.tensors[op.outputs[0]].shape:
            break
        elements, made = after, op.outputs[0]
        chain.append(readers[0])
        if _is_map(graph.tensors[made]):
            movement = Movement(elements[0], source.shape[1:])
            best = (list(chain), movement) if _is_local(movement) else best
        readers = graph.consumers.get(made, []) if made not in graph.outputs else []
    return best


def _is_map(tensor: Tensor) -> bool:
    return len(tensor.shape) == 4 and tensor.shape[0] == 1 and 0 < prod(tensor.shape) <= _MAX_ELEMENTS


def _moved(graph: Graph, op: Op, elements: np.ndarray) -> np.ndarray | None:
    """The elements of an operator's output, or None: it does more than to move them."""
    if op.kind not in _MOVING or len(op.outputs) != 1 or graph.data_inputs(op) != [op.inputs[0]]:
        return None
    given, made = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    if (given.dtype, given.quantization) != (made.dtype, made.quantization):
        return None
    if op.kind in _RESHAPING:
        return elements.reshape(made.shape) if prod(made.shape) == elements.size and min(made.shape, default=1) > 0 else None
    order = graph.tensors[op.inputs[1]] if len(op.inputs) > 1 else None
    if order is None or order.data is None or order.dtype != "int32":
        return None
    axes = order.array().reshape(-1).tolist()
    return elements.transpose(axes) if sorted(axes) == list(range(elements.ndim)) else None


def _is_local(movement: Movement) -> bool:
    """Whether it keeps the map's proportions and a strip of rows, or of columns, needs little more than a strip."""
    (height, width, _), (out_height, out_width, _) = movement.shape, movement.elements.shape
    rows, cols = (movement.reach(0), ceil(height / out_height)), (movement.reach(1), ceil(width / out_width))
    return height * out_width == width * out_height and any(reach <= 2 * least for reach, least in (rows, cols))


def _as_one(ops: Sequence[Op], movement: Movement) -> Op:
    constants = [t for op in ops for t in op.inputs[1:] if t >= 0]
    inputs, between = (ops[0].inputs[0], *constants), tuple(op.outputs[0] for op in ops[:-1])
    places = {t: i for i, t in enumerate((*inputs, *between, *ops[-1].outputs))} | {-1: -1}
    return Op(
        MOVES, inputs, ops[-1].outputs, options={"movement": movement},
        intermediates=between, parts=tuple(op.moved(places) for op in ops),
    )  # fmt: skip
