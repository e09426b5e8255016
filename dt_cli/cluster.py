"""A whole cluster of processes on this machine: what `dt demo` and `dt run` have in common.

It starts a gateway and edges on loopback and a free port, listens to what they publish, and leaves no process, port or
file behind, however it ends: children are told to stop, then killed, and die with this process if it is killed itself.
"""

import contextlib
import os
import queue
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from dt_cli.output import console
from edge_agent.sources import open_source
from models.bundle import Bundle
from models.graph.file import parse
from models.running.runner import TileRunner
from models.trial import Verdicts
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DecodeError, DtError
from schemas.contract.redact import redact
from schemas.host.cgroup import cores
from schemas.host.process import STDIN_ENDS
from schemas.host.settings import without_ours
from schemas.wire.codec import decode
from schemas.wire.link import Arrived, Link

START_S = 60.0
SILENCE_S = 180.0  # a cluster that ends no frame for so long is stuck
STOP_S = 8.0
OWN_BROKERS = ("amqtt", "mosquitto", "auto")  # which the gateway starts on a free port; other words are addresses


@dataclass(frozen=True)
class Setup:
    """What the user asked for. The first edges get a source each; ``frames`` of each source, or all."""

    model: Path
    edges: int
    sources: Sequence[str]
    frames: int | None
    grid: str | None = None
    cut: str = "auto"
    broker: str | None = None
    outputs: bool = False
    http: str | None = None  # HOST:PORT of the dashboard
    gateway: Sequence[str] = ()  # more options of the gateway


