"""A .tflite as a small graph: tensors, operators in execution order, inputs and outputs. Reads and writes the file.

Only what a runtime needs is kept: the first subgraph, constants as views of the file, operator options as plain dicts.
Sparse weights become dense. What we could not carry over unchanged (control flow, StableHLO operators) is refused by name.
"""

import functools
import math
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.graph import flatbuffer
from models.graph.sparse import densified
from models.graph.tflite_schema import OPERATORS, OPTIONS, TABLES, TYPES
from schemas.contract.errors import PlanError
from schemas.contract.plan import hasher
from schemas.contract.text import one_line
from schemas.host.files import check_file

_MAX_RANK, _MAX_BYTES = 16, 2**31  # of a tensor
_MAX_OPS = 10_000
_SPARSEST = 64  # elements of a sparse tensor for each value that it stores
_EDGE_TPU = "edgetpu-custom-op"
_PIECE_BYTES = 1 << 20
_MAX_NAME = 200  # exporters join the names of all that they fused
MOVES = "MOVES"  # see Op.parts


@dataclass(frozen=True)
class Quantization:
    """Affine quantization: ``real = scale * (q - zero_point)``, per tensor or along ``axis``."""

    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int = 0


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph; ``data`` (raw bytes, uint8) is present for constants.

    ``buffer`` is the number of its buffer in the file that it was read from (0: none yet), and is kept when a graph of
    parts of that file is written: the runtime's weight cache knows weights by this number alone.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None
    data: np.ndarray | None = None
    variable: bool = False
    buffer: int = 0

    @property
    def itemsize(self) -> int:
        """Bytes of an element; of strings, whose elements differ, and of packed ones a byte."""
        return _itemsize(self.dtype)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.itemsize

    def array(self) -> np.ndarray:
        """The constant's values, in its dtype and shape."""
        assert self.data is not None
        return self.data.view(self.dtype).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Op:
    """An operator: ``kind`` is its name in the schema, inputs and outputs are indices of tensors (-1: absent).

    One of kind ``MOVES`` stands for ``parts``, whose tensors are places among its inputs, intermediates and outputs; a
    file holds the parts.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_type: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    custom_code: str | None = None
    custom_options: np.ndarray | None = None
    intermediates: tuple[int, ...] = ()
    parts: "tuple[Op, ...]" = ()

    def option(self, name: str) -> Any:
        """An option, or its default in the schema."""
        for slot in TABLES[OPTIONS[self.options_type]] if self.options_type else ():
            if slot.name == name:
                return self.options.get(name, int(slot.default))
        return 0

    def moved(self, new: Mapping[int, int]) -> "Op":
        """The same operator on tensors that have other numbers."""
        inputs, outputs, between = (
            tuple(new[t] for t in those) for those in (self.inputs, self.outputs, self.intermediates)
        )
        return replace(self, inputs=inputs, outputs=outputs, intermediates=between)

    @property
    def label(self) -> str:
        if self.parts:
            return "+".join(dict.fromkeys(op.kind for op in self.parts))
        return one_line(self.custom_code or self.kind)[:_MAX_NAME] if self.kind == "CUSTOM" else self.kind


@dataclass(frozen=True, eq=False)
class Graph:
    """A model. Operators stand in execution order; every tensor has at most one producer."""

    tensors: Sequence[Tensor]
    ops: Sequence[Op]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    file: mmap.mmap | None = None  # of which its constants are views

    def release(self) -> None:
        """Gives the pages of its file back, which come again when they are read."""
        if self.file is not None:
            self.file.madvise(mmap.MADV_DONTNEED)

    @functools.cached_property
    def producer(self) -> dict[int, int]:
        """Tensor -> operator that makes it."""
        return {t: i for i, op in enumerate(self.ops) for t in op.outputs}

    @functools.cached_property
    def consumers(self) -> dict[int, list[int]]:
        """Tensor -> operators that read it."""
        found: dict[int, list[int]] = {}
        for i, op in enumerate(self.ops):
            for t in dict.fromkeys(op.inputs):
                if t >= 0:
                    found.setdefault(t, []).append(i)
        return found

    @functools.cached_property
    def constant(self) -> frozenset[int]:
        """Tensors whose value does not depend on an input: data, and what is computed of data alone."""
        known = {i for i, t in enumerate(self.tensors) if t.data is not None}
        for op in self.ops:
            if op.inputs and all(t < 0 or t in known for t in op.inputs) and op.kind in ("DEQUANTIZE", "CAST"):
                known.update(op.outputs)
        return frozenset(known)

    @functools.cached_property
    def by_name(self) -> dict[str, int]:
        return {t.name: i for i, t in enumerate(self.tensors)}

    def data_inputs(self, op: Op) -> list[int]:
        """The op's inputs that depend on the model's inputs."""
        return [t for t in op.inputs if t >= 0 and t not in self.constant]

    def pruned(self) -> "Graph":
        """This graph with only what its outputs need, tensors renumbered. Declared inputs stay, used or not."""
        wanted, ops = set(self.outputs), []
        for op in reversed(self.ops):
            if wanted.intersection(op.outputs):
                ops.append(op)
                wanted.update(t for t in op.inputs if t >= 0)
        keep = sorted(wanted.union(self.inputs, *(op.outputs for op in ops), *(op.intermediates for op in ops)))
        new = {old: i for i, old in enumerate(keep)} | {-1: -1}

        def move(indices: Iterable[int]) -> tuple[int, ...]:
            return tuple(new[t] for t in indices)

        return Graph(
            [self.tensors[t] for t in keep],
            [op.moved(new) for op in reversed(ops)],
            move(self.inputs),
            move(self.outputs),
        )

    def pieces(self) -> list[bytes | memoryview]:
        """The .tflite file of this graph, in pieces (weights are not copied)."""
        return flatbuffer.write(_to_record(self._in_parts()))

    def _in_parts(self) -> "Graph":
        """With the parts of operators that have some in their places."""
        if not any(op.parts for op in self.ops):
            return self
        ops: list[Op] = []
        for op in self.ops:
            places = dict(enumerate((*op.inputs, *op.intermediates, *op.outputs))) | {-1: -1}
            ops += [part.moved(places) for part in op.parts] or [op]
        return Graph(self.tensors, ops, self.inputs, self.outputs)

    def to_bytes(self) -> bytes:
        return b"".join(self.pieces())


def load(path: str | Path, is_open: bool = False) -> Graph:
    """Reads a .tflite file; its weights stay mapped, not copied. ``is_open``: heights and widths may be left open, as 1.

    Raises:
        PlanError: no such file, no TFLite flatbuffer, damaged, or with something that we do not carry over.
    """
    path = Path(path)
    check_file(path, "model")
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        reason = error.strerror if isinstance(error, OSError) else "the file is empty"
        raise PlanError(f"cannot read the model {path}: {reason}") from error
    try:
        graph = replace(parse(memoryview(data), is_open), file=data)
        graph.release()
        return graph
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def file_digest(path: str | Path) -> str:
    """Digest of a model file, as ``schemas.contract.plan.digest``; it is read in pieces and need not fit into the memory."""
    found = hasher()
    with Path(path).open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
    return found.hexdigest()


def parse(data: bytes | memoryview, is_open: bool = False) -> Graph:
    """The graph of a .tflite flatbuffer; constants are views of ``data``.

    Raises:
        PlanError: see ``load``.
    """
    model = flatbuffer.read(data)
    subgraphs = model.get("subgraphs", [])
    if not subgraphs:
        raise PlanError("the model has no subgraph")
    sub = subgraphs[0]
    codes = [_kind(code) for code in model.get("operator_codes", [])]
    buffers = [_buffer(b, data) for b in model.get("buffers", [])]
    records = sub.get("tensors", [])
    tensors = _unique([_tensor(t, buffers) for t in records])
    if len(sub.get("operators", [])) > _MAX_OPS:
        raise PlanError(f"the model has {len(sub['operators'])} operators: at most {_MAX_OPS} are planned")
    ops = [_op(i, o, codes, len(tensors)) for i, o in enumerate(sub.get("operators", []))]
    if len(subgraphs) > 1 and any(op.kind in ("IF", "WHILE", "CALL", "CALL_ONCE") for op in ops):
        raise PlanError("the model has control flow (IF, WHILE, CALL): convert it without, or run it on one machine")
    for op in ops:
        if op.kind in ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"):
            raise PlanError(f"the model has variables that were never frozen ({op.kind}): convert it again, from a SavedModel")
        if op.custom_code == _EDGE_TPU:
            raise PlanError("the model is compiled for an Edge TPU: take the file from before, without _edgetpu in its name")
    tensors, ops = _densified(tensors, ops, {i for i, record in enumerate(records) if "sparsity" in record})
    inputs, outputs = (_indices(sub.get(end, ()), len(tensors)) for end in ("inputs", "outputs"))
    for t in () if is_open else inputs:
        _check_signature(tensors[t].name, records[t].get("shape_signature", ()) if t >= 0 else ())
    graph = Graph(tensors, ops, inputs, outputs)
    _check(graph)
    return graph


def _densified(tensors: Sequence[Tensor], ops: Sequence[Op], sparse: set[int]) -> tuple[list[Tensor], list[Op]]:
    """With what DENSIFY makes of sparse constants, which ``_tensor`` has read as dense ones, as constants."""
    made, kept = list(tensors), list[Op]()
    for op in ops:
        if op.kind == "DENSIFY" and op.inputs[:1] and op.inputs[0] in sparse and op.outputs[:1]:
            given, spec = tensors[op.inputs[0]], tensors[op.outputs[0]]
            if (given.shape, given.dtype) != (spec.shape, spec.dtype):
                raise PlanError(f"damaged .tflite file: DENSIFY of {given.name!r} makes another shape")
            made[op.outputs[0]] = replace(spec, data=given.data)
        elif sparse.intersection(op.inputs):
            name = next(tensors[t].name for t in op.inputs if t in sparse)
            raise PlanError(f"{op.label} reads the sparse tensor {name!r}: convert the model without sparsity")
        else:
            kept.append(op)
    return made, kept


def _check_signature(name: str, signature: Sequence[int]) -> None:
    """Whether all of an input's shape is fixed but for the batch, which counts as 1."""
    if any(int(n) < 0 for n in signature[1:]):
        told = "x".join("?" if n < 0 else str(n) for n in map(int, signature))
        raise PlanError(f"the size of {name!r} is open ({told}): fix it by 'dt import fixed MODEL --size HxW --out FILE'")


