"""Frames played on a cluster: one message and one tile by hand, then laws that hold for every workload."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.planning.cluster import CORE_FLOPS_S, HEADER_BYTES, Cluster, Saving, Workload, is_whole, undivided
from models.planning.simulation import Run
from tests.examples import examples
from tests.models.workloads import Exchange, workload

FREE = Cluster(  # messages cost nothing but their bytes; a full core each, so that seconds are plain
    speeds=(CORE_FLOPS_S,) * 3,
    rate_mbit=8.0,
    gateway_flops_s=CORE_FLOPS_S,
    round_trip_s=0.0,
    per_message_s=0.0,
    per_byte_s=0.0,
    broker_message_s=0.0,
    broker_byte_s=0.0,
    per_tile_s=0.0,
    per_lane_s=0.0,
    per_frame_s=0.0,
    per_picture_s=0.0,
    pack_byte_s=1.0,
    per_outcome_s=0.0,
)
SECOND = int(CORE_FLOPS_S)  # operations of a second
MB = 1_000_000 - HEADER_BYTES  # a second on a link of 8 Mbit/s


def latency_s(work: Workload, cluster: Cluster = FREE) -> float:
    return Run(work, cluster).latencies_s[0]


def test_one_node_alone_computes_and_sends_its_result() -> None:
    run = Run(workload(((2 * SECOND,),), (5,), (), (MB,), tail_effort=SECOND), FREE)
    assert run.latencies_s == [pytest.approx(2 + 1 + 1)]
    assert run.bytes_by_hop == {"results up": 1_000_000}


def test_a_lent_tile_crosses_two_hops_while_the_source_computes_its_own() -> None:
    """Up 0-1, down 1-2, computed 2-3, result 3-4 for the other; the source has computed and sent 0-1, 1-2."""
    run = Run(workload(((SECOND, SECOND),), (MB, MB), (), (MB, MB)), FREE)
    assert run.latencies_s == [pytest.approx(4.0)]
    assert run.bytes_by_hop == {"tiles up": 10**6, "tiles down": 10**6, "results up": 2 * 10**6}


def test_a_tile_that_goes_straight_crosses_one_hop_and_only_a_large_one_does() -> None:
    """Up and down 0-1, computed 1-2, result 2-3."""
    straight = replace(FREE, direct=True, straight_message_s=0.0, straight_bytes=MB)
    run = Run(workload(((SECOND, SECOND),), (MB, MB), (), (MB, MB)), straight)
    assert run.latencies_s == [pytest.approx(3.0)]
    assert run.bytes_by_hop == {"tiles straight": 10**6, "results up": 2 * 10**6}
    small = Run(workload(((SECOND, SECOND),), (0, MB - 1), (), (MB, MB)), straight)
    assert small.bytes_by_hop.keys() == {"tiles up", "tiles down", "results up"}


def test_parts_that_go_straight_leave_the_gateways_link_alone_and_cost_what_they_cost() -> None:
    """Three nodes give each other a part each. The last node's come one after the other, the second when its sender is free."""
    parts = tuple(Exchange(a, b, MB if a != b else 9) for a in range(3) for b in range(3))
    work = workload(((0,) * 3, (0,) * 3), (0,) * 3, (parts,), (0,) * 3)
    straight = replace(FREE, direct=True, straight_message_s=0.1)
    assert latency_s(work, straight) == pytest.approx(3.2, abs=0.01)
    assert latency_s(work) == pytest.approx(7.0, abs=0.15), "six cross the gateway's link"


def test_tiles_of_one_source_share_its_link_and_results_the_gateways() -> None:
    """Tiles leave at 1 and 2 s, arrive at 2 and 3 s; results arrive at 3 and 4 s: the first link is what holds them up."""
    assert latency_s(workload(((0, 0, 0),), (0, MB, MB), (), (0, MB, MB))) == pytest.approx(4.0, abs=0.01)


