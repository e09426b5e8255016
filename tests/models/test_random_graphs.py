"""Any small graph of tileable operators, at any grid and any legal cut: tiles and tail equal the unpartitioned run."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, event, given, note
from hypothesis import strategies as st

from models.graph.file import Graph
from models.graph.ops import SAME, VALID
from models.running import engine
from models.tiling.partition import Partition
from tests.examples import examples
from tests.models.sketch import NONE, RELU, RELU6, RELU_N1_TO_1, Sketch, image_for, quantized, wrong_cuts

Draw = Callable[[st.SearchStrategy[int]], int]
Step = Callable[[st.DataObject, Sketch, int], "int | None"]

SIZES = st.integers(5, 19)
WINDOWS = st.tuples(st.integers(1, 7), st.integers(1, 7))
STRIDES = st.tuples(st.integers(1, 3), st.integers(1, 3))
PADDINGS = st.sampled_from([SAME, VALID])
ACTIVATIONS = st.sampled_from([NONE, RELU, RELU6, RELU_N1_TO_1])
MAX_PIXELS, MAX_DEPTH = 40 * 40, 24


def conv(data: st.DataObject, net: Sketch, x: int) -> int | None:
    kernel, stride = data.draw(WINDOWS), data.draw(STRIDES)
    dilation = data.draw(STRIDES) if stride == (1, 1) else (1, 1)
    padding, depthwise = data.draw(PADDINGS), data.draw(st.booleans())
    if min(net.window(x, kernel, stride, dilation, padding)) < 1:
        return None
    if any(k < s for k, s in zip(kernel, stride)) and kernel != (1, 1) and padding == SAME:
        return None  # refused by name where it matters: see test_ops
    filters = data.draw(st.integers(1, 2 if depthwise else 9))
    half = data.draw(st.booleans()) and net.tensors[x].dtype == "float32"
    return net.conv(x, filters, kernel, stride, dilation, padding, data.draw(ACTIVATIONS), depthwise, half)


def max_pool(data: st.DataObject, net: Sketch, x: int) -> int | None:
    kernel, stride, padding = data.draw(WINDOWS), data.draw(STRIDES), data.draw(PADDINGS)
    if min(net.window(x, kernel, stride, (1, 1), padding)) < 1:
        return None
    return net.pool("MAX_POOL_2D", x, kernel, stride, padding, data.draw(ACTIVATIONS))


def average_pool(data: st.DataObject, net: Sketch, x: int) -> int | None:
    kernel, stride = data.draw(WINDOWS), data.draw(STRIDES)
    padding = data.draw(PADDINGS)
    if padding == SAME and any(s > k for k, s in zip(kernel, stride)):
        return None  # refused by name: see test_ops
    if min(net.window(x, kernel, stride, (1, 1), padding)) < 1:
        return None
    if net.window(x, kernel, stride, (1, 1), padding) == (1, 1) and net.shape(x)[1:3] != kernel:
        return None  # refused by name: see test_ops
    return net.pool("AVERAGE_POOL_2D", x, kernel, stride, padding, data.draw(ACTIVATIONS))


def pad(data: st.DataObject, net: Sketch, x: int) -> int:
    borders = st.tuples(st.integers(0, 3), st.integers(0, 3))
    value = data.draw(st.sampled_from([None, 7]))
    return net.pad(x, data.draw(borders), data.draw(borders), value)


def activation(data: st.DataObject, net: Sketch, x: int) -> int:
    kinds = {
        "float32": "RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 LEAKY_RELU LOGISTIC TANH HARD_SWISH ELU GELU ABS NEG SQUARE FLOOR "
        "CEIL ROUND SQRT RSQRT EXP LOG",
        "int8": "RELU RELU6 LEAKY_RELU LOGISTIC TANH HARD_SWISH ELU GELU",
        "uint8": "RELU RELU6 LEAKY_RELU LOGISTIC TANH HARD_SWISH GELU",
    }
    dtype = net.tensors[x].dtype
    kind = data.draw(st.sampled_from(kinds[dtype].split()))
    fixed = {"LOGISTIC": quantized(1 / 256, -128 if dtype == "int8" else 0)}
    fixed |= {"TANH": quantized(1 / 128, 0 if dtype == "int8" else 128)}
    if kind in ("SQRT", "RSQRT", "LOG"):
        x = net.binary("MAXIMUM", net.unary("ABS", x), net.constant(net.normal(1) * 0 + net.normal(1) ** 2 + 1))
    quantization = None if dtype == "float32" else fixed.get(kind)
    return net.unary(kind, x, quantization, **({"alpha": 0.1} if kind == "LEAKY_RELU" else {}))


def prelu(_: st.DataObject, net: Sketch, x: int) -> int:
    return net.prelu(x)


def scale(data: st.DataObject, net: Sketch, x: int) -> int:
    """Multiplies by, or adds, a scalar, a vector of channels, a row, a column or a map of constants."""
    _, height, width, depth = net.shape(x)
    shapes = [
        (1,),
        (depth,),
        (1, 1, 1, depth),
        (height, width, depth),
        (1, height, width, depth),
        (1, height, width, 1),
    ]
    shapes += [(width, depth), (height, 1, depth), (1, 1, width, 1)]
    shape, kind = data.draw(st.sampled_from(shapes)), data.draw(st.sampled_from(["MUL", "ADD", "SUB"]))
    dtype, values = net.tensors[x].dtype, net.normal(*shape)
    if dtype == "float32":
        return net.binary(kind, x, net.constant(values), activation=data.draw(ACTIVATIONS))
    middle = 3 if dtype == "int8" else 130
    stored = (values * 20).round().clip(-100, 100) + middle
    y = net.constant(stored.astype(dtype), quantized(0.05, middle))
    return net.binary(kind, x, y, net.some_quantization(dtype, 2.0), data.draw(ACTIVATIONS))


def residual(data: st.DataObject, net: Sketch, x: int) -> int | None:
    """Joins with any earlier map of the same size."""
    twins = [t for t in maps(net) if net.shape(t) == net.shape(x) and net.tensors[t].dtype == net.tensors[x].dtype]
    dtype, kind = net.tensors[x].dtype, data.draw(st.sampled_from(["ADD", "MUL", "SUB", "MAXIMUM", "MINIMUM"]))
    y = data.draw(st.sampled_from(twins))
    if kind in ("MAXIMUM", "MINIMUM"):
        return net.binary(kind, x, y) if net.tensors[x].quantization == net.tensors[y].quantization else None
    if kind == "MUL" and x == y and dtype != "float32":
        return None  # refused by name: see test_ops
    quantization = None if dtype == "float32" else net.some_quantization(dtype, 2.0)
    return net.binary(kind, x, y, quantization, data.draw(ACTIVATIONS))


def concat(data: st.DataObject, net: Sketch, x: int) -> int:
    spec = net.tensors[x]
    twins = [
        t
        for t in maps(net)
        if net.shape(t)[:3] == spec.shape[:3]
        and (net.tensors[t].dtype, net.tensors[t].quantization) == (spec.dtype, spec.quantization)
    ]
    return net.concat(x, data.draw(st.sampled_from(twins)))


def split(data: st.DataObject, net: Sketch, x: int) -> int | None:
    parts = [n for n in (2, 3) if net.shape(x)[3] % n == 0]
    return data.draw(st.sampled_from(net.split(x, data.draw(st.sampled_from(parts))))) if parts else None


def blocks(data: st.DataObject, net: Sketch, x: int) -> int | None:
    _, height, width, depth = net.shape(x)
    size = data.draw(st.integers(2, 3))
    if data.draw(st.booleans()):
        return net.blocks("SPACE_TO_DEPTH", x, size) if height % size == width % size == 0 else None
    return net.blocks("DEPTH_TO_SPACE", x, size) if depth % (size * size) == 0 else None


def shuffle(data: st.DataObject, net: Sketch, x: int) -> int | None:
    parts = [n for n in (2, 3, 4) if net.shape(x)[3] % n == 0]
    return net.shuffle(x, data.draw(st.sampled_from(parts))) if parts else None


def reorg(data: st.DataObject, net: Sketch, x: int) -> int | None:
    _, height, width, depth = net.shape(x)
    sizes = [s for s in (1, 2, 3) if height % s == width % s == depth % (s * s) == 0]
    return net.reorg(x, data.draw(st.sampled_from(sizes)))


def pixel_shuffle(data: st.DataObject, net: Sketch, x: int) -> int | None:
    """As torch's exporters write it: depth to space by RESHAPE and TRANSPOSE."""
    _, height, width, depth = net.shape(x)
    if depth % 4:
        return None
    apart = net.transpose(net.reshape(x, 1, height, width, depth // 4, 2, 2), 0, 1, 4, 2, 5, 3)
    return net.moved(net.reshape(apart, 1, 2 * height, 2 * width, depth // 4))


def repeated(data: st.DataObject, net: Sketch, x: int) -> int:
    """Nearest neighbours as Keras 3 writes them, or by stacking a map on itself."""
    _, height, width, depth = net.shape(x)
    n = data.draw(st.integers(2, 3))
    if data.draw(st.booleans()):
        x = net.moved(net.reshape(net.packed([net.packed([x] * n, 2)] * n, 4), 1, height * n, width * n, depth))
        return x
    rows = net.tiled(net.reshape(x, 1, height, 1, width, depth), 1, 1, n, 1, 1)
    cols = net.tiled(net.reshape(rows, 1, height * n, width, 1, depth), 1, 1, 1, n, 1)
    return net.moved(net.reshape(cols, 1, height * n, width * n, depth))


def unpacked(data: st.DataObject, net: Sketch, x: int) -> int:
    """Channels in another order, some of them twice, by UNPACK and PACK."""
    parts = net.unpacked(x, 3)
    order = [*range(len(parts)), *data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=2))]
    return net.moved(net.packed([parts[i] for i in data.draw(st.permutations(order))], 3))


def part(data: st.DataObject, net: Sketch, x: int) -> int | None:
    begins = [data.draw(st.integers(0, min(3, size - 1))) for size in net.shape(x)[1:]]
    if data.draw(st.booleans()):
        ends = [data.draw(st.integers(max(b + 1, size - 3), size)) for b, size in zip(begins, net.shape(x)[1:])]
        return net.part(x, begins, [end - begin for begin, end in zip(begins, ends)])
    strides = [data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 2, -1]))]
    return net.strided(x, begins, strides)


