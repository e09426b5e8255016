"""What the dashboard shows, as values that never change: a snapshot of the board, and what the board does not count.

Page, JSON and metrics are made of the same snapshot, so they agree. It decides nothing and knows no socket, thread or
clock. Times are monotonic seconds inside; what leaves is UTC, by the ``wall`` seconds that lie between the two.
"""

import json
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway_agent.cluster_view import FRAMES, ClusterView, Rate, SourceView
from gateway_agent.controls import State
from gateway_agent.dashboard.views import (
    event_view,
    frame_view,
    node_view,
    picture_view,
    plan_view,
    reason_class,
    rounded,
    status_view,
    totals,
)
from models.bundle import Bundle
from schemas.contract.messages import Outcome, Picture, frame_source

EVENTS = 100
VIEWS = 16  # sizes of pictures that tiles are drawn on
BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Entry:
    """One line of a list that grows: its number, from 1, and its JSON."""

    number: int
    json: str


@dataclass(frozen=True)
class Histogram:
    """Latencies of a source's frames: how many in each bucket (the last one: beyond all), and their sum in seconds."""

    counts: tuple[int, ...]
    sum_s: float


@dataclass(frozen=True)
class Shown:
    """A source's picture without boxes, as JPEG, and the outcome of its frame."""

    jpeg: bytes
    outcome: Outcome


@dataclass(frozen=True)
class Snapshot:
    """The cluster at one moment. ``state`` is JSON's; ``frames`` and ``events`` oldest first; nobody changes any of it."""

    number: int
    at: float
    state: Mapping[str, Any]
    frames: tuple[Entry, ...]
    events: tuple[Entry, ...]
    plan: Entry
    pictures: Mapping[str, Shown]
    latencies: Mapping[str, Histogram]
    failures: Mapping[tuple[str, str], int]  # (source, class of reason)
    bundle: Bundle
    best_s: float  # latency of the quickest frame by this plan and these nodes; infinite: there was none


@dataclass
class Latencies:
    """A histogram that grows."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, latency_s: float) -> None:
        self.counts[bisect_left(BUCKETS_S, latency_s)] += 1
        self.sum_s += latency_s


@dataclass
class _Flow:
    rate: Rate = field(default_factory=Rate)
    tiles: int = 0


class Recorder:
    """Lives beside the board; ``outcome`` and ``pictured`` come after the board has heard of them."""

    def __init__(self, board: ClusterView) -> None:
        self._board = board
        self._snapshots = self._ended = 0
        self._frames: deque[Entry] = deque(maxlen=FRAMES)
        self._events: deque[Entry] = deque(maxlen=EVENTS)
        self._pictures: dict[str, Shown] = {}
        self._latencies: dict[str, Latencies] = {}
        self._failures: Counter[tuple[str, str]] = Counter()
        self._flows: dict[tuple[str, str], _Flow] = {}  # victim, thief
        self._sizes: dict[Picture, None] = {}
        self._plan = Entry(0, "")
        self._plan_of: tuple[object, ...] = ()
        self._best_s = float("inf")
        self._best_of: tuple[object, ...] = ()

    def outcome(self, outcome: Outcome, now: float, wall: float) -> None:
        """A frame has ended; it is the board's newest timeline."""
        self._ended += 1
        self._frames.append(Entry(self._ended, _json(frame_view(self._board.timelines[-1], self._ended, wall))))
        source = frame_source(outcome.frame)[0]
        if outcome.status == "failed":
            self._failures[source, reason_class(outcome.reason)] += 1
            return
        self._latencies.setdefault(source, Latencies()).add(outcome.latency_s)
        self._best_s = min(self._best_s, outcome.latency_s)
        for thief, tiles in outcome.stolen.items():
            flow = self._flows.setdefault((source, thief), _Flow())
            flow.tiles += tiles
            for _ in range(tiles):
                flow.rate.count(now)
        if min(outcome.picture) > 0:
            self._sizes[outcome.picture] = None
            while len(self._sizes) > VIEWS:
                del self._sizes[next(iter(self._sizes))]

    def pictured(self, frame: str) -> None:
        """The board has a new picture, of this frame."""
        source = self._board.sources[frame_source(frame)[0]]
        found = next((t.outcome for t in reversed(self._board.timelines) if t.outcome.frame == frame), None)
        if found is not None:  # without its outcome nobody could draw boxes on it
            self._pictures[source.name] = Shown(source.plain, found)

    def snapshot(self, controls: State, bundle: Bundle, about: Mapping[str, Any], now: float, wall: float) -> Snapshot:
        """The board as it is. ``about`` is what only the gateway's loop knows of itself."""
        self._snapshots += 1
        board = self._board
        for event in board.events:
            if not self._events or event.number > self._events[-1].number:
                self._events.append(Entry(event.number, _json(event_view(event, wall))))
        for gone in [name for name in self._pictures if name not in board.sources]:
            del self._pictures[gone]
        self._renew_plan(bundle)
        here = (bundle, *sorted(name for name, view in board.nodes.items() if view.online))
        if self._best_of and here != self._best_of:
            self._best_s = float("inf")
        self._best_of = here
        state = {
            "at": now + wall,
            "gateway": {"name": board.name, **about, **status_view(board.status)},
            "totals": totals(board, now),
            "nodes": [node_view(view, now, wall) for _, view in sorted(board.nodes.items())],
            "flows": [
                {"from": a, "to": b, "tiles": flow.tiles, "rate": round(flow.rate.per_second(now), 3)}
                for (a, b), flow in sorted(self._flows.items())
                if a in board.nodes and b in board.nodes
            ],
            "sources": [self._source_view(view, now) for _, view in sorted(board.sources.items())],
            "controls": {
                "detection": controls.detection, "threshold": controls.threshold,
                "grid": controls.grid, "automatic": controls.automatic, "model": controls.model,
            },
        }  # fmt: skip
        latencies = {name: Histogram(tuple(one.counts), one.sum_s) for name, one in self._latencies.items()}
        return Snapshot(
            self._snapshots, now, state, tuple(self._frames), tuple(self._events), self._plan, dict(self._pictures),
            latencies, dict(self._failures), bundle, self._best_s,
        )  # fmt: skip

    def _source_view(self, view: SourceView, now: float) -> dict[str, Any]:
        node = self._board.nodes.get(view.name)
        status = node.status if node is not None else None
        shown = self._pictures.get(view.name)
        return {
            "name": view.name,
            "online": node is not None and node.online,
            "uri": status.source if status else "",
            "frames": view.frames,
            "failed": view.failed,
            "dropped": status.missed if status else 0,
            "still": status.still if status else 0,
            "fps": round(view.rate.per_second(now), 3),
            "latency_s": rounded(view.latency_s),
            "degraded": view.degraded,
            "picture": None if shown is None else picture_view(view.name, shown.outcome),
        }

    def _renew_plan(self, bundle: Bundle) -> None:
        """A new entry where the plan is another one, or a picture of a new size has come."""
        made_of = (bundle, *self._sizes)
        if made_of != self._plan_of:
            self._plan_of = made_of
            self._plan = Entry(self._plan.number + 1, _json(plan_view(bundle, self._sizes)))


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
