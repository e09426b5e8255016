"""The processes of the simulated cluster: each wires one pure machine as its app does, and checks each call.

A process has a clock of its own, which began at any number and stands still while the machine sleeps; it can be frozen,
killed (in the middle of what it says, too) and started again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_agent import node as edge
from edge_agent.tiles import Computing, Done, Lease, Lent, Passed, Sent
from gateway_agent import node as gateway
from gateway_agent.tail import merge
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DecodeError
from schemas.contract.keys import WHOLE
from schemas.contract.plan import Plan, digest
from schemas.contract.topics import Publish
from schemas.wire.codec import Incoming
from tests.simulation.pictures import Pictures
from tests.simulation.world import KEEPALIVE_S, Client, Network, World

INBOX = 256
PUNCTUAL_S = 1e-3
SLACK_S = 1e-6  # of a clock that is a sum of floats
GATEWAY = "gateway"
PICTURE = (480, 640)

class Process:
    """Inbox, clock and line of one process. A subclass has ``machine``, ``act`` and ``check``."""

    def __init__(self, world: World, network: Network, name: str) -> None:
        self.world, self.name = world, name
        self.alive, self.frozen, self.fuse = True, False, -1
        self.late = False  # it was frozen, and hears of the time again
        self.epoch = f"{world.chance.getrandbits(32):08x}"
        self._offset = world.chance.uniform(0.0, 1e5)
        self._stopped_at: float | None = None
        self._backlog: list[Callable[[float], Sequence[Any]]] = []
        self._wake_at = float("inf")
        self.client = Client(network, name, self._hear, self._connected)
        self.client.connect()

    def clock(self) -> float:
        """Its monotonic seconds."""
        at = self.world.now if self._stopped_at is None else self._stopped_at
        return at + self._offset

    def freeze(self, seconds: float, asleep: bool = False) -> None:
        """SIGSTOP for so long; ``asleep``: the whole machine, so that its clock stands still."""
        if not self.alive or self.frozen:
            return
        self.frozen = self.client.silent = True
        if asleep:
            self._stopped_at = self.world.now
        if seconds > KEEPALIVE_S:
            self.world.after(KEEPALIVE_S, self.client.drop)
        self.world.after(seconds, self.thaw)

    def thaw(self) -> None:
        if not self.frozen:
            return
        self.frozen = self.client.silent = False
        if self._stopped_at is not None:
            self._offset -= self.world.now - self._stopped_at
            self._stopped_at = None
        backlog, self._backlog = self._backlog, []
        self.late = True
        for event in backlog:
            self.happen(event)
        self.happen(lambda now: ())
        self.late = False

    def kill(self) -> None:
        self.alive = self.frozen = False
        self.client.die()

    def happen(self, event: Callable[[float], Sequence[Any]], message: bool = False) -> None:
        """One turn of the app's loop: an event, then what is due. A frozen process keeps so many messages."""
        if not self.alive:
            return
        if self.frozen:
            if not message or len(self._backlog) < INBOX:
                self._backlog.append(event)
            return
        now = self.clock()
        self.act(event(now))
        if self.alive:
            self._tick(now)
        if self.alive:
            self.check()

    def _tick(self, now: float) -> None:
        due = self.due()
        if due is not None and now >= due:
            self.act(self.tick(now))
            due = self.due()
            assert due is None or due > now, f"{self.name} was woken and has something left to do"
        if due is not None:
            wake_at = self.world.now + max(due - now, 0.0) + SLACK_S
            if wake_at < self._wake_at:
                self._wake_at = wake_at
                self.world.after(wake_at - self.world.now, self._wake, wake_at)

    def _wake(self, at: float) -> None:
        if at == self._wake_at:
            self._wake_at = float("inf")
            self.happen(lambda now: ())

    def say(self, said: Publish) -> None:
        if self.fuse == 0:
            return self.kill()
        self.fuse -= 1
        self.client.send(said)

    def _hear(self, said: Publish) -> None:
        incoming = Incoming(said.topic, {}, said.message, dict(said.tensors or {}))
        self.happen(lambda now: self._heard(incoming, now), message=True)

    def _heard(self, incoming: Incoming, now: float) -> Sequence[Any]:
        """As the apps do: what is not what the plan says is refused."""
        try:
            return self.hear(incoming, now)
        except DecodeError:
            assert incoming.message.node == "mole", "nobody else says what the plan does not know"
            return ()

    def _connected(self) -> None:
        self.happen(self.connected)

    def due(self) -> float | None:
        raise NotImplementedError

    def tick(self, now: float) -> Sequence[Any]:
        raise NotImplementedError

    def hear(self, incoming: Incoming, now: float) -> Sequence[Any]:
        raise NotImplementedError

    def connected(self, now: float) -> Sequence[Any]:
        raise NotImplementedError

    def act(self, actions: Sequence[Any]) -> None:
        raise NotImplementedError

    def check(self) -> None:
        raise NotImplementedError