def _kind(code: dict[str, Any]) -> tuple[str, int, str | None]:
    number = max(code.get("builtin_code", 0), code.get("deprecated_builtin_code", 0))
    kind = OPERATORS[number] if 0 <= number < len(OPERATORS) else f"OPERATOR_{number}"
    return kind, code.get("version", 1), code.get("custom_code")


def _indices(values: Iterable[int], count: int) -> tuple[int, ...]:
    indices = tuple(int(v) for v in values)
    for index in indices:
        if not -1 <= index < count:
            raise PlanError(f"damaged .tflite file: tensor {index} of {count}")
    return indices


def _buffer(record: dict[str, Any], data: bytes | memoryview) -> np.ndarray | None:
    """A buffer's bytes, in the flatbuffer or behind it, where quantizers put what is large."""
    offset, size = record.get("offset", 0), record.get("size", 0)
    if offset <= 1:
        return record.get("data")
    if offset + size > len(data):
        raise PlanError(f"damaged .tflite file: a buffer of {size} bytes at {offset} in a file of {len(data)}")
    return np.frombuffer(data, np.uint8, size, offset)


def _tensor(record: dict[str, Any], buffers: list[np.ndarray | None]) -> Tensor:
    name = one_line(record.get("name", ""))
    kind = record.get("type", 0)
    shape = tuple(int(n) for n in record.get("shape", ()))
    if not 0 <= kind < len(TYPES) or len(shape) > _MAX_RANK or any(n < 0 for n in shape):
        raise PlanError(f"damaged .tflite file: tensor {name[:_MAX_NAME]!r} has type {kind} and shape {shape[:_MAX_RANK]}")
    if math.prod(max(n, 1) for n in shape) * _itemsize(TYPES[kind]) > _MAX_BYTES:
        raise PlanError(f"tensor {name[:_MAX_NAME]!r} of {shape} is larger than {_MAX_BYTES} bytes")
    if record.get("buffer", 0) >= len(buffers):
        raise PlanError(f"damaged .tflite file: tensor {name!r} has buffer {record.get('buffer')} of {len(buffers)}")
    data = buffers[record.get("buffer", 0)]
    data = data if data is not None and data.size else None
    number = record.get("buffer", 0) if data is not None else 0
    if "sparsity" in record:
        data, number = _dense(name, TYPES[kind], shape, data, record["sparsity"]), 0
    tensor = Tensor(name, shape, TYPES[kind], _quantization(record), data, bool(record.get("is_variable", False)), number)
    if tensor.quantization and not np.isfinite(tensor.quantization.scale).all():
        raise PlanError(f"damaged .tflite file: tensor {name[:_MAX_NAME]!r} has a scale that is not finite")
    if data is not None and kind != TYPES.index("string") and _stored(tensor) != data.size:
        raise PlanError(f"damaged .tflite file: tensor {name!r} {shape} has {data.size} bytes, not {_stored(tensor)}")
    return tensor


