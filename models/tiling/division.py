"""Divides the tensors at a plan's cuts: into tiles, by filters or not at all; what each task needs and computes.

Law: the tasks of a block partition each tensor that it gives; what lies between follows from their boxes alone.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple, TypeAlias

from models.graph.effort import effort_of
from models.graph.file import Graph, Op
from models.graph.ops import depth, flops_of, sides
from models.tiling import rewrite
from models.tiling.filters import FilterTask, filter_task
from models.tiling.layout import Layout, common_lines, layout, moved
from models.tiling.partition import Cut, Partition, Regions
from models.tiling.tensor import Pairs
from schemas.contract.errors import PlanError
from schemas.contract.plan import Block, Box, Region, TensorSpec


class Tiles(NamedTuple):
    """Tiles of a grid, numbered row by row: tile ``i`` is lane ``i``'s."""

    rows: int
    cols: int

    @property
    def homes(self) -> range:
        return range(self.rows * self.cols)

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"


class Filters(NamedTuple):
    """``parts`` tasks, each of which computes some of the last axis, in lanes from 0 on."""

    parts: int

    @property
    def homes(self) -> range:
        return range(self.parts)

    def __str__(self) -> str:
        return f"filters {self.parts}"


class Channels(NamedTuple):
    """``parts`` tasks, each of which sums over some of the input channels (``models.tiling.partials``), in lanes from 0 on."""

    parts: int

    @property
    def homes(self) -> range:
        return range(self.parts)

    def __str__(self) -> str:
        return f"channels {self.parts}"


class Whole(NamedTuple):
    """Not divided: all of it in the lane ``home``."""

    home: int = 0

    @property
    def homes(self) -> range:
        return range(self.home, self.home + 1)

    def __str__(self) -> str:
        return f"whole in lane {self.home}" if self.home else "whole"


Division: TypeAlias = Tiles | Filters | Channels | Whole
Piece: TypeAlias = tuple[Cut, Division]  # a block: where it ends, and how it is divided


class Span(NamedTuple):
    """A fused block: the tensors that it is ``given`` by any before it, the cut that it ends at, its operators.

    ``made``: the cut's tensors that it computes. What only passes by is not its business.
    """

    given: tuple[int, ...]
    cut: Cut
    ops: tuple[int, ...]
    made: tuple[int, ...]


class Work(NamedTuple):
    """What a task needs and gives (by tensor), its operations and effort, the most bytes of tensors alive at once, and
    the bytes of the constants that it reads."""

    inputs: dict[int, Box]
    outputs: dict[int, Box]
    flops: int
    effort: int
    live_bytes: int
    weight_bytes: int


class Sums(NamedTuple):
    """What operators cost over whole tensors, and the bytes of the constants that they read."""

    flops: int
    effort: int
    constant_bytes: int