class EdgeProcess(Process):
    """An edge with a simulated engine and, with ``camera``, a source that gives a frame every ``period_s``."""

    def __init__(
        self, world: World, network: Network, name: str, pictures: Pictures, camera: bool
    ) -> None:
        self.pictures, self.tile_s, self.slow = pictures, pictures.tile_s, 1.0
        self.fails = False  # the next tile
        self.lies = 0.0  # so often its bits are wrong
        self.captured: list[str] = []
        self.tiles_computed: list[Any] = []
        self._running = 0
        plan: Plan = pictures.plan
        super().__init__(world, network, name)
        self.node = edge.EdgeNode(name, self.epoch, plan, plan.runtime, 2, camera)

    def capture(self) -> None:
        """The source has a frame, and takes it if there is room."""
        if not self.alive or self.frozen or not self.node.wants_frame:
            return
        frame = m.frame_id(self.name, self.epoch, self.node.frames_opened)
        self.captured.append(frame)
        self.happen(lambda now: self.node.frame(self.pictures.image(frame), now, PICTURE))

    def leave(self) -> None:
        """SIGTERM: it says good-bye and ends, once that has left."""
        if self.alive and not self.frozen:
            self.act(self.node.leave(self.clock()))
            self.alive = False
            self.world.after(0.1, self.kill)

    def due(self) -> float | None:
        return self.node.deadline()

    def tick(self, now: float) -> Sequence[Any]:
        over = [lease.until for lease in self._leases() if lease.until <= now]
        assert self.late or all(now - until < PUNCTUAL_S for until in over), "a lease ends exactly on time"
        said = self.node.tick(now)
        assert all(lease.until > now for lease in self._leases()), "and no later"
        return said

    def _leases(self) -> list[Lease]:
        return [lease for s in self.node.tiles.tiles.values() if isinstance(s, Lent) for lease in s.leases]

    def connected(self, now: float) -> Sequence[Any]:
        return self.node.connected(now)

    def hear(self, incoming: Incoming, now: float) -> Sequence[Any]:
        said = self.node.hear(incoming, now)
        self._after(incoming.message, said)
        return said

    def _after(self, message: m.Message, said: Sequence[Any]) -> None:
        """What each kind of message must have brought about."""
        node = self.node
        if isinstance(message, m.Accepted) and message.epoch == node.heartbeat.gateway:
            for tile in message.tiles:
                assert (message.frame, message.block, tile) not in node.outbox, "accepted is out"
                if sum(lane == tile for _, lane in node.plan.answers) < 2:
                    assert isinstance(node.tiles.state((message.frame, tile)), Done | None), "accepted is done"
            assert not message.ended or message.frame not in node.tiles.frames, "ended is gone"
        elif isinstance(message, m.Steal):
            answers = [a for a in said if isinstance(a, Publish) and a.topic is topics.TILE]
            told = [a for a in answers if a.message.request == message.request]  # type: ignore[attr-defined]
            assert told or message.thief in node.lending.parked, "a thief gets an answer, or is kept in mind"

    def act(self, actions: Sequence[Any]) -> None:
        for action in actions:
            if not self.alive:
                return
            if isinstance(action, Publish):
                self.say(action)
            elif isinstance(action, edge.Compute):
                assert self._running == 0, "one tile at a time"
                self._running = 1
                weights = self.node._weights
                seconds = self.tile_s * self.slow * (sum(weights) if action.whole else weights[action.key[1]])
                self.world.after(seconds * self.world.chance.uniform(0.8, 1.2), self._computed, action, seconds)
            elif isinstance(action, edge.Listen):
                (self.client.listening.add if action.wanted else self.client.listening.discard)(action.tile)
            else:
                self.client.drop()

    def _computed(self, work: edge.Compute, seconds: float) -> None:
        if not self.alive:
            return
        frame, block, tile = work.key
        error = "the engine broke" if self.fails else ""
        self.fails = False
        if work.whole:
            outputs = self.pictures.compute_whole(frame, work.inputs)
        else:
            outputs = self.pictures.compute(frame, block, tile, work.inputs)
        if not work.check:
            self.tiles_computed.append(work.key)
        if self.lies and self.world.chance.random() < self.lies:
            outputs = {name: array + array.dtype.type(1) for name, array in outputs.items()}
        self.happen(lambda now: self._through(work, {} if error else outputs, seconds, now, error))

    def _through(
        self, work: edge.Compute, outputs: Any, seconds: float, now: float, error: str
    ) -> Sequence[Any]:
        self._running = 0
        return self.node.computed(work.key, outputs, seconds, now, error)

    def check(self) -> None:
        """What holds of an edge at any time."""
        node = self.node
        tiles = node.tiles.tiles
        for key, state in tiles.items():
            if isinstance(state, Computing):
                running = node._computing is not None and (node._computing.key[0], node._computing.key[2]) == key
                whole = node._computing is not None and node._computing.whole and node._computing.key[0] == key[0]
                assert running or whole or key in node.lanes, f"nobody computes {key}"
            elif isinstance(state, Sent):
                lanes = {lane for frame, _, lane in node.outbox._held if frame == key[0]}
                assert not lanes.isdisjoint((key[1], WHOLE)), f"{key} is not on its way"
            elif isinstance(state, Passed):
                assert all(lane != key[1] for _, lane in node.plan.answers), "another lane has the frame's end"
        lent = [lease.request for lease in self._leases()]
        assert len(lent) == len(set(lent)), "one request, one tile"
        for state in tiles.values():
            if isinstance(state, Lent):
                thieves = {lease.thief for lease in state.leases}
                assert 1 <= len(thieves) == len(state.leases) <= 1 + state.again, "two thieves at most, and never one twice"
        assert node._results.keys() == node.outbox._held.keys()
        assert set(node._images) == set(node.tiles.frames), "a frame's image is kept as long as the frame"
        assert len(node.tiles.frames) <= node.window and len(node._stolen) <= 10 and len(node.lanes) <= 16
        assert len(node._expired) <= node.window, "what is remembered of frames ends with them"
        assert node.outbox.dropped == 0, "who waits while the box is full loses nothing"
        idle = node._computing is None and not node.outbox.full
        assert not idle or (not node.tiles.waiting and not node._stolen), "an idle engine leaves no tile"


