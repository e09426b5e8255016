"""Without faults: nothing is done twice, little is said, everybody has a share, and what is late is late for a reason."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.node import FIRST_LEASE_S
from tests.examples import examples
from tests.simulation.cluster import Cluster, Setup
from tests.simulation.pictures import PLANS

SETUPS = st.builds(
    Setup,
    plan=st.sampled_from(sorted(PLANS)),
    sources=st.integers(1, 3),
    helpers=st.integers(0, 3),
    period_s=st.sampled_from([0.2, 1.0]),
    seed=st.integers(0, 2**16),
    straight=st.sampled_from([0.0, 0.5, 1.0]),
)


@examples(60)
@given(setup=SETUPS)
def test_each_tile_is_computed_once(setup: Setup) -> None:
    cluster = Cluster(setup)
    cluster.run(10.0)
    cluster.heal()
    computed = Counter(key for edge in cluster.edges.values() for key in edge.tiles_computed)
    assert set(computed.values()) == {1}
    assert set(cluster.truth.reasons) == {"ok"} and not cluster.truth.repeated
    for edge in cluster.edges.values():
        ignored = edge.node.tiles.ignored + edge.node.lanes.ignored
        assert not {"steal repeated", "computed too late", "put back too late", "lane started twice"} & set(ignored)
        assert not edge.node.thief.ignored and "lane stuck" not in edge.node.counts, edge.name
    assert "result: repeated" not in cluster.gateway.node.assembly.ignored


def test_an_idle_cluster_sends_fewer_than_two_messages_a_second_a_node() -> None:
    cluster = Cluster(Setup(sources=1, helpers=3, period_s=1e9))
    cluster.run(10.0)
    before = cluster.network.sent
    cluster.run(60.0)
    hops = cluster.network.sent - before
    assert hops / 2 / 60 < 2 * len(cluster.edges)


@pytest.mark.parametrize("plan", ["one block", "three blocks", "two blocks, two whole", "filters", "pipeline", "everything"])
def test_a_frame_takes_a_bounded_number_of_messages(plan: str) -> None:
    cluster = Cluster(Setup(plan, sources=1, helpers=3, period_s=1.0))
    cluster.run(30.0)
    cluster.network.sent = 0
    frames = len(cluster.truth.outcomes)
    cluster.run(60.0)
    hops = cluster.network.sent / (len(cluster.truth.outcomes) - frames)
    assert hops < (70 if plan == "one block" else 250)


def test_helpers_take_their_share() -> None:
    cluster = Cluster(Setup(sources=1, helpers=3, period_s=0.3))
    cluster.run(30.0)
    assert min(len(edge.tiles_computed) for edge in cluster.edges.values()) > 0.5 * len(cluster.truth.outcomes)


def test_what_a_frozen_helper_has_is_computed_by_an_idle_one_long_before_its_lease_ends() -> None:
    cluster = Cluster(Setup(sources=1, helpers=2, period_s=1.0))
    cluster.run(30.0)
    camera, helper = cluster.edges["camera0"], cluster.edges["helper0"]
    while not helper._running:
        cluster.run(0.01)
    frames, lease_s = set(camera.node.tiles.frames), camera.node._lease_s
    helper.freeze(60.0)
    cluster.run(0.3 * lease_s)
    assert frames <= set(cluster.truth.outcomes) and camera.node.counts["lent again"] >= 1
    ignored = cluster.gateway.node.assembly.ignored
    helper.thaw()
    cluster.heal()
    assert set(cluster.truth.reasons) == {"ok"} and ignored["result: frame has ended"] + ignored["result: repeated"] >= 1


@pytest.mark.parametrize("plan", ["one block", "three blocks", "two blocks, two whole", "filters", "pipeline", "everything"])
def test_a_dead_helper_costs_one_lease(plan: str) -> None:
    cluster = Cluster(Setup(plan, sources=1, helpers=1, period_s=0.4))
    cluster.run(30.0)
    camera, helper = cluster.edges["camera0"], cluster.edges["helper0"]
    while not helper._running:
        cluster.run(0.01)
    lease_s = camera.node._lease_s
    assert lease_s < FIRST_LEASE_S * len(camera.node.plan.blocks)  # it is learnt
    frames = set(camera.node.tiles.frames)
    helper.kill()
    cluster.run(2 * lease_s)
    assert frames <= set(cluster.truth.outcomes)
