"""Reads and writes flatbuffers by the tables of ``tflite_schema``, and trusts no byte of what it reads.

Every offset is checked against the buffer before it is followed, so that a damaged or crafted file ends in a
``PlanError`` and not in a crash. Weights stay views of the file that was read, and are written after the tables,
aligned to 16 bytes, without a copy in between: a model of 200 MB is rewritten in the memory of its tables.

Format: https://flatbuffers.dev/internals. The generated object API exists in only one of the two runtimes, copies every
buffer several times and aligns it to 1 byte, where TFLite wants 16.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from models.graph.tflite_schema import TABLES, UNIONS, Field
from schemas.contract.errors import PlanError

Record = dict[str, Any]
_IDENTIFIER = b"TFL3"
_SHARING = 2  # what is read may be so many times the file: references to one place are honest, without end they are not
_TABLES = 200_000  # in one file: 2 s to read; the largest real models have some thousands
_NUMPY = {"B": np.uint8, "H": np.uint16, "i": np.int32, "f": np.float32, "q": np.int64}


def read(data: bytes | memoryview) -> Record:
    """The ``Model`` table of a .tflite as nested dicts; vectors of scalars are numpy views of ``data``.

    Raises:
        PlanError: the bytes are no TFLite flatbuffer, or are damaged.
    """
    view = memoryview(data)
    if len(view) < 8 or bytes(view[4:8]) != _IDENTIFIER:
        raise PlanError("not a .tflite file: the identifier TFL3 is missing at byte 4")
    try:
        reader = Reader(view)
        return reader.table("Model", reader.offset(0))
    except Reader.ERRORS as error:
        raise PlanError(f"damaged .tflite file: {error}") from error


class Reader:
    """Follows offsets from table to table of ``schema``, and none that leaves the buffer."""

    ERRORS = (struct.error, IndexError, ValueError, RecursionError)  # what damaged bytes end in

    def __init__(self, view: memoryview, schema: Mapping[str, tuple[Field, ...]] = TABLES) -> None:
        self.view, self.schema = view, schema
        self.budget = _SHARING * len(view)
        self.tables = _TABLES

    def scalar(self, kind: str, position: int) -> Any:
        if position < 0:
            raise ValueError(f"offset {position} points before the start")
        return struct.unpack_from("<" + kind, self.view, position)[0]

    def spend(self, size: int) -> None:
        """Bounds what a small crafted file, whose references all lead to one place, may unfold to."""
        self.budget -= size
        if self.budget < 0:
            raise ValueError("its parts are larger than the file")

    def offset(self, position: int) -> int:
        return position + int(self.scalar("I", position))

    def table(self, name: str, position: int) -> Record:
        self.spend(8)  # each takes a reference to it and one to its vtable
        self.tables -= 1
        if self.tables < 0:
            raise ValueError(f"it has more than {_TABLES} tables")
        vtable = position - int(self.scalar("i", position))
        slots = (int(self.scalar("H", vtable)) - 4) // 2
        record: Record = {}
        for slot, field in enumerate(self.schema[name][:slots]):
            at = int(self.scalar("H", vtable + 4 + 2 * slot))
            if at and field.name:
                record[field.name] = self.field(field, position + at, record)
        return record

    def field(self, field: Field, at: int, record: Record) -> Any:
        kind = field.kind
        if kind == "s":
            return bytes(self.vector("B", self.offset(at))).decode("utf-8", "replace")
        if kind == "u":
            union, known = int(record.get(f"{field.name}_type", 0)), UNIONS[field.name]
            if union >= len(known):
                raise ValueError(f"{field.name} of unknown type {union}")
            return self.table(known[union], self.offset(at)) if union else {}
        if kind == "@":
            return self.offset(at)
        if kind[0] != "[":
            return self.table(kind, self.offset(at)) if kind in self.schema else self.scalar(kind, at)
        if kind[1:] in self.schema:
            start = self.offset(at)
            count = self.count(start, 4)
            self.spend(4 * count)
            return [self.table(kind[1:], self.offset(start + 4 + 4 * i)) for i in range(count)]
        return self.vector(kind[1:], self.offset(at), weights=field.name == "data")

    def count(self, start: int, size: int) -> int:
        count = int(self.scalar("I", start))
        if start + 4 + count * size > len(self.view):
            raise ValueError(f"a vector of {count} elements at byte {start} passes the end")
        return count

    def vector(self, kind: str, start: int, weights: bool = False) -> np.ndarray:
        dtype = np.dtype(_NUMPY[kind]).newbyteorder("<")
        count = self.count(start, dtype.itemsize)
        if not weights:  # those stay views, however many share them
            self.spend(count * dtype.itemsize)
        return np.frombuffer(self.view, dtype, count, start + 4)


def write(model: Record) -> list[bytes | memoryview]:
    """The .tflite file of a ``Model`` record, as pieces to be written or joined one after another.

    Tables come first, in breadth-first order, then the data of the buffers, each aligned to 16 bytes.
    """
    return _Writer().model(model)


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray()
        self.vtables: dict[bytes, int] = {}
        self.shared: dict[int, int] = {}  # id of a record or vector already written -> position
        self.queue: list[tuple[int, str, Any]] = []  # (position of the reference, kind, value)
        self.data: list[tuple[int, np.ndarray]] = []

    def model(self, model: Record) -> list[bytes | memoryview]:
        self.out += b"\0\0\0\0" + _IDENTIFIER
        self.queue.append((0, "Model", model))
        for reference, kind, value in self.queue:  # grows while it is walked
            if kind == "Quantization" and id(value) in self.shared:  # files double when these are not shared
                position = self.shared[id(value)]
            else:
                position = self.shared[id(value)] = self.value(kind, value)
            struct.pack_into("<I", self.out, reference, position - reference)
        return list(self.pieces())

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Tables, then buffers; patches the buffers' references first, since the tables are one piece."""
        end = len(self.out)
        tail: list[bytes | memoryview] = []
        for reference, array in self.data:
            start = -(-(end + 4) // 16) * 16
            struct.pack_into("<I", self.out, reference, start - 4 - reference)
            raw = np.ascontiguousarray(array).reshape(-1).data if array.size else memoryview(b"")
            tail += [b"\0" * (start - 4 - end) + struct.pack("<I", len(raw)), raw]
            end = start + len(raw)
        if end >= 2**31:
            raise PlanError(f"a model of {end} bytes does not fit a .tflite file (2 GiB)")
        yield bytes(self.out)
        yield from tail

    def align(self, size: int, ahead: int = 0) -> None:
        self.out += bytes(-(len(self.out) + ahead) % size)

    def value(self, kind: str, value: Any) -> int:
        if kind == "s":
            raw = value.encode()
            return self.vector(np.frombuffer(raw + b"\0", np.uint8), len(raw))
        if kind in TABLES:
            return self.table(kind, value)
        if kind[1:] in TABLES:
            self.align(4)
            position = len(self.out)
            self.out += struct.pack("<I", len(value)) + bytes(4 * len(value))
            self.queue += [(position + 4 + 4 * i, kind[1:], item) for i, item in enumerate(value)]
            return position
        array = np.asarray(value, np.dtype(_NUMPY[kind[1:]]).newbyteorder("<"))
        return self.vector(array, array.size)

    def vector(self, array: np.ndarray, count: int) -> int:
        self.align(max(4, array.itemsize), 4)
        position = len(self.out)
        self.out += struct.pack("<I", count) + array.tobytes()
        return position

    def table(self, name: str, record: Record) -> int:
        kinds = {f.name: f for f in TABLES[name]}
        slots = [0] * len(TABLES[name])
        fields, size = [], 4
        present = [(i, f) for i, f in enumerate(TABLES[name]) if f.name and record.get(f.name) is not None]
        width = {
            f.name: struct.calcsize("<" + f.kind) if f.kind in "bBhHiIqQf?" else 4 for f in kinds.values() if f.name
        }
        for slot, field in sorted(present, key=lambda item: -width[item[1].name]):
            size += -size % width[field.name]
            slots[slot] = size
            fields.append((size, field))
            size += width[field.name]
        vtable = struct.pack(f"<{2 + len(slots)}H", 4 + 2 * len(slots), size, *slots)
        at = self.vtables.get(vtable)
        if at is None:
            self.align(2)
            at = self.vtables[vtable] = len(self.out)
            self.out += vtable
        self.align(8)
        position = len(self.out)
        self.out += struct.pack("<i", position - at) + bytes(size - 4)
        for offset, field in fields:
            self.put(position + offset, field, record)
        return position

    def put(self, position: int, field: Field, record: Record) -> None:
        value = record[field.name]
        if field.kind in "bBhHiIqQf?":
            struct.pack_into("<" + field.kind, self.out, position, value)
        elif field.kind == "u":
            self.queue.append((position, UNIONS[field.name][record[f"{field.name}_type"]], value))
        elif field.name == "data":
            self.data.append((position, value))
        else:
            self.queue.append((position, field.kind, value))