class GatewayProcess(Process):
    """The gateway with a simulated tail."""

    def __init__(
        self,
        world: World,
        network: Network,
        pictures: Pictures,
        deadline_s: float,
        ordered: bool,
        disk: dict[str, m.Outcome | None],
        tail_s: float = 0.02,
    ) -> None:
        self.pictures, self.disk, self.tail_s, self.ordered = pictures, disk, tail_s, ordered
        self._fed: dict[tuple[str, str], int] = {}
        self.finished: list[str] = []
        self._unsaid: set[str] = set()
        self._tail: list[gateway.Finish] = []
        super().__init__(world, network, GATEWAY)
        before, plan = gateway.Before(dict(disk)), pictures.plan
        self.node = gateway.GatewayNode(GATEWAY, self.epoch, plan, deadline_s, ordered, before)

    def due(self) -> float | None:
        return self.node.deadline()

    def tick(self, now: float) -> Sequence[Any]:
        return self.node.tick(now)

    def connected(self, now: float) -> Sequence[Any]:
        self.node.connected(now)
        return ()

    def hear(self, incoming: Incoming, now: float) -> Sequence[Any]:
        message = incoming.message
        member = message.node in self.node.ring.nodes
        said = self.node.hear(incoming, now)
        told = [a for a in said if isinstance(a, Publish)]
        if isinstance(message, m.Register):
            assert [a for a in told if a.topic is topics.ECHO and a.levels["node"] == message.node], "an echo for each"
        elif isinstance(message, m.ResultHeader) and member and not message.error and message.node != "mole":
            accepted = [a for a in told if a.topic is topics.ACCEPTED and a.levels["node"] == message.node]
            waits = [header for own in self.node.early._held.values() for header, _, _ in own.values()]
            assert accepted or message in waits, "a result is accepted, or waits for its frame's source"
        return said

    def act(self, actions: Sequence[Any]) -> None:
        for action in actions:
            if not self.alive:
                return
            if isinstance(action, Publish):
                self.say(action)
                if isinstance(action.message, m.Outcome):
                    self._unsaid.add(action.message.frame)
            elif isinstance(action, gateway.Keep):
                assert action.outcome.frame not in self.disk, "a frame ends once"
                self.disk[action.outcome.frame] = action.outcome
            elif isinstance(action, gateway.Reconnect):
                self.client.drop()
            elif isinstance(action, gateway.Finish):
                self._tail.append(action)
                if len(self._tail) == 1:
                    self.world.after(self.tail_s, self._merge)

    def _merge(self) -> None:
        if not self.alive:
            return
        if self.frozen:
            return self.world.after(0.5, self._merge)
        finish = self._tail[0]
        frame = finish.complete.frame
        assert frame not in self.finished, "merged once"
        assert not finish.complete.frame.startswith(GATEWAY) and finish.picture == PICTURE
        self.finished.append(frame)
        merged = merge(self.pictures.plan, finish.complete.tiles)
        self._feed(frame)
        told = {f"cut/{n}": digest(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data) for n, a in merged.items()}
        told["state"] = digest(self.epoch.encode())  # of a recurrent model: it is lost with the process
        self.happen(lambda now: self.node.finished(frame, told, now))
        self._tail.pop(0)
        if self._tail:
            self.world.after(self.tail_s, self._merge)

    @property
    def unsaid(self) -> set[str]:
        """Frames whose outcome the broker has not acknowledged."""
        return set(self._unsaid)

    def _feed(self, frame: str) -> None:
        """The tail of a recurrent model takes the frames of a source in order."""
        source, epoch, number = m.frame_source(frame)
        assert not self.ordered or number > self._fed.get((source, epoch), -1), "frames in order"
        self._fed[source, epoch] = number

    def check(self) -> None:
        """What holds of a gateway at any time; what the broker has acknowledged need not be said again."""
        node = self.node
        if self._unsaid and not self.client.outstanding:
            self.disk.update(dict.fromkeys(self._unsaid))
            self._unsaid.clear()
        assert set(node._held) | set(node._finishing) <= set(node.assembly.frames) | {f.complete.frame for f in self._tail}
        assert set(node._pictures) <= set(node.assembly.frames)
