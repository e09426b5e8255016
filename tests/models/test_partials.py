"""Layers that are summed in parts: the same bits whoever computes a part, near the model's own, and chosen where told so."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import make_bundle, open_bundle, save
from models.graph.build import Network
from models.graph.file import Graph
from models.planning.cluster import Cluster
from models.planning.deeperthings import Layer, Way, traffic
from models.planning.planner import BlockChoices, exchanged_bytes, in_parts, make_plan
from models.planning.search import approximate_plan, best_plan
from models.tiling.division import Channels, Filters, Tiles, Whole
from models.tiling.partials import with_partials
from models.tiling.partition import Partition
from models.verify import Verifier
from schemas.contract.errors import PlanError
from tests.examples import examples
from tests.models.sketch import Sketch, quantized, run

SIZES = (4, 8, 16, 4, 4)  # DeeperThings' worked example, in units of 256 numbers
UNIT = 256


def worked_example() -> Graph:
    network = Network((32, 32, 1))
    for size in SIZES[1:]:
        network.add(("dense", size * UNIT, "relu"))
    return network.graph()


def convolutions(depth: int = 24) -> Graph:
    network = Network((12, 12, 3))
    for row in (("relu", depth, 3, 1), ("conv", 40, 3, 2), ("max", 2, 2, 0), ("linear", 16, 1, 1)):
        network.add(row)
    return network.graph()


@examples(20)
@given(st.integers(2, 4), st.sampled_from([24, 27, 40, 64]), st.integers(0, 99))
def test_a_layer_summed_in_parts_is_near_the_layer_itself(count: int, depth: int, seed: int) -> None:
    graph = convolutions(max(depth, 8 * count))
    image = np.random.default_rng(seed).random((1, 12, 12, 3)).astype(np.float32)
    divided = with_partials(graph, {"conv1": count})
    assert sum(op.kind == "CONV_2D" for op in divided.ops) == 2 + count
    (own,), (near,) = run(graph, [image]), run(divided, [image])
    assert own.shape == near.shape and np.abs(own - near).max() <= 1e-5 * np.abs(own).max()


PLANS: dict[str, BlockChoices] = {
    "channels": [("conv0", Filters(3)), ("conv1", Channels(3)), ("conv3", Filters(2))],
    "pair": [("conv1", Channels(2)), ("conv3", Filters(2))],
    "behind tiles": [("conv0", Tiles(2, 2)), ("max2", Whole()), ("conv3", Channels(4))],
}


@pytest.mark.parametrize("name", PLANS)
def test_tasks_have_the_bits_of_one_machine_that_sums_in_parts(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(convolutions(32).to_bytes())
    bundle = make_bundle(path, blocks=PLANS[name])
    kinds = [block.split for block in bundle.plan.blocks]
    assert ("pair" if name == "pair" else "channels") in kinds and bundle.plan.approximate
    image = np.random.default_rng(3).integers(0, 256, bundle.plan.pixels.shape, np.uint8)
    verifier = Verifier(bundle)
    cuts, outputs = verifier.check(image)
    assert not any(d.differing for d in (*cuts, *outputs))
    assert 0 < verifier.difference(image) < 1e-4
    save(bundle, tmp_path / "plan")
    again = open_bundle(tmp_path / "plan")
    assert again.plan == bundle.plan and again.edge_model == bundle.edge_model
    assert again.plan.exactness == "approximate: dt verify has not said yet how far from the model's own"


def test_a_pair_exchanges_nothing_between_its_layers_and_each_task_has_its_part_of_both_weights() -> None:
    graph = worked_example()
    partition = Partition(with_partials(graph, {"dense2/linear": 2}))
    blocks: BlockChoices = [("dense0", Filters(2)), ("dense2/linear/partials", Channels(2)), ("dense2", Whole())]
    plan, _, _ = make_plan(partition, "0" * 32, blocks=blocks, approximate={"dense2/linear": 2})
    pair = plan.blocks[1]
    assert [spec.name for spec in pair.inputs] == ["dense0"]
    weights = 4 * (SIZES[1] * SIZES[2] + SIZES[2] * SIZES[3]) * UNIT * UNIT
    assert all(abs(tile.weight_bytes - weights / 2) < 1e5 for tile in pair.tiles)


@pytest.mark.parametrize("ways", [True, False])
def test_the_planner_finds_the_worked_example_of_deeperthings(ways: bool) -> None:
    partition = Partition(worked_example())
    cluster = Cluster((10e9, 10e9), 100.0, 1e6, memory_bytes=60_000_000)
    exact = best_plan(partition, cluster, "traffic")
    found, divided, parts = approximate_plan(partition, cluster, "traffic", exact) if ways else (exact, partition, {})
    plan, _, _ = make_plan(divided, "0" * 32, blocks=found.best.pieces, approximate=parts)
    assert bool(plan.approximate) == ways
    if not ways:
        assert {block.split for block in plan.blocks} <= {"filters", "whole"}
        return
    assert [block.kind for block in plan.blocks] == ["filters 2", "pair 2", "whole", "filters 2"]
    elements = 4 * UNIT
    hub = SIZES[0] * elements + exchanged_bytes(plan) + SIZES[-1] * elements // 2  # the input, and the other's half of the end
    assert hub / elements == 22


def test_what_is_quantized_or_no_layer_is_refused_with_the_reason() -> None:
    net = Sketch((1, 6, 6, 16), "int8", quantized(0.02, 3))
    name = net.tensors[net.conv(0, 16)].name
    with pytest.raises(PlanError, match="quantized: partial sums would each be rounded"):
        with_partials(net.graph(), {name: 2})
    with pytest.raises(PlanError, match="not made by a convolution or dense layer"):
        with_partials(convolutions(), {"max2": 2})
    with pytest.raises(PlanError, match="cannot be divided among 9 tasks"):
        with_partials(convolutions(), {"conv1": 9})


def test_dense_layers_behind_a_map_move_what_the_formula_says() -> None:
    network = Network((16, 16, 4))
    for row in (("dense", 512, "relu"), ("dense", 512, "relu"), ("dense", 128)):
        network.add(row)
    graph = network.graph()
    layers = [Layer(1024, 512, False), Layer(512, 512), Layer(512, 128)]
    divided: list[tuple[list[Way], BlockChoices]] = [
        (["LOP", "LOP", "LOP"], [("dense0", Filters(4)), ("dense1", Filters(4)), ("dense2", Filters(4))]),
        (["LIP", "FUSE1", "FUSE2"], [("dense0", Channels(4)), ("dense2", Channels(4))]),
    ]
    for ways, blocks in divided:
        chosen, parts = in_parts(graph, [("dense0/flat", Whole()), *blocks])
        plan, _, _ = make_plan(Partition(with_partials(graph, parts)), "0" * 32, blocks=chosen, approximate=parts)
        end = 128 * 4 * 3 // 4 if ways[-1] == "LOP" else 0  # what other lanes than the first have of the end
        before: list[Way | None] = [None, *ways]
        wanted = sum(4 * traffic(layer, way, last, 4) for layer, way, last in zip(layers, ways, before))
        assert exchanged_bytes(plan) + end == wanted
