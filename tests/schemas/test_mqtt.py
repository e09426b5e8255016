"""MQTT as bytes: what is said is what paho's client would say, and what a broker says is read however it is cut."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from schemas.wire import mqtt
from schemas.wire.mqtt import Malformed, Packet, Reader, Will

names = st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=40)
messages = st.builds(
    Packet, st.just(mqtt.PUBLISH), st.integers(0, 65535), topic=names.map(str.encode),
    payload=st.binary(max_size=300) | st.integers(0, 3 * 65536).map(bytes), retained=st.booleans(),
)  # fmt: skip
answers = st.one_of(
    st.builds(Packet, st.just(mqtt.CONNACK), st.integers(0, 5)),
    st.builds(Packet, st.just(mqtt.PUBACK), st.integers(0, 65535), codes=st.just(b"")),
    st.builds(Packet, st.just(mqtt.SUBACK), st.integers(0, 65535), codes=st.binary(min_size=1, max_size=200)),
    st.just(Packet(mqtt.PINGRESP, 0, codes=b"")),
)


def said(packet: Packet) -> bytes:
    """The packet as a broker says it."""
    if packet.kind == mqtt.PUBLISH:
        qos = int(packet.number > 0)
        head = mqtt.publish(packet.topic.decode(), len(packet.payload), qos, packet.retained, packet.number)
        return head + packet.payload
    body = b"" if packet.kind == mqtt.PINGRESP else packet.number.to_bytes(2, "big") + bytes(packet.codes)
    return bytes([packet.kind]) + mqtt._length(len(body)) + body


def read(data: bytes, cuts: list[int]) -> list[Packet]:
    """What a reader makes of it when a socket gives it in pieces of these sizes, in turns."""
    reader, found, at, turn = Reader(), list[Packet](), 0, 0
    while at < len(data):
        with reader.room() as room:
            piece = data[at : at + min(cuts[turn % len(cuts)], len(room))]
            room[: len(piece)] = piece
        found += reader.took(len(piece))
        at, turn = at + len(piece), turn + 1
    return found


cuts_of = st.lists(st.integers(1, 100) | st.integers(1, 200_000), min_size=1, max_size=4)


@given(st.lists(messages | answers, max_size=6), cuts_of)
@example([Packet(mqtt.PUBLISH, 7, topic=b"t", payload=bytes(5 * 2**20))], [70_000, 3 * 2**20])
@example([Packet(mqtt.PUBLISH, 7, topic=b"t" * 65535, payload=bytes(9))], [65535])
def test_packets_are_read_however_they_are_cut(packets: list[Packet], cuts: list[int]) -> None:
    assert read(b"".join(map(said, packets)), cuts) == packets


@given(st.binary(max_size=80), st.lists(st.integers(1, 9), min_size=1, max_size=3))
@example(b"\x20\x01\x00", [9])
@example(b"\x30\xff\xff\xff\xff\x01", [9])
@example(b"\x34\x05\x00\x01t\x00\x01", [9])
@example(b"\x30\x02\x00\x05", [9])
@example(b"\x30\x00", [9])
@example(b"\x32\x03\x00\x01t", [9])
def test_whatever_comes_is_read_or_malformed(data: bytes, cuts: list[int]) -> None:
    try:
        read(data, cuts)
    except Malformed as error:
        assert str(error)


@pytest.mark.parametrize("data", [b"\x20\x01\x00", b"\x30\xff\xff\xff\xff\x01", b"\x34\x05\x00\x01t\x00\x01",
                                  b"\x30\x02\x00\x05", b"\x30\x00", b"\x32\x03\x00\x01t", b"\x00\x00"])  # fmt: skip
def test_what_no_broker_says_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(data, [9])


def test_a_packet_that_is_no_message_may_not_be_longer_than_the_buffer() -> None:
    with pytest.raises(Malformed, match="without an end"):
        read(b"\x90" + mqtt._length(2**20) + bytes(2**20), [2**16])


def test_no_memory_is_taken_on_a_packet_s_word() -> None:
    reader = Reader()
    head = mqtt.publish("t", 2**27, 1, False, 1)
    with reader.room() as room:
        room[: len(head)] = head
    assert reader.took(len(head)) == []
    with reader.room() as room:
        assert len(room) <= 2**20


def test_the_bytes_are_those_of_the_standard() -> None:
    assert mqtt.connect("e1", 20, None, None, None) == b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x14\x00\x02e1"
    will = Will("w", b"gone", 1, True)
    told = b"\x00\x04MQTT\x04\xee\x00\x14\x00\x02e1\x00\x01w\x00\x04gone\x00\x01u\x00\x01p"
    assert mqtt.connect("e1", 20, "u", "p", will) == bytes([0x10, len(told)]) + told
    assert mqtt.publish("a/b", 4, 0, False, 9) == b"\x30\x09\x00\x03a/b"
    assert mqtt.publish("a/b", 200, 1, True, 9, again=True) == b"\x3b\xcf\x01\x00\x03a/b\x00\x09"
    assert mqtt.puback(258) == b"\x40\x02\x01\x02"
    assert mqtt.subscribe(5, [("a/+", 1), ("#", 0)]) == b"\x82\x0c\x00\x05\x00\x03a/+\x01\x00\x01#\x00"
    assert mqtt.unsubscribe(5, ["a"]) == b"\xa2\x05\x00\x05\x00\x01a"


@given(st.integers(0, mqtt.MAX_BYTES))
@example(127)
@example(128)
@example(2**21)
def test_lengths_are_those_of_the_standard(size: int) -> None:
    groups = mqtt._length(size)
    assert sum((byte & 127) << 7 * i for i, byte in enumerate(groups)) == size and len(groups) <= 4
    assert all(byte & 128 for byte in groups[:-1]) and not groups[-1] & 128
    assert len(groups) == 1 or struct.unpack("B", groups[-1:])[0] > 0


levels = st.lists(st.sampled_from(["a", "b", "+", "", "ab"]), min_size=1, max_size=4)


@given(levels, st.booleans(), st.lists(st.sampled_from(["a", "b", "", "ab"]), min_size=1, max_size=4))
def test_a_filter_covers_what_paho_says_it_covers(pattern: list[str], is_open: bool, topic: list[str]) -> None:
    wanted = "/".join([*pattern, *(["#"] if is_open else [])])
    assert mqtt.matches(wanted, "/".join(topic)) == topic_matches_sub(wanted, "/".join(topic))
