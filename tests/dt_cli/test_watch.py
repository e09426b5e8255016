"""`dt nodes`, `dt watch` and `dt doctor` at a running cluster: a gateway and two edges in this process."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.app import Edge
from gateway_agent.app import Gateway
from gateway_agent.broker import BrokerProcess
from gateway_agent.plans import bind
from models.bundle import make_bundle
from models.graph.build import build
from schemas.contract.config import EdgeOptions, GatewayOptions
from tests.test_commands import dt


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cluster")
    model = folder / "mini.tflite"
    model.write_bytes(build("mini", size=96).to_bytes())
    with BrokerProcess() as broker:
        options = EdgeOptions(gateway=broker.url, cache=folder / "cache")
        camera = options.model_copy(update={"source": "synthetic://?seed=3"})
        agents: list[Gateway | Edge] = [
            Gateway(GatewayOptions(root="farm"), bind(make_bundle(model, (2, 2))), broker.url, None),
            *(Edge(o.model_copy(update={"root": "farm"}), name) for o, name in ((camera, "cam"), (options, "help"))),
        ]
        threads = [threading.Thread(target=agent.run) for agent in agents]
        for thread in threads:
            thread.start()
        yield broker.url
        for agent, thread in reversed(list(zip(agents, threads))):
            agent.stop()
            thread.join(20)
            assert not thread.is_alive()


def test_nodes_lists_everybody_with_what_they_do(url: str) -> None:
    deadline = time.monotonic() + 60  # on a busy machine an edge says late how it fares
    rows: dict[str, Any] = {}
    while not (len(rows) == 3 and rows["cam"]["tiles"]) and time.monotonic() < deadline:
        done = dt("nodes", "--gateway", url, "--root", "farm", "--json")
        assert done.returncode == 0, done.stderr
        rows = {row["node"]: row for row in json.loads(done.stdout)}
    assert {name: row["role"] for name, row in rows.items()} == {"gateway": "gateway", "cam": "camera", "help": "helper"}
    assert rows["cam"]["tiles"] > 0 and rows["cam"]["memory_bytes"] > 0 and rows["cam"]["source"] == "synthetic://?seed=3"
    assert all(row["state"] == "online" for row in rows.values())
    table = dt("nodes", "--gateway", url, "--root", "farm").stdout
    assert "camera" in table and "helper" in table


def test_nodes_of_a_cluster_that_is_not_there_is_69(url: str) -> None:
    done = dt("nodes", "--gateway", url, "--root", "shop")
    assert done.returncode == 69 and "nobody of cluster shop is at " in done.stderr
    done = dt("nodes", "--gateway", "127.0.0.1:1")
    assert done.returncode == 69 and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("ends_by", ["Ctrl-C", "the reader"])
def test_watch_prints_lines_into_a_pipe_and_ends_quietly(ends_by: str, url: str) -> None:
    command = [sys.executable, "-m", "dt_cli.main", "watch", "--gateway", url, "--root", "farm"]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watch.stdout is not None
    line = watch.stdout.readline()
    if ends_by == "Ctrl-C":
        watch.send_signal(signal.SIGINT)
    else:
        watch.stdout.close()
    with watch:
        said = watch.stderr.read()  # type: ignore[union-attr]
    assert line.startswith("cluster farm at ") and "2 nodes" in line and "\x1b" not in line
    assert (watch.returncode, said) == (0, "")


def test_watch_draws_on_a_terminal(url: str) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "dt_cli.main", "watch", "--gateway", url, "--root", "farm"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"}
    watch = subprocess.Popen(command, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    seen, told = "", False
    with contextlib.suppress(OSError):  # EIO: the terminal's last user is gone
        while True:
            seen += os.read(master, 4096).decode(errors="replace")
            if not told and "helper" in seen and "cam " in seen:
                watch.send_signal(signal.SIGTERM)
                told = True
    watch.wait(20)
    os.close(master)
    assert watch.returncode == 0 and "\x1b[" in seen and "cluster farm" in seen and "Traceback" not in seen


def test_the_doctor_finds_the_gateway_and_its_runtime(url: str, tmp_path: Path) -> None:
    done = dt("doctor", "--gateway", url, "--root", "farm", "--cache", tmp_path, "--json")
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == int(any(f["level"] == "bad" for f in found.values()))
    assert found["gateway"]["level"] == found["runtime"]["level"] == found["model cache"]["level"] == "good"
    assert str(tmp_path) in found["model cache"]["text"]


def test_the_doctor_exits_1_where_something_is_broken(tmp_path: Path) -> None:
    done = dt("doctor", "--gateway", "127.0.0.1:1", "--cache", tmp_path, COLUMNS="200")
    assert done.returncode == 1 and "no broker at 127.0.0.1:1" in done.stdout
    assert " bad " in done.stdout and "[/" not in done.stdout
