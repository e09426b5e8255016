"""A gateway and edges as processes of their own on loopback, as ``dt demo`` starts them, and what they say to all.

What measures them sits at the broker like any other client. Nothing is left behind: a child ends with its stdin.
"""

import contextlib
import os
import queue
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from schemas.contract import topics
from schemas.contract.errors import DtError
from schemas.contract.messages import Message
from schemas.contract.topics import Topic
from schemas.host.process import STDIN_ENDS
from schemas.host.settings import without_ours
from schemas.security.seal import bare
from schemas.wire.codec import decode
from schemas.wire.link import Address, Arrived, Link

ROOT = "dt"
PATIENCE_S = 60.0
STOP_S = 10.0


class Cluster:
    """A context manager. ``room`` keeps logs and caches; ``heard`` topics reach ``next``."""

    def __init__(self, model: Path, grid: str, cut: str, room: Path, heard: Sequence[Topic]) -> None:
        self._model, self._grid, self._cut, self._room, self._heard = model, grid, cut, room, heard
        self._inbox: queue.Queue[Any] = queue.Queue(4096)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Cluster":
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop_all)
            plan = ["--model", str(self._model), "--grid", self._grid, "--cut", self._cut, *self.gateway_options()]
            self._spawn("gateway", ["dt_cli.main", "gateway", *plan, "--listen", "127.0.0.1:0", "--root", ROOT])
            self.url = self._wait_for_url()
            link = Link(self.watcher(), ROOT, "bench", self._inbox)
            for topic in self._heard:
                link.subscribe(topic)
            link.connect()
            stack.callback(link.close, 0.0)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def edge(self, name: str, *options: str, module: str = "dt_cli.main") -> None:
        """Start an edge by ``module``; its model and weight cache stay for the next edge of this name."""
        given = ["--gateway", self.url, "--name", name, "--root", ROOT, "--cache", str(self._room / f"cache-{name}")]
        self._spawn(name, [module, "edge", *given, *self.edge_options(name), *options])

    def gateway_options(self) -> list[str]:
        return ["--state", str(self._room / "state")]

    def edge_options(self, name: str) -> list[str]:
        """Whatever this user is enrolled in elsewhere is of no concern here."""
        return ["--state", str(self._room / f"state-{name}")]

    def watcher(self) -> str | Address:
        """Where the link of the one who measures goes."""
        return self.url

    def stop(self, name: str) -> None:
        """End a process politely, then not."""
        child = self._children.pop(name)
        assert child.stdin is not None
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdin.close()

    def next(self, timeout_s: float = PATIENCE_S) -> tuple[float, str, Message] | None:
        """The next message: when it came (monotonic seconds), its topic and itself; None if none came in time.

        Raises:
            DtError: a process of the cluster has ended.
        """
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._check()
            with contextlib.suppress(queue.Empty):
                event = self._inbox.get(timeout=min(left, 1.0))
                if isinstance(event, Arrived):
                    return time.monotonic(), event.topic, decode(ROOT, event.topic, bare(event.payload)).message
        return None

    def forget(self) -> None:
        """What has come so far is no news: a measurement begins."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get_nowait()

    def processor_s(self) -> dict[str, float]:
        """Seconds of processor time that each process has had so far, by its name; ``broker``: what the gateway has started."""
        spent = {name: _processor_s(child.pid) for name, child in self._children.items()}
        gateway = self._children["gateway"].pid
        children = Path(f"/proc/{gateway}/task/{gateway}/children").read_text().split()
        return {**spent, "broker": sum(_processor_s(int(pid)) for pid in children)}

    def said(self, name: str) -> str:
        """What a process has said so far."""
        return self._log(name).read_text(errors="replace")

    def await_log(self, name: str, found: Callable[[str], Any]) -> Any:
        """Wait until ``found`` makes something of what the process has said."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if result := found(self.said(name)):
                return result
            self._check()
            time.sleep(0.05)
        raise DtError(f"{name} did not start within {PATIENCE_S:.0f} s: {self._last_line(name)}")

    def _wait_for_url(self) -> str:
        found = self.await_log("gateway", lambda said: re.search(r"gateway ready at (mqtts?://[^\s:]+:\d+)", said))
        return str(found[1])

    def _spawn(self, name: str, argv: Sequence[str]) -> None:
        with self._log(name).open("wb") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", *argv],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**without_ours(os.environ), STDIN_ENDS: "1", "COLUMNS": "200"},
            )

    def _check(self) -> None:
        for name, child in self._children.items():
            if child.poll() is not None:
                raise DtError(f"{name} ended with exit code {child.returncode}: {self._last_line(name)}")

    def _last_line(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _log(self, name: str) -> Path:
        return self._room / f"{name}.log"

    def _stop_all(self) -> None:
        for name in reversed(list(self._children)):  # edges say good-bye to a gateway that is still there
            self.stop(name)


def _processor_s(pid: int) -> float:
    """Of a process that runs; its children are not in it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


EVERYTHING = Topic("#", Message, 0, False, "all", "bench")
OUTCOMES = (topics.OUTCOME, topics.STATUS)