class Tiler:
    """Divides a partition at any cuts; remembers what it has worked out, for a search asks the same things often."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self._spans: dict[tuple[str, ...], Span] = {}
        self._layouts: dict[tuple[object, ...], dict[int, Layout]] = {}
        self._works: dict[tuple[object, ...], Work] = {}
        self._weights: dict[tuple[int, ...], int] = {}
        self._sums: dict[str, tuple[Sums, Sums]] = {}
        self.blocks: dict[tuple[object, ...], Block] = {}  # of models.planning.planner
        self.parts: Pairs = {}  # of models.planning.cost

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
        known, spans, names = {self.partition.image}, list[Span](), list[str]()
        for cut in cuts:
            names.append(cut.name)
            key = tuple(names)
            if key not in self._spans:
                self._spans[key] = self._span(known, cut)
            spans.append(self._spans[key])
            known.update(spans[-1].made)
        return spans

    def _span(self, known: set[int], cut: Cut) -> Span:
        made = tuple(t for t in cut.tensors if t not in known)
        ops, graph = self.partition.between(known, made), self.partition.graph
        read = {t for i in ops for t in graph.data_inputs(graph.ops[i])}
        if not made or not ops:
            raise PlanError(f"the block that ends at {cut.name} computes nothing")
        return Span(tuple(sorted(read & known)), cut, ops, made)

    def planned(self, blocks: Sequence[Block]) -> list[Span]:
        """The fused blocks of a plan."""
        names, known, spans = self.partition.graph.by_name, {self.partition.image}, list[Span]()
        for block in blocks:
            made = tuple(names[spec.name] for spec in block.cut)
            spans.append(self._span(known, Cut(block.name, made, ())))
            known.update(made)
        return spans

    def divide(self, pieces: Sequence[Piece], shares: Sequence[float] = ()) -> list[list[Work]]:
        """What every task of every block needs and gives; ``shares`` of the work for each tile, or even ones.

        A line of a block of tiles may lie anywhere where both its neighbours need what it divides without a byte more of
        halo, if a later block of the same grid reads that; within that it goes where its own work is as asked.

        Raises:
            PlanError: a task would be empty, or the block cannot be divided so.
        """
        found: list[list[Work]] = []
        needs: dict[tuple[int, Tiles], list[Region]] = {}  # of the nearest reader that is divided alike
        for span, (_, division) in reversed(list(zip(self.spans([cut for cut, _ in pieces]), pieces))):
            if isinstance(division, Whole):
                found.insert(0, [self.whole(span)])
            elif isinstance(division, Filters | Channels):
                found.insert(0, [self.filters(span, (i, division.parts)) for i in division.homes])
            else:
                found.insert(0, self._tiles(span, division, shares, needs))
        return found

    def _tiles(
        self, span: Span, grid: Tiles, shares: Sequence[float], needs: dict[tuple[int, Tiles], list[Region]]
    ) -> list[Work]:
        self.check_tiles(span)
        layouts = self._layout(span, grid, tuple(shares))
        layouts = {t: moved(own, needs[t, grid]) if (t, grid) in needs else own for t, own in layouts.items()}
        works = [self.work(span, outputs) for outputs in common_lines(layouts)]
        for t in span.given:
            regions = [work.inputs[t].region for work in works if t in work.inputs]
            if len(regions) == len(grid.homes) and any(region != regions[0] for region in regions):
                needs[t, grid] = regions
        return works

    def check_tiles(self, span: Span) -> None:
        """Whether tiles can compute a block.

        Raises:
            PlanError: they cannot; the message names the operator.
        """
        strange = next((i for i in span.ops if i in self.partition.refused), None)
        if strange is not None:
            told = f"operator {strange} ({self.partition.graph.ops[strange].label}): {self.partition.refused[strange]}"
            raise PlanError(
                f"no tile reaches {span.cut.name}: {told}; name an earlier cut, and this one as whole: --whole, or =whole"
            )
        for t in span.made:
            if len(self.partition.graph.tensors[t].shape) < 4:
                raise PlanError(f"{self.partition.graph.tensors[t].name} cannot be divided into tiles")

    def _layout(self, span: Span, grid: Tiles, shares: tuple[float, ...]) -> dict[int, Layout]:
        key = (span.ops, span.made, grid, shares)
        if key not in self._layouts:
            self._layouts[key] = self._shared(span, grid, shares) if shares else self._even(span, grid)
        return self._layouts[key]

    def _even(self, span: Span, grid: Tiles) -> dict[int, Layout]:
        own = Cut(span.cut.name, span.made, span.ops)
        lines = self.partition.lines(own, grid.rows, grid.cols)
        return {t: Layout(ys, (xs,) * grid.rows) for t, (ys, xs) in lines.items()}

    def _shared(self, span: Span, grid: Tiles, shares: Sequence[float]) -> dict[int, Layout]:
        """The cut's smallest map is divided, the others follow in proportion."""
        shapes = {t: self.partition.graph.tensors[t].shape for t in span.made}
        height, width = (min(shape[axis] for shape in shapes.values()) for axis in (-3, -2))

        def scaled(made: Layout) -> dict[int, Layout]:
            return {t: made.scaled(shape[-3], shape[-2]) for t, shape in shapes.items()}

        def work(made: Layout) -> list[int]:
            return [self.work(span, outputs).effort for outputs in common_lines(scaled(made))]

        return scaled(layout(height, width, grid.cols, shares, work))

    def work(self, span: Span, outputs: Mapping[int, Region]) -> Work:
        """What a tile with these output regions needs and computes."""
        key = (span.ops, tuple(outputs.items()))
        if key not in self._works:
            graph, regions = self.partition.graph, self.partition.regions(span.ops, outputs)
            inputs = {t: Box.tile(graph.tensors[t].shape, regions[t]) for t in span.given if t in regions}
            made = {t: Box.tile(graph.tensors[t].shape, region) for t, region in outputs.items()}
            live = live_bytes(graph, span.ops, regions, list(outputs))
            flops, effort = (count(span.ops, regions) for count in (self.partition.flops, self.partition.effort))
            self._works[key] = Work(inputs, made, flops, effort, live, self._constants(span.ops))
        return self._works[key]

    def whole(self, span: Span) -> Work:
        """The same of a block that is executed whole: of any operators, on whole tensors."""
        key = (span.ops, span.made)
        if key not in self._works:
            graph = self.partition.graph
            inputs, outputs = ({t: Box.whole(graph.tensors[t].shape) for t in tensors} for tensors in (span.given, span.made))
            live = peak_memory(rewrite.whole_graph(self.partition, span.given, span.made))
            flops, effort = self.partition.flops(span.ops), self.partition.effort(span.ops)
            self._works[key] = Work(inputs, outputs, flops, effort, live, self._constants(span.ops))
        return self._works[key]

    def filters(self, span: Span, part: tuple[int, int]) -> Work:
        """The same of the task ``part`` = (number, of so many) of a block that is divided by filters."""
        key = (span.ops, span.made, part)
        if key not in self._works:
            made = self.filter_task(span, part)
            every = range(len(made.graph.ops))
            flops, effort = flops_of(made.graph, every), effort_of(made.graph, every)
            weights = sum(t.nbytes for t in made.graph.tensors if t.data is not None)
            self._works[key] = Work(made.inputs, made.outputs, flops, effort, peak_memory(made.graph), weights)
        return self._works[key]

    def filter_task(self, span: Span, part: tuple[int, int]) -> FilterTask:
        """The graph of such a task."""
        return filter_task(self.partition.graph, span.ops, span.given, span.made, part)

    def _constants(self, ops: tuple[int, ...]) -> int:
        if ops not in self._weights:
            self._weights[ops] = constant_bytes(self.partition.graph, ops)
        return self._weights[ops]


