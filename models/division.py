"""Divides the maps at a plan's cuts into tiles: where the lines lie, and what each tile needs and computes.

Law: the tiles of a cut partition each of its maps; what lies between two cuts follows from their regions alone.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from models.graph import Graph
from models.partition import Cut, Lines, Partition, Regions, tiles_of
from schemas.plan import Region


class Span(NamedTuple):
    """A fused block: the tensors that it is ``given``, the cut that it ends at, and its operators."""

    given: tuple[int, ...]
    cut: Cut
    ops: tuple[int, ...]


class Work(NamedTuple):
    """What a tile needs (region of each tensor), its operations, and the most bytes of maps alive at once."""

    inputs: dict[int, Region]
    flops: int
    live_bytes: int


class Tiler:
    """Divides a partition at any cuts; remembers what it has worked out, for a search asks the same things often."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self._spans: dict[tuple[tuple[int, ...], str], Span] = {}
        self._lines: dict[tuple[object, ...], dict[int, Lines]] = {}
        self._works: dict[tuple[object, ...], Work] = {}

    def spans(self, cuts: Sequence[Cut]) -> list[Span]:
        """The fused blocks from the image over these cuts."""
        ends = [(self.partition.image,), *(cut.tensors for cut in cuts)]
        return [self._span(given, cut) for given, cut in zip(ends, cuts)]

    def _span(self, given: tuple[int, ...], cut: Cut) -> Span:
        key = (given, cut.name)
        if key not in self._spans:
            self._spans[key] = Span(given, cut, self.partition.between(given, cut.tensors))
        return self._spans[key]

    def divide(self, cuts: Sequence[Cut], rows: int, cols: int) -> list[list[dict[int, Region]]]:
        """The output regions of every tile of every block.

        The last block is divided for even work. A line of an earlier one may lie anywhere where both its neighbours need
        what it divides without a byte more of halo; within that it goes where the earlier block's work is even.

        Raises:
            PlanError: a tile would be empty.
        """
        found: list[list[dict[int, Region]]] = []
        needs: list[dict[int, Region]] = []
        for span in reversed(self.spans(cuts)):
            lines = self._even_lines(span, rows, cols)
            if needs:
                lines = {t: _moved(own, [n[t] for n in needs if t in n], cols) for t, own in lines.items()}
            tiles = tiles_of(lines, rows, cols)
            needs = [self.work(span, outputs).inputs for outputs in tiles]
            found.insert(0, tiles)
        return found

    def _even_lines(self, span: Span, rows: int, cols: int) -> dict[int, Lines]:
        key = (span.given, span.cut.name, rows, cols)
        if key not in self._lines:
            own = Cut(span.cut.name, span.cut.tensors, span.ops)
            self._lines[key] = self.partition.lines(own, rows, cols)
        return self._lines[key]

    def work(self, span: Span, outputs: Mapping[int, Region]) -> Work:
        """What a tile with these output regions needs and computes. A tensor that passes the block by is needed, too."""
        key = (span.given, span.cut.name, tuple(outputs.values()))
        if key not in self._works:
            regions = self.partition.regions(span.ops, outputs)
            inputs = {t: regions[t] for t in span.given if t in regions}
            live = live_bytes(self.partition.graph, span.ops, regions, list(outputs))
            self._works[key] = Work(inputs, self.partition.flops(span.ops, regions), live)
        return self._works[key]


def _moved(own: Lines, needs: Sequence[Region], cols: int) -> Lines:
    """Lines of one tensor, moved to where they divide what the next block's tiles (row by row) need without extra halo."""
    if not needs:
        return own
    rows = [(min(n.y0 for n in row), max(n.y1 for n in row)) for row in _by_row(needs, cols)]
    columns = [
        (min(n.x0 for n in column), max(n.x1 for n in column)) for column in (needs[i::cols] for i in range(cols))
    ]
    return _between(own[0], rows), _between(own[1], columns)


def _by_row(needs: Sequence[Region], cols: int) -> list[Sequence[Region]]:
    return [needs[i : i + cols] for i in range(0, len(needs), cols)]


def _between(lines: tuple[int, ...], spans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Each inner line moved to between the start of the next span and the end of the one before; no strip empty."""
    moved = [lines[0]]
    for line, (_, end), (start, _) in zip(lines[1:], spans, spans[1:]):
        low, high = sorted((start, end))
        moved.append(min(max(line, low), high))
    moved.append(lines[-1])
    return tuple(moved) if all(a < b for a, b in zip(moved, moved[1:])) else lines


def live_bytes(graph: Graph, ops: Sequence[int], regions: Regions, outputs: Sequence[int]) -> int:
    """The most bytes of a tile's maps that are alive at once when its operators run in order."""
    shapes = {t: graph.tensors[t] for t in regions}
    size = {t: r.height * r.width * shapes[t].shape[3] * shapes[t].itemsize for t, r in regions.items()}
    last = {t: i for i in ops for t in graph.ops[i].inputs if t in size} | dict.fromkeys(outputs, len(graph.ops))
    inside = set(ops)
    alive = {t for t in size if graph.producer.get(t, -1) not in inside}
    now = peak = sum(size[t] for t in alive)
    for i in ops:
        now += sum(size[t] for t in graph.ops[i].outputs if t in size)
        peak = max(peak, now)
        ended = {t for t in (*graph.ops[i].inputs, *graph.ops[i].outputs) if t in size and last.get(t, -1) <= i}
        now -= sum(size[t] for t in ended)
    return peak
