"""MQTT 3.1.1, a client's half of it, as bytes: what to say, and what a broker's bytes say. Section numbers are OASIS'.

It knows no socket, thread or clock. It keeps one law: whatever the bytes are, ``Reader`` gives whole packets or raises
``Malformed``, and it allocates at most twice what has come, and a little more.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP = 0x20, 0x30, 0x40, 0x90, 0xB0, 0xD0
PINGREQ, DISCONNECT = b"\xc0\x00", b"\xe0\x00"
REFUSED = {1: "Unsupported protocol version", 2: "Client identifier not valid", 3: "Server unavailable",
           4: "Bad user name or password", 5: "Not authorized"}  # 3.2.2.3  # fmt: skip
STRANGER = (4, 5)
FAILURE = 0x80  # of a subscription, 3.9.3
MAX_BYTES = 2**28 - 1  # of a packet behind its length, 2.2.3
_ROOM = 64 * 1024 + 16  # any topic and what is before it
_AHEAD = 1024 * 1024  # allocated on a packet's word


class Malformed(Exception):
    """Not MQTT 3.1.1, or nothing that we have asked for."""


@dataclass(frozen=True)
class Will:
    """What a broker is to say when the connection ends without a word."""

    topic: str
    payload: bytes
    qos: int
    retained: bool


def connect(client: str, keepalive_s: int, user: str | None, password: str | None, will: Will | None) -> bytes:
    """3.1, a clean session."""
    flags, fields = 0x02, [_text(client)]
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retained << 5
        fields += [_text(will.topic), len(will.payload).to_bytes(2, "big") + will.payload]
    if user is not None:
        flags |= 0x80 | (password is not None) << 6
        fields += [_text(user), *([_text(password)] if password is not None else [])]
    return _packet(0x10, b"\x00\x04MQTT\x04" + struct.pack(">BH", flags, keepalive_s) + b"".join(fields))


def publish(topic: str, size: int, qos: int, retained: bool, number: int, again: bool = False) -> bytes:
    """3.3, all that comes before a payload of ``size`` bytes."""
    variable = _text(topic) + (number.to_bytes(2, "big") if qos else b"")
    return bytes([PUBLISH | again << 3 | qos << 1 | retained]) + _length(len(variable) + size) + variable


def puback(number: int) -> bytes:
    """3.4."""
    return b"\x40\x02" + number.to_bytes(2, "big")


def subscribe(number: int, filters: Iterable[tuple[str, int]]) -> bytes:
    """3.8: filters, and the QoS of each."""
    return _packet(0x82, number.to_bytes(2, "big") + b"".join(_text(name) + bytes([qos]) for name, qos in filters))


def unsubscribe(number: int, filters: Iterable[str]) -> bytes:
    """3.10."""
    return _packet(0xA2, number.to_bytes(2, "big") + b"".join(map(_text, filters)))


def matches(pattern: str, topic: str) -> bool:
    """Whether a filter covers a topic, 4.7."""
    wanted, given = pattern.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted, given = wanted[:-1], given[: len(wanted) - 1]
    return len(wanted) == len(given) and all(w in ("+", g) for w, g in zip(wanted, given))


@dataclass
class Packet:
    """``kind``: one of those above. ``number``: of what it answers, or is to be answered by; of CONNACK the code."""

    kind: int
    number: int = 0
    codes: Sequence[int] = ()  # of SUBACK
    topic: bytes = b""
    payload: bytes | bytearray = b""
    retained: bool = False


class Reader:
    """Cuts what a socket gives into packets: it writes into ``room()``, and ``took`` gives what is whole."""

    def __init__(self) -> None:
        self._small = memoryview(bytearray(_ROOM))
        self._start = self._end = 0  # of what is there and not yet read
        self._large: tuple[Packet, int] | None = None  # a message, and how long its payload will be
        self._have = 0  # of that payload

    def room(self) -> memoryview:
        if self._large is None:
            return self._small[self._end :]
        message, size = self._large
        assert isinstance(message.payload, bytearray)
        if self._have == len(message.payload):
            message.payload.extend(bytes(min(size - self._have, self._have)))
        return memoryview(message.payload)[self._have :]

    def took(self, count: int) -> list[Packet]:
        """The packets that ``count`` more bytes complete.

        Raises:
            Malformed: they are none.
        """
        if self._large is not None:
            self._have += count
            message, size = self._large
            if self._have < size:
                return []
            self._large = None
            return [message]
        self._end += count
        packets: list[Packet] = []
        while (packet := self._next()) is not None:
            packets.append(packet)
        if self._start:  # what is left is less than a packet
            rest = bytes(self._small[self._start : self._end])
            self._small[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        elif self._end == _ROOM:
            raise Malformed("a packet without an end")
        return packets

    def _next(self) -> Packet | None:
        data, start, end = self._small, self._start + 1, self._end
        size = shift = 0
        while True:  # 2.2.3
            if start >= end:
                return None
            size |= (data[start] & 127) << shift
            shift, start = shift + 7, start + 1
            if not data[start - 1] & 128:
                break
            if shift > 21:
                raise Malformed("a length of more than four bytes")
        first = data[self._start]
        if first & 0xF0 == PUBLISH:
            return self._message(first, start, start + size)
        if first not in (CONNACK, PUBACK, SUBACK, UNSUBACK, PINGRESP) or size < (0 if first == PINGRESP else 2):
            raise Malformed(f"a packet {first:#x} of {size} bytes")
        if start + size > end:
            return None
        body = data[start : start + size]
        self._start = start + size
        return _answer(first, bytes(body))

    def _message(self, first: int, start: int, stop: int) -> Packet | None:
        """A PUBLISH that begins at ``start``, behind its length; its payload may be longer than what is here."""
        qos = first >> 1 & 3
        if qos > 1:
            raise Malformed(f"a message of QoS {qos}, which nobody asked for")
        data = self._small
        if self._end < min(start + 2, stop):
            return None
        length = int.from_bytes(data[start : start + 2], "big")
        begin = start + 2 + length + 2 * qos
        if begin > stop or not length:
            raise Malformed("a message without a topic")
        if begin > self._end:
            return None
        message = Packet(PUBLISH, topic=bytes(data[start + 2 : start + 2 + length]), retained=bool(first & 1))
        if qos:
            message.number = int.from_bytes(data[begin - 2 : begin], "big")
        if stop <= self._end:
            message.payload, self._start = bytes(data[begin:stop]), stop
            return message
        message.payload = bytearray(min(stop - begin, max(_AHEAD, self._end - begin)))
        self._have = self._end - begin
        message.payload[: self._have] = data[begin : self._end]
        self._large, self._start = (message, stop - begin), self._end
        return None


def _answer(first: int, body: bytes) -> Packet:
    if first == CONNACK:
        return Packet(CONNACK, body[1])
    return Packet(first, int.from_bytes(body[:2], "big"), codes=body[2:])


def _packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + _length(len(body)) + body


def _length(size: int) -> bytes:
    if size > MAX_BYTES:
        raise ValueError(f"MQTT carries packets of {MAX_BYTES} bytes, this one has {size}")
    low = bytearray()
    while size > 127:
        low.append(size & 127 | 128)
        size >>= 7
    low.append(size)
    return bytes(low)


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw
