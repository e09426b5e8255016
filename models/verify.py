"""Compares a plan, block by block, tile by tile and tail, with the unpartitioned model: equal means every bit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.bundle import Bundle, Reference, Tail
from models.graph import file as graph
from models.running.runner import TileRunner
from models.tiling.tensor import assemble, stitch, to_input
from schemas.contract.plan import Box

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
        self.bundle, self._threads = bundle, threads
        self._runner = TileRunner(bundle.plan, graph.parse(bundle.edge_model), threads=threads)
        self._tail = Tail(bundle, threads)
        self._reference = Reference(bundle, threads, [s.name for block in bundle.plan.blocks for s in block.cut])

    def check(self, image: np.ndarray) -> tuple[list[Difference], list[Difference]]:
        """uint8 pixels of the model's size (NHWC) -> differences of all cuts' tensors, block by block, and of the outputs."""
        plan = self.bundle.plan
        self._runner.forget(_FRAME)
        cuts, outputs = self._reference.run(to_input(image, plan.pixels))
        made: dict[str, list[tuple[Box, np.ndarray]]] = {}
        merged: dict[str, np.ndarray] = {}
        for block in range(len(plan.blocks)):
            for name, parts in self._block(block, image, made).items():
                made[name] = parts
            merged.update(self._merged(block, made))
        found = compare_all(merged, {name: cuts[name] for name in merged})
        ends = {spec.name: merged.pop(spec.name) for spec in plan.ends}
        return found, compare_all(self._tail.run(ends), outputs)

    def difference(self, image: np.ndarray) -> float:
        """The largest distance of the outputs of an approximate plan from those of the model itself."""
        values = to_input(image, self.bundle.plan.pixels)
        _, near = self._reference.run(values)
        _, own = Reference(self.bundle, self._threads, own=True).run(values)
        return max(d.largest for d in compare_all(near, own))

    def _block(
        self, block: int, image: np.ndarray, before: Mapping[str, Sequence[tuple[Box, np.ndarray]]]
    ) -> dict[str, list[tuple[Box, np.ndarray]]]:
        """All tasks of a block, from the image or from what those before it made; what they make, by tensor."""
        spec, found = self.bundle.plan.blocks[block], dict[str, list[tuple[Box, np.ndarray]]]()
        given = [(name, box, array) for name, parts in before.items() for box, array in parts]
        for home in spec.order:
            task = spec.by_home[home]
            inputs = assemble(spec.inputs, task.inputs, given) if block else self._runner.crops(image, 0, home)
            for name, array in self._runner.run(block, home, inputs, "" if block else _FRAME).items():
                found.setdefault(name, []).append((task.outputs[name], array))
        return found

    def _merged(self, block: int, made: Mapping[str, Sequence[tuple[Box, np.ndarray]]]) -> dict[str, np.ndarray]:
        return {spec.name: stitch(spec, made[spec.name]) for spec in self.bundle.plan.blocks[block].cut}
