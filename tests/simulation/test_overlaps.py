"""Strips that travel between nodes, with real engines: whatever is lost, late or repeated, every frame has the same bits."""

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import topics
from schemas.topics import Publish
from tests.simulation.cluster import FAULTS, OVERLAPPING, Cluster, Fault, Setup
from tests.simulation.world import Network

SECONDS = st.sampled_from([0.05, 0.5, 3.0, 9.0])
DAYS = st.lists(
    st.tuples(SECONDS, st.builds(Fault, st.sampled_from(FAULTS), st.integers(0, 3), SECONDS, st.integers(-1, 6))), max_size=6
)


def cluster(helpers: int, seed: int = 0, network: type[Network] = Network, period_s: float = 0.5) -> Cluster:
    return Cluster(Setup("overlaps", sources=1, helpers=helpers, period_s=period_s, seed=seed), network)


def reduced(found: Cluster) -> int:
    return sum(edge.reduced for name, edge in found.edges.items() if name.startswith("helper"))


def test_strips_flow_to_thieves_and_back_and_are_counted() -> None:
    found = cluster(2)
    found.run(30.0)
    found.heal()
    assert set(found.truth.reasons) == {"ok"}
    pool, nodes = found.gateway.node.overlaps, [edge.node for edge in found.edges.values()]
    assert reduced(found) > 10 and found.edges["camera0"].reduced > 10
    assert pool.counts["strips passed on"] > 50 and pool.nbytes == 0
    published = sum(node.overlaps.counts["strips published"] for node in nodes)
    assert published == pool.counts["strips"] + pool.counts["strips too late"]
    assert sum(node.overlaps.counts["strips in time"] for node in nodes) > 10
    assert not pool.counts["strips repeated"] and not any(node.overlaps.counts["strip repeated"] for node in nodes)


class Lossy(Network):
    """Every third message with strips is lost, every fourth comes twice, every fifth late."""

    def __init__(self, world: object) -> None:
        super().__init__(world)  # type: ignore[arg-type]
        self.strips = 0

    def route(self, said: Publish) -> None:
        if said.topic not in (topics.OVERLAP, topics.STRIPS):
            return super().route(said)
        self.strips += 1
        if self.strips % 3 == 0:
            return None
        if self.strips % 5 == 0:
            return self.world.after(0.3, super().route, said)
        super().route(said)
        return super().route(said) if self.strips % 4 == 0 else None


def test_lost_repeated_and_late_strips_cost_no_bit_and_no_frame() -> None:
    found = cluster(2, network=Lossy)
    found.run(40.0)
    found.heal()
    assert set(found.truth.reasons) == {"ok"} and len(found.truth.outcomes) > 10
    nodes = [edge.node for edge in found.edges.values()]
    assert found.gateway.node.overlaps.counts["strips repeated"]
    assert sum(node.overlaps.counts["strips late"] for node in nodes)
    assert sum(edge.reduced for edge in found.edges.values())


def test_a_gateway_that_restarts_has_an_empty_pool_and_the_frames_go_on() -> None:
    found = cluster(2)
    for _ in range(8):
        found.run(2.3)
        found.do(Fault("kill gateway", seconds=0.5))
    found.run(5.0)
    found.heal()
    assert set(found.truth.reasons) <= {"ok"} and found.gateway.node.overlaps.nbytes == 0
    assert found.gateway.node.overlaps.counts["strips"]


def test_without_rates_no_strip_travels() -> None:
    found = cluster(2)
    for edge in found.edges.values():
        edge.node.flops_s = edge.node.bytes_s = 0.0
    found.run(20.0)
    found.heal()
    assert not found.gateway.node.overlaps.counts and reduced(found) == 0


@settings(max_examples=12, deadline=None)
@given(helpers=st.integers(0, 3), seed=st.integers(0, 2**16), day=DAYS)
def test_after_any_faults_frames_have_the_same_bits(helpers: int, seed: int, day: list[tuple[float, Fault]]) -> None:
    found = cluster(helpers, seed)
    found.run(2.0)
    for wait_s, fault in day:
        found.do(fault)
        found.run(wait_s)
    found.heal()
    for edge in found.edges.values():
        overlaps = edge.node.overlaps
        assert len(overlaps._frames) <= 64 and overlaps._made.nbytes <= 16 << 20


def test_the_simulated_plan_is_one_whose_tiles_take() -> None:
    assert set(OVERLAPPING.trade.strips) == set(range(1, 25, 2))
