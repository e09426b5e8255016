"""Two agents talk through a real broker; what can be said without one is said without."""

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.sources.web import Address as Camera
from gateway_agent import certificates
from gateway_agent.broker import BrokerProcess
from schemas.contract import topics
from schemas.contract.errors import PlanError, UnreachableError
from schemas.contract.messages import BridgeState, Register, ResultHeader, Status, Steal
from schemas.contract.topics import Publish, Topic
from schemas.wire.codec import decode
from schemas.wire.link import PACED_BYTES, Address, Arrived, Connected, Disconnected, Link, _Outstanding, client_id

D = "0" * 32
FRAME = "cam-01234567-7"
RESULT = ResultHeader(node="e1", epoch="01234567", plan=D, frame=FRAME, block=0, tile=3, compute_s=0.25)
STEAL = Steal(node="gw", epoch="01234567", plan=D, thief="e2", thief_epoch="01234567", request="01234567")
Make = Callable[..., Any]


def register(seq: int) -> Register:
    return Register(node="e1", epoch="01234567", seq=seq, runtime="r")


def test_control_and_tensor_messages_arrive_whole(station: Make, root: str) -> None:
    gateway, edge = station("gw"), station("e1")
    gateway.link.subscribe(topics.REGISTER)
    gateway.link.subscribe(topics.RESULT)
    edge.link.subscribe(topics.STEAL, node="e1")
    gateway.link.connect()
    edge.link.connect()
    tensors = {"conv": np.arange(375_000, dtype=np.float32).reshape(1, 250, 1500)}  # 1.5 MB
    edge.link.publish(topics.REGISTER, register(7))
    edge.link.publish(topics.RESULT, RESULT, tensors, frame=FRAME)
    gateway.link.publish(topics.STEAL, STEAL, node="e2")  # not for e1
    gateway.link.publish(topics.STEAL, STEAL, node="e1")
    first, second = gateway.expect(Arrived), gateway.expect(Arrived)
    assert decode(root, first.topic, first.payload).message == register(7)
    result = decode(root, second.topic, second.payload, plan=D)
    assert result.message == RESULT and np.array_equal(result.tensors["conv"], tensors["conv"])
    assert edge.expect(Arrived).topic == f"{root}/steal/e1"
    assert edge.link.flush(5)
    assert (edge.link.messages_out, gateway.link.messages_in) == (2, 2)
    assert 10_000 < edge.link.bytes_out == gateway.link.bytes_in < 1_000_000, "packed: the link is not known to be fast"
    assert edge.inbox.empty() and gateway.link.unsent == gateway.link.dropped == 0


def test_clusters_on_one_broker_do_not_hear_each_other(station: Make) -> None:
    ours, theirs, edge = station("gw"), station("gw", root="other"), station("e1")
    for one in (ours, theirs):
        one.link.subscribe(topics.REGISTER)
        one.link.connect()
    edge.link.connect()
    edge.link.publish(topics.REGISTER, register(1))
    ours.expect(Arrived)
    assert [type(event) for event in theirs.inbox.queue] == [Connected]


def test_subscriptions_are_made_again_when_the_broker_comes_back(station: Make, root: str) -> None:
    with BrokerProcess() as first:
        gateway, edge = station("gw", url=first.url), station("e1", url=first.url)
        gateway.link.subscribe(topics.REGISTER)
        for one in (gateway, edge):
            one.link.connect()
            one.expect(Connected)
        first.stop()
        for one in (gateway, edge):
            assert one.expect(Disconnected).reason
            assert not one.link.connected
        assert not edge.link.publish(topics.STATUS, Status(node="e1", epoch="01234567"), node="e1")  # QoS 0: lost
        assert edge.link.publish(topics.REGISTER, register(1))  # QoS 1: kept
        assert edge.link.unsent == 1
        with BrokerProcess(port=first.port):
            gateway.expect(Connected)
            edge.expect(Connected)
            edge.link.publish(topics.REGISTER, register(2))
            seen: set[int] = set()
            while 2 not in seen:  # 1 may have met the broker before the gateway's subscription did
                event = gateway.expect(Arrived)
                message = decode(root, event.topic, event.payload).message
                assert isinstance(message, Register)
                seen.add(message.seq)
            assert edge.link.flush(5)


