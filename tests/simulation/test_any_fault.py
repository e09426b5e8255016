"""Any sequence of faults on any cluster: Hypothesis draws them, and shortens what fails to what is needed."""

from hypothesis import example, given
from hypothesis import strategies as st

from tests.examples import examples
from tests.simulation.cluster import FAULTS, Cluster, Fault, Setup
from tests.simulation.pictures import PLANS

SETUPS = st.builds(
    Setup,
    plan=st.sampled_from(sorted(PLANS)),
    sources=st.integers(1, 3),
    helpers=st.integers(0, 3),
    period_s=st.sampled_from([0.3, 2.0]),
    deadline_s=st.just(600.0),
    ordered=st.booleans(),
    seed=st.integers(0, 2**16),
    straight=st.sampled_from([0.0, 0.5, 1.0]),
)
SECONDS = st.sampled_from([0.05, 0.5, 3.0, 9.0, 40.0])
DAYS = st.lists(
    st.tuples(SECONDS, st.builds(Fault, st.sampled_from(FAULTS), st.integers(0, 5), SECONDS, st.integers(-1, 6))),
    max_size=12,
)


# A frame was divided, then begun anew, then computed undivided: a tile's acceptance took the whole's result from the outbox.
LEFT = [(0.05, Fault("deaf gateway")), (3.0, Fault("freeze edge", 0, 0.05)), (3.0, Fault("kill edge", 1, 0.05, 0)),
        (40.0, Fault("freeze gateway", 0, 40.0))]  # fmt: skip


@examples(150)
@example(setup=Setup("three blocks, undivided", 1, 2, 2.0, 600.0), day=LEFT)
@example(  # what a failed engine gives is no result to judge a helper by
    setup=Setup("three blocks", 1, 1, 0.3, 600.0),
    day=[(0.05, Fault("kill edge", 0, 0.05, 0)), (40.0, Fault("broken engine", 0, 0.05))],
)
@given(setup=SETUPS, day=DAYS)
def test_after_any_faults_every_frame_has_its_one_outcome(setup: Setup, day: list[tuple[float, Fault]]) -> None:
    cluster = Cluster(setup)
    cluster.run(1.0)
    for wait_s, fault in day:
        cluster.do(fault)
        cluster.run(wait_s)
    cluster.heal()
    kinds = {fault.kind for _, fault in day}
    causes = {
        "source": {"leave", "kill edge", "freeze edge", "sleep edge", "unplug edge", "deaf edge", "unplug gateway",
                   "kill broker", "deaf gateway", "bad weather", "freeze gateway", "kill gateway and broker"},
        "model": {"broken engine"},
        "gateway": {"kill gateway", "kill gateway and broker"},
        "deadline": set(),
    }  # fmt: skip
    for reason in cluster.truth.reasons.keys() - {"ok"}:
        assert causes[reason.split()[0]] & kinds, f"{reason} after {kinds}"
