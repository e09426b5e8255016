"""Files of others are read and written back unchanged; damaged and crafted ones end in a ``PlanError``, soon and small."""

import inspect
import re
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.graph import flatbuffer
from models.graph.build import build
from models.graph.file import Graph, Tensor, load, parse
from models.graph.tflite_schema import OPERATORS, OPTIONS, TABLES, TYPES
from models.running import engine
from models.tiling.partition import Partition
from schemas.contract.errors import PlanError
from tests.examples import examples
from tests.models.sketch import Sketch
from tests.paths import SHARED, shared

MODELS = sorted((SHARED / "data" / "models").glob("*.tflite"))
KINDS = {"Int8": "b", "Uint8": "B", "Uint16": "H", "Int32": "i", "Uint32": "I", "Int64": "q", "Uint64": "Q", "Bool": "?"}
KINDS |= {"Float32": "f"}
# Tables whose names in the schema are not ours, or are ours plus "Options".
NAMES = {"Quantization": "QuantizationParameters", "Tensor": "Tensor", "Opaque": None, "Sparsity": "SparsityParameters"}


@pytest.fixture(scope="module")
def official() -> ModuleType:
    reason = "only ai-edge-litert brings the schema module"
    module: ModuleType = pytest.importorskip("ai_edge_litert.schema_py_generated", reason=reason)
    return module