def test_a_link_that_starts_first_connects_when_the_broker_comes(station: Make) -> None:
    with BrokerProcess() as broker:
        pass
    edge = station("e1", url=broker.url)
    edge.link.subscribe(topics.STEAL, node="e1")
    edge.link.start()
    with BrokerProcess(port=broker.port):
        edge.expect(Connected)
        assert edge.link.connected
        edge.link.publish(topics.STEAL, STEAL, node="e1")
        edge.expect(Arrived)


def test_a_subscription_made_while_connected_holds(station: Make) -> None:
    edge = station("e1")
    edge.link.connect()
    edge.link.subscribe(topics.STEAL, node="e1")
    edge.link.publish(topics.STEAL, STEAL, node="e1")
    edge.expect(Arrived)


class Tried(queue.Queue[Any]):
    """An inbox that says how often something was put, fit or not."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.puts = threading.Semaphore(0)

    def put_nowait(self, item: Any) -> None:
        try:
            super().put_nowait(item)
        finally:
            self.puts.release()


@pytest.mark.parametrize("row", [row for row in topics.TABLE if not row.retained], ids=lambda row: row.pattern)
def test_what_a_broker_kept_of_a_topic_of_which_it_is_to_keep_nothing_is_ignored(
    row: Topic, broker: BrokerProcess, root: str
) -> None:
    """A retained restart would stop the gateway at every start; the same holds for each command and each word of a node."""
    levels = dict.fromkeys(("node", "frame", "layer", "tile", "source", "verb", "permission"), "restart")
    inbox: queue.Queue[Any] = queue.Queue()
    with Link(broker.url, root, "person", queue.Queue()) as person, Link(broker.url, root, "gw", inbox) as gateway:
        person.connect()
        assert person._client.publish(row.path(root, **levels), b"{}", 1, retain=True).wait_for_publish(5) is None
        person.publish(topics.BRIDGE_STATE, BridgeState(node="gw", epoch="01234567", state="online"))
        assert person.flush(5)
        gateway.subscribe(row)
        gateway.subscribe(topics.BRIDGE_STATE)
        gateway.connect()
        heard = [inbox.get(timeout=30) for _ in range(2)]
        deadline = time.monotonic() + 5
        while not gateway.stale and time.monotonic() < deadline:
            with suppress(queue.Empty):
                heard.append(inbox.get(timeout=0.02))
        person._client.publish(row.path(root, **levels), b"{}", 1)
        heard.append(inbox.get(timeout=30))
    said = [event.topic for event in heard if isinstance(event, Arrived)]
    assert said == [f"{root}/bridge/state", row.path(root, **levels)] and gateway.stale == 1, "what is said now is heard"


def test_a_full_inbox_drops_and_counts_and_the_link_lives(broker: BrokerProcess, root: str) -> None:
    inbox = Tried(2)
    with Link(broker.url, root, "e1", inbox) as link:
        link.subscribe(topics.STEAL, node="e1")
        link.connect()
        for _ in range(10):
            link.publish(topics.STEAL, STEAL, node="e1")
        assert all(inbox.puts.acquire(timeout=30) for _ in range(11))
        assert [type(event) for event in inbox.queue] == [Connected, Arrived] and link.messages_in == 10
        inbox.get_nowait()
        link.publish(topics.STEAL, STEAL, node="e1")
        assert inbox.puts.acquire(timeout=30) and inbox.qsize() == 2
    assert link.dropped >= 9


def test_news_of_the_connection_pushes_the_oldest_event_out() -> None:
    inbox: queue.Queue[Any] = queue.Queue(2)
    link = Link("localhost", "dt", "e1", inbox)
    inbox.put(Arrived("dt/a", b""))
    inbox.put(Arrived("dt/b", b""))
    link._tell(Disconnected("gone"))
    assert list(inbox.queue) == [Arrived("dt/b", b""), Disconnected("gone")] and link.dropped == 1


def test_a_full_backlog_refuses_and_counts(station: Make) -> None:
    edge = station("e1", url="127.0.0.1:1", backlog_bytes=3000)
    tensors = {"x": np.zeros(1000, np.uint8)}
    sent = [edge.link.publish(topics.RESULT, RESULT, tensors, frame=FRAME) for _ in range(4)]
    assert sent == [True, True, False, False] and edge.link.unsent == 2
    assert not edge.link.flush(0.0)


def test_a_message_sent_just_before_the_end_arrives(station: Make) -> None:
    gateway = station("gw")
    gateway.link.subscribe(topics.REGISTER)
    gateway.link.connect()
    for _ in range(20):
        edge = station("e1")
        edge.link.connect()
        edge.link.publish(topics.REGISTER, register(1))
        edge.link.close()
        gateway.expect(Arrived)


def test_close_ends_the_thread_and_says_goodbye(station: Make) -> None:
    before = threading.active_count()
    edge = station("e1")
    edge.link.connect()
    edge.link.close()
    assert threading.active_count() == before
    edge.link.close()
    assert edge.expect(Disconnected)


def test_the_will_of_a_lost_link_is_said_and_stays(station: Make, root: str) -> None:
    lost, watch, late = station("gw"), station("w"), station("l")
    offline = BridgeState(node="gw", epoch="01234567", state="offline")
    lost.link.set_will(Publish(topics.BRIDGE_STATE, offline))
    lost.link.connect()
    for one in (watch, late):
        one.link.subscribe(topics.BRIDGE_STATE)
    watch.link.connect()
    line = lost.link._client.socket()
    lost.link._client.loop_stop()  # so that it does not come back
    line.shutdown(socket.SHUT_RDWR)
    heard = watch.expect(Arrived)
    late.link.connect()
    assert late.expect(Arrived) == heard
    assert decode(root, heard.topic, heard.payload).message == offline


def test_a_refused_connection_is_unreachable_at_once(station: Make) -> None:
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1: Connection refused: is the gateway") as caught:
        station("e1", url="mqtt://me:secret@127.0.0.1:1").link.connect(5)
    assert caught.value.exit_code == 69 and "secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("made", "says"), [(800, "has expired"), (-3650, "is not valid yet")])
def test_a_clock_that_is_wrong_is_named_where_a_certificate_does_not_fit_it(
    made: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clocks are ``made`` days apart."""
    then = datetime.now(timezone.utc) - timedelta(days=made)
    monkeypatch.setattr(certificates, "LONG_AGO", then)
    shown = certificates.certificates(tmp_path, ["127.0.0.1"], then)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / certificates.SERVER, tmp_path / certificates.SERVER_KEY)

    def serve() -> None:
        for _ in range(2):
            line, _ = server.accept()
            with line, suppress(OSError):
                context.wrap_socket(line, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        port, broker = server.getsockname()[1], threading.Thread(target=serve)
        broker.start()
        link = Link(Address("127.0.0.1", port, True, authority=shown.authority), "dt", "e1", queue.Queue())
        with pytest.raises(UnreachableError, match=f"certificate {says} by this machine's clock, 20.*: set that .* restart"):
            link.connect(5)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / certificates.AUTHORITY))
        with pytest.raises(PlanError, match=f"certificate {says} by this machine's clock, 20"):
            Camera(f"https://127.0.0.1:{port}", "the camera").ask(5)
        broker.join(30)


