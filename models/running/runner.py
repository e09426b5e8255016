"""Runs tiles of a plan: rewrites the edges' model for a tile's class on first use and keeps few classes alive.

A class costs memory while it is alive, and to load it may take longer than to run it, so ``keep`` of them stay, as long as
the memory is not short, and are loaded ahead by ``warm``.
In a block with reuse a tile's graph has variants: it gives strips, takes them, or does neither (``models.tiling.reuse``).
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from models.graph.file import Graph
from models.running import blocking, engine, probe
from models.running.engine_cache import ClassKey, EngineCache
from models.running.strips import Strips
from models.tiling import rewrite
from models.tiling.division import Tiler, peak_memory
from models.tiling.filters import Range, divided, filter_task
from models.tiling.partition import Partition
from models.tiling.reuse import Place, Reuse, Work
from models.tiling.rewrite import tile_graph
from models.tiling.tensor import Boxes, crop, to_input
from schemas.contract.errors import PlanError
from schemas.contract.plan import Block, Box, Plan, Region, Tile, digest
from schemas.host.process import trim

_WHOLE = (-1, "")  # in place of a block and a tile class: all blocks at once, undivided
STRIP_BYTES = 16 << 20
_MOST = 64  # classes alive
_PART = 4  # of so many parts of the free memory classes take one
LEFT_BYTES = 32 << 20  # memory that is left to messages, frames and the packing of weights
CALM = 60  # times that memory was not short, before a class that was given back may come again

Variant: TypeAlias = Literal["plain", "gives", "takes"]


@dataclass(frozen=True)
class _Job:
    """How one tile runs: its graph's key, the box of each input that it reads, what its graph ends in."""

    key: ClassKey
    work: Work
    inputs: Boxes
    ends: list[rewrite.Piece]
    share: float = 1.0  # of the memory of a plain tile: see EngineCache