def source_slots(table: type) -> dict[str, tuple[int, str]]:
    """Field -> (slot, kind), as the generated accessors show them by the offsets and flags that they use."""
    found = {}
    for name, method in inspect.getmembers(table, inspect.isfunction):
        text = inspect.getsource(method)
        at = re.search(r"self\._tab\.Offset\((\d+)\)", text)
        if at is None or name.endswith(("AsNumpy", "Length", "IsNone")):
            continue
        flags = re.findall(r"flatbuffers\.number_types\.(\w+)Flags", text)
        own = [flag for flag in flags if flag not in ("UOffsetT", "VOffsetT")]
        vector = "self._tab.Vector(o)" in text
        if "self._tab.String" in text:
            kind = "s"
        elif "self._tab.Union" in text:
            kind = "u"
        elif own:
            kind = ("[" if vector else "") + KINDS[own[0]]
        else:
            kind = "[table" if vector else "table"
        found[re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()] = ((int(at[1]) - 4) // 2, kind)
    return found


def schema_name(table: str, module: ModuleType) -> str | None:
    if table in NAMES:
        return NAMES[table]
    return next((n for n in (f"{table}Options", table) if hasattr(module, n)), table)


@pytest.mark.parametrize("table", [name for name in TABLES if name != "Opaque"])
def test_slots_and_kinds_of_our_table_are_those_of_the_schema(table: str, official: ModuleType) -> None:
    name = schema_name(table, official)
    assert name is not None
    assert hasattr(official, name), f"the schema has no table {name}"
    theirs = source_slots(getattr(official, name))
    by_slot = {slot: (field, kind) for field, (slot, kind) in theirs.items()}
    for slot, field in enumerate(TABLES[table]):
        if not field.name:
            continue
        assert slot in by_slot, f"{table}.{field.name} is not in the schema"
        kind = field.kind
        if kind.lstrip("[") in TABLES:
            kind = "[table" if kind[0] == "[" else "table"
        if field.name == "builtin_options":
            assert by_slot[slot][1] == "u"
        elif field.kind != "Opaque":
            assert by_slot[slot][1] == kind, f"{table}.{field.name}"
        plain = re.sub(r"_", "", by_slot[slot][0]).lower()
        assert plain == field.name.replace("_", ""), f"slot {slot} of {table}"


def test_defaults_of_options_are_those_of_the_schema(official: ModuleType) -> None:
    for table in TABLES:
        name = schema_name(table, official)
        if name is None:
            continue
        fresh = getattr(official, name + "T")()
        values = {key.replace("_", "").lower(): value for key, value in vars(fresh).items()}
        for field in TABLES[table]:
            if field.name and field.kind in "bBhHiIqQf?" and (table, field.name) != ("Model", "version"):
                ours = 0 if (table, field.name) == ("OperatorCode", "version") else field.default
                theirs = values[field.name.replace("_", "")]
                assert float(theirs) == (1 if (table, field.name) == ("OperatorCode", "version") else ours), (
                    f"{table}.{field.name}"
                )


def names_of(enum: type) -> dict[str, int]:
    return {name: value for name, value in vars(enum).items() if isinstance(value, int) and not name.startswith("_")}


def test_operators_are_numbered_as_in_the_schema(official: ModuleType) -> None:
    theirs = names_of(official.BuiltinOperator)
    assert [theirs.get(name) for name in OPERATORS] == list(range(len(OPERATORS)))


def test_tensor_types_are_numbered_as_in_the_schema(official: ModuleType) -> None:
    theirs = {name.lower(): value for name, value in names_of(official.TensorType).items()}
    assert {name: theirs.get(name) for name in TYPES if name in theirs} == {
        name: TYPES.index(name) for name in TYPES if name in theirs
    }
    assert len(set(TYPES) & set(theirs)) >= 18


def test_unions_of_options_are_numbered_as_in_the_schema(official: ModuleType) -> None:
    theirs = {name.removesuffix("Options"): value for name, value in names_of(official.BuiltinOptions).items()}
    assert {name: theirs.get(name) for name in OPTIONS[1:]} == {name: i for i, name in enumerate(OPTIONS) if i}


def same_graph(a: Graph, b: Graph) -> None:
    assert (a.inputs, a.outputs, len(a.tensors), len(a.ops)) == (b.inputs, b.outputs, len(b.tensors), len(b.ops))
    for s, t in zip(a.tensors, b.tensors):
        assert (s.name, s.shape, s.dtype, s.quantization, s.variable) == (
            *(t.name, t.shape, t.dtype, t.quantization, t.variable),
        )
        assert (s.data is None) == (t.data is None)
        assert s.data is None or t.data is None or np.array_equal(s.data, t.data)
    for p, q in zip(a.ops, b.ops):
        assert (p.kind, p.inputs, p.outputs, p.options_type, p.version, p.custom_code, p.intermediates) == (
            *(q.kind, q.inputs, q.outputs, q.options_type, q.version, q.custom_code, q.intermediates),
        )
        assert plain(p.options) == plain(q.options)
        assert plain(p.custom_options) == plain(q.custom_options)


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_real_model_comes_back_unchanged(path: Path) -> None:
    graph = load(path)
    same_graph(graph, parse(graph.to_bytes()))


def test_there_are_real_models_to_read() -> None:
    shared("data/models")
    assert len(MODELS) >= 6


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_official_reader_reads_what_we_write(path: Path, official: ModuleType) -> None:
    graph = load(path)
    model = official.ModelT.InitFromPackedBuf(graph.to_bytes(), 0)
    sub = model.subgraphs[0]
    assert [t.name.decode() for t in sub.tensors] == [t.name for t in graph.tensors]
    assert [tuple(t.shape) if t.shape is not None else () for t in sub.tensors] == [t.shape for t in graph.tensors]
    assert [tuple(sub.inputs), tuple(sub.outputs)] == [graph.inputs, graph.outputs]
    for ours, theirs in zip(graph.tensors, sub.tensors):
        data = model.buffers[theirs.buffer].data
        assert (data is None or not len(data)) if ours.data is None else np.array_equal(ours.data, data)
        if ours.quantization:
            assert tuple(theirs.quantization.scale) == ours.quantization.scale
            assert tuple(theirs.quantization.zeroPoint) == ours.quantization.zero_point
    for op, theirs in zip(graph.ops, sub.operators, strict=True):
        code = model.operatorCodes[theirs.opcodeIndex]
        assert code.builtinCode == OPERATORS.index(op.kind)
        assert code.deprecatedBuiltinCode == min(code.builtinCode, 127)
        assert theirs.builtinOptionsType == op.options_type
        values = {} if theirs.builtinOptions is None else vars(theirs.builtinOptions)
        flat = {key.lower(): value for key, value in values.items()}
        for name, value in op.options.items():
            assert np.array_equal(flat[name.replace("_", "")], value), f"{op.kind}.{name}"


def buffer_starts(data: bytes) -> list[int]:
    """Where the data of each non-empty buffer begins in the file."""
    base = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    model = flatbuffer.read(data)
    found = [b["data"] for b in model["buffers"] if b.get("data") is not None and b["data"].size]
    return [array.__array_interface__["data"][0] - base for array in found]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_buffers_start_at_multiples_of_16(path: Path) -> None:
    starts = buffer_starts(load(path).to_bytes())
    assert len(starts) > 10
    assert all(start % 16 == 0 for start in starts)


def small() -> bytes:
    """A file with one of each kind of field."""
    net = Sketch((1, 9, 8, 3), "uint8", None)
    x = net.cast("DEQUANTIZE", 0, "float32")
    x = net.concat(*net.split(net.conv(x, 4, half=True), 2))
    return net.graph(net.prelu(net.pad(x, (1, 2), (0, 1)))).to_bytes()


def survives(data: bytes) -> None:
    """Reads, cuts and divides; nothing else than a ``PlanError`` may come of it."""
    try:
        partition = Partition(parse(data))
        for cut in partition.cuts[:3]:
            partition.tile_outputs(cut, 2, 2)
    except PlanError:
        pass


def test_a_file_cut_off_anywhere_is_a_plan_error() -> None:
    data = small()
    parse(data)
    for end in range(0, len(data) - 32, 3):
        with pytest.raises(PlanError):
            parse(data[:end])


def test_a_real_file_cut_off_anywhere_is_a_plan_error() -> None:
    data = shared("data/models/mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    for end in range(0, len(data) * 9 // 10, len(data) // 97):  # its last buffers are not read by anything
        with pytest.raises(PlanError):
            parse(data[:end])


@examples(700)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_are_a_plan_error_or_another_model(flips: list[tuple[int, int]]) -> None:
    data = bytearray(small())
    for at, value in flips:
        data[at % len(data)] = value
    survives(bytes(data))


@examples(700)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**6), st.sampled_from([0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0, 64])
        ),
        min_size=1,
        max_size=3,
    )
)
def test_offsets_that_lead_nowhere_are_a_plan_error_or_another_model(words: list[tuple[int, int]]) -> None:
    data = bytearray(small())
    for at, value in words:
        struct.pack_into("<I", data, at % (len(data) // 4) * 4, value)
    survives(bytes(data))


@examples(200)
@given(st.binary(max_size=300))
def test_noise_behind_the_identifier_is_a_plan_error(noise: bytes) -> None:
    survives(b"\x10\0\0\0TFL3" + noise)
    with pytest.raises(PlanError):
        parse(noise)


def unfolding() -> bytes:
    """``Model.subgraphs`` with 20,000 entries that lead to one subgraph of 20,000 entries that lead to one tensor."""
    count = 20_000
    out = bytearray(b"\0\0\0\0TFL3")

    def table(*slots: int) -> int:
        """A table of references, to be pointed later; returns its position."""
        wide = max(slots) + 1
        offsets = [4 + 4 * slot if slot in slots else 0 for slot in range(wide)]
        begin = len(out)
        out.extend(struct.pack(f"<{2 + wide}H", 4 + 2 * wide, 4 + 4 * wide, *offsets))
        out.extend(b"\0" * (-len(out) % 4))
        position = len(out)
        out.extend(struct.pack("<i", position - begin) + b"\0" * (4 * wide))
        return position

    def vector() -> int:
        position = len(out)
        out.extend(struct.pack("<I", count) + b"\0" * (4 * count))
        return position

    def point(reference: int, target: int) -> None:
        struct.pack_into("<I", out, reference, target - reference)

    model = table(2)
    point(0, model)
    subgraphs = vector()
    point(model + 4 + 8, subgraphs)
    subgraph = table(0)
    tensors = vector()
    point(subgraph + 4, tensors)
    tensor = table(3)
    name = len(out)
    out.extend(struct.pack("<I", 40_000) + b"n" * 40_000)
    point(tensor + 4 + 12, name)
    for i in range(count):
        point(subgraphs + 4 + 4 * i, subgraph)
        point(tensors + 4 + 4 * i, tensor)
    return bytes(out)


def test_a_small_file_whose_references_all_lead_to_one_place_is_refused_soon_and_small() -> None:
    data = unfolding()
    tracemalloc.start()
    begin = time.thread_time()
    with pytest.raises(PlanError, match="larger than the file"):
        parse(data)
    assert time.thread_time() - begin < 5
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()


def refused(change: Callable[[Any], None], words: str) -> None:
    """A small good file, read, changed and written again, is refused with these words."""
    record = flatbuffer.read(small())
    change(record)
    with pytest.raises(PlanError, match=words):
        parse(b"".join(flatbuffer.write(record)))


def test_a_file_of_very_many_tables_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatbuffer, "_TABLES", 2_000)
    for count, refusal in ((1_900, "no subgraph"), (2_000, "more than 2000 tables")):
        many: Any = {"buffers": [{}] * count, "subgraphs": []}
        with pytest.raises(PlanError, match=refusal):
            parse(b"".join(flatbuffer.write(many)))


def test_more_operators_than_can_be_planned_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def multiply(record: Any) -> None:
        record["subgraphs"][0]["operators"] *= 101

    monkeypatch.setattr("models.graph.file._MAX_OPS", 100)
    refused(multiply, "operators: at most 100")


def test_shapes_that_no_memory_holds_are_refused() -> None:
    def shape(*sizes: int) -> Callable[[Any], None]:
        return lambda record: record["subgraphs"][0]["tensors"][0].update(shape=np.array(sizes, np.int32))

    refused(shape(*[2**31 - 1] * 4), "larger than 2147483648 bytes")
    refused(shape(0, *[2**31 - 1] * 4), "larger than 2147483648 bytes")  # what is empty has strides all the same
    refused(shape(1, 2**30, 1, 3), "larger than")
    refused(shape(*[1] * 17), "shape")
    refused(shape(1, -1, 8, 3), "shape")


def test_options_of_an_unknown_type_are_refused_even_if_there_are_none() -> None:
    def unknown(record: Any) -> None:
        operator = record["subgraphs"][0]["operators"][0]
        operator.pop("builtin_options", None)
        operator["builtin_options_type"] = 200

    refused(unknown, "options of unknown type 200")


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_finite_number_is_refused(scale: float) -> None:
    def spoil(record: Any) -> None:
        record["subgraphs"][0]["tensors"][0]["quantization"] = {"scale": np.array([scale], np.float32)}

    refused(spoil, "scale that is not finite")


def test_names_that_move_a_cursor_are_read_in_one_line_and_stay_apart() -> None:
    record = flatbuffer.read(small())
    tensors = record["subgraphs"][0]["tensors"]
    tensors[0]["name"], tensors[1]["name"] = "a\x1b[2J\nb", "a\x1b[2J\rb"
    names = [t.name for t in parse(b"".join(flatbuffer.write(record))).tensors]
    assert names[:2] == ["a [2J b", "a [2J b#1"] and all(name.isprintable() for name in names)


@pytest.mark.parametrize("dtype", ["string", "resource", "int4", "bfloat16", "variant"])
def test_tensors_of_any_dtype_have_a_size(dtype: str) -> None:
    tensor = Tensor("x", (2, 3), dtype)
    assert tensor.nbytes == 6 * tensor.itemsize > 0


def test_a_table_that_is_its_own_part_is_a_plan_error() -> None:
    data = bytearray(small())
    root = struct.unpack_from("<I", data, 0)[0]
    vtable = root - struct.unpack_from("<i", data, root)[0]
    at = root + struct.unpack_from("<H", data, vtable + 4 + 2 * 2)[0]  # Model.subgraphs
    vector = at + struct.unpack_from("<I", data, at)[0]
    for target in (vector, root, 0):
        struct.pack_into("<I", data, vector + 4, (target - vector - 4) % 2**32)
        with pytest.raises(PlanError):
            parse(bytes(data))


def planted(change: Callable[[flatbuffer.Record], None]) -> bytes:
    """The small file with one change to what it says."""
    model = flatbuffer.read(small())
    change(model)
    return b"".join(flatbuffer.write(model))


def set_index(model: flatbuffer.Record, where: str, value: int) -> None:
    record = model["subgraphs"][0] if where == "outputs" else model["subgraphs"][0]["operators"][2]
    name = where.removeprefix("op ")
    record[name] = np.array([value, *record[name][1:]], np.int32)


DAMAGE: list[tuple[str, Callable[[flatbuffer.Record], None]]] = [
    ("tensor 999 of", lambda m: set_index(m, "op inputs", 999)),
    ("tensor -2 of", lambda m: set_index(m, "op inputs", -2)),
    ("tensor 999 of", lambda m: set_index(m, "outputs", 999)),
    ("no input or no output", lambda m: set_index(m, "outputs", -1)),
    ("a second time", lambda m: set_index(m, "op outputs", 0)),
    ("a second time", lambda m: set_index(m, "op outputs", -1)),
    ("before it is made", lambda m: m["subgraphs"][0]["operators"].reverse()),
    ("has code 99 of", lambda m: m["subgraphs"][0]["operators"][0].update(opcode_index=99)),
    ("newer schema", lambda m: m["operator_codes"][0].update(builtin_code=206, deprecated_builtin_code=127)),
    ("has type 77", lambda m: m["subgraphs"][0]["tensors"][0].update(type=77)),
    ("buffer 999 of", lambda m: m["subgraphs"][0]["tensors"][0].update(buffer=999)),
    ("and shape", lambda m: m["subgraphs"][0]["tensors"][0].update(shape=np.array([1, -9, 8, 3], np.int32))),
    ("no subgraph", lambda m: m.update(subgraphs=[])),
    ("bytes, not", lambda m: m["buffers"][1].update(data=m["buffers"][1]["data"][:-1])),
    ("bytes, not", lambda m: m["buffers"][1].update(data=np.append(m["buffers"][1]["data"], np.uint8(0)))),
]


@pytest.mark.parametrize(("message", "change"), DAMAGE, ids=[f"{i} {m}" for i, (m, _) in enumerate(DAMAGE)])
def test_a_model_that_contradicts_itself_is_refused_and_told_why(
    message: str, change: Callable[[flatbuffer.Record], None]
) -> None:
    with pytest.raises(PlanError, match=message):
        parse(planted(change))


def test_an_operator_past_127_is_written_with_both_codes() -> None:
    """Old readers find 127 in the byte that is too small, new ones take the larger of the two."""
    net = Sketch((1, 4, 4, 3))
    net.unary("RELU_0_TO_1", 0)
    code = flatbuffer.read(net.graph().to_bytes())["operator_codes"][0]
    assert (code["builtin_code"], code["deprecated_builtin_code"]) == (OPERATORS.index("RELU_0_TO_1"), 127)


def test_a_table_whose_layout_lies_before_the_file_is_refused() -> None:
    data = bytearray(small())
    root = struct.unpack_from("<I", data, 0)[0]
    struct.pack_into("<i", data, root, root + 64)
    with pytest.raises(PlanError, match="before the start"):
        parse(bytes(data))


def test_a_vector_that_passes_the_end_of_the_file_is_refused() -> None:
    data = bytearray(small())
    starts = sorted(buffer_starts(bytes(data)))
    struct.pack_into("<I", data, starts[-1] - 4, len(data) - starts[-1] + 1)
    with pytest.raises(PlanError, match="passes the end"):
        parse(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"TFL3", b"not a model at all", b"\0" * 64, b"\xff\xff\xff\xffTFL3" + b"\xff" * 60]
)
def test_what_is_no_model_is_a_plan_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    with pytest.raises(PlanError, match=re.escape(str(path))):
        load(path)


