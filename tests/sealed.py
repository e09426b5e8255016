"""A sealed cluster of real processes on loopback: gateway, mosquitto with TLS, edges that joined by their lines."""

import os
import queue
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.sources import open_source
from edge_agent.sources.fit import fit
from gateway_agent.registry import Registry
from gateway_agent.tail import digests
from models.bundle import Bundle, Reference, make_bundle
from models.graph.build import build
from models.tiling.tensor import to_input
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.host.process import STDIN_ENDS
from schemas.security import keyring
from schemas.security.permission import JoinToken
from schemas.security.seal import bare
from schemas.wire.codec import decode
from schemas.wire.link import Address, Arrived, Link

GRID = (3, 3)


class SealedCluster:
    """``gateway`` and ``edge`` start processes; ``outcomes`` are what a reader hears, whom the broker lets read little else.

    With ``broker``, an address without TLS, that is used: it lets everybody say and hear everything.
    """

    def __init__(self, folder: Path, broker: str = "") -> None:
        self.broker = broker
        self.folder = folder
        self.state = folder / "gateway"
        self.model = folder / "mini.tflite"
        self.model.write_bytes(build("mini").to_bytes())
        self.bundle: Bundle = make_bundle(self.model, GRID)
        self.registry = Registry(self.state)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.outcomes: list[m.Outcome] = []
        self.statuses: dict[str, m.Status] = {}
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.address = Address("127.0.0.1", 0)
        self._source = open_source("synthetic://")
        self._images, self._read, self._image = self._source.frames(), 0, np.empty(0, np.uint8)
        self._reference = Reference(self.bundle)
        self._watch: Link | None = None

    def gateway(self) -> None:
        """Start it sealed, on a free port, and watch it as a reader."""
        where = ("--broker", self.broker) if self.broker else ("--listen", f"127.0.0.1:{self.address.port}")
        plan = ("--model", self.model, "--grid", "3x3", *(() if self.broker else ("--ha",)))
        self.spawn("gateway", "gateway", *plan, *where, "--sealed", "--state", self.state)
        port = str(self.address.port or r"\d+")
        found = self.said("gateway", rf"gateway ready at mqtts?://127\.0\.0\.1:({port})")
        authority = None if self.broker else (self.state / "ca.pem").read_text()
        self.address = Address("127.0.0.1", int(found[1]), not self.broker, authority=authority)
        if self._watch is None:
            if not self.broker:
                self.registry.enroll("watcher", time.time(), reads=True)
            self._watch = Link(self.address if self.broker else self.as_node("watcher"), "dt", "watcher", self.inbox)
            self._watch.subscribe(topics.OUTCOME)
            self._watch.subscribe(topics.STATUS)
            self.until(self._connects, "the reader to be let in")

    def _connects(self) -> bool:
        assert self._watch is not None
        if not self._watch.connected:
            self._watch.start()
            time.sleep(0.2)
        return self._watch.connected

    def login(self, user: str, password: str) -> Address:
        return replace(self.address, user=user, password=password)

    def as_node(self, name: str) -> Address:
        """The login of an enrolled node, or of who is enrolled otherwise."""
        return self.login(name, keyring.password(bytes.fromhex(self.registry.read().nodes[name].secret)))

    def line(self, name: str) -> JoinToken:
        where = ("--gateway", self.broker) if self.broker else ()
        done = self.dt("enroll", name, *where, "--state", self.state)
        return JoinToken.parse(done.stdout)

    def edge(self, name: str, *more: str) -> None:
        """An edge of this name; it joins by a line of its own the first time."""
        given = ["--state", self.folder / name, "--cache", self.folder / f"cache-{name}"]
        if not (self.folder / name).exists():
            given += ["--join", str(self.line(name))]
        self.spawn(name, "edge", *given, *more)

    def spawn(self, name: str, *argv: object) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dt_cli.main", *map(str, argv)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, STDIN_ENDS: "1"},
            )  # fmt: skip

    def dt(self, *argv: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "dt_cli.main", *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def said(self, name: str, pattern: str, timeout_s: float = 30.0) -> "re.Match[str]":
        """Wait until the process has said this."""
        self.until(lambda: re.search(pattern, self.log(name)), f"{name} to say {pattern!r}", timeout_s)
        found = re.search(pattern, self.log(name))
        assert found is not None
        return found

    def until(self, done: Callable[[], Any], what: str, timeout_s: float = 30.0) -> None:
        """Hear what is said until something holds."""
        deadline = time.monotonic() + timeout_s
        while not done():
            logs = {name: self.log(name)[-600:] for name in self.processes}
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}: {logs}"
            self.hear(0.1)

    def hear(self, wait_s: float) -> None:
        try:
            event = self.inbox.get(timeout=wait_s)
        except queue.Empty:
            return
        if isinstance(event, Arrived):
            message = decode("dt", event.topic, bare(event.payload)).message
            if isinstance(message, m.Outcome):
                self.outcomes.append(message)
            elif isinstance(message, m.Status):
                self.statuses[message.node] = message

    def status(self, name: str) -> m.Status:
        """What a node said last of itself; before it has, that it has no straight connection."""
        return self.statuses.get(name) or m.Status(node=name, epoch="0" * 8)

    def frames(self, more: int) -> list[m.Outcome]:
        """The next so many outcomes."""
        start = len(self.outcomes)
        self.until(lambda: len(self.outcomes) >= start + more, f"{more} frames")
        return self.outcomes[start:]

    def expected(self, number: int) -> dict[str, str]:
        """Digests of a frame of the synthetic source, by the undivided model; frames in rising order."""
        while self._read <= number:
            self._image = next(self._images)
            self._read += 1
        assert self._read == number + 1
        return digests(*self._reference.run(to_input(fit(self._image, self.bundle.plan.pixels), self.bundle.plan.pixels)))

    def check_exact(self, outcomes: list[m.Outcome]) -> None:
        assert [o.reason for o in outcomes if o.status != "ok"] == []
        for outcome in sorted(outcomes, key=lambda o: m.frame_source(o.frame)):
            assert outcome.digests == self.expected(m.frame_source(outcome.frame)[2])

    def end(self, name: str) -> int:
        """End a process politely; its exit code."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if process.stdin:
            process.stdin.close()
        return code

    def close(self) -> None:
        for name in reversed(list(self.processes)):
            self.end(name)
        self._source.close()
        if self._watch is not None:
            self._watch.close(0.0)
