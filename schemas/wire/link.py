"""The line to the broker: the paho adapter that both agents share, and the only file of this room that does I/O.

It keeps three laws. The network thread never blocks and never dies: callbacks only put frozen events into a bounded
inbox, and what does not fit is dropped and counted. Every subscription is made again on every connection (sessions are
clean). Nothing waits without bound: what is published and not yet written or acknowledged is limited in bytes.

Delivery is not promised: a QoS 0 message is lost while offline, a QoS 1 message may come twice or, when a broker dies,
not at all. Leases, echoes and resends stand on top of this.
"""

import contextlib
import queue
import secrets
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import uniform
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from schemas.contract.address import Address as Address
from schemas.contract.errors import DecodeError, UnreachableError
from schemas.contract.messages import Message
from schemas.contract.topics import MODEL, Publish, Topic, find
from schemas.wire.codec import Tensor, encode
from schemas.wire.guard import OpenGuard
from schemas.wire.packing import Pace
from schemas.wire.readiness import Probe

KEEPALIVE_S = 20
RECONNECT_S = 1.0  # about so far apart are two attempts, and not in step with other nodes'
NEW_USER_S = 4.0  # a gateway has told its broker by then whom it has let in
MAX_QUEUED = 1024
BACKLOG_BYTES = 64 * 1024 * 1024
PACKED_BYTES = 4096  # smaller tensors are not worth packing
PACED_BYTES = 64 * 1024  # and so much must leave at once before it says something of the link's rate


@dataclass(frozen=True)
class Connected:
    """The broker accepted this client and acknowledged every subscription."""


@dataclass(frozen=True)
class Disconnected:
    """The connection is gone, or was refused; the link tries again by itself. ``unknown``: the broker knows no such user and
    password, and it will be said once, however often it refuses."""

    reason: str
    unknown: bool = False


@dataclass(frozen=True)
class Arrived:
    """A message as it came, unchecked: ``codec.decode`` is next."""

    topic: str
    payload: bytes


Event = Connected | Disconnected | Arrived


class _Outstanding:
    """Message ids that wait for the network thread's word, whichever of the two threads comes first."""

    def __init__(self) -> None:
        self.pace = Pace()
        self._busy_since, self._moved = 0.0, 0  # since when something has been under way, and what has arrived of it
        self._changed = threading.Condition()
        self._waiting: dict[int, tuple[int, int]] = {}  # id -> QoS, bytes
        self._early: set[int] = set()
        self.bytes = 0

    def sent(self, mid: int, qos: int, size: int) -> None:
        with self._changed:
            if mid in self._early:
                self._early.discard(mid)
            else:
                if not self._waiting:
                    self._busy_since, self._moved = time.monotonic(), 0
                self._waiting[mid] = (qos, size)
                self.bytes += size

    def done(self, mid: int) -> None:
        with self._changed:
            if mid not in self._waiting:
                self._early.add(mid)
                return
            qos, size = self._waiting.pop(mid)
            self.bytes -= size
            self._moved += size
            # What was only written may lie in this machine's buffer; what was acknowledged is there, and all before it.
            if not self._waiting and self._moved >= PACED_BYTES and qos:
                self.pace.moved(self._moved, time.monotonic() - self._busy_since)
            self._changed.notify_all()

    def lose(self, up_to_qos: int) -> None:
        """The connection is gone: nothing will be heard of messages up to this QoS."""
        with self._changed:
            for mid in [m for m, (qos, _) in self._waiting.items() if qos <= up_to_qos]:
                self.bytes -= self._waiting.pop(mid)[1]
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout_s)

    def __bool__(self) -> bool:
        return bool(self._waiting)


