"""Finds the plan that wins on a cluster: cuts, grid, number of blocks, who runs the tail; one node alone if that is faster.

A beam search over cut positions for each grid, with the simulation as the judge: plans of one block, the best of them
divided once more, and so on. Only cuts that can matter are tried: where a later cut moves no more bytes and needs no halo,
the earlier one is never better.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

from models.planning.cluster import Cluster
from models.planning.cost import Prediction, memory, predict_blocks, workload
from models.planning.deeperthings import Layer, Way
from models.planning.deeperthings import best as best_ways
from models.planning.planner import BlockChoices, cut_bytes, fused_blocks, in_parts, reusing
from models.planning.shares import shares
from models.tiling.division import Channels, Division, Filters, Piece, Tiler, Tiles, Whole, constant_bytes
from models.tiling.filters import LEAST, has_filters, keeps_channels
from models.tiling.partials import is_summable, layer_of, with_partials
from models.tiling.partition import Cut, Partition
from schemas.contract.errors import PlanError
from schemas.contract.plan import Block, Region

OBJECTIVES = ("latency", "throughput", "traffic", "memory")
MAX_BLOCKS = 8
ONE = Tiles(1, 1)
FINE = (Tiles(4, 4), Tiles(5, 5))  # small tiles, for nodes with little memory
_BEAM = 4  # plans of each grid that are divided once more
_CUTS = 20  # cuts that are tried at most
_IN_VAIN = 2  # so often in a row one block more may gain nothing before no more are tried
_SHIFTED = 6  # plans that are tried with uneven tiles
_WEIGHTS = (0.5, 1.0, 1.5, 2.0)  # how much of what a source does beside computing is taken off its tile
_SLOWER = 1.25  # what "traffic" may cost in latency
_ALIKE = 1.06  # predictions that near cannot be told apart


@dataclass(frozen=True)
class Choice:
    """A plan that was considered: where its blocks end and how each is divided, its tiles' shares, what is expected of it."""

    pieces: tuple[Piece, ...]
    prediction: Prediction
    busy_s: float  # of all processors and links together
    shares: tuple[float, ...] = ()  # of the work for each tile; empty: even ones

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """From the image on."""
        return tuple(cut for cut, _ in self.pieces)

    @property
    def grid(self) -> Tiles:
        """That of the first block; 1x1 for one that is not divided into tiles."""
        first = self.pieces[0][1]
        return first if isinstance(first, Tiles) else ONE

    @property
    def whole(self) -> int:
        """Blocks at the end that are executed whole: an edge runs the tail, or the start of it."""
        kinds = [isinstance(division, Whole) for _, division in self.pieces]
        return next((i for i, whole in enumerate(reversed(kinds)) if not whole), len(kinds))

    @property
    def lanes(self) -> int:
        return len({home for _, division in self.pieces for home in division.homes})

    @property
    def is_alone(self) -> bool:
        """One node computes all blocks of a frame."""
        return self.lanes == 1

    @property
    def name(self) -> str:
        """Divisions and cuts in words; what follows from one division to the next is not repeated."""
        uneven, told, last = " uneven" if self.shares else "", list[str](), ""
        for cut, division in self.pieces:
            told.append(cut.name if str(division) == last else f"{division}{uneven}, {cut.name}")
            last, uneven = str(division), ""
        return " | ".join(told)


@dataclass(frozen=True)
class Found:
    """The chosen plan, its closest rivals (best first) and, where one node alone was faster, why it is that.

    ``other`` is the best of the divided plans where somebody else runs the tail: an edge, or the gateway.
    """

    best: Choice
    rivals: tuple[Choice, ...]
    why: str = ""
    other: Choice | None = None


def judged_by(objective: str, cluster: Cluster) -> str:
    """``objective``, but several cameras are judged by frames a second: with all of them at work no frame is alone."""
    return "throughput" if cluster.sources > 1 and objective == "latency" else objective


