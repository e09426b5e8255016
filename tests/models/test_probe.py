"""A node tries what its plan's tiles rely on: kernels that make a tile with the bits which its map has."""

import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import trial
from models.bundle import Bundle, make_bundle
from models.graph import file as graph
from models.graph.file import Graph
from models.graph.ops import SAME, VALID
from models.graph.ops.windows import ConvRule
from models.running import blocking, engine, probe
from models.running.runner import TileRunner
from models.tiling.division import Filters
from models.trial import Trial, Verdicts, try_bundle
from schemas.contract.errors import EngineError
from schemas.contract.plan import Region
from tests.models.sketch import RELU, Sketch, quantized

LOAD = engine.load
IS_ARM_WITH_XNNPACK = platform.machine() == "aarch64" and engine.runtime().startswith("ai-edge-litert")


class Odd:
    """An engine with another kernel for maps of few pixels."""

    def __init__(self, model: bytes, pixels: int) -> None:
        self._inner, self._pixels = LOAD(model), pixels

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        outputs = self._inner.run(inputs)
        return [out + (out.shape[1] * out.shape[2] <= self._pixels) for out in outputs]


def all_kinds(dtype: str) -> Graph:
    """Operators of every kind of rule, 12x12 pixels."""
    net = Sketch((1, 12, 12, 3), dtype, None if dtype == "float32" else quantized(0.05, 3))
    x = net.conv(0, 48, (3, 3), activation=RELU, half=dtype == "float32")
    x = net.conv(net.shuffle(x, 4), 64, (1, 1))
    x = net.blocks("DEPTH_TO_SPACE", net.pool("MAX_POOL_2D", net.conv(x, 1, depthwise=True), (2, 2), (2, 2), VALID), 2)
    first, second = net.split(net.pad(net.pool("AVERAGE_POOL_2D", x, (2, 2), (2, 2), SAME), (1, 1), (2, 0)), 2)
    x = net.binary("ADD", net.prelu(first), second)
    return net.graph(net.unary("SQRT" if dtype == "float32" else "RELU", net.resize(net.concat(x, first), 2)))


def bundle(model: Graph, folder: Path, grid: tuple[int, int] = (3, 3)) -> Bundle:
    path = folder / "model.tflite"
    path.write_bytes(model.to_bytes())
    return make_bundle(path, grid, model.tensors[model.outputs[0]].name)


def runner(made: Bundle) -> TileRunner:
    return TileRunner(made.plan, graph.parse(made.edge_model))


@pytest.mark.parametrize("grid", [(2, 2), (3, 3), (4, 2)])
@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_tiles_of_every_kind_of_operator_pass_here(dtype: str, grid: tuple[int, int], tmp_path: Path) -> None:
    made = runner(bundle(all_kinds(dtype), tmp_path, grid))
    assert {graph.kind for graph in made._partition.graph.ops} >= {"MOVES", "CONV_2D", "PAD", "SPLIT", "PRELU"}
    assert made.fault() == ""


