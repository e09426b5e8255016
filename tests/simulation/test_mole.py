"""One node has valid keys and says everything about everybody: no frame of another's is opened, numbered, ended or changed."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import messages as m
from tests.examples import examples
from tests.simulation.cluster import Cluster, Setup
from tests.simulation.mole import EPOCH, KINDS, MOLE, Lie, Mole
from tests.simulation.pictures import PLANS

SETUPS = st.builds(
    Setup,
    plan=st.sampled_from(sorted(PLANS)),
    sources=st.integers(1, 2),
    helpers=st.integers(0, 2),
    period_s=st.sampled_from([0.3, 1.0]),
    deadline_s=st.just(600.0),
    ordered=st.booleans(),
    seed=st.integers(0, 2**16),
)
LIES = st.builds(
    Lie, st.sampled_from(KINDS), st.booleans(), st.integers(0, 5), st.integers(0, 9), st.integers(0, 3), st.integers(0, 3),
    st.booleans(), st.sampled_from(["0000000a", "0000000b"]),
)  # fmt: skip
DAYS = st.lists(st.tuples(st.sampled_from([0.0, 0.02, 0.4, 3.0]), LIES), max_size=40)


def check(cluster: Cluster) -> None:
    """Every honest frame ended once and right; the mole's own are its own business."""
    failed = [o for o in cluster.truth.outcomes.values() if o.status != "ok"]
    assert all(m.frame_source(o.frame)[0] == MOLE for o in failed), failed
    assert {m.frame_source(frame)[0] for frame in cluster.truth.outcomes} <= {*cluster.names, MOLE}


@examples(100)
@given(setup=SETUPS, day=DAYS)
def test_whatever_a_node_with_keys_says_all_frames_of_others_are_right(setup: Setup, day: list[tuple[float, Lie]]) -> None:
    cluster = Cluster(setup)
    mole = Mole(cluster)
    cluster.run(1.0)
    for wait_s, lie in day:
        mole.say(lie)
        cluster.run(wait_s)
    cluster.run(2.0)
    cluster.heal()
    check(cluster)


def test_a_mole_that_says_all_of_it_ten_times_a_second_for_a_minute_costs_no_frame() -> None:
    cluster = Cluster(Setup("three blocks", sources=1, helpers=3, period_s=0.5))
    mole, chance = Mole(cluster), cluster.world.chance
    for _ in range(600):
        pick = chance.randrange
        for kind in (chance.choice(KINDS), "result"):
            frame, tile = pick(chance.choice([2, 12])), pick(4)
            mole.say(Lie(kind, chance.random() < 0.8, pick(6), frame, tile, pick(4), chance.random() < 0.5, f"{pick(4):08x}"))
        cluster.run(0.1)
    cluster.heal()
    check(cluster)
    assert len(cluster.truth.outcomes) > 60
    heard = {"register", "victim", "tile", "return", "result", "overlap", "overlap_req"}
    assert set(mole.passed) == heard | {"status", "picture"} and set(mole.refused) == set(KINDS), "the rights know each"
    counts = cluster.gateway.node.counts
    assert counts["result of a tile that was not lent"] and counts["result of a frame that was not announced"]


def test_numbers_run_on_after_a_huge_one_and_a_restart_of_the_gateway() -> None:
    cluster = Cluster(Setup(sources=1, helpers=1, period_s=0.5))
    mole = Mole(cluster)
    cluster.run(3.0)
    camera = cluster.edges["camera0"]
    frames = mole._frames()
    for number in (camera.node.frames_opened, 10**12 - 1):
        index = frames.index(m.frame_id("camera0", camera.epoch, number))
        mole.say(Lie("register", True, 0, frames.index(m.frame_id(MOLE, EPOCH, 0)), 0, 0, False, "0000000a"))
        for tile in range(4):
            for error in (0, 1):
                mole.say(Lie("result", True, 0, index, tile if error else 0, 0, False, "0000000a"))
    assert mole.passed["result"]
    cluster.run(10.0)
    cluster._kill("gateway", 0.5, -1)
    cluster.run(20.0)
    cluster.heal()
    check(cluster)
    numbers = sorted(m.frame_source(frame)[2] for frame in cluster.truth.outcomes if frame.startswith("camera0"))
    assert numbers == list(range(len(numbers))) and len(numbers) > 30
