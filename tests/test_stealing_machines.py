"""The machines of both agents together: one gateway, two sources, two thieves, and a network that may do anything.

``Edge`` and ``Gateway`` wire the machines as the apps do: a message or a deadline, one call, publish what it returns.
The network is a list of messages in flight. The stateful test delivers, repeats, reorders and drops them, restarts
nodes and lets time pass; then faults stop, time goes on only to ``deadline()``, and every frame must complete.
"""

import itertools
import random
from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.outbox import Outbox
from edge_agent.thief import Thief
from edge_agent.tiles import Computing, Done, Lent, Sent, TileQueue, Waiting
from gateway_agent.assembly import Assembly, Complete, Failed
from gateway_agent.victims import Forward, VictimRing
from schemas.keys import Key
from schemas.messages import (
    Accepted,
    Echo,
    Message,
    Register,
    ResultHeader,
    Steal,
    TileHeader,
    VictimRequest,
    frame_id,
    frame_source,
)

PLAN = "0" * 32
GATEWAY = "gateway"
TILES = 4
LEASE_S = 10.0
HEARTBEAT_S = 2.0
DEADLINE_S = 600.0
COMPUTE_S = 0.05


@dataclass(frozen=True)
class Flight:
    """A message under way. Equal messages are different flights: compared by identity where it matters."""

    sender: str
    to: str
    message: Message
    payload: str = ""