class TileRunner:
    """The tiles of ``plan`` on one engine at a time; not thread-safe. ``cache``: folder for packed weights, or None.

    ``keep``: classes alive at once; None: as many as a quarter of the bytes that are ``free`` now holds; None of them where
    nobody knows. When few are left, classes are given back. ``strip_limit`` is the most bytes of
    the strips that wait for the tiles that take them, of all frames together.
    """

    def __init__(
        self,
        plan: Plan,
        model: Graph,
        cache: Path | None = None,
        threads: int = 1,
        keep: int | None = 1,
        strip_limit: int = STRIP_BYTES,
        free: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.plan = plan
        self._partition, self._model = Partition(model), model
        self._cache = cache
        self._threads = threads
        self._stride = blocking.numbers(model)
        self._jobs: dict[tuple[int, int, Variant], _Job] = {}
        self._reuses: dict[int, Reuse] = {}
        self._strips = Strips(strip_limit)
        self.last: Variant = "plain"  # that of the tile that ran last
        names = model.by_name
        for block in plan.blocks:
            for spec in (*block.inputs, *block.cut):
                if spec.name not in names or model.tensors[names[spec.name]].shape != spec.shape:
                    raise PlanError(f"the plan's tensor {spec.name} {spec.shape} is not in this model")
        self._free, self._calm = free, 0
        self._sizes: dict[ClassKey, float] = {}  # shares of what is executed whole
        self._spans = Tiler(self._partition).planned(plan.blocks)
        self._classes = EngineCache(keep or self._fitting((free() or 0) // _PART), self._has_memory)

    def warm(self) -> bool:
        """Loads one class that is not alive, if none must go for it; False: there is none. Variants come last.

        It runs once, too: only then the memory of its activations is really there, and that takes longer than a tile.

        Raises:
            EngineError: the runtime failed.
        """
        for block, tile, job in itertools.chain(self._plain(), self._variants()):
            if self._classes.has_room(job.key, job.share):
                tensors, names = self._partition.graph.tensors, self._partition.graph.by_name
                held = [(names[name], box) for name, box in job.inputs.items()]
                held += [(t, Box.tile(tensors[t].shape, region)) for (t, _), region in job.work.strips()]
                shapes = [(box.shape, tensors[t].dtype) for t, box in held]
                self._engine(block, tile, job).run([np.zeros(*shape) for shape in shapes])
                return True
        return False

    @property
    def made(self) -> set[probe.Made]:
        """All that operators make in tiles of this plan, with reuse and without."""
        return {made for _, _, job in (*self._plain(), *self._variants()) for made in job.work.made.items()}

    @property
    def kinds(self) -> str:
        """Equal for plans of the edges' model in whose tiles nothing else is to be tried (``models.running.probe``)."""
        return digest(repr((self.plan.edge_model, *probe.samples(self.made), sorted(self._divided))).encode())

    def fault(self) -> str:
        """What has other bits in tasks of this plan on this processor, or ""."""
        return probe.fault(self._partition.graph, self.made, self._divided)

    @property
    def _divided(self) -> set[tuple[int, Range]]:
        """The operators whose filters tasks divide, with those of each."""
        blocks = [(spec, self._spans[i]) for i, spec in enumerate(self.plan.blocks) if spec.divides_weights]
        graph = self._partition.graph
        return {each for spec, span in blocks for each in divided(graph, span.ops, span.made, len(spec.tiles))}

    def zeros(self, block: int, tile: int) -> dict[str, np.ndarray]:
        """Inputs of a task that say nothing, by name (the image as uint8 pixels)."""
        specs = {spec.name: spec for spec in self.plan.blocks[block].inputs}
        dtypes = {name: "uint8" if name == self.plan.pixels.tensor else spec.dtype for name, spec in specs.items()}
        return {name: np.zeros(box.shape, dtypes[name]) for name, box in self._task(block, tile).inputs.items()}

    def _task(self, block: int, home: int) -> Tile:
        return self.plan.blocks[block].by_home[home]

    def _plain(self) -> Iterator[tuple[int, int, _Job]]:
        """Block, tile and job of a tile of each class, without reuse."""
        for block, spec in enumerate(self.plan.blocks):
            if spec.split == "tiles":
                for tile in {t.tile_class: t.home for t in spec.tiles}.values():
                    yield block, tile, self._job(block, tile, "plain")

    def _variants(self) -> Iterator[tuple[int, int, _Job]]:
        """Block, tile and job of all tiles that give strips, then of those that take them."""
        for block, spec in enumerate(self.plan.blocks):
            if spec.reuse:
                reuse, tiles = self._reuse(block), range(len(spec.tiles))
                yield from ((block, t, self._job(block, t, "gives")) for t in tiles if reuse.gives(t))
                yield from ((block, t, self._job(block, t, "takes")) for t in tiles if reuse.reduced(t).taken)

    def _fitting(self, budget: int) -> int:
        """How many classes so many bytes hold, at least one."""
        return min(max(budget // self._most, 1), _MOST)

    @functools.cached_property
    def _most(self) -> int:
        """What an engine of the largest class holds of its own, in bytes."""
        return max((self._bytes(self._graph(*which)) for which in self._plain()), default=1)

    def _whole(
        self, key: ClassKey, make: Callable[[], Graph], blocks: Sequence[Block], which: str = ""
    ) -> engine.Engine:
        """The engine of what is executed whole: as large as so many classes."""
        if key not in self._sizes:
            self._sizes[key] = self._bytes(make()) / self._most
        return self._classes.get(key, lambda: self._loaded(make(), blocks, which), self._sizes[key])

    def _bytes(self, graph: Graph) -> int:
        """What an engine of it holds of its own."""
        own = 0 if self._shares(graph) else sum(t.nbytes for t in graph.tensors if t.data is not None)
        return peak_memory(graph) + own

    def _has_memory(self, share: float) -> bool:
        free = self._free()
        return free is None or free >= LEFT_BYTES + share * self._most

    def relieve(self) -> int:
        """To be called now and then: gives classes back while memory is short. How many."""
        given = 0
        while not self._has_memory(0.0) and self._classes.give_back():
            given += 1
        self._calm = 0 if given else self._calm + 1
        if self._calm >= CALM:
            self._calm = 0
            self._classes.regrow()
        return given

    @property
    def fits_whole(self) -> bool:
        """Whether there is memory for a frame undivided."""
        return self._has_memory(self._bytes(self._undivided()) / self._most)

    def _undivided(self) -> Graph:
        """All blocks at once."""
        model, names = self._partition.graph, self._partition.graph.by_name
        ends = tuple(names[t.name] for t in self.plan.blocks[-1].cut)
        return Graph(model.tensors, model.ops, (names[self.plan.pixels.tensor],), ends).pruned()

    def _shares(self, graph: Graph) -> bool:
        """Whether its weights are in memory once for all classes."""
        return self._cache is not None and engine.shares_weights(graph)

    def crops(self, image: np.ndarray, block: int, tile: int) -> dict[str, np.ndarray]:
        """A tile's part of the whole uint8 image (NHWC), as views."""
        return {name: crop(image, box) for name, box in self._task(block, tile).inputs.items()}

    def run(
        self, block: int, tile: int, inputs: Mapping[str, np.ndarray], frame: str = ""
    ) -> dict[str, np.ndarray]:
        """One tile: its inputs by name (the image as uint8 pixels) -> its outputs by name.

        In a block with reuse a tile of a named ``frame`` leaves strips here for tiles of the frame that run later, and
        takes those that are here if none is missing. It has the same bits either way.

        Raises:
            EngineError: the runtime failed.
        """
        if self.plan.blocks[block].split != "tiles":
            return self._run_block(block, tile, inputs)
        spec, model = self._task(block, tile), self._partition.graph
        variant, strips = self._variant(block, tile, frame)
        job = self._job(block, tile, variant)
        given = [self._given(name, crop(inputs[name], b.within(spec.inputs[name]))) for name, b in job.inputs.items()]
        given += [strips[place] for place, _ in job.work.strips()]
        found = dict(zip(job.ends, self._engine(block, tile, job).run(given), strict=True))
        if variant == "gives":
            self._keep_strips(block, tile, frame, found)
        self.last = variant
        return {name: found[model.by_name[name], box.region] for name, box in spec.outputs.items()}

    def _run_block(self, block: int, home: int, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A task of a block that is divided by filters, or not at all."""
        spec, span = self.plan.blocks[block], self._spans[block]
        tensors = self._partition.graph.tensors

        def make() -> Graph:
            if spec.split == "whole":
                return rewrite.whole_graph(self._partition, span.given, span.made)
            part = [tile.home for tile in spec.tiles].index(home), len(spec.tiles)
            return filter_task(self._partition.graph, span.ops, span.given, span.made, part).graph

        which = f"-{home}" if spec.divides_weights else ""
        given = [self._given(tensors[t].name, inputs[tensors[t].name]) for t in span.given]
        found = self._whole((block, str(home)), make, [spec], which).run(given)
        return {tensors[t].name: array for t, array in zip(span.made, found, strict=True)}

    @property
    def strip_bytes(self) -> int:
        """Bytes of the strips that wait here."""
        return self._strips.nbytes

    def forget(self, frame: str) -> None:
        """Drops what is kept of a frame that has ended."""
        self._strips.forget(frame)

    def _given(self, name: str, array: np.ndarray) -> np.ndarray:
        return to_input(array, self.plan.pixels) if name == self.plan.pixels.tensor else array

    def _variant(self, block: int, tile: int, frame: str) -> tuple[Variant, dict[Place, np.ndarray]]:
        """Which graph a tile runs now, and the strips for it."""
        if not (frame and self.plan.blocks[block].reuse):
            return "plain", {}
        reuse = self._reuse(block)
        if any(self._strips.wants(frame, (block, taker)) for taker in reuse.gives(tile)):
            return "gives", {}
        strips = self._strips.take(frame, (block, tile))
        needed = {place for place, _ in reuse.reduced(tile).strips()}
        return ("takes", strips) if needed and needed == strips.keys() else ("plain", {})

    def _keep_strips(self, block: int, tile: int, frame: str, made: Mapping[rewrite.Piece, np.ndarray]) -> None:
        for taker, places in self._reuse(block).gives(tile).items():
            if self._strips.wants(frame, (block, taker)):
                strips = {(t, side): made[t, region] for (t, side), region in places.items()}
                self._strips.put(frame, (block, taker), strips)

    def _reuse(self, block: int) -> Reuse:
        if block not in self._reuses:
            spec = self.plan.blocks[block]
            outputs = [self._outputs(block, tile) for tile in range(len(spec.tiles))]
            self._reuses[block] = Reuse(self._partition, self._ops(block), outputs, spec.rows, spec.cols)
        return self._reuses[block]

    def run_whole(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The whole uint8 image by its name -> the last cut's whole maps: all blocks at once, undivided.

        Raises:
            EngineError: the runtime failed.
        """
        pixels, cut = self.plan.pixels, self.plan.ends
        if len(self.plan.blocks) == self.plan.lanes == 1:  # the only task is all of it: one engine serves both
            return self.run(0, 0, self.crops(inputs[pixels.tensor], 0, 0))

        outputs = self._whole(_WHOLE, self._undivided, self.plan.blocks).run([to_input(inputs[pixels.tensor], pixels)])
        return {t.name: array for t, array in zip(cut, outputs, strict=True)}

    def _job(self, block: int, tile: int, variant: Variant) -> _Job:
        if (block, tile, variant) not in self._jobs:
            spec, reuse = self.plan.blocks[block], self._reuse(block)
            tensors, names = self._partition.graph.tensors, self._partition.graph.by_name
            work = reuse.reduced(tile) if variant == "takes" else reuse.alone(tile)
            given = [names[t.name] for t in spec.inputs if names[t.name] in work.held]
            inputs = {tensors[t].name: Box.tile(tensors[t].shape, work.held[t]) for t in given}
            ends = rewrite.ends(self._outputs(block, tile), reuse.pieces(tile) if variant == "gives" else ())
            job = _Job((block, str(self._task(block, tile).tile_class)), work, inputs, ends)
            if variant != "plain":
                graph = self._graph(block, tile, job)
                share = self._share(block, tile, graph) if variant == "takes" else 1.0
                job = replace(job, key=(block, rewrite.signature(graph)), share=share)
            self._jobs[block, tile, variant] = job
        return self._jobs[block, tile, variant]

    def _share(self, block: int, tile: int, graph: Graph) -> float:
        """The largest tensor of a tile that takes strips, as a part of the largest that it holds without them."""
        if not self._shares(graph):
            return 1.0
        plain = self._graph(block, tile, self._job(block, tile, "plain"))
        most, own = (max(t.nbytes for t in g.tensors if t.data is None) for g in (plain, graph))
        return own / most

    def _graph(self, block: int, tile: int, job: _Job) -> Graph:
        names, outputs = self._partition.graph.by_name, self._outputs(block, tile)
        inputs = [names[name] for name in job.inputs]
        return tile_graph(self._partition, self._ops(block), inputs, outputs, job.work, job.ends)

    def _ops(self, block: int) -> tuple[int, ...]:
        """A block's operators."""
        return self._spans[block].ops

    def _outputs(self, block: int, tile: int) -> dict[int, Region]:
        """The regions that a tile makes."""
        names = self._partition.graph.by_name
        return {names[name]: box.region for name, box in self._task(block, tile).outputs.items()}

    def _engine(self, block: int, tile: int, job: _Job) -> engine.Engine:
        return self._classes.get(
            job.key, lambda: self._loaded(self._graph(block, tile, job), [self.plan.blocks[block]]), job.share
        )

    def _loaded(self, graph: Graph, blocks: Sequence[Block], which: str = "") -> engine.Engine:
        """An engine for a graph that computes ``blocks``, or a tile of them.

        A cache file holds the weights of certain operators: it is shared by the classes of a block, not by blocks, nor by
        tasks (``which``) of some filters each.
        """
        most = blocking.part_bytes()
        graph = blocking.blocked(graph, most, self._stride)
        trim()  # another engine may have gone for this one
        try:
            return self._engine_of(graph, blocks, which, most)
        finally:
            self._model.release()
            trim()

    def _engine_of(self, graph: Graph, blocks: Sequence[Block], which: str, most: int) -> engine.Engine:
        if self._cache is None:
            return engine.load(graph.to_bytes(), self._threads)
        ends = [t.name for t in (*blocks[0].inputs, *blocks[-1].cut)]
        ops = digest("\n".join(ends).encode())[:8]
        name = f"{self.plan.edge_model}-{ops}-{engine.here()}-{self._threads}-{most >> 10}{which}-v3.xnnpack"
        return engine.load_cached(graph, self._cache / name, self._threads)

