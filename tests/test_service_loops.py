"""Both agents' loops: ready when they are, fed even when idle, said to end, and awake when something must be written."""

import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from edge_agent.app import Edge
from gateway_agent.app import HEARD_S, Gateway
from gateway_agent.broker import BrokerProcess
from gateway_agent.journal import Journal
from gateway_agent.node import NOTHING_BEFORE
from gateway_agent.plans import bind
from models.bundle import make_bundle
from models.graph.build import build
from models.running.engine import kernels
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.config import EdgeOptions, GatewayOptions
from schemas.contract.topics import Publish
from schemas.host.service import Service

PERIOD_S, WAIT_S = 2.0, 20.0


def words(line: socket.socket, until: Callable[[list[str]], bool]) -> list[str]:
    """What the manager hears up to the moment of which ``until`` says so."""
    line.settimeout(WAIT_S)
    heard: list[str] = []
    deadline = time.monotonic() + WAIT_S
    while not until(heard):
        assert time.monotonic() < deadline, heard
        heard.append(line.recv(4096).decode())
    return heard


def test_a_plan_asks_for_the_arithmetics_of_what_the_edges_run_alone(tmp_path: Path) -> None:
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini", size=96).to_bytes())
    assert bind(make_bundle(model, (2, 2))).plan.runtime == kernels(["float32"])


@pytest.mark.parametrize("kind", ["gateway", "edge"])
def test_an_idle_agent_is_ready_and_feeds_its_watchdog(tmp_path: Path, kind: str) -> None:
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini", size=96).to_bytes())
    with BrokerProcess() as broker, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        service = Service(str(tmp_path / "notify"), PERIOD_S)
        agent: Gateway | Edge
        if kind == "gateway":
            agent = Gateway(GatewayOptions(), bind(make_bundle(model, (2, 2))), broker.url, None, service)
        else:  # nobody is there: it looks on, and lives
            agent = Edge(EdgeOptions(gateway=broker.url, cache=tmp_path), "e1", service)
        thread = threading.Thread(target=agent.run)
        thread.start()
        try:
            assert words(manager, lambda heard: "READY=1" in heard)
            start = time.monotonic()
            words(manager, lambda heard: heard.count("WATCHDOG=1") == 3)
            assert time.monotonic() - start < 2 * PERIOD_S
        finally:
            agent.stop()
            thread.join(20)
        assert "STOPPING=1" in words(manager, lambda heard: "STOPPING=1" in heard)


def test_the_journal_knows_at_once_that_the_broker_has_an_outcome(tmp_path: Path) -> None:
    """A gateway that is killed before it is written says the outcome once more."""
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini", size=96).to_bytes())
    journal = Mock(spec=Journal, before=NOTHING_BEFORE)
    app = Gateway(GatewayOptions(), bind(make_bundle(model, (2, 2))), "mqtt://127.0.0.1:1", None, journal=journal)
    app._inbox, app._link = Mock(**{"get.side_effect": queue.Empty}), Mock(connected=True)
    app._publisher = Mock(status_at=time.monotonic(), uploading=False)
    app._saying.append("camera-11111111-0")
    waited = []
    for acknowledged in (False, True, True):
        app._link.flush.return_value = acknowledged
        app._step()
        waited.append(app._inbox.get.call_args.kwargs["timeout"])
        assert journal.heard.called == acknowledged
    assert waited[:2] == [HEARD_S] * 2 and waited[2] > 0.5
    journal.heard.assert_called_once_with(("camera-11111111-0",))


def test_a_broker_that_cannot_be_started_again_is_tried_until_it_can(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini", size=96).to_bytes())
    with BrokerProcess() as broker:
        app = Gateway(GatewayOptions(), bind(make_bundle(model, (2, 2))), broker.url, broker)
        assert broker._child is not None
        broker._child.kill()
        broker._child.wait()
        with socket.create_server(("127.0.0.1", broker.port)):
            for _ in range(3):
                app._publisher.revive_broker()
        assert not broker.alive and [r.message for r in caplog.records if "is taken by another program" in r.message] != []
        assert len(caplog.records) == 2, "that it died, and why it does not start: once each"
        app._publisher.revive_broker()
        assert broker.alive
        app._link.close(0.0)


def test_what_the_wire_does_not_carry_is_left_out_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini", size=96).to_bytes())
    app = Gateway(GatewayOptions(), bind(make_bundle(model, (2, 2))), "mqtt://127.0.0.1:1", None)
    long = m.Status(node="gateway", epoch="0" * 8, dropped={f"{n:0100}": n for n in range(700)})
    for _ in range(2):
        app._publisher.send(Publish(topics.STATUS, long, {"node": "gateway"}))
    assert [r.message.split(":")[0] for r in caplog.records] == ["left out"]
    app._link.close(0.0)
