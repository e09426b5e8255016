"""The line to Home Assistant's broker, on a real one: it comes back, it is bounded, its will is said."""

import queue
import socket
from typing import TypeVar

import pytest

from gateway_agent.broker import BrokerProcess
from gateway_agent.homeassistant.client import MOST_PICTURES, Client, Down, Heard, Up
from gateway_agent.homeassistant.mirror import Said
from schemas.contract.messages import new_epoch

WILL = Said("here/availability", b"offline")
E = TypeVar("E")


def expect(client: Client, kind: type[E]) -> E:
    while True:
        event = client.heard.get(timeout=15.0)
        if isinstance(event, kind):
            return event


@pytest.fixture
def name() -> str:
    return f"test-{new_epoch()}"


def test_it_subscribes_again_when_the_broker_is_back(name: str) -> None:
    with BrokerProcess("127.0.0.1", 0) as broker:
        client = Client(broker.url, name, ["there/+"], WILL)
        try:
            assert not client.say(Said("x", b"y"))
            client.start()
            for _ in range(2):
                expect(client, Up)
                assert client.say(Said("there/me", b"hello", retain=False))
                heard = expect(client, Heard)
                assert (heard.topic, heard.payload, heard.retained) == ("there/me", b"hello", False)
                broker.stop()
                expect(client, Down)
                assert not client.say(Said("there/me", b"nobody"))
                broker.start()
        finally:
            client.close([])


def test_its_will_is_said_when_it_is_lost_and_its_last_word_when_it_closes(broker: BrokerProcess, name: str) -> None:
    will = Said(f"{name}/availability", b"offline")
    watch = Client(broker.url, f"{name}-watch", [f"{name}/#"], WILL)
    closed = Client(broker.url, f"{name}-closed", [f"{name}/x"], WILL)
    lost = Client(broker.url, f"{name}-lost", [f"{name}/x"], will)
    try:
        for client in (watch, lost, closed):
            client.start()
            expect(client, Up)
        line = lost._client.socket()
        assert line is not None
        lost._client.loop_stop()
        line.shutdown(socket.SHUT_RDWR)
        assert expect(watch, Heard).payload == b"offline"
        closed.close([Said(f"{name}/last", b"bye")])
        assert expect(watch, Heard).payload == b"bye"
    finally:
        watch.close([])


def test_pictures_do_not_pile_up_where_nobody_reads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        client = Client(f"mqtt://127.0.0.1:{port}", "test", ["a"], WILL)
        client.start()
        line, _ = deaf.accept()
        try:
            line.recv(1024)
            line.sendall(b"\x20\x02\x00\x00")  # CONNACK, and then it reads no more
            while not client._client.is_connected():
                with pytest.raises(queue.Empty):
                    client.heard.get(timeout=0.05)
            picture = Said("camera", bytes(4 * 1024 * 1024), qos=0)
            assert sum(client.say(picture) for _ in range(4 * MOST_PICTURES)) <= MOST_PICTURES + 1
        finally:
            line.close()
            client.close([])


def test_what_is_heard_is_bounded_and_news_of_the_line_always_fit() -> None:
    client = Client("mqtt://127.0.0.1:1", "test", [], WILL)
    for number in range(1000):
        client._put(Heard("a", str(number).encode(), False))
    client._put(Up())
    events = [client.heard.get_nowait() for _ in range(client.heard.qsize())]
    assert isinstance(events[-1], Up) and len(events) <= 64


def test_a_broker_that_is_not_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = Client(f"mqtt://127.0.0.1:{port}", "test", [], WILL)
    try:
        client.start()
        assert "answer" in expect(client, Down).reason
    finally:
        client.close([])
