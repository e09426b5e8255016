"""Bytes of a message, both ways. Control messages are JSON; tensor messages are preamble, JSON header, raw bytes.

It knows the limits of the wire, and keeps one law: whatever the bytes are, ``decode`` returns a whole, checked message
or raises ``DecodeError``, and it allocates nothing that the bytes merely claim. ``encode`` keeps to the same limits.

A tensor message: magic ``DT``, protocol version (u8), reserved (u8), header length (u32, little-endian), the header
``{"message": {...}, "tensors": [{"name", "dtype", "shape"}, ...]}`` padded with spaces so that what follows begins at a
multiple of 16 bytes, and the tensors' elements in C order, little-endian, one tensor after the other. A tensor whose
entry has ``packed`` takes that many bytes instead, as ``schemas.wire.packing`` says.
"""

import json
import logging
import math
import re
import reprlib
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, create_model

from schemas.contract import topics
from schemas.contract.errors import DecodeError, PlanError
from schemas.contract.messages import PROTOCOL, Message, frame_source
from schemas.contract.plan import MAX_RANK, PLAN_VERSION, TENSORS, Record
from schemas.contract.topics import Topic
from schemas.wire.packing import pack, unpack

Tensor = npt.NDArray[Any]
Payload: TypeAlias = bytes | bytearray | memoryview
R = TypeVar("R", bound=Record)

CONTROL_BYTES = 64 * 1024
LONG_BYTES = 512 * 1024  # what the gateway says of all tiles or nodes at once
PLAN_BYTES = 8 * 1024 * 1024
HEADER_BYTES = 64 * 1024
TENSOR_BYTES = 64 * 1024 * 1024
LOG_EVERY_S = 60.0

_PREAMBLE = struct.Struct("<2sBBI")
_MAGIC = b"DT"
_ALIGN = 16
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in TENSORS}


class Rejected(DecodeError):
    """A ``DecodeError`` that says what was wrong in one word: topic, size, version, form, tensor or plan."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class TensorEntry(Record):
    """One tensor of a tensor message, as its header names it."""

    name: Annotated[str, Field(max_length=256)]
    dtype: Literal["uint8", "int8", "int16", "int32", "int64", "float32", "float16", "bool"]
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=2**24)], ...], Field(max_length=MAX_RANK)]
    packed: Annotated[int, Field(ge=0, le=TENSOR_BYTES)] = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor itself, not packed."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class Header(Record):
    """The JSON header of a tensor message; ``message`` is of the topic's payload type."""

    message: Message
    tensors: Annotated[tuple[TensorEntry, ...], Field(max_length=64)]


_HEADERS = {
    row.pattern: create_model(f"{row.payload.__name__}Tensors", __base__=Header, message=(row.payload, ...))
    for row in topics.TABLE
    if row.tensors
}


@dataclass(frozen=True)
class Incoming:
    """A message that passed every check. ``tensors`` are read-only views of the payload, in the order of its header.

    ``stranger``: its sender does not know yet that this gateway is a new one; in a sealed cluster it gets an echo, no more.
    """

    topic: Topic
    levels: dict[str, str]
    message: Message
    tensors: dict[str, Tensor]
    stranger: bool = False


def encode(topic: Topic, message: Message, tensors: Mapping[str, Tensor] | None = None, packed: bool = False) -> bytes:
    """The payload of ``message`` on ``topic``; ``tensors`` (any memory order) only where the table says so.

    ``packed``: tensors that become smaller so are packed.

    Raises:
        PlanError: a tensor or message that the wire does not carry (dtype, rank, size).
    """
    if not topic.tensors:
        if tensors:
            raise PlanError(f"{topic.pattern} carries no tensors, got {reprlib.repr(list(tensors))}")
        return _within(topic, message.model_dump_json().encode(), limit(topic))
    arrays = tensors or {}
    laid = [np.ascontiguousarray(a, DTYPES.get(a.dtype.name)).reshape(a.shape) for a in arrays.values()]
    if len(laid) > 64 or sum(a.nbytes for a in laid) > TENSOR_BYTES:
        raise PlanError(
            f"{topic.pattern}: {len(laid)} tensors of {sum(a.nbytes for a in laid)} bytes; "
            f"the wire carries 64 of {TENSOR_BYTES} bytes: choose a finer grid or another cut"
        )
    raw: list[bytes | memoryview] = [a.reshape(-1).view(np.uint8).data for a in laid]
    entries = [_entry(topic, name, a.dtype.name, a.shape) for name, a in arrays.items()]
    for i, array in enumerate(laid if packed else ()):
        small = pack(array)
        if 0 < len(small) < array.nbytes:
            raw[i], entries[i] = small, f'{entries[i][:-1]}, "packed": {len(small)}}}'
    header = f'{{"message":{message.model_dump_json()},"tensors":[{", ".join(entries)}]}}'.encode()
    header += b" " * (-(_PREAMBLE.size + len(header)) % _ALIGN)
    _within(topic, header, HEADER_BYTES)
    return b"".join([_PREAMBLE.pack(_MAGIC, PROTOCOL, 0, len(header)), header, *raw])


