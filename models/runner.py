"""Runs tiles of a plan: rewrites the edges' model for a tile's class on first use and keeps few classes alive.

A class costs memory while it is alive and milliseconds to load, so ``keep`` of them stay, least recently used out first.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models import engine
from models.graph import Graph
from models.partition import Partition
from models.rewrite import tile_graph
from models.tensor import crop, to_input
from schemas.errors import PlanError
from schemas.plan import Plan


class TileRunner:
    """The tiles of ``plan`` on one engine at a time; not thread-safe. ``cache``: folder for packed weights, or None."""

    def __init__(self, plan: Plan, model: Graph, cache: Path | None = None, threads: int = 1, keep: int = 1) -> None:
        self.plan = plan
        self._partition = Partition(model)
        name = f"{plan.edge_model}-{engine.kernels().replace(' ', '-')}-{threads}-v1.xnnpack"
        self._cache = cache / name if cache else None
        self._threads = threads
        self._keep = keep
        self._classes: OrderedDict[tuple[int, int], engine.Engine] = OrderedDict()
        names = model.by_name
        for block in plan.blocks:
            for spec in (*block.inputs, *block.cut):
                if spec.name not in names or model.tensors[names[spec.name]].shape != spec.shape:
                    raise PlanError(f"the plan's tensor {spec.name} {spec.shape} is not in this model")

    def crops(self, image: np.ndarray, block: int, tile: int) -> dict[str, np.ndarray]:
        """A tile's part of the whole uint8 image (NHWC), as views."""
        return {name: crop(image, region) for name, region in self.plan.blocks[block].tiles[tile].inputs.items()}

    def run(self, block: int, tile: int, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One tile: its inputs by name (the image as uint8 pixels) -> its outputs by name.

        Raises:
            EngineError: the runtime failed.
        """
        pixels, spec = self.plan.pixels, self.plan.blocks[block]
        given = [to_input(inputs[t.name], pixels) if t.name == pixels.tensor else inputs[t.name] for t in spec.inputs]
        outputs = self._engine(block, tile).run(given)
        return {t.name: array for t, array in zip(spec.cut, outputs, strict=True)}

    def _engine(self, block: int, tile: int) -> engine.Engine:
        spec = self.plan.blocks[block].tiles[tile]
        key = (block, spec.tile_class)
        if key not in self._classes:
            while len(self._classes) >= self._keep:
                self._classes.popitem(last=False)
            self._classes[key] = self._load(block, tile)
        self._classes.move_to_end(key)
        return self._classes[key]

    def _load(self, block: int, tile: int) -> engine.Engine:
        spec = self.plan.blocks[block]
        names = self._partition.graph.by_name
        outputs = {names[name]: region for name, region in spec.tiles[tile].outputs.items()}
        ops = sorted(self._partition.tileable)
        graph = tile_graph(self._partition, ops, [names[t.name] for t in spec.inputs], outputs)
        if self._cache is None:
            return engine.load(graph.to_bytes(), self._threads)
        return engine.load_cached(graph, self._cache, self._threads)
