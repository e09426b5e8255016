"""Reuse of overlaps inside a block: what a tile takes from its neighbours instead of computing it again.

DeepThings (2018), section IV.C, on a graph. The tiles of a block are the fields of a checkerboard: those of the first
level share no border and compute all that they need; those of the second level, between them, take strips of intermediate
tensors from up to four neighbours. Law: a strip is a part of what its giver computes anyway, and a tile that misses one
computes all by itself; what either of them makes has the same bits.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from models.graph.ops import RULES, WindowRule
from models.tiling.partition import Partition, Regions
from schemas.contract.plan import Region

SIDES = {"left": (0, -1), "up": (-1, 0), "down": (1, 0), "right": (0, 1)}  # row and column of the neighbour
Place: TypeAlias = tuple[int, str]  # a tensor and the side of it that a strip covers


def is_first(row: int, col: int) -> bool:
    """Whether a tile is of the first level: it gives strips and takes none."""
    return (row + col) % 2 == 0


def order(rows: int, cols: int, classes: Sequence[int]) -> tuple[int, ...]:
    """The sequence in which a block's tiles are taken; ``classes`` has the class of each tile, row by row.

    The first level first; in a level the tiles with the fewest neighbours (the least overlap) first, tiles of one class
    together.
    """

    def rank(tile: int) -> tuple[bool, int, int, int]:
        return not is_first(*divmod(tile, cols)), len(neighbours(tile, rows, cols)), classes[tile], tile

    return tuple(sorted(range(rows * cols), key=rank))


def neighbours(tile: int, rows: int, cols: int) -> dict[str, int]:
    """The tiles that share a border with ``tile``, by side."""
    row, col = divmod(tile, cols)
    places = {side: (row + dy, col + dx) for side, (dy, dx) in SIDES.items()}
    return {side: y * cols + x for side, (y, x) in places.items() if 0 <= y < rows and 0 <= x < cols}


class Pieces(NamedTuple):
    """A region in up to five pieces: left and right over its full height, up and down between them, ``own`` the rest."""

    own: Region | None
    left: Region | None = None
    up: Region | None = None
    down: Region | None = None
    right: Region | None = None

    @property
    def strips(self) -> dict[str, Region]:
        """The pieces that neighbours make, by side."""
        return {side: region for side in SIDES if (region := getattr(self, side)) is not None}


def divide(need: Region, lent: Mapping[str, Region]) -> Pieces:
    """``need`` without what the neighbours have: ``lent`` is the region of each side's neighbour."""
    y0, x0, y1, x1 = need
    low, high = x0, x1
    if (left := lent.get("left")) and left.x0 <= x0 and left.y0 <= y0 and left.y1 >= y1:
        low = min(max(left.x1, x0), x1)
    if (right := lent.get("right")) and right.x1 >= x1 and right.y0 <= y0 and right.y1 >= y1:
        high = min(max(right.x0, low), x1)
    top, bottom = y0, y1
    if (up := lent.get("up")) and up.y0 <= y0 and up.x0 <= low and up.x1 >= high:
        top = min(max(up.y1, y0), y1)
    if (down := lent.get("down")) and down.y1 >= y1 and down.x0 <= low and down.x1 >= high:
        bottom = min(max(down.y0, top), y1)
    return Pieces(
        own=_some(top, low, bottom, high),
        left=_some(y0, x0, y1, low),
        up=_some(y0, low, top, high),
        down=_some(bottom, low, y1, high),
        right=_some(y0, high, y1, x1),
    )