@lru_cache(4096)
def _entry(topic: Topic, name: str, dtype: str, shape: tuple[int, ...]) -> str:
    """A tensor of a header, checked and written once: frames have the same ones."""
    entry = {"name": name, "dtype": dtype, "shape": list(shape)}
    try:
        TensorEntry.model_validate(entry)
    except ValidationError as error:
        raise PlanError(f"{topic.pattern} cannot carry this tensor: {_first(error)}") from None
    return json.dumps(entry)


def decode(root: str, topic: str, payload: Payload, plan: str | None = None) -> Incoming:
    """The message that ``payload`` on ``topic`` is. With ``plan`` given, a message that names another plan is refused.

    Raises:
        DecodeError: in one line, what is wrong: the topic, the size, the version, the form, a tensor or the plan.
    """
    try:
        row, levels = topics.find(root, topic)
    except DecodeError as error:
        raise Rejected("topic", str(error)) from None
    if len(payload) > limit(row):
        raise Rejected("size", f"{row.pattern}: {len(payload)} bytes, at most {limit(row)} are accepted")
    tensors: dict[str, Tensor] = {}
    try:
        if row.tensors:
            end = _header_end(row, payload)
            header = _parsed(_HEADERS[row.pattern], payload[_PREAMBLE.size : end])
            message, tensors = header.message, _views(row, header.tensors, payload, end)
        else:
            message = _parsed(row.payload, payload, strange="forbid" if row is topics.PLAN else "ignore")
    except ValidationError as error:
        raise _rejected(row, error, payload) from None
    except RecursionError:
        raise Rejected("form", f"{row.pattern}: JSON is nested too deep") from None
    for level in row.binds:
        named = frame_source(message.frame)[0] if level == "source" else str(getattr(message, level))  # type: ignore[attr-defined]
        if levels[level] != named:
            raise Rejected("topic", f"{row.pattern}: topic says {level} {levels[level][:100]!r}, message {named!r}")
    incoming = Incoming(row, levels, message, tensors)
    check_plan(incoming, plan)
    return incoming


def check_plan(incoming: Incoming, plan: str | None) -> None:
    """Refuse a message that names another plan than ours (None: we have none).

    Raises:
        DecodeError: it does.
    """
    theirs = getattr(incoming.message, "plan", None)
    if plan is not None and isinstance(theirs, str) and theirs != plan:
        where, node = incoming.topic.pattern, incoming.message.node
        raise Rejected("plan", f"{where}: plan {theirs} of node {node}, ours is {plan}")


def limit(row: Topic) -> int:
    """The most bytes that a message on this topic may have."""
    if row.tensors:
        return _PREAMBLE.size + HEADER_BYTES + TENSOR_BYTES
    if row in (topics.OUTCOME, topics.ACCEPTED, topics.BRIDGE_INFO, topics.BRIDGE_NODES, topics.BRIDGE_HEALTH):
        return LONG_BYTES
    return PLAN_BYTES if row is topics.PLAN else CONTROL_BYTES


def _parsed(kind: type[R], data: Payload, strange: Literal["ignore", "forbid"] = "ignore") -> R:
    """Fields of a later version (``strange``) are passed over: nodes are updated one by one. A plan means what its version
    says, and its digest is that of all its fields."""
    return kind.model_validate_json(bytes(data), strict=True, extra=strange)


def _rejected(row: Topic, error: ValidationError, payload: Payload) -> Rejected:
    first = error.errors(include_url=False)[0]
    if first["loc"][-1:] not in (("v",), ("version",)) or first["type"] != "literal_error":
        return Rejected("form", f"{row.pattern}: {_first(error)}")
    what, ours = ("plan", PLAN_VERSION) if row is topics.PLAN and len(first["loc"]) > 1 else ("protocol", PROTOCOL)
    named = re.search(rb'"node": ?"([A-Za-z0-9_-]{1,64})"', bytes(payload[:HEADER_BYTES]))  # a claim, for people
    who, theirs = named[1].decode() if named else "a node", reprlib.repr(first["input"])
    return Rejected(
        "version", f"{row.pattern}: {who} has {what} version {theirs}, this node {ours}: update the older of the two"
    )