def best_plan(partition: Partition, cluster: Cluster, objective: str = "latency", force_split: bool = False) -> Found:
    """The best plan by ``objective``: latency of a frame, frames a second, or bytes a frame (at most a quarter slower).

    Raises:
        PlanError: nothing can be tiled, or no plan fits the memory; the message names the smallest budget that would do.
    """
    if objective not in OBJECTIVES:
        raise PlanError(f"--objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    search = _Search(partition, cluster, objective)
    height, width = partition.graph.tensors[partition.image].shape[-3:-1]
    fine = FINE if cluster.is_limited or objective == "memory" else ()
    for grid in dict.fromkeys((*grids(cluster.nodes, height == width), *fine)):
        search.explore(grid)
    search.finish()
    search.whole()
    search.resume()
    search.split_weights()
    search.pipe()
    search.shift()
    ranked = search.ranked(force_split)
    best = ranked[0]
    other = next((c for c in ranked[1:] if not c.is_alone and (c.whole > 0) != (best.whole > 0)), None)
    return Found(best, tuple(ranked[1:6]), _why(best, ranked, objective) if best.is_alone else "", other)


def by_layers(partition: Partition, cluster: Cluster) -> list[Piece]:
    """Each layer with weights as a block, divided by filters among all nodes; what has none is executed whole."""
    search = _Search(partition, cluster, "memory")
    return [(cut, search._by_filters(cut, cluster.nodes)) for cut in search._layers()]


def approximate_plan(
    partition: Partition, cluster: Cluster, objective: str, exact: Found
) -> tuple[Found, Partition, dict[str, int]]:
    """The best plan where layers may be summed in parts, its partition and those layers; ``exact`` if none is better.

    Behind tiles, or from the image on, each layer with weights is divided in the way that moves the fewest elements by
    DeeperThings' formula; the simulation judges what comes of it.
    """
    search = _Search(partition, cluster, objective)
    found, least = (exact, partition, dict[str, int]()), exact.best.prediction.price(objective)
    heads = [tuple(itertools.takewhile(lambda piece: isinstance(piece[1], Tiles), choice.pieces))
             for choice in (exact.best, *exact.rivals)]  # fmt: skip
    for head in dict.fromkeys([(), *heads]):
        pieces, parts = search.in_ways(head)
        if not parts:
            continue
        divided = Partition(with_partials(partition.graph, parts))
        own = _Search(divided, cluster, objective)
        choice = own.named(pieces)
        if choice is None or choice.prediction.excess(cluster) > 0:
            continue
        slow = objective == "traffic" and choice.prediction.latency_s > _SLOWER * exact.best.prediction.latency_s
        if not slow and choice.prediction.price(objective) < least:
            found = Found(choice, (exact.best, *exact.rivals)), divided, parts
            least = choice.prediction.price(objective)
    return found


def fits_undivided(tiler: Tiler, cut: Cut, cluster: Cluster) -> bool:
    """Whether a source has the memory to compute its frames whole up to ``cut``."""
    if not cluster.is_limited:
        return True
    whole = fused_blocks(tiler, [(cut, Whole())], classes=False)
    need = memory(tiler, whole, cut, cluster)["edge1"]
    sources = (cluster.budget(f"edge{i + 1}") for i in range(cluster.sources))
    return all(budget is None or need <= budget for budget in sources)


def _why(best: Choice, ranked: Sequence[Choice], objective: str) -> str:
    split = next((choice for choice in ranked if not choice.is_alone), None)
    alone_s, alone_fps = best.prediction.latency_s, best.prediction.throughput_fps
    if split is None:
        return "one node alone: there is no other plan"
    if objective == "throughput":
        split_fps = split.prediction.throughput_fps
        return f"whole frames, each on one node: {alone_fps:.2f} frames/s, {split_fps:.2f} by {split.name}"
    return f"one node alone is faster: {alone_s:.3f} s a frame, {split.prediction.latency_s:.3f} s by {split.name}"


def grids(nodes: int, is_square: bool = False) -> list[Tiles]:
    """Grids worth trying: near-square ones of up to as many tiles as nodes, and some of up to twice as many.

    Of a square image's grids one orientation is as good as the other.
    """
    if nodes == 1:
        return [ONE]
    counts = sorted({*range(max(2, nodes - 3), nodes + 1), *(nodes // k for k in (2, 3, 4) if nodes // k > 1)})
    more = [count for count in (nodes + nodes // 2, 2 * nodes) if count > nodes]
    found = [ONE]
    for count in (*counts, *more):
        rows = next(r for r in range(int(count**0.5), 0, -1) if count % r == 0)
        if count // rows <= 3 * rows or count in (2, nodes):
            found += [Tiles(rows, count // rows), *([] if is_square else [Tiles(count // rows, rows)])]
    return list(dict.fromkeys(found))


def useful_cuts(partition: Partition, most: int = _CUTS) -> list[Cut]:
    """The cuts that can be part of the best plan, shallow to deep, at most so many; the deepest is always among them."""
    cuts = sorted(partition.cuts, key=lambda cut: (len(cut.ops), cut.ops[-1]))
    kept = [
        cut for i, cut in enumerate(cuts)
        if not any(_replaces(partition, cut, later) for later in cuts[i + 1 : i + 4])
    ]  # fmt: skip
    while len(kept) > most:  # the dearest to cross goes
        kept.remove(max(kept[:-1], key=lambda cut: cut_bytes(partition.graph, cut)))
    return kept


def _replaces(partition: Partition, cut: Cut, later: Cut) -> bool:
    """Whether ``later`` moves no more bytes than ``cut`` and follows from it without any halo."""
    graph = partition.graph
    if not set(cut.ops) < set(later.ops) or cut_bytes(graph, later) > cut_bytes(graph, cut):
        return False
    ops = partition.between(cut.tensors, later.tensors)
    needs = []
    for half in (0, 1):
        outputs = {}
        for t in later.tensors:
            height, width = graph.tensors[t].shape[-3:-1]
            if height < 2 or width < 2:
                return False
            y, x = height // 2, width // 2
            outputs[t] = Region(y, x, height, width) if half else Region(0, 0, y, x)
        needs.append(partition.regions(ops, outputs))
    return all(t not in needs[0] or needs[0][t].common(needs[1][t]) is None for t in cut.tensors)


@dataclass
class _Search:
    """What has been tried so far."""

    partition: Partition
    cluster: Cluster
    objective: str
    tried: dict[tuple[object, ...], Choice | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tiler = Tiler(self.partition)
        self.fitting: dict[str, bool] = {}
        self.fastest = 0.0
        self.cuts = useful_cuts(self.partition)
        self.end = self._end()
        if not self.cuts and self.end is None:
            raise PlanError(f"this model cannot be divided at all: {self.partition.describe_blocker()}")

    def _end(self) -> Cut | None:
        """How far an edge can compute: to the model's end, or the deepest cut where it needs what the gateway has."""
        try:
            return self.partition.end
        except PlanError:
            return self.cuts[-1] if self.cuts else None

    def explore(self, grid: Tiles) -> None:
        """Plans of this grid with one block, then of two that hold a good cut of the first, and so on."""
        beam = self._tried([(cut, grid)] for cut in self.cuts)
        if len(grid.homes) in range(2, self.cluster.nodes + 1):
            best, in_vain = min(map(self._price, beam), default=0.0), 0
            for _ in range(MAX_BLOCKS - 1):
                seeds = self._seeds(beam)
                beam = self._tried([(cut, grid) for cut in chain] for seed in seeds for chain in self._divided(seed.cuts))
                price = min(map(self._price, beam), default=float("inf"))
                in_vain = in_vain + 1 if price >= best else 0
                best = min(best, price)
                if in_vain == _IN_VAIN or price > 1.5 * best:
                    break

    def finish(self) -> None:
        """The best plans of each grid and last cut once more, with the rest executed whole on the edge of lane 0."""
        for choice in self._best_of_each():
            least = 2 if self.end is None or self.partition.is_tileable(self.end) else 1
            fits = choice.lanes in range(least, self.cluster.nodes + 1)
            if fits and self.end is not None and set(choice.cuts[-1].ops) < set(self.end.ops):
                self._try((*choice.pieces, (self.end, Whole())))

    def whole(self) -> None:
        """One node for all of a frame, where no tile can begin."""
        if not self.cuts and self.end is not None:
            self._try(((self.end, Whole()),))

    def resume(self) -> None:
        """The best plans go on behind what no tile can compute: that is executed whole, where the maps stay where they are.

        A squeeze-and-excitation's mean and dense layers are such a thing; the map that they scale passes them by.
        """
        if not any(hop.whole for hop in self.partition.hops):
            return
        height, width = self.partition.graph.tensors[self.partition.image].shape[-3:-1]
        for grid in grids(self.cluster.nodes, height == width):
            if len(grid.homes) not in range(2, self.cluster.nodes + 1):
                continue
            chain: list[Piece] = []
            for before, behind in self.partition.hops:
                chain += [(before, grid)] if before is not None else []
                if any(isinstance(division, Tiles) for _, division in chain):
                    self._try(tuple(chain))
                if behind is not None:
                    chain.append((behind, Whole()))
            if self.end is not None and set(chain[-1][0].ops) < set(self.end.ops):
                chain.append((self.end, Whole()))
            self._try(tuple(chain))

    def split_weights(self) -> None:
        """The best plans of tiles go on by filters: each layer with weights among all nodes, the rest where it is."""
        nodes = self.cluster.nodes
        if nodes < 2 or self.end is None:
            return
        layers = self._layers()
        starts = [c for c in self._best_of_each() if all(isinstance(division, Tiles) for _, division in c.pieces)]
        starts = [c for c in starts if 1 < c.lanes <= nodes]
        if self.objective == "memory" or self.cluster.is_limited:  # the least of each cut: what follows holds the weights
            least: dict[str, Choice] = {}
            for choice in sorted(starts, key=lambda c: c.prediction.edge_memory_bytes):
                least.setdefault(choice.cuts[-1].name, choice)
            starts = list(least.values())
        starts = starts[: 3 * _BEAM]
        for pieces in [(), *(choice.pieces for choice in starts)]:
            done = set(pieces[-1][0].ops) if pieces else set()
            rest = [cut for cut in layers if done < set(cut.ops)]
            for kept in self._least_split(rest, done):
                self._try((*pieces, *kept))

    def _least_split(self, rest: Sequence[Cut], done: set[int]) -> Iterator[list[Piece]]:
        """All of the rest by filters, or only from some layer on, whose weights are most of it; what lies before whole."""
        nodes, graph = self.cluster.nodes, self.partition.graph
        weights, before = list[int](), set(done)
        for cut in rest:
            weights.append(constant_bytes(graph, [i for i in cut.ops if i not in before]))
            before = set(cut.ops)
        for share in (1.0, 0.9, 0.5):
            least = next((i for i in range(len(rest)) if sum(weights[i:]) <= share * sum(weights)), len(rest))
            pieces: list[Piece] = [(rest[least - 1], Whole())] if least else []
            yield [*pieces, *((cut, self._by_filters(cut, nodes)) for cut in rest[least:])]

    def _by_filters(self, cut: Cut, nodes: int) -> Division:
        least = min(self.partition.graph.tensors[t].shape[-1] for t in cut.tensors)
        divided = least >= 2 * LEAST and has_filters(self.partition.graph, cut.ops)
        return Filters(min(nodes, least // LEAST)) if divided else Whole()

    def _layers(self) -> list[Cut]:
        """Cuts behind each operator with weights that are divided by filters, and behind what follows it channel by channel."""
        graph, end = self.partition.graph, self.end
        assert end is not None
        found: list[Cut] = []
        done: set[int] = set()
        for cut in [*self.partition.chain, end]:
            new = [i for i in cut.ops if i not in done]
            if not new or not done < set(cut.ops):
                continue
            if has_filters(graph, new):
                found.append(cut)
            elif found and keeps_channels(graph, new):
                found[-1] = cut
            elif cut is not end:
                continue  # it goes with the next layer, which needs all of it
            else:
                found.append(cut)
            done = set(cut.ops)
        return found

    def in_ways(self, head: tuple[Piece, ...]) -> tuple[BlockChoices, dict[str, int]]:
        """Behind ``head`` each layer in the way that moves the fewest elements: blocks, and the layers summed in parts."""
        nodes, graph = self.cluster.nodes, self.partition.graph
        if nodes < 2 or self.end is None:
            return [], {}
        done = set(head[-1][0].ops) if head else set()
        cuts = [cut for cut in self._layers() if done < set(cut.ops)]
        spans = self.tiler.spans([*(cut for cut, _ in head), *cuts])[len(head) :]
        layers, before = list[Layer](), tuple[int, ...]()
        for cut, span in zip(cuts, spans):
            divided = isinstance(self._by_filters(cut, nodes), Filters) and has_filters(graph, span.ops)
            given, made = (sum(prod(graph.tensors[t].shape) for t in tensors) for tensors in (span.given, span.made))
            alone = divided and len(span.made) == len(span.given) == 1
            ways: list[Way] = ["LOP", *(["FUSE1"] if alone else [])]  # type: ignore[list-item]
            if alone and is_summable(graph, graph.tensors[span.made[0]].name, nodes):
                ways += ["LIP", "FUSE2"]
            layers.append(Layer(given, made, span.given == before, tuple(ways)))
            before = span.made
        _, chosen = best_ways(layers, nodes) if layers else (0.0, [])
        pieces: list[tuple[str, Division]] = [(cut.name, division) for cut, division in head]
        for cut, span, way in zip(cuts, spans, chosen):
            if way == "LOP":
                pieces.append((cut.name, self._by_filters(cut, nodes)))
            elif way != "FUSE1":
                source = graph.ops[layer_of(graph, graph.tensors[span.made[0]].name)].inputs[0]
                if way == "LIP" and source not in span.given:  # a map laid flat, which some channels of it do not give
                    pieces.append((graph.tensors[source].name, Whole()))
                pieces.append((cut.name, Channels(nodes)))
        return in_parts(graph, pieces) if any(isinstance(d, Channels) for _, d in pieces) else ([], {})

    def named(self, pieces: BlockChoices) -> Choice | None:
        """The plan of these blocks; None: they cannot be had."""
        try:
            return self._try(tuple((self.partition.find(cut) if isinstance(cut, str) else cut, d) for cut, d in pieces))
        except PlanError:
            return None

    def pipe(self) -> None:
        """Consecutive stages of about equal effort on different nodes; the slowest of them bounds the frames a second."""
        if self.objective != "throughput" or self.cluster.nodes < 2 or self.end is None:
            return
        cuts = [cut for cut in self.partition.every_cut if set(cut.ops) < set(self.end.ops)]
        done = [self.partition.effort(cut.ops) for cut in cuts]
        total = self.partition.effort(self.end.ops)
        for stages in range(2, self.cluster.nodes + 1):
            speeds = self.cluster.speeds[:stages]
            pieces: list[Piece] = []
            for stage in range(1, stages):
                goal = total * sum(speeds[:stage]) / sum(speeds)
                near = min(range(len(cuts)), key=lambda i: abs(done[i] - goal), default=None)
                if near is not None and (not pieces or set(pieces[-1][0].ops) < set(cuts[near].ops)):
                    pieces.append((cuts[near], Whole(len(pieces))))
            if len(pieces) == stages - 1:
                self._try((*pieces, (self.end, Whole(len(pieces)))))

    def _best_of_each(self) -> list[Choice]:
        """The best plan of each grid and last cut, best first."""
        best: dict[tuple[object, ...], Choice] = {}
        for choice in sorted((c for c in self.tried.values() if c is not None), key=self._price):
            best.setdefault((choice.grid, choice.cuts[-1].name), choice)
        return list(best.values())

    def _seeds(self, choices: Sequence[Choice]) -> list[Choice]:
        """The best of each last cut, and of those the best: who runs the tail must stay open for a while."""
        best: dict[str, Choice] = {}
        for choice in sorted(choices, key=self._price):
            best.setdefault(choice.cuts[-1].name, choice)
        return sorted(best.values(), key=self._price)[:_BEAM]

    def _divided(self, cuts: Sequence[Cut]) -> Iterator[list[Cut]]:
        """Every way to put one more cut in, the end included."""
        for cut in self.cuts:
            chain = sorted({*cuts, cut}, key=lambda c: len(c.ops))
            if len(chain) > len(cuts) and all(set(a.ops) < set(b.ops) for a, b in zip(chain, chain[1:])):
                yield chain

    def _tried(self, chains: Iterable[Sequence[Piece]]) -> list[Choice]:
        return [choice for chain in chains if (choice := self._try(tuple(chain))) is not None]

    def shift(self) -> None:
        """The best plans with a tile for each node once more, with tiles of uneven work."""
        even = [c for c in self.tried.values() if c is not None and len(c.grid.homes) == c.lanes == self.cluster.nodes]
        for choice in sorted(even, key=self._price)[:_SHIFTED]:
            spread = list(itertools.takewhile(lambda piece: piece[1] == choice.grid, choice.pieces))  # noqa: B023
            blocks = fused_blocks(self.tiler, spread, classes=False)
            work = workload(self.tiler, blocks, spread[-1][0])
            for weight in _WEIGHTS:
                found = shares(self.cluster, work, weight)
                if found is not None:
                    self._try(choice.pieces, tuple(found))

    def _try(self, pieces: tuple[Piece, ...], shares: tuple[float, ...] = ()) -> Choice | None:
        key = (tuple((cut.name, division) for cut, division in pieces), shares)
        if key not in self.tried:
            self.tried[key] = self._judge(pieces, shares)
        return self.tried[key]

    def _judge(self, pieces: tuple[Piece, ...], shares: tuple[float, ...]) -> Choice | None:
        try:
            blocks: tuple[Block, ...] = fused_blocks(self.tiler, pieces, False, shares)
        except PlanError:  # this cut's maps are smaller than the grid
            return None
        last = pieces[-1][0]
        if len(blocks) == 1 and len(blocks[0].tiles) > self.cluster.nodes and not shares:
            blocks = (reusing(blocks[0]),)
        steady = self.objective == "throughput"
        if steady and self._most_fps(blocks, last) < self.fastest / _ALIKE and not self.cluster.is_limited:
            return None
        if last.name not in self.fitting:
            self.fitting[last.name] = fits_undivided(self.tiler, last, self.cluster)
        prediction = predict_blocks(self.tiler, blocks, last, self.cluster, steady, self.fitting[last.name])
        self.fastest = max(self.fastest, prediction.throughput_fps if steady else 0.0)
        return Choice(pieces, prediction, self._busy_s(blocks, last, prediction), shares)

    def _most_fps(self, blocks: Sequence[Block], cut: Cut) -> float:
        """Frames a second that no run of these blocks passes: all processors at work, nothing in their way."""
        edges_s = sum(t.effort for block in blocks for t in block.tiles) / sum(self.cluster.speeds)
        tail_s = self.tiler.sums(cut)[1].effort / self.cluster.gateway_flops_s
        return 1 / max(edges_s, tail_s, 1e-9)

    def _busy_s(self, blocks: Sequence[Block], cut: Cut, prediction: Prediction) -> float:
        cluster = self.cluster
        edges_s = sum(t.effort for block in blocks for t in block.tiles) * cluster.nodes / sum(cluster.speeds)
        return edges_s + self.tiler.sums(cut)[1].effort / cluster.gateway_flops_s + prediction.wire_bytes / cluster.bytes_s

    def _price(self, choice: Choice) -> float:
        """What the search makes small; bytes are compared at last, among the fast."""
        return choice.prediction.price("latency" if self.objective == "traffic" else self.objective)

    def ranked(self, split: bool) -> list[Choice]:
        """All that fit the memory, the best first, then by price; with ``split``, one node alone comes last.

        Of plans that no prediction can tell apart the best is the one that keeps processors and links least busy; for
        latency it is a divided one.

        Raises:
            PlanError: none fits.
        """
        known = [choice for choice in self.tried.values() if choice is not None]
        if not known:
            raise PlanError("no cut of this model can be divided: every map is smaller than one tile")
        fit = [c for c in known if c.prediction.excess(self.cluster) <= 0]
        if not fit:
            least = min(known, key=lambda c: c.prediction.excess(self.cluster))
            over = {host: need - (self.cluster.budget(host) or need) for host, need in least.prediction.edges.items()}
            host = max(over, key=lambda edge: over[edge])
            need, budget = least.prediction.edges[host], self.cluster.budget(host) or 0
            raise PlanError(
                f"no plan fits {budget / 1e6:.1f} MB an edge: the smallest budget that would do is "
                f"{-(-need // 100_000) / 10:.1f} MB ({least.name}); raise --memory to at least that"
            )
        fit.sort(key=lambda c: (split and c.is_alone, self._price(c)))
        first, limit = fit[0], self._price(fit[0])
        if self.objective == "traffic":
            close = [c for c in fit if self._price(c) <= _SLOWER * limit]
            first = min(close, key=lambda c: (c.prediction.wire_bytes, self._price(c)))
        elif self.objective == "throughput" or (self.objective != "memory" and not first.is_alone):
            whole = self.objective == "throughput" and (first.is_alone or not split)
            close = [c for c in fit if self._price(c) <= _ALIKE * limit and (whole or not c.is_alone)]
            first = min(close, key=lambda c: c.busy_s)
        return [first, *(c for c in fit if c is not first)]
