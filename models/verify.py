"""Compares a plan, block by block, tile by tile and tail, with the unpartitioned model: equal means every bit."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models import graph
from models.bundle import Bundle, Reference, Tail
from models.runner import TileRunner
from models.tensor import assemble, crop, parts, stitch, to_input
from schemas.plan import Region

_FRAME = "verified"  # a name, so that reuse is verified where the plan has it


@dataclass(frozen=True)
class Difference:
    """How far a tensor is from the unpartitioned model's: elements that differ in any bit, and the largest distance."""

    tensor: str
    elements: int
    differing: int
    largest: float


def compare(name: str, got: np.ndarray, want: np.ndarray) -> Difference:
    """Bitwise comparison: a NaN equals the same NaN, and 0.0 differs from -0.0."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return Difference(name, want.size, want.size, float("inf"))
    if got.size == 0:
        return Difference(name, 0, 0, 0.0)
    width = got.dtype.itemsize
    bits = np.ascontiguousarray(got).view(np.uint8).reshape(-1, width)
    unequal = (bits != np.ascontiguousarray(want).view(np.uint8).reshape(-1, width)).any(axis=1)
    differing = int(unequal.sum())
    largest = 0.0
    if differing:
        a, b = got.reshape(-1)[unequal].astype(np.float64), want.reshape(-1)[unequal].astype(np.float64)
        with np.errstate(invalid="ignore"):
            distance = np.abs(a - b)
        largest = float(np.nanmax(distance)) if not np.isnan(distance).all() else float("inf")
    return Difference(name, got.size, differing, largest)


def compare_all(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> list[Difference]:
    return [compare(name, got[name], want[name]) for name in want]


class Verifier:
    """Runs every block's tiles, merge and tail as a cluster would, in this process, and compares with the whole model."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._runner = TileRunner(bundle.plan, graph.parse(bundle.edge_model), threads=threads)
        self._tail = Tail(bundle, threads)
        self._reference = Reference(bundle, threads, [s.name for block in bundle.plan.blocks for s in block.cut])

    def check(self, image: np.ndarray) -> tuple[list[Difference], list[Difference]]:
        """uint8 pixels of the model's size (NHWC) -> differences of all cuts' tensors, block by block, and of the outputs.

        The last block's tensors, which the tail starts from, stand last.
        """
        plan = self.bundle.plan
        self._runner.forget(_FRAME)
        cuts, outputs = self._reference.run(to_input(image, plan.pixels))
        made: dict[int, dict[str, np.ndarray]] = {}
        found: list[Difference] = []
        for block in range(len(plan.blocks)):
            made = self._block(block, image, made)
            merged = self._merged(block, made)
            found += compare_all(merged, {name: cuts[name] for name in merged})
        return found, compare_all(self._tail.run(merged), outputs)

    def _block(
        self, block: int, image: np.ndarray, before: Mapping[int, Mapping[str, np.ndarray]]
    ) -> dict[int, dict[str, np.ndarray]]:
        """All tiles of a block by index, from the image or from the tiles of the block before."""
        order = self.bundle.plan.blocks[block].order
        if block == 0:
            return {i: self._runner.run(0, i, self._runner.crops(image, 0, i), _FRAME) for i in order}
        given = self._exchanged(block - 1, before)
        return {i: self._runner.run(block, i, assemble(self.bundle.plan, block, i, given[i])) for i in order}

    def _exchanged(
        self, block: int, made: Mapping[int, Mapping[str, np.ndarray]]
    ) -> dict[int, list[tuple[str, Region, np.ndarray]]]:
        """What each tile of the next block gets of this one's."""
        plan = self.bundle.plan
        given: dict[int, list[tuple[str, Region, np.ndarray]]] = {i: [] for i in plan.blocks[block + 1].order}
        for i, tensors in made.items():
            for part in parts(plan, block, i):
                where = part.region.within(plan.blocks[block].tiles[i].outputs[part.tensor])
                given[part.tile].append((part.tensor, part.region, crop(tensors[part.tensor], where)))
        return given

    def _merged(self, block: int, made: Mapping[int, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        spec = self.bundle.plan.blocks[block]
        return {
            t.name: stitch(t, ((spec.tiles[i].outputs[t.name], tensors[t.name]) for i, tensors in made.items()))
            for t in spec.cut
        }
