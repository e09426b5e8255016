"""Divides the maps at a plan's cuts into tiles: where the lines lie, and what each tile needs and computes.

Law: the tiles of a cut partition each of its maps; what lies between two cuts follows from their regions alone.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from models import rewrite
from models.cluster import Exchange
from models.graph import Graph
from models.partition import Cut, Partition, Regions
from models.uneven import Layout, common_lines, layout, moved
from schemas.plan import Block, Region, TensorSpec


class Span(NamedTuple):
    """A fused block: the tensors that it is ``given``, the cut that it ends at, and its operators."""

    given: tuple[int, ...]
    cut: Cut
    ops: tuple[int, ...]

    @property
    def made(self) -> list[int]:
        """The cut's tensors that the block computes: not what only passes it by."""
        return [t for t in self.cut.tensors if t not in self.given]


class Work(NamedTuple):
    """What a tile needs (region of each tensor), its operations and effort, and the most bytes of tensors alive at once."""

    inputs: dict[int, Region]
    flops: int
    effort: int
    live_bytes: int


class Sums(NamedTuple):
    """What operators cost over whole tensors, and the bytes of the constants that they read."""

    flops: int
    effort: int
    constant_bytes: int


class Tiler:
    """Divides a partition at any cuts; remembers what it has worked out, for a search asks the same things often."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self._spans: dict[tuple[tuple[int, ...], str], Span] = {}
        self._layouts: dict[tuple[object, ...], dict[int, Layout]] = {}
        self._works: dict[tuple[object, ...], Work] = {}
        self._sums: dict[str, tuple[Sums, Sums]] = {}
        self.blocks: dict[tuple[object, ...], Block] = {}  # of models.planner
        self.exchanges: dict[tuple[int, int], tuple[Block, Block, tuple[Exchange, ...]]] = {}  # of models.cost

    def sums(self, cut: Cut) -> tuple[Sums, Sums]:
        """Of the operators before ``cut``, and of those behind it."""
        if cut.name not in self._sums:
            before, behind = (self._sum(ops) for ops in (cut.ops, rest_of(self.partition.graph, cut)))
            self._sums[cut.name] = before, behind
        return self._sums[cut.name]

    def _sum(self, ops: Sequence[int]) -> Sums:
        partition = self.partition
        return Sums(partition.flops(ops), partition.effort(ops), constant_bytes(partition.graph, ops))

    def spans(self, cuts: Sequence[Cut]) -> list[Span]:
        """The fused blocks from the image over these cuts."""
        ends = [(self.partition.image,), *(cut.tensors for cut in cuts)]
        return [self._span(given, cut) for given, cut in zip(ends, cuts)]

    def _span(self, given: tuple[int, ...], cut: Cut) -> Span:
        key = (given, cut.name)
        if key not in self._spans:
            self._spans[key] = Span(given, cut, self.partition.between(given, cut.tensors))
        return self._spans[key]

    def divide(
        self, cuts: Sequence[Cut], rows: int, cols: int, shares: Sequence[float] = ()
    ) -> list[list[dict[int, Region]]]:
        """The output regions of every tile of every block; ``shares`` of the work for each tile, or even ones.

        The last block is divided for that. A line of an earlier one may lie anywhere where both its neighbours need
        what it divides without a byte more of halo; within that it goes where the earlier block's work is as asked.

        Raises:
            PlanError: a tile would be empty.
        """
        found: list[list[dict[int, Region]]] = []
        needs: list[dict[int, Region]] = []
        for span in reversed(self.spans(cuts)):
            layouts = self._layout(span, rows, cols, tuple(shares))
            if needs:
                own_needs = {t: [need[t] for need in needs if t in need] for t in layouts}
                layouts = {t: moved(own, own_needs[t]) if own_needs[t] else own for t, own in layouts.items()}
            tiles = common_lines(layouts)
            needs = [self.work(span, outputs).inputs for outputs in tiles]
            found.insert(0, tiles)
        return found

    def _layout(self, span: Span, rows: int, cols: int, shares: tuple[float, ...]) -> dict[int, Layout]:
        key = (span.given, span.cut.name, rows, cols, shares)
        if key not in self._layouts:
            self._layouts[key] = self._shared(span, cols, shares) if shares else self._even(span, rows, cols)
        return self._layouts[key]

    def _even(self, span: Span, rows: int, cols: int) -> dict[int, Layout]:
        own = Cut(span.cut.name, span.cut.tensors, span.ops)
        return {t: Layout(ys, (xs,) * rows) for t, (ys, xs) in self.partition.lines(own, rows, cols).items()}

    def _shared(self, span: Span, cols: int, shares: Sequence[float]) -> dict[int, Layout]:
        """The cut's smallest map is divided, the others follow in proportion."""
        shapes = {t: self.partition.graph.tensors[t].shape for t in span.cut.tensors}
        height, width = (min(shape[axis] for shape in shapes.values()) for axis in (1, 2))

        def scaled(made: Layout) -> dict[int, Layout]:
            return {t: made.scaled(shape[1], shape[2]) for t, shape in shapes.items()}

        def work(made: Layout) -> list[int]:
            return [self.work(span, outputs).effort for outputs in common_lines(scaled(made))]

        return scaled(layout(height, width, cols, shares, work))

    def work(self, span: Span, outputs: Mapping[int, Region]) -> Work:
        """What a tile with these output regions needs and computes. A tensor that passes the block by is needed, too."""
        key = (span.given, span.cut.name, tuple(outputs.values()))
        if key not in self._works:
            regions = self.partition.regions(span.ops, outputs)
            inputs = {t: regions[t] for t in span.given if t in regions}
            live = live_bytes(self.partition.graph, span.ops, regions, list(outputs))
            flops, effort = (count(span.ops, regions) for count in (self.partition.flops, self.partition.effort))
            self._works[key] = Work(inputs, flops, effort, live)
        return self._works[key]

    def whole(self, span: Span) -> Work:
        """The same of a block that is executed whole: of any operators, on whole tensors."""
        key = (span.given, span.cut.name)
        if key not in self._works:
            graph = self.partition.graph
            read = {t for i in span.ops for t in graph.data_inputs(graph.ops[i])}.union(span.cut.tensors)
            inputs = {t: extent(graph, t) for t in span.given if t in read}
            live = peak_memory(rewrite.whole_graph(self.partition, list(inputs), span.made))
            self._works[key] = Work(inputs, self.partition.flops(span.ops), self.partition.effort(span.ops), live)
        return self._works[key]