def _dense(name: str, dtype: str, shape: tuple[int, ...], data: np.ndarray | None, record: dict[str, Any]) -> np.ndarray:
    if data is None or dtype not in ("float32", "float16", "int8") or data.size % _itemsize(dtype):
        raise PlanError(f"tensor {name!r} is sparse and {dtype}: convert the model without sparsity")
    values = data.view(dtype)
    if math.prod(shape) > _SPARSEST * max(len(values), 1):
        raise PlanError(f"tensor {name!r} of {shape} is sparse with {len(values)} values: convert the model without sparsity")
    try:
        return densified(values, shape, record).reshape(-1).view(np.uint8)
    except (ValueError, IndexError) as error:
        raise PlanError(f"damaged .tflite file: {name!r}: {error}") from error


def _stored(tensor: Tensor) -> int:
    elements = math.prod(tensor.shape)
    if tensor.dtype in ("int4", "uint4"):
        return (elements + 1) // 2
    if tensor.dtype == "int2":
        return (elements + 3) // 4
    return elements * _itemsize(tensor.dtype)


def _itemsize(dtype: str) -> int:
    sizes = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "resource": 4, "variant": 4}
    sizes |= dict.fromkeys(("string", "int4", "uint4", "int2"), 1)
    return sizes[dtype] if dtype in sizes else np.dtype(dtype).itemsize


