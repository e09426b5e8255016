"""Compares a plan, tile by tile and tail, with the unpartitioned model: equal means every bit."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models import graph
from models.bundle import Bundle, Reference, Tail
from models.runner import TileRunner
from models.tensor import stitch, to_input


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
    """Runs tiles, merge and tail as a cluster would, in this process, and compares with the whole model."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._runner = TileRunner(bundle.plan, graph.parse(bundle.edge_model), threads=threads)
        self._tail = Tail(bundle, threads)
        self._reference = Reference(bundle, threads)

    def check(self, image: np.ndarray) -> tuple[list[Difference], list[Difference]]:
        """uint8 pixels of the model's size (NHWC) -> differences of the cut's tensors and of the final outputs."""
        plan, block = self.bundle.plan, self.bundle.plan.blocks[0]
        tiles = {i: self._runner.run(0, i, self._runner.crops(image, 0, i)) for i in block.order}
        merged = {
            spec.name: stitch(spec, ((block.tiles[i].outputs[spec.name], made[spec.name]) for i, made in tiles.items()))
            for spec in block.cut
        }
        cut, outputs = self._reference.run(to_input(image, plan.pixels))
        return compare_all(merged, cut), compare_all(self._tail.run(merged), outputs)