def rest_of(graph: Graph, cut: Cut) -> list[int]:
    """The operators of the tail: all that the cut does not make and that is no constant."""
    inside = set(cut.ops)
    return [i for i, op in enumerate(graph.ops) if i not in inside and graph.data_inputs(op)]


def spec_of(graph: Graph, tensor: int) -> TensorSpec:
    """A tensor of the model as a plan names it."""
    t = graph.tensors[tensor]
    return TensorSpec(name=t.name, shape=t.shape, dtype=t.dtype)


def constant_bytes(graph: Graph, ops: Sequence[int]) -> int:
    """Bytes of the constants that these operators read."""
    return sum(graph.tensors[t].nbytes for t in {t for i in ops for t in graph.ops[i].inputs if t in graph.constant})


def live_bytes(graph: Graph, ops: Sequence[int], regions: Regions, outputs: Sequence[int]) -> int:
    """The most bytes of a tile's maps that are alive at once when its operators run in order."""
    size = {t: r.height * r.width * depth(graph.tensors[t].shape) * graph.tensors[t].itemsize for t, r in regions.items()}
    last = {t: i for i in ops for t in graph.ops[i].inputs if t in size} | dict.fromkeys(outputs, len(graph.ops))
    inside = set(ops)
    alive = {t for t in size if graph.producer.get(t, -1) not in inside}
    now = peak = sum(size[t] for t in alive)
    for i in ops:
        now += sum(size[t] for t in graph.ops[i].outputs if t in size)
        pixels = regions.get(graph.ops[i].outputs[0], Region(0, 0, 0, 0))
        peak = max(peak, now + pixels.height * pixels.width * scratch_bytes(graph, graph.ops[i]))
        ended = {t for t in (*graph.ops[i].inputs, *graph.ops[i].outputs) if t in size and last.get(t, -1) <= i}
        now -= sum(size[t] for t in ended)
    return peak


def scratch_bytes(graph: Graph, op: Op) -> int:
    """What the runtime's kernel holds beside its tensors, of each pixel that it makes: CONV_3D lays its windows out."""
    if op.kind != "CONV_3D":
        return 0
    return graph.tensors[op.outputs[0]].shape[1] * prod(graph.tensors[op.inputs[1]].shape[:-1]) * 4


def peak_memory(graph: Graph) -> int:
    """Largest sum of activations alive at once when operators run in order, in bytes (no constants)."""
    last = {t: i for i, op in enumerate(graph.ops) for t in op.inputs} | dict.fromkeys(graph.outputs, len(graph.ops))
    alive = {t for t in graph.inputs if t in last}
    peak = sum(graph.tensors[t].nbytes for t in alive)
    for i, op in enumerate(graph.ops):
        alive.update(t for t in op.outputs if t not in graph.constant)
        scratch = prod(sides(graph.tensors[op.outputs[0]].shape)) * scratch_bytes(graph, op) if op.kind == "CONV_3D" else 0
        peak = max(peak, sum(graph.tensors[t].nbytes for t in alive) + scratch)
        alive = {t for t in alive if last.get(t, -1) > i}
    return peak
