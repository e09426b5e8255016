"""Convolutions in parts compute the bits of the whole ones, whatever is shared, cached or quantized."""

import platform
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import make_bundle
from models.graph import file as graph
from models.graph.build import build
from models.graph.file import Graph
from models.running import blocking, engine
from models.running.blocking import LEAST_FILTERS, blocked, numbers
from models.running.runner import TileRunner
from models.verify import Verifier
from tests.examples import examples
from tests.models.sketch import VALID, Sketch, quantized
from tests.paths import SHARED

REAL_LOAD = engine.load
MODELS = sorted((SHARED / "data" / "models").glob("*.tflite"))


def convs(made: Graph) -> list[tuple[int, ...]]:
    """Shapes of the weights of its convolutions."""
    return [made.tensors[op.inputs[1]].shape for op in made.ops if op.kind == "CONV_2D"]


def assert_same_bits(whole: Graph, parts: Graph) -> None:
    entry = whole.tensors[whole.inputs[0]]
    random = np.random.default_rng(1)
    values = random.standard_normal(entry.shape) if entry.dtype == "float32" else random.integers(0, 100, entry.shape)
    given = [values.astype(entry.dtype)]
    for want, got in zip(*(engine.load(g.to_bytes()).run(given) for g in (whole, parts)), strict=True):
        assert got.tobytes() == want.tobytes()


def one_conv(dtype: str, filters: int, channels: int, kernel: int, size: int, seed: int) -> Graph:
    net = Sketch((1, size, size, channels), dtype, None if dtype == "float32" else quantized(0.05, 3), seed)
    return net.graph(net.conv(0, filters, (kernel, kernel), padding=VALID))


@examples(40)
@given(
    dtype=st.sampled_from(["float32", "int8", "uint8"]),
    filters=st.integers(1, 150),
    channels=st.integers(1, 40),
    kernel=st.sampled_from([1, 3]),
    size=st.integers(3, 9),
    most=st.integers(100, 40_000),
    seed=st.integers(0, 99),
)
def test_parts_of_any_convolution_have_the_bits_of_the_whole(
    dtype: str, filters: int, channels: int, kernel: int, size: int, most: int, seed: int
) -> None:
    whole = one_conv(dtype, filters, channels, kernel, size, seed)
    parts = blocked(whole, most, numbers(whole))
    assert sum(shape[0] for shape in convs(parts)) == filters
    assert_same_bits(whole, parts)
    if len(convs(parts)) == 1 and platform.machine() == "aarch64":
        return  # which has other kernels for some numbers of filters
    assert min(shape[0] for shape in convs(parts)) >= min(filters, LEAST_FILTERS)
    row = whole.tensors[1].nbytes // filters
    for shape in convs(parts):
        assert (shape[0] - LEAST_FILTERS + 1) * row <= most or shape[0] < 2 * LEAST_FILTERS  # with a rest that is too few


