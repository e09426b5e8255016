"""Graphs as tiles can be cut of them: shapes folded, sparse weights dense, images NHWC; the same bits as the file's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dt_cli.main import app
from models.bundle import make_bundle
from models.fixing import fixed
from models.graph import flatbuffer
from models.graph.file import Graph, Op, load, parse
from models.graph.ops import SAME
from models.graph.prepare import channels_last, folded, prepared
from models.graph.sparse import densified
from models.tiling.partition import Partition
from models.verify import Verifier
from schemas.contract.errors import EngineError, PlanError
from tests.models.sketch import Sketch, quantized, run
from tests.models.test_equality import picture
from tests.paths import shared

# --- what is computed of shapes


def open_batch() -> Graph:
    """A deconvolution whose output's size is packed of its input's shape, as Keras exports it."""
    net = Sketch((1, 12, 12, 3))
    x = net.conv(0, 4, stride=(2, 2))
    shape = net.op("SHAPE", [x], net.tensor((4,), "int32"), "Shape", out_type=2)
    one, zero = net.constant(np.array([1], np.int32)), net.constant(np.array([0], np.int32))
    batch = net.op(
        "STRIDED_SLICE", [shape, zero, one, one], net.tensor((), "int32"), "StridedSlice", shrink_axis_mask=1
    )
    sizes = [net.constant(np.array(n, np.int32)) for n in (12, 4)]
    packed = net.op("PACK", [batch, sizes[0], sizes[0], sizes[1]], net.tensor((4,), "int32"), "Pack", values_count=4)
    y = net.transpose_conv(x, 4, (3, 3), (2, 2), SAME)
    net.ops[-1] = replace(net.ops[-1], inputs=(packed, *net.ops[-1].inputs[1:]))
    return net.graph(net.conv(y, 3))


def test_what_is_computed_of_shapes_is_constant() -> None:
    graph = open_batch()
    done = prepared(graph)
    assert [op.kind for op in done.ops] == ["CONV_2D", "TRANSPOSE_CONV", "CONV_2D"]
    assert done.tensors[done.ops[1].inputs[0]].array().tolist() == [1, 12, 12, 4]
    assert prepared(done) is done and Partition(graph).blockers == []


@pytest.mark.parametrize("grid", [(2, 2), (3, 3)])
def test_a_model_of_an_open_batch_equals_itself_with_a_batch_of_one(grid: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "open.tflite"
    path.write_bytes(open_batch().to_bytes())
    bundle = make_bundle(path, grid, "end")
    cuts, outputs = Verifier(bundle).check(picture(bundle))
    assert not [d for d in (*cuts, *outputs) if d.differing]


FOLDS: list[tuple[str, str, list[np.ndarray], dict[str, int], np.ndarray]] = [
    ("STRIDED_SLICE", "StridedSlice", [np.arange(6), np.array([1]), np.array([0]), np.array([2])], {"end_mask": 1},
     np.array([1, 3, 5])),
    ("SLICE", "Slice", [np.arange(6), np.array([2]), np.array([-1])], {}, np.array([2, 3, 4, 5])),
    ("GATHER", "Gather", [np.arange(4) * 5, np.array([3, 0])], {}, np.array([15, 0])),
    ("CONCATENATION", "Concatenation", [np.array([1]), np.array([2, 3])], {}, np.array([1, 2, 3])),
    ("MUL", "Mul", [np.array([3, 4]), np.array(2)], {}, np.array([6, 8])),
    ("FLOOR_DIV", "FloorDiv", [np.array([-7, 7]), np.array(2)], {}, np.array([-4, 3])),
    ("REDUCE_PROD", "Reducer", [np.array([3, 4]), np.array([0])], {}, np.array(12)),
    ("EXPAND_DIMS", "ExpandDims", [np.array(3), np.array(0)], {}, np.array([3])),
    ("RESHAPE", "Reshape", [np.array([[3, 1]]), np.array([-1])], {}, np.array([3, 1])),
    ("RANGE", "Range", [np.array(1), np.array(7), np.array(3)], {}, np.array([1, 4])),
    ("FILL", "Fill", [np.array([2]), np.array(9)], {}, np.array([9, 9])),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "inputs", "values", "wanted"), FOLDS, ids=[fold[0] for fold in FOLDS])
def test_an_operator_on_few_integers_is_folded_to_what_the_runtime_makes(
    kind: str, options: str, inputs: list[np.ndarray], values: dict[str, int], wanted: np.ndarray
) -> None:
    net = Sketch((1, 4, 4, 3))
    given = [net.constant(array.astype(np.int32)) for array in inputs]
    made = net.op(kind, given, net.tensor(wanted.shape, "int32"), options, **values)
    zero = net.constant(np.zeros(wanted.shape, np.int32))
    end = net.op("ADD", [made, zero], net.tensor(wanted.shape, "int32"), "Add")
    done = folded(net.graph(net.conv(0, 2), end))
    assert [op.kind for op in done.ops] == ["ADD", "CONV_2D"], "an output is left to the runtime"
    assert np.array_equal(done.tensors[made].array(), wanted) and done.tensors[made].dtype == "int32"
    assert np.array_equal(run(net.graph(net.unary("RELU", 0), end), [np.zeros((1, 4, 4, 3), np.float32)])[1], wanted)


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("FILL", [np.array([2**30, 2**30]), np.array(1)]),
        ("RANGE", [np.array(0), np.array(2**31 - 1), np.array(1)]),
        ("TILE", [np.array([1, 2]), np.array([2**30])]),
        ("FLOOR_DIV", [np.array([1, 2]), np.array([0, 1])]),
        ("GATHER", [np.array([1, 2]), np.array([7, 0])]),
        ("STRIDED_SLICE", [np.array([1, 2]), np.array(0), np.array(1), np.array(1)]),
        ("EXPAND_DIMS", [np.array([1, 2]), np.array([1, 2])]),
        ("SHAPE", []),
        ("PACK", []),
    ],
)
def test_numbers_that_make_no_sense_are_left_to_the_runtime(kind: str, inputs: list[np.ndarray]) -> None:
    net = Sketch((1, 4, 4, 3))
    given = [net.constant(array.astype(np.int32)) for array in inputs]
    made = net.op(kind, given, net.tensor((2,), "int32"))
    graph = net.graph(net.conv(0, 2), net.op("ADD", [made, made], net.tensor((2,), "int32"), "Add"))
    assert folded(graph) is graph
    repeats = net.constant(np.array([1, 2**30, 1, 1], np.int32))
    tile = net.op("TILE", [net.conv(0, 2), repeats], net.tensor((1, 8, 8, 2), "float32"), "Tile")
    assert not any(op.kind == "MOVES" for op in Partition(net.graph(tile)).graph.ops)


def test_weights_that_are_computed_are_not_folded() -> None:
    """The runtime takes other kernels for weights that it does not know ahead."""
    net = Sketch((1, 9, 9, 3))
    filters = net.transpose(net.constant(net.normal(3, 3, 3, 2)), 3, 1, 2, 0)
    made = net.tensor((1, 9, 9, 2), "float32")
    net.op("CONV_2D", [0, filters, net.constant(net.normal(2))], made, "Conv2D", stride_w=1, stride_h=1)
    graph = net.graph(made)
    assert folded(graph) is graph and Partition(graph).cuts == []


# --- an image of NCHW


def channels_first(dtype: str, through: Callable[[Sketch, int], int] = lambda net, x: x) -> Graph:
    net = Sketch((1, 3, 12, 10), dtype, None if dtype == "float32" else quantized(0.02, 5 if dtype == "int8" else 121))
    return net.graph(net.conv(net.moved(net.transpose(through(net, 0), 0, 2, 3, 1)), 4))


def scaled(net: Sketch, x: int) -> int:
    return net.binary("ADD", net.binary("MUL", x, net.constant(np.array([0.5], np.float32))), net.constant(net.normal(1)))


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "scaled"])
def test_a_model_of_an_nchw_image_is_nhwc_and_exact(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "nchw.tflite"
    graph = channels_first("float32", scaled) if dtype == "scaled" else channels_first(dtype)
    path.write_bytes(graph.to_bytes())
    bundle = make_bundle(path, (3, 2), "end")
    assert bundle.plan.blocks[0].inputs[0].shape == (1, 12, 10, 3) and bundle.partition.blockers == []
    assert "TRANSPOSE" not in {op.kind for op in parse(bundle.edge_model).ops}
    image = picture(bundle)
    cuts, outputs = Verifier(bundle).check(image)
    assert not [d for d in (*cuts, *outputs) if d.differing]
    assert Verifier(bundle)._reference._is_nchw, "the file itself is what they are compared with"


def test_an_nchw_image_that_is_used_as_such_is_refused() -> None:
    net = Sketch((1, 3, 12, 10))
    x = net.unary("RELU", 0)
    graph = net.graph(net.conv(net.moved(net.transpose(x, 0, 2, 3, 1)), 4), x)
    assert channels_last(graph) is graph
    with pytest.raises(PlanError, match="no image input"):
        Partition(graph)


def test_an_nchw_image_that_changes_its_shape_on_the_way_is_refused() -> None:
    net = Sketch((1, 3, 12, 10))
    flat = net.op("ADD", [0, net.constant(np.ones(1, np.float32))], net.like(0, shape=(360,)), "Add")
    net.op("TRANSPOSE", [flat, net.constant(np.array([0, 2, 3, 1], np.int32))], net.like(0, shape=(1, 12, 10, 3)), "Transpose")
    with pytest.raises(PlanError, match="no image input"):
        Partition(net.graph(net.conv(len(net.tensors) - 1, 4)))


def test_an_image_of_three_rows_stays_as_it_is() -> None:
    net = Sketch((1, 3, 12, 3))
    graph = net.graph(net.conv(0, 4))
    assert prepared(graph) is graph


# --- sparse weights


@given(st.integers(0, 2**16), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_a_sparse_matrix_of_any_blocks_becomes_what_it_was(seed: int, rows: int, cols: int, blocked: bool) -> None:
    random = np.random.default_rng(seed)
    block = (2, 3) if blocked else (1, 1)
    kept = random.random((rows, cols)) < 0.5
    dense = random.integers(1, 99, (rows * block[0], cols * block[1])).astype(np.int8)
    dense *= np.kron(kept, np.ones(block, bool)).astype(np.int8)
    places = [np.nonzero(row)[0] for row in kept]
    segments = np.cumsum([0, *(len(row) for row in places)])
    split = dense.reshape(rows, block[0], cols, block[1])
    stored = [split[r, :, c] for r in range(rows) for c in places[r]]
    levels = [
        {"dense_size": rows},
        {"format": 1, "array_segments": {"values": segments}, "array_indices": {"values": np.concatenate(places)}},
        *({"dense_size": size} for size in block if blocked),
    ]
    record = {"traversal_order": range(4 if blocked else 2), "block_map": [0, 1] if blocked else [], "dim_metadata": levels}
    values = np.concatenate([part.reshape(-1) for part in stored]) if stored else np.zeros(0, np.int8)
    if len(values) < rows:
        return  # a level of more rows than values is refused as crafted
    assert np.array_equal(densified(values, dense.shape, record), dense)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"traversal_order": [0, 0]}, "each once"),
        ({"dim_metadata": [{"dense_size": 2}, {"format": 1, "array_segments": {"values": [0, 2]}}]}, "segments"),
        ({"dim_metadata": [{"dense_size": 99}, {"dense_size": 99}]}, "without a size"),
        ({"dim_metadata": [{"dense_size": 1}, {"dense_size": 1}]}, "has 4 values, not 1"),
        ({"dim_metadata": [{"dense_size": 4}, {"dense_size": 4}]}, "more values than it has"),
    ],
)
def test_a_sparse_table_that_does_not_hold_together_is_refused(change: dict[str, object], says: str) -> None:
    record = {"traversal_order": [0, 1], "dim_metadata": [{"dense_size": 2}, {"dense_size": 2}]}
    with pytest.raises(ValueError, match=says):
        densified(np.arange(4, dtype=np.int8), (2, 2), record | change)


def test_a_real_model_of_sparse_weights_is_exact_and_others_reading_them_are_refused() -> None:
    path = shared("data/models/mediapipe/face_detection_full_range_sparse.tflite")
    graph = load(path)
    assert not any(op.kind == "DENSIFY" for op in graph.ops)
    bundle = make_bundle(path, (2, 2))
    cuts, outputs = Verifier(bundle).check(picture(bundle))
    assert not [d for d in (*cuts, *outputs) if d.differing]
    model = flatbuffer.read(path.read_bytes())
    codes = [max(c.get("builtin_code", 0), c.get("deprecated_builtin_code", 0)) for c in model["operator_codes"]]
    model["operator_codes"][codes.index(124)].update(builtin_code=98, deprecated_builtin_code=98)  # DENSIFY: LEAKY_RELU
    with pytest.raises(PlanError, match="reads the sparse tensor"):
        parse_record(model)


def parse_record(model: flatbuffer.Record) -> Graph:
    """What ``parse`` makes of a model record."""
    return parse(b"".join(flatbuffer.write(model)))


# --- what is refused with its remedy


def with_operator(kind: str, custom: str | None = None) -> bytes:
    net = Sketch((1, 8, 8, 3))
    net.ops.append(Op(kind, (), (net.tensor((), "resource"),), custom_code=custom))
    return net.graph(net.conv(0, 3)).to_bytes()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (with_operator("VAR_HANDLE"), r"never frozen \(VAR_HANDLE\): convert it again"),
        (with_operator("READ_VARIABLE"), "never frozen"),
        (with_operator("CUSTOM", "edgetpu-custom-op"), "Edge TPU: take the file from before, without _edgetpu"),
    ],
)
def test_a_model_that_no_cluster_runs_is_refused_with_the_remedy(data: bytes, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        parse(data)


def opened(signature: list[int]) -> bytes:
    model = flatbuffer.read(open_batch().to_bytes())
    tensors = model["subgraphs"][0]["tensors"]
    tensors[model["subgraphs"][0]["inputs"][0]]["shape_signature"] = np.array(signature, np.int32)
    return b"".join(flatbuffer.write(model))


def test_an_open_height_is_refused_with_the_command_that_fixes_it_and_an_open_batch_is_one() -> None:
    with pytest.raises(PlanError, match=r"'image' is open \(1x\?x\?x3\): fix it by 'dt import fixed MODEL --size HxW"):
        parse(opened([1, -1, -1, 3]))
    assert parse(opened([-1, 12, 12, 3])).tensors[0].shape == (1, 12, 12, 3)


def test_a_model_of_any_size_is_fixed_to_one(tmp_path: Path) -> None:
    net = Sketch((1, 1, 1, 3))
    x = net.conv(net.conv(0, 8, stride=(2, 2)), 4)
    (tmp_path / "any.tflite").write_bytes(net.graph(x).to_bytes())
    graph = fixed(tmp_path / "any.tflite", 20, 33)
    assert [graph.tensors[t].shape for op in graph.ops for t in op.outputs] == [(1, 10, 17, 8), (1, 10, 17, 4)]
    (tmp_path / "fixed.tflite").write_bytes(graph.to_bytes())
    bundle = make_bundle(tmp_path / "fixed.tflite", (2, 3), "end")
    cuts, outputs = Verifier(bundle).check(picture(bundle))
    assert not [d for d in (*cuts, *outputs) if d.differing]


def test_a_size_that_the_runtime_refuses_is_told() -> None:
    with pytest.raises(EngineError, match="refuses the model with an input of"):
        fixed(shared("data/models/mobilenet_v1_0.25_128_quant.tflite"), 130, 7)


def test_dt_import_fixed_writes_a_model_of_one_size_and_refuses_what_is_none(tmp_path: Path) -> None:
    model, out = shared("data/graphs/dyn_hw-f32.tflite"), tmp_path / "fixed.tflite"
    done = CliRunner().invoke(app, ["import", "fixed", str(model), "--size", "48x64", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert load(out).tensors[load(out).inputs[0]].shape == (1, 48, 64, 3)
    for size in ("48", "0x3", "axb"):
        with pytest.raises(PlanError, match=f"--size '{size}': give height x width"):
            arguments = ["import", "fixed", str(model), "--size", size, "--out", str(tmp_path / "no.tflite")]
            CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["fixed.tflite"]
