"""What a prediction is made of: operations, bytes by hop, memory and the bound, for plans that can be counted by hand."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest

from models.graph.build import build
from models.graph.effort import ARITHMETICS, effort_of
from models.graph.file import Op
from models.graph.ops import flops_of
from models.planning.cluster import CORE_FLOPS_S, HEADER_BYTES, Cluster
from models.planning.cost import predict, workload
from models.planning.planner import cut_bytes, exchanged_bytes, make_plan
from models.running.speed import measure_speed
from models.tiling.division import Tiler, Tiles, constant_bytes, rest_of
from models.tiling.partition import Partition
from schemas.contract.plan import Plan
from tests.models.sketch import Sketch

CLUSTER = Cluster((33e9,) * 6, 60.0, 55e9, pack_byte_s=1.0)  # packing never pays


@pytest.fixture(scope="module")
def mini() -> Partition:
    return Partition(build("mini", 160))


def plan_of(partition: Partition, grid: tuple[int, int], *cuts: str) -> Plan:
    return make_plan(partition, "0" * 32, blocks=[(cut, Tiles(*grid)) for cut in cuts])[0]


def test_one_lane_moves_its_result_and_nothing_else(mini: Partition) -> None:
    found = predict(mini, plan_of(mini, (1, 1), "max7"), CLUSTER)
    assert found.bytes_by_hop == {"results up": cut_bytes(mini.graph, mini.find("max7")) + HEADER_BYTES}
    assert found.redundancy == 1
    assert [b["cut"] for b in found.blocks] == ["max7"]


def test_bytes_of_a_frame_are_crops_halos_and_results_once_for_each_hop(mini: Partition) -> None:
    plan = plan_of(mini, (2, 3), "max3", "max7")
    found = predict(mini, plan, CLUSTER)
    moved = sum(prod(t.inputs["image"].shape) + HEADER_BYTES for t in plan.blocks[0].tiles[1:])
    assert found.bytes_by_hop["tiles up"] == found.bytes_by_hop["tiles down"] == moved
    gives = workload(Tiler(mini), plan.blocks, mini.find("max7")).gives
    others = sum(lane != taker for (_, lane), takers in gives.items() for taker in takers)
    assert found.bytes_by_hop["parts up"] == exchanged_bytes(plan) + others * HEADER_BYTES
    assert found.bytes_by_hop["results up"] == cut_bytes(mini.graph, mini.find("max7")) + 6 * HEADER_BYTES
    assert found.wire_bytes == sum(found.bytes_by_hop.values())


def test_redundancy_is_the_work_of_all_tiles_over_that_of_the_undivided_blocks(mini: Partition) -> None:
    cut = mini.find("max7")
    assert predict(mini, plan_of(mini, (2, 3), "max7"), CLUSTER).redundancy == pytest.approx(mini.redundancy(cut, 2, 3))
    exact = predict(mini, plan_of(mini, (2, 2), "max1", "max3"), CLUSTER)
    done = sum(t.flops for b in plan_of(mini, (2, 2), "max1", "max3").blocks for t in b.tiles)
    assert exact.redundancy == pytest.approx(done / mini.flops(mini.find("max3").ops))


def test_tiles_that_reuse_are_predicted_to_do_less_where_one_node_has_them_all(mini: Partition) -> None:
    plan = plan_of(mini, (3, 3), "max7").model_copy(update={"undivided": False})
    plain = plan.model_copy(update={"blocks": tuple(b.model_copy(update={"reuse": False}) for b in plan.blocks)})
    for nodes, saves in ((1, True), (9, False)):
        cluster = replace(CLUSTER, speeds=CLUSTER.speeds[:1] * nodes)
        less, all_ = (predict(mini, p, cluster) for p in (plan, plain))
        assert (less.redundancy < all_.redundancy and less.latency_s < all_.latency_s) == saves
        assert all_.redundancy == pytest.approx(mini.redundancy(mini.find("max7"), 3, 3))


def test_no_plan_is_predicted_to_beat_its_bound(mini: Partition) -> None:
    for cuts in (["max7"], ["max3", "max7"], ["max1", "max3", "conv5", "max7"]):
        for rate in (1.0, 60.0, 1000.0):
            for grid in ((1, 1), (2, 3), (3, 3)):
                found = predict(mini, plan_of(mini, grid, *cuts), replace(CLUSTER, rate_mbit=rate))
                assert found.latency_s > found.bound_s * 0.8  # transfers and tiles overlap
                assert found.throughput_fps < 1.01 / found.latency_s  # the next picture may have to be waited for
                ready = predict(mini, plan_of(mini, grid, *cuts), replace(CLUSTER, rate_mbit=rate, per_picture_s=0.0))
                assert 0.7 < ready.throughput_fps * ready.latency_s < 1.01  # only saved slices and last messages differ


def test_the_bound_is_ideal_compute_the_tail_and_the_bytes_that_must_travel(mini: Partition) -> None:
    cut = mini.find("max7")
    found = predict(mini, plan_of(mini, (2, 3), "max7"), CLUSTER)
    compute = mini.effort(cut.ops) / (6 * 33e9) + effort_of(mini.graph, rest_of(mini.graph, cut)) / 55e9
    travel = 160 * 160 * 3 * 5 / 6 + cut_bytes(mini.graph, cut)
    assert found.bound_s == pytest.approx(compute + travel / (60e6 / 8))


def test_operations_of_blocks_and_tail_are_those_of_the_model(mini: Partition) -> None:
    everything = flops_of(mini.graph, range(len(mini.graph.ops)))
    for name in ("max1", "max7"):
        cut = mini.find(name)
        assert mini.flops(cut.ops) + flops_of(mini.graph, rest_of(mini.graph, cut)) == everything


def test_a_dense_layer_counts_its_weights_twice() -> None:
    net = Sketch((1, 4, 4, 2))
    weights = net.constant(np.ones((7, 32), np.float32))
    out = net.tensor((1, 7), "float32")
    net.op("FULLY_CONNECTED", [0, weights], out, "FullyConnected")
    assert flops_of(net.graph(), [0]) == 2 * 7 * 32


def test_memory_is_weights_and_live_maps_and_the_runtime(mini: Partition) -> None:
    plan = plan_of(mini, (2, 3), "max7")
    found = predict(mini, plan, CLUSTER).memory_bytes
    weights = constant_bytes(mini.graph, mini.find("max7").ops)
    assert set(found) == {*(f"edge{i}" for i in range(1, 7)), "gateway"}
    image = plan.blocks[0].tiles[0].inputs["image"]
    assert found["edge1"] > weights + CLUSTER.runtime_bytes + prod(image.shape) * 4
    whole = predict(mini, plan_of(mini, (1, 1), "max7"), CLUSTER)
    assert whole.edge_memory_bytes > predict(mini, plan, CLUSTER).edge_memory_bytes
    assert whole.memory_bytes["edge2"] == CLUSTER.runtime_bytes


def test_smaller_tiles_and_shallower_cuts_need_less_memory(mini: Partition) -> None:
    def need(grid: tuple[int, int], *cuts: str) -> int:
        return predict(mini, plan_of(mini, grid, *cuts), CLUSTER).edge_memory_bytes

    assert need((3, 3), "max7") < need((2, 2), "max7") < need((1, 1), "max7")
    assert need((2, 2), "max3") < need((2, 2), "max7")
    assert need((2, 2), "max1", "max3", "max7") <= need((2, 2), "max7")


def test_sources_as_many_as_nodes_add_up_and_do_not_divide_frames(mini: Partition) -> None:
    plan = plan_of(mini, (2, 3), "max7")
    fast = replace(CLUSTER, rate_mbit=1000.0, gateway_flops_s=550e9)  # whom their tails do not keep busy
    alone = predict(mini, plan_of(mini, (1, 1), "max7"), fast).throughput_fps
    six = predict(mini, plan, replace(fast, sources=6, window=2)).throughput_fps
    one = predict(mini, plan, fast).throughput_fps
    assert 4 * alone < six and one < six


def test_a_node_that_is_alone_computes_frames_whole_if_the_plan_lets_it(mini: Partition) -> None:
    plan, lone = plan_of(mini, (2, 3), "max3", "max7"), replace(CLUSTER, speeds=(33e9,))
    found = predict(mini, plan, lone)
    assert found.redundancy == 1
    assert found.latency_s == predict(mini, plan_of(mini, (1, 1), "max7"), lone).latency_s
    bound = predict(mini, plan.model_copy(update={"undivided": False}), lone)
    assert bound.redundancy > 1 and bound.latency_s > found.latency_s


@pytest.mark.parametrize("dtype", ARITHMETICS)
def test_this_machine_has_a_speed(dtype: str) -> None:
    assert 1e8 < measure_speed(dtype) < 1e13


def test_operators_that_no_runtime_takes_are_counted_all_the_same() -> None:
    sketch = Sketch((1, 8, 8, 3))
    flat = sketch.constant(np.zeros(4, np.float32))
    filters = sketch.constant(np.zeros((3, 2, 2, 3), np.float32))
    odd = [("CONV_2D", [0]), ("CONV_2D", [0, flat]), ("FULLY_CONNECTED", [0]), ("RANDOM_UNIFORM", []), ("MEAN", [])]
    odd += [("TRANSPOSE_CONV", [0]), ("TRANSPOSE_CONV", [flat, filters, flat]), ("BATCH_MATMUL", [0])]
    for kind, inputs in odd:
        sketch.op(kind, inputs, sketch.like(0))
    graph = sketch.graph()
    graph = replace(graph, ops=[*graph.ops, Op("ASSIGN_VARIABLE", (0,), ())])
    assert flops_of(graph, range(len(graph.ops))) == len(odd) * 8 * 8 * 3


def test_what_a_link_gains_by_packing_a_slow_processor_loses() -> None:
    core, quarter = (replace(CLUSTER, speeds=(CORE_FLOPS_S * s,), rate_mbit=1000.0, pack_byte_s=1.8e-9) for s in (1.0, 0.25))
    assert core.packed(100_000, are_pixels=True) == 50_000
    assert quarter.packed(100_000, are_pixels=True) == 100_000
    assert replace(quarter, rate_mbit=60.0).packed(100_000, are_pixels=True) == 50_000
