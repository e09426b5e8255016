"""Regions by equations (1) and (2), which operators are exact on this runtime, and the reasons of those that are not."""

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.graph.file import Graph, Op, Quantization, Tensor
from models.graph.ops import (
    RULES,
    SAME,
    VALID,
    DenseRule,
    ElementwiseRule,
    Emitter,
    PositionRule,
    Window,
    blocker,
    whole,
)
from models.graph.ops.moving import SliceRule
from models.graph.ops.resizes import Axis
from models.graph.permutations import Movement
from models.graph.tflite_schema import OPTIONS
from models.running import engine
from models.tiling.partition import Partition
from models.tiling.rewrite import tile_graph
from schemas.contract.errors import PlanError
from schemas.contract.plan import Region
from tests.models.sketch import Sketch, image_for, quantized, same_bits, wrong_cuts
from tests.models.sketch import run as run_graph


def window_of(size: int, kernel: int, stride: int = 1, dilation: int = 1, padding: int = SAME) -> Window:
    net = Sketch((1, size, size, 1))
    net.conv(0, 1, (kernel, kernel), (stride, stride), (dilation, dilation), padding)
    rule = RULES["CONV_2D"]
    assert hasattr(rule, "windows")
    window: Window = rule.windows(net.graph(), net.ops[0])[0]
    return window


@pytest.mark.parametrize(
    ("window", "out", "needs", "padding"),
    [
        # kernel 3, stride 1, SAME on 8: one more on each side, clipped at the borders
        (window_of(8, 3), (2, 4), (1, 5), (0, 0)),
        (window_of(8, 3), (0, 4), (0, 5), (1, 0)),
        (window_of(8, 3), (4, 8), (3, 8), (0, 1)),
        (window_of(8, 3), (0, 8), (0, 8), (1, 1)),
        # kernel 3, stride 2, SAME: an even size is padded behind alone, an odd one on both sides
        (window_of(8, 3, 2), (0, 2), (0, 5), (0, 0)),
        (window_of(8, 3, 2), (2, 4), (4, 8), (0, 1)),
        (window_of(9, 3, 2), (0, 2), (0, 4), (1, 0)),
        (window_of(9, 3, 2), (3, 5), (5, 9), (0, 1)),
        # dilation 2 reaches two further on each side
        (window_of(9, 3, 1, 2), (4, 5), (2, 7), (0, 0)),
        (window_of(9, 3, 1, 2), (0, 1), (0, 3), (2, 0)),
        # VALID: no padding; the last row of 9 is left over by kernel 2, stride 2
        (window_of(9, 3, 1, 1, VALID), (0, 7), (0, 9), (0, 0)),
        (window_of(9, 2, 2, 1, VALID), (3, 4), (6, 8), (0, 0)),
        # max-pool as in YOLOv2: kernel 2, stride 2 overlaps nothing
        (window_of(8, 2, 2), (1, 3), (2, 6), (0, 0)),
    ],
)
def test_input_interval_follows_equations_1_and_2(
    window: Window, out: tuple[int, int], needs: tuple[int, int], padding: tuple[int, int]
) -> None:
    assert window.clipped(*out) == needs
    assert window.padding(*out) == padding