def test_a_missing_file_and_a_folder_are_plan_errors_that_name_them(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tflite", tmp_path):
        with pytest.raises(PlanError, match=re.escape(str(path))):
            load(path)


def test_quantization_and_constants_are_written_once_however_many_share_them() -> None:
    net = Sketch((1, 4, 4, 3))
    filters = net.constant(net.normal(3, 1, 1, 3))
    for _ in range(10):
        net.tensors.append(net.tensors[filters])
        net.op("ADD", [0 if not net.ops else net.ops[-1].outputs[0], len(net.tensors) - 1], net.like(0), "Add")
    data = net.graph().to_bytes()
    assert len(buffer_starts(data)) == 1


def test_names_are_made_unique_short_and_stay_so() -> None:
    net = Sketch((1, 4, 4, 3))
    for _ in range(4):
        net.unary("RELU", len(net.tensors) - 1)
    for i, name in enumerate(["a", "a#2", "a", "", "n" * 300]):
        net.tensors[i] = replace(net.tensors[i], name=name)
    names = [t.name for t in parse(net.graph().to_bytes()).tensors]
    assert len(set(names)) == 5
    assert max(map(len, names)) <= 200
    assert names[:2] == ["a", "a#2"]
    again = [t.name for t in parse(parse(net.graph().to_bytes()).to_bytes()).tensors]
    assert again == names


def test_a_built_network_comes_back_unchanged() -> None:
    graph = parse(build("mini", 96).to_bytes())  # what Python holds as float64 is float32 from here on
    same_graph(graph, parse(graph.to_bytes()))


def test_weights_behind_the_flatbuffer_are_read_from_there() -> None:
    whole = build("mini", size=32).to_bytes()
    record, behind = flatbuffer.read(whole), b""
    outside = [i for i, b in enumerate(record["buffers"]) if "data" in b and b["data"].size > 64]
    sizes = {i: record["buffers"][i]["data"].size for i in outside}
    start = 1 << 24  # beyond the flatbuffer
    for i in outside:
        weights = record["buffers"][i].pop("data")
        record["buffers"][i] |= {"offset": start + len(behind), "size": sizes[i]}
        behind += weights.tobytes()
    inner = b"".join(flatbuffer.write(record))
    moved = inner.ljust(start, b"\0") + behind
    assert outside and len(inner) < len(whole) / 2
    same_graph(parse(moved), parse(whole))
    image = np.ones((1, 32, 32, 3), np.float32)
    assert np.array_equal(engine.load(moved).run([image])[0], engine.load(whole).run([image])[0])
    with pytest.raises(PlanError, match="a buffer of"):
        parse(moved[:-1])
