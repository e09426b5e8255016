"""A whole cluster in one simulated world, the faults that can befall it, and the truth about every frame.

The law: every frame of a live source ends exactly once, as the exact result or as a failure that names its reason. ``heal``
ends all faults; then every frame completes while time goes on only to what somebody waits for.
"""

from collections import Counter
from dataclasses import dataclass

from schemas.contract import messages as m
from schemas.contract.topics import Publish
from tests.simulation.pictures import PLANS, Pictures
from tests.simulation.processes import GATEWAY, EdgeProcess, GatewayProcess, Process
from tests.simulation.world import Network, Weather, World

REASONS = ("bits of", "source lost with", "source left with", "source restarted with", "deadline of", "model error on",
           "gateway restarted: what")  # fmt: skip
FAULTS = (
    "kill edge", "kill gateway", "kill broker", "kill gateway and broker", "freeze edge", "sleep edge", "freeze gateway",
    "unplug edge", "unplug gateway", "deaf edge", "deaf gateway", "slow edge", "broken engine", "bad weather", "leave",
    "unplug pair",
)  # fmt: skip


@dataclass
class Setup:
    """``sources`` edges have a camera, ``helpers`` none; a share of ``straight`` of tiles and parts goes past the broker."""

    plan: str = "one block"
    sources: int = 1
    helpers: int = 2
    period_s: float = 1.0
    deadline_s: float = 120.0
    ordered: bool = False
    seed: int = 0
    straight: float = 0.0


@dataclass
class Fault:
    """``seconds`` is how long it lasts or until a killed process starts again; ``fuse`` how much it still says."""

    kind: str
    who: int = 0
    seconds: float = 1.0
    fuse: int = -1


class Truth:
    """What a subscriber has heard, frame by frame. ``wrong``: of what a liar has spoilt, where there may be one, in order."""

    def __init__(self, pictures: Pictures) -> None:
        self.outcomes: dict[str, m.Outcome] = {}
        self.repeated: list[str] = []
        self.reasons: Counter[str] = Counter()
        self.wrong: list[str] | None = None
        self._pictures = pictures
        self._words: dict[str, Publish] = {}  # the first for each frame: the network may bring it twice
        self._states: dict[tuple[str, str], str] = {}

    def hear(self, said: Publish, ordered: bool) -> None:
        outcome = said.message
        assert isinstance(outcome, m.Outcome)
        frame = outcome.frame
        if frame in self.outcomes:
            if said is not self._words[frame]:
                self.repeated.append(frame)
                same = outcome.model_copy(update={"epoch": self.outcomes[frame].epoch})
                assert same == self.outcomes[frame], "what is said again is the same"
            return
        self.outcomes[frame], self._words[frame] = outcome, said
        self.reasons[outcome.reason.split(" with ")[0].split(" on ")[0].split(":")[0].split(" of ")[0] or "ok"] += 1
        if outcome.status == "failed":
            assert outcome.reason.startswith(REASONS), outcome.reason
            if outcome.reason.startswith("gateway restarted"):
                self._states.pop(m.frame_source(frame)[:2], None)
            return
        digests = dict(outcome.digests)
        state = digests.pop("state")
        if digests != self._pictures.digests(frame):
            assert self.wrong is not None, f"{frame} is wrong"
            self.wrong.append(frame)
        assert sum(outcome.computed.values()) == len(self._pictures.plan.blocks[-1].tiles)
        known = self._states.setdefault(m.frame_source(frame)[:2], state)
        assert not ordered or known == state, "a state that begins anew is named"