def transpose_conv(data: st.DataObject, net: Sketch, x: int) -> int:
    kernel, padding = data.draw(WINDOWS), data.draw(PADDINGS)
    stride = (data.draw(st.integers(1, min(3, kernel[0]))), data.draw(st.integers(1, min(3, kernel[1]))))
    return net.transpose_conv(x, data.draw(st.integers(1, 9)), kernel, stride, padding, data.draw(st.booleans()))


def of_channels(data: st.DataObject, net: Sketch, x: int) -> int:
    kinds = ["SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REVERSE_V2", "GATHER"]
    if net.tensors[x].dtype != "float32" or engine.runtime().startswith("ai-edge-litert"):
        kinds.append("MEAN")  # the others are refused by name: see test_ops
    if net.tensors[x].dtype == "float32" and net.shape(x)[3] % 4 == 0:
        kinds.append("LOCAL_RESPONSE_NORMALIZATION")
    return net.of_channels(data.draw(st.sampled_from(kinds)), x)


def dense(data: st.DataObject, net: Sketch, x: int) -> int:
    return net.dense(x, data.draw(st.integers(1, 9)))


def resize(data: st.DataObject, net: Sketch, x: int) -> int:
    """To twice and more, to a half and less, to any size."""
    kind = data.draw(st.sampled_from(["RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"]))
    corners = data.draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    _, *sizes, _ = net.shape(x)
    made = []
    for size in sizes:
        exact = [size * n for n in (2, 3, 4)] + [size // n for n in (2, 3) if size % n == 0]
        made.append(data.draw(st.sampled_from([*exact, *(2 * size - 1, 3 * (size - 1) + 1)]) | st.integers(3, 30)))
    return net.resized(x, (made[0], made[1]), *corners, kind)


def requantize(data: st.DataObject, net: Sketch, x: int) -> int:
    """float -> quantized, quantized -> float or other quantization."""
    dtype = data.draw(st.sampled_from(["int8", "uint8", "float32"]))
    if dtype == "float32":
        return x if net.tensors[x].dtype == dtype else net.cast("DEQUANTIZE", x, dtype)
    quantization, own = net.some_quantization(dtype, 2.5), net.tensors[x].quantization
    if own and dtype != net.tensors[x].dtype:  # between int8 and uint8 only at one scale: see test_ops
        quantization = quantized(own.scale[0], quantization.zero_point[0])
    return net.cast("QUANTIZE", x, dtype, quantization)


STEPS: tuple[Step, ...] = (
    *(conv, conv, max_pool, average_pool, pad, activation, prelu, scale, residual, concat, split, blocks, resize),
    *(requantize, shuffle, reorg, pixel_shuffle, repeated, unpacked, part, resize, transpose_conv),
    *(of_channels, dense),
)


def maps(net: Sketch) -> list[int]:
    """The image and what operators made of it."""
    made = (t for op in net.ops for t in op.outputs if len(net.shape(t)) == 4 and t not in net.inner)
    return [0, *(t for t in made if not half_weights(net, t))]


def half_weights(net: Sketch, t: int) -> bool:
    return any(t in op.outputs and net.tensors[op.inputs[0]].dtype == "float16" for op in net.ops)


def draw_graph(data: st.DataObject, dtype: str) -> Graph:
    height, width, depth = data.draw(SIZES), data.draw(SIZES), data.draw(st.sampled_from([1, 3]))
    quantization = None if dtype == "float32" else quantized(0.02, 5 if dtype == "int8" else 121)
    net = Sketch((1, height, width, depth), dtype, quantization, seed=data.draw(st.integers(0, 99)))
    x = net.conv(0, 4, kernel=(1, 1)) if data.draw(st.booleans()) else 0
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.integers(0, 4)) == 0:  # now and then a branch leaves from an earlier map
            x = data.draw(st.sampled_from(maps(net)))
        step = data.draw(st.sampled_from(STEPS))
        made = step(data, net, x)
        if (
            made is not None
            and net.shape(made)[1] * net.shape(made)[2] <= MAX_PIXELS
            and net.shape(made)[3] <= MAX_DEPTH
        ):
            x = made
            event(step.__name__)
    if x == 0:
        x = net.conv(0, 3)
    ends = [t for t in maps(net) if t and not any(t in op.inputs for op in net.ops)]
    return net.graph(x, *(t for t in ends if t != x))


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_tiles_of_any_graph_equal_the_unpartitioned_run(dtype: str) -> None:
    @examples(120, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        graph = draw_graph(data, dtype)
        note(" ".join(f"{op.kind}{op.inputs}->{op.outputs}{op.options}" for op in graph.ops))
        note(" ".join(f"{i}:{t.shape}" for i, t in enumerate(graph.tensors)))
        partition = Partition(graph)
        assert partition.blockers == []
        rows, cols = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
        assert wrong_cuts(graph, rows, cols, image_for(graph)) == []

    check()
