"""What the cluster looks like from the gateway: nodes, sources, frames and events, for people and their programs.

Dashboard, Home Assistant, metrics and bridge all read this board, so they agree. It decides nothing and keeps the law
that a failed frame is never shown as an empty result: ``degraded`` says it and why. It knows no socket, thread or clock.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from schemas.contract import messages as m
from schemas.contract.messages import frame_source

RATE_S = 30.0  # frames a second are counted over so long
FRAMES = 64  # whose timelines are remembered
EVENTS = 256
SILENT_S = 30.0  # three statuses
OPEN = 256  # frames without an outcome whose tiles are remembered

Kind = Literal["joined", "left", "failed", "recovered", "refused", "control"]


@dataclass(frozen=True)
class Event:
    """Something that people want to know of. ``number`` counts up from 1; ``at`` is monotonic seconds."""

    number: int
    at: float
    kind: Kind
    about: str
    text: str


@dataclass(frozen=True)
class Span:
    """One tile's way: ``node`` computed it from ``start`` to ``end`` (seconds since the gateway's first word of the frame).

    The end is when its result arrived here, the start as long before as the engine had it: the way of the result is in it.
    """

    tile: int
    node: str
    stolen: bool
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """A frame that has its outcome, and its tiles in the order of their results."""

    outcome: m.Outcome
    at: float
    spans: tuple[Span, ...]


class Rate:
    """How often something has happened in the last ``window_s``."""

    def __init__(self, window_s: float = RATE_S) -> None:
        self._window_s = window_s
        self._times: deque[float] = deque()
        self._since: float | None = None

    def count(self, now: float) -> None:
        self._since = now if self._since is None else self._since
        self._forget(now)
        self._times.append(now)

    def per_second(self, now: float) -> float:
        """0 without any. A rate is known from the second one on."""
        self._forget(now)
        if self._since is None or not self._times:
            return 0.0
        return len(self._times) / max(min(now - self._since, self._window_s), 1.0)

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] <= now - self._window_s:
            self._times.popleft()


@dataclass
class NodeView:
    """A node as its last words describe it. ``since``: when it came or went, monotonic seconds."""

    name: str
    epoch: str = ""
    runtime: str = ""
    online: bool = False
    since: float = 0.0
    camera: bool = False
    waiting: int = 0
    computed: int = 0  # tiles whose results came here, stolen ones included
    stolen: int = 0
    flops_s: float = 0.0  # as Register says
    bytes_s: float = 0.0
    message_speed: float = 0.0
    tiles: Rate = field(default_factory=Rate)
    status: m.Status | None = None
    told_at: float = 0.0  # when it came

    def fetched(self, now: float) -> float | None:
        """How much of its model a node has that fetches it, from 0 to 1; None: it does not, or has fallen silent."""
        return self.status.fetched if self.status is not None and now < self.told_at + SILENT_S else None


@dataclass
class SourceView:
    """A camera and what was last seen. ``degraded`` is why its last frame failed; empty if that has a result.

    ``latest`` is the last outcome, ``seen`` the last one with a result; ``jpeg`` the last annotated picture, of frame
    ``pictured``, and ``plain`` the same without boxes.
    """

    name: str
    frames: int = 0
    failed: int = 0
    rate: Rate = field(default_factory=Rate)
    latency_s: float | None = None  # smoothed
    latest: m.Outcome | None = None
    seen: m.Outcome | None = None
    degraded: str = ""
    pictured: str = ""
    jpeg: bytes = b""
    plain: bytes = b""


class ClusterView:
    """``nodes`` and ``sources`` by name, ``events`` and ``timelines`` oldest first."""

    def __init__(self, name: str = "gateway") -> None:
        self.name = name
        self.status: m.Status | None = None  # the gateway's own
        self.nodes: dict[str, NodeView] = {}
        self.sources: dict[str, SourceView] = {}
        self.events: deque[Event] = deque(maxlen=EVENTS)
        self.timelines: deque[Timeline] = deque(maxlen=FRAMES)
        self.rate = Rate()
        self.frames = self.failed = self.tiles = self.stolen = 0
        self._numbers = 0
        self._first: dict[str, float] = {}  # when a frame without an outcome was first heard of
        self._spans: dict[str, dict[int, Span]] = {}

    def hear(self, message: m.Message, now: float) -> None:
        """What a node says; of results the header."""
        if isinstance(message, m.Register):
            self._register(message, now)
        elif isinstance(message, m.Status):
            self._status(message, now)
        elif isinstance(message, m.ResultHeader):
            self._result(message, now)

    def alive(self, nodes: Collection[str], now: float) -> None:
        """Who is in the cluster at this moment."""
        for name, view in self.nodes.items():
            if view.online != (name in nodes):
                view.online, view.since = name in nodes, now
                self.tell("joined" if view.online else "left", name, "is here" if view.online else "is gone", now)

    def forget(self, node: str) -> None:
        """The node will not come back: nothing is shown of it any more."""
        self.nodes.pop(node, None)
        self.sources.pop(node, None)

    def outcome(self, outcome: m.Outcome, now: float) -> None:
        """A frame has ended."""
        source = self.source(frame_source(outcome.frame)[0])
        self._first.pop(outcome.frame, None)
        spans = self._spans.pop(outcome.frame, {})
        self.timelines.append(Timeline(outcome, now, tuple(spans.values())))
        source.latest = outcome
        if outcome.status == "failed":
            self.failed += 1
            source.failed += 1
            if not source.degraded:
                self.tell("failed", source.name, f"frame {outcome.frame}: {outcome.reason}", now)
            source.degraded = outcome.reason or "failed"
            return
        self.frames += 1
        source.frames += 1
        self.tiles += sum(outcome.computed.values())
        self.stolen += sum(outcome.stolen.values())
        for view in self.nodes.values():
            view.computed += outcome.computed.get(view.name, 0)
            view.stolen += outcome.stolen.get(view.name, 0)
        self.rate.count(now)
        source.rate.count(now)
        before = source.latency_s
        source.latency_s = outcome.latency_s if before is None else 0.8 * before + 0.2 * outcome.latency_s
        source.seen = outcome
        if source.degraded:
            self.tell("recovered", source.name, "frames have results again", now)
            source.degraded = ""

    def pictured(self, frame: str, plain: bytes, annotated: bytes) -> None:
        """A picture of a frame that has a result, as JPEG, without and with what the model says."""
        source = self.source(frame_source(frame)[0])
        source.pictured, source.plain, source.jpeg = frame, plain, annotated

    def tell(self, kind: Kind, about: str, text: str, now: float) -> None:
        """Put an event on the board."""
        self._numbers += 1
        self.events.append(Event(self._numbers, now, kind, about, text))

    def source(self, name: str) -> SourceView:
        """The view of a source; a new one if nothing was heard of it before."""
        return self.sources.setdefault(name, SourceView(name))

    @property
    def online(self) -> tuple[str, ...]:
        """Nodes that are in the cluster."""
        return tuple(sorted(name for name, view in self.nodes.items() if view.online))

    def latency_s(self) -> float | None:
        """Smoothed latency over all sources that have frames."""
        known = [s.latency_s for s in self.sources.values() if s.latency_s is not None]
        return sum(known) / len(known) if known else None

    def _status(self, status: m.Status, now: float) -> None:
        if status.node == self.name:
            self.status = status
            return
        view = self.nodes.setdefault(status.node, NodeView(status.node, since=now))
        view.epoch, view.status, view.told_at = status.epoch, status, now

    def _register(self, register: m.Register, now: float) -> None:
        view = self.nodes.setdefault(register.node, NodeView(register.node, since=now))
        if register.epoch != view.epoch:  # its counters begin anew
            view.epoch, view.status = register.epoch, None
        view.runtime, view.camera, view.waiting = register.runtime, register.camera, register.waiting
        view.flops_s, view.bytes_s = register.flops_s, register.bytes_s or view.bytes_s
        view.message_speed = register.message_speed
        if register.camera:
            self.source(register.node)
        for frame in register.frames:
            self._hear_of(frame, now)

    def _result(self, header: m.ResultHeader, now: float) -> None:
        first = self._hear_of(header.frame, now)
        if header.node in self.nodes:
            self.nodes[header.node].tiles.count(now)
        end = now - first
        span = Span(header.tile, header.node, header.stolen, max(end - header.compute_s, 0.0), end)
        self._spans.setdefault(header.frame, {}).setdefault(header.tile, span)  # the first result counts

    def _hear_of(self, frame: str, now: float) -> float:
        first = self._first.setdefault(frame, now)
        while len(self._first) > OPEN:  # frames that will never end here
            oldest = next(iter(self._first))
            del self._first[oldest]
            self._spans.pop(oldest, None)
        return first
