"""A cluster of real processes loses a worker, freezes one and restarts its gateway: every frame ends once, and exact."""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge_agent.sources import open_source
from edge_agent.sources.fit import fit
from gateway_agent.journal import JOURNAL, Entry
from gateway_agent.tail import digests
from models.bundle import Reference, make_bundle, save
from models.graph.build import build
from models.tiling.division import Tiles
from models.tiling.tensor import to_input
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.host.process import STDIN_ENDS
from schemas.host.settings import without_ours
from schemas.wire.codec import decode
from schemas.wire.link import Arrived, Link

FRAMES = 45


class Cluster:
    """Processes by name, on one port, and the outcomes that they publish."""

    def __init__(self, folder: Path, cuts: tuple[str, ...]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.folder = folder
        model = folder / "mini.tflite"
        model.write_bytes(build("mini").to_bytes())
        self.bundle = make_bundle(model, blocks=[(cut, Tiles(3, 3)) for cut in cuts])
        save(self.bundle, folder / "plan")
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.link = Link(f"127.0.0.1:{self.port}", "dt", "watcher", self.inbox)
        self.link.subscribe(topics.OUTCOME)
        self.link.subscribe(topics.STATUS)
        self.outcomes: list[m.Outcome] = []
        self.seen: set[str] = set()

    def start(self, name: str, *argv: str) -> None:
        self.running[name] = subprocess.Popen(
            [sys.executable, "-m", "dt_cli.main", *argv],
            stdin=subprocess.PIPE,
            stderr=(self.folder / f"{name}.log").open("ab"),
            stdout=subprocess.DEVNULL,
            env={**without_ours(os.environ), STDIN_ENDS: "1"},
        )

    def gateway(self) -> None:
        self.start(
            "gateway", "gateway", "--model", str(self.folder / "plan"), "--listen", f"127.0.0.1:{self.port}",
            "--state", str(self.folder / "state")
        )  # fmt: skip

    def listen(self) -> None:
        """Hear what is published from now on."""
        deadline = time.monotonic() + 30.0
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return self.link.connect()
            except OSError:
                assert time.monotonic() < deadline, "the gateway does not listen"
                time.sleep(0.1)

    def edge(self, name: str, *more: str) -> None:
        cache = str(self.folder / name)
        self.start(name, "edge", "--gateway", f"127.0.0.1:{self.port}", "--name", name, "--cache", cache, *more)

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def hear(self, until: Any, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, f"{len(self.outcomes)} outcomes, nodes {self.seen}"
            try:
                event = self.inbox.get(timeout=0.5)
            except queue.Empty:
                continue
            if isinstance(event, Arrived):
                message = decode("dt", event.topic, event.payload).message
                self.seen.add(message.node)
                if isinstance(message, m.Outcome):
                    self.outcomes.append(message)

    def ended(self) -> dict[str, m.Outcome]:
        """How each frame ended: as heard, or by the gateway's journal, for nobody may listen while a broker restarts."""
        found = {outcome.frame: outcome for outcome in self.outcomes}
        for line in (self.folder / "state" / JOURNAL).read_text().splitlines():
            with contextlib.suppress(ValidationError):  # it is being written
                said = Entry.model_validate_json(line).outcome
                if said is not None:
                    found.setdefault(said.frame, said)
        return found

    def stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin:
                process.stdin.close()
        self.link.close(0.0)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, ("conv9",))
    yield made
    made.stop()


def test_a_plan_that_was_chosen_by_hand_outlives_its_gateway_and_so_do_the_frames(plain: Cluster) -> None:
    plain.gateway()
    plain.listen()
    plain.edge("camera", "--source", "synthetic://")
    plain.hear(lambda: len(plain.outcomes) >= 2)
    assert len(plain.outcomes[-1].workers) == 9
    plain.link.publish(topics.BRIDGE_REQUEST, m.BridgeRequest(value="2x1"), verb="grid")
    plain.hear(lambda: len(plain.outcomes[-1].workers) == 2)
    plain.kill("gateway")
    before = len(plain.outcomes)
    plain.gateway()
    plain.hear(lambda: len(plain.outcomes) >= before + 5 and plain.outcomes[-1].epoch != plain.outcomes[before - 1].epoch)
    assert {(len(o.workers), o.status) for o in plain.outcomes[before:]} == {(2, "ok")}
    assert len({m.frame_source(o.frame)[1] for o in plain.outcomes[before - 1 :]}) == 1, "the edge has begun nothing anew"
    assert not list((plain.folder / "state").glob("*.part"))


@pytest.fixture(params=[("conv9",), ("max3", "max7", "conv9")], ids=["one block", "three blocks"])
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster(tmp_path, request.param)
    yield made
    made.stop()


def test_every_frame_ends_once_and_exact_whatever_dies(cluster: Cluster) -> None:
    cluster.gateway()
    cluster.listen()
    cluster.edge("worker1")
    cluster.edge("worker2")
    cluster.hear(lambda: {"worker1", "worker2"} <= cluster.seen)
    cluster.edge("camera", "--source", "synthetic://", "--frames", str(FRAMES))
    cluster.hear(lambda: len(cluster.outcomes) >= 8)
    cluster.kill("worker1")
    cluster.hear(lambda: len(cluster.outcomes) >= 14)
    cluster.running["worker2"].send_signal(signal.SIGSTOP)
    cluster.hear(lambda: len(cluster.outcomes) >= 20)
    cluster.edge("worker1")
    cluster.running["worker2"].send_signal(signal.SIGCONT)
    cluster.hear(lambda: len(cluster.outcomes) >= 26)
    cluster.kill("gateway")
    cluster.gateway()
    cluster.hear(lambda: len(cluster.ended()) >= FRAMES)

    ended = cluster.ended().values()
    assert {m.frame_source(o.frame)[2] for o in ended} == set(range(FRAMES))
    # A gateway that was killed right after an outcome, before the source heard of it, says the same once more.
    assert len(cluster.outcomes) <= FRAMES + 2
    assert [o.reason for o in (*ended, *cluster.outcomes) if o.status == "failed"] == []
    bundle = cluster.bundle
    reference, source = Reference(bundle), open_source("synthetic://")
    wanted = [
        digests(*reference.run(to_input(fit(image, bundle.plan.pixels), bundle.plan.pixels)))
        for image, _ in zip(source.frames(), range(FRAMES))
    ]
    source.close()
    for outcome in (*ended, *cluster.outcomes):
        assert outcome.digests == wanted[m.frame_source(outcome.frame)[2]]
    assert sum(o.stolen.get("worker1", 0) for o in ended) > 0