@pytest.mark.parametrize(("pixels", "is_found"), [(1, False), (4, True)])
def test_another_kernel_for_the_pixels_of_a_tile_is_found_and_named(
    pixels: int, is_found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of 2x2 pixels, of a map of 6x6."""
    net = Sketch((1, 6, 6, 3))
    made = runner(bundle(net.graph(net.conv(0, 8, (1, 1))), tmp_path))
    monkeypatch.setattr(engine, "load", lambda model: Odd(model, pixels))
    told = r"CONV_2D 't3' has other bits in tiles of 2x2 pixels than in its map .*: choose another --grid or --cut"
    assert bool(made.fault()) == is_found and (not is_found or re.match(told, made.fault()))


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_a_pixel_of_a_convolution_alone_is_exact_but_for_floats_on_arm(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``ConvRule.grow`` is for, and that the probe would see it."""
    monkeypatch.setattr(ConvRule, "grow", lambda self, graph, op, out: out)
    net = Sketch((1, 3, 3, 3), dtype, None if dtype == "float32" else quantized(0.05, 3))
    model = net.graph(net.conv(net.conv(0, 24), 24))
    equal = probe.is_exact(model, model.ops[1], Region(1, 1, 2, 2))
    assert equal != (dtype == "float32" and IS_ARM_WITH_XNNPACK)


def test_a_tile_at_the_border_is_tried_with_its_padding_and_large_maps_and_convolutions_in_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[tuple[int, ...]] = []

    def load(model: bytes) -> engine.Engine:
        made = graph.parse(model)
        sizes.extend(made.tensors[t].shape for t in (*made.inputs, *made.outputs))
        return LOAD(model)

    monkeypatch.setattr(engine, "load", load)
    net = Sketch((1, 200, 200, 515), seed=3)
    model = net.graph(net.conv(0, 8))
    assert probe.fault(model, [(0, Region(0, 0, 100, 100)), (0, Region(100, 0, 200, 100))]) == ""
    assert sizes == [(1, 9, 9, 35), (1, 8, 8, 8), (1, 5, 5, 35), (1, 4, 4, 8)]


def test_plans_whose_tiles_rely_on_the_same_are_of_one_kind(tmp_path: Path) -> None:
    net = Sketch((1, 48, 48, 3))
    model = net.graph(net.conv(net.conv(0, 8), 8))
    kinds = [runner(bundle(model, tmp_path, grid)).kinds for grid in ((2, 2), (3, 4), (16, 2))]
    assert kinds[0] == kinds[1] != kinds[2]


def by_filters(folder: Path, half: bool = False) -> TileRunner:
    """A convolution of 85 filters and a dense layer of 50, each divided among three tasks."""
    net = Sketch((1, 6, 6, 3))
    x = net.conv(net.conv(0, 64), 85, (1, 1), half=half)
    y = net.reshape(x, 1, 6 * 6 * 85)
    given = [y, net.constant(net.normal(50, 6 * 6 * 85)), net.constant(net.normal(50))]
    made = net.op("FULLY_CONNECTED", given, net.tensor((1, 50), "float32"), "FullyConnected")
    path = folder / "model.tflite"
    path.write_bytes(net.graph(made).to_bytes())
    names = [net.tensors[t].name for t in (x, made)]
    return runner(make_bundle(path, blocks=[(name, Filters(3)) for name in names]))


class OddParts:
    """An engine with another kernel for operators of some numbers of filters."""

    def __init__(self, model: bytes, filters: set[int]) -> None:
        self._inner = LOAD(model)
        spec = graph.parse(model)
        self._odd = any(spec.tensors[op.outputs[0]].shape[-1] in filters for op in spec.ops if len(op.inputs) == 3)

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [out + self._odd for out in self._inner.run(inputs)]


ODD_CONVOLUTION = r"CONV_2D .* has other bits in its filters 0 to 32 alone than in all 85 .*: choose other --blocks"


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (set[int](), ""),
        ({85}, ODD_CONVOLUTION),
        ({50}, r"FULLY_CONNECTED .* has other bits in its filters 0 to 16 alone than in all 50 "),
    ],
)
def test_filters_that_have_other_bits_apart_are_found_and_named(
    odd: set[int], told: str, half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Arm a float 1x1 convolution of 85 filters has another kernel than one of 16: that is found there, whatever is odd."""
    told = ODD_CONVOLUTION if IS_ARM_WITH_XNNPACK else told
    made = by_filters(tmp_path, half)
    monkeypatch.setattr(blocking, "_tried", {})
    monkeypatch.setattr(engine, "load", lambda model: OddParts(model, odd))
    assert re.match(told or "$", made.fault())
    assert made.kinds != runner(make_bundle(tmp_path / "model.tflite", (2, 2))).kinds


PLANTED = "from models.running.runner import TileRunner; TileRunner.fault = lambda self: 'CONV_2D has other bits'; "
PLANTED += "from models.trial"


def test_a_plan_with_a_fault_is_refused_and_no_verdict_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who starts a cluster, and by an edge; whether the model is known or not."""
    net = Sketch((1, 12, 12, 3))
    made, kept = bundle(net.graph(net.conv(0, 8)), tmp_path), Verdicts(tmp_path)
    monkeypatch.setattr(trial, "_CHILD", trial._CHILD.replace("from models.trial", PLANTED))
    for known in (False, True):
        if known:
            kept.add(made.plan.model)
        with pytest.raises(EngineError, match=r"model\.tflite: CONV_2D has other bits"):
            try_bundle(made, folder=tmp_path)
        assert kept.knows(made.plan.model) == known and not kept.knows(runner(made).kinds)
        edge = tmp_path / "edge.tflite"
        edge.write_bytes(made.edge_model)
        with Trial(edge, made.plan, weights=tmp_path, knows=known) as child:
            assert child.verdict(wait=True) == "CONV_2D has other bits"


def test_of_a_known_model_another_kind_of_tiles_is_tried_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Sketch((1, 12, 12, 3))
    model = net.graph(net.conv(0, 8))
    try_bundle(bundle(model, tmp_path, (2, 2)), folder=tmp_path)
    started: list[bool] = []

    class Counted(Trial):
        def __init__(self, *given: Any, **more: Any) -> None:
            started.append(more["knows"])
            super().__init__(*given, **more)

    monkeypatch.setattr(trial, "Trial", Counted)
    for grid in ((3, 3), (6, 6), (6, 6)):
        try_bundle(bundle(model, tmp_path, grid), folder=tmp_path)
    assert started == [True]
