"""A running cluster shows itself to a Home Assistant, played here by a plain client that is as strict; over amqtt."""

import json
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from gateway_agent.broker import BrokerProcess
from gateway_agent.homeassistant import mirror, watcher
from gateway_agent.homeassistant.facts import Settings
from gateway_agent.homeassistant.mirror import Said
from tests.home import Home
from tests.test_controls import WAIT_S, Running

BASE = "deepthings/dt-1"


class Person:
    """A client of the broker: what it hears goes to a ``Home``, and it can say what Home Assistant would."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.home = Home()
        self.bridge: dict[str, dict[str, Any]] = {}
        self.commands = 0  # that were heard, our own
        self._heard: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "person")
        self._client.on_message = lambda _client, _data, message: self._heard.put(message)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._client.subscribe([("homeassistant/+/#", 1), (f"{BASE}/#", 1), ("dt/bridge/#", 1)])

    def say(self, topic: str, payload: str, retain: bool = False) -> None:
        self._client.publish(topic, payload, 1, retain)

    def until(self, true: Callable[[], Any], timeout_s: float = WAIT_S) -> list[str]:
        """Listen until ``true``; the topics that were heard."""
        heard: list[str] = []
        deadline = time.monotonic() + timeout_s
        while not true():
            message = self._heard.get(timeout=max(deadline - time.monotonic(), 0.01))
            heard.append(message.topic)
            if message.topic.startswith("dt/bridge/"):
                self.bridge[message.topic.removeprefix("dt/bridge/")] = json.loads(message.payload or b"{}")
            elif message.topic.startswith((f"{BASE}/set/", "homeassistant/status")):
                self.commands += 1
            else:
                retain = not message.topic.endswith("/event")  # what arrives live does not tell
                self.home.hear(Said(message.topic, message.payload, retain, message.qos))
        return heard

    def state(self, device: str, key: str) -> Any:
        unique_id = f"dt-1_{device}_{key}"
        return self.home.state(unique_id) if unique_id in self.home.entities else None

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def test_a_cluster_in_home_assistant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("SETTLE_S", 0.1), ("BEAT_S", 0.5), ("IMAGE_S", 0.5), ("CAMERA_S", 0.1)):
        monkeypatch.setattr(mirror, name, seconds)
    assert watcher.BIRTH_S == (1.0, 5.0)
    monkeypatch.setattr(watcher, "BIRTH_S", (3.0, 3.1))
    with BrokerProcess("127.0.0.1", 0) as broker:
        running = Running(tmp_path, broker)
        person = Person(broker)
        person.say(f"{BASE}/set/detection", "OFF", retain=True)  # of another day: it commands nothing
        person.say(f"{BASE}/roster", '{"devices": {"node/old": {}}}', retain=True)  # of the gateway before
        person.until(lambda: person.commands and f"{BASE}/roster" in person.home.retained)
        running.gateway.watch(watcher.HomeAssistant(running.gateway, Settings(broker.url, cluster="dt-1")), 0.1)
        try:
            with running:
                assert running.ask("threshold", 0.0) == ""
                _look(person)
                _command(person)
                _birth(person)
                _request(person)
                running.edges[1].stop()
                person.until(lambda: person.state("node_edge2", "connectivity") == "offline")
                person.say("dt/bridge/request/remove", '{"value": "edge2"}')
                person.until(lambda: not any("edge2" in unique_id for unique_id in person.home.entities))
            person.until(lambda: person.bridge["state"]["state"] == "offline" and person.bridge["info"] == {})
            person.until(lambda: set(person.home.states.values()) == {"unavailable"})
        finally:
            person.close()


def _look(person: Person) -> None:
    """Every device is announced, its states are known, pictures and events come."""
    for device, key in (("source_edge1", "objects"), ("node_edge2", "computed")):
        person.until(lambda device=device, key=key: isinstance(person.state(device, key), int))  # type: ignore[misc]
    person.until(lambda: person.state("source_edge1", "objects") != 0)
    assert person.state("gateway", "detection") == "ON"
    assert (person.state("node_edge1", "connectivity"), person.state("source_edge1", "degraded")) == ("online", "OFF")
    person.until(lambda: f"{BASE}/source/edge1/image" in person.home.retained)
    assert person.home.retained[f"{BASE}/source/edge1/camera"].startswith(b"\xff\xd8")
    person.until(lambda: any(event["event_type"] == "appeared" for _, event in person.home.events))


def _command(person: Person) -> None:
    """A control is obeyed and then echoed; what cannot be is echoed as it was."""
    person.say(f"{BASE}/set/detection", "OFF")
    person.until(lambda: person.state("gateway", "detection") == "OFF")
    person.until(lambda: person.state("source_edge1", "objects") == "unavailable")
    person.say(f"{BASE}/set/detection", "ON")
    person.until(lambda: person.state("gateway", "detection") == "ON")
    person.say(f"{BASE}/set/threshold", "7")
    _next(person, f"{BASE}/gateway/controls")
    assert person.state("gateway", "threshold") == 0.0


def _next(person: Person, topic: str) -> list[str]:
    """Listen until something comes on ``topic``."""
    before = person.home.retained.pop(topic, None)
    assert before is not None
    return person.until(lambda: topic in person.home.retained)


def _birth(person: Person) -> None:
    """Home Assistant starts: all is announced again, after a while."""
    person.until(lambda: isinstance(person.state("gateway", "latency_ms"), int))  # its document changes no more
    person.home.documents.clear()
    said = time.monotonic()
    person.say("homeassistant/status", "online")
    person.until(lambda: "homeassistant/device/dt-1_gateway/config" in person.home.documents)
    assert time.monotonic() - said > 2.9
    person.until(lambda: len(set(person.home.documents)) >= 4)


def _request(person: Person) -> None:
    person.say("dt/bridge/request/threshold", '{"value": 0.25, "transaction": "mine"}')
    person.until(lambda: person.bridge.get("response/threshold", {}).get("transaction") == "mine")
    assert person.bridge["response/threshold"]["status"] == "ok"
    person.until(lambda: person.bridge["info"]["threshold"] == 0.25)
    person.say("dt/bridge/request/fly", '{"transaction": "x"}')
    person.until(lambda: person.bridge.get("response/fly", {}).get("status") == "error")
    assert {node["name"] for node in person.bridge["nodes"]["nodes"]} == {"edge1", "edge2", "old"}
