"""What a cluster looks like from its messages: who is there, what they do, how frames end. For `dt nodes` and `dt watch`.

It knows no socket and no clock. A node is there as long as it has been heard of within three heartbeats.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dt_cli.output import size, table
from schemas.contract import messages as m
from schemas.contract.kernels import without_digests
from schemas.contract.results import sentence

GATEWAY = "gateway"
SILENT_S = 6.0  # as the gateway holds it: three missed heartbeats
QUIET_S = 30.0  # the gateway has no heartbeat; its status comes every ten seconds
RATE_S = 10.0
COLUMNS = (
    "node", "role", "state", "runtime", "tiles", "stolen", "tile ms", "queue", "straight", "CPU", "°C", "memory", "version",
)  # fmt: skip
HERE = ("online", "throttled")
WIDE, WORDY = 120, ("runtime", "version")
LEFT = ("node", "role", "state", "runtime", "version")


@dataclass
class Node:
    """The last that was heard of one node, and when (monotonic seconds)."""

    heard_at: float
    register: m.Register | None = None
    status: m.Status | None = None

    def state(self, name: str, now: float) -> str:
        if self.register is not None and self.register.leaving:
            return "left"
        fetched = self.status.fetched if self.status is not None else None
        silent = now > self.heard_at + (QUIET_S if name == GATEWAY or fetched is not None else SILENT_S)
        if fetched is not None and not silent:
            return f"fetching {fetched:.0%}"
        throttled = self.status is not None and self.status.vitals.throttled
        return "silent" if silent else "throttled" if throttled else "online"


@dataclass
class View:
    """One cluster, as far as it was heard."""

    root: str
    url: str
    connected: bool = True
    nodes: dict[str, Node] = field(default_factory=dict)
    last: deque[m.Outcome] = field(default_factory=lambda: deque(maxlen=8))
    exactness: str = ""  # of answers, as the gateway says
    failed: int = 0
    ended: int = 0
    _ended_at: deque[float] = field(default_factory=deque)
    _latency_s: deque[float] = field(default_factory=lambda: deque(maxlen=100))

    @property
    def complete(self) -> bool:
        """Whether the gateway was heard, and a status of every node that was."""
        return GATEWAY in self.nodes and all(node.status is not None for node in self.nodes.values())

    def hear(self, message: m.Message, now: float) -> None:
        """One message of the cluster; others than these say nothing of it."""
        if isinstance(message, m.Register | m.Status):
            node = self.nodes.setdefault(message.node, Node(now))
            node.heard_at = now
            if isinstance(message, m.Register):
                node.register = message
            else:
                node.status = message
        elif isinstance(message, m.BridgeInfo):
            self.exactness = message.exactness
        elif isinstance(message, m.Outcome):
            self.last.append(message)
            self.ended += 1
            self.failed += message.status == "failed"
            self._ended_at.append(now)
            self._latency_s.append(message.latency_s)

    def fps(self, now: float) -> float:
        """Frames a second that ended, over the last ten."""
        while self._ended_at and self._ended_at[0] < now - RATE_S:
            self._ended_at.popleft()
        return len(self._ended_at) / RATE_S

    @property
    def latency_s(self) -> float | None:
        """The median of the last hundred frames."""
        return median(self._latency_s) if self._latency_s else None

    def rows(self, now: float) -> list[dict[str, Any]]:
        """Each node as plain values, the gateway first; what is not known is None."""
        names = sorted(self.nodes, key=lambda name: (name != GATEWAY, name))
        return [_row(name, self.nodes[name], now) for name in names]

    def table(self, now: float, width: int) -> Table:
        """One row a node; on a narrow terminal without what is the same for most."""
        shown = [i for i, name in enumerate(COLUMNS) if width >= WIDE or name not in WORDY]
        made = table(f"answers are {self.exactness}" if self.exactness else "", *(COLUMNS[i] for i in shown), left=LEFT)
        rows = self.rows(now)
        others = sum(row["role"] != GATEWAY and row["state"] in HERE for row in rows) - 1
        for row in rows:
            cells = _cells(row, others)
            made.add_row(*(cells[i] for i in shown))
        return made

    def headline(self, now: float) -> str:
        """The cluster in one line."""
        online = sum(row["state"] in HERE for row in self.rows(now) if row["role"] != GATEWAY)
        latency = "-" if self.latency_s is None else f"{self.latency_s * 1000:.0f} ms"
        line = f"cluster {self.root} at {self.url}: {online} nodes, {self.fps(now):.1f} frames/s, latency {latency}"
        line += f", {self.ended} frames, {self.failed} failed" + (f"; {self.exactness}" if self.exactness else "")
        return line if self.connected else f"{line}; the broker is gone, trying again"

    def render(self, now: float, width: int) -> RenderableType:
        """All of it, for a terminal of so many columns."""
        results = [_line(_sentence(o), "red" if o.status == "failed" else "") for o in reversed(self.last)]
        return Group(_line(self.headline(now), "bold"), self.table(now, width), *results)


def _row(name: str, node: Node, now: float) -> dict[str, Any]:
    register, status = node.register, node.status
    role = GATEWAY if name == GATEWAY else "camera" if register is not None and register.camera else "helper"
    row: dict[str, Any] = {"node": name, "role": role, "state": node.state(name, now)}
    row |= {"runtime": register.runtime if register else None, "machine": register.machine if register else None}
    if status is None:
        return row
    return row | {
        "tiles": status.computed + status.stolen, "stolen": status.stolen, "frames": status.frames,
        "tile_ms": None if status.tile_s is None else round(status.tile_s * 1000, 1), "queue": status.waiting,
        "straight": status.straight, "straight_out": status.straight_out, "bytes_out": status.bytes_out,
        "fetched": status.fetched, "source": status.source, "version": status.version, **status.vitals.model_dump(),
    }  # fmt: skip


def _cells(row: dict[str, Any], others: int) -> list[str]:
    """``others``: edges that are here beside one of them."""
    said = {key: "-" if value is None else value for key, value in row.items()}
    said["runtime"] = without_digests(str(said.get("runtime", "-")))
    share = f"{row['cpu']:.0%}" if row.get("cpu") is not None else "-"
    warm = f"{row['temperature_c']:.0f}" if row.get("temperature_c") is not None else "-"
    memory = size(row["memory_bytes"]) if row.get("memory_bytes") is not None else "-"
    words = [str(said.get(key, "-")) for key in ("node", "role", "state", "runtime", "tiles", "stolen", "tile_ms", "queue")]
    straight = f"{len(row['straight'])}/{others}" if "straight" in row and row["role"] != GATEWAY else "-"
    return [*words, straight, share, warm, memory, str(said.get("version", "-"))]


def _sentence(outcome: m.Outcome) -> str:
    source, _, number = m.frame_source(outcome.frame)
    says = outcome.reason if outcome.result is None else sentence(outcome.result)
    failed = "" if outcome.status == "ok" else "FAILED: "
    return f"{source} {number:5d}  {outcome.latency_s * 1000:6.0f} ms  {failed}{says}"


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def failure(message: m.Message) -> str | None:
    """What to say at once of a message, where lines are printed."""
    return _sentence(message) if isinstance(message, m.Outcome) and message.status == "failed" else None
