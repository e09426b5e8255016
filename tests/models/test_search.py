"""The search finds what trying everything would find, says when one node is faster, and keeps to the memory."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from models.graph.build import Network, build
from models.graph.file import Graph, Op, Tensor
from models.graph.tflite_schema import OPTIONS
from models.planning import cost, search
from models.planning.cluster import Cluster
from models.planning.cost import predict, predict_blocks
from models.planning.planner import fused_blocks, make_plan
from models.planning.search import Found, best_plan, grids, useful_cuts
from models.tiling.division import Filters, Tiler, Tiles, Whole
from models.tiling.partition import Cut, Partition
from schemas.contract.errors import PlanError
from tests.models.sketch import Sketch
from tests.nodes import ended_graph

CLUSTER = Cluster((33e9,) * 6, 1000.0, 55e9)
SLOW = replace(  # where dividing pays even for a small model: slow engines, and messages that cost little
    CLUSTER,
    speeds=(1e9,) * 6,
    gateway_flops_s=1e9,
    per_message_s=1e-6,
    per_tile_s=1e-6,
    per_lane_s=0.0,
    per_frame_s=0.0,
    per_picture_s=0.0,
    pack_byte_s=1.0,
    per_outcome_s=0.0,
)


@pytest.fixture(scope="module")
def mini() -> Partition:
    return Partition(build("mini", 160))


@pytest.fixture(scope="module")
def yolov2_16() -> Partition:
    return Partition(build("yolov2", layers=16))


def chains(partition: Partition, most: int) -> Iterator[tuple[Cut, ...]]:
    """All plans of up to ``most`` blocks over all legal cuts."""
    cuts = sorted(partition.cuts, key=lambda cut: len(cut.ops))
    for count in range(1, most + 1):
        for chain in combinations(cuts, count):
            if all(set(a.ops) < set(b.ops) for a, b in zip(chain, chain[1:])):
                yield chain


@pytest.mark.parametrize("cluster", [SLOW, replace(SLOW, rate_mbit=20.0)], ids=["fast link", "slow link"])
def test_no_plan_of_two_blocks_is_faster_than_what_is_found(mini: Partition, cluster: Cluster) -> None:
    tiler, best = Tiler(mini), float("inf")
    for chain in chains(mini, 2):
        blocks = fused_blocks(tiler, [(cut, Tiles(2, 3)) for cut in chain], classes=False)
        best = min(best, predict_blocks(tiler, blocks, chain[-1], cluster).latency_s)
    assert best_plan(mini, cluster).best.prediction.latency_s <= best * 1.05 * 1.01


def test_the_best_stands_first_and_rivals_follow_by_latency(mini: Partition) -> None:
    found = best_plan(mini, SLOW)
    told = [choice.prediction.latency_s for choice in found.rivals]
    assert told == sorted(told) and len(told) == 5
    assert found.best.prediction.latency_s <= told[0] * 1.05
    assert found.best not in found.rivals and found.why == ""


def test_six_nodes_on_a_fast_link_do_little_redundant_work(yolov2_16: Partition) -> None:
    best = best_plan(yolov2_16, CLUSTER).best
    assert best.grid == (2, 3) and len(best.cuts) > 1
    assert best.prediction.redundancy <= 1.10


def test_a_slow_link_takes_a_plan_of_fewer_bytes(yolov2_16: Partition) -> None:
    fast, slow = (best_plan(yolov2_16, replace(CLUSTER, rate_mbit=rate)).best.prediction for rate in (1000.0, 60.0))
    assert slow.wire_bytes < 0.8 * fast.wire_bytes


def test_one_node_alone_wins_where_bytes_are_dear_unless_told_otherwise(mini: Partition) -> None:
    crawl = replace(CLUSTER, rate_mbit=0.2)
    found = best_plan(mini, crawl)
    assert found.best.is_alone
    assert found.why.startswith("one node alone is faster: ") and " s by " in found.why
    split = best_plan(mini, crawl, force_split=True)
    assert not split.best.is_alone and split.why == ""
    assert split.best.prediction.latency_s > found.best.prediction.latency_s


def test_one_node_has_no_other_plan(mini: Partition) -> None:
    found = best_plan(mini, replace(CLUSTER, speeds=(33e9,)), force_split=True)
    assert found.best.is_alone and found.why == "one node alone: there is no other plan"


def test_traffic_gives_up_a_quarter_of_the_speed_at_most_for_fewer_bytes(yolov2_16: Partition) -> None:
    told: dict[str, Found] = {o: best_plan(yolov2_16, CLUSTER, o) for o in ("latency", "traffic")}
    quick, small = (told[o].best.prediction for o in ("latency", "traffic"))
    assert small.wire_bytes < quick.wire_bytes
    assert small.latency_s <= 1.25 * quick.latency_s


def test_throughput_with_two_frames_in_flight_is_no_less_than_that_of_the_quickest_plan(mini: Partition) -> None:
    busy = replace(SLOW, window=2)
    quick, many = (best_plan(mini, busy, o).best.prediction for o in ("latency", "throughput"))
    assert many.throughput_fps >= 0.95 / quick.latency_s


def test_throughput_with_many_frames_in_flight_gives_each_node_whole_frames_unless_told_otherwise(mini: Partition) -> None:
    busy = replace(SLOW, speeds=(1e9,) * 3, window=6, per_message_s=1e-3)
    found = best_plan(mini, busy, "throughput")
    assert found.best.is_alone and found.why.startswith("whole frames, each on one node: ") and " by " in found.why
    assert found.best.prediction.throughput_fps > 0.8 * busy.nodes / found.best.prediction.latency_s
    assert not best_plan(mini, busy, "throughput", force_split=True).best.is_alone


def test_a_plan_keeps_to_the_memory_and_the_refusal_names_what_would_do(mini: Partition) -> None:
    free = best_plan(mini, SLOW).best.prediction.edge_memory_bytes
    tight = best_plan(mini, replace(SLOW, memory_bytes=free - 1)).best.prediction.edge_memory_bytes
    assert tight < free
    with pytest.raises(PlanError, match=r"no plan fits 10\.0 MB an edge: the smallest budget that would do is") as told:
        best_plan(mini, replace(SLOW, memory_bytes=10_000_000))
    budget = float(str(told.value).split("would do is ")[1].split(" MB")[0])
    least = best_plan(mini, replace(SLOW, memory_bytes=round(budget * 1e6))).best
    assert least.prediction.edge_memory_bytes <= budget * 1e6
    with pytest.raises(PlanError, match="smallest budget"):
        best_plan(mini, replace(SLOW, memory_bytes=round(budget * 1e6) - 100_000))


def test_plans_whose_tiles_share_a_node_are_judged_with_what_they_reuse(yolov2_16: Partition) -> None:
    least = predict(yolov2_16, make_plan(yolov2_16, "0" * 32, (5, 5))[0], CLUSTER).edge_memory_bytes
    alone = replace(CLUSTER, speeds=(33e9,), gateway_flops_s=1e9, memory_bytes=least)
    best = best_plan(yolov2_16, alone).best
    plan = make_plan(yolov2_16, "0" * 32, blocks=best.pieces)[0].model_copy(update={"undivided": False})
    assert not best.is_alone and plan.blocks[0].reuse
    assert best.prediction.redundancy == predict(yolov2_16, plan, alone).redundancy
    assert best.prediction.redundancy < yolov2_16.redundancy(best.cuts[0], *best.grid)


def test_only_cuts_that_can_matter_are_tried(yolov2_16: Partition) -> None:
    """An activation costs no halo and no byte, a pool of 2x2 saves bytes: cuts before them are never better."""
    names = "max1 max3 conv5 max7 conv9 max11 conv13 conv15".split()
    assert [cut.name for cut in useful_cuts(yolov2_16)] == names


def test_grids_are_near_square_and_hold_no_more_than_two_rounds() -> None:
    assert grids(1) == [(1, 1)]
    assert {(1, 1), (2, 3), (3, 2), (3, 3)} <= set(grids(6)) and (3, 2) not in grids(6, is_square=True)
    assert all(rows * cols <= 12 for rows, cols in grids(6))


def test_a_model_that_cannot_be_tiled_is_one_nodes_and_an_unknown_objective_is_refused(mini: Partition) -> None:
    net = Sketch((1, 7, 8, 3))
    net.pool("AVERAGE_POOL_2D", 0, (2, 3), (3, 3), 0)
    best = best_plan(Partition(net.graph()), CLUSTER).best
    assert best.is_alone and best.whole == 1
    with pytest.raises(PlanError, match="'speed': choose one of latency, throughput, traffic"):
        best_plan(mini, CLUSTER, "speed")


def test_the_tail_is_run_by_an_edge_where_the_gateway_is_slow_and_by_the_gateway_where_it_is_fast() -> None:
    partition = Partition(ended_graph())
    near = replace(SLOW, round_trip_s=0.0, broker_message_s=0.0, rate_mbit=1e5, slice_s=0.0)
    speeds = (1e5, 1e12)
    slow, fast = (best_plan(partition, replace(near, gateway_flops_s=s), force_split=True) for s in speeds)
    assert slow.best.whole == 1 and slow.best.cuts[-1] is partition.end and slow.best.name.endswith("| whole, mean")
    assert slow.other is not None and slow.other.whole == 0
    assert slow.best.prediction.latency_s < slow.other.prediction.latency_s
    assert fast.best.whole == 0 and fast.best.prediction.tail_flops > 0
    plan, _, _ = make_plan(partition, "0" * 32, blocks=slow.best.pieces, shares=slow.best.shares)
    assert predict(partition, plan, replace(near, gateway_flops_s=1e5)).latency_s == slow.best.prediction.latency_s


def test_one_node_alone_runs_the_tail_too_where_the_gateway_is_slow() -> None:
    alone = best_plan(Partition(ended_graph()), replace(SLOW, rate_mbit=0.2, gateway_flops_s=1e5)).best
    assert alone.is_alone and alone.whole == 1


def test_a_model_whose_end_no_edge_computes_is_executed_whole_as_far_as_tiles_reach() -> None:
    graph = ended_graph()
    state = Tensor("state", (1, 5), "float32")
    made = Tensor("made", (1, 5), "float32")
    add = Op("ADD", (graph.outputs[0], len(graph.tensors)), (len(graph.tensors) + 1,), OPTIONS.index("Add"))
    inputs = (*graph.inputs, len(graph.tensors))
    partition = Partition(Graph([*graph.tensors, state, made], [*graph.ops, add], inputs, (len(graph.tensors) + 1,)))
    with pytest.raises(PlanError, match="besides the image it needs 'state'"):
        _ = partition.end
    best = best_plan(partition, replace(SLOW, gateway_flops_s=1e5)).best
    assert best.cuts[-1] in (partition.cuts[-1], *partition.later)


def test_sources_share_their_tails_where_the_gateway_would_be_the_bottleneck() -> None:
    partition = Partition(ended_graph())
    free = replace(SLOW, broker_message_s=0.0, broker_byte_s=0.0, per_message_s=0.0, per_byte_s=0.0)
    busy = replace(free, sources=3, window=2, gateway_flops_s=1e4)
    best = best_plan(partition, busy, "throughput").best
    assert best.whole == 1 and best.prediction.tail_flops == 0


def weighty() -> Partition:
    """Layers of which each has more weights than the one before: 2.4 MB, most of them in the last two."""
    network = Network((64, 64, 3))
    for row in (("conv", 32, 3, 1), ("max", 2, 2), ("conv", 64, 3, 1), ("max", 2, 2), ("conv", 256, 3, 1), ("max", 2, 2),
                ("conv", 192, 3, 1), ("dense", 64, "relu"), ("dense", 32)):  # fmt: skip
        network.add(row)
    return Partition(network.graph())


def test_where_memory_is_what_counts_no_host_holds_the_weights() -> None:
    found = best_plan(weighty(), SLOW, "memory").best
    whole = best_plan(weighty(), replace(SLOW, speeds=SLOW.speeds[:1]), "memory").best
    assert any(isinstance(division, Filters) for _, division in found.pieces)
    runtime = SLOW.runtime_bytes
    most, alone = (max(c.prediction.memory_bytes.values()) - runtime for c in (found, whole))
    assert most < alone / 2, "the gateway's tail counts, too"


def test_each_edge_keeps_to_its_own_budget_and_the_refusal_names_the_edge() -> None:
    free = best_plan(weighty(), SLOW, "memory").best.prediction.edges
    tight = replace(SLOW, budgets={"edge2": max(free.values()) + 1})
    found = best_plan(weighty(), tight, "latency").best.prediction
    assert found.edges["edge2"] <= tight.budget("edge2") and tight.budget("edge1") is None  # type: ignore[operator]
    with pytest.raises(PlanError, match=r"no plan fits 10\.0 MB an edge: .* raise --memory to at least that"):
        best_plan(weighty(), replace(SLOW, memory_bytes=10_000_000))


def test_a_plan_that_cannot_be_faster_is_not_played(monkeypatch: pytest.MonkeyPatch, mini: Partition) -> None:
    played: list[int] = []
    right = cost.predict_blocks

    def counted(*given: Any) -> Any:
        played.append(1)
        return right(*given)

    monkeypatch.setattr(search, "predict_blocks", counted)
    busy = replace(SLOW, speeds=(1e9,) * 3, window=6, per_message_s=1e-3)
    best = best_plan(mini, busy, "throughput").best
    few = len(played)
    monkeypatch.setattr(search._Search, "_most_fps", lambda *_: float("inf"))
    assert best_plan(mini, busy, "throughput").best.name == best.name and few < len(played) - few


def test_stages_of_a_pipeline_have_homes_of_their_own(mini: Partition) -> None:
    pipes = search._Search(mini, replace(SLOW, window=6), "throughput")
    pipes.pipe()
    found = [choice for choice in pipes.tried.values() if choice is not None]
    assert {choice.lanes for choice in found} == set(range(2, 7))
    for choice in found:
        assert [division for _, division in choice.pieces] == [Whole(lane) for lane in range(choice.lanes)]
        assert choice.prediction.throughput_fps > 1.2 / choice.prediction.latency_s
