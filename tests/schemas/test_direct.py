"""Straight connections: what comes is what was sent, what does not goes by the broker, and who may not speak is not heard."""

import contextlib
import json
import queue
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DecodeError
from schemas.contract.topics import Publish
from schemas.security.seal import Seal
from schemas.security.session import Session
from schemas.wire import direct
from schemas.wire.codec import TENSOR_BYTES, encode
from schemas.wire.connection import HELLO_BYTES, MESSAGE
from schemas.wire.direct import Direct, Straight, Undelivered
from schemas.wire.guard import Guard, OpenGuard

PLAN = "0" * 32
PIXELS = np.arange(96 * 96 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 96, 96, 3)


@dataclass
class End:
    """A node as others know it."""

    name: str
    epoch: str
    direct: Direct
    inbox: "queue.Queue[Any]"
    keys: Seal | None

    @property
    def peer(self) -> m.Peer:
        assert self.direct.address is not None
        return m.Peer(epoch=self.epoch, address=self.direct.address)

    def admit(self) -> m.Message:
        """What the guard makes of the next message."""
        event = self.inbox.get(timeout=10.0)
        assert isinstance(event, Straight)
        guard = OpenGuard() if self.keys is None else Guard(self.keys)
        (incoming,) = guard.admit("dt", event.topic, event.payload, PLAN, event.opened)
        assert np.array_equal(incoming.tensors["image"], PIXELS)
        return incoming.message


def keys_of(names: tuple[str, ...]) -> dict[str, Seal]:
    """Seals of a sealed cluster of these; the key of each ordered pair is of its names."""
    seals = {name: Seal(name, epoch_of(name)) for name in names}
    for name, seal in seals.items():
        for other in names:
            if other != name:
                seal.admit(other, f"{name}>{other}".encode().ljust(32), f"{other}>{name}".encode().ljust(32))
                seal.meet(other, epoch_of(other))
    return seals


def epoch_of(name: str) -> str:
    return name[0].encode().hex() * 4


Make = Callable[..., tuple[End, ...]]


