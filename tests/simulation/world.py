"""What the machines do not have: a clock, a network with a broker, chance. Nothing here knows what a tile is.

Time is virtual and jumps from event to event. The network is MQTT as it behaves on a bad day: every message goes through
the broker, waits at a client that is offline (QoS 1) or is lost (QoS 0), comes again after a reconnection, and, in bad
weather, is lost, repeated or overtaken. A client may be unplugged, and a broker may forget what a client subscribed to.

A share of the tiles and parts goes straight to who takes them, whatever the broker does, and overtakes what that brings. What
is lost there, or is not acknowledged for a second, comes by the broker as well.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from schemas.contract import topics
from schemas.contract.topics import Publish

KEEPALIVE_S = 30.0  # a silent client is disconnected after it
QUEUED = 1024  # messages that an offline client keeps, as the link does
LATENCY_S, TENSOR_S = 0.001, 0.01
SILENT_S = 1.0  # after which a straight message is sent again by the broker


@dataclass
class Weather:
    """Of each hop: the share of messages that are lost and repeated, and how much later they may come (seconds)."""

    loss: float = 0.0
    repeat: float = 0.0
    jitter_s: float = 0.0


class World:
    """The clock and all that is to happen, in order of time."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def after(self, seconds: float, act: Callable[..., None], *about: Any) -> None:
        heapq.heappush(self._heap, (self.now + max(seconds, 0.0), next(self._order), act, about))

    def run(self, until: float) -> None:
        """Let time pass; everything happens exactly when it is due."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, act, about = heapq.heappop(self._heap)
            self.events += 1
            act(*about)
        self.now = max(self.now, until)


@dataclass
class Connection:
    """From a client's word with the broker until one of them is gone. ``last`` keeps the order of each direction."""

    client: "Client"
    open: bool = True
    deaf: bool = False  # the broker has lost its subscriptions
    last: dict[str, float] = field(default_factory=dict)


class Client:
    """One process' line to the broker; ``hear`` and ``connected`` are called when something comes."""

    def __init__(
        self, network: "Network", name: str, hear: Callable[[Publish], None], connected: Callable[[], None]
    ) -> None:
        self.network, self.name, self.hear, self.connected = network, name, hear, connected
        self.line: Connection | None = None
        self.unplugged = False
        self.silent = False  # it takes what comes, and acknowledges nothing
        self.listening: set[int] = set()  # tiles whose overlaps are wanted
        self.outstanding = 0  # QoS 1 messages that the broker has not acknowledged
        self._queue: list[Publish] = []
        self._held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._dead = False
        network.clients[name] = self

    def connect(self, delay_s: float = 0.0) -> None:
        """Try until there is a broker; as paho does, a little later each time."""
        self.network.world.after(delay_s, self._try)

    def _try(self) -> None:
        network = self.network
        if self._dead or self.line is not None:
            return
        if not network.up or self.unplugged:
            return self.connect(network.world.chance.uniform(0.25, 1.2))
        self.line = Connection(self)
        network.lines[self.name] = self.line
        queue, self._queue = self._queue, []
        self.connected()
        for said in queue:
            self._publish(said)

    def send(self, said: Publish) -> None:
        """By whichever way; a part goes to some of those who take it straight, and to the others by the broker."""
        if not self.network.send_straight(self, said):
            self.send_by_broker(said)

    def send_by_broker(self, said: Publish) -> None:
        if self._dead:
            return
        if said.topic.qos:
            self.outstanding += 1
        if self.line is not None:
            self._publish(said)
        elif said.topic.qos:
            self._enqueue(said)

    def _publish(self, said: Publish) -> None:
        assert self.line is not None
        self.network.travel(self.line, "up", said, self._arrived, said, self.line)

    def _arrived(self, said: Publish, line: Connection) -> None:
        """At the broker, if the connection still is; otherwise QoS 1 comes again with the next one."""
        if self._dead:
            return
        if not line.open:
            if said.topic.qos:
                self._publish(said) if self.line is not None else self._enqueue(said)
            return
        if self.unplugged:
            self._held.append((self._arrived, (said, line)))
            return
        self.acknowledged(said)
        self.network.route(said)

    def acknowledged(self, said: Publish) -> None:
        self.outstanding -= said.topic.qos > 0 and self.outstanding > 0

    def _enqueue(self, said: Publish) -> None:
        if len(self._queue) < QUEUED:
            self._queue.append(said)

    def deliver(self, said: Publish, line: Connection) -> None:
        if self._dead or not line.open or line.deaf:
            return
        if self.unplugged:
            self._held.append((self.deliver, (said, line)))
        else:
            self.hear(said)

    def deliver_straight(self, said: Publish, sender: "Client") -> None:
        """From another client; what that does not see acknowledged it sends again."""
        cut = self._dead or self.unplugged or sender.unplugged or frozenset((self.name, sender.name)) in self.network.cut
        if not cut:
            self.hear(said)
        if cut or self.silent:
            self.network.world.after(SILENT_S, sender.send_by_broker, said)

    def drop(self) -> None:
        """The connection breaks; the client tries again by itself."""
        if self.line is not None:
            self.line.open = False
            if self.network.lines.get(self.name) is self.line:
                del self.network.lines[self.name]
            self.line = None
            self.connect(self.network.world.chance.uniform(0.25, 1.2))

    def die(self) -> None:
        self._dead = True
        if self.line is not None:
            self.line.open = False
            if self.network.lines.get(self.name) is self.line:
                del self.network.lines[self.name]

    def unplug(self, seconds: float) -> None:
        """TCP holds what is under way; longer than the keepalive, and the connection is gone."""
        if self.unplugged or self._dead:
            return
        self.unplugged = True
        if seconds > KEEPALIVE_S:
            self.network.world.after(KEEPALIVE_S, self.drop)
        self.network.world.after(seconds, self._plug)

    def _plug(self) -> None:
        self.unplugged = False
        held, self._held = self._held, []
        for act, about in held:
            act(*about)


