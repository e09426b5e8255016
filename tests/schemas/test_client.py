"""The connection to a broker, against a broker of a few lines that does what brokers rarely do."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from queue import Queue
from typing import Any

import pytest

from schemas.wire import mqtt
from schemas.wire.client import INFLIGHT, Client

WAIT_S = 30.0


class Broker:
    """Accepts one connection after the other, and reads what clients say."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = self._server.getsockname()[:2]
        self._line = socket.socket()
        self._data = b""

    def accept(self) -> None:
        self._line.close()
        self._line, _ = self._server.accept()
        self._line.settimeout(WAIT_S)
        self._data = b""
        assert self.read()[0] == 0x10
        self.say(b"\x20\x02\x00\x00")

    def say(self, data: bytes) -> None:
        self._line.sendall(data)

    def read(self) -> tuple[int, bytes]:
        """The next packet: its first byte, and all behind its length."""
        first, size, shift = self._bytes(1)[0], 0, 0
        while True:
            byte = self._bytes(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                return first, self._bytes(size)

    def read_message(self) -> tuple[bool, int, bytes]:
        """Whether it is said again, its number and its payload."""
        first, body = self.read()
        assert first & 0xF0 == mqtt.PUBLISH, hex(first)
        start = 2 + int.from_bytes(body[:2], "big")
        return bool(first & 8), int.from_bytes(body[start : start + 2], "big"), body[start + 2 :]

    def _bytes(self, count: int) -> bytes:
        while len(self._data) < count:
            more = self._line.recv(2**20)
            assert more, "the client has gone"
            self._data += more
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def hang_up(self) -> None:
        self._line.close()

    def close(self) -> None:
        self._line.close()
        self._server.close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.close()


@contextlib.contextmanager
def begun(broker: Broker, keepalive_s: int = 20) -> Iterator[tuple[Client, "Queue[Any]"]]:
    client, told = Client("e1", broker.address, None, None, None, keepalive_s, (0.0, 0.0), 1024), Queue[Any]()
    client.on_connect, client.on_disconnect, client.on_publish = told.put, told.put, lambda number: told.put(("done", number))
    client.begin()
    try:
        yield client, told
    finally:
        broker.close()
        client.end(WAIT_S)


def test_what_is_not_acknowledged_is_said_again_in_its_order_on_the_next_connection(broker: Broker) -> None:
    with begun(broker) as (client, told):
        broker.accept()
        assert told.get(timeout=WAIT_S) == 0
        numbers = [client.publish("t", bytes([n]), 1) for n in range(3)]
        heard = [broker.read_message() for _ in range(3)]
        assert heard == [(False, number, bytes([n])) for n, number in enumerate(numbers)]
        broker.say(mqtt.puback(heard[1][1]))
        assert told.get(timeout=WAIT_S) == ("done", numbers[1])
        broker.hang_up()
        assert told.get(timeout=WAIT_S) == "the connection has ended"
        broker.accept()
        assert told.get(timeout=WAIT_S) == 0
        assert [broker.read_message() for _ in range(2)] == [(True, numbers[0], b"\0"), (True, numbers[2], b"\2")]
        for number in (numbers[0], numbers[2], numbers[2], 999):
            broker.say(mqtt.puback(number or 0))
        assert {told.get(timeout=WAIT_S) for _ in range(2)} == {("done", numbers[0]), ("done", numbers[2])}
        assert client.publish("t", b"next", 1) and broker.read_message()[2] == b"next"
        assert told.empty(), "each is acknowledged once"


def test_what_is_said_while_there_is_no_connection_waits_for_one(broker: Broker) -> None:
    with begun(broker) as (client, told):
        numbers = [client.publish("t", bytes([n]), 1) for n in range(INFLIGHT + 2)]
        assert client.publish("t", b"", 0) is None, "of QoS 0, it is lost"
        broker.accept()
        assert [broker.read_message() for _ in range(INFLIGHT)] == [
            (False, number, bytes([n])) for n, number in enumerate(numbers[:INFLIGHT])
        ]
        for n in range(2):
            broker.say(mqtt.puback(numbers[n] or 0))
            assert broker.read_message() == (False, numbers[INFLIGHT + n], bytes([INFLIGHT + n])), "one goes, one comes"
        assert told.get(timeout=WAIT_S) == 0


def test_no_two_messages_have_one_number(broker: Broker) -> None:
    with begun(broker) as (client, _):
        first = client.publish("t", b"", 1)
        client._numbers = 65535
        assert client.publish("t", b"", 1) not in (first, None)


def test_threads_that_publish_at_once_do_not_mix_their_packets(broker: Broker) -> None:
    """Nor with what waits in a connection that is full."""
    with begun(broker) as (client, told):
        broker.accept()
        assert told.get(timeout=WAIT_S) == 0
        sizes = [1, 3_000_000, 17_000]
        threads = [
            threading.Thread(target=lambda n=n, size=size: [client.publish("t", bytes([n]) * size, 1) for _ in range(6)])
            for n, size in enumerate(sizes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        heard = [broker.read_message()[2] for _ in range(18)]
        assert sorted((len(set(data)), data[0], len(data)) for data in heard) == sorted(
            (1, n, size) for n, size in enumerate(sizes) for _ in range(6)
        )


def test_a_broker_that_is_silent_is_asked_and_then_left(broker: Broker) -> None:
    with begun(broker, keepalive_s=1) as (_, told):
        broker.accept()
        assert told.get(timeout=WAIT_S) == 0
        for _ in range(2):
            assert broker.read() == (0xC0, b"")
            broker.say(b"\xd0\x00")
        assert broker.read() == (0xC0, b"")
        assert "silent" in told.get(timeout=WAIT_S)


def test_a_broker_that_does_not_speak_mqtt_is_left(broker: Broker) -> None:
    with begun(broker) as (_, told):
        broker.accept()
        assert told.get(timeout=WAIT_S) == 0
        broker.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert "no broker says" in told.get(timeout=WAIT_S)
        broker.accept()
        assert told.get(timeout=WAIT_S) == 0


def test_good_bye_is_said_behind_all_else(broker: Broker) -> None:
    with begun(broker) as (client, told):
        broker.accept()
        assert told.get(timeout=WAIT_S) == 0
        client.publish("t", bytes(5_000_000), 1)
        ended = threading.Thread(target=client.end, args=(WAIT_S,))
        ended.start()
        assert len(broker.read_message()[2]) == 5_000_000
        assert broker.read() == (0xE0, b"")
        ended.join(WAIT_S)
        assert told.get(timeout=WAIT_S) == "it was closed here" and not client.is_connected


def test_a_broker_that_reads_no_more_does_not_hold_us(broker: Broker) -> None:
    with begun(broker) as (client, told):
        broker.accept()
        assert told.get(timeout=WAIT_S) == 0
        client.publish("t", bytes(50_000_000), 1)
        client.end(0.1)
        assert client.line is None