class Link:
    """One connection to the broker at ``url`` for ``node`` in the cluster ``root``; events go into ``inbox``.

    What is published is sealed by ``guard``; what arrives is not opened here.

    Counters, for people: ``bytes_out``, ``bytes_in`` (payload), ``messages_out``, ``messages_in``; ``dropped`` counts
    messages that met a full inbox, ``unsent`` those that met a full backlog or, with QoS 0, no connection; ``stale`` those
    that the broker had kept though the table lets it keep none of their topic: commands, above all.
    """

    def __init__(
        self,
        url: str | Address,
        root: str,
        node: str,
        inbox: "queue.Queue[Any]",
        backlog_bytes: int = BACKLOG_BYTES,
        guard: OpenGuard | None = None,
    ) -> None:
        self.address = url if isinstance(url, Address) else Address.parse(url)
        self._guard = guard or OpenGuard()
        self.root = root
        self.node = node
        self.bytes_out = self.bytes_in = self.messages_out = self.messages_in = self.dropped = self.unsent = self.stale = 0
        self._inbox = inbox
        self._backlog_bytes = backlog_bytes
        self._filters: dict[str, int] = {}
        self._asked: dict[int, list[str]] = {}  # of subscriptions without an answer, by message id
        self._lock = threading.Lock()
        self._publishes = _Outstanding()
        self._subscribes = _Outstanding()
        self._ready = threading.Event()
        self._refusal = self._failure = ""
        self._answered = self._entered = False
        self._client = self._build()

    @property
    def unknown(self) -> bool:
        """Whether the broker, when it answered last, knew no such user and password."""
        return self._refusal == _STRANGER

    @property
    def connected(self) -> bool:
        """Whether the broker accepted this client and all its subscriptions. An echo proves more."""
        return self._ready.is_set() and bool(self._client.is_connected())

    @property
    def local(self) -> tuple[str, int]:
        """This machine's address on the interface that reaches the broker, and its IPv6 scope; empty: not connected."""
        line = self._client.socket()
        with contextlib.suppress(OSError):
            host, _port, *more = line.getsockname() if line is not None else ("", 0)
            return host.partition("%")[0], more[1] if more else 0
        return "", 0

    @property
    def rate(self) -> float:
        """Bytes a second that can leave here, at least, as measured; 0: not known."""
        return max(tuple(self._publishes.pace.recent), default=0.0)  # the network thread adds to it

    @property
    def outstanding(self) -> int:
        """Bytes that were published and are not written (QoS 0) or acknowledged (QoS 1) yet."""
        return self._publishes.bytes

    def set_will(self, said: Publish) -> None:
        """Before ``connect``: what the broker is to say when this process is lost."""
        path = said.topic.path(self.root, **said.levels)
        self._client.will_set(path, encode(said.topic, said.message), said.topic.qos, said.topic.retained)

    def subscribe(self, topic: Topic, **levels: str | int) -> None:
        """Subscribe to ``topic`` at the table's QoS, now and after every reconnect; levels not given match any."""
        pattern = topic.filter(self.root, **levels)
        with self._lock:
            self._filters[pattern] = topic.qos
        if self._client.is_connected():
            self._send_subscribe([(pattern, topic.qos)])

    def unsubscribe(self, topic: Topic, **levels: str | int) -> None:
        """Undo ``subscribe``."""
        pattern = topic.filter(self.root, **levels)
        with self._lock:
            self._filters.pop(pattern, None)
        self._client.unsubscribe(pattern)

    def publish(
        self, topic: Topic, message: Message, tensors: Mapping[str, Tensor] | None = None, **levels: str | int
    ) -> bool:
        """Send from any thread, without blocking; False if the message was dropped (and counted in ``unsent``)."""
        path = topic.path(self.root, **levels)
        payload = self._guard.seal(topic, path, levels, message, self._encoded(topic, message, tensors))
        if payload is None:
            return self._count_unsent()
        if self._publishes and self._publishes.bytes + len(payload) > self._backlog_bytes:
            return self._count_unsent()
        info = self._client.publish(path, payload, topic.qos, topic.retained)
        offline = info.rc == paho.MQTT_ERR_NO_CONN and topic.qos > 0  # paho keeps it for the next connection
        if info.rc != paho.MQTT_ERR_SUCCESS and not offline:
            return self._count_unsent()
        self._publishes.sent(info.mid, topic.qos, len(payload))
        with self._lock:
            self.messages_out += 1
            self.bytes_out += len(payload)
        return True

    def _encoded(self, topic: Topic, message: Message, tensors: Mapping[str, Tensor] | None) -> bytes:
        """Packed where the link is slow enough for that; a model's weights, which gain nothing, stay plain."""
        raw_bytes = sum(array.nbytes for array in (tensors or {}).values())
        pace = self._publishes.pace
        if raw_bytes < PACKED_BYTES or topic is MODEL or not pace.pays():
            return encode(topic, message, tensors)
        start = time.thread_time()  # not the clock: other threads' work is not the price of this
        payload = encode(topic, message, tensors, packed=True)
        pace.packed(raw_bytes, len(payload), time.thread_time() - start)
        return payload

    def hear(self, paths: Iterable[tuple[str, int]]) -> None:
        """Subscribe to these paths at this QoS, on this connection only, as far as no other subscription covers them."""
        with self._lock:
            new = [(path, qos) for path, qos in paths if not self._covers(path)]
        if new:
            self._send_subscribe(new)

    def _covers(self, path: str) -> bool:
        return any(paho.topic_matches_sub(pattern, path) for pattern in self._filters)

    def unhear(self, paths: Iterable[tuple[str, int]]) -> None:
        """Undo ``hear``."""
        with self._lock:
            old = [path for path, _ in paths if path not in self._filters]
        if old:
            self._client.unsubscribe(old)

    def probe(self, probes: Iterable[Probe]) -> None:
        """Send what is no message and comes back, for which it is subscribed to before."""
        for probe in probes:
            self.hear([(probe.path, probe.qos)])
            info = self._client.publish(probe.path, probe.payload, probe.qos)
            if info.rc == paho.MQTT_ERR_SUCCESS:
                self._publishes.sent(info.mid, probe.qos, len(probe.payload))

    def clear(self, topic: Topic, **levels: str | int) -> None:
        """Remove what the broker retains on a topic."""
        self._client.publish(topic.path(self.root, **levels), b"", topic.qos, True)

    def send(self, said: Publish) -> bool:
        """``publish`` for what a machine wants said."""
        return self.publish(said.topic, said.message, said.tensors, **said.levels)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was published is written (QoS 0) or acknowledged (QoS 1); False if time ran out."""
        return self._publishes.wait(timeout_s)

    def connect(self, timeout_s: float = 10.0) -> None:
        """Connect, and return when the broker has accepted this client and acknowledged every subscription.

        A user whom the broker does not know yet may be new: for ``NEW_USER_S`` it is asked again.

        Raises:
            UnreachableError: it has not within ``timeout_s``; the link is closed then.
        """
        deadline = time.monotonic() + timeout_s
        self._client.connect_timeout = max(timeout_s, 0.1)
        try:
            self._client.connect(self.address.host, self.address.port, KEEPALIVE_S)
        except OSError as error:
            remedy = "" if isinstance(error, ssl.SSLError) else f": {_REMEDY}"
            raise UnreachableError(f"no broker at {self.address}: {self._why(error)}{remedy}") from None
        self._client.loop_start()
        patient_until = min(deadline, time.monotonic() + NEW_USER_S)
        answered = self._ready.wait(max(deadline - time.monotonic(), 0.0))
        while answered and self.unknown and time.monotonic() < patient_until:
            self._ready.clear()
            answered = self._ready.wait(max(patient_until - time.monotonic(), 0.0))
        if not answered or self._refusal:
            reason = self._refusal or self._failure or f"no MQTT answer within {timeout_s:g} s"
            self.close(0.0)
            remedy = "" if self.unknown or self._failure else f": {_REMEDY}"
            raise UnreachableError(f"broker at {self.address}: {reason}{remedy}")

    def start(self) -> None:
        """Connect in the background, and again for ever; the inbox tells."""
        self._client.connect_async(self.address.host, self.address.port, KEEPALIVE_S)
        self._client.loop_start()

    def renew(self) -> None:
        """Cut the connection; it is made again, with every subscription. What waits to be sent is kept."""
        _cut(self._client.socket())

    def close(self, flush_s: float = 1.0) -> None:
        """Wait at most ``flush_s`` for what was published, then disconnect and end the network thread."""
        if self._client.is_connected():
            self.flush(flush_s)
        line = self._client.socket()
        self._client.disconnect()
        cut = threading.Timer(1.0, _cut, [line])  # a broker that reads no more must not hold us here
        cut.start()
        self._client.loop_stop()
        cut.cancel()
        cut.join()

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> Any:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id(self.node), clean_session=True, protocol=paho.MQTTv311
        )
        if self.address.user is not None:
            client.username_pw_set(self.address.user, self.address.password)
        if self.address.tls:
            client.tls_set_context(tls(self.address.authority))
        client.max_queued_messages_set(MAX_QUEUED)
        client.reconnect_delay_set(RECONNECT_S / 4, RECONNECT_S * uniform(0.8, 1.2))  # a gateway that restarts is missed
        client.on_connect_fail = lambda *_: self._fail(self._why(sys.exc_info()[1]))  # paho is handling the error
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_subscribe = self._on_message, self._on_subscribe
        client.on_publish = lambda _client, _data, mid, *_rest: self._publishes.done(mid)
        client.on_pre_connect = lambda *_: self._publishes.lose(0)
        client.on_socket_open = lambda _client, _data, line: _at_once(line)
        return client

    def _count_unsent(self) -> bool:
        with self._lock:
            self.unsent += 1
        return False

    def _send_subscribe(self, filters: list[tuple[str, int]]) -> None:
        code, mid = self._client.subscribe(filters)
        if code == paho.MQTT_ERR_SUCCESS:
            self._asked[mid] = [pattern for pattern, _ in filters]
            self._subscribes.sent(mid, 1, 0)

    # What follows runs on the network thread, where an exception would end it unheard.

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._answered, self._entered = True, not reason.is_failure
        if reason.is_failure:
            self._refuse(_STRANGER if reason.getName() in _UNKNOWN else f"the broker refused this client ({reason})")
            return
        with self._lock:
            filters = list(self._filters.items())
        if filters:
            self._send_subscribe(filters)
        else:
            self._become_ready()

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, reasons: Any, _properties: Any) -> None:
        self._subscribes.done(mid)
        asked = self._asked.pop(mid, [])
        refused = [pattern for pattern, reason in zip(asked, reasons) if reason.is_failure]
        if any(reason.is_failure for reason in reasons):
            what = ", ".join(refused[:3]) or "what it was asked for"
            self._refuse(f"the broker refused to subscribe this client to {what}: its rules must let it read {self.root}/#")
        elif not self._subscribes:
            self._become_ready()

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        self._fail(reason)
        self._ready.set()  # wakes connect(), which looks at the refusal

    def _fail(self, reason: str) -> None:
        """No connection, once more: the same reason is told once."""
        if reason != self._failure:
            self._failure = reason
            self._tell(Disconnected(reason, reason == _STRANGER))

    def _become_ready(self) -> None:
        self._failure = ""
        if not self._ready.is_set() or self._refusal:
            self._refusal = ""
            self._tell(Connected())
            self._ready.set()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._ready.clear()
        self._publishes.lose(0)
        self._subscribes.lose(1)
        if self._entered:
            self._tell(Disconnected(_LOST.get(reason.getName(), str(reason))))
        elif not self._answered:
            self._fail(_SILENT)
        self._answered = self._entered = False

    def _why(self, error: BaseException | None) -> str:
        """The reason why there is no connection, for people."""
        if said := outside_time(error):
            return f"{said}; if the clock is right, restart the gateway, which renews its certificate"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{_OTHER if self.address.authority else _NOBODY} ({error.verify_message}); {_JOIN}"
        if isinstance(error, ssl.SSLError):
            return f"it does not speak TLS as we do ({error.reason or error})"
        return getattr(error, "strerror", None) or str(error) or type(error).__name__

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        self.messages_in += 1
        self.bytes_in += len(message.payload)
        if not message.payload:  # something that was retained has been cleared
            return
        if message.retain and not self._is_kept(message):
            self.stale += 1
            return
        try:
            self._inbox.put_nowait(Arrived(message.topic, message.payload))
        except (queue.Full, UnicodeDecodeError):  # paho decodes the topic when it is asked for
            self.dropped += 1

    def _is_kept(self, message: Any) -> bool:
        """Whether the table lets the broker keep messages of this topic; what else it kept was meant for another day."""
        try:
            return find(self.root, message.topic)[0].retained
        except (DecodeError, UnicodeDecodeError):
            return False

    def _tell(self, event: Event) -> None:
        """News of the connection always fit: the oldest event makes room."""
        while True:
            try:
                return self._inbox.put_nowait(event)
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._inbox.get_nowait()
                    self.dropped += 1


def client_id(name: str) -> str:
    """What the broker is told: 64 random bits, for who knew another's could end its connection."""
    return f"{name}-{secrets.token_hex(8)}"