class Network:
    """The broker and the lines to it."""

    def __init__(self, world: World) -> None:
        self.world, self.weather = world, Weather()
        self.up = True
        self.lines: dict[str, Connection] = {}
        self.clients: dict[str, Client] = {}
        self.straight = 0.0  # so many of the messages that may go straight do
        self.cut: set[frozenset[str]] = set()  # pairs that do not reach each other
        self.watch: Callable[[Publish], None] = lambda said: None
        self.sent = 0

    def travel(self, line: Connection, way: str, said: Publish, act: Callable[..., None], *about: Any) -> None:
        """One hop. To the broker messages keep their order, and an outcome, which nobody says again, is not lost."""
        weather, chance = self.weather, self.world.chance
        self.sent += 1
        delay_s = TENSOR_S if said.tensors else LATENCY_S
        if weather.loss and said.topic is not topics.OUTCOME and chance.random() < weather.loss:
            return line.client.acknowledged(said) if way == "up" else None  # by a broker that then lost it
        repeats = 2 if weather.repeat and chance.random() < weather.repeat else 1
        for _ in range(repeats):
            later_s = chance.random() * weather.jitter_s if weather.jitter_s else 0.0
            at = self.world.now + delay_s + later_s
            if not weather.jitter_s or way == "up":
                line.last[way] = at = max(at, line.last.get(way, 0.0))
            self.world.after(at - self.world.now, act, *about)

    def send_straight(self, sender: Client, said: Publish) -> bool:
        """Send to who takes it, by chance; whether that is all."""
        if not self.straight or not said.tensors or said.topic not in (topics.TILE, topics.OVERLAP):
            return False
        if said.topic is topics.TILE:
            takers = [self.clients[str(said.levels["node"])]]
        else:
            others = [client for client in self.clients.values() if client is not sender]
            takers = [client for client in others if said.levels["tile"] in client.listening]
        chosen = [taker for taker in takers if self.world.chance.random() < self.straight]
        for taker in chosen:
            self.sent += 1
            weather, chance = self.weather, self.world.chance
            later_s = TENSOR_S * chance.uniform(0.2, 2.0) + weather.jitter_s * chance.random()
            if chance.random() < weather.loss:
                self.world.after(SILENT_S, sender.send_by_broker, said)
            else:
                self.world.after(later_s, taker.deliver_straight, said, sender)
            if chance.random() < weather.repeat:  # it came, and its acknowledgement did not
                self.world.after(SILENT_S, sender.send_by_broker, said)
        return bool(chosen) and chosen == takers

    def route(self, said: Publish) -> None:
        """The broker has a message: to whom the table says."""
        if not self.up:
            return
        if said.topic is topics.OUTCOME:
            self.watch(said)
            return
        for line in self._subscribers(said):
            self.travel(line, "down", said, line.client.deliver, said, line)

    def _subscribers(self, said: Publish) -> list[Connection]:
        row = said.topic
        if row in (topics.REGISTER, topics.VICTIM_REQ, topics.RESULT):
            names = ["gateway"]
        elif row is topics.OVERLAP_REQ:
            names = [name for name in self.lines if name != "gateway"]
        elif row is topics.OVERLAP:
            names = [n for n, line in self.lines.items() if said.levels["tile"] in line.client.listening]
        else:
            names = [str(said.levels["node"])]
        return [self.lines[name] for name in names if name in self.lines]

    def stop(self, seconds: float) -> None:
        """The broker dies and starts again: every connection and all that it held is gone."""
        if not self.up:
            return
        self.up = False
        for line in list(self.lines.values()):
            line.client.drop()
        self.world.after(seconds, self._start)

    def _start(self) -> None:
        self.up = True
