"""What is encoded comes back whole; whatever else arrives is a DecodeError, never another exception."""

import json
import logging
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from schemas.contract import topics
from schemas.contract.errors import DecodeError, PlanError
from schemas.contract.messages import (
    Accepted,
    ChunkHeader,
    ChunkRequest,
    Outcome,
    OverlapHeader,
    PlanMessage,
    Register,
    ResultHeader,
    Status,
    Vitals,
)
from schemas.wire import codec
from schemas.wire.codec import DTYPES, Rejects, decode, encode
from tests.examples import examples
from tests.nodes import small_plan

D = "0" * 32
FRAME = "cam-01234567-7"
RESULT = ResultHeader(node="e1", epoch="01234567", plan=D, frame=FRAME, block=0, tile=3, compute_s=0.25)
REGISTER = Register(node="e1", epoch="01234567", seq=1, runtime="litert 2", plan=D, waiting=3, frames=(FRAME,))
TOPIC = f"dt/result/{FRAME}"

arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: hnp.arrays(DTYPES[name], hnp.array_shapes(min_dims=0, max_dims=6, min_side=0, max_side=4))
)


def tensor_message(entries: Any, raw: bytes = b"", message: Any = None, **preamble: Any) -> bytes:
    """A result message made by hand, so that it can lie."""
    header = json.dumps({"message": message or json.loads(RESULT.model_dump_json()), "tensors": entries}).encode()
    magic, version = preamble.get("magic", b"DT"), preamble.get("version", 1)
    return struct.pack("<2sBBI", magic, version, 0, preamble.get("length", len(header))) + header + raw


def entry(name: str = "x", dtype: str = "uint8", shape: tuple[int, ...] = (4,)) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape}


@given(st.dictionaries(st.text(max_size=20), arrays, max_size=5))
@example({"": np.zeros((), np.float16)})
def test_tensors_come_back_equal_and_read_only(tensors: dict[str, Any]) -> None:
    incoming = decode("dt", TOPIC, encode(topics.RESULT, RESULT, tensors), plan=D)
    assert incoming.message == RESULT and incoming.topic is topics.RESULT and incoming.levels == {"frame": FRAME}
    assert list(incoming.tensors) == list(tensors)
    for name, array in tensors.items():
        got = incoming.tensors[name]
        assert got.dtype == array.dtype and got.shape == array.shape and got.tobytes() == array.tobytes()
        assert not got.flags.writeable


@given(st.dictionaries(st.text(max_size=20), arrays, max_size=5))
def test_packed_tensors_come_back_equal_and_read_only(tensors: dict[str, Any]) -> None:
    padded = {
        name: np.broadcast_to(array, (300, *array.shape)) if array.ndim < 6 else array
        for name, array in tensors.items()
    }
    got = decode("dt", TOPIC, encode(topics.RESULT, RESULT, padded, packed=True), plan=D).tensors
    for name, array in padded.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape and not got[name].flags.writeable
        assert got[name].tobytes() == array.tobytes()


def test_a_tensor_that_packing_does_not_make_smaller_is_sent_as_it_is() -> None:
    noise = np.frombuffer(np.random.default_rng(1).bytes(10_000), np.uint8)
    assert encode(topics.RESULT, RESULT, {"x": noise}, packed=True) == encode(topics.RESULT, RESULT, {"x": noise})


def test_any_memory_order_is_sent_in_c_order() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    odd = {"f": np.asfortranarray(array), "part": array[:, ::2, 1:], "big": array.astype(">f4")}
    got = decode("dt", TOPIC, encode(topics.RESULT, RESULT, odd)).tensors
    assert all(np.array_equal(got[name], odd[name]) for name in odd)


def test_tensors_are_views_of_the_payload() -> None:
    payload = bytearray(encode(topics.RESULT, RESULT, {"x": np.zeros(1000, np.uint8)}))
    got = decode("dt", TOPIC, payload).tensors["x"]
    payload[-1] = 7
    assert got[-1] == 7
    assert payload.index(bytes(10)) % 16 == 0


def test_control_messages_come_back_equal() -> None:
    assert decode("dt", "dt/register", encode(topics.REGISTER, REGISTER)).message == REGISTER
    outcome = Outcome(node="g", epoch="01234567", frame=FRAME, status="ok", latency_s=0.5, digests={"conv": D})
    assert decode("dt", "dt/source/cam/outcome", encode(topics.OUTCOME, outcome)).message == outcome


