"""Operators that only move elements, seen as one: a chain of TRANSPOSE, RESHAPE, TILE, PACK and UNPACK from a map to a map.

Channel shuffles, Darknet's reorg and Keras 3's nearest neighbours are written so. Between the chain's ends there are no
maps, so no rule could tile the operators one by one; together they take each element from a certain place, and a region of
it needs certain elements of its input.
"""

from collections.abc import Mapping, Sequence
from math import ceil, prod

import numpy as np

from models.graph.file import MOVES, Graph, Op, Tensor
from schemas.contract.plan import Region

_RESHAPING = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_MOVING = (*_RESHAPING, "TRANSPOSE", "TILE", "PACK", "UNPACK")
_MAX_ELEMENTS = 2**22  # of a map, or pixels: what is known of each takes four bytes, and twelve for a while


class Movement:
    """``elements`` (height, width, channels) has the place of each in an input of ``shape``, flat.

    ``unit``: each stands for so many neighbours; where pixels move whole, a map of them has one channel.
    """

    def __init__(self, elements: np.ndarray, shape: tuple[int, ...], unit: int = 1) -> None:
        self.elements, self.shape, self.unit = elements, shape, unit
        _, width, depth = shape
        axes = (elements // (width * depth), elements // depth % width)
        self._ends = [np.stack([axis.min(2), axis.max(2)]) for axis in axes]
        self.shuffled = self._of_channels()

    def _of_channels(self) -> np.ndarray | None:
        """The order of the channels, if it is that alone."""
        order = self.elements[0, 0]
        if self.unit > 1 or self.elements.shape[:2] != self.shape[:2] or order.max() >= self.shape[2]:
            return None
        pixels = np.arange(0, prod(self.shape), self.shape[2], dtype=np.int32).reshape(*self.shape[:2], 1)
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


def fuse_permutations(graph: Graph) -> Graph:
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
    depth = source.shape[3]
    return _chain_of(graph, start, source, depth) or (_chain_of(graph, start, source, 1) if depth > 1 else None)


def _chain_of(graph: Graph, start: int, source: Tensor, unit: int) -> tuple[list[int], Movement] | None:
    """The longest chain that moves ``unit`` neighbouring elements as one."""
    shape = (*source.shape[:3], source.shape[3] // unit)
    if prod(shape) > _MAX_ELEMENTS:
        return None
    strands = {graph.ops[start].inputs[0]: np.arange(prod(shape), dtype=np.int32).reshape(shape)}
    chain: list[int] = []
    best: tuple[list[int], Movement] | None = None
    readers = {start}
    while len(readers) == 1:
        (reader,) = readers
        op = graph.ops[reader]
        after = _moved(graph, op, strands, unit)
        if after is None:
            break
        strands = dict(zip(op.outputs, after, strict=True))
        chain.append(reader)
        (made, elements), *others = strands.items()
        if not others and _is_map(graph.tensors[made]):
            movement = Movement(elements[0], shape[1:], unit)
            best = (list(chain), movement) if _is_local(movement) else best
        if not strands.keys().isdisjoint(graph.outputs):
            break
        readers = {i for t in strands for i in graph.consumers.get(t, ())}
    return best


def _is_map(tensor: Tensor) -> bool:
    return len(tensor.shape) == 4 and tensor.shape[0] == 1 and prod(tensor.shape) > 0


def _moved(graph: Graph, op: Op, strands: Mapping[int, np.ndarray], unit: int) -> list[np.ndarray] | None:
    """The elements of an operator's outputs, or None: it does more than to move those of all ``strands``."""
    if op.kind not in _MOVING or set(graph.data_inputs(op)) != strands.keys() or not op.outputs:
        return None
    given = graph.tensors[op.inputs[0]]
    for made in (graph.tensors[t] for t in op.outputs):
        alike = (given.dtype, given.quantization) == (made.dtype, made.quantization)
        if not alike or not 0 < prod(made.shape) <= unit * _MAX_ELEMENTS or (unit > 1 and made.shape[-1:] != (unit,)):
            return None
    shapes = [graph.tensors[t].shape for t in op.outputs]
    wanted = [(*shape[:-1], shape[-1] // unit) if shape else () for shape in shapes]
    try:
        found = _rearranged(graph, op, [strands[t] for t in op.inputs if t in strands], wanted[0])
    except (ValueError, IndexError):  # numpy's, of a shape, order or axis that makes no sense
        return None
    return found if [f.shape for f in found] == wanted else None


def _rearranged(graph: Graph, op: Op, given: Sequence[np.ndarray], shape: tuple[int, ...]) -> list[np.ndarray]:
    """The elements of an operator's outputs, from those of its inputs; ``shape`` is that of the first output."""
    (first, *_), axis = given, int(op.option("axis"))
    if op.kind == "PACK":
        return [np.stack(given, axis)] if len(given) * first.size == prod(shape) else []
    if op.kind == "UNPACK":
        return [np.take(first, i, axis) for i in range(first.shape[axis])]
    if op.kind in _RESHAPING:
        return [first.reshape(shape)]
    order = graph.tensors[op.inputs[1]] if len(op.inputs) > 1 else None
    if order is None or order.data is None or order.dtype not in ("int32", "int64"):
        return []
    numbers = order.array().reshape(-1).tolist()
    if op.kind == "TRANSPOSE":
        return [first.transpose(numbers)]
    return [np.tile(first, numbers)] if tuple(size * n for size, n in zip(first.shape, numbers)) == shape else []


def _is_local(movement: Movement) -> bool:
    """Whether it keeps the map's proportions and a strip of rows, or of columns, needs little more than a strip."""
    (height, width, _), (out_height, out_width, _) = movement.shape, movement.elements.shape
    rows, cols = (movement.reach(0), ceil(height / out_height)), (movement.reach(1), ceil(width / out_width))
    return height * out_width == width * out_height and any(reach <= 2 * least for reach, least in (rows, cols))


def _as_one(ops: Sequence[Op], movement: Movement) -> Op:
    source, between = ops[0].inputs[0], tuple(t for op in ops[:-1] for t in op.outputs)
    constants = (t for op in ops for t in op.inputs if t >= 0 and t != source and t not in between)
    inputs = (source, *dict.fromkeys(constants))
    places = {t: i for i, t in enumerate((*inputs, *between, *ops[-1].outputs))} | {-1: -1}
    return Op(
        MOVES, inputs, ops[-1].outputs, options={"movement": movement},
        intermediates=between, parts=tuple(op.moved(places) for op in ops),
    )  # fmt: skip