def _quantization(record: dict[str, Any]) -> Quantization | None:
    raw = record.get("quantization")
    if not raw or not len(raw.get("scale", ())):
        return None
    if "details" in raw:
        raise PlanError(f"tensor {record.get('name', '')!r} is quantized in a custom or blockwise way: not supported")
    zero = raw.get("zero_point", ())
    return Quantization(
        tuple(float(s) for s in raw["scale"]), tuple(int(z) for z in zero), int(raw.get("quantized_dimension", 0))
    )


def _unique(tensors: list[Tensor]) -> list[Tensor]:
    """Names identify tensors on the wire and in plans, so every tensor gets one of its own, of sane length and in a line."""
    seen: set[str] = set()
    named = []
    for i, tensor in enumerate(tensors):
        name, again = tensor.name, i
        while not name or name in seen or len(name) > _MAX_NAME:
            name, again = f"{tensor.name[: _MAX_NAME - 20] or 'tensor'}#{again}", again + len(tensors)
        seen.add(name)
        named.append(tensor if name == tensor.name else replace(tensor, name=name))
    return named


def _op(index: int, record: dict[str, Any], codes: list[tuple[str, int, str | None]], tensors: int) -> Op:
    opcode = record.get("opcode_index", 0)
    if opcode >= len(codes):
        raise PlanError(f"damaged .tflite file: operator {index} has code {opcode} of {len(codes)}")
    kind, version, custom = codes[opcode]
    options = record.get("builtin_options_type", 0)
    if options >= len(OPTIONS):
        raise PlanError(f"damaged .tflite file: operator {index} ({kind}) has options of unknown type {options}")
    if kind.startswith("OPERATOR_") or record.get("builtin_options_2_type"):
        raise PlanError(f"operator {index} ({kind}) is of a newer schema (StableHLO): convert the model without it")
    return Op(
        kind,
        _indices(record.get("inputs", ()), tensors),
        _indices(record.get("outputs", ()), tensors),
        options,
        record.get("builtin_options", {}),
        version,
        custom,
        record.get("custom_options"),
        _indices(record.get("intermediates", ()), tensors),
    )


