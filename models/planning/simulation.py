"""Plays frames on a cluster of edges and a gateway: processors, links and the broker, message by message.

Everything is a queue. A message costs its sender's processor, crosses the sender's link up and the gateway's link down,
costs the broker, crosses the gateway's link up and the receiver's down, and costs the receiver; the broker passes a
message on when it has all of it. Tiles and parts may go straight: up the sender's link and down the receiver's. A host's
messages take processor time from what it computes. Seconds of a processor are those of a reference core; a host that has a
share of one, or is slower, takes so much longer: for what the engine computes by its effort a second, for all else by how
fast it handles messages. No randomness, no clock.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import linear_regression
from typing import TypeAlias

from models.planning.cluster import CORE_FLOPS_S, HEADER_BYTES, Cluster, Saving, Task, Workload

Then: TypeAlias = Callable[[float], None]  # what happens next, at this time


@dataclass
class _Host:
    """A processor and its two links. Times are when each is free again; ``debt_s`` is what messages took from a tile.

    ``share`` is the engine's speed and ``message_share`` that of all else, the reference core's being 1. A share of a core
    comes in slices: who has been idle may run at the core's full speed for ``saved_s``.
    """

    share: float
    message_share: float
    slice_s: float
    up: float = 0.0
    down: float = 0.0
    network: float = 0.0
    computing: bool = False
    debt_s: float = 0.0
    ready: list[tuple[int, int, int]] = field(default_factory=list)  # (frame, -block, lane)
    saved_s: float = 0.0
    idle_since: float = -1.0
    owed_s: float = 0.0  # of the reference core, for the next picture
    free_at: float = 0.0  # when the last tile ended
    ends: float = 0.0  # when this one will, if no message comes
    load: int = 0  # lanes that it has, or that are on their way

    @property
    def ratio(self) -> float:
        """Seconds of the engine that pass in a second of all else, both of the reference core."""
        return self.share / self.message_share

    def run(self, now: float, seconds: float, share: float) -> float:
        """When so many seconds of the reference core, of which this one is a ``share``, begun now, are done."""
        if share >= 1:
            return now + seconds / share
        saved = min(share * self.slice_s, self.saved_s + max(now - self.idle_since, 0.0) * share)
        fast = min(seconds, saved)
        end = now + fast + (seconds - fast) / share
        self.saved_s, self.idle_since = saved - fast, end
        return end

    def owed(self, now: float) -> float:
        """What is left to do for the next picture, which comes along while there is no tile."""
        self.owed_s = max(self.owed_s - max(now - self.free_at, 0.0) * self.message_share, 0.0)
        self.free_at = max(now, self.free_at)
        return self.owed_s


@dataclass
class _Frame:
    source: int
    start: float
    owner: dict[int, int] = field(default_factory=dict)  # lane -> edge
    waiting: deque[int] = field(default_factory=deque)  # lanes that nobody has yet
    made: dict[int, int] = field(default_factory=dict)  # lane of the first block that is through -> edge
    here: set[tuple[Task, int]] = field(default_factory=set)  # what a task has made, and the lane where it is
    begun: Counter[int] = field(default_factory=Counter)  # steps of a lane that have been begun, or wait for the processor
    through: Counter[int] = field(default_factory=Counter)  # and those that are through
    arrived: set[int] = field(default_factory=set)  # lanes that their node has heard of
    results: int = 0
    end: float = -1.0


class Run:
    """Frames played; read ``latencies_s``, ``fps``, ``spared_flops`` (by reuse) and ``bytes_by_hop`` afterwards."""

    def __init__(self, work: Workload, cluster: Cluster, frames: int = 1) -> None:
        """Plays ``frames`` of each source, ``cluster.window`` of a source at a time."""
        self.bytes_by_hop: Counter[str] = Counter()
        self.spared_flops = 0
        self._work, self._cluster = work, cluster
        self._edges = [
            _Host(speed / CORE_FLOPS_S, message_speed, cluster.slice_s)
            for speed, message_speed in zip(cluster.speeds, cluster.edge_message_speeds)
        ]
        self._gateway = _Host(cluster.gateway_flops_s / CORE_FLOPS_S, cluster.gateways_message_speed, cluster.slice_s)
        self._frames: list[_Frame] = []
        self._left = [frames] * cluster.sources
        self._air = 0.0  # when the channel is free
        self._events: list[tuple[float, int, Then]] = []
        self._count = 0
        for source in range(cluster.sources):
            for _ in range(cluster.window):
                self._next_frame(source, 0.0)
        while self._events:
            now, _, then = heapq.heappop(self._events)
            then(now)

    @property
    def latencies_s(self) -> list[float]:
        return [frame.end - frame.start for frame in self._frames]

    @property
    def fps(self) -> float:
        """Frames a second in the steady state: how the count of those that have ended grows with time.

        The first frame of each source does not count, nor what ends when no frame begins any more; at least two do.
        """
        begun, ends = max(frame.start for frame in self._frames), sorted(frame.end for frame in self._frames)
        steady = ends[min(self._cluster.sources, len(ends) - 1) :]
        steady = [end for end in steady if end <= begun] or steady
        if steady[-1] == steady[0]:
            return len(ends) / ends[-1]
        return linear_regression(steady, range(len(steady))).slope

    def _at(self, when: float, then: Then) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, then))

    # -- a message

    def _handle(self, now: float, host: _Host, count: int, packed: int, then: Then, straight: bool = False) -> None:
        """One end sends or takes a message of ``count`` bytes, of which ``packed`` travel."""
        cluster = self._cluster
        pack_s = cluster.pack_byte_s * count if packed < count else 0.0
        message_s = cluster.straight_message_s if straight else cluster.per_message_s
        self._spend(now, host, message_s + cluster.per_byte_s * count + pack_s, then)

    def _pass(self, now: float, count: int, then: Then) -> None:
        """The broker takes a message, or passes it on."""
        self._spend(now, self._gateway, self._cluster.broker_message_s + self._cluster.broker_byte_s * count, then)

    def _spend(self, now: float, host: _Host, seconds: float, then: Then) -> None:
        """So many seconds of the reference core, none of them the engine's, after what the host's network has still to do; a
        tile loses them.
        """
        start = max(now, host.network)
        if host.computing:  # both take turns, until one is through
            alone = seconds / host.message_share
            turns = min(alone, max(host.ends + host.debt_s - start, 0.0))
            host.debt_s += turns
            host.network = start + alone + turns
        else:
            host.network = host.run(start, seconds, host.message_share)
        self._at(host.network, then)

    def _cross(self, now: float, sender: _Host, receiver: _Host, count: int, then: Then) -> None:
        """One hop: up the sender's link and, as packets arrive, down the receiver's; or twice the air, one after another."""
        seconds = count / self._cluster.bytes_s
        if self._cluster.radio:
            self._air = max(now, self._air) + 2 * seconds
            self._at(self._air + self._cluster.round_trip_s / 2, then)
            return
        start = max(now, sender.up)
        sender.up = start + seconds
        receiver.down = max(sender.up, max(start, receiver.down) + seconds)
        self._at(receiver.down + self._cluster.round_trip_s / 2, then)

    def _send(self, now: float, sender: _Host, receiver: _Host, count: int, kind: str, then: Then) -> None:
        """A message, straight to another edge or through the broker; one for the gateway ends there."""
        gateway = self._gateway
        if receiver is not gateway and self._cluster.is_straight(count):
            return self._send_straight(now, sender, receiver, count, kind, then)
        raw, count = count, self._cluster.packed(count, kind == "tiles") + HEADER_BYTES

        def taken(now: float) -> None:
            self._cross(now, gateway, receiver, count, lambda now: self._handle(now, receiver, raw, count, then))

        def at_broker(now: float) -> None:
            if receiver is gateway:
                self._handle(now, gateway, raw, count, then)
            else:
                self.bytes_by_hop[f"{kind} down"] += count
                self._pass(now, count, taken)

        def sent(now: float) -> None:
            self.bytes_by_hop[f"{kind} up"] += count
            self._cross(now, sender, gateway, count, lambda now: self._pass(now, count, at_broker))

        self._handle(now, sender, raw, count, sent)

    def _send_straight(self, now: float, sender: _Host, receiver: _Host, raw: int, kind: str, then: Then) -> None:
        count = self._cluster.packed(raw, kind == "tiles", hops=1) + HEADER_BYTES

        def arrived(now: float) -> None:
            self._handle(now, receiver, raw, count, then, straight=True)

        def sent(now: float) -> None:
            self.bytes_by_hop[f"{kind} straight"] += count
            self._cross(now, sender, receiver, count, arrived)

        self._handle(now, sender, raw, count, sent, straight=True)

    # -- a frame

    def _next_frame(self, source: int, now: float) -> None:
        if not self._left[source]:
            return
        self._left[source] -= 1
        frame = _Frame(source, now)
        self._frames.append(frame)
        number, host = len(self._frames) - 1, self._edges[source]
        seconds, host.owed_s = host.owed(now), 0.0
        seconds += self._cluster.per_frame_s if self._work.lanes > 1 else 0.0
        self._spend(now, host, seconds, lambda now: self._deal(number, now))

    def _deal(self, number: int, now: float) -> None:
        """The first round: one tile for each edge, the idlest first, the source's own after all others are sent."""
        frame, lanes, edges = self._frames[number], self._work.lanes, self._cluster.nodes
        ring = [(frame.source + i) % edges for i in range(edges)]
        if self._is_static:
            fixed = self._cluster.is_limited  # a node keeps the weights that it has
            loads = {edge: 0 if fixed else self._edges[edge].load for edge in ring}
            owners = []
            for lane in range(lanes):
                edge = min(ring, key=lambda edge: loads[edge])
                loads[edge] += 1
                owners.append((lane, edge))
        else:
            order = self._work.order if self._work.savings and lanes > edges else range(lanes)
            owners = list(zip(order, sorted(ring, key=lambda edge: self._edges[edge].load)))
            frame.waiting.extend(order[edges:])
        frame.owner.update(owners)
        for lane, edge in owners:
            if edge != frame.source:
                self._lend(number, lane, edge, now)
        own = [lane for lane, edge in owners if edge == frame.source]
        self._edges[frame.source].load += len(own)
        self._edges[frame.source].owed_s, self._edges[frame.source].free_at = self._cluster.per_picture_s, now
        self._at(max(now, self._edges[frame.source].network), lambda now: self._begin(number, own, frame.source, now))

    @property
    def _is_static(self) -> bool:
        """Lanes of several tasks wait for each other: all are dealt out at once."""
        return len(self._work.effort) > self._work.lanes or any(self._work.needs.values())

    def _lend(self, number: int, lane: int, edge: int, now: float) -> None:
        sender, receiver = self._edges[self._frames[number].source], self._edges[edge]
        count = self._work.crops[lane]
        receiver.load += 1
        self._send(now, sender, receiver, count, "tiles", lambda now: self._begin(number, [lane], edge, now))

    def _begin(self, number: int, lanes: Sequence[int], edge: int, now: float) -> None:
        for lane in lanes:
            self._frames[number].owner[lane] = edge
            self._frames[number].arrived.add(lane)
            self._proceed(number, lane, now)

    def _proceed(self, number: int, lane: int, now: float) -> None:
        """The next task of a lane may be computed, if all that it needs is here."""
        frame, steps = self._frames[number], self._work.steps[lane]
        step = frame.begun[lane]
        if step != frame.through[lane] or step == len(steps) or lane not in frame.arrived:
            return
        task = (steps[step], lane)
        if all((maker, lane) in frame.here for maker in self._work.needs[task]):
            frame.begun[lane] += 1
            edge = frame.owner[lane]
            self._edges[edge].ready.append((number, -task[0], lane))
            self._compute(edge, now)

    # -- a tile

    def _compute(self, edge: int, now: float) -> None:
        host = self._edges[edge]
        if host.computing or not host.ready:
            return
        task = min(host.ready)
        host.ready.remove(task)
        host.computing, host.debt_s = True, 0.0
        number, block, lane = task[0], -task[1], task[2]
        effort = self._work.effort[block, lane]
        saving = self._saving(self._frames[number], block, lane, edge)
        if saving is not None:
            effort -= saving.effort
            self.spared_flops += saving.flops
        beside = self._cluster.per_tile_s
        beside += self._cluster.per_lane_s if block == self._work.steps[lane][0] else 0.0
        seconds = effort / CORE_FLOPS_S + beside * host.ratio
        shared = min(host.owed(now) * host.ratio, seconds)
        seconds, host.owed_s = seconds + shared, host.owed_s - shared / host.ratio
        if edge != self._frames[number].source:
            self._ask(number, edge, now, ahead=True)
        host.ends = host.run(now, seconds, host.share)
        self._at(host.ends, lambda now: self._computed(number, block, lane, edge, now))

    def _saving(self, frame: _Frame, block: int, lane: int, edge: int) -> Saving | None:
        """What a tile is spared whose neighbours have run here before. Strips that travel are not looked at."""
        saving = self._work.savings.get(lane) if block == 0 else None
        return saving if saving and all(frame.made.get(maker) == edge for maker in saving.makers) else None

    def _computed(self, number: int, block: int, lane: int, edge: int, now: float) -> None:
        host = self._edges[edge]
        if host.debt_s > 0:  # messages took this much of the tile's time
            host.ends, host.debt_s = now + host.debt_s, 0.0
            self._at(host.ends, lambda now: self._computed(number, block, lane, edge, now))
            return
        host.computing, host.free_at = False, now
        frame = self._frames[number]
        frame.made.setdefault(lane, edge)
        frame.through[lane] += 1
        if (count := self._work.results.get((block, lane))) is not None:
            self._send(now, host, self._gateway, count, "results", lambda now: self._merge(number, now))
        self._give(number, block, lane, edge, now)
        if block == self._work.steps[lane][-1]:
            host.load -= 1
            if edge != frame.source:
                self._ask(number, edge, now, ahead=False)
            elif frame.waiting:
                host.load += 1
                self._begin(number, [frame.waiting.popleft()], edge, now)
        self._proceed(number, lane, now)
        self._compute(edge, now)

    def _ask(self, number: int, edge: int, now: float, ahead: bool) -> None:
        """An idle node asks the source for one more tile, or a busy one ahead, which never gets the last."""
        frame = self._frames[number]
        if len(frame.waiting) < (2 if ahead else 1):
            return
        if ahead and any(task[0] == number for task in self._edges[edge].ready):
            return
        lane = next((lane for lane in reversed(frame.waiting) if lane not in self._work.savings), frame.waiting[-1])
        frame.waiting.remove(lane)
        source = self._edges[frame.source]
        self._send(now, self._edges[edge], source, 0, "requests", lambda now: self._lend(number, lane, edge, now))

    def _give(self, number: int, block: int, lane: int, edge: int, now: float) -> None:
        """Parts for other lanes; those for lanes of the same node stay here."""
        frame = self._frames[number]
        for taker, size in self._work.gives[block, lane].items():

            def here(now: float, taker: int = taker) -> None:
                frame.here.add(((block, lane), taker))
                self._proceed(number, taker, now)

            if frame.owner[taker] == edge:
                here(now)
            else:
                self._send(now, self._edges[edge], self._edges[frame.owner[taker]], size, "parts", here)

    def _merge(self, number: int, now: float) -> None:
        frame = self._frames[number]
        frame.results += 1
        if frame.results == len(self._work.results):
            gateway = self._gateway
            seconds = self._work.tail_effort / CORE_FLOPS_S + self._cluster.per_outcome_s * gateway.ratio
            gateway.network = gateway.run(max(now, gateway.network), seconds, gateway.share)
            self._at(gateway.network, lambda now: self._end(number, now))

    def _end(self, number: int, now: float) -> None:
        self._frames[number].end = now
        self._next_frame(self._frames[number].source, now)
