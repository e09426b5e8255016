"""`dt demo`: a whole cluster of processes on this machine, each answer compared with the unpartitioned model's.

The comparison takes its own way: this process reads the source itself, runs the unpartitioned model on every frame and
compares digests with those that the gateway publishes. It leaves no process, port or file behind, also after Ctrl-C.
"""

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.live import Live
from rich.table import Table

from dt_cli.output import console, size, table, write_json
from edge_agent.sources import open_source
from edge_agent.sources.fit import fit
from gateway_agent.tail import digests
from models.build import build
from models.bundle import Bundle, Reference, open_bundle
from models.planner import parse_grid
from models.tensor import to_input
from schemas import messages as m
from schemas import topics
from schemas.codec import decode
from schemas.errors import DecodeError, DtError
from schemas.link import Arrived, Link
from schemas.process import STDIN_ENDS

START_S = 60.0
SILENCE_S = 180.0  # a cluster that ends no frame for so long is stuck
STOP_S = 8.0


def run(
    edges: int, frames: int, grid: str | None, cut: str, model: Path | None, source: str, json: Path | None,
    broker: str | None,
) -> int:  # fmt: skip
    """Exit code 0 only if every frame is exact and none failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    open_source(source).close()  # a wrong source is one line now, not a child's log
    with tempfile.TemporaryDirectory(prefix="dt-demo-") as folder, contextlib.ExitStack() as stack:
        room = Path(folder)
        if model is None:
            model = room / "mini.tflite"
            model.write_bytes(build("mini").to_bytes())
        bundle = open_bundle(model, parse_grid(grid) if grid else None, cut)
        demo = Demo(bundle, edges, frames, source, room, stack)
        demo.start(model, grid, cut, broker)
        with Live(demo.table(), console=console, refresh_per_second=4, transient=not console.is_terminal) as live:
            for _ in demo.watch():
                live.update(demo.table())
        demo.stop()
    summary = demo.summary()
    write_json(json, summary)
    console.print(demo.table() if not console.is_terminal else "")
    _print(summary)
    return 0 if summary["exact"] else 1


@dataclass
class Child:
    """One process of the cluster and the file with what it says."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@dataclass