def _within(row: Topic, data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise PlanError(f"{row.pattern}: {len(data)} bytes of JSON, the wire carries at most {limit}")
    return data


def _header_end(row: Topic, payload: Payload) -> int:
    """Where the header ends and the tensors begin, after the preamble's checks."""
    if len(payload) < _PREAMBLE.size:
        raise Rejected("form", f"{row.pattern}: {len(payload)} bytes, a preamble has {_PREAMBLE.size}")
    magic, version, _, length = _PREAMBLE.unpack_from(payload)
    if magic != _MAGIC:
        raise Rejected("form", f"{row.pattern}: begins with {magic!r}, not {_MAGIC!r}")
    if version != PROTOCOL:
        remedy = f"this node {PROTOCOL}: update the older of the two"
        raise Rejected("version", f"{row.pattern}: protocol version {version}, {remedy}")
    if length > HEADER_BYTES:
        raise Rejected("size", f"{row.pattern}: header of {length} bytes, at most {HEADER_BYTES} are accepted")
    if _PREAMBLE.size + length > len(payload):
        raise Rejected("form", f"{row.pattern}: header of {length} bytes in a payload of {len(payload)}")
    return int(_PREAMBLE.size + length)


def _views(row: Topic, entries: tuple[TensorEntry, ...], payload: Payload, offset: int) -> dict[str, Tensor]:
    """Read-only arrays on ``payload`` from ``offset`` on; all sizes are compared before any array is made."""
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise Rejected("tensor", f"{row.pattern}: tensor names repeat in {reprlib.repr(names)}")
    for entry in entries:  # zeros count as ones: numpy refuses (0, 2**24, 2**24, ...) too
        if math.prod(max(d, 1) for d in entry.shape) * DTYPES[entry.dtype].itemsize > TENSOR_BYTES:
            raise Rejected("size", f"{row.pattern}: {entry.name[:100]!r} of {entry.shape}, limit {TENSOR_BYTES} bytes")
    if sum(entry.nbytes for entry in entries) > TENSOR_BYTES:
        raise Rejected("size", f"{row.pattern}: {len(entries)} tensors of more than {TENSOR_BYTES} bytes")
    for entry in entries:
        if entry.packed and entry.packed >= entry.nbytes:
            raise Rejected("tensor", f"{row.pattern}: {entry.name[:100]!r} is packed into more bytes than it has")
    claimed = sum(entry.packed or entry.nbytes for entry in entries)
    if claimed != len(payload) - offset:
        raise Rejected("tensor", f"{row.pattern}: shapes claim {claimed} bytes, {len(payload) - offset} follow")
    arrays: dict[str, Tensor] = {}
    for entry in entries:
        size = entry.packed or entry.nbytes
        array = _view(row, entry, memoryview(payload)[offset : offset + size])
        if entry.dtype == "bool" and array.size and array.view(np.uint8).max() > 1:
            raise Rejected("tensor", f"{row.pattern}: {entry.name[:100]!r} is bool, but holds bytes above 1")
        offset += size
        array.flags.writeable = False
        arrays[entry.name] = array
    return arrays


def _view(row: Topic, entry: TensorEntry, data: memoryview) -> Tensor:
    dtype = DTYPES[entry.dtype]
    if not entry.packed:
        return (np.frombuffer(data, dtype) if data.nbytes else np.empty(0, dtype)).reshape(entry.shape)
    try:
        return unpack(data, dtype, entry.shape)
    except DecodeError as error:
        raise Rejected("tensor", f"{row.pattern}: {entry.name[:100]!r}: {error}") from None


def _first(error: ValidationError) -> str:
    """The first complaint, in one short line: where, what and the value."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(level)[:40].encode("unicode_escape").decode() for level in first["loc"]) or "message"
    return f"{where[:120]}: {first['msg'].splitlines()[0][:200]}, got {reprlib.repr(first['input'])}"


class Rejects:
    """Counts what was refused, by kind and row of the table, and logs one line a minute at most."""

    def __init__(self, root: str) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._root = root
        self._since: Counter[tuple[str, str]] = Counter()
        self._logged: float | None = None

    def add(self, topic: str, error: DecodeError, now: float) -> None:
        """Count ``error`` of a message on ``topic``; ``now`` in monotonic seconds."""
        try:
            pattern = topics.find(self._root, topic)[0].pattern
        except DecodeError:
            pattern = "unknown"
        key = (str(getattr(error, "kind", "content")), pattern)
        self.counts[key] += 1
        self._since[key] += 1
        if self._logged is None or now - self._logged >= LOG_EVERY_S:
            what = ", ".join(f"{kind} on {row} x{count}" for (kind, row), count in self._since.most_common())
            logging.getLogger(__name__).warning("rejected messages: %s; last: %s", what, error)
            self._logged = now
            self._since.clear()

    @property
    def by_kind(self) -> dict[str, int]:
        """Totals for a ``Status`` message."""
        totals: Counter[str] = Counter()
        for (kind, _), count in self.counts.items():
            totals[kind] += count
        return dict(totals)