def test_a_refusal_is_told_once_however_often_it_comes_and_what_follows_is_told() -> None:
    """Bad user, no authority, an end without an answer, twice each, then it lets us in, and ends the connection."""
    unknown, closed, accepted = b"\x20\x02\x00\x05", b"", b"\x20\x02\x00\x00"
    answers = [unknown, b"\x20\x02\x00\x04", closed, closed, unknown, accepted]
    inbox: queue.Queue[Any] = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = Link(f"mqtt://127.0.0.1:{server.getsockname()[1]}", "dt", "e1", inbox)
        link._client.reconnect_delay_set(0, 0)
        link.start()
        for answer in answers:
            line, _ = server.accept()
            with line:
                line.recv(1024)
                line.sendall(answer)
                if answer is accepted:
                    told = [inbox.get(timeout=30) for _ in range(4)]
        ended = inbox.get(timeout=30)
        link.close(0.0)
    assert [getattr(event, "unknown", None) for event in told] == [True, False, True, None]
    assert "knows no such user" in told[0].reason and "without an answer" in told[1].reason
    assert ended == Disconnected("the connection has ended") and not link.unknown


def served(link: Link, server: socket.socket, answers: list[bytes]) -> None:
    """Lets paho connect once for each answer, and keeps the last connection until the other side ends it."""
    link._client.reconnect_delay_set(0, 0)
    for answer in answers:
        line, _ = server.accept()
        with line:
            line.recv(1024)
            line.sendall(answer)
            while answer is answers[-1] and line.recv(1024):
                pass


