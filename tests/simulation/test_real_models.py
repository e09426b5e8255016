"""Real models through the machines: every frame's answer is the unpartitioned model's, whoever computed what, to the bit."""

from collections.abc import Mapping

import numpy as np
import pytest

from models.bundle import Bundle, Reference, make_bundle
from models.graph.file import load, parse
from models.planning.planner import BlockChoices
from models.running.runner import TileRunner
from models.tiling.division import Tiles, Whole
from models.tiling.partition import Partition
from models.tiling.tensor import to_input
from schemas.contract.plan import digest
from tests.models.test_equality import picture, some_cuts
from tests.paths import shared
from tests.simulation.cluster import Cluster, Fault, Setup
from tests.simulation.pictures import Pictures

MODELS = ("mobilenet_v1_0.25_128_quant", "movenet_single_pose_lightning_ptq", "tf2_mobilenet_v2_1.0_224_ptq")


class RealPictures(Pictures):
    """One picture for all frames, and an engine that computes; the truth is the unpartitioned model's."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.plan)
        self._image = picture(bundle)
        self._runner = TileRunner(bundle.plan, parse(bundle.edge_model), keep=16)
        cut, _ = Reference(bundle).run(to_input(self._image, bundle.plan.pixels))
        self._truth = {f"cut/{name}": _digest(array) for name, array in cut.items()}

    def image(self, frame: str) -> np.ndarray:
        return self._image

    def compute(self, frame: str, block: int, tile: int, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._runner.run(block, tile, inputs)

    def compute_whole(self, frame: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._runner.run_whole(inputs)

    def digests(self, frame: str) -> dict[str, str]:
        return self._truth


def _digest(array: np.ndarray) -> str:
    return digest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_to_the_models_end_is_exact_while_nodes_die_and_come_back(name: str) -> None:
    path = shared(f"data/models/{name}.tflite")
    partition = Partition(load(path))
    cuts = [cut.name for cut in some_cuts(partition, (2, 2))]
    blocks: BlockChoices = [(cuts[0], Tiles(2, 2)), (cuts[1], Tiles(2, 2)), ("end", Whole())]
    bundle = make_bundle(path, blocks=blocks, partition=partition)
    pictures = RealPictures(bundle)
    cluster = Cluster(Setup(sources=1, helpers=3, period_s=0.6), pictures=pictures)
    for fault in (None, Fault("kill edge", 2, 1.0), Fault("kill gateway", 0, 0.5), Fault("kill edge", 0, 0.5)):
        if fault is not None:
            cluster.do(fault)
        cluster.run(2.0)
    cluster.heal()
    assert cluster.truth.reasons["ok"] >= 5, cluster.truth.reasons
    ends = {edge.name for edge in cluster.edges.values() for _, block, _ in edge.tiles_computed if block == 2}
    assert ends, "edges computed the end"
