"""Where a model may be cut, how a cut's maps are divided into tiles, and what region of every tensor a tile needs.

A cut is a set of tensors (usually one): everything above it is the fused block, everything below it the tail. Regions
propagate backwards from a tile's outputs over the operator graph, with the hull where branches join (DeepThings 2018,
eq. 1 and 2, on a graph instead of a chain).
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, TypeAlias

import numpy as np

from models.graph.effort import effort_at, whole_effort
from models.graph.file import Graph, Op
from models.graph.ops import RULES, blocker, flops_of, sides
from models.graph.permutations import fuse_permutations
from models.graph.prepare import image_input, prepared
from models.tiling.extents import Extents, Tables, areas, extents
from models.tiling.filters import LEAST, has_filters
from schemas.contract.errors import PlanError
from schemas.contract.plan import Region, TensorSpec

Regions = dict[int, Region]
Lines: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # row borders and column borders, from 0 to the map's size
END = "end"  # the name of a cut behind which nothing is left


@dataclass(frozen=True)
class Cut:
    """``tensors`` divide the model: ``ops`` (indices, in order) make them of the image; ``name`` joins their names."""

    name: str
    tensors: tuple[int, ...]
    ops: tuple[int, ...]


@dataclass(frozen=True)
class Blocker:
    """An operator that ends the tileable prefix, and why."""

    op: int
    kind: str
    reason: str


class Hop(NamedTuple):
    """Where tiles end before operators that no tile can compute, and the first cut behind those, which are executed whole."""

    tiles: Cut | None
    whole: Cut | None


class Partition:
    """A model seen as a tileable prefix and a tail. ``image`` is the input that tiles are cropped from.

    ``graph`` is the model's, prepared (``models.graph.prepare``) and with operators joined that can be tiled only together
    (``models.graph.permutations``).
    """

    def __init__(self, graph: Graph) -> None:
        graph = prepared(graph)
        self.graph = fuse_permutations(graph)
        self.image = image_input(graph)
        self.blockers: list[Blocker] = []
        self.tileable = self._tileable()

    @functools.cached_property
    def refused(self) -> dict[int, str]:
        """Operators that no tile can compute, and why; in any other a tile may begin, not only where tiles reach it."""
        graph = self.graph
        return {i: reason for i, op in enumerate(graph.ops) if (reason := blocker(graph, op)) and graph.data_inputs(op)}

    def _tileable(self) -> frozenset[int]:
        """Operators that can be tiled and depend on the image through such operators alone."""
        ready, ops = {self.image}, set()
        beyond: set[int] = set()  # what depends on a blocker: its operators are not named again
        for i, op in enumerate(self.graph.ops):
            needed = self.graph.data_inputs(op)
            if beyond.intersection(needed):
                beyond.update(op.outputs)
                continue
            if ready.isdisjoint(needed):
                continue
            strange = [self.graph.tensors[t].name for t in needed if t not in ready]
            reason = f"it needs {strange[0]}, which is not made of the image" if strange else blocker(self.graph, op)
            if reason is None:
                ops.add(i)
                ready.update(op.outputs)
            else:
                self.blockers.append(Blocker(i, op.label, reason))
                beyond.update(op.outputs)
        return frozenset(ops)

    @functools.cached_property
    def cuts(self) -> list[Cut]:
        """Legal cuts that tiles reach, in execution order. Several prefixes may reach a set of tensors: the first counts."""
        return self._cuts(self.tileable)

    @functools.cached_property
    def later(self) -> list[Cut]:
        """Legal cuts that tiles alone do not reach: behind blocks that are divided otherwise, or executed whole."""
        reached, ready = set(self.tileable), {self.image, *(t for i in self.tileable for t in self.graph.ops[i].outputs)}
        for i, op in enumerate(self.graph.ops):
            needed = self.graph.data_inputs(op)
            if i not in reached and needed and ready.issuperset(needed):
                reached.add(i)
                ready.update(op.outputs)
        known = {cut.tensors for cut in self.cuts}
        return [cut for cut in self._cuts(reached) if cut.tensors not in known and self._travels(cut)]

    def _travels(self, cut: Cut) -> bool:
        return not any(_objection(self.graph, t) for t in cut.tensors)

    def _cuts(self, reached: Iterable[int]) -> list[Cut]:
        found: dict[tuple[int, ...], Cut] = {}
        prefix: list[int] = []
        for i in sorted(reached):
            prefix.append(i)
            for ops in (self._ancestors(i), tuple(prefix)):
                tensors = self._boundary(ops)
                if tensors and tensors not in found:
                    found[tensors] = Cut(self._named(tensors), tensors, ops)
        return sorted(found.values(), key=lambda cut: (cut.ops[-1], len(cut.ops)))

    def _ancestors(self, op: int) -> tuple[int, ...]:
        seen, todo = set(), [op]
        while todo:
            i = todo.pop()
            if i not in seen:
                seen.add(i)
                todo += [self.graph.producer[t] for t in self.graph.data_inputs(self.graph.ops[i]) if t != self.image]
        return tuple(sorted(seen))

    def _boundary(self, ops: Iterable[int]) -> tuple[int, ...]:
        """Tensors that leave ``ops``; empty if the image itself does, for the tail never sees the image."""
        inside = set(ops)
        if any(i not in inside for i in self.graph.consumers.get(self.image, ())):
            return ()
        made = sorted(t for i in inside for t in self.graph.ops[i].outputs)
        leaving = (
            t for t in made
            if t in self.graph.outputs or any(i not in inside for i in self.graph.consumers.get(t, ()))
        )  # fmt: skip
        return tuple(leaving)

    def find(self, name: str) -> Cut:
        """The cut of this name, or at this operator's index, or after the operator that makes this tensor.

        Raises:
            PlanError: there is no such cut; the message names some that there are.
        """
        by_op = {cut.ops[-1]: cut for cut in reversed([*self.cuts, *self.later])}
        for cut in (*self.cuts, *self.later):
            if name == cut.name:
                return cut
        if name == END or name == self._named(self.graph.outputs):
            return self.end
        index = int(name) if name.isdecimal() else self.graph.producer.get(self.graph.by_name.get(name, -1), -1)
        if index in by_op:
            return by_op[index]
        if not self.cuts and name == "auto":
            raise PlanError(f"this model cannot be tiled at all: {self.describe_blocker()}")
        some = ", ".join(cut.name for cut in [*self.later, *self.cuts][-3:]) or "none, for nothing is made of the image alone"
        raise PlanError(f"no legal cut {name!r} in this model; the deepest ones are {some} (see 'dt inspect')")

    def _named(self, tensors: Iterable[int]) -> str:
        return "+".join(self.graph.tensors[t].name for t in dict.fromkeys(tensors))

    @functools.cached_property
    def end(self) -> Cut:
        """The model's outputs: a cut behind which the gateway has nothing left to compute.

        Only a block that is executed whole may end here, if operators on the way cannot be tiled.

        Raises:
            PlanError: an edge cannot compute so far, for the rest needs more than the image (as recurrent models do), or
                gives what does not travel.
        """
        graph, tensors = self.graph, tuple(dict.fromkeys(self.graph.outputs))
        for cut in self.cuts:
            if set(cut.tensors) == set(tensors):
                return cut
        ops = self.between((self.image,), tensors)
        needed = [t for i in ops for t in graph.data_inputs(graph.ops[i]) if t not in graph.producer and t != self.image]
        if needed:
            name = graph.tensors[needed[0]].name
            told = f"besides the image it needs {name!r}, and what a model remembers is kept by the gateway"
            raise PlanError(f"no edge computes this model to its end: {told}; cut it before that")
        unmade = [graph.tensors[t].name for t in tensors if t not in graph.producer]
        if unmade or self.image in tensors:
            raise PlanError(f"no edge computes this model to its end: nothing makes its output {(unmade or ['image'])[0]!r}")
        for told in (_objection(graph, t) for t in tensors):
            if told:
                raise PlanError(f"no edge computes this model to its end: {told}")
        return Cut(self._named(tensors), tensors, ops)

    def is_tileable(self, cut: Cut) -> bool:
        """Whether tiles may end at this cut."""
        return self.tileable.issuperset(cut.ops)

    def between(self, inputs: Iterable[int], outputs: Iterable[int]) -> tuple[int, ...]:
        """The operators, in order, that make ``outputs`` of ``inputs``: those of one block between two cuts."""
        given, seen, todo = set(inputs), set[int](), list(outputs)
        while todo:
            t = todo.pop()
            if t not in given and t in self.graph.producer and self.graph.producer[t] not in seen:
                seen.add(self.graph.producer[t])
                todo += self.graph.data_inputs(self.graph.ops[self.graph.producer[t]])
        return tuple(sorted(seen))

    @functools.cached_property
    def every_cut(self) -> list[Cut]:
        """All legal cuts, shallow to deep."""
        return sorted({cut.tensors: cut for cut in (*self.later, *self.cuts)}.values(), key=lambda cut: len(cut.ops))

    @functools.cached_property
    def chain(self) -> list[Cut]:
        """Those of them that hold all operators up to some one, in execution order: each holds those before it."""
        live = sorted({i for cut in self.every_cut for i in cut.ops})
        place = {i: count for count, i in enumerate(live, 1)}
        return [cut for cut in self.every_cut if place[cut.ops[-1]] == len(cut.ops)]

    @functools.cached_property
    def hops(self) -> list[Hop]:
        """The way through the model over what no tile can compute. The last hop has nothing behind its tiles."""
        found = list[Hop]()
        last, passed = None, set[int]()
        for cut in self.chain:
            if any(i in self.refused and i not in passed for i in cut.ops):
                if found and found[-1].whole is last is not None:
                    found[-1] = Hop(found[-1].tiles, cut)  # no tile between two such runs
                else:
                    found.append(Hop(last, cut))
                passed = set(cut.ops)
            last = cut
        if last is not None and (not found or last is not found[-1].whole):
            found.append(Hop(last, None))
        return found

    @functools.cached_property
    def divisible(self) -> frozenset[int]:
        """Operators of blocks that can be divided, into tiles or by filters, and of what lies whole between such blocks."""
        graph = self.graph
        ends = [hop.tiles for hop in self.hops if hop.tiles and hop.tiles.ops[-1] not in self.refused]
        ends = [cut for cut in ends if any(prod(graph.tensors[t].shape[1:-1]) > 1 for t in cut.tensors)]
        weights = {i for cut in self.every_cut[-1:] for i in cut.ops if has_filters(graph, [i])}
        weights = {i for i in weights if graph.tensors[graph.ops[i].outputs[0]].shape[-1] >= 2 * LEAST}
        ends += [next(cut for cut in self.every_cut if weights.issubset(cut.ops))] if weights else []
        return frozenset(i for cut in ends for i in cut.ops)

    @property
    def divisible_share(self) -> float:
        """How much of the model's operations those are, from 0 to 1."""
        total = self.flops(i for i, op in enumerate(self.graph.ops) if self.graph.data_inputs(op))
        return self.flops(self.divisible) / max(total, 1)

    @property
    def blocked_by(self) -> Blocker | None:
        """The first operator behind all that can be divided, and why it cannot; None: nothing of weight is left."""
        graph = self.graph
        beyond = (i for i, op in enumerate(graph.ops) if graph.data_inputs(op) and i not in self.divisible)
        told = next((b for b in self.blockers if b.op not in self.divisible), None)
        found = next((i for i in beyond if i in self.refused), None)
        return told if found is None else Blocker(found, graph.ops[found].label, self.refused[found])

    def describe_blocker(self) -> str:
        if not self.blockers:
            return "every operator can be tiled"
        first = self.blockers[0]
        return f"operator {first.op} ({first.kind}): {first.reason}"

    def regions(self, ops: Sequence[int], outputs: Mapping[int, Region]) -> Regions:
        """The region of every tensor that a tile with these output regions computes or reads.

        A tensor that several operators read gets the hull of what they need, grown to what its operator can compute.
        """
        graph, need = self.graph, dict(outputs)
        for i in reversed(ops):
            op = graph.ops[i]
            wanted = [need[t] for t in op.outputs if t in need]
            if not wanted:
                continue
            rule = RULES[op.kind]
            out = rule.grow(graph, op, functools.reduce(Region.hull, wanted))
            need.update(dict.fromkeys(op.outputs, out))
            for slot, region in rule.needs(graph, op, out).items():
                t = op.inputs[slot]
                need[t] = need[t].hull(region) if t in need else region
        return need

    def flops(self, ops: Iterable[int], regions: Mapping[int, Region] | None = None) -> int:
        """Operations (2 per multiply-accumulate) of ``ops`` over ``regions``, or over whole maps."""
        if regions is None:
            return sum(self._flops[i] for i in ops)
        return self._sum(ops, regions, self._flops_at)

    def effort(self, ops: Iterable[int], regions: Mapping[int, Region] | None = None) -> int:
        """What these cost a processor (``models.graph.effort``), over ``regions`` or over whole maps."""
        if regions is None:
            return int(sum(self._efforts[i] for i in ops))
        return self._sum(ops, regions, self._effort_at)

    def _sum(self, ops: Iterable[int], regions: Mapping[int, Region], prices: Mapping[int, float]) -> int:
        total = 0.0
        for i in ops:
            region = regions.get(self.graph.ops[i].outputs[0])
            if region is not None:
                region = RULES[self.graph.ops[i].kind].computed(self.graph, self.graph.ops[i], region)
                total += region.height * region.width * prices[i]
        return int(total)

    @functools.cached_property
    def _flops(self) -> list[int]:
        """Of each operator over whole tensors."""
        return [flops_of(self.graph, [i]) for i in range(len(self.graph.ops))]

    @functools.cached_property
    def _efforts(self) -> list[float]:
        return [whole_effort(self.graph, i) for i in range(len(self.graph.ops))]

    @functools.cached_property
    def _flops_at(self) -> "_Prices":
        """Of an operator that can be tiled, for an element of its output map, over all channels."""
        return _Prices(self.graph, lambda graph, op: RULES[op.kind].flops(graph, op))

    @functools.cached_property
    def _effort_at(self) -> "_Prices":
        return _Prices(self.graph, effort_at)

    @functools.cached_property
    def _tables(self) -> Tables:
        return Tables(self.graph)

    def _flops_of_each(self, ops: Sequence[int], outputs: Mapping[int, Extents]) -> list[int]:
        """As ``flops``, for many tiles: one number for each column of the extents of their outputs."""
        regions = self._tables.regions(ops, outputs)
        outs = {i: regions[t] for i in ops if (t := self.graph.ops[i].outputs[0]) in regions}
        made = {i: self._tables.computed(i, out) for i, out in outs.items()}
        if not made:  # these only pass the block by
            return [0] * next(iter(outputs.values())).shape[1]
        prices = np.array([self._flops_at[i] for i in made])
        found: list[int] = (prices @ areas(np.stack(list(made.values()), axis=1))).astype(np.int64).tolist()
        return found

    def lines(self, cut: Cut, rows: int, cols: int) -> dict[int, Lines]:
        """Grid lines of every tensor of the cut: row borders and column borders, from 0 to the map's size.

        Border tiles have no halo on one side, so they get a larger share; the cut's smallest map is divided and the
        others follow in proportion.

        Raises:
            PlanError: a tile would be empty.
        """
        found = self._lines(cut, [(rows, cols)])[0]
        if found is None:
            raise self._leaves_empty(cut, rows, cols)
        return found

    def _leaves_empty(self, cut: Cut, rows: int, cols: int) -> PlanError:
        height, width = self._smallest(cut)
        return PlanError(f"a {rows}x{cols} grid leaves tiles empty: the map at cut {cut.name} is {height}x{width}")

    def _smallest(self, cut: Cut) -> tuple[int, int]:
        """The least height and the least width of the cut's maps."""
        shapes = [self.graph.tensors[t].shape for t in cut.tensors]
        return min(sides(shape)[0] for shape in shapes), min(sides(shape)[1] for shape in shapes)

    def _lines(self, cut: Cut, grids: Sequence[tuple[int, int]]) -> list[dict[int, Lines] | None]:
        """As ``lines``, of several grids; None where a tile would be empty."""
        shapes = {t: self.graph.tensors[t].shape for t in cut.tensors}
        leads = [min(cut.tensors, key=lambda t: (shapes[t][axis], t)) for axis in (-3, -2)]
        sizes = self._smallest(cut)
        fitting = [grid if all(1 <= n <= size for n, size in zip(grid, sizes)) else None for grid in grids]
        counts = [{grid[axis] for grid in fitting if grid} for axis in (0, 1)]
        best = self._divide(cut, leads, counts)

        def scale(lines: tuple[int, ...], size: int) -> tuple[int, ...]:
            return tuple(line * size // lines[-1] for line in lines)

        return [
            {t: (scale(best[0][g[0]], sides(shape)[0]), scale(best[1][g[1]], sides(shape)[1])) for t, shape in shapes.items()}
            if g else None for g in fitting
        ]

    def _divide(self, cut: Cut, leads: Sequence[int], counts: Sequence[Iterable[int]]) -> list[dict[int, tuple[int, ...]]]:
        """Lines along each axis for each number of strips: of the divisions whose dearest strip is within 8 % of the
        cheapest, the one with the fewest different strips (a node pays for every tile class that it loads), then the cheapest.
        """
        sizes = [self.graph.tensors[lead].shape[axis] for axis, lead in enumerate(leads, -3)]
        tried = [{n: _divisions(size, n) for n in numbers} for size, numbers in zip(sizes, counts)]
        prices = self._strip_prices(cut, leads, tried)
        return [{n: _cheapest(lines, prices[axis]) for n, lines in tried[axis].items()} for axis in (0, 1)]

    def _strip_prices(
        self, cut: Cut, leads: Sequence[int], tried: Sequence[Mapping[int, Sequence[tuple[int, ...]]]]
    ) -> list[dict[tuple[int, int], int]]:
        """What each strip of these divisions costs, by axis and its two lines; nothing where there is no choice."""
        prices: list[dict[tuple[int, int], int]] = [{}, {}]
        for lead in dict.fromkeys(leads):
            height, width = sides(self.graph.tensors[lead].shape)
            axes = [axis for axis in (0, 1) if leads[axis] == lead]
            choices = [(axis, lines) for axis in axes for each in tried[axis].values() for lines in each if len(each) > 1]
            spans = list({(axis, *span) for axis, lines in choices for span in zip(lines, lines[1:])})
            strips = [Region(0, a, height, b) if axis else Region(a, 0, b, width) for axis, a, b in spans]
            ops = [i for i in cut.ops if i in self._lineage(lead)]
            for (axis, *span), price in zip(spans, self._flops_of_each(ops, {lead: extents(strips)}) if strips else ()):
                prices[axis][span[0], span[1]] = price
        return prices

    @functools.lru_cache(maxsize=64)  # noqa: B019 - a partition lives as long as the command
    def _lineage(self, tensor: int) -> frozenset[int]:
        return frozenset(self._ancestors(self.graph.producer[tensor]))

    def tile_outputs(self, cut: Cut, rows: int, cols: int) -> list[dict[int, Region]]:
        """The output regions of every tile, row by row: they partition each map of the cut."""
        return tiles_of(self.lines(cut, rows, cols), rows, cols)

    def redundancy(self, cut: Cut, rows: int, cols: int) -> float:
        """Operations of all tiles over those of the whole block.

        Raises:
            PlanError: as ``lines``.
        """
        found = self.redundancies(cut, [(rows, cols)])[0]
        if found is None:
            raise self._leaves_empty(cut, rows, cols)
        return found

    def redundancies(self, cut: Cut, grids: Sequence[tuple[int, int]]) -> list[float | None]:
        """``redundancy`` of each grid; None where a tile would be empty."""
        lines = self._lines(cut, grids)
        tiles = [tiles_of(own, *grid) if own else [] for own, grid in zip(lines, grids)]
        every = [tile for own in tiles for tile in own]
        if not every:
            return [None] * len(grids)
        flops = iter(self._flops_of_each(cut.ops, {t: extents([tile[t] for tile in every]) for t in cut.tensors}))
        least = max(self.flops(cut.ops), 1)
        return [sum(next(flops) for _ in own) / least if own else None for own in tiles]


def _objection(graph: Graph, tensor: int) -> str:
    """Why a tensor does not travel whole; empty if it does."""
    t = graph.tensors[tensor]
    try:
        TensorSpec(name=t.name, shape=t.shape, dtype=t.dtype).check_tensor()
    except ValueError as error:
        return str(error)
    return ""


class _Prices(dict[int, float]):
    """What an element costs that an operator makes; asked once. Tiles may begin again behind what cannot be tiled."""

    def __init__(self, graph: Graph, price: Callable[[Graph, Op], float]) -> None:
        self._graph, self._price = graph, price

    def __missing__(self, op: int) -> float:
        self[op] = found = self._price(self._graph, self._graph.ops[op])
        return found


def tiles_of(lines: Mapping[int, Lines], rows: int, cols: int) -> list[dict[int, Region]]:
    """The region of each tensor for every tile of a grid, row by row, from the grid's lines on each tensor."""
    return [
        {t: Region(ys[r], xs[c], ys[r + 1], xs[c + 1]) for t, (ys, xs) in lines.items()}
        for r in range(rows)
        for c in range(cols)
    ]


def _divisions(size: int, parts: int) -> list[tuple[int, ...]]:
    """Even strips, and where some are inside, strips at the borders that are wider and wider than those."""
    borders = range(size // parts, min(size // 2, (size - parts) // 2 + 2)) if parts > 2 else ()
    return [tuple(size * i // parts for i in range(parts + 1)), *(_bordered(size, parts, border) for border in borders)]


def _bordered(size: int, parts: int, border: int) -> tuple[int, ...]:
    """Border strips of ``border``, the others as even as can be (the larger ones last, so that classes are few)."""
    inner, count = size - 2 * border, parts - 2
    sizes = [border] + [inner // count + (i >= count - inner % count) for i in range(count)] + [border]
    return tuple(sum(sizes[:i]) for i in range(parts + 1))


def _cheapest(divisions: Sequence[tuple[int, ...]], price: Mapping[tuple[int, int], int]) -> tuple[int, ...]:
    """See ``Partition._divide``; ``divisions`` as of ``_divisions``."""
    if len(divisions) == 1:
        return divisions[0]
    prices: dict[tuple[int, ...], int] = {}
    for lines in divisions:
        prices[lines] = max(price[span] for span in zip(lines, lines[1:]))
        if len(prices) > 1 and prices[lines] > 1.2 * min(prices.values()):
            break
    limit = 1.08 * min(prices.values())

    def different(lines: tuple[int, ...]) -> int:
        return len({b - a for a, b in zip(lines[1:-2], lines[2:-1])})

    return min((lines for lines, price in prices.items() if price <= limit), key=lambda x: (different(x), prices[x]))