class World:
    """What the machines do not have: a clock, a network, random numbers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.flights: list[Flight] = []
        self.sent: dict[str, int] = {}
        self.computed: dict[Key, int] = {}
        self._ids = itertools.count(1)

    def new_id(self) -> str:
        return f"{next(self._ids):08x}"

    def send(self, sender: str, to: str, message: Message, payload: str = "") -> None:
        self.sent[sender] = self.sent.get(sender, 0) + 1
        self.flights.append(Flight(sender, to, message, payload))


class Edge:
    """One edge: four machines' calls in the order of the app's loop, and checks of what each call did."""

    def __init__(self, name: str, world: World) -> None:
        self.name, self.world, self.epoch = name, world, world.new_id()
        self.queue, self.outbox, self.thief = TileQueue(), Outbox(limit=6), Thief(world.new_id)
        self.engine: Key | None = None
        self.stolen: list[Key] = []  # under a lease of somebody else, not yet in the engine
        self.gateway = ""  # its epoch
        self.seq = self.echoed = 0
        self.beat_at = world.now
        self.reported: tuple[int, tuple[str, ...]] = (0, ())
        self.numbers = itertools.count()
        self.leases: dict[Key, tuple[str, float]] = {}  # what this edge has promised: request and end
        self.taken: set[str] = set()  # requests that brought a tile

    def capture(self) -> None:
        frame = frame_id(self.name, self.epoch, next(self.numbers))
        self.queue.add(frame, [(frame, 0, tile) for tile in range(TILES)])
        self.wake()

    def wake(self) -> None:
        now = self.world.now
        for key in self.queue.expire(now):
            _, until = self.leases.pop(key)
            assert until == now, "a lease ends exactly on time"
            assert isinstance(self.queue.state(key), Waiting)
        if self.engine is None and not self.outbox.full:
            self.engine = self.stolen.pop(0) if self.stolen else self.queue.take(now)
        hungry = not self.stolen and not self.queue.waiting and not self.outbox.full and bool(self.gateway)
        ask = self.thief.poll(hungry, self.engine is not None, now)
        if ask:
            wanted = VictimRequest(node=self.name, epoch=self.epoch, plan=PLAN, request=ask.request, ahead=ask.ahead)
            self._send(GATEWAY, wanted)
        for key in self.outbox.due(now):
            frame, block, tile = key
            header = ResultHeader(
                node=self.name,
                epoch=self.epoch,
                plan=PLAN,
                frame=frame,
                block=block,
                tile=tile,
                compute_s=COMPUTE_S,
                stolen=not self._own(key),
            )
            self._send(GATEWAY, header, pixels(key))
        if now >= self.beat_at or self.reported != (self.queue.waiting, self.queue.frames):
            self.beat_at, self.seq = now + HEARTBEAT_S, self.seq + 1
            self.reported = (self.queue.waiting, self.queue.frames)
            waiting, frames = self.reported
            register = Register(
                node=self.name, epoch=self.epoch, seq=self.seq, runtime="x", waiting=waiting, frames=frames
            )
            self._send(GATEWAY, register)

    def finish(self) -> None:
        """The engine is through with its tile."""
        key, self.engine = self.engine, None
        assert key
        self.world.computed[key] = self.world.computed.get(key, 0) + 1
        before = self.queue.state(key)
        wanted = not self._own(key) or self.queue.computed(key)
        assert isinstance(before, Computing) or self.queue.state(key) == before, "done stays done"
        if wanted:
            for dropped in self.outbox.put(key, self.world.now):
                self.queue.put_back(dropped)
        self.wake()

    def receive(self, message: Message, payload: str) -> None:
        if isinstance(message, Echo):
            self._echo(message)
        elif isinstance(message, Steal) and message.epoch == self.gateway:
            self._lend(message)
        elif isinstance(message, TileHeader) and message.to_epoch == self.epoch:
            self._take(message, payload)
        elif isinstance(message, Accepted) and message.epoch == self.gateway:
            self._accept(message)
        self.wake()

    def deadline(self) -> float:
        """When to wake next; there is always a heartbeat."""
        times = (self.queue.deadline(), self.thief.deadline(), self.outbox.deadline())
        return min([self.beat_at, *(t for t in times if t is not None)])

    def _echo(self, echo: Echo) -> None:
        if echo.to_epoch != self.epoch or echo.seq <= self.echoed:
            return
        self.echoed = echo.seq
        if self.gateway and self.gateway != echo.epoch:
            self.queue.requeue()
            self.outbox.requeue(self.world.now)
            self.leases.clear()
        self.gateway = echo.epoch

    def _lend(self, steal: Steal) -> None:
        waiting, had = self.queue.waiting, {r: k for k, (r, _) in self.leases.items()}.get(steal.request)
        key = self.queue.lend(steal.thief, steal.request, steal.ahead, self.world.now, LEASE_S)
        answer = TileHeader(
            node=self.name, epoch=self.epoch, plan=PLAN, to_epoch=steal.thief_epoch, request=steal.request
        )
        if had:
            assert key == had and self.queue.waiting == waiting, "one request, one tile"
        elif key is None:
            assert waiting <= (1 if steal.ahead else 0), "a waiting tile is lent"
        else:
            assert not (steal.ahead and waiting == 1), "ahead never takes the last tile"
            assert self.queue.waiting == waiting - 1
            self.leases[key] = (steal.request, self.world.now + LEASE_S)
        if key is None:
            self._send(steal.thief, answer)
            return
        assert self._own(key) and steal.thief != self.name
        frame, block, tile = key
        update = {"frame": frame, "block": block, "tile": tile, "lease_s": self.leases[key][1] - self.world.now}
        self._send(steal.thief, answer.model_copy(update=update), pixels(key))

    def _take(self, header: TileHeader, payload: str) -> None:
        if header.frame is None:
            self.thief.none(header.request, self.world.now)
        elif self.thief.tile(header.request):
            key = (header.frame, header.block, header.tile)
            assert payload == pixels(key) and not self._own(key)
            assert header.request not in self.taken, "a request brings one tile"
            self.taken.add(header.request)
            self.stolen.append(key)

    def _accept(self, accepted: Accepted) -> None:
        self.queue.accept(accepted.frame, accepted.block, accepted.tiles, accepted.ended)
        self.outbox.accept(accepted.frame, accepted.block, accepted.tiles, accepted.ended)
        for tile in accepted.tiles:
            key = (accepted.frame, accepted.block, tile)
            self.leases.pop(key, None)
            assert key not in self.outbox and isinstance(self.queue.state(key), Done | None)
        if accepted.ended:
            assert accepted.frame not in self.queue.frames
            self.leases = {key: lease for key, lease in self.leases.items() if key[0] != accepted.frame}

    def _own(self, key: Key) -> bool:
        return frame_source(key[0])[0] == self.name

    def _send(self, to: str, message: Message, payload: str = "") -> None:
        self.world.send(self.name, to, message, payload)


class Gateway:
    """The gateway: ring, assembly and a tail that ends when told."""

    def __init__(self, world: World) -> None:
        self.world, self.epoch = world, world.new_id()
        self.ring, self.assembly = VictimRing(), Assembly[str]([TILES], deadline_s=DEADLINE_S)
        self.tail: list[Complete[str]] = []
        self.merged: set[str] = set()
        self.stolen: Counter[str] = Counter()
        self.outcomes: dict[str, str] = {}

    def wake(self) -> None:
        now = self.world.now
        for node in self.ring.expire(now):
            self._failed(self.assembly.source_lost(node, now))
        self._failed(self.assembly.expire(now))

    def receive(self, message: Message, payload: str) -> None:
        now, node, epoch = self.world.now, message.node, message.epoch
        if isinstance(message, Register):
            self._forward(self.ring.register(node, epoch, message.waiting, now))
            announced = self.assembly.announce(node, epoch, message.frames, now)
            self._failed(announced.failed)
            for frame in announced.ended:
                self._accept({node}, Accepted(node=GATEWAY, epoch=self.epoch, frame=frame, ended=True))
            self._send(node, Echo(node=GATEWAY, epoch=self.epoch, seq=message.seq, to_epoch=epoch, plan=PLAN))
        elif isinstance(message, VictimRequest):
            self._forward(self.ring.request(node, epoch, message.request, message.ahead, now))
        elif isinstance(message, ResultHeader):
            self._result(message, payload)
        self.wake()

    def finish_tail(self) -> None:
        complete = self.tail.pop(0)
        if self.assembly.ended(complete.frame, self.world.now) is not None:
            self._outcome(complete.frame, "ok")

    def deadline(self) -> float:
        times = [t for t in (self.ring.deadline(), self.assembly.deadline()) if t is not None]
        return min(times, default=float("inf"))

    def _result(self, header: ResultHeader, payload: str) -> None:
        verdict = self.assembly.result(
            header.frame, header.block, header.tile, header.node, header.stolen, payload, self.world.now
        )
        assert verdict.accepted and verdict.ended == (header.frame not in self.assembly.frames)  # it opens or has ended
        assert verdict.ended or header.frame not in self.outcomes, "an ended frame does not open again"
        if verdict.complete:
            self._whole(verdict.complete)
            self.tail.append(verdict.complete)
        source = frame_source(header.frame)[0]
        accepted = Accepted(
            node=GATEWAY,
            epoch=self.epoch,
            frame=header.frame,
            block=header.block,
            tiles=(header.tile,),
            ended=verdict.ended,
        )
        self._accept({header.node, source}, accepted)

    def _whole(self, complete: Complete[str]) -> None:
        frame = complete.frame
        assert complete.tiles == {(0, tile): pixels((frame, 0, tile)) for tile in range(TILES)}, "merged whole"
        assert sum(complete.computed.values()) == TILES
        assert all(node != frame_source(frame)[0] for node in complete.stolen)
        assert frame not in self.merged and frame not in self.outcomes, "merged once"
        self.merged.add(frame)
        self.stolen += Counter(complete.stolen)

    def _forward(self, forwards: list[Forward]) -> None:
        for f in forwards:
            assert f.victim != f.thief, "nobody steals from itself"
            assert not f.ahead or self.ring.nodes[f.victim], "the last tile is for the idle"
            steal = Steal(
                node=GATEWAY,
                epoch=self.epoch,
                plan=PLAN,
                thief=f.thief,
                thief_epoch=f.thief_epoch,
                request=f.request,
                ahead=f.ahead,
            )
            self._send(f.victim, steal)

    def _failed(self, failed: "tuple[Failed, ...] | list[Failed]") -> None:
        for f in failed:
            assert f.reason.startswith(("source lost", "source restarted", "deadline passed"))
            self._outcome(f.frame, f.reason)

    def _outcome(self, frame: str, status: str) -> None:
        assert frame not in self.outcomes, "a frame ends once"
        self.outcomes[frame] = status
        self._accept({frame_source(frame)[0]}, Accepted(node=GATEWAY, epoch=self.epoch, frame=frame, ended=True))

    def _accept(self, nodes: set[str], accepted: Accepted) -> None:
        for node in sorted(nodes):
            self._send(node, accepted)

    def _send(self, to: str, message: Message) -> None:
        self.world.send(GATEWAY, to, message)


class Cluster:
    """Everything, and the only hand that moves time and messages."""

    def __init__(self, sources: int = 2, thieves: int = 2) -> None:
        self.world = World()
        self.gateway = Gateway(self.world)
        names = [f"source{n}" for n in range(sources)] + [f"thief{n}" for n in range(thieves)]
        self.edges = {name: Edge(name, self.world) for name in names}
        for edge in self.edges.values():
            edge.wake()

    @property
    def nodes(self) -> list[Gateway | Edge]:
        return [self.gateway, *self.edges.values()]

    def deliver(self, flight: Flight) -> None:
        (self.gateway if flight.to == GATEWAY else self.edges[flight.to]).receive(flight.message, flight.payload)

    def take_flight(self, index: int) -> Flight:
        return self.world.flights.pop(index)

    def wake(self) -> None:
        for node in self.nodes:
            node.wake()
            assert node.deadline() > self.world.now, "who was woken has nothing left to do now"

    def deadline(self) -> float:
        return min(node.deadline() for node in self.nodes)

    def advance(self, seconds: float) -> None:
        """Let time pass; everybody is woken exactly when they asked for it."""
        until = self.world.now + seconds
        while self.deadline() <= until:
            self.world.now = self.deadline()
            self.wake()
        self.world.now = until

    def busy(self) -> list[Edge]:
        return [edge for edge in self.edges.values() if edge.engine]

    def settle(self) -> None:
        """Deliver and compute in order until nothing is left but to wait."""
        for _ in range(10_000):
            if self.world.flights:
                self.deliver(self.take_flight(0))
            elif self.gateway.tail:
                self.gateway.finish_tail()
            elif self.busy():
                self.busy()[0].finish()
            else:
                return
        raise AssertionError("the nodes talk for ever")

    def open_frames(self) -> list[str]:
        return [frame for edge in self.edges.values() for frame in edge.queue.frames]


def pixels(key: Key) -> str:
    """A tile's content; its result is the same for the same tile, whoever computes it."""
    return "/".join(map(str, key))