@given(
    st.integers(1, 40),
    *(st.integers(1, 7), st.integers(1, 4), st.integers(1, 3)),
    st.sampled_from([SAME, VALID]),
    st.data(),
)
def test_an_interval_needs_just_what_its_outputs_touch(
    size: int, kernel: int, stride: int, dilation: int, padding: int, data: st.DataObject
) -> None:
    reach = (kernel - 1) * dilation + 1
    out = -(-size // stride) if padding == SAME else (size - reach) // stride + 1
    if out < 1:
        return
    window = window_of(size, kernel, stride, dilation, padding)
    start = data.draw(st.integers(0, out - 1))
    stop = data.draw(st.integers(start + 1, out))
    before = max((out - 1) * stride + reach - size, 0) // 2 if padding == SAME else 0
    touched = [o * stride - before + k * dilation for o in range(start, stop) for k in range(kernel)]
    low, high = window.span(start, stop)
    assert (low, high) == (min(touched), max(touched) + 1)
    assert window.padding(start, stop) == (max(0, -low), max(0, high - size))
    assert window.clipped(start, stop) == (max(low, 0), min(high, size))


def test_padding_beyond_the_map_needs_the_nearest_pixel() -> None:
    net = Sketch((1, 6, 6, 1))
    net.pad(0, (4, 0), (0, 5))
    rule, graph = RULES["PAD"], net.graph()
    corner = Region(0, 9, 2, 11)
    grown = rule.grow(graph, net.ops[0], corner)
    assert grown == Region(0, 5, 5, 11)
    assert rule.needs(graph, net.ops[0], grown) == {0: Region(0, 5, 1, 6)}


def test_blocks_grow_to_whole_blocks() -> None:
    net = Sketch((1, 6, 6, 4))
    net.blocks("DEPTH_TO_SPACE", 0, 2)
    rule, graph = RULES["DEPTH_TO_SPACE"], net.graph()
    grown = rule.grow(graph, net.ops[0], Region(1, 3, 3, 4))
    assert grown == Region(0, 2, 4, 4)
    assert rule.needs(graph, net.ops[0], grown) == {0: Region(0, 1, 2, 2)}


@pytest.mark.parametrize(
    ("tile", "made"),
    [
        (Region(0, 0, 1, 1), Region(0, 0, 1, 2)),
        (Region(2, 2, 3, 3), Region(2, 1, 3, 3)),
        (Region(1, 0, 2, 3), Region(1, 0, 2, 3)),
    ],
)
def test_a_tile_of_a_float_convolution_has_two_pixels(tile: Region, made: Region) -> None:
    """On Arm one pixel is computed by another kernel, and a plan is the same on all machines."""
    for dtype, depthwise in (("float32", False), ("float32", True), ("int8", False), ("uint8", False)):
        net = Sketch((1, 3, 3, 4), dtype, SPECS[dtype])
        net.conv(0, 1 if depthwise else 8, depthwise=depthwise)
        grown = RULES[net.ops[0].kind].grow(net.graph(), net.ops[0], tile)
        assert grown == (made if dtype == "float32" and not depthwise else tile)


def test_a_column_grows_downwards_and_a_map_of_one_pixel_does_not() -> None:
    for height, made in ((3, Region(1, 0, 3, 1)), (1, Region(0, 0, 1, 1))):
        net = Sketch((1, height, 1, 4))
        net.conv(0, 8)
        last = Region(height - 1, 0, height, 1)
        assert RULES["CONV_2D"].grow(net.graph(), net.ops[0], last) == made


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("filters", [8, 13, 24])
def test_tiles_of_one_pixel_have_the_bits_of_their_map(dtype: str, kernel: int, filters: int) -> None:
    net = Sketch((1, 3, 3, 3), dtype, SPECS[dtype])
    net.conv(net.conv(0, 16, (kernel, kernel)), filters, (kernel, kernel))
    assert wrong_cuts(net.graph(), 3, 3) == []


# --- which operators compute the same bits wherever in a map their element lies, on this runtime

SHAPES = [(9, 11, 1), (13, 7, 3), (8, 9, 5), (17, 5, 7), (5, 6, 16)]
SPECS: dict[str, Quantization | None] = {"float32": None, "int8": quantized(0.03, -7), "uint8": quantized(0.03, 121)}
OF_ALL = "RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 LEAKY_RELU LOGISTIC TANH HARD_SWISH PRELU GELU".split()
OF_FLOAT = "ELU ABS NEG SQUARE SQRT RSQRT EXP LOG FLOOR CEIL ROUND".split()
BINARY = "ADD SUB MUL DIV MINIMUM MAXIMUM SQUARED_DIFFERENCE".split()


def element(kind: str, net: Sketch, operand: str) -> int:
    """Adds one operator to an empty sketch."""
    dtype, depth = net.tensors[0].dtype, net.shape(0)[3]
    if kind in ("QUANTIZE", "DEQUANTIZE"):
        to = operand or "float32"
        return net.cast(kind, 0, to, SPECS[to])
    if kind == "CAST":
        return net.op("CAST", [0], net.tensor(net.shape(0), operand), "Cast")
    if kind == "PRELU":
        return net.prelu(0)
    if kind in BINARY:
        random = np.random.default_rng(5)
        shape = {"vector": (depth,), "scalar": (1,)}[operand]
        values = random.uniform(0.2, 3, shape) if dtype == "float32" else random.integers(20, 120, shape)
        return net.binary(kind, 0, net.constant(values.astype(dtype), net.tensors[0].quantization))
    fixed = {"LOGISTIC": quantized(1 / 256, -128 if dtype == "int8" else 0)}
    fixed |= {"TANH": quantized(1 / 128, 0 if dtype == "int8" else 128)}
    quantization = None if dtype == "float32" else fixed.get(kind)
    return net.unary(kind, 0, quantization, **({"alpha": 0.1} if kind == "LEAKY_RELU" else {}))


CASES = [
    *((kind, dtype, "") for kind in OF_ALL for dtype in SPECS),
    *((kind, "float32", "") for kind in OF_FLOAT),
    *((kind, "int8", "") for kind in ("ELU", "EXP", "RSQRT")),
    *((kind, "float32", operand) for kind in BINARY for operand in ("vector", "scalar")),
    *((kind, dtype, operand) for kind in BINARY[:3] for dtype in ("int8", "uint8") for operand in ("vector", "scalar")),
    *(("QUANTIZE", "float32", to) for to in ("int8", "uint8")),
    *(("QUANTIZE", dtype, to) for dtype in ("int8", "uint8") for to in ("int8", "uint8")),  # at one scale
    *(("DEQUANTIZE", dtype, "") for dtype in ("int8", "uint8")),
    *(("CAST", dtype, to) for dtype, to in (("uint8", "float32"), ("int8", "float32"), ("int8", "uint8"))),
]


def test_every_elementwise_rule_is_among_the_cases_that_follow() -> None:
    rules = {kind for kind, rule in RULES.items() if isinstance(rule, ElementwiseRule)}
    assert rules == {kind for kind, _, _ in CASES}


OF_CHANNELS = [kind for kind, rule in RULES.items() if isinstance(rule, (PositionRule, DenseRule))]


@pytest.mark.parametrize("dtype", SPECS)
@pytest.mark.parametrize("kind", OF_CHANNELS)
def test_a_position_has_the_same_bits_in_any_tile(kind: str, dtype: str) -> None:
    if kind == "LOCAL_RESPONSE_NORMALIZATION" and dtype != "float32":
        return  # there is no such kernel
    for height, width, depth in [(9, 11, 1), (13, 7, 3), (8, 9, 5), (17, 5, 17), (5, 6, 16), (7, 7, 33)]:
        net = Sketch((1, height, width, 3), dtype, SPECS[dtype])
        x = net.conv(0, depth, (1, 1))
        graph = net.graph(net.dense(x, 7) if kind == "FULLY_CONNECTED" else net.of_channels(kind, x))
        reasons = [b.reason for b in Partition(graph).blockers]
        assert reasons == [] or (kind, dtype) in (("MEAN", "float32"), ("LOCAL_RESPONSE_NORMALIZATION", "float32"))
        for rows, cols in ((1, 5), (4, 3)):
            assert wrong_cuts(graph, rows, cols) == []


@pytest.mark.parametrize(("kind", "dtype", "operand"), CASES)
def test_an_element_has_the_same_bits_in_any_tile(kind: str, dtype: str, operand: str) -> None:
    """Vectors and the remainder behind them may be computed by other instructions: sizes here leave odd remainders."""
    random = np.random.default_rng(1)
    for height, width, depth in SHAPES:

        def graph(h: int, w: int, depth: int = depth) -> Graph:
            net = Sketch((1, h, w, depth), dtype, SPECS[dtype])
            return net.graph(element(kind, net, operand))

        image = image_for(graph(height, width)) * (3 if dtype == "float32" else 1)
        if kind in ("SQRT", "RSQRT", "LOG"):
            spec = SPECS[dtype]
            image = np.maximum(np.abs(image), spec.zero_point[0] + 1 if spec else 0.01).astype(dtype)
        unparted = run_graph(graph(height, width), [image])[0]
        for _ in range(6):
            y0, x0 = random.integers(0, height), random.integers(0, width)
            y1, x1 = random.integers(y0 + 1, height + 1), random.integers(x0 + 1, width + 1)
            part = np.ascontiguousarray(image[:, y0:y1, x0:x1])
            made = run_graph(graph(int(y1 - y0), int(x1 - x0)), [part])[0]
            assert same_bits(made, np.ascontiguousarray(unparted[:, y0:y1, x0:x1])), f"{kind} of {dtype} is not exact"


def test_a_window_of_an_average_pool_is_never_its_whole_input_in_a_tile() -> None:
    """tflite-runtime makes a global average of it, which sums in another order."""
    net = Sketch((1, 9, 8, 3))
    net.pool("AVERAGE_POOL_2D", 0, (3, 4), (2, 1), VALID)
    assert wrong_cuts(net.graph(), 4, 5) == []


def test_a_max_pool_of_minus_infinity_stays_minus_infinity_at_the_border() -> None:
    net = Sketch((1, 9, 9, 3))
    net.pool("MAX_POOL_2D", 0, (3, 3), (1, 1), SAME)
    assert wrong_cuts(net.graph(), 3, 3, np.full((1, 9, 9, 3), -np.inf, np.float32)) == []


# --- what is refused, by name


def dynamic_range(depthwise: bool) -> Graph:
    net = Sketch((1, 9, 9, 3))
    shape = (1, 3, 3, 3) if depthwise else (3, 3, 3, 3)
    given = [0, net.constant(np.ones(shape, np.int8), quantized(0.1)), net.constant(net.normal(3))]
    kind, options = ("DEPTHWISE_CONV_2D", "DepthwiseConv2D") if depthwise else ("CONV_2D", "Conv2D")
    return net.graph(net.op(kind, given, net.like(0), options, stride_w=1, stride_h=1))


def partial_average() -> Graph:
    net = Sketch((1, 10, 9, 3))
    return net.graph(net.pool("AVERAGE_POOL_2D", 0, (2, 3), (3, 3), SAME))


def broadcast_of_maps() -> Graph:
    net = Sketch((1, 9, 9, 3))
    x = net.conv(0, 4)
    return net.graph(net.binary("ADD", x, net.pool("AVERAGE_POOL_2D", x, (9, 1), (1, 1), VALID)))


def int16_maps() -> Graph:
    net = Sketch((1, 9, 9, 3))
    return net.graph(net.cast("DEQUANTIZE", net.cast("QUANTIZE", 0, "int16", quantized(0.001)), "float32"))


def rank_3() -> Graph:
    net = Sketch((1, 9, 9, 3))
    x = net.conv(0, 4)
    shape = net.constant(np.array([9, 9, 4], np.int32))
    flat = net.op(
        "RESHAPE", [x, shape], net.tensor((9, 9, 4), "float32"), "Reshape", new_shape=np.array([9, 9, 4], np.int32)
    )
    return net.graph(net.unary("RELU", flat))


def joined_rows() -> Graph:
    net = Sketch((1, 9, 9, 3))
    return net.graph(net.op("CONCATENATION", [0, 0], net.like(0, shape=(1, 18, 9, 3)), "Concatenation", axis=1))


def computed_weights() -> Graph:
    net = Sketch((1, 9, 9, 3))
    filters = net.unary("RELU", net.constant(net.normal(3, 1, 1, 3)))
    given = [0, filters, net.constant(net.normal(3))]
    return net.graph(net.op("CONV_2D", given, net.like(0), "Conv2D", stride_w=1, stride_h=1))


def fused(activation: int) -> Graph:
    net = Sketch((1, 9, 9, 3))
    return net.graph(net.conv(0, 4, activation=activation))


def padded_batch() -> Graph:
    net = Sketch((1, 9, 9, 3))
    net.pad(0, (1, 1), (1, 1))
    net.tensors[2] = replace(
        net.tensors[2], data=np.array([(1, 0), (1, 1), (1, 1), (0, 0)], np.int32).reshape(-1).view(np.uint8)
    )
    return net.graph(1)


def strided_over() -> Graph:
    net = Sketch((1, 6, 5, 1))
    return net.graph(net.conv(0, 1, (1, 2), (2, 1)))


def one_slope() -> Graph:
    net = Sketch((1, 9, 9, 3))
    return net.graph(net.op("PRELU", [0, net.constant(net.normal(1, 1, 1))], net.like(0)))


def computed_map() -> Graph:
    net = Sketch((1, 9, 9, 3))
    return net.graph(net.binary("ADD", 0, net.halved(net.normal(9, 9, 3))))


def requantized(scale: float) -> Graph:
    net = Sketch((1, 9, 9, 3), "int8", quantized(0.02, 5))
    return net.graph(
        net.cast("QUANTIZE", net.pool("MAX_POOL_2D", 0, (1, 1), (1, 1), SAME), "uint8", quantized(scale, 121))
    )


def overflowing(kind: str) -> Graph:
    net = Sketch((1, 9, 9, 3), "uint8", quantized(3.7, 43))
    y = net.constant(np.full(1, 77, np.uint8), quantized(0.4, 82))
    return net.graph(net.binary(kind, 0, y, quantized(0.005, 69)))


def square() -> Graph:
    net = Sketch((1, 9, 9, 3), "int8", quantized(0.02, 5))
    return net.graph(net.binary("MUL", 0, 0, quantized(0.02, 3)))


def only_window() -> Graph:
    net = Sketch((1, 9, 9, 3))
    return net.graph(net.pool("AVERAGE_POOL_2D", 0, (9, 8), (1, 2), VALID))


def custom() -> Graph:
    net = Sketch((1, 9, 9, 3))
    net.ops.append(Op("CUSTOM", (0,), (net.like(0),), custom_code="Mystery"))
    return net.graph()


def mean() -> Graph:
    net = Sketch((1, 9, 9, 3))
    axes = net.constant(np.array([1, 2], np.int32))
    return net.graph(net.op("MEAN", [net.conv(0, 4), axes], net.tensor((1, 4), "float32"), "Reducer"))


def backwards() -> Graph:
    net = Sketch((1, 9, 9, 3))
    return net.graph(net.strided(net.conv(0, 4), (8, 0, 0), (-1, 1, 1)))


def beyond_the_map() -> Graph:
    net = Sketch((1, 9, 9, 3))
    x = net.part(net.conv(0, 4), (0, 0, 2), (9, 9, 2))
    net.tensors[x] = replace(net.tensors[x], shape=(1, 9, 9, 3))
    return net.graph(x)


def sparse_deconvolution() -> Graph:
    net = Sketch((1, 9, 9, 3))
    return net.graph(net.transpose_conv(0, 4, (2, 3), (3, 3), SAME))


def dynamic_range_of(kind: str) -> Graph:
    net = Sketch((1, 9, 9, 3))
    if kind == "TRANSPOSE_CONV":
        made = net.transpose_conv(0, 4, (3, 3), (2, 2), SAME)
        weights = net.ops[0].inputs[1]
    else:
        made = net.dense(0, 4)
        weights = net.ops[0].inputs[1]
    spec = net.tensors[weights]
    net.tensors[weights] = Tensor(spec.name, spec.shape, "int8", quantized(0.1), np.zeros(spec.nbytes // 4, np.uint8))
    return net.graph(made)


def normalized(depth: int) -> Graph:
    net = Sketch((1, 9, 9, 3))
    return net.graph(net.of_channels("LOCAL_RESPONSE_NORMALIZATION", net.conv(0, depth)))


REFUSED: list[tuple[Callable[[], Graph], str, str]] = [
    (lambda: dynamic_range(False), "CONV_2D", "dynamic-range"),
    (lambda: dynamic_range(True), "DEPTHWISE_CONV_2D", "dynamic-range"),
    (partial_average, "AVERAGE_POOL_2D", "smaller than its stride"),
    (broadcast_of_maps, "ADD", "broadcasts one map over another"),
    (int16_maps, "QUANTIZE", "int16"),
    (rank_3, "RESHAPE", "no rule"),
    (joined_rows, "CONCATENATION", "axis 1"),
    (computed_weights, "CONV_2D", "is not made of the image"),
    (lambda: fused(4), "CONV_2D", "fused activation"),
    (lambda: fused(5), "CONV_2D", "fused activation"),
    (padded_batch, "PAD", "batch"),
    (strided_over, "CONV_2D", "smaller than its stride"),
    (one_slope, "PRELU", "one per channel"),
    (computed_map, "ADD", "constant that is computed"),
    (lambda: requantized(0.05), "QUANTIZE", "rounds by where an element lies"),
    (lambda: overflowing("ADD"), "ADD", "128 times its output's"),
    (lambda: overflowing("MUL"), "MUL", "128 times its output's"),
    (square, "MUL", "square of a quantized map"),
    (only_window, "AVERAGE_POOL_2D", "leaves pixels over"),
    (custom, "Mystery", "no rule"),
    (backwards, "STRIDED_SLICE", "backwards"),
    (beyond_the_map, "SLICE", "not there"),
    (sparse_deconvolution, "TRANSPOSE_CONV", "smaller than its stride"),
    (lambda: dynamic_range_of("TRANSPOSE_CONV"), "TRANSPOSE_CONV", "dynamic-range"),
    (lambda: dynamic_range_of("FULLY_CONNECTED"), "FULLY_CONNECTED", "dynamic-range"),
    (lambda: normalized(6), "LOCAL_RESPONSE_NORMALIZATION", "no multiple of 4"),
    (mean, "MEAN", r"along axes [1, 2] of its map"),
]


@pytest.mark.parametrize(("make", "kind", "reason"), REFUSED, ids=[f"{kind} {reason}" for _, kind, reason in REFUSED])
def test_an_operator_that_cannot_be_tiled_is_named_with_its_index_and_reason(
    make: Callable[[], Graph], kind: str, reason: str
) -> None:
    graph = make()
    partition = Partition(graph)
    first = partition.blockers[0]
    assert (first.kind, graph.ops[first.op].label) == (kind, kind)
    assert reason in first.reason
    assert all(first.op not in cut.ops for cut in partition.cuts)
    assert partition.describe_blocker() == f"operator {first.op} ({kind}): {first.reason}"


def test_a_float_mean_over_channels_is_refused_where_its_sums_depend_on_the_place() -> None:
    net = Sketch((1, 9, 9, 3))
    reasons = [b.reason for b in Partition(net.graph(net.of_channels("MEAN", net.conv(0, 4)))).blockers]
    assert reasons == [] if engine.runtime().startswith("ai-edge-litert") else "order" in reasons[0]


@given(st.integers(1, 24), st.integers(1, 60), st.sampled_from([(0, 0), (1, 0), (0, 1)]), st.booleans(), st.data())
def test_what_a_tile_resizes_holds_what_it_needs_and_makes_its_outputs(
    size: int, made: int, convention: tuple[int, int], nearest: bool, data: st.DataObject
) -> None:
    axis = Axis(size, made, bool(convention[0]), bool(convention[1]), nearest)
    start = data.draw(st.integers(0, made - 1))
    stop = data.draw(st.integers(start + 1, made))
    need, given_, outputs = axis.spans(start, stop)
    assert 0 <= given_[0] <= need[0] < need[1] <= given_[1] <= size
    assert 0 <= outputs[0] <= start < stop <= outputs[1] <= made
    if axis.is_cropped:
        assert need == given_
    else:
        assert given_ == (0, size) and outputs == (0, made), "padded to the whole map"


def upscaled(kind: str, size: tuple[int, int], align: bool = False, half: bool = False) -> Graph:
    net = Sketch((1, 9, 9, 3))
    return net.graph(net.resized(net.conv(0, 4), size, half, align, kind))


@pytest.mark.parametrize(
    ("graph", "kinds"),
    [
        (lambda: upscaled("RESIZE_BILINEAR", (18, 36), half=True), {"SLICE"}),  # twice: what is needed alone
        (lambda: upscaled("RESIZE_BILINEAR", (17, 33), align=True), {"SLICE"}),
        (lambda: upscaled("RESIZE_BILINEAR", (27, 27)), {"PAD", "SLICE"}),  # thrice: the whole map
        (lambda: upscaled("RESIZE_NEAREST_NEIGHBOR", (27, 45)), {"SLICE"}),
        (lambda: upscaled("RESIZE_NEAREST_NEIGHBOR", (21, 21)), {"PAD", "SLICE"}),
    ],
)
def test_a_resize_computes_the_whole_map_only_where_no_part_rounds_alike(
    graph: Callable[[], Graph], kinds: set[str]
) -> None:
    partition = Partition(graph())
    (resize,) = (i for i, op in enumerate(partition.graph.ops) if op.kind.startswith("RESIZE"))
    (made,) = partition.graph.ops[resize].outputs
    tile = tile_graph(partition, [resize], [partition.graph.ops[resize].inputs[0]], {made: Region(4, 4, 9, 9)})
    assert {op.kind for op in tile.ops} - {partition.graph.ops[resize].kind} == kinds
    whole_map = 2 * prod(partition.graph.tensors[made].shape[1:])
    assert (partition.flops([resize], {made: Region(4, 4, 9, 9)}) * 2 >= whole_map) == ("PAD" in kinds)


# --- a wrong offset in any rule is found


def planted(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """One element too far, or one line too few, where a rule says what a tile needs or takes."""
    if place == "crop":
        crop = Emitter.crop

        def shifted(self: Emitter, tensor: int, source: int, inner: Region, outer: Region, into: int = -1) -> int:
            y0 = inner.y0 - 1 if inner.y0 > outer.y0 else min(inner.y0 + 1, outer.y1 - inner.height)
            return crop(self, tensor, source, Region(y0, inner.x0, y0 + inner.height, inner.x1), outer, into)

        monkeypatch.setattr(Emitter, "crop", shifted)
    elif place == "steps":
        steps = SliceRule.steps
        wrong = lambda self, graph, op: [(f + (i == 1), s) for i, (f, s) in enumerate(steps(self, graph, op))]  # noqa: E731
        monkeypatch.setattr(SliceRule, "steps", wrong)
    elif place == "within":
        within = Movement.within
        monkeypatch.setattr(Movement, "within", lambda self, out: np.roll(within(self, out), 1, axis=0))
    else:
        monkeypatch.setattr(DenseRule if place == "dense" else PositionRule, "needs", lambda self, graph, op, out: {
            0: Region(max(out.y0 - 1, 0), out.x0, max(out.y0 - 1, 0) + out.height, out.x1)
        })  # fmt: skip


PLANTED: list[tuple[str, Callable[[Sketch, int], int]]] = [
    ("steps", lambda net, x: net.strided(x, (0, 1, 0), (2, 2, 1))),
    ("steps", lambda net, x: net.part(x, (1, 2, 1), (6, 6, 2))),
    ("within", lambda net, x: net.moved(net.reshape(net.packed([net.packed([x, x], 2)] * 2, 4), 1, 24, 24, 4))),
    ("crop", lambda net, x: net.transpose_conv(x, 3, (3, 3), (2, 2), SAME)),
    ("crop", lambda net, x: net.resized(x, (24, 24), True, False, "RESIZE_BILINEAR")),
    ("crop", lambda net, x: net.resized(x, (36, 36), False, False, "RESIZE_BILINEAR")),
    ("crop", lambda net, x: net.resized(x, (21, 21))),
    ("crop", lambda net, x: net.pool("AVERAGE_POOL_2D", x, (3, 3), (1, 1), SAME)),
    ("position", lambda net, x: net.of_channels("SOFTMAX", x)),
    ("dense", lambda net, x: net.dense(x, 3)),
]


@pytest.mark.parametrize("dtype", SPECS)
@pytest.mark.parametrize(("place", "make"), PLANTED, ids=[str(i) for i in range(len(PLANTED))])
def test_a_wrong_offset_is_found(
    place: str, make: Callable[[Sketch, int], int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Sketch((1, 12, 12, 3), dtype, SPECS[dtype])
    graph = net.graph(make(net, net.conv(0, 4)))
    assert Partition(graph).blockers == [] and wrong_cuts(graph, 3, 2) == []
    planted(monkeypatch, place)
    assert wrong_cuts(graph, 3, 2) != []


@pytest.mark.parametrize("shape", [(2, 9, 9, 3), (9, 9, 3), (1, 9, 9, 6), (2, 4, 9, 9, 3)])
def test_an_image_of_another_batch_rank_or_depth_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    net = Sketch(shape)
    net.unary("RELU", 0)
    with pytest.raises(PlanError, match="no image input.*" + ", ".join(map(str, shape))):
        Partition(net.graph())


def test_an_image_of_int16_is_refused() -> None:
    net = Sketch((1, 9, 9, 3), "int16", quantized(0.001))
    net.unary("RELU", 0)
    with pytest.raises(PlanError, match="no image input"):
        Partition(net.graph())


def test_a_batch_that_a_constant_makes_is_exact() -> None:
    net = Sketch((1, 9, 8, 3))
    made = net.tensor((2, 9, 8, 3), "float32")
    net.op("ADD", [0, net.constant(net.normal(2, 9, 8, 3))], made, "Add")
    assert wrong_cuts(net.graph(made), 2, 3) == []


def test_a_change_of_sign_at_one_scale_is_exact() -> None:
    graph = requantized(0.02)
    assert Partition(graph).blockers == []
    assert wrong_cuts(graph, 4, 5) == []


def test_a_constant_of_a_tiny_scale_is_exact() -> None:
    """As in MoveNet, whose first operator takes a zero of scale 1e-6 from its pixels."""
    net = Sketch((1, 9, 9, 3), "int8", quantized(1.0, -128))
    graph = net.graph(net.binary("SUB", 0, net.constant(np.zeros((1, 1, 1, 3), np.int8), quantized(1e-6))))
    assert Partition(graph).blockers == []
    assert wrong_cuts(graph, 4, 5) == []


def test_slopes_that_cover_the_map_are_exact() -> None:
    net = Sketch((1, 9, 8, 3))
    net.op("PRELU", [0, net.constant(net.normal(9, 8, 3))], net.like(0))
    assert wrong_cuts(net.graph(), 2, 3) == []


def test_split_v_is_exact() -> None:
    net = Sketch((1, 9, 8, 3))
    x = net.conv(0, 6)
    given = (x, net.constant(np.array([1, 2, 3], np.int32)), net.constant(np.array(3, np.int32)))
    made = tuple(net.like(x, shape=(1, 9, 8, depth)) for depth in (1, 2, 3))
    net.ops.append(Op("SPLIT_V", given, made, OPTIONS.index("SplitV"), {"num_splits": 3}))
    assert wrong_cuts(net.graph(*made), 2, 3) == []


def test_weights_behind_a_dequantize_are_constants() -> None:
    net = Sketch((1, 9, 8, 3))
    stored = net.constant(np.arange(-27, 27, dtype=np.int8).reshape(2, 3, 3, 3), quantized(0.01))
    filters = net.op("DEQUANTIZE", [stored], net.tensor((2, 3, 3, 3), "float32"), "Dequantize")
    made = net.tensor((1, 9, 8, 2), "float32")
    net.op("CONV_2D", [0, filters, net.constant(net.normal(2))], made, "Conv2D", stride_w=1, stride_h=1)
    assert Partition(net.graph(made)).blockers == []
    assert wrong_cuts(net.graph(made), 3, 2) == []


@pytest.mark.parametrize("kind", sorted(RULES))
def test_an_operator_without_inputs_options_or_sense_is_refused_and_never_crashes(kind: str) -> None:
    for inputs, shape in (
        ((0,), (1, 4, 4, 3)),
        ((0, 1), (1, 4, 4, 3)),
        ((1, 0), (1, 1, 1, 1)),
        ((0, -1, 2), (1, 9, 9, 1)),
    ):
        net = Sketch((1, 4, 4, 3))
        net.constant(np.ones((1, 2, 2, 3), np.float32))
        net.constant(np.zeros(0, np.int32))
        net.tensors.append(Tensor("made", shape, "float32"))
        op = Op(kind, inputs, (3,))
        graph = replace(net.graph(3), ops=[op])
        reason = blocker(graph, op)
        assert reason is None or isinstance(reason, str)
        Partition(graph)
    assert blocker(replace(net.graph(3), ops=[Op(kind, (0,), ())]), Op(kind, (0,), ())) is not None


def test_whole_is_the_region_of_the_full_map() -> None:
    assert whole(Sketch((1, 4, 7, 3)).graph(0), 0) == Region(0, 0, 4, 7)
