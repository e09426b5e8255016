"""One straight connection between two edges: hellos, frames, what has been acknowledged. It knows its socket and no other.

    dialler   length u32 | hello (JSON)          ->
              <- length u32 | hello (JSON)          answerer
              length u32 | frame, length u32 | frame, ... both ways; the dialler's first one makes the connection count

A frame is a byte for its kind and what that says; in a sealed cluster all of it is encrypted under the keys of this connection
(``schemas.security.session``). Laws: who has not proved who it is gets no more memory than a hello; a size is checked before
anything is made for it; no call waits.
"""

import contextlib
import fcntl
import os
import socket
import struct
import termios
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ValidationError

from schemas.contract import topics
from schemas.contract.errors import DecodeError
from schemas.contract.messages import Hello
from schemas.contract.topics import Publish
from schemas.security.seal import Seal
from schemas.wire.codec import Payload, limit
from schemas.wire.packing import Pace

if TYPE_CHECKING:  # a cluster without seals loads no cryptography
    from schemas.security.session import Cipher, Session

STRAIGHT = (topics.TILE, topics.OVERLAP)
HELLO_BYTES = 1024
FRAME_BYTES = max(limit(row) for row in STRAIGHT) + 1024
ACK_BYTES = 2**20  # acknowledged at once; less, with the next tick
TIMED_BYTES, TIMED_S = 64 * 1024, 0.5  # a message of so many bytes on an idle connection is timed, so often at most
MESSAGE, TAKES, ACKNOWLEDGE, TIMED = 1, 2, 3, 4  # a frame begins with one: docs/PROTOCOL.md, Straight connections

_LENGTH = struct.Struct("<I")
_READS = 8  # before the next connection's turn


class Broken(DecodeError):
    """This connection ends, for this reason."""


@dataclass(frozen=True)
class Identity:
    """Who this side is: its name, its epoch, and its keys in a sealed cluster."""

    node: str
    epoch: str
    keys: Seal | None = None

    def hello(self, to: str, to_epoch: str) -> Hello:
        return Hello(node=self.node, epoch=self.epoch, to=to, to_epoch=to_epoch)