def test_packed_pixels_and_maps_are_less_on_the_wire_and_cost_both_ends() -> None:
    packing = replace(FREE, pack_byte_s=1e-7, packed_pixels=0.5, packed_maps=0.75)
    run = Run(workload(((SECOND, SECOND),), (MB, MB), (), (MB, MB)), packing)
    assert run.bytes_by_hop["tiles up"] == MB // 2 + HEADER_BYTES
    assert run.bytes_by_hop["results up"] == 2 * (MB * 3 // 4 + HEADER_BYTES)
    # packed by 0.1, up by 0.6, down by 1.1, unpacked by 1.2, computed by 2.2, packed by 2.3, up by 3.05, unpacked by 3.15
    assert run.latencies_s[0] == pytest.approx(3.15, abs=0.01)


def test_nothing_is_packed_where_it_costs_more_than_the_link() -> None:
    dear = replace(FREE, pack_byte_s=0.6e-6, packed_pixels=0.5, packed_maps=0.25)  # of 1e-6 s a byte on the link
    run = Run(workload(((0, 0),), (MB, MB), (), (MB, 100)), dear)
    assert run.bytes_by_hop["tiles up"] == MB + HEADER_BYTES
    assert run.bytes_by_hop["results up"] == MB // 4 + 100 + 2 * HEADER_BYTES  # what is small is not packed


def test_the_next_picture_is_taken_while_the_source_computes() -> None:
    taking = replace(FREE, per_picture_s=0.5)
    assert latency_s(workload(((SECOND, SECOND),), (0, 0), (), (0, 0)), taking) == pytest.approx(1.5, abs=0.01)


def test_a_block_waits_for_the_parts_of_its_neighbours() -> None:
    """The other's tile arrives at 2 s and its part at 2 + 2 s: the source's second block runs 4-5, the result is there at 6."""
    parts = (Exchange(0, 0, 9), Exchange(1, 1, 9), Exchange(1, 0, MB))
    work = workload(((SECOND, 0), (SECOND, 0)), (MB, MB), (parts,), (MB, 0))
    assert latency_s(work) == pytest.approx(6.0, abs=0.01)
    assert Run(work, FREE).bytes_by_hop["parts up"] == 10**6


def test_parts_between_tiles_of_one_node_do_not_travel() -> None:
    parts = tuple(Exchange(a, b, MB) for a in range(2) for b in range(2))
    run = Run(workload(((1, 1), (1, 1)), (MB, MB), (parts,), (1, 1)), replace(FREE, speeds=FREE.speeds[:1]))
    assert set(run.bytes_by_hop) == {"results up"}


def test_more_tiles_than_nodes_are_taken_in_rounds() -> None:
    tiles = 7
    run = Run(workload(((SECOND,) * tiles,), (0,) * tiles, (), (0,) * tiles), FREE)
    assert run.latencies_s[0] == pytest.approx(3.0, abs=0.01)
    assert run.bytes_by_hop["results up"] == tiles * HEADER_BYTES


REUSING = workload(
    ((SECOND,) * 4,), (0,) * 4, (), (0,) * 4,
    savings={1: Saving(frozenset({0, 3}), 3, SECOND * 3 // 4), 2: Saving(frozenset({0, 3}), 2, SECOND // 2)},
    order=(0, 3, 1, 2),
)  # fmt: skip


@pytest.mark.parametrize(("nodes", "spared", "seconds"), [(1, 5, 2.75), (2, 0, 2.0)])
def test_tiles_save_what_their_neighbours_have_made_on_the_same_node(nodes: int, spared: int, seconds: float) -> None:
    """Two nodes have one of the makers each, and so nothing to take."""
    run = Run(REUSING, replace(FREE, speeds=FREE.speeds[:nodes]))
    assert run.spared_flops == spared
    assert run.latencies_s[0] == pytest.approx(seconds, abs=0.01)


def test_thieves_get_tiles_that_save_something_last() -> None:
    """The source computes 0 all the time. Another one gets 3 at once, then 4, which saves nothing, before 2 and 1."""
    effort = (9 * SECOND, SECOND, SECOND, SECOND, SECOND)
    work = workload((effort,), (0,) * 5, (), (0,) * 5, savings=REUSING.savings, order=(0, 3, 4, 1, 2))
    run = Run(work, replace(FREE, speeds=FREE.speeds[:2]))
    assert [lane for lane, edge in run._frames[0].made.items() if edge] == [3, 4, 2, 1]


def test_results_of_several_nodes_share_the_gateways_link() -> None:
    assert latency_s(workload(((0, 0, 0),), (0, 0, 0), (), (0, MB, MB))) == pytest.approx(2.0, abs=0.01)


def test_a_busy_node_that_asks_ahead_never_gets_the_last_tile() -> None:
    """The source takes it after a second and has it done at 6 s; behind the other's it would end at 10 s."""
    two = replace(FREE, speeds=FREE.speeds[:2])
    work = workload(((SECOND, 5 * SECOND, 5 * SECOND),), (0,) * 3, (), (0,) * 3)
    assert latency_s(work, two) == pytest.approx(6.0, abs=0.01)


def test_messages_that_come_while_a_tile_runs_make_it_longer() -> None:
    """The source lends one tile (0.1 s), computes for 10 s, is asked for the last tile and lends it (0.2 s), and sends its
    result, which the gateway takes (0.2 s)."""
    two = replace(FREE, speeds=FREE.speeds[:2], per_message_s=0.1)
    work = workload(((10 * SECOND, SECOND, SECOND),), (0,) * 3, (), (0,) * 3)
    assert latency_s(work, two) == pytest.approx(10.5, abs=0.01)


def test_a_share_of_a_core_is_slow_but_for_the_slice_that_was_saved_up() -> None:
    """A quarter of a core in slices of 20 ms: 5 ms of saved time, then four times as long."""
    slow = replace(FREE, speeds=(CORE_FLOPS_S / 4,), slice_s=0.02)
    short = int(SECOND * 0.004)
    assert latency_s(workload(((short,),), (0,), (), (0,)), slow) == pytest.approx(0.004, abs=0.001)
    twice = workload(((short,), (short,)), (0,), ((Exchange(0, 0, 1),),), (0,))
    assert latency_s(twice, slow) == pytest.approx(0.004 + 0.001 + 4 * 0.003, abs=0.001)
    assert latency_s(workload(((SECOND,),), (0,), (), (0,)), slow) == pytest.approx(4 - 0.015, abs=0.001)


def test_messages_and_kernels_take_their_own_time_on_each_node() -> None:
    """The source divides (2 s), sends the other's tile (4), begins its own lane (6) and sends its result (4). The other gets
    its tile (2), begins the lane (3), computes (8), sends (2). The gateway gets a result (0.5)."""
    costs = replace(FREE, speeds=(CORE_FLOPS_S,) * 2, message_speeds=(0.5, 1.0), per_frame_s=1.0, per_message_s=2.0,
                    per_lane_s=3.0, gateway_message_speed=4.0, slice_s=0.0)  # fmt: skip
    kernels = replace(costs, speeds=(CORE_FLOPS_S, CORE_FLOPS_S / 8))
    work = workload(((0, SECOND),), (0, 0), (), (0, 0))
    assert latency_s(work, costs) == pytest.approx(2 + 4 + 6 + 4 + 0.5, abs=0.01)
    alike = 2 + 4 + 2 + 3 + 2 + 0.5
    assert latency_s(work, kernels) == pytest.approx(alike + 8, abs=0.01)
    assert latency_s(work, replace(kernels, message_speeds=(0.5, 0.5))) == pytest.approx(alike + 8 + 2 + 3 + 2, abs=0.01)
    assert latency_s(work, replace(kernels, per_outcome_s=4.0)) == pytest.approx(alike + 8 + 1, abs=0.01)


def test_the_next_picture_is_taken_at_the_speed_of_messages() -> None:
    """While a tile of 1 s runs on a core of 1/4 and messages of 1/2: 0.5 s of the core are 1 s of the 4 s more."""
    taking = replace(FREE, speeds=(CORE_FLOPS_S / 4,) * 2, message_speeds=(0.5, 0.5), per_picture_s=0.5, slice_s=0.0)
    assert latency_s(workload(((SECOND, 0),), (0, 0), (), (0, 0)), taking) == pytest.approx(5.0, abs=0.01)


def test_a_host_whose_messages_nobody_has_timed_is_a_share_of_the_reference_core() -> None:
    """That is how it was before there was a second figure. More threads than one make no message faster."""
    cluster = Cluster((CORE_FLOPS_S / 5, CORE_FLOPS_S, 4 * CORE_FLOPS_S), 60.0, CORE_FLOPS_S / 4)
    said = replace(cluster, message_speeds=(0.2, 1.0, 1.0), gateway_message_speed=0.25)
    assert cluster.edge_message_speeds == said.edge_message_speeds == (0.2, 1.0, 1.0)
    assert replace(cluster, message_speeds=(0.0, 0.3, 0.0)).edge_message_speeds == (0.2, 0.3, 1.0)
    work = workload(((SECOND,) * 3,), (MB,) * 3, (), (MB,) * 3)
    assert latency_s(work, cluster) == latency_s(work, said)


def test_frames_in_flight_hide_transfers_behind_compute() -> None:
    work = workload(((SECOND,),), (0,), (), (MB,))
    assert Run(work, FREE, 5).fps == pytest.approx(0.5, rel=0.01)
    assert Run(work, replace(FREE, window=2), 5).fps == pytest.approx(1.0, rel=0.01)


def test_frames_of_one_tile_go_to_the_idlest_node_so_several_in_flight_keep_all_busy() -> None:
    work, three = workload(((SECOND,),), (0,), (), (0,)), replace(FREE, speeds=(CORE_FLOPS_S,) * 3)
    for window, fps in ((1, 1.0), (2, 2.0), (3, 3.0), (6, 3.0)):
        assert Run(work, replace(three, window=window), 18).fps == pytest.approx(fps, rel=0.05)


def test_sources_that_compute_alone_each_add_their_throughput() -> None:
    work = undivided(workload(((1, 1, 1),), (0,) * 3, (), (0,) * 3), SECOND, 0)
    assert Run(work, replace(FREE, sources=3), 4).fps == pytest.approx(3.0, rel=0.01)


def test_frames_stay_whole_where_helpers_are_fewer_than_sources() -> None:
    told = [is_whole(replace(FREE, speeds=(1.0,) * 6, sources=n)) for n in range(1, 7)]
    assert told == [False, False, False, True, True, True]
    assert not is_whole(replace(FREE, speeds=(1.0,), sources=1))


@st.composite
def works(draw: st.DrawFn) -> Workload:
    """Up to eight lanes of up to three blocks; a lane always needs its own part, and some of its neighbours'."""
    lanes, blocks = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    each = st.lists(st.integers(0, MB), min_size=lanes, max_size=lanes).map(tuple)
    pairs = st.sets(st.tuples(st.integers(0, lanes - 1), st.integers(0, lanes - 1)), max_size=6)

    def exchanges() -> tuple[Exchange, ...]:
        chosen = draw(pairs) | {(i, i) for i in range(lanes)}
        return tuple(Exchange(maker, taker, draw(st.integers(1, MB))) for maker, taker in sorted(chosen))

    effort = tuple(tuple(1000 * n for n in draw(each)) for _ in range(blocks))
    return workload(effort, draw(each), tuple(exchanges() for _ in range(blocks - 1)), draw(each), 1000)


@examples(60)
@given(works(), st.integers(1, 4), st.integers(1, 2), st.integers(1, 2))
def test_every_frame_ends_and_none_before_its_work_could_be_done(
    work: Workload, nodes: int, window: int, sources: int
) -> None:
    sources = min(nodes, sources)
    cluster = replace(FREE, speeds=(CORE_FLOPS_S,) * nodes, sources=sources, window=window, per_message_s=0.001)
    run = Run(work, cluster, 3)
    assert len(run.latencies_s) == 3 * sources
    lanes = [sum(work.effort[block, lane] for block in work.steps[lane]) for lane in range(work.lanes)]
    least = max(max(lanes), sum(lanes) / nodes) / CORE_FLOPS_S
    assert all(latency >= least for latency in run.latencies_s)
    assert run.bytes_by_hop["results up"] == 3 * sources * sum(r + HEADER_BYTES for r in work.results.values())
    assert run.bytes_by_hop["tiles up"] == run.bytes_by_hop["tiles down"]
    assert run.bytes_by_hop["parts up"] == run.bytes_by_hop["parts down"]


@examples(30)
@given(works())
def test_equal_workloads_take_equal_time(work: Workload) -> None:
    assert Run(work, FREE, 2).latencies_s == Run(work, FREE, 2).latencies_s


def test_the_next_picture_takes_turns_with_a_tile_and_goes_on_while_the_source_waits() -> None:
    """A quarter of a second for the tile, as much meanwhile for the picture, and 0.75 s more until the next frame."""
    taking = replace(FREE, speeds=FREE.speeds[:1], per_picture_s=1.0)
    run = Run(workload(((SECOND // 4,),), (0,), (), (0,)), taking, frames=4)
    assert run.latencies_s[0] == pytest.approx(0.5, abs=0.01)
    assert run.fps == pytest.approx(1 / 1.25, rel=0.01)
    waiting = Run(workload(((0, 5 * SECOND),), (0, 0), (), (0, 0)), replace(taking, speeds=FREE.speeds[:2]), frames=4)
    assert waiting.fps == pytest.approx(1 / 5, rel=0.01)


def test_a_message_takes_turns_with_a_tile_no_longer_than_it_runs() -> None:
    """Four seconds of it beside a tile that has one second left: both are slowed down by one."""
    run = Run(workload(((0,),), (0,), (), (0,)), FREE)
    host = run._edges[0]
    host.computing, host.ends, host.network, host.debt_s = True, 1.0, 0.0, 0.0
    run._spend(0.0, host, 4.0, lambda now: None)
    assert (host.network, host.debt_s) == (5.0, 1.0)