@pytest.mark.parametrize("differ_in", [15, 1])
def test_a_convolution_whose_parts_have_other_bits_here_stays_whole(
    differ_in: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a float 1x1 convolution of 85 filters has on Arm in parts of 16. It is tried once, and others are divided."""
    tried: list[tuple[int, ...]] = []

    def load(model: bytes) -> Mock:
        made = graph.parse(model)
        spec = made.tensors[made.outputs[0]]
        tried.append(spec.shape)
        filters, pixels = spec.shape[3], spec.shape[1] * spec.shape[2]
        wrong = filters == 85 and pixels == differ_in and len(convs(made)) > 1
        return Mock(**{"run.return_value": [np.full(spec.shape, wrong, np.float32)]})

    monkeypatch.setattr(engine, "load", load)
    monkeypatch.setattr(blocking, "_tried", {})
    net = Sketch((1, 9, 9, 3))
    odd = net.conv(net.conv(net.conv(0, 64), 85, (1, 1)), 64, (1, 1))
    whole = net.graph(net.conv(odd, 85, (1, 1)))
    for _ in range(2):
        assert [shape[0] for shape in convs(blocked(whole, 4096, 1))] == [32, 32, 85, 16, 16, 16, 16, 85]
    assert {shape[3] for shape in tried} == {64, 85} and len(tried) == (4 + 4 + 4 if differ_in == 1 else 4 + 2 + 4)


def test_what_a_division_is_tried_on_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 channels at most, with the same rest by 8; one of groups stays as it is."""
    sizes: list[int] = []

    def load(model: bytes) -> engine.Engine:
        sizes.append(len(model))
        return REAL_LOAD(model)

    monkeypatch.setattr(engine, "load", load)
    monkeypatch.setattr(blocking, "_tried", {})
    whole = one_conv("float32", 256, 515, 3, 4, 0)
    assert len(convs(blocked(whole, whole.tensors[1].nbytes // 2, 4))) == 2
    assert max(sizes) < 256 * 3 * 3 * 40 * 4 and max(sizes) > 256 * 3 * 3 * 35 * 4


def test_what_a_cache_holds_stays_whole() -> None:
    whole = one_conv("float32", 64, 16, 3, 5, 0)
    assert blocked(whole, whole.tensors[1].nbytes, 4) is whole
    assert len(convs(blocked(whole, whole.tensors[1].nbytes - 1, 4))) == 2


def test_convolutions_that_share_constants_share_their_parts_or_stay_whole() -> None:
    """One bias for three convolutions: two with the same weights, one with more of them."""
    net = Sketch((1, 6, 6, 8), "float32")
    few, more = (net.constant(net.random.standard_normal((64, k, k, 8)).astype(np.float32)) for k in (1, 3))
    bias = net.constant(net.random.standard_normal(64).astype(np.float32))
    made = []
    for weights, side in ((few, 6), (few, 6), (more, 4)):
        made.append(net.tensor((1, side, side, 64), "float32"))
        net.op("CONV_2D", [0, weights, bias], made[-1], "Conv2D", padding=VALID, stride_w=1, stride_h=1)
    whole = graph.parse(net.graph(*made).to_bytes())  # with numbered buffers
    parts = blocked(whole, 1024, numbers(whole))
    assert [shape[0] for shape in convs(parts)] == [32, 32, 32, 32, 64]
    assert len({id(parts.tensors[op.inputs[1]]) for op in parts.ops if op.kind == "CONV_2D"}) == 3
    assert_same_bits(whole, graph.parse(parts.to_bytes()))


def test_a_part_is_told_from_its_whole_where_both_are_constants() -> None:
    """A bias that one convolution reads in parts and another one whole."""
    net = Sketch((1, 6, 6, 8), "float32")
    few, more = (net.constant(net.random.standard_normal((64, k, k, 8)).astype(np.float32)) for k in (1, 3))
    bias = net.constant(net.random.standard_normal(64).astype(np.float32))
    made = []
    for weights, side in ((few, 6), (more, 4)):
        made.append(net.tensor((1, side, side, 64), "float32"))
        net.op("CONV_2D", [0, weights, bias], made[-1], "Conv2D", padding=VALID, stride_w=1, stride_h=1)
    whole = net.graph(*made)
    parts = blocked(whole, 4096, 9)
    assert [shape[0] for shape in convs(parts)] == [64, 16, 16, 16, 16]
    assert_same_bits(whole, parts)


def test_a_buffer_has_the_same_number_in_every_graph_of_a_file() -> None:
    """The cache of packed weights is shared by tile classes, which have other constants besides."""
    whole = graph.parse(build("mini", 96).to_bytes())
    stride = numbers(whole)
    last = Graph(whole.tensors, whole.ops[-1:], whole.ops[-1].inputs[:1], whole.outputs).pruned()
    known = {t.name: t.buffer for t in blocked(whole, 20_000, stride).tensors if t.data is not None}
    assert len(set(known.values())) == len(known)
    for t in blocked(last, 20_000, stride).tensors:
        assert t.data is None or known[t.name] == t.buffer


@pytest.mark.parametrize("path", [None, *MODELS], ids=lambda path: path.stem if path else "mini")
def test_models_are_exact_in_parts(path: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through tiles and tail, against the file as it is."""
    if path is None:
        path = tmp_path / "mini.tflite"
        path.write_bytes(build("mini", 96).to_bytes())
    monkeypatch.setattr(blocking, "part_bytes", lambda: 8192)
    bundle = make_bundle(path, (2, 2))
    assert len(blocked(bundle.graph, 8192, 1).ops) > len(bundle.graph.ops)
    pixels = bundle.plan.pixels
    image = np.random.default_rng(2).integers(0, 256, (1, pixels.height, pixels.width, 3), np.uint8)
    cut, outputs = Verifier(bundle).check(image)
    assert [d for d in (*cut, *outputs) if d.differing] == []


def test_classes_of_tiles_share_one_cache_of_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mini.tflite"
    path.write_bytes(build("mini", 96).to_bytes())
    bundle = make_bundle(path, (3, 3))
    model, order = graph.parse(bundle.edge_model), bundle.plan.blocks[0].order
    image = np.random.default_rng(2).integers(0, 256, (1, 96, 96, 3), np.uint8)

    def tiles(cache: Path | None, most: int) -> list[list[bytes]]:
        monkeypatch.setattr(blocking, "part_bytes", lambda: most)
        runner = TileRunner(bundle.plan, model, cache)
        return [[a.tobytes() for a in runner.run(0, t, runner.crops(image, 0, t)).values()] for t in (*order, 0)]

    want = tiles(None, 1 << 30)
    assert tiles(tmp_path, 8192) == want  # the cache is built
    assert tiles(tmp_path, 8192) == want  # and read
    if engine.runtime().startswith("ai-edge-litert"):
        assert len(list(tmp_path.glob("*.xnnpack"))) == 1


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        (["32K", "32K", "1024K"], 512 << 10),  # a Pi 4
        (["64K", "512K", "2M"], 1 << 20),  # a Pi 5
        (["48K", "1024K", "32768K"], 4 << 20),
        ([], 512 << 10),
    ],
)
def test_a_part_fits_the_largest_cache(
    sizes: list[str], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, size in enumerate(sizes):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(f"{size}\n")
    monkeypatch.setattr(blocking, "_CACHES", tmp_path)
    blocking.part_bytes.cache_clear()
    assert blocking.part_bytes() == most
    blocking.part_bytes.cache_clear()