def rest_of(graph: Graph, cut: Cut) -> list[int]:
    """The operators of the tail: all that the cut does not make and that is no constant."""
    inside = set(cut.ops)
    return [i for i, op in enumerate(graph.ops) if i not in inside and graph.data_inputs(op)]


def constant_bytes(graph: Graph, ops: Sequence[int]) -> int:
    """Bytes of the constants that these operators read."""
    return sum(graph.tensors[t].nbytes for t in {t for i in ops for t in graph.ops[i].inputs if t in graph.constant})


def extent(graph: Graph, tensor: int) -> Region:
    """The region that is all of a tensor, as in ``schemas.plan.TensorSpec``."""
    t = graph.tensors[tensor]
    return TensorSpec(name=t.name, shape=t.shape, dtype=t.dtype).extent


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


def peak_memory(graph: Graph) -> int:
    """Largest sum of activations alive at once when operators run in order, in bytes (no constants)."""
    last = {t: i for i, op in enumerate(graph.ops) for t in op.inputs} | dict.fromkeys(graph.outputs, len(graph.ops))
    alive = {t for t in graph.inputs if t in last}
    peak = sum(graph.tensors[t].nbytes for t in alive)
    for i, op in enumerate(graph.ops):
        alive.update(t for t in op.outputs if t not in graph.constant)
        peak = max(peak, sum(graph.tensors[t].nbytes for t in alive))
        alive = {t for t in alive if last.get(t, -1) > i}
    return peak