class Connection:
    """``peer`` and ``epoch``: who is to answer, or has said who it is. ``waiting``: messages without an acknowledgement, and
    their sizes. The answerer is in the state "answered" until the dialler has proved itself by a first frame.
    """

    def __init__(self, sock: socket.socket, host: str, now: float, peer: str = "", epoch: str = "") -> None:
        self.sock, self.host, self.since, self.peer, self.epoch = sock, host, now, peer, epoch
        self.dialled = bool(peer)
        self.state: Literal["connecting", "greeting", "answered", "open", "ended"] = "connecting" if peer else "greeting"
        self.bytes_in = self.bytes_out = 0
        self.claim = 0  # bytes of the frame that is coming in
        self.waiting: deque[tuple[Publish, int]] = deque()
        self.waiting_bytes = 0
        self.lanes: frozenset[int] = frozenset()  # that the peer takes
        self.pace = Pace(hops=1)
        self._session: Session | None = None
        self._closes: Cipher | None = None
        self._opens: Cipher | None = None
        self._buffer, self._filled = memoryview(bytearray(_LENGTH.size)), 0
        self._out: deque[memoryview] = deque()
        self._received = self._told = self._untold_bytes = self._acknowledged = 0
        self._left = -1  # in the socket's buffer, when that was looked at last
        self._moved_at, self._sent_at = now, now - TIMED_S
        self._timed = 0  # bytes of a message that is timed
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @property
    def has_more(self) -> bool:
        """Whether bytes wait for the socket to take them."""
        return bool(self._out)

    def greet(self, own: Identity) -> None:
        """The dialler's first words, once the socket is connected.

        Raises:
            OSError: it is not.
        """
        if code := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
        self.state = "greeting"
        hello = own.hello(self.peer, self.epoch)
        if own.keys is not None:
            self._session = _session(own.keys, hello, dialled=True)
            hello = self._session.mine
        self._write(hello.model_dump_json().encode())

    def frames(self, room: Callable[[], int]) -> Iterator[Payload]:
        """What has come, frame by frame, opened; ``room`` is what all frames that are coming in may claim yet.

        Raises:
            Broken, DecodeError: the peer breaks the rules, or has gone.
            OSError: the connection has broken.
        """
        for _ in range(_READS):
            try:
                count = self.sock.recv_into(self._buffer[self._filled :])
            except BlockingIOError:
                return
            if not count:
                raise Broken("it closed the connection")
            self.bytes_in += count
            self._filled += count
            if self._filled < len(self._buffer):
                continue
            body, self._filled = self._buffer, 0
            if self.claim:
                self.claim, self._buffer = 0, memoryview(bytearray(_LENGTH.size))
                yield body if self._opens is None else self._opens.open(body)
            else:
                self._expect(_LENGTH.unpack(body)[0], room())

    def _expect(self, length: int, room: int) -> None:
        """A frame of this length, if there may be one. Its pages are the system's until bytes fill them."""
        most = FRAME_BYTES if self.state == "open" else HELLO_BYTES
        if not 0 < length <= most:
            raise Broken(f"a frame of {length} bytes, at most {most} are accepted")
        if length > room:
            raise Broken("too many large frames at a time")
        self.claim, self._buffer = length, np.empty(length, np.uint8).data

    def meet(self, frame: Payload, own: Identity, is_here: Callable[[str, str], bool]) -> None:
        """Their hello: it must be for us, in this epoch of ours, of a node that ``is_here`` knows, and prove it where there are
        keys. The answerer answers.

        Raises:
            Broken, DecodeError: it is not.
        """
        try:
            hello = Hello.model_validate_json(bytes(frame), strict=True, extra="ignore")
        except (ValidationError, RecursionError):
            raise Broken("what it says first is no hello") from None
        if (hello.to, hello.to_epoch) != (own.node, own.epoch) or hello.node == own.node:
            raise Broken(f"a hello for {hello.to}")
        if self.dialled and (hello.node, hello.epoch) != (self.peer, self.epoch):
            raise Broken(f"{hello.node} answers in its place")
        if not is_here(hello.node, hello.epoch):
            raise Broken(f"{hello.node} is not here, or in another epoch")
        answer, ciphers = own.hello(hello.node, hello.epoch), None
        if own.keys is not None:
            session = self._session or _session(own.keys, answer, dialled=False)
            ciphers = session.agree(hello)
            answer = session.mine
        self.peer, self.epoch, self._session = hello.node, hello.epoch, None
        if not self.dialled:
            self._write(answer.model_dump_json().encode())
        self._closes, self._opens = ciphers or (None, None)
        self.state = "answered"  # the dialler knows already that it is open

    def send(self, said: Publish, path: str, payload: bytes, now: float) -> None:
        """A message; ``said`` is kept until the peer has acknowledged it."""
        kind = MESSAGE
        if not self.waiting:
            self._moved_at = now
            if len(payload) >= TIMED_BYTES and now >= self._sent_at + TIMED_S:
                kind, self._timed, self._sent_at = TIMED, len(payload), now
        self.waiting.append((said, len(payload)))
        self.waiting_bytes += len(payload)
        name = path.encode()
        self.put(kind, bytes((len(name),)), name, payload)

    def put(self, kind: int, *parts: bytes) -> None:
        """A frame, closed if there are keys."""
        frame = (bytes((kind,)), *parts)
        self._write(*(frame if self._closes is None else (self._closes.close(b"".join(frame)),)))

    def _write(self, *parts: bytes) -> None:
        self._out.extend(map(memoryview, (_LENGTH.pack(sum(map(len, parts))), *parts)))
        self.flush()

    def flush(self) -> None:
        """Give the socket what it takes.

        Raises:
            OSError: the connection has broken.
        """
        while self._out:
            try:
                sent = self.sock.sendmsg(list(self._out)[:64])
            except BlockingIOError:
                return
            self.bytes_out += sent
            self._moved_at = time.monotonic()
            while sent:
                first = self._out.popleft()
                if sent < len(first):
                    self._out.appendleft(first[sent:])
                sent -= min(sent, len(first))

    def took(self, count: int, is_timed: bool) -> None:
        """A message of so many bytes has come: it is acknowledged at once if the peer times it, or much has come since."""
        self._received += 1
        self._untold_bytes += count
        if is_timed or self._untold_bytes >= ACK_BYTES:
            self.acknowledge()

    def acknowledge(self) -> None:
        """Say how many messages have come, if that is news."""
        if self._received > self._told:
            self._told, self._untold_bytes = self._received, 0
            self.put(ACKNOWLEDGE, struct.pack("<Q", self._received))

    def heard(self, said: memoryview, now: float) -> None:
        """The peer says how many messages it has got."""
        total = int.from_bytes(said, "little")
        if len(said) != 8 or not 0 <= total - self._acknowledged <= len(self.waiting):
            raise Broken("it acknowledges what it was not sent")
        for _ in range(total - self._acknowledged):
            self.waiting_bytes -= self.waiting.popleft()[1]
        if self._timed and total > self._acknowledged:  # it was the first of those that waited
            self.pace.moved(self._timed, now - self._sent_at)
            self._timed = 0
        self._acknowledged, self._moved_at = total, now

    def silent_s(self, now: float) -> float:
        """How long nothing has moved of what is under way: into this machine's buffer, out of it, or by the peer's word."""
        if not self.waiting:
            return 0.0
        left = int.from_bytes(fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)), "little")
        if left != self._left:
            self._left, self._moved_at = left, now
        return now - self._moved_at


def _session(keys: Seal, hello: Hello, dialled: bool) -> "Session":
    from schemas.security.session import Session

    return Session(keys, hello, dialled)
