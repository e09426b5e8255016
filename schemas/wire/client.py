"""A connection to a broker: who publishes writes to the socket, and one thread reads; no message wakes a second one.

It knows sockets and MQTT (``mqtt.py``), no message of ours. It keeps three laws. What has QoS 1 is said again on the next
connection, in its order, until it is acknowledged. Whatever touches a connection, and every callback, holds ``lock``, so that
packets do not mix; making a connection, which may take seconds, does not. What is said and not yet sent is no copy.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from schemas.wire import mqtt

INFLIGHT = 20  # of QoS 1 without an answer; more wait here
_RECORD_BYTES = 16 * 1024  # of TLS: it takes and gives one at a time
_WAITING = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_TICK_S = 1.0
_READS = 16  # before others may publish


@dataclass
class _Said:
    """A message of QoS 1 that is not acknowledged. ``times``: so often it was given to a connection."""

    topic: str
    payload: bytes
    retained: bool
    times: int = 0


class Client:
    """``connect`` first, or not, then ``begin``: a thread that reads, and connects again for ever. ``end`` says good-bye.

    Between attempts it rests from ``pauses_s[0]`` to ``pauses_s[1]``, ever longer. Callbacks come from the thread that reads
    or from one that publishes, and must not block.
    """

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        user: str | None,
        password: str | None,
        tls: ssl.SSLContext | None,
        keepalive_s: int,
        pauses_s: tuple[float, float],
        queued: int,
    ) -> None:
        self.lock = threading.RLock()
        self.is_connected = False  # the broker has accepted us
        self.connect_s, self.pauses_s = 5.0, pauses_s
        self.will: mqtt.Will | None = None
        self.on_connect: Callable[[int], None] = lambda code: None
        self.on_disconnect: Callable[[str], None] = lambda reason: None
        self.on_fail: Callable[[OSError], None] = lambda error: None  # there was no connection
        self.on_message: Callable[[bytes, bytes | bytearray, bool], None] = lambda topic, payload, retained: None
        self.on_publish: Callable[[int], None] = lambda number: None  # written (QoS 0) or acknowledged (QoS 1)
        self.on_subscribe: Callable[[int, Sequence[int]], None] = lambda number, codes: None
        self._name, self._address, self._user, self._password = name, address, user, password
        self._tls, self._keepalive_s, self._queued = tls, keepalive_s, queued
        self.line: socket.socket | None = None
        self._numbers = 0
        self._said: dict[int, _Said] = {}  # oldest first
        self._inflight = 0
        self._out: deque[tuple[memoryview, int]] = deque()  # to be written; and what number is, once it is (0: none)
        self._heard_at = self._wrote_at = 0.0
        self._pinged_at: float | None = None
        self._is_ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._pipe: tuple[socket.socket, socket.socket] | None = None  # to wake the thread by

    def connect(self) -> None:
        """A connection, on which the broker has not answered yet.

        Raises:
            OSError: there is none.
        """
        line = socket.create_connection(self._address, timeout=self.connect_s)
        try:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                line = self._tls.wrap_socket(line, server_hostname=self._address[0])
            line.setblocking(False)
        except OSError:
            line.close()
            raise
        with self.lock:
            self.line, self._inflight, self._pinged_at = line, 0, None
            self._heard_at = self._wrote_at = time.monotonic()
            self._send(mqtt.connect(self._name, self._keepalive_s, self._user, self._password, self.will))

    def begin(self) -> None:
        if self._thread is None:
            self._is_ending.clear()
            self._pipe = socket.socketpair()
            self._pipe[1].setblocking(False)
            self._thread = threading.Thread(target=self._keep, name=f"mqtt-{self._name}", daemon=True)
            self._thread.start()

    def end(self, patience_s: float) -> None:
        """Disconnect; a broker that reads no more is cut off after ``patience_s``."""
        with self.lock:
            self._is_ending.set()
            line = self.line
            if line is not None:
                self._send(mqtt.DISCONNECT)
            self._wake()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(patience_s)
            cut(line)
            thread.join()

    def publish(self, topic: str, payload: bytes, qos: int = 0, retained: bool = False) -> int | None:
        """The message's number, of which ``on_publish`` will tell; None: it is dropped, for there is no connection (QoS 0) or
        too much waits."""
        with self.lock:
            if len(self._said) >= self._queued if qos else not self.is_connected:
                return None
            number = self._number()
            if qos:
                self._said[number] = _Said(topic, payload, retained)
                self._say_more()
            else:
                self._send(mqtt.publish(topic, len(payload), 0, retained, 0), payload, number)
            return number

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> int | None:
        """Its number, of which ``on_subscribe`` will tell; None: there is no connection."""
        with self.lock:
            if not self.is_connected:
                return None
            number = self._number()
            self._send(mqtt.subscribe(number, filters))
            return number

    def unsubscribe(self, filters: Sequence[str]) -> None:
        with self.lock:
            if self.is_connected:
                self._send(mqtt.unsubscribe(self._number(), filters))

    def _number(self) -> int:
        self._numbers = self._numbers % 65535 + 1
        while self._numbers in self._said:
            self._numbers = self._numbers % 65535 + 1
        return self._numbers

    def _say(self, number: int, said: _Said) -> None:
        self._inflight += 1
        head = mqtt.publish(said.topic, len(said.payload), 1, said.retained, number, again=said.times > 0)
        said.times += 1
        self._send(head, said.payload)

    def _send(self, head: bytes, payload: bytes = b"", number: int = 0) -> None:
        is_first = not self._out
        if len(head) + len(payload) <= _RECORD_BYTES:
            self._out.append((memoryview(head + payload), number))
        else:
            room = _RECORD_BYTES - len(head)
            self._out.append((memoryview(head + payload[:room]), 0))
            self._out.append((memoryview(payload)[room:], number))
        if is_first and threading.current_thread() is not self._thread:  # that writes when it has read all
            self._write()
            if self._out or self.line is None:
                self._wake()

    def _write(self) -> None:
        """As much as the line takes now."""
        line, out = self.line, self._out
        while out and line is not None:
            try:
                some = [part for part, _ in islice(out, 16)]
                taken = line.sendmsg(some) if self._tls is None else line.send(some[0])
            except _WAITING:
                return
            except OSError:
                return self._lose(_ENDED)
            self._wrote_at = time.monotonic()
            while out and taken >= len(out[0][0]):
                part, number = out.popleft()
                taken -= len(part)
                if number:
                    self.on_publish(number)
            if taken:
                part, number = out[0]
                out[0] = part[taken:], number

    def _lose(self, reason: str) -> None:
        line, self.line, self.is_connected = self.line, None, False
        self._out.clear()
        if line is not None:
            line.close()
            self.on_disconnect(reason)

    def _wake(self) -> None:
        if self._pipe is not None and threading.current_thread() is not self._thread:
            with contextlib.suppress(BlockingIOError):
                self._pipe[1].send(b"!")

    # What follows runs on the thread that reads.

    def _keep(self) -> None:
        rested, pause_s = True, self.pauses_s[0]
        while not self._is_ending.is_set() or self.line is not None:
            line = self.line
            if line is not None:
                if self._serve(line):
                    pause_s = self.pauses_s[0]
                rested = False
            elif not rested:
                self._is_ending.wait(pause_s)
                rested, pause_s = True, min(2 * pause_s, self.pauses_s[1])
            else:
                rested = False
                try:
                    self.connect()
                except OSError as error:
                    with self.lock:
                        self.on_fail(error)
        with self.lock:
            for end in self._pipe or ():
                end.close()
            self._pipe = None

    def _serve(self, line: socket.socket) -> bool:
        """One connection, until it has ended. Whether the broker accepted it."""
        assert self._pipe is not None
        wake, poller, reader = self._pipe[0], select.poll(), mqtt.Reader()
        handle, accepted, tick_at = line.fileno(), False, 0.0
        poller.register(wake, select.POLLIN)
        while True:
            with self.lock:
                if self.line is not line:
                    return accepted
                if self._is_ending.is_set() and not self._out:
                    self._lose("it was closed here")
                    return accepted
                poller.register(handle, select.POLLIN | (select.POLLOUT if self._out else 0))
            ready = dict(poller.poll(1000 * _TICK_S))
            with self.lock:
                if wake.fileno() in ready:
                    wake.recv(4096)
                if handle in ready and self.line is line:
                    self._read(line, reader)
                    self._write()
                accepted = accepted or self.is_connected
                if (now := time.monotonic()) >= tick_at:
                    tick_at = now + _TICK_S
                    self._tick(now)

    def _read(self, line: socket.socket, reader: mqtt.Reader) -> None:
        """What is there: of TLS all that it holds, for no poll tells of that."""
        for left in reversed(range(_READS)):
            try:
                with reader.room() as room:
                    size, count = len(room), line.recv_into(room)
                for packet in reader.took(count):
                    self._hear(packet)
            except _WAITING:
                return
            except mqtt.Malformed as error:
                return self._lose(f"the broker says what no broker says: {error}")
            except OSError:
                return self._lose(_ENDED)
            if not count:
                return self._lose(_ENDED)
            self._heard_at = time.monotonic()
            held = line.pending() if isinstance(line, ssl.SSLSocket) else 0
            if self.line is not line or (count < min(size, _RECORD_BYTES) and not held):
                return
            if held and not left:
                return self._read(line, reader)

    def _hear(self, packet: mqtt.Packet) -> None:
        if packet.kind == mqtt.PUBLISH:
            self.on_message(packet.topic, packet.payload, packet.retained)
            if packet.number:
                self._out.append((memoryview(mqtt.puback(packet.number)), 0))
        elif packet.kind == mqtt.PUBACK:
            if self._said.pop(packet.number, None) is not None:
                self._inflight -= 1
                self.on_publish(packet.number)
                self._say_more()
        elif packet.kind == mqtt.CONNACK:
            self.is_connected = packet.number == 0
            self.on_connect(packet.number)
            self._say_more()
        elif packet.kind == mqtt.SUBACK:
            self.on_subscribe(packet.number, packet.codes)
        elif packet.kind == mqtt.PINGRESP:
            self._pinged_at = None

    def _say_more(self) -> None:
        """Those that wait for their turn, or for this connection. The first ``_inflight`` have been said on it."""
        if self.is_connected and len(self._said) > self._inflight < INFLIGHT:
            for number, said in list(islice(self._said.items(), self._inflight, INFLIGHT)):
                self._say(number, said)

    def _tick(self, now: float) -> None:
        silent = now - max(self._heard_at, self._pinged_at or 0.0)
        if (self._pinged_at is not None or not self.is_connected) and silent >= self._keepalive_s:
            self._lose(f"it was silent for {silent:.0f} s")
        elif self.is_connected and self._pinged_at is None and now - min(self._heard_at, self._wrote_at) >= self._keepalive_s:
            self._pinged_at = now
            self._send(mqtt.PINGREQ)
            self._write()


_ENDED = "the connection has ended"


def cut(line: socket.socket | None) -> None:
    """End a connection from outside of what uses it."""
    if line is not None:
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