@pytest.mark.parametrize("enters", [True, False])
def test_a_user_whom_the_broker_does_not_know_yet_is_asked_about_again_for_a_while(
    enters: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("schemas.wire.link.NEW_USER_S", 30.0 if enters else 0.0)
    unknown, accepted = b"\x20\x02\x00\x05", b"\x20\x02\x00\x00"
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = Link(f"mqtt://127.0.0.1:{server.getsockname()[1]}", "dt", "e1", queue.Queue())
        answers = [unknown, unknown, accepted] if enters else [unknown]
        broker = threading.Thread(target=served, args=(link, server, answers))
        broker.start()
        if enters:
            link.connect(30)
            assert link.connected and not link.unknown
        else:
            with pytest.raises(UnreachableError, match="knows no such user and password"):
                link.connect(30)
        link.close(0.0)
        broker.join(30)


def test_a_user_whom_the_broker_does_not_know_is_unknown_though_the_next_attempt_hangs_as_we_give_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closing cuts that attempt: an end without an answer, which says nothing of the user."""
    monkeypatch.setattr("schemas.wire.link.NEW_USER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = Link(f"mqtt://127.0.0.1:{server.getsockname()[1]}", "dt", "e1", queue.Queue())
        broker = threading.Thread(target=served, args=(link, server, [b"\x20\x02\x00\x05", b""]))
        broker.start()
        with pytest.raises(UnreachableError, match=r"knows no such user and password$"):
            link.connect(30)
        broker.join(30)
    assert link.unknown


def test_nobody_can_guess_the_client_id_of_another() -> None:
    ids = {client_id("e1") for _ in range(100)}
    assert len(ids) == 100 and all(len(bytes.fromhex(one.removeprefix("e1-"))) == 8 for one in ids)


def test_an_unknown_host_is_unreachable(station: Make) -> None:
    with pytest.raises(UnreachableError, match=r"no-such-host\.invalid:1883"):
        station("e1", url="no-such-host.invalid").link.connect(5)


def test_a_mute_server_is_unreachable_within_the_timeout(station: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"no MQTT answer within 0\.3 s"):
            station("e1", url=f"127.0.0.1:{server.getsockname()[1]}").link.connect(0.3)
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("gw", Address("gw", 1883)),
        ("gw:77", Address("gw", 77)),
        ("10.0.0.1:77", Address("10.0.0.1", 77)),
        ("mqtt://gw", Address("gw", 1883)),
        ("mqtts://gw", Address("gw", 8883, True)),
        ("mqtts://me:a%40b@gw:1/", Address("gw", 1, True, "me", "a@b")),
        ("[::1]:77", Address("::1", 77)),
    ],
)
def test_an_address_is_read(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize("url", ["", ":77", "http://gw", "gw:x", "gw:99999", "mqtt://", "mqtt://gw/p", "a..b", "[::1"])
def test_a_bad_address_is_one_line_with_exit_code_2(url: str) -> None:
    with pytest.raises(PlanError, match="mqtt://") as caught:
        Address.parse(url)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_a_bad_address_hides_its_password() -> None:
    with pytest.raises(PlanError) as caught:
        Address.parse("mqtt://me:secret@gw:port")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("last_qos", "is_known"), [(1, True), (0, False)])
def test_only_what_was_acknowledged_tells_the_link_s_rate(last_qos: int, is_known: bool) -> None:
    """What is only written may lie in a buffer here: that is as fast as memory."""
    outstanding = _Outstanding()
    outstanding.sent(1, 0, PACED_BYTES)
    outstanding.sent(2, last_qos, 100)
    outstanding.done(1)
    outstanding.done(2)
    assert bool(outstanding.pace.recent) == is_known