class Faults(RuleBasedStateMachine):
    """Rules are what a bad day brings; ``teardown`` is the healing."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.restarts = {"edge": 2, "gateway": 1}  # how many may come

    @rule(source=st.sampled_from(["source0", "source1"]))
    def capture(self, source: str) -> None:
        if len(self.cluster.edges[source].queue.frames) < 3:
            self.cluster.edges[source].capture()

    @precondition(lambda self: self.cluster.world.flights)
    @rule(data=st.data())
    def deliver_any(self, data: st.DataObject) -> None:
        self.cluster.deliver(self.cluster.take_flight(self._pick(data)))

    @precondition(lambda self: self.cluster.world.flights)
    @rule(count=st.integers(1, 12))
    def deliver_in_order(self, count: int) -> None:
        for _ in range(min(count, len(self.cluster.world.flights))):
            self.cluster.deliver(self.cluster.take_flight(0))

    @precondition(lambda self: self.cluster.world.flights)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        flight = self.cluster.world.flights[self._pick(data)]
        self.cluster.world.flights.append(flight)

    @precondition(lambda self: self.cluster.world.flights)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.cluster.take_flight(self._pick(data))

    @precondition(lambda self: self.cluster.busy())
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.cluster.busy())).finish()

    @precondition(lambda self: self.cluster.gateway.tail)
    @rule()
    def run_tail(self) -> None:
        self.cluster.gateway.finish_tail()

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.5, 1.9, 4.0, 7.0]))
    def advance(self, seconds: float) -> None:
        self.cluster.advance(seconds)

    @precondition(lambda self: self.restarts["edge"])
    @rule(name=st.sampled_from(["source1", "thief0", "thief1"]))
    def restart_edge(self, name: str) -> None:
        self.restarts["edge"] -= 1
        self.cluster.edges[name] = Edge(name, self.cluster.world)
        self.cluster.edges[name].wake()

    @precondition(lambda self: self.restarts["gateway"])
    @rule()
    def restart_gateway(self) -> None:
        self.restarts["gateway"] -= 1
        self.cluster.gateway = Gateway(self.cluster.world)

    @invariant()
    def nobody_asked_to_be_woken_in_the_past(self) -> None:
        assert self.cluster.deadline() > self.cluster.world.now

    @invariant()
    def leases_are_as_promised(self) -> None:
        for edge in self.cluster.edges.values():
            lent = {k: (s.request, s.until) for k, s in edge.queue.tiles.items() if isinstance(s, Lent)}
            assert lent == edge.leases
            assert edge.queue.lent == len({request for request, _ in lent.values()}), "one request, one lease"

    @invariant()
    def what_is_computed_here_is_in_the_engine_or_in_the_outbox(self) -> None:
        for edge in self.cluster.edges.values():
            for key, state in edge.queue.tiles.items():
                assert not isinstance(state, Computing) or key == edge.engine
                assert not isinstance(state, Sent) or key in edge.outbox
            assert edge.outbox.dropped == 0, "who waits while the box is full loses nothing"

    @invariant()
    def a_tile_waits_only_where_the_engine_is_busy(self) -> None:
        for edge in self.cluster.edges.values():
            assert edge.engine or not edge.queue.waiting or edge.outbox.full

    def teardown(self) -> None:
        cluster = self.cluster
        start = cluster.world.now
        cluster.settle()
        unfinished = [f for f in cluster.open_frames() if f not in cluster.gateway.outcomes]
        while cluster.open_frames():
            cluster.world.now = cluster.deadline()
            assert cluster.world.now < start + 60, f"not healed: {cluster.open_frames()}"
            cluster.wake()
            cluster.settle()
        assert all(cluster.gateway.outcomes[frame] == "ok" for frame in unfinished)
        for _ in range(5):
            cluster.advance(HEARTBEAT_S)
            cluster.settle()
        assert not any(edge.queue.tiles or edge.stolen or len(edge.outbox) for edge in cluster.edges.values())
        assert set(cluster.gateway.ring.parked) == set(cluster.edges), "whoever is idle is parked"
        assert cluster.gateway.assembly.expire(cluster.world.now + DEADLINE_S) == [], "leftovers have no outcome"
        assert cluster.gateway.assembly.frames == ()

    def _pick(self, data: st.DataObject) -> int:
        """A message in flight: first its kind, so that rare kinds have bad luck as often as heartbeats."""
        kinds = [type(flight.message).__name__ for flight in self.cluster.world.flights]
        kind = data.draw(st.sampled_from(sorted(set(kinds))))
        return data.draw(st.sampled_from([index for index, name in enumerate(kinds) if name == kind]))


TestFaults = Faults.TestCase
TestFaults.settings = settings(max_examples=600, stateful_step_count=50, deadline=None)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), sources=st.integers(1, 2), thieves=st.integers(0, 3), frames=st.integers(1, 3))
def test_without_faults_each_tile_is_computed_once(seed: int, sources: int, thieves: int, frames: int) -> None:
    cluster = run_quietly(random.Random(seed), sources, thieves, frames)
    assert len(cluster.world.computed) == sources * frames * TILES
    assert set(cluster.world.computed.values()) == {1}
    assert list(cluster.gateway.outcomes.values()) == ["ok"] * sources * frames
    for name, edge in cluster.edges.items():
        assert not edge.queue.tiles and not len(edge.outbox), name
        assert not {"steal repeated", "computed too late", "put back too late"} & set(edge.queue.ignored), name
        assert not edge.thief.ignored and not edge.outbox.dropped, name
    assert "result: repeated" not in cluster.gateway.assembly.ignored


def run_quietly(chance: random.Random, sources: int, thieves: int, frames: int) -> Cluster:
    """Every pair of nodes' messages arrive in order, engines and tails are fast or slow, leases never run out."""
    cluster = Cluster(sources, thieves)
    todo = [f"source{n}" for n in range(sources)] * frames
    while True:
        firsts = {(f.sender, f.to): index for index, f in reversed(list(enumerate(cluster.world.flights)))}
        tails = ["tail"] if cluster.gateway.tail else []
        choices: list[int | Edge | str] = [*firsts.values(), *cluster.busy(), *todo[:1], *tails]
        if not choices:
            if not cluster.open_frames():
                return cluster
            cluster.advance(cluster.deadline() - cluster.world.now)
            continue
        cluster.advance(0.001)
        choice = chance.choice(choices)  # a flight, a busy edge, the tail or a source
        if isinstance(choice, Edge):
            choice.finish()
        elif isinstance(choice, int):
            cluster.deliver(cluster.take_flight(choice))
        elif choice == "tail":
            cluster.gateway.finish_tail()
        else:
            cluster.edges[todo.pop(0)].capture()


def test_an_idle_cluster_sends_fewer_than_two_messages_a_second_a_node() -> None:
    cluster = Cluster(sources=1, thieves=3)
    cluster.settle()
    cluster.world.sent.clear()
    for _ in range(600):
        cluster.advance(0.1)
        cluster.settle()
    assert sum(cluster.world.sent.values()) / 60 < 2 * len(cluster.edges)
    assert all(cluster.world.sent[name] / 60 < 1 for name in cluster.edges)


def test_thieves_take_their_share() -> None:
    cluster = run_quietly(random.Random(1), sources=1, thieves=3, frames=20)
    assert sorted(cluster.gateway.stolen) == ["thief0", "thief1", "thief2"]
    assert min(cluster.gateway.stolen.values()) >= 5