def test_a_later_node_may_say_more_than_an_earlier_one_knows() -> None:
    """So the nodes of a cluster may be updated one by one. A file with the same field is refused."""
    hat = {"hat": {"sizes": [7]}}
    status = Status(node="e", epoch="01234567", vitals=Vitals(cpu=0.5))
    told = json.loads(status.model_dump_json()) | hat
    told["vitals"] |= hat
    assert decode("dt", "dt/node/e/status", json.dumps(told).encode()).message == status
    got = decode("dt", TOPIC, tensor_message([entry() | hat], b"1234", json.loads(RESULT.model_dump_json()) | hat))
    assert got.message == RESULT and got.tensors["x"].tobytes() == b"1234"
    with pytest.raises(ValidationError, match="hat"):
        Status.model_validate_json(json.dumps(told))


VALID = [
    (TOPIC, encode(topics.RESULT, RESULT, {"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.bool_)})),
    ("dt/register", encode(topics.REGISTER, REGISTER)),
    ("dt/model/e1/chunk", encode(topics.MODEL, ChunkHeader(node="g", epoch="01234567", digest=D, n=0))),
]


def either_way(topic: str, payload: bytes) -> None:
    try:
        decode("dt", topic, payload, plan=D)
    except DecodeError as error:
        assert "\n" not in str(error) and len(str(error)) < 600


LEVELS: dict[str, Any] = {
    "node": "n", "frame": FRAME, "digest": D, "n": 0, "layer": 1, "tile": 2, "source": "s", "verb": "restart",
}  # fmt: skip
every_topic = st.sampled_from([t.path("dt", permission="0" * 8, **LEVELS) for t in topics.TABLE])
any_bytes = st.binary(max_size=300) | st.binary(max_size=60).map(lambda b: b"DT\1\0" + b)


@given(every_topic | st.text(max_size=40), any_bytes)
def test_arbitrary_bytes_only_raise_decode_errors(topic: str, payload: bytes) -> None:
    either_way(topic, payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("a" * 5000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@examples(200)
@given(every_topic, st.sampled_from([REGISTER, RESULT]), st.data())
def test_mutated_fields_only_raise_decode_errors(topic: str, message: Any, data: st.DataObject) -> None:
    fields = json.loads(message.model_dump_json())
    fields[data.draw(st.sampled_from(sorted(fields)) | st.text(max_size=8))] = data.draw(json_values)
    either_way(topic, json.dumps(fields).encode())
    either_way(topic, tensor_message(data.draw(json_values), message=fields))


@examples(300)
@given(st.sampled_from(VALID), st.data())
def test_mutated_messages_only_raise_decode_errors(valid: tuple[str, bytes], data: st.DataObject) -> None:
    topic, payload = valid
    spoilt = bytearray(payload)
    for at in data.draw(st.lists(st.integers(0, len(payload) - 1), max_size=4)):
        spoilt[at] = data.draw(st.integers(0, 255))
    either_way(topic, bytes(spoilt[: data.draw(st.integers(0, len(spoilt)))] + data.draw(st.binary(max_size=8))))


shapes = st.lists(st.integers(-1, 2**25) | st.sampled_from([0, 1, 2**24, 2**62, 2**70]), max_size=8)


@given(st.lists(st.builds(entry, st.sampled_from(["a", "b"]), st.sampled_from([*DTYPES, "O", "<U4", "f8"]), shapes)))
@example([entry(shape=(0, *[2**24] * 5))])
def test_claimed_shapes_only_raise_decode_errors(entries: list[dict[str, Any]]) -> None:
    either_way(TOPIC, tensor_message(entries))


def part(layer: int) -> bytes:
    header = OverlapHeader(node="e1", epoch="01234567", plan=D, frame=FRAME, layer=layer, tile=1, maker=0)
    return encode(topics.OVERLAP, header, {"x": np.zeros(4, np.uint8)})


def asked() -> bytes:
    return encode(topics.MODEL_REQ, ChunkRequest(node="e", epoch="01234567", digest=D, chunks=(0,)))


def ended() -> bytes:
    outcome = Outcome(node="g", epoch="01234567", frame=FRAME, status="failed", reason="r", latency_s=0.5)
    return encode(topics.OUTCOME, outcome)


def numbered(seq: bytes) -> bytes:
    return VALID[1][1].replace(b'"seq":1', b'"seq":' + seq)


OTHER = json.loads(RESULT.model_copy(update={"plan": "f" * 32}).model_dump_json())
LATER = json.loads(RESULT.model_dump_json()) | {"v": 2}
STRANGER = json.loads(RESULT.model_copy(update={"frame": "cam-01234567-8"}).model_dump_json())
PLAN = encode(topics.PLAN, PlanMessage(node="g", epoch="01234567", plan=small_plan(), chunks=(D,), model_bytes=1))
REJECTED = {
    "a preamble cut short": (TOPIC, b"DT\1\0\0", "form", "preamble"),
    "another magic": (TOPIC, tensor_message([], magic=b"PK"), "form", "b'PK'"),
    "another version in the preamble": (TOPIC, tensor_message([], version=2), "version", "version 2"),
    "another version in the message": (TOPIC, tensor_message([], message=LATER), "version", "e1 has protocol version 2"),
    "a header beyond its limit": (TOPIC, tensor_message([], length=65537), "size", "65537 bytes, at most 65536"),
    "a header beyond the payload": (TOPIC, tensor_message([], length=9999), "form", "9999"),
    "too few bytes": (TOPIC, tensor_message([entry()], b"123"), "tensor", "claim 4 bytes, 3 follow"),
    "too many bytes": (TOPIC, tensor_message([entry()], b"12345"), "tensor", "claim 4 bytes, 5 follow"),
    "a shape that overflows 64 bits": (TOPIC, tensor_message([entry(shape=(2**24,) * 6)]), "size", "16777216"),
    "a dimension beyond its limit": (TOPIC, tensor_message([entry(shape=(2**24 + 1,))]), "form", "16777217"),
    "a negative dimension": (TOPIC, tensor_message([entry(shape=(-1,))]), "form", "-1"),
    "a rank beyond 6": (TOPIC, tensor_message([entry(shape=(1,) * 7)], b"1"), "form", "at most 6"),
    "a dtype that executes": (TOPIC, tensor_message([entry(dtype="object")], b"1234"), "form", "object"),
    "a dtype not in the list": (TOPIC, tensor_message([entry(dtype="float64", shape=())], bytes(8)), "form", "float64"),
    "a bool above 1": (TOPIC, tensor_message([entry(dtype="bool")], b"\0\1\2\0"), "tensor", "bool"),
    "names that repeat": (TOPIC, tensor_message([entry(), entry()], bytes(8)), "tensor", "repeat"),
    "a name beyond 256 characters": (TOPIC, tensor_message([entry("n" * 257)], bytes(4)), "form", "256"),
    "more than 64 tensors": (TOPIC, tensor_message([entry(str(i), shape=(0,)) for i in range(65)]), "form", "64"),
    "another plan": (TOPIC, tensor_message([], message=OTHER), "plan", "f" * 32),
    "another frame than the topic's": (TOPIC, tensor_message([], message=STRANGER), "topic", "cam-01234567-8"),
    "another layer than the topic's": ("dt/overlap/1/1", part(layer=0), "topic", "layer '1', message '0'"),
    "another tile than the topic's": ("dt/overlap/0/2", part(layer=0), "topic", "tile '2', message '1'"),
    "a level that is the same number otherwise": ("dt/overlap/0/01", part(layer=0), "topic", "tile '01'"),
    "another node's question": ("dt/model/x/ask", asked(), "topic", "node 'x', message 'e'"),
    "a source that the frame is not of": ("dt/source/other/outcome", ended(), "topic", "source 'other', message 'cam'"),
    "another node's status": ("dt/node/x/status", encode(topics.STATUS, Status(node="e", epoch="01234567")), "topic", "'e'"),
    "a number that JSON cannot carry": ("dt/register", numbered(b"9007199254740993"), "form", "seq"),
    "a number of 4000 digits": ("dt/register", numbered(b"9" * 4000), "form", "seq"),
    "half of a character": ("dt/register", VALID[1][1].replace(b"litert", rb"\ud800"), "form", "JSON"),
    "a tensor that packing made larger": (TOPIC, tensor_message([entry() | {"packed": 4}], b"1234"), "tensor", "more bytes"),
    "another digest than the topic's": (f"dt/model/{'1' * 32}/0", VALID[2][1], "topic", "1" * 32),
    "a topic of another cluster": ("dt2/register", VALID[1][1], "topic", "dt2/register"),
    "a topic that is not in the table": ("dt/registers", VALID[1][1], "topic", "dt/registers"),
    "control JSON beyond its limit": ("dt/register", b" " * 65537, "size", "65537 bytes, at most 65536"),
    "a plan beyond its limit": ("dt/plan", b" " * (8 * 2**20 + 1), "size", "8388609"),
    "JSON nested too deep": ("dt/register", b"[" * 60000, "form", "recursion"),
    "bytes that are not UTF-8": ("dt/register", b'{"node": "\xff"}', "form", "register"),
    "a field of another type": ("dt/register", b'{"v": 1, "node": 5}', "form", "node"),
    "a number that is a string": ("dt/register", VALID[1][1].replace(b'"seq":1', b'"seq":"1"'), "form", "seq"),
    "a plan of another version": ("dt/plan", PLAN.replace(b'"version":3', b'"version":4'), "version", "g has plan version 4"),
    "a plan of another wire version": ("dt/plan", PLAN.replace(b'"v":1', b'"v":2'), "version", "g has protocol version 2"),
    "a plan with a field that nobody knows": ("dt/plan", PLAN.replace(b'"ends":', b'"hats":1,"ends":'), "form", "hats"),
    "a name that breaks a log line": ("dt/plan", PLAN[:-1] + b', "a\\nb": 1}', "form", r"a\\nb"),
    "an infinite duration": (TOPIC, VALID[0][1].replace(b"0.25", b"1e99"), "form", "compute_s"),
    "a duration that is no number": (TOPIC, VALID[0][1].replace(b"0.25", b" NaN"), "form", "compute_s"),
    "empty bytes": ("dt/register", b"", "form", "register"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_what_is_wrong_is_named_and_rejected(case: str) -> None:
    topic, payload, kind, words = REJECTED[case]
    with pytest.raises(DecodeError, match=words.replace(".", r"\.")) as caught:
        decode("dt", topic, payload, plan=D)
    assert getattr(caught.value, "kind", "") == kind
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_payload_beyond_its_limit_is_rejected_unread() -> None:
    with pytest.raises(DecodeError, match="at most"):
        decode("dt", TOPIC, bytes(codec.TENSOR_BYTES + codec.HEADER_BYTES + 9))


def test_a_message_without_a_plan_passes_any_plan() -> None:
    homeless = REGISTER.model_copy(update={"plan": None})
    assert decode("dt", "dt/register", encode(topics.REGISTER, homeless), plan=D).message == homeless


@pytest.mark.parametrize(
    "array", [np.zeros(1, np.float64), np.zeros(1, np.complex64), np.zeros((1,) * 7, "u1"), np.zeros(2**26 + 1, "u1")]
)
def test_what_the_wire_does_not_carry_is_not_encoded(array: Any) -> None:
    with pytest.raises(PlanError):
        encode(topics.RESULT, RESULT, {"x": array})


def test_control_messages_carry_no_tensors_and_keep_to_their_limit() -> None:
    with pytest.raises(PlanError, match="register"):
        encode(topics.REGISTER, REGISTER, {"x": np.zeros(1, np.uint8)})
    with pytest.raises(PlanError, match="65536"):
        encode(topics.STATUS, Status(node="e", epoch="01234567", dropped={"x" * 70000: 1}))
    assert encode(topics.ACCEPTED, Accepted(node="g", epoch="01234567", frame=FRAME, tiles=tuple(range(4096))))


def test_rejects_are_counted_and_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    rejects = Rejects("dt")
    with caplog.at_level(logging.WARNING):
        for now in (0.0, 1.0, 59.9, 60.0):
            rejects.add(TOPIC, codec.Rejected("size", "too large"), now)
            rejects.add("dt/none/of/ours", DecodeError("what"), now)
    assert rejects.by_kind == {"size": 4, "content": 4}
    assert rejects.counts[("size", "result/<frame>")] == 4 and rejects.counts[("content", "unknown")] == 4
    assert len(caplog.records) == 2
    assert "size on result/<frame> x3" in caplog.messages[1] and "\n" not in caplog.messages[1]


def test_packed_tensors_that_would_fill_the_memory_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = encode(topics.RESULT, RESULT, {name: np.zeros(60_000, np.uint8) for name in "ab"}, packed=True)
    assert len(decode("dt", TOPIC, payload).tensors) == 2
    monkeypatch.setattr(codec, "TENSOR_BYTES", 100_000)
    with pytest.raises(DecodeError, match="2 tensors of more than 100000 bytes"):
        decode("dt", TOPIC, payload)


@given(st.text(max_size=60))
def test_words_for_people_keep_to_one_line_on_both_sides(text: str) -> None:
    said = RESULT.model_copy(update={"error": text})  # as a stranger would send it, past our own checks
    heard = decode("dt", TOPIC, encode(topics.RESULT, said)).message
    assert isinstance(heard, ResultHeader) and len(heard.error) == len(text)
    assert heard.error.isprintable() and (heard.error == text or not text.isprintable())


def test_of_equal_keys_the_last_counts_for_every_reader() -> None:
    twice = VALID[1][1].replace(b'"seq":1', b'"seq":1,"seq":2')
    first, second = decode("dt", "dt/register", twice).message, decode("dt", "dt/register", twice).message
    assert isinstance(first, Register) and first == second and first.seq == 2


def test_only_the_receiver_of_a_message_or_what_is_asked_is_not_tied_to_it() -> None:
    assert {row.pattern for row in topics.TABLE if "<" in row.pattern and not row.binds} == {
        "echo/<node>", "steal/<node>", "tile/<node>", "return/<node>", "accepted/<node>",
        "bridge/request/<verb>", "bridge/response/<verb>", "keys/<node>", "model/<node>/chunk",
    }  # fmt: skip