def _some(y0: int, x0: int, y1: int, x1: int) -> Region | None:
    return Region(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None


@dataclass(frozen=True)
class Work:
    """What a tile does: the region ``made`` by each operator that runs, the region ``held`` of each tensor, inputs too.

    ``taken`` has the pieces of each tensor that is held in part, or whole, by strips of neighbours.
    """

    held: Regions
    made: dict[int, Region]
    taken: dict[int, Pieces] = field(default_factory=dict)

    def strips(self) -> Iterator[tuple[Place, Region]]:
        """Every strip that the tile takes, in the order in which its graph reads them."""
        return (((t, side), region) for t, pieces in self.taken.items() for side, region in pieces.strips.items())


def alone(partition: Partition, ops: Sequence[int], outputs: Mapping[int, Region]) -> Work:
    """The work of a tile that takes nothing."""
    held = partition.regions(ops, outputs)
    first = {i: partition.graph.ops[i].outputs[0] for i in ops}
    return Work(held, {i: held[t] for i, t in first.items() if t in held})


def reduced(
    partition: Partition, ops: Sequence[int], outputs: Mapping[int, Region], own: Regions, lent: Mapping[str, Regions]
) -> Work:
    """The work of a tile whose neighbours have ``lent`` (regions of every tensor, by side); ``own``: its own regions.

    Need propagates backwards from what the tile computes, so a tensor that the neighbours cover leaves nothing to do
    upstream. Of an output the tile computes at least a part: an input that is an output at once is no graph.
    """
    graph, need = partition.graph, dict(outputs)
    worth = _worth_taking(partition, ops)
    work = Work({}, {})
    for i in reversed(ops):
        op = graph.ops[i]
        pieces = {t: Pieces(need[t]) for t in op.outputs if t in need}
        for t in worth.intersection(pieces):
            less = divide(need[t], {side: regions[t] for side, regions in lent.items() if t in regions})
            pieces[t] = less if less.own or t not in outputs else pieces[t]
        computed = [p.own for p in pieces.values() if p.own]
        if computed:
            rule, most = RULES[op.kind], own[op.outputs[0]]
            out = rule.grow(graph, op, functools.reduce(Region.hull, computed))
            out = out if out.hull(most) == most else most  # grown beyond what the tile's inputs allow
            work.made[i] = out
            work.held.update(dict.fromkeys(op.outputs, out))
            for slot, region in rule.needs(graph, op, out).items():
                t = op.inputs[slot]
                need[t] = need[t].hull(region) if t in need else region
        taken = {t: p for t, p in pieces.items() if p.strips}
        work.taken.update(taken)
        work.held.update({t: need[t] for t in taken})
    made = {t for i in ops for t in graph.ops[i].outputs}
    work.held.update({t: region for t, region in need.items() if t not in made})
    return work


def _worth_taking(partition: Partition, ops: Sequence[int]) -> frozenset[int]:
    """Tensors behind a convolution or a pool: to make others anew of the block's inputs costs less than to move them."""
    found: set[int] = set()
    for i in ops:
        op = partition.graph.ops[i]
        if isinstance(RULES[op.kind], WindowRule) or found.intersection(op.inputs):
            found.update(op.outputs)
    return frozenset(found)


class Reuse:
    """Who gives what to whom in one block: ``outputs`` of its tiles, row by row, which ``ops`` make."""

    def __init__(
        self, partition: Partition, ops: Sequence[int], outputs: Sequence[Mapping[int, Region]], rows: int, cols: int
    ) -> None:
        self._partition, self._ops, self._outputs = partition, ops, outputs
        self._rows, self._cols = rows, cols
        self._alone: dict[int, Work] = {}
        self._reduced: dict[int, Work] = {}

    def alone(self, tile: int) -> Work:
        """The work of any tile without strips."""
        if tile not in self._alone:
            self._alone[tile] = alone(self._partition, self._ops, self._outputs[tile])
        return self._alone[tile]

    def reduced(self, tile: int) -> Work:
        """The work of a tile that has all its strips; that of one that takes none is the same as ``alone``."""
        if is_first(*divmod(tile, self._cols)):
            return self.alone(tile)
        if tile not in self._reduced:
            lent = {side: self.alone(n).held for side, n in neighbours(tile, self._rows, self._cols).items()}
            work = reduced(self._partition, self._ops, self._outputs[tile], self.alone(tile).held, lent)
            self._reduced[tile] = work if work.taken else self.alone(tile)
        return self._reduced[tile]

    def saved(self, tile: int) -> tuple[int, int]:
        """The operations, and the effort, that a tile is spared if it has all its strips."""
        ops, works = self._partition.graph.ops, (self.alone(tile), self.reduced(tile))
        made = [(work.made, {ops[i].outputs[0]: region for i, region in work.made.items()}) for work in works]
        flops, effort = (
            count(*made[0]) - count(*made[1]) for count in (self._partition.flops, self._partition.effort)
        )
        return flops, effort

    def gives(self, tile: int) -> dict[int, dict[Place, Region]]:
        """What a tile of the first level gives: strips by the tile that takes them and their place there."""
        if not is_first(*divmod(tile, self._cols)):
            return {}
        found = {}
        for taker in neighbours(tile, self._rows, self._cols).values():
            sides = neighbours(taker, self._rows, self._cols)
            found[taker] = {(t, s): region for (t, s), region in self.reduced(taker).strips() if sides[s] == tile}
        return {taker: strips for taker, strips in found.items() if strips}

    def pieces(self, tile: int) -> list[tuple[int, Region]]:
        """All that a tile gives, as regions of tensors; several takers may want the same."""
        return [(t, region) for strips in self.gives(tile).values() for (t, _), region in strips.items()]