def _check(graph: Graph) -> None:
    """Every tensor is made at most once and before it is read: what the other modules rely on."""
    if not graph.inputs or not graph.outputs or min(graph.inputs + graph.outputs) < 0:
        raise PlanError("the model has no input or no output")
    made = {i for i, t in enumerate(graph.tensors) if t.data is not None or t.variable} | set(graph.inputs)
    for i, op in enumerate(graph.ops):
        for t in op.inputs:
            if t >= 0 and t not in made and graph.producer.get(t, -1) >= i:
                raise PlanError(f"damaged .tflite file: operator {i} ({op.kind}) reads tensor {t} before it is made")
        for t in op.outputs:
            if t < 0 or t in made:
                raise PlanError(f"damaged .tflite file: operator {i} ({op.kind}) makes tensor {t} a second time")
            made.add(t)
    for t in graph.outputs:
        if t not in made:
            raise PlanError(f"damaged .tflite file: nothing makes output {t}")


def _to_record(graph: Graph) -> flatbuffer.Record:
    codes: dict[tuple[str, int, str | None], int] = {}
    buffers, stored = _number_buffers(graph)
    quantizations: dict[Quantization, flatbuffer.Record] = {}
    tensors = []
    for tensor in graph.tensors:
        record = {
            "shape": np.array(tensor.shape, np.int32),
            "type": TYPES.index(tensor.dtype),
            "buffer": 0 if tensor.data is None else stored[_place(tensor.data)],
            "name": tensor.name,
            "is_variable": tensor.variable,
            "has_rank": True,
        }
        if tensor.quantization:
            q = tensor.quantization
            record["quantization"] = quantizations.setdefault(
                q,
                {
                    "scale": np.array(q.scale, np.float32),
                    "zero_point": np.array(q.zero_point, np.int64),
                    "quantized_dimension": q.axis,
                },
            )
        tensors.append(record)
    operators = [_op_record(op, codes) for op in graph.ops]
    return {
        "version": 3,
        "operator_codes": [_code_record(*code) for code in codes],
        "subgraphs": [
            {
                "tensors": tensors,
                "inputs": np.array(graph.inputs, np.int32),
                "outputs": np.array(graph.outputs, np.int32),
                "operators": operators,
                "name": "main",
            }
        ],
        "description": "",
        "buffers": buffers,
    }


def _place(data: np.ndarray) -> tuple[int, int]:
    """Address and size: a part may begin where the whole does."""
    return int(data.__array_interface__["data"][0]), data.size


def _number_buffers(graph: Graph) -> tuple[list[flatbuffer.Record], dict[tuple[int, int], int]]:
    """The file's buffers, and the number of each constant's by its place: the number that it has, or a new one."""
    constants = [t for t in graph.tensors if t.data is not None]
    stored = {_place(t.data): t.buffer for t in constants if t.data is not None and t.buffer}
    buffers: list[flatbuffer.Record] = [{} for _ in range(max(stored.values(), default=0) + 1)]
    for tensor in constants:
        assert tensor.data is not None
        number = stored.setdefault(_place(tensor.data), len(buffers))
        if number == len(buffers):
            buffers.append({})
        buffers[number]["data"] = tensor.data
    return buffers, stored


def _code_record(kind: str, version: int, custom: str | None) -> flatbuffer.Record:
    number = OPERATORS.index(kind)
    return {
        "deprecated_builtin_code": min(number, 127),
        "builtin_code": number,
        "version": version,
        "custom_code": custom,
    }


def _op_record(op: Op, codes: dict[tuple[str, int, str | None], int]) -> flatbuffer.Record:
    record: flatbuffer.Record = {
        "opcode_index": codes.setdefault((op.kind, op.version, op.custom_code), len(codes)),
        "inputs": np.array(op.inputs, np.int32),
        "outputs": np.array(op.outputs, np.int32),
    }
    if op.options_type:
        record["builtin_options_type"] = op.options_type
        record["builtin_options"] = op.options
    if op.custom_options is not None:
        record["custom_options"] = op.custom_options
    if op.intermediates:
        record["intermediates"] = np.array(op.intermediates, np.int32)
    return record