def tls(authority: str | None) -> ssl.SSLContext:
    """To speak with a broker: ``authority`` as in ``Address``."""
    context = ssl.create_default_context(cadata=authority)
    if authority is not None:
        context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def outside_time(error: object) -> str:
    """What to say of a certificate that has ended, or not begun, by this machine's clock; nothing of other errors."""
    kind = {9: "is not valid yet", 10: "has expired"}.get(getattr(error, "verify_code", 0), "")  # x509_vfy.h
    now = time.strftime("%F %R")
    return kind and f"its certificate {kind} by this machine's clock, {now}: set that (timedatectl set-ntp true)"


_STRANGER = "the broker knows no such user and password"
_UNKNOWN = ("Not authorized", "Bad user name or password")
_LOST = {"Unspecified error": "the connection has ended"}
_SILENT = "it ended the connection without an answer: if it does so again, it wants TLS (mqtts://) or a line (dt edge --join)"
_OTHER = "its certificate is not the one that this node joined under"
_NOBODY = "its certificate is of no authority that this machine knows"
_JOIN = "if its cluster is sealed, or was set up anew, join it by the line that 'dt enroll' prints there: dt edge --join LINE"
_REMEDY = "is the gateway running? start `dt gateway`, or name its address with --gateway HOST:PORT"


def _at_once(line: Any) -> None:
    """Send small messages without delay; ``line`` is None where the client was closed meanwhile."""
    if line is not None:
        with contextlib.suppress(OSError):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _cut(line: Any) -> None:
    if line is not None:
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