class Demo:
    """The cluster, what it has said so far, and what the unpartitioned model says."""

    bundle: Bundle
    edges: int
    frames: int
    source: str
    room: Path
    stack: contextlib.ExitStack
    children: list[Child] = field(default_factory=list)
    outcomes: dict[str, m.Outcome] = field(default_factory=dict)
    repeated: int = 0
    wrong: dict[str, list[str]] = field(default_factory=dict)
    nodes: dict[str, m.Status] = field(default_factory=dict)
    inbox: "queue.Queue[Any]" = field(default_factory=lambda: queue.Queue(4096))

    def start(self, model: Path, grid: str | None, cut: str, broker: str | None) -> None:
        """Gateway first, then the edges without a camera, then the one with it, so that all have a share."""
        self.stack.callback(self.stop)
        self.root = f"dt-demo-{m.new_epoch()}" if broker else "dt"
        argv = ["gateway", "--model", str(model), "--listen", "127.0.0.1:0", "--root", self.root, "--cut", cut]
        argv += ["--grid", grid] if grid else []
        argv += ["--broker", broker] if broker else []
        url = self._gateway_url(self._spawn("gateway", argv))
        self.link = Link(broker or url, self.root, "demo", self.inbox)
        self.link.subscribe(topics.OUTCOME)
        self.link.subscribe(topics.STATUS)
        self.link.connect()
        self.stack.callback(self.link.close, 0.0)
        self.reference = Reference(self.bundle)
        self.images = self._images()
        for i in range(2, self.edges + 1):
            self._edge(i, broker or url)
        self._await(lambda: all(f"edge{i}" in self.nodes for i in range(2, self.edges + 1)), "the edges to join")
        self._edge(1, broker or url, "--source", self.source, "--frames", str(self.frames))

    def watch(self) -> Iterator[None]:
        """Until every frame has its outcome; yields when there is news."""
        heard = time.monotonic()
        while len(self.outcomes) < self._expected():
            self._check_children()
            before = len(self.outcomes)
            self._hear(0.25)
            if len(self.outcomes) > before:
                heard = time.monotonic()
            elif time.monotonic() > heard + SILENCE_S:
                raise DtError(f"no frame has ended for {SILENCE_S:.0f} s; {len(self.outcomes)} of {self.frames} had")
            yield
        names = [f"edge{i}" for i in range(1, self.edges + 1)]
        deadline = time.monotonic() + 5.0  # the last counters are on their way
        while time.monotonic() < deadline and self._counted(names) < sum(
            sum(o.computed.values()) for o in self.outcomes.values()
        ):
            self._hear(0.25)
            yield

    def stop(self) -> None:
        """End every process that this one started: politely, then not."""
        for child in reversed(self.children):  # edges say good-bye to a gateway that is still there
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_S
        for child in reversed(self.children):
            try:
                child.process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            if child.process.stdin:
                child.process.stdin.close()
        if hasattr(self, "link"):
            while not self.inbox.empty():
                self._hear(0.0)
        self.children.clear()

    def _spawn(self, name: str, argv: list[str]) -> Child:
        log = self.room / f"{name}.log"
        process = subprocess.Popen(
            [sys.executable, "-m", "dt_cli.main", *argv],
            stdin=subprocess.PIPE,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others in order
            env={**os.environ, STDIN_ENDS: "1", "COLUMNS": "200"},
        )
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def _edge(self, i: int, url: str, *more: str) -> None:
        cache = str(self.room / f"cache{i}")
        self._spawn(
            f"edge{i}", ["edge", "--gateway", url, "--name", f"edge{i}", "--root", self.root, "--cache", cache, *more]
        )

    def _gateway_url(self, gateway: Child) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            found = re.search(r"gateway ready at (mqtts?://[^\s:]+:\d+)", gateway.log.read_text(errors="replace"))
            if found:
                return found[1]
            self._check_children()
            time.sleep(0.05)
        raise DtError(f"the gateway did not start within {START_S:.0f} s: {gateway.tail()}")

    def _check_children(self) -> None:
        for child in self.children:
            code = child.process.poll()
            if code is not None:
                raise DtError(f"{child.name} ended with exit code {code}: {child.tail()}")

    def _await(self, done: Any, what: str) -> None:
        deadline = time.monotonic() + START_S
        while not done():
            self._check_children()
            self._hear(0.25)
            if time.monotonic() > deadline:
                raise DtError(f"waited {START_S:.0f} s for {what}: {'; '.join(c.tail() for c in self.children)}")

    def _hear(self, timeout_s: float) -> None:
        try:
            event = self.inbox.get(timeout=timeout_s) if timeout_s else self.inbox.get_nowait()
        except queue.Empty:
            return
        if not isinstance(event, Arrived):
            return
        with contextlib.suppress(DecodeError):  # not ours to judge: the agents count what is malformed
            message = decode(self.root, event.topic, event.payload).message
            if isinstance(message, m.Status):
                self.nodes[message.node] = message
            elif isinstance(message, m.Outcome):
                self._compare(message)

    def _compare(self, outcome: m.Outcome) -> None:
        if outcome.frame in self.outcomes:
            self.repeated += 1
            return
        self.outcomes[outcome.frame] = outcome
        want = self._want(m.frame_source(outcome.frame)[2])
        if outcome.status == "ok":
            wrong = [name for name in want if outcome.digests.get(name) != want[name]]
            if wrong:
                self.wrong[outcome.frame] = wrong

    def _want(self, number: int) -> dict[str, str]:
        """Digests of the unpartitioned model's tensors for frame ``number``."""
        while number not in self._wanted:
            image = next(self.images)
            self._wanted[len(self._wanted)] = digests(*self.reference.run(to_input(image, self.bundle.plan.pixels)))
        return self._wanted[number]

    def _images(self) -> Iterator[np.ndarray]:
        self._wanted: dict[int, dict[str, str]] = {}
        source = open_source(self.source)
        self.stack.callback(source.close)
        return (fit(image, self.bundle.plan.pixels) for image in source.frames())

    def _expected(self) -> int:
        camera = self.nodes.get("edge1")
        return camera.frames if camera is not None and camera.finished else self.frames

    def _counted(self, names: list[str]) -> int:
        return sum(self.nodes[n].computed + self.nodes[n].stolen for n in names if n in self.nodes)

    def summary(self) -> dict[str, Any]:
        ok = [o for o in self.outcomes.values() if o.status == "ok"]
        failed = [o for o in self.outcomes.values() if o.status == "failed"]
        latency = [o.latency_s * 1000 for o in ok] or [0.0]
        names = sorted({n for n in self.nodes if n != "gateway"} | {n for o in ok for n in o.computed})
        nodes = {}
        for name in names:
            status = self.nodes.get(name)
            stolen = sum(o.stolen.get(name, 0) for o in ok)
            nodes[name] = {
                "computed": sum(o.computed.get(name, 0) for o in ok) - stolen,
                "stolen": stolen,
                "lent": status.lent if status else 0,
                "compute_s": round(status.compute_s, 4) if status else 0.0,
            }
        exact = len(ok) == len(self.outcomes) == self._expected() > 0 and not self.wrong and not self.repeated
        return {
            "frames": len(self.outcomes),
            "failed": len(failed),
            "exact": exact,
            "wrong": self.wrong,
            "reasons": [o.reason for o in failed],
            "tiles": sum(sum(o.computed.values()) for o in ok),
            "tiles_stolen": sum(sum(o.stolen.values()) for o in ok),
            "nodes": nodes,
            "wire_bytes": sum(s.bytes_out for s in self.nodes.values()),
            "latency_ms": {f"p{q}": round(float(np.percentile(latency, q)), 2) for q in (50, 95)},
        }

    def table(self) -> Table:
        """What the cluster does, for people."""
        summary = self.summary()
        block = self.bundle.plan.blocks[0]
        title = (
            f"{summary['frames']} of {self._expected()} frames, {block.rows}x{block.cols} tiles of "
            f"{self.bundle.path.name}; {summary['failed']} failed, {len(self.wrong)} wrong"
        )
        shown = table(title, "node", "tiles computed", "tiles stolen", "tiles lent", "compute s", "sent", left=("node",))
        for name, n in summary["nodes"].items():
            status = self.nodes.get(name)
            sent = size(status.bytes_out) if status else ""
            camera = " (camera)" if name == "edge1" else ""
            shown.add_row(
                name + camera, *(str(n[k]) for k in ("computed", "stolen", "lent")), f"{n['compute_s']:.2f}", sent
            )
        return shown


def _print(summary: dict[str, Any]) -> None:
    latency = summary["latency_ms"]
    console.print(
        f"{summary['frames']} frames, {summary['failed']} failed; {summary['tiles']} tiles, "
        f"{summary['tiles_stolen']} of them stolen; {size(summary['wire_bytes'])} published; "
        f"latency {latency['p50']:.0f} ms (p50), {latency['p95']:.0f} ms (p95)"
    )
    for frame, tensors in summary["wrong"].items():
        console.print(f"WRONG: frame {frame} differs in {', '.join(tensors)}")
    for reason in summary["reasons"]:
        console.print(f"FAILED: {reason}")
    if summary["exact"]:
        console.print("every merged map and every final output equals the unpartitioned model's, bit for bit")
