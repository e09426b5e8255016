"""Any message may be delivered at any time, twice or never: Hypothesis chooses, message by message.

Then faults stop, time goes on only to what somebody waits for, and every frame completes.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from schemas.contract.topics import Publish
from tests.examples import examples
from tests.simulation.cluster import Cluster, Fault, Setup
from tests.simulation.world import Connection, Network, World

Flight = tuple[Publish, Callable[..., None], tuple[Any, ...]]
SETUPS = st.sampled_from(
    [
        Setup("one block", sources=2, helpers=2),
        Setup("undivided", sources=2, helpers=1),
        Setup("three blocks", sources=1, helpers=2, straight=0.5),
        Setup("two blocks, two whole", sources=1, helpers=2),
        Setup("one block", sources=1, helpers=2, ordered=True),
    ]
)


class Flights(Network):
    """Messages under way from the broker wait to be chosen, until ``calm``."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.calm, self.flights = False, list[Flight]()

    def travel(self, line: Connection, way: str, said: Publish, act: Callable[..., None], *about: Any) -> None:
        if self.calm:
            return super().travel(line, way, said, act, *about)
        if way == "up":
            return act(*about)
        self.flights.append((said, act, about))


class AnyMessage(RuleBasedStateMachine):
    """Rules are what a bad day brings; ``teardown`` is the healing."""

    def __init__(self) -> None:
        super().__init__()
        self.left = {"edge": 2, "gateway": 2, "broker": 1}  # how many may be killed

    @initialize(setup=SETUPS)
    def begin(self, setup: Setup) -> None:
        setup.deadline_s, setup.period_s = 600.0, 1e9
        self.cluster = Cluster(setup, Flights)
        assert isinstance(self.cluster.network, Flights)
        self.network = self.cluster.network
        self.cluster.run(0.0)

    @property
    def flights(self) -> list[Flight]:
        return self.network.flights

    @rule(who=st.integers(0, 1))
    def capture(self, who: int) -> None:
        self.cluster.edges[f"camera{who % self.cluster.setup.sources}"].capture()

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self._deliver(self._pick(data))

    @precondition(lambda self: self.flights)
    @rule(count=st.integers(1, 15))
    def deliver_in_order(self, count: int) -> None:
        for _ in range(min(count, len(self.flights))):
            self._deliver(0)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self.flights.append(self.flights[self._pick(data)])

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.flights.pop(self._pick(data))

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.5, 1.9, 4.0, 7.0, 20.0]))
    def advance(self, seconds: float) -> None:
        self.cluster.run(seconds)

    @rule(who=st.integers(0, 3), kind=st.sampled_from(["freeze edge", "sleep edge", "unplug edge", "deaf edge", "slow edge"]))
    def hinder(self, who: int, kind: str) -> None:
        self.cluster.do(Fault(kind, who, 3.0))

    @rule(who=st.integers(0, 3))
    def break_engine(self, who: int) -> None:
        self.cluster.do(Fault("broken engine", who))

    @precondition(lambda self: self.left["edge"])
    @rule(who=st.integers(0, 3), fuse=st.integers(-1, 3), seconds=st.sampled_from([0.1, 3.0]))
    def kill_edge(self, who: int, fuse: int, seconds: float) -> None:
        self.left["edge"] -= 1
        self.cluster.do(Fault("kill edge", who, seconds, fuse))

    @precondition(lambda self: self.left["gateway"])
    @rule(fuse=st.integers(-1, 3), seconds=st.sampled_from([0.1, 3.0]))
    def kill_gateway(self, fuse: int, seconds: float) -> None:
        self.left["gateway"] -= 1
        self.cluster.do(Fault("kill gateway", 0, seconds, fuse))

    @precondition(lambda self: self.left["broker"])
    @rule()
    def kill_broker(self) -> None:
        self.left["broker"] -= 1
        self.flights.clear()
        self.cluster.do(Fault("kill broker", 0, 1.0))

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        while self.flights:
            self._deliver(0)
        self.network.calm = True
        self.cluster.heal()

    def _deliver(self, index: int) -> None:
        _, act, about = self.flights.pop(index)
        act(*about)

    def _pick(self, data: st.DataObject) -> int:
        """A message in flight: first its kind, so that rare kinds have bad luck as often as heartbeats."""
        kinds = [type(said.message).__name__ for said, _, _ in self.flights]
        kind = data.draw(st.sampled_from(sorted(set(kinds))))
        return data.draw(st.sampled_from([index for index, name in enumerate(kinds) if name == kind]))


TestAnyMessage = AnyMessage.TestCase
TestAnyMessage.settings = examples(100, stateful_step_count=50)