@dataclass
class Child:
    """One process of the cluster and the file with what it says."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def end(self, patience_s: float) -> None:
        """Await its end, which it has been asked for; then no more."""
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


class Images:
    """A source read again, on its own: frame by number, in rising order, as the edge gets it."""

    def __init__(self, uri: str) -> None:
        self._source = open_source(uri)
        self._frames = self._source.frames()
        self._kept: dict[int, np.ndarray] = {}
        self._read = 0

    def take(self, number: int) -> np.ndarray:
        """Frame ``number``, once."""
        while self._read <= number:
            self._kept[self._read] = next(self._frames)
            self._read += 1
        return self._kept.pop(number)

    def close(self) -> None:
        self._source.close()


class PrivateCluster:
    """The processes, and what they have said so far. ``on_outcome`` is called once for each frame that ends."""

    def __init__(self, setup: Setup, bundle: Bundle, room: Path, on_outcome: Callable[[m.Outcome], None]) -> None:
        self.setup, self.bundle, self.room = setup, bundle, room
        self.outcomes: dict[str, m.Outcome] = {}
        self.outputs: dict[str, Mapping[str, np.ndarray]] = {}
        self.nodes: dict[str, m.Status] = {}
        self.repeated = 0
        self._on_outcome = on_outcome
        self._threads = str(max(cores() // setup.edges, 1))  # of each: they share this machine
        self._children: list[Child] = []
        self._inbox: queue.Queue[Any] = queue.Queue(4096)
        self._link: Link | None = None
        self._url = ""
        self.dashboard = ""  # where it is; empty: there is none
        self._root = f"dt-{m.new_epoch()}" if setup.broker not in (None, *OWN_BROKERS) else "dt"

    @property
    def cameras(self) -> dict[str, str]:
        """The edges that have a source: name -> URI."""
        return {f"edge{i + 1}": uri for i, uri in enumerate(self.setup.sources)}

    @property
    def expected(self) -> int | None:
        """How many frames there will be; None while a source of unknown length runs."""
        total = 0
        for camera in self.cameras:
            status = self.nodes.get(camera)
            length = status.frames if status is not None and status.finished else self.setup.frames
            if length is None:
                return None
            total += length
        return total

    def __enter__(self) -> "PrivateCluster":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._link is not None:
            self._link.close(0.0)
        if self._url and self.setup.broker not in (None, *OWN_BROKERS):
            self._sweep()

    def _sweep(self) -> None:
        """On a broker of yours nothing of this cluster stays, not even that its gateway is gone."""
        with contextlib.suppress(DtError), Link(self._url, self._root, "watcher", queue.Queue(16)) as link:
            link.connect(3.0)
            link.clear(topics.BRIDGE_STATE)

    def _start(self) -> None:
        """Gateway first, then the edges without a camera, then those with one, so that all have a share."""
        setup = self.setup
        self._start_gateway("127.0.0.1:0", setup.http)
        url = self._url
        self._link = Link(url, self._root, "watcher", self._inbox)
        for topic in (topics.OUTCOME, topics.STATUS) + ((topics.OUTPUT,) if setup.outputs else ()):
            self._link.subscribe(topic)
        self._link.connect()
        names = [f"edge{i}" for i in range(1, setup.edges + 1)]
        helpers = [name for name in names if name not in self.cameras]
        for name in helpers:
            self._edge(name, url)
        self._await(lambda: set(helpers) <= set(self.nodes), "the edges to join")
        for name, uri in self.cameras.items():
            limit = ["--frames", str(setup.frames)] if setup.frames is not None else []
            self._edge(name, url, "--source", uri, *limit)

    def _start_gateway(self, listen: str, http: str | None) -> None:
        setup = self.setup
        argv = ["gateway", "--model", str(setup.model), "--listen", listen, "--root", self._root, "--cut", setup.cut]
        argv += ["--objective", "fixed", "--state", str(self.room / "state-gateway"), "--threads", self._threads]
        argv += ["--grid", setup.grid] if setup.grid else []
        argv += ["--broker", setup.broker] if setup.broker else []
        argv += ["--outputs"] if setup.outputs else []
        argv += ["--http", http] if http else []
        gateway = self._spawn("gateway", [*argv, *setup.gateway])
        own = self._said(gateway, r"gateway ready at (mqtts?://[^\s:]+:\d+)")
        self._url = setup.broker if setup.broker and setup.broker not in OWN_BROKERS else own
        self.dashboard = self._said(gateway, r"dashboard at (.+)") if http else ""

    def serve(self, sources: Mapping[str, str]) -> None:
        """Goes on until this process is interrupted; edges of ``sources`` (name -> URI) begin anew with these.

        A gateway that ended with success was asked to, and starts again where it was. An edge that ends is told of.

        Raises:
            DtError: the gateway has failed.
        """
        if self._link is not None:
            self._link.close(0.0)
        for child in [child for child in self._children if child.name in sources]:
            child.process.terminate()
            child.end(STOP_S)
            self._children.remove(child)
            self._edge(child.name, self._url, "--source", sources[child.name])
        while True:
            time.sleep(0.5)
            for child in [child for child in self._children if child.process.poll() is not None]:
                child.end(0.0)
                self._children.remove(child)
                if child.name != "gateway":
                    console.print(
                        f"{child.name} ended with exit code {child.process.returncode}: {child.tail()}", markup=False
                    )
                elif child.process.returncode == 0:
                    self._start_gateway(self._again(self._url), self._again(self.dashboard, self.setup.http))
                else:
                    raise DtError(f"the gateway ended with exit code {child.process.returncode}: {child.tail()}")

    def _again(self, url: str, given: str | None = None) -> str:
        """HOST:PORT of what listens at ``url``; the host as it was ``given``, for a name may stand for every address."""
        parts = urlsplit(url)
        host = given.rpartition(":")[0] if given else parts.hostname
        return f"{host}:{parts.port or 0}"

    def watch(self) -> Iterator[None]:
        """Until every frame has its outcome; yields when there may be news."""
        heard = time.monotonic()
        while self.expected is None or len(self.outcomes) < self.expected:
            self._check_children()
            before = len(self.outcomes)
            self._hear(0.25)
            if len(self.outcomes) > before:
                heard = time.monotonic()
            elif time.monotonic() > heard + SILENCE_S:
                raise DtError(f"no frame has ended for {SILENCE_S:.0f} s; {len(self.outcomes)} had")
            yield
        tiles = sum(sum(o.computed.values()) for o in self.outcomes.values())
        deadline = time.monotonic() + 5.0  # the last counters are on their way
        while time.monotonic() < deadline and self._counted() < tiles:
            self._hear(0.25)
            yield

    def stop(self) -> None:
        """End every process that this one started: politely, then not."""
        for child in reversed(self._children):  # edges say good-bye to a gateway that is still there
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_S
        for child in reversed(self._children):
            child.end(max(deadline - time.monotonic(), 0.1))
        while self._children and not self._inbox.empty():
            self._hear(0.0)
        self._children.clear()

    def _spawn(self, name: str, argv: list[str]) -> Child:
        argv, secrets = _apart(argv)
        log = self.room / f"{name}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "dt_cli.main", *argv],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which ends the others in order
                env={**without_ours(os.environ), **secrets, STDIN_ENDS: "1"},
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def _edge(self, name: str, url: str, *more: str) -> None:
        cache = self.room / f"cache-{name}"
        for good in (self.bundle.plan.edge_model, TileRunner(self.bundle.plan, parse(self.bundle.edge_model)).kinds):
            Verdicts(cache).add(good)  # tried by whoever started this cluster
        given = ["--gateway", url, "--name", name, "--root", self._root, "--cache", str(cache), "--threads", self._threads]
        self._spawn(name, ["edge", *given, *more, "--state", str(self.room / f"state-{name}")])

    def _said(self, child: Child, pattern: str) -> str:
        """What the first group of ``pattern`` is in what ``child`` says."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            found = re.search(pattern, child.log.read_text(errors="replace"))
            if found:
                return found[1]
            self._check_children()
            time.sleep(0.05)
        raise DtError(f"the {child.name} did not start within {START_S:.0f} s: {child.tail()}")

    def _check_children(self) -> None:
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                raise DtError(f"{child.name} ended with exit code {code}: {child.tail()}")

    def _await(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_S
        while not done():
            self._check_children()
            self._hear(0.25)
            if time.monotonic() > deadline:
                raise DtError(f"waited {START_S:.0f} s for {what}: {'; '.join(c.tail() for c in self._children)}")

    def _hear(self, timeout_s: float) -> None:
        try:
            event = self._inbox.get(timeout=timeout_s) if timeout_s else self._inbox.get_nowait()
        except queue.Empty:
            return
        if not isinstance(event, Arrived):
            return
        with contextlib.suppress(DecodeError):  # not ours to judge: the agents count what is malformed
            incoming = decode(self._root, event.topic, event.payload)
            message = incoming.message
            if isinstance(message, m.Status):
                self.nodes[message.node] = message
            elif isinstance(message, m.OutputHeader):
                self.outputs[message.frame] = incoming.tensors
            elif isinstance(message, m.Outcome):
                self._end(message)

    def _end(self, outcome: m.Outcome) -> None:
        if outcome.frame in self.outcomes:
            self.repeated += 1
            return
        self.outcomes[outcome.frame] = outcome
        self._on_outcome(outcome)
        self.outputs.pop(outcome.frame, None)

    def _counted(self) -> int:
        return sum(status.computed + status.stolen for name, status in self.nodes.items() if name != "gateway")

    def summary(self) -> dict[str, Any]:
        """Counts of frames, tiles and bytes, and latency; the part that is the same for all commands."""
        ok = [o for o in self.outcomes.values() if o.status == "ok"]
        failed = [o for o in self.outcomes.values() if o.status == "failed"]
        latency = [o.latency_s * 1000 for o in ok] or [0.0]
        nodes = {}
        plan = self.bundle.plan
        ends_whole = len({lane for _, lane in plan.answers}) < plan.lanes  # outcomes name who computed the end alone
        for name in sorted({n for n in self.nodes if n != "gateway"} | {n for o in ok for n in o.computed}):
            status = self.nodes.get(name)
            stolen = sum(o.stolen.get(name, 0) for o in ok)
            computed = sum(o.computed.get(name, 0) for o in ok) - stolen
            if ends_whole and status:
                computed, stolen = status.computed, status.stolen
            nodes[name] = {
                "computed": computed,
                "stolen": stolen,
                "lent": status.lent if status else 0,
                "compute_s": round(status.compute_s, 4) if status else 0.0,
            }
        return {
            "frames": len(self.outcomes),
            "failed": len(failed),
            "reasons": [o.reason for o in failed],
            "tiles": sum(n["computed"] + n["stolen"] for n in nodes.values()),
            "tiles_stolen": sum(n["stolen"] for n in nodes.values()),
            "nodes": nodes,
            "wire_bytes": sum(s.bytes_out + s.straight_out for s in self.nodes.values()),
            "latency_ms": {f"p{q}": round(float(np.percentile(latency, q)), 2) for q in (50, 95)},
        }


def _apart(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments of a command, and as variables those options that hold a secret: a process list shows arguments."""
    hidden = {at for at, value in enumerate(argv) if argv[at - 1].startswith("--") and redact(value) != value}
    names = {at: f"DT_{argv[0]}_{argv[at - 1][2:]}".upper().replace("-", "_") for at in hidden}
    shown = [value for at, value in enumerate(argv) if at not in hidden and at + 1 not in hidden]
    return shown, {name: argv[at] for at, name in names.items()}
