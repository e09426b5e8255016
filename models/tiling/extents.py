"""The regions of many tiles at once, for figures that ask for those of whole grids.

A rule that needs rows for rows and columns for columns (``Rule.by_axis``) is asked once for each row and each column of
its output; the tiles look the answers up. Law: these are the regions that the rules give tile by tile.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from models.graph.file import Graph, Op
from models.graph.ops import RULES, Rule, whole
from schemas.contract.plan import Region

Extents: TypeAlias = np.ndarray  # 4 x tiles: y0, x0, -y1, -x1, so that the hull of two is the lesser of each


def extents(regions: Sequence[Region]) -> Extents:
    """One column for each region."""
    return np.array([(y0, x0, -y1, -x1) for y0, x0, y1, x1 in regions], np.int64).reshape(-1, 4).T


def areas(found: Extents) -> np.ndarray:
    """Pixels of each."""
    heights, widths = found[0] + found[2], found[1] + found[3]  # both negative
    pixels: np.ndarray = heights * widths
    return pixels


def _region(column: np.ndarray) -> Region:
    y0, x0, y1, x1 = column.tolist()
    return Region(y0, x0, -y1, -x1)


class Tables:
    """What the operators of a graph compute and need, line by line; asked as tiles come to them."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[int, _Operator] = {}

    def regions(self, ops: Sequence[int], outputs: Mapping[int, Extents]) -> dict[int, Extents]:
        """As ``Partition.regions``, for as many tiles as the extents have columns."""
        need = dict(outputs)
        for i in reversed(ops):
            op = self._graph.ops[i]
            wanted = [need[t] for t in op.outputs if t in need]
            if not wanted:
                continue
            if i not in self._known:
                self._known[i] = _Operator.of(self._graph, op)
            out, needs = self._known[i].answer(functools.reduce(np.minimum, wanted))
            need.update(dict.fromkeys(op.outputs, out))
            for slot, region in needs.items():
                t = op.inputs[slot]
                need[t] = np.minimum(need[t], region) if t in need else region
        return need

    def computed(self, op: int, outputs: Extents) -> Extents:
        """As ``Rule.computed``, of what ``regions`` has found for an operator."""
        return self._known[op].computed(outputs)


class _Table:
    """A start and an end for each row and column of a map, in the order and signs of ``Extents``."""

    def __init__(self, rows: Sequence[tuple[int, int]], cols: Sequence[tuple[int, int]]) -> None:
        starts = [[start for start, _ in lines] for lines in (rows, cols)]
        ends = [[-end for _, end in reversed(lines)] for lines in (rows, cols)]  # -y1 counts from the last row on
        self._flat = np.array([*starts[0], *starts[1], *ends[0], *ends[1]], np.int64)
        height, width = len(rows), len(cols)
        self._offsets = np.array([[0], [height], [2 * height + width], [2 * (height + width)]])
        self.changes = any((start, end) != (i, i + 1) for lines in (rows, cols) for i, (start, end) in enumerate(lines))

    def __call__(self, found: Extents) -> Extents:
        return self._flat[found + self._offsets] if self.changes else found


@dataclass(frozen=True)
class _Operator:
    """One operator's tables: what it gives, what it computes for that, and what it needs of each input."""

    graph: Graph
    op: Op
    rule: Rule
    grown: _Table
    computed: _Table
    needs: dict[int, _Table]
    grows: bool  # more than its tables tell, where a single pixel is wanted
    mixes: bool  # the axes

    @classmethod
    def of(cls, graph: Graph, op: Op) -> "_Operator":
        rule, full = RULES[op.kind], whole(graph, op.outputs[0])
        rows = [Region(y, full.x0, y + 1, full.x1) for y in range(full.y1)]
        cols = [Region(full.y0, x, full.y1, x + 1) for x in range(full.x1)]
        grown = [[rule.grow(graph, op, line) for line in lines] for lines in (rows, cols)]
        found = [[rule.needs(graph, op, line) for line in lines] for lines in grown]
        needs = {slot: _table(*([need[slot] for need in lines] for lines in found)) for slot in found[0][0]}
        computed = _table(*([rule.computed(graph, op, line) for line in lines] for lines in (rows, cols)))
        grows = type(rule).grow is not Rule.grow
        mixes = not rule.by_axis or (grows and 1 in (full.y1, full.x1))
        return cls(graph, op, rule, _table(*grown), computed, needs, grows, mixes)

    def answer(self, wanted: Extents) -> tuple[Extents, dict[int, Extents]]:
        """What is computed to have ``wanted``, and what that needs of each input by its slot."""
        out = self.grown(wanted)
        needs = {slot: table(out) for slot, table in self.needs.items()}
        odd = self._odd(wanted)
        if len(odd):
            out, needs = out.copy(), {slot: region.copy() for slot, region in needs.items()}
        for tile in odd:
            region = self.rule.grow(self.graph, self.op, _region(wanted[:, tile]))
            out[:, tile] = extents([region])[:, 0]
            for slot, need in self.rule.needs(self.graph, self.op, region).items():
                needs[slot][:, tile] = extents([need])[:, 0]
        return out, needs

    def _odd(self, wanted: Extents) -> Sequence[int] | np.ndarray:
        """The tiles that the rule itself is asked for: all of one that mixes axes, and single pixels where they grow."""
        if self.mixes:
            return range(wanted.shape[1])
        return (areas(wanted) == 1).nonzero()[0] if self.grows else ()


def _table(rows: Sequence[Region], cols: Sequence[Region]) -> _Table:
    return _Table([(r.y0, r.y1) for r in rows], [(r.x0, r.x1) for r in cols])