@pytest.fixture(params=["plain", "sealed"])
def sealed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "sealed")


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes nodes that know each other; on a busy machine nobody is in haste."""
    monkeypatch.setattr(direct, "SILENT_S", 60.0)
    monkeypatch.setattr(direct, "HELLO_S", 60.0)
    made: list[End] = []

    def make(*names: str, sealed: bool = False, host: str = "127.0.0.1", meet: bool = True) -> tuple[End, ...]:
        keys = keys_of(names) if sealed else {}
        for name in names:
            inbox: queue.Queue[Any] = queue.Queue(256)
            end = End(name, epoch_of(name), Direct("dt", name, epoch_of(name), inbox, keys.get(name)), inbox, keys.get(name))
            assert end.direct.open(host)
            made.append(end)
        if meet:
            for end in made:
                end.direct.know({other.name: other.peer for other in made})
            until(lambda: all(len(end.direct.peers) == len(names) - 1 for end in made))
        return tuple(made)

    yield make
    for end in made:
        end.direct.close()


def until(done: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10.0
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def tile(sender: End, to: str, pixels: np.ndarray = PIXELS) -> Publish:
    header = m.TileHeader(node=sender.name, epoch=sender.epoch, plan=PLAN, to_epoch=epoch_of(to), request="00000001",
                          frame=m.frame_id(sender.name, sender.epoch, 0))  # fmt: skip
    return Publish(topics.TILE, header, {"node": to}, {"image": pixels})


def part(sender: End, lane: int) -> Publish:
    header = m.OverlapHeader(node=sender.name, epoch=sender.epoch, plan=PLAN, frame=m.frame_id("a", sender.epoch, 0),
                             layer=0, tile=lane, maker=0)  # fmt: skip
    return Publish(topics.OVERLAP, header, {"layer": 0, "tile": lane}, {"image": PIXELS})


def test_a_tile_comes_as_it_was_sent_and_is_admitted(ends: Make, sealed: bool) -> None:
    a, b = ends("anna", "bert", sealed=sealed)
    for sender, receiver in ((a, b), (b, a), (a, b)):
        said = tile(sender, receiver.name)
        assert sender.direct.send(said)
        assert receiver.admit() == said.message
    until(lambda: a.direct.bytes_in == b.direct.bytes_out and b.direct.bytes_in == a.direct.bytes_out)
    assert a.direct.messages_out == b.direct.messages_in == 2 and b.direct.bytes_in > 0


def test_connections_work_with_ipv6(ends: Make) -> None:
    a, b = ends("anna", "bert", host="::1")
    assert a.peer.address.startswith("[::1]:") and a.direct.send(tile(a, "bert"))
    b.admit()


def test_a_part_goes_to_all_who_take_its_lane_and_to_no_other(ends: Make, sealed: bool) -> None:
    a, b, c, d = ends("anna", "bert", "carl", "dora", sealed=sealed)
    assert not a.direct.send(part(a, 5)), "nobody takes it yet: the broker knows better"
    b.direct.take(5)
    c.direct.take(5)
    d.direct.take(4)
    until(lambda: all(5 in a.direct._open[name].lanes for name in ("bert", "carl")) and a.direct._open["dora"].lanes)
    assert a.direct.send(part(a, 5))
    assert b.admit() == c.admit()
    assert d.inbox.empty()


def test_a_part_that_only_the_broker_brings_somebody_goes_by_it_too(ends: Make) -> None:
    a, b = ends("anna", "bert")
    b.direct.take(5)
    until(lambda: 5 in a.direct._open["bert"].lanes)
    a.direct.know({"bert": b.peer, "carl": m.Peer(epoch="cccccccc", address="127.0.0.1:9")})
    assert a.direct.send(part(a, 5)), "carl may take it, but has not said so"
    a.direct.asked("carl", 5)
    assert not a.direct.send(part(a, 5))
    b.admit(), b.admit()
    a.direct.know({"bert": b.peer})
    assert a.direct.send(part(a, 5)), "carl is gone"


def test_small_and_other_messages_and_those_for_strangers_are_left_to_the_broker(ends: Make) -> None:
    a, b = ends("anna", "bert")
    assert not a.direct.send(tile(a, "bert", PIXELS[:, :8, :8]))
    assert not a.direct.send(tile(a, "carl"))
    result = m.ResultHeader(node="anna", epoch=a.epoch, plan=PLAN, frame=m.frame_id("anna", a.epoch, 0), block=0, tile=0)
    assert not a.direct.send(Publish(topics.RESULT, result, {"frame": result.frame}, {"image": PIXELS}))
    assert a.direct.messages_out == 0 and b.inbox.empty()


def test_large_messages_both_ways_at_once_all_come(ends: Make, sealed: bool) -> None:
    a, b = ends("anna", "bert", sealed=sealed)
    big = np.random.default_rng(0).integers(0, 256, (1, 1200, 1200, 3), np.uint8)  # more than a socket's buffer holds
    for _ in range(5):
        assert a.direct.send(tile(a, "bert", big)) and b.direct.send(tile(b, "anna", big))
    for end in (a, b):
        for _ in range(5):
            event = end.inbox.get(timeout=20.0)
            (incoming,) = (OpenGuard() if end.keys is None else Guard(end.keys)).admit(
                "dt", event.topic, event.payload, PLAN, event.opened
            )
            assert np.array_equal(incoming.tensors["image"], big)
    until(lambda: not a.direct._open["bert"].waiting)
    assert a.direct.rate > 0 and a.direct.failed == b.direct.failed == 0


def test_what_a_silent_peer_has_not_acknowledged_goes_by_the_broker(ends: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    (a,) = ends("anna", meet=False)
    monkeypatch.setattr(direct, "SILENT_S", 0.2)
    with listening() as (server, peer):
        a.direct.know({"bert": peer})
        sock, _ = server.accept()
        with sock:
            greet_back(sock, a)
            until(lambda: a.direct.peers)
            said = tile(a, "bert")
            assert a.direct.send(said)
            assert a.inbox.get(timeout=10.0) == Undelivered((said,)), "its machine took the bytes, it did not"
    assert a.direct.failed == 1 and not a.direct.send(said)


def test_a_peer_that_ends_gets_by_the_broker_what_it_did_not_acknowledge(ends: Make) -> None:
    (a,) = ends("anna", meet=False)
    with listening() as (server, peer):
        a.direct.know({"bert": peer})
        sock, _ = server.accept()
        greet_back(sock, a)
        until(lambda: a.direct.peers)
        said = tile(a, "bert")
        assert a.direct.send(said)
        sock.close()
        assert a.inbox.get(timeout=10.0) == Undelivered((said,))


def test_the_later_name_dials_where_the_earlier_one_cannot(ends: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "REVERSE_S", 0.1)
    a, b = ends("anna", "bert", meet=False)
    a.direct.know({"bert": m.Peer(epoch=b.epoch, address="127.0.0.1:1")})  # as a container's address from outside
    b.direct.know({"anna": a.peer})
    until(lambda: a.direct.peers == ("bert",) and b.direct.peers == ("anna",))
    assert a.direct.send(tile(a, "bert"))
    b.admit()


def test_a_lost_connection_is_made_again(ends: Make, sealed: bool) -> None:
    a, b = ends("anna", "bert", sealed=sealed)
    with a.direct._lock:
        a.direct._open["bert"].sock.shutdown(socket.SHUT_RDWR)
    until(lambda: a.direct.failed == 1)
    until(lambda: a.direct.peers and b.direct.peers)
    assert a.direct.send(tile(a, "bert"))
    b.admit()


def test_a_peer_that_is_elsewhere_now_is_dialled_at_once(ends: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "FIRST_RETRY_S", 3600.0)
    a, b = ends("anna", "bert", meet=False)
    a.direct.know({"bert": m.Peer(epoch=b.epoch, address="127.0.0.1:1")})
    until(lambda: "bert" in a.direct._troubles)
    a.direct.know({"bert": b.peer})
    until(lambda: a.direct.peers)


def test_of_a_new_epoch_nothing_old_is_left(ends: Make, sealed: bool) -> None:
    a, b = ends("anna", "bert", sealed=sealed)
    if b.keys is not None:
        b.keys.restart("b2b2b2b2")
    b.direct.restart("b2b2b2b2")
    until(lambda: not a.direct.peers)
    assert not a.direct.send(tile(a, "bert")) and a.inbox.empty()
    if a.keys is not None:
        a.keys.meet("bert", "b2b2b2b2")
    assert b.direct.address is not None
    a.direct.know({"bert": m.Peer(epoch="b2b2b2b2", address=b.direct.address)})
    until(lambda: a.direct.peers and b.direct.peers)


# Intruders at the port. Who listens on the way is one, too.


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, m.Peer]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10.0)
        yield server, m.Peer(epoch=epoch_of("bert"), address=f"127.0.0.1:{server.getsockname()[1]}")


def dial(end: End) -> socket.socket:
    host, _, port = end.peer.address.rpartition(":")
    sock = socket.create_connection((host, int(port)), 10.0)
    sock.settimeout(10.0)
    return sock


def framed(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def read(sock: socket.socket) -> bytes:
    """One frame; empty: the connection was closed."""
    try:
        length = sock.recv(4, socket.MSG_WAITALL)
        return sock.recv(struct.unpack("<I", length)[0], socket.MSG_WAITALL) if length else b""
    except ConnectionResetError:
        return b""


def hello(to: End, node: str = "bert", **more: Any) -> m.Hello:
    return m.Hello(**{"node": node, "epoch": epoch_of(node), "to": to.name, "to_epoch": to.epoch, **more})


def greet_back(sock: socket.socket, dialler: End) -> None:
    assert read(sock)
    sock.sendall(framed(hello(dialler).model_dump_json().encode()))
    assert read(sock)[0] == 2, "the lanes that it takes"


def refused(end: End, *said: bytes) -> None:
    """Whoever says this is not answered, and its connection is closed."""
    with dial(end) as sock:
        for one in said:
            sock.sendall(one)
        assert read(sock) == b""
    until(lambda: not end.direct._all - set(end.direct._open.values()))


WORDS: dict[str, Callable[[End], bytes]] = {
    "garbage": lambda end: b"GET / HTTP/1.1\r\n\r\n",
    "no hello": lambda end: framed(b"{}"),
    "nested": lambda end: framed(b"[" * 1000),
    "an empty frame": lambda end: framed(b""),
    "a hello of a kilobyte": lambda end: framed(b" " * (HELLO_BYTES + 1)),
    "60 MB": lambda end: struct.pack("<I", 60 * 2**20),
    "for another": lambda end: framed(hello(end).model_copy(update={"to": "carl"}).model_dump_json().encode()),
    "for another epoch": lambda end: framed(hello(end, to_epoch="00000000").model_dump_json().encode()),
    "in its own name": lambda end: framed(hello(end, "anna").model_dump_json().encode()),
}


@pytest.mark.parametrize("words", WORDS)
def test_who_says_anything_else_than_a_hello_for_this_node_is_not_answered(ends: Make, sealed: bool, words: str) -> None:
    a, b = ends("anna", "bert", sealed=sealed)
    refused(a, WORDS[words](a))
    until(lambda: a.direct.refused == 1)
    assert a.direct.send(tile(a, "bert")), "others go on"
    b.admit()


def test_who_has_no_key_is_not_answered(ends: Make) -> None:
    a, _ = ends("anna", "bert", sealed=True)
    refused(a, framed(hello(a).model_dump_json().encode()))
    refused(a, framed(hello(a, public="11" * 32, proof="00" * 32).model_dump_json().encode()))
    refused(a, framed(hello(a, "mole").model_dump_json().encode()))


def test_an_enrolled_node_is_not_taken_for_another(ends: Make) -> None:
    a, _, carl = ends("anna", "bert", "carl", sealed=True)
    assert carl.keys is not None
    mine = Session(carl.keys, m.Hello(node="carl", epoch=carl.epoch, to="anna", to_epoch=a.epoch), dialled=True).mine
    refused(a, framed(mine.model_copy(update={"node": "bert", "epoch": epoch_of("bert")}).model_dump_json().encode()))


def test_a_recorded_connection_says_nothing_a_second_time(ends: Make) -> None:
    """The hello is good for this epoch; but whoever repeats it lacks the key that the answer leads to."""
    a, b = ends("anna", "bert", sealed=True, meet=False)
    taped = Tape(b.peer.address)
    a.direct.know({"bert": m.Peer(epoch=b.epoch, address=taped.address)})
    until(lambda: a.direct.peers and b.direct.peers)
    assert a.direct.send(tile(a, "bert"))
    b.admit()
    taped.close()
    until(lambda: not b.direct.peers)
    received = b.direct.messages_in
    with dial(b) as sock:
        sock.sendall(taped.forth)
        assert json.loads(read(sock))["node"] == "bert"
        assert read(sock) == b""
    assert b.direct.messages_in == received and b.inbox.empty()


def test_nothing_is_readable_on_the_way(ends: Make) -> None:
    a, b = ends("anna", "bert", sealed=True, meet=False)
    taped = Tape(b.peer.address)
    a.direct.know({"bert": m.Peer(epoch=b.epoch, address=taped.address)})
    until(lambda: a.direct.peers and b.direct.peers)
    plain = np.full((1, 64, 64, 3), 65, np.uint8)
    assert a.direct.send(tile(a, "bert", plain))
    b.inbox.get(timeout=10.0)
    taped.close()
    hello_bytes = 4 + struct.unpack("<I", taped.forth[:4])[0]
    for word in (b"tile", b"image", b"anna", b"A" * 16):
        assert word not in taped.forth[hello_bytes:]
    assert b"anna" in taped.forth[:hello_bytes], "a hello tells who speaks with whom"


def test_bits_that_change_on_the_way_end_the_connection(ends: Make) -> None:
    a, b = ends("anna", "bert", sealed=True, meet=False)
    taped = Tape(b.peer.address)
    a.direct.know({"bert": m.Peer(epoch=b.epoch, address=taped.address)})
    until(lambda: a.direct.peers and b.direct.peers)
    taped.flip = True
    said = tile(a, "bert")
    assert a.direct.send(said)
    assert a.inbox.get(timeout=10.0) == Undelivered((said,)) and b.inbox.empty()
    taped.close()


class Tape:
    """Stands on the way to ``address``, for one connection, and keeps what the dialler says."""

    def __init__(self, address: str) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.forth, self.flip = b"", False
        host, _, port = address.rpartition(":")
        self._there = socket.create_connection((host, int(port)))
        self._threads = [threading.Thread(target=self._run)]
        self._threads[0].start()

    def _run(self) -> None:
        self._here, _ = self._server.accept()
        self._server.close()
        self._threads.append(threading.Thread(target=self._pass, args=(self._there, self._here, False)))
        self._threads[1].start()
        self._pass(self._here, self._there, True)

    def _pass(self, source: socket.socket, sink: socket.socket, forth: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if forth:
                    self.forth += data
                sink.sendall(data[:-1] + bytes([data[-1] ^ 1]) if forth and self.flip else data)
        self._cut()

    def _cut(self) -> None:
        for sock in (self._here, self._there):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """The way is cut."""
        self._cut()
        for thread in self._threads:
            thread.join()
        self._here.close()
        self._there.close()


def test_a_revoked_node_is_cut_off_at_once(ends: Make) -> None:
    a, b = ends("anna", "bert", sealed=True)
    assert b.direct.send(tile(b, "anna"))
    event = a.inbox.get(timeout=10.0)
    assert a.keys is not None
    a.keys.dismiss("bert")
    with pytest.raises(DecodeError, match="not enrolled"):
        Guard(a.keys).admit("dt", event.topic, event.payload, PLAN, event.opened)
    until(lambda: not a.direct.peers)
    until(lambda: not b.direct.peers)
    assert not a.direct.send(tile(a, "bert"))


def test_who_says_nothing_is_cut_off_in_time(ends: Make, sealed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (a,) = ends("anna", sealed=sealed)
    monkeypatch.setattr(direct, "HELLO_S", 0.2)
    with dial(a) as silent, dial(a) as slow:
        slow.sendall(framed(hello(a).model_dump_json().encode())[:3])
        assert read(silent) == b"" and read(slow) == b""
    until(lambda: a.direct.refused == 2)


def test_a_flood_of_connections_keeps_nobody_out(ends: Make, sealed: bool) -> None:
    a, b = ends("anna", "bert", sealed=sealed, meet=False)
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(dial(b)) for _ in range(3 * direct.NEW)]
        a.direct.know({"bert": b.peer})
        until(lambda: a.direct.peers and b.direct.peers)
        assert len(b.direct._new()) <= direct.NEW
        until(lambda: b.direct.refused >= len(flood) - direct.NEW)
        assert a.direct.send(tile(a, "bert"))
        b.admit()


def test_a_node_that_claims_large_frames_gets_no_memory_for_them(ends: Make) -> None:
    (a,) = ends("anna")
    with dial(a) as sock, dial(a) as other, dial(a) as third, dial(a) as fourth:
        for one, name in ((sock, "bert"), (other, "carl"), (third, "dora"), (fourth, "emil")):
            one.sendall(framed(hello(a, name).model_dump_json().encode()))
            assert read(one)
            one.sendall(framed(b"\x02[]"))
            assert read(one)[0] == 2
        before = resident_bytes()
        for one in (sock, other, third):
            one.sendall(struct.pack("<I", 60 * 2**20))
        until(lambda: sum(c.claim for c in a.direct._all) == 3 * 60 * 2**20)
        assert resident_bytes() - before < 8 * 2**20
        fourth.sendall(struct.pack("<I", 60 * 2**20))
        assert read(fourth) == b"", "all together may claim so much"
        sock.sendall(struct.pack("<I", TENSOR_BYTES * 2))
    until(lambda: not a.direct._all)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


FRAMES = {
    "an unknown kind": b"\x09",
    "lanes that are none": b"\x02{}",
    "lanes out of range": b"\x02[4096]",
    "an acknowledgement of nothing": b"\x03" + struct.pack("<Q", 1),
    "a topic of the gateway": bytes((MESSAGE, 7)) + b"dt/plan" + b"{}",
    "a tile for another": bytes((MESSAGE, 12)) + b"dt/tile/carl" + b"{}",
    "a topic of no cluster": bytes((MESSAGE, 3)) + b"x/y",
    "no topic": bytes((MESSAGE,)),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_a_node_that_breaks_the_rules_loses_its_connection(ends: Make, frame: str) -> None:
    (a,) = ends("anna")
    with dial(a) as sock:
        sock.sendall(framed(hello(a).model_dump_json().encode()))
        assert read(sock)
        sock.sendall(framed(FRAMES[frame]))
        assert read(sock)[:1] in (b"", b"\x02")
        assert read(sock) == b""
    assert a.inbox.empty()


def test_a_message_that_is_none_is_refused_by_the_codec_and_the_rest_goes_on(ends: Make) -> None:
    a, b = ends("anna", "bert")
    bad = encode(topics.TILE, tile(a, "bert").message)[:-3]
    with a.direct._lock:
        a.direct._open["bert"].send(tile(a, "bert"), "dt/tile/bert", bad, time.monotonic())
    event = b.inbox.get(timeout=10.0)
    with pytest.raises(DecodeError):
        OpenGuard().admit("dt", event.topic, event.payload, PLAN, event.opened)
    assert a.direct.send(tile(a, "bert"))
    b.admit()