class Cluster:
    """Everything, and the only hand that lets time pass."""

    def __init__(self, setup: Setup, network: type[Network] = Network, pictures: Pictures | None = None) -> None:
        """``pictures`` in place of those of the setup's plan."""
        self.setup = setup
        self.world = World(setup.seed)
        self.network = network(self.world)
        self.network.straight = setup.straight
        self.network.watch = lambda said: self.truth.hear(said, setup.ordered)
        self.pictures = pictures or Pictures(PLANS[setup.plan])
        self.truth = Truth(self.pictures)
        self.disk: dict[str, m.Outcome | None] = {}  # how frames ended; None once that was heard for sure
        self.unsure: set[str] = set()  # frames whose words a gateway had on its lips when it was killed
        self.gateway = self._gateway()
        self.names = [f"camera{i}" for i in range(setup.sources)] + [f"helper{i}" for i in range(setup.helpers)]
        self.edges = {name: self._edge(name) for name in self.names}
        self.capturing = True
        for i in range(setup.sources):
            self.world.after(setup.period_s * (i + 1) / setup.sources, self._capture, f"camera{i}")

    def _edge(self, name: str) -> EdgeProcess:
        return EdgeProcess(self.world, self.network, name, self.pictures, name.startswith("camera"))

    def _gateway(self) -> GatewayProcess:
        self.unsure |= {frame for frame, outcome in self.disk.items() if outcome is not None}
        return GatewayProcess(self.world, self.network, self.pictures, self.setup.deadline_s, self.setup.ordered, self.disk)

    def _capture(self, name: str) -> None:
        if self.capturing:
            self.edges[name].capture()
            self.world.after(self.setup.period_s * self.world.chance.uniform(0.5, 1.5), self._capture, name)

    def do(self, fault: Fault) -> None:
        """Let one fault begin."""
        name = self.names[fault.who % len(self.names)]
        process = self.edges[name]
        kind, seconds = fault.kind, fault.seconds
        if kind in ("kill edge", "kill gateway"):
            self._kill(name if kind == "kill edge" else GATEWAY, seconds, fault.fuse)
        elif kind == "kill broker":
            self.network.stop(seconds)
        elif kind == "leave":
            process.leave()
            self.world.after(seconds, self._start, process)
        elif kind == "kill gateway and broker":
            self._kill(GATEWAY, seconds, -1)
            self.network.stop(seconds)
        elif kind == "freeze edge":
            process.freeze(seconds)
        elif kind == "sleep edge":
            process.freeze(seconds, asleep=True)
        elif kind == "freeze gateway":
            self.gateway.freeze(seconds)
        elif kind == "unplug edge":
            process.client.unplug(seconds)
        elif kind == "unplug pair":
            pair = frozenset((name, self.names[(fault.who + 1) % len(self.names)]))
            self.network.cut.add(pair)
            self.world.after(seconds, self.network.cut.discard, pair)
        elif kind == "unplug gateway":
            self.gateway.client.unplug(seconds)
        elif kind == "deaf edge":
            if process.client.line:
                process.client.line.deaf = True
        elif kind == "deaf gateway":
            self.unsure |= self.gateway.unsaid
            if self.gateway.client.line:
                self.gateway.client.line.deaf = True
        elif kind == "slow edge":
            process.slow = 30.0
            self.world.after(seconds, setattr, process, "slow", 1.0)
        elif kind == "broken engine":
            process.fails = True
        elif kind == "bad weather":
            self.network.weather = Weather(loss=0.1, repeat=0.1, jitter_s=0.3)
            self.world.after(seconds, self._calm)
        else:
            raise AssertionError(kind)

    def _calm(self) -> None:
        self.network.weather = Weather()

    def _kill(self, name: str, seconds: float, fuse: int) -> None:
        process = self.gateway if name == GATEWAY else self.edges[name]
        if not process.alive:
            return
        if fuse < 0:
            process.kill()
        else:
            process.fuse = fuse
        self.world.after(seconds, self._start, process)

    def _start(self, dead: Process) -> None:
        """A new process in the place of one that was killed, unless there is one."""
        dead.kill()
        if dead is self.gateway:
            self.gateway = self._gateway()
        elif dead is self.edges.get(dead.name):
            self.edges[dead.name] = self._edge(dead.name)

    def __str__(self) -> str:
        """For people who look for what went wrong."""
        gateway = self.gateway.node
        lines = [f"{self.world.now:.3f} s, gateway knows {gateway.ring.nodes}, {gateway.assembly.frames}"]
        for process in [self.gateway, *self.edges.values()]:
            line = process.client.line
            state = f"{process.name} {process.epoch}: frozen {process.frozen}, online {line is not None}"
            state += f", deaf {line is not None and line.deaf}, unplugged {process.client.unplugged}"
            if isinstance(process, EdgeProcess):
                node = process.node
                tiles = {f"{m.frame_source(key[0])[2]}/{key[1]}": type(s).__name__ for key, s in node.tiles.tiles.items()}
                state += f", tiles {tiles}, outbox {len(node.outbox)}, lanes {list(node.lanes._lanes)}"
            lines.append(state)
        return "\n".join(lines)

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    @property
    def frames(self) -> list[str]:
        """Of sources that live."""
        return [frame for edge in self.edges.values() if edge.alive for frame in edge.captured]

    @property
    def open(self) -> list[str]:
        return [frame for edge in self.edges.values() if edge.alive for frame in edge.node.tiles.frames]

    def heal(self, limit_s: float = 120.0) -> None:
        """Faults stop; every frame ends within so many seconds, and nothing is left over."""
        self.capturing = False
        self.network.cut.clear()
        self._calm()
        for process in [self.gateway, *self.edges.values()]:
            process.thaw()
            process.fuse = -1
            process.client._plug()
            if isinstance(process, EdgeProcess):
                process.slow = 1.0
        for process in [self.gateway, *self.edges.values()]:
            if not process.alive:
                self._start(process)
        start = self.world.now
        while self.open:
            assert self.world.now < start + limit_s, f"not healed: {self.open}\n{self}"
            self.run(0.5)
        self.run(60.0)
        self.settled()

    def settled(self) -> None:
        """All is quiet: every frame has its one outcome, and nobody holds anything any more."""
        for frame in self.frames:
            assert frame in self.truth.outcomes, f"{frame} was lost without a word"
        assert set(self.truth.repeated) <= self.unsure, f"said twice: {self.truth.repeated}"
        for edge in self.edges.values():
            node = edge.node
            left = (dict(node.tiles.tiles), node._stolen, node.outbox._held, node.lanes._lanes)
            assert not any(left), f"{edge.name} has left: {left}"
        gateway = self.gateway.node
        assert set(gateway.ring.nodes) == set(self.names), "everybody is back"
        gateway.assembly.expire(self.gateway.clock() + self.setup.deadline_s)
        assert gateway.assembly.frames == (), "leftovers have no outcome"
        assert gateway.early.deadline() is None, "nothing waits for a source's word for ever"
