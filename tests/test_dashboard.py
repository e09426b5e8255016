"""The dashboard of a real cluster: over HTTP, on a gateway and two edges in this process, and on `dt demo --serve`."""

import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_agent.broker import BrokerProcess
from gateway_agent.start import serve_dashboard
from models.graph.build import build
from tests.test_controls import Running

WAIT_S = 60.0


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    with BrokerProcess("127.0.0.1", 0) as broker:
        running = Running(tmp_path, broker)
        serve_dashboard(running.gateway, "127.0.0.1:0", "dt")
        printed = re.search(r"dashboard at (\S+)", capsys.readouterr().out)
        assert printed is not None
        with running:
            yield printed[1]


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


def ask(site: str, verb: str, value: object) -> int:
    request = urllib.request.Request(
        f"{site}api/control", json.dumps({"verb": verb, "value": value}).encode(),
        {"content-type": "application/json", "x-dt-request": "1"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        return int(answer.status)


def until(site: str, true: Callable[[Any], bool]) -> Any:
    """The first state of which ``true`` says so; the gateway may be away meanwhile."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            state = get(f"{site}api/state")
        except (urllib.error.URLError, ConnectionError):
            state = None
        if state is not None and true(state):
            return state
        assert time.monotonic() < deadline, state
        threading.Event().wait(0.05)


def test_a_real_cluster_is_seen_and_controlled(site: str) -> None:
    state = until(site, lambda s: s["totals"]["frames"] and s["sources"] and s["sources"][0]["picture"])
    assert [node["name"] for node in state["nodes"] if node["online"]] == ["edge1", "edge2"]
    picture = state["sources"][0]["picture"]
    with urllib.request.urlopen(f"{site}{picture['url']}", timeout=20) as answer:
        assert answer.read().startswith(b"\xff\xd8")
    frames = get(f"{site}api/frames")
    assert all(len(frame["tiles"]) in (1, 4) for frame in frames if frame["status"] == "ok")
    assert get(f"{site}healthz")["ok"]
    until(site, lambda s: any(node["flops_s"] and node["message_speed"] for node in s["nodes"]))
    assert get(f"{site}api/expected?rate=50")["latency_s"] > 0
    assert ask(site, "grid", "2x3") == 200
    until(site, lambda s: s["controls"]["grid"] == "2x3" and s["totals"]["frames"] > state["totals"]["frames"])
    assert get(f"{site}api/plan")["cols"] == 3


def test_a_gateway_without_a_file_to_spare_goes_on(tmp_path: Path) -> None:
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini", size=96).to_bytes())
    command = [sys.executable, "-m", "dt_cli.main", "gateway", "--model", str(model), "--state", str(tmp_path / "state")]
    gateway = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path.cwd(),
    )  # fmt: skip
    idle: list[socket.socket] = []
    try:
        assert gateway.stdout is not None
        site = gateway.stdout.readline().removeprefix("dashboard at ").strip()
        until(site, lambda s: s["gateway"]["connected"])
        most = resource.getrlimit(resource.RLIMIT_NOFILE)
        open_now = len(list(Path(f"/proc/{gateway.pid}/fd").iterdir()))
        for spare, clients in ((100, 200), (0, 40)):  # more than the dashboard takes, and none
            resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (open_now + spare, most[1]))
            for _ in range(clients):
                idle.append(socket.create_connection(("127.0.0.1", int(site.split(":")[2].strip("/"))), timeout=20))
            if spare:
                later = time.time() + 3.0
                until(site, lambda s: s["at"] > later)  # noqa: B023 - asked before it changes
            else:
                threading.Event().wait(3.0)  # nobody can look in meanwhile
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, most)
        for line in idle:
            line.close()
        until(site, lambda s: s["gateway"]["connected"])
        assert get(f"{site}healthz")["ok"] and gateway.poll() is None
    finally:
        gateway.terminate()
        said = gateway.communicate(timeout=60)[0]
        assert gateway.returncode == 0 and said.count("accepts no connections") == 1 and "Traceback" not in said, said


def test_a_demo_stays_for_its_dashboard_until_it_is_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dt_cli.main", "demo", "--edges", "2", "--frames", "2", "--grid", "2x2", "--serve"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path.cwd())
    try:
        assert demo.stdout is not None
        site = demo.stdout.readline().removeprefix("dashboard at ").strip()
        assert site.startswith("http://127.0.0.1:")
        before = until(site, lambda s: s["totals"]["frames"] > 2 and s["sources"][0]["picture"])  # beyond its own
        assert before["sources"][0]["picture"]["seen"]["says"].startswith("reads ")
        assert ask(site, "restart", None) == 200
        until(site, lambda s: s["totals"]["frames"] > 0 and s["at"] - s["gateway"]["uptime_s"] > before["at"])
        until(site, lambda s: s["totals"]["online"] == 2)  # a frame may end before the other edge has called
        demo.send_signal(signal.SIGINT)
        said = demo.communicate(timeout=60)[0]
        assert demo.returncode == 0, said
        assert "bit for bit" in said and f"see {site} until Ctrl-C" in said
    finally:
        demo.kill()
        demo.wait()
