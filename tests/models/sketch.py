"""Sketches small graphs for tests, and compares their tiles and tail with the unpartitioned run, bit for bit."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.graph.file import Graph, Op, Quantization, Tensor
from models.graph.ops import SAME
from models.graph.ops import VALID as VALID
from models.graph.tflite_schema import OPTIONS
from models.running import engine
from models.tiling.partition import Cut, Partition
from models.tiling.rewrite import signature, tail_graph, tile_graph
from models.tiling.tensor import crop
from schemas.contract.plan import Box

# What the schema calls the fused activations.
NONE, RELU, RELU_N1_TO_1, RELU6 = range(4)


def quantized(scale: float, zero_point: int = 0) -> Quantization:
    return Quantization((scale,), (zero_point,))


class Sketch:
    """A graph under construction; tensor 0 is the image, of any dtype."""

    def __init__(
        self,
        shape: Sequence[int],
        dtype: str = "float32",
        quantization: Quantization | None = None,
        seed: int = 0,
    ) -> None:
        self.tensors = [Tensor("image", tuple(shape), dtype, quantization)]
        self.ops: list[Op] = []
        self.inner: set[int] = set()  # what a map is between operators that move its elements: no map
        self.random = np.random.default_rng(seed)

    def graph(self, *outputs: int) -> Graph:
        return Graph(self.tensors, self.ops, (0,), outputs or (len(self.tensors) - 1,))

    def shape(self, t: int) -> tuple[int, ...]:
        return self.tensors[t].shape

    def tensor(self, shape: Sequence[int], dtype: str, quantization: Quantization | None = None) -> int:
        self.tensors.append(Tensor(f"t{len(self.tensors)}", tuple(shape), dtype, quantization))
        return len(self.tensors) - 1

    def like(self, t: int, *, shape: Sequence[int] | None = None, quantization: Quantization | None = None) -> int:
        """A new tensor with the dtype (and, unless told, shape and quantization) of ``t``."""
        source = self.tensors[t]
        return self.tensor(shape or source.shape, source.dtype, quantization or source.quantization)

    def constant(self, values: np.ndarray, quantization: Quantization | None = None) -> int:
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        name = f"c{len(self.tensors)}"
        self.tensors.append(Tensor(name, values.shape, str(values.dtype), quantization, raw))
        return len(self.tensors) - 1

    def op(self, kind: str, inputs: Sequence[int], output: int, options: str = "", **values: Any) -> int:
        """Adds an operator; returns ``output``."""
        self.ops.append(Op(kind, tuple(inputs), (output,), OPTIONS.index(options), values))
        return output

    def unary(self, kind: str, x: int, quantization: Quantization | None = None, **values: Any) -> int:
        options = {"LEAKY_RELU": "LeakyRelu", "EXP": "Exp", "SQUARE": "Square", "ABS": "Abs", "NEG": "Neg"}
        options |= {"GELU": "Gelu"}
        return self.op(kind, [x], self.like(x, quantization=quantization), options.get(kind, ""), **values)

    def binary(
        self, kind: str, x: int, y: int, quantization: Quantization | None = None, activation: int = NONE
    ) -> int:
        options = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "MAXIMUM": "MaximumMinimum"}
        options |= {"MINIMUM": "MaximumMinimum", "SQUARED_DIFFERENCE": "SquaredDifference"}
        fused = {"fused_activation_function": activation} if kind in ("ADD", "SUB", "MUL", "DIV") else {}
        return self.op(kind, [x, y], self.like(x, quantization=quantization), options.get(kind, ""), **fused)

    def transpose(self, x: int, *order: int) -> int:
        made = self.like(x, shape=[self.shape(x)[axis] for axis in order])
        self.inner.add(made)
        return self.op("TRANSPOSE", [x, self.constant(np.array(order, np.int32))], made, "Transpose")

    def reshape(self, x: int, *shape: int) -> int:
        size, made = np.array(shape, np.int32), self.like(x, shape=shape)
        self.inner.add(made)
        return self.op("RESHAPE", [x, self.constant(size)], made, "Reshape", new_shape=size)

    def moved(self, x: int) -> int:
        """``x`` as the end of a chain that moves elements."""
        self.inner.remove(x)
        return x

    def shuffle(self, x: int, groups: int) -> int:
        """Channels in another order, as ShuffleNet writes it."""
        _, height, width, depth = self.shape(x)
        grouped = self.transpose(self.reshape(x, 1, height, width, groups, depth // groups), 0, 1, 2, 4, 3)
        return self.moved(self.reshape(grouped, 1, height, width, depth))

    def reorg(self, x: int, stride: int) -> int:
        """Darknet's, as ``models.graph.build`` writes it."""
        _, height, width, depth = self.shape(x)
        s = stride
        view = self.reshape(self.transpose(x, 0, 3, 1, 2), depth // s // s, height, s, width, s)
        folded = self.reshape(self.transpose(view, 2, 4, 0, 1, 3), 1, depth * s * s, height // s, width // s)
        return self.moved(self.transpose(folded, 0, 2, 3, 1))

    def normal(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape).astype(np.float32)

    def window(
        self, x: int, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], padding: int
    ) -> tuple[int, int]:
        """Height and width of a window operator's output; 0 where the window does not fit."""
        sizes = []
        for size, k, s, d in zip(self.shape(x)[1:3], kernel, stride, dilation):
            sizes.append(-(-size // s) if padding == SAME else max(0, (size - (k - 1) * d - 1) // s + 1))
        return sizes[0], sizes[1]

    def conv(
        self,
        x: int,
        filters: int,
        kernel: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: int = SAME,
        activation: int = NONE,
        depthwise: bool = False,
        half: bool = False,
    ) -> int:
        """A convolution of the dtype of ``x``; ``filters`` counts the multiplier where it is depthwise.

        ``half``: its float32 weights are stored as float16, behind a DEQUANTIZE.
        """
        depth, dtype = self.shape(x)[3], self.tensors[x].dtype
        out = filters * depth if depthwise else filters
        shape = (1, *kernel, out) if depthwise else (out, *kernel, depth)
        size = self.window(x, kernel, stride, dilation, padding)
        fan_in = kernel[0] * kernel[1] * (1 if depthwise else depth)
        weights = self.normal(*shape) * np.float32(fan_in**-0.5)
        bias = self.normal(out) * np.float32(0.1)
        if dtype == "float32":
            given = [self.halved(weights), self.halved(bias)] if half else [self.constant(weights), self.constant(bias)]
            made = self.tensor((self.shape(x)[0], *size, out), dtype)
        else:
            given = self.quantized_weights(x, weights, bias, depthwise)
            made = self.tensor((self.shape(x)[0], *size, out), dtype, self.some_quantization(dtype, 2.0))
        values: dict[str, Any] = {
            "padding": padding,
            "stride_h": stride[0],
            "stride_w": stride[1],
            "dilation_h_factor": dilation[0],
            "dilation_w_factor": dilation[1],
            "fused_activation_function": activation,
        }
        if depthwise:
            return self.op(
                "DEPTHWISE_CONV_2D", [x, *given], made, "DepthwiseConv2D", depth_multiplier=filters, **values
            )
        return self.op("CONV_2D", [x, *given], made, "Conv2D", **values)

    def quantized_weights(self, x: int, weights: np.ndarray, bias: np.ndarray, depthwise: bool) -> list[int]:
        """int8: a scale for each output channel; uint8: one scale and a zero point that is not in the middle."""
        spec = self.tensors[x].quantization
        assert spec is not None
        axis = 3 if depthwise else 0
        if self.tensors[x].dtype == "int8":
            others = tuple(i for i in range(4) if i != axis)
            scales = np.abs(weights).max(axis=others) / 127 + 1e-6
            shaped = scales.reshape([-1 if i == axis else 1 for i in range(4)])
            values = np.clip(np.round(weights / shaped), -127, 127).astype(np.int8)
            quantization = Quantization(tuple(map(float, scales)), (0,) * len(scales), axis)
        else:
            scales = np.array([np.abs(weights).max() / 120 + 1e-6])
            values = np.clip(np.round(weights / scales[0]) + 131, 0, 255).astype(np.uint8)
            quantization = Quantization((float(scales[0]),), (131,))
        bias_scales = scales.astype(np.float32) * np.float32(spec.scale[0])
        stored = np.round(bias / bias_scales).astype(np.int32)
        bias_quantization = Quantization(tuple(map(float, bias_scales)), (0,) * len(scales))
        return [self.constant(values, quantization), self.constant(stored, bias_quantization)]

    def halved(self, values: np.ndarray) -> int:
        stored = self.constant(values.astype(np.float16))
        return self.op("DEQUANTIZE", [stored], self.tensor(values.shape, "float32"), "Dequantize")

    def some_quantization(self, dtype: str, spread: float) -> Quantization:
        """About ``-spread..spread``, its zero point off the middle."""
        middle = 0 if dtype == "int8" else 128
        return quantized(spread / 100, middle + int(self.random.integers(-20, 21)))

    def pool(
        self, kind: str, x: int, kernel: tuple[int, int], stride: tuple[int, int], padding: int, activation: int = NONE
    ) -> int:
        size = self.window(x, kernel, stride, (1, 1), padding)
        made = self.like(x, shape=(self.shape(x)[0], *size, self.shape(x)[3]))
        sizes = {
            "filter_height": kernel[0],
            "filter_width": kernel[1],
            "stride_h": stride[0],
            "stride_w": stride[1],
        }
        return self.op(kind, [x], made, "Pool2D", padding=padding, fused_activation_function=activation, **sizes)

    def pad(self, x: int, rows: tuple[int, int], cols: tuple[int, int], value: float | None = None) -> int:
        """PAD, or PADV2 with ``value`` (as stored)."""
        batch, height, width, depth = self.shape(x)
        made = self.like(x, shape=(batch, height + sum(rows), width + sum(cols), depth))
        widths = self.constant(np.array([(0, 0), rows, cols, (0, 0)], np.int32))
        if value is None:
            return self.op("PAD", [x, widths], made, "Pad")
        fill = self.constant(np.array([value], self.tensors[x].dtype), self.tensors[x].quantization)
        return self.op("PADV2", [x, widths, fill], made, "PadV2")

    def concat(self, *parts: int) -> int:
        depth = sum(self.shape(t)[3] for t in parts)
        made = self.like(parts[0], shape=(*self.shape(parts[0])[:3], depth))
        return self.op("CONCATENATION", parts, made, "Concatenation", axis=3)

    def split(self, x: int, count: int) -> list[int]:
        axis = self.constant(np.array(3, np.int32))
        shape = (*self.shape(x)[:3], self.shape(x)[3] // count)
        made = [self.like(x, shape=shape) for _ in range(count)]
        self.ops.append(Op("SPLIT", (axis, x), tuple(made), OPTIONS.index("Split"), {"num_splits": count}))
        return made

    def blocks(self, kind: str, x: int, size: int) -> int:
        batch, height, width, depth = self.shape(x)
        if kind == "SPACE_TO_DEPTH":
            made = self.like(x, shape=(batch, height // size, width // size, depth * size * size))
            return self.op(kind, [x], made, "SpaceToDepth", block_size=size)
        made = self.like(x, shape=(batch, height * size, width * size, depth // (size * size)))
        return self.op(kind, [x], made, "DepthToSpace", block_size=size)

    def resize(self, x: int, factor: int, half_pixel_centers: bool = False) -> int:
        _, height, width, _ = self.shape(x)
        return self.resized(x, (height * factor, width * factor), half_pixel_centers)

    def resized(
        self,
        x: int,
        size: tuple[int, int],
        half_pixel_centers: bool = False,
        align_corners: bool = False,
        kind: str = "RESIZE_NEAREST_NEIGHBOR",
    ) -> int:
        batch, _, _, depth = self.shape(x)
        made, given = self.like(x, shape=(batch, *size, depth)), [x, self.constant(np.array(size, np.int32))]
        options = "ResizeBilinear" if kind == "RESIZE_BILINEAR" else "ResizeNearestNeighbor"
        return self.op(
            kind, given, made, options, half_pixel_centers=half_pixel_centers, align_corners=align_corners
        )

    def transpose_conv(
        self, x: int, filters: int, kernel: tuple[int, int], stride: tuple[int, int], padding: int, biased: bool = True
    ) -> int:
        _, height, width, depth = self.shape(x)
        dtype, spec = self.tensors[x].dtype, self.tensors[x].quantization
        more = [max(k - s, 0) if padding == VALID else 0 for k, s in zip(kernel, stride)]
        size = (1, height * stride[0] + more[0], width * stride[1] + more[1], filters)
        weights = self.normal(filters, *kernel, depth) * np.float32((kernel[0] * kernel[1] * depth) ** -0.5)
        bias = self.normal(filters) * np.float32(0.1)
        if spec is None:
            made, given = self.tensor(size, dtype), [self.constant(weights), self.constant(bias)]
        else:
            made = self.tensor(size, dtype, self.some_quantization(dtype, 2.0))
            given = self.quantized_weights(x, weights, bias, depthwise=False)
        inputs = [self.constant(np.array(size, np.int32)), given[0], x, *given[1 : 1 + biased]]
        values = {"padding": padding, "stride_h": stride[0], "stride_w": stride[1]}
        return self.op("TRANSPOSE_CONV", inputs, made, "TransposeConv", **values)

    def part(self, x: int, begins: Sequence[int], sizes: Sequence[int]) -> int:
        """SLICE of rows, columns and channels."""
        given = [self.constant(np.array([n, *values], np.int32)) for n, values in ((0, begins), (1, sizes))]
        return self.op("SLICE", [x, *given], self.like(x, shape=(1, *sizes)), "Slice")

    def strided(self, x: int, begins: Sequence[int], strides: Sequence[int]) -> int:
        """STRIDED_SLICE of rows, columns and channels, to the end (to the first where a stride is negative)."""
        shape = self.shape(x)[1:]
        sizes = [len(range(size)[b::s]) for size, b, s in zip(shape, begins, strides)]
        given = [self.constant(np.array(values, np.int32)) for values in ([0, *begins], [1, *shape], [1, *strides])]
        masks = {"begin_mask": 1, "end_mask": sum(2 << i for i, s in enumerate(strides) if s < 0)}
        return self.op("STRIDED_SLICE", [x, *given], self.like(x, shape=(1, *sizes)), "StridedSlice", **masks)

    def tiled(self, x: int, *times: int) -> int:
        made = self.like(x, shape=[size * n for size, n in zip(self.shape(x), times)])
        self.inner.add(made)
        return self.op("TILE", [x, self.constant(np.array(times, np.int32))], made, "Tile")

    def packed(self, parts: Sequence[int], axis: int) -> int:
        shape = list(self.shape(parts[0]))
        shape.insert(axis, len(parts))
        made = self.like(parts[0], shape=shape)
        self.inner.add(made)
        return self.op("PACK", parts, made, "Pack", values_count=len(parts), axis=axis)

    def unpacked(self, x: int, axis: int) -> list[int]:
        shape = [size for i, size in enumerate(self.shape(x)) if i != axis]
        made = [self.like(x, shape=shape) for _ in range(self.shape(x)[axis])]
        self.inner.update(made)
        self.ops.append(Op("UNPACK", (x,), tuple(made), OPTIONS.index("Unpack"), {"num": len(made), "axis": axis}))
        return made

    def of_channels(self, kind: str, x: int) -> int:
        """What works on the channels of each position."""
        depth, dtype, zero = self.shape(x)[3], self.tensors[x].dtype, {"int8": 0, "uint8": 128}
        options = {"SOFTMAX": "Softmax", "LOG_SOFTMAX": "LogSoftmax", "L2_NORMALIZATION": "L2Norm", "REVERSE_V2": "ReverseV2"}
        fixed = {"SOFTMAX": (1 / 256, -128), "LOG_SOFTMAX": (16 / 256, 127), "L2_NORMALIZATION": (1 / 128, 0)}
        if kind == "LOCAL_RESPONSE_NORMALIZATION":
            values = {"radius": 2, "bias": 1.0, "alpha": 0.01, "beta": 0.75}
            return self.op(kind, [x], self.like(x), "LocalResponseNormalization", **values)
        if kind in fixed:
            scale, middle = fixed[kind]
            quantization = None if dtype == "float32" else quantized(scale, middle + zero[dtype])
            values = {"beta": 1.0} if kind == "SOFTMAX" else {}
            return self.op(kind, [x], self.like(x, quantization=quantization), options[kind], **values)
        if kind == "GATHER":
            order = self.constant(self.random.integers(0, depth, depth + 1).astype(np.int32))
            return self.op(kind, [x, order], self.like(x, shape=(*self.shape(x)[:3], depth + 1)), "Gather", axis=3)
        axis = self.constant(np.array([3], np.int32))
        if kind == "REVERSE_V2":
            return self.op(kind, [x, axis], self.like(x), options[kind])
        made = self.like(x, shape=(*self.shape(x)[:3], 1))
        return self.op(kind, [x, axis], made, "Reducer", keep_dims=True)

    def dense(self, x: int, units: int) -> int:
        """FULLY_CONNECTED of the channels of each position."""
        *places, depth = self.shape(x)
        dtype, spec = self.tensors[x].dtype, self.tensors[x].quantization
        weights, bias = self.normal(units, depth) * np.float32(depth**-0.5), self.normal(units) * np.float32(0.1)
        if spec is None:
            given, made = [self.constant(weights), self.constant(bias)], self.tensor((*places, units), dtype)
        else:
            scale, middle = float(np.abs(weights).max() / 120) + 1e-6, 0 if dtype == "int8" else 131
            stored = (np.round(weights / scale) + middle).astype(dtype)
            biases = np.round(bias / (scale * spec.scale[0])).astype(np.int32)
            given = [self.constant(stored, quantized(scale, middle)), self.constant(biases, quantized(scale * spec.scale[0]))]
            made = self.tensor((*places, units), dtype, self.some_quantization(dtype, 2.0))
        return self.op("FULLY_CONNECTED", [x, *given], made, "FullyConnected", keep_num_dims=True)

    def prelu(self, x: int) -> int:
        dtype = self.tensors[x].dtype
        slopes = self.normal(1, 1, self.shape(x)[3]) * np.float32(0.3)
        if dtype == "float32":
            return self.op("PRELU", [x, self.constant(slopes)], self.like(x))
        quantization = quantized(0.01, 3 if dtype == "int8" else 131)
        stored = np.clip(np.round(slopes / 0.01) + quantization.zero_point[0], 0, 127).astype(dtype)
        return self.op("PRELU", [x, self.constant(stored, quantization)], self.like(x))

    def cast(self, kind: str, x: int, dtype: str, quantization: Quantization | None = None) -> int:
        """QUANTIZE or DEQUANTIZE."""
        options = {"QUANTIZE": "Quantize", "DEQUANTIZE": "Dequantize"}
        return self.op(kind, [x], self.tensor(self.shape(x), dtype, quantization), options[kind])


def image_for(graph: Graph, seed: int = 0) -> np.ndarray:
    """Random values for the model's image."""
    spec = graph.tensors[graph.inputs[0]]
    random = np.random.default_rng(seed)
    if spec.dtype == "float32":
        return random.standard_normal(spec.shape).astype(np.float32)
    info = np.iinfo(spec.dtype)
    return random.integers(info.min, info.max + 1, spec.shape).astype(spec.dtype)


def run(graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    return engine.load(graph.to_bytes()).run(inputs)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def merge(partition: Partition, cut: Cut, rows: int, cols: int, image: np.ndarray) -> list[np.ndarray]:
    """The cut's maps, computed tile by tile."""
    graph = partition.graph
    maps = [np.zeros(graph.tensors[t].shape, graph.tensors[t].dtype) for t in cut.tensors]
    engines: dict[str, engine.Engine] = {}
    for outputs in partition.tile_outputs(cut, rows, cols):
        regions = partition.regions(cut.ops, outputs)
        tile = tile_graph(partition, cut.ops, [partition.image], outputs)
        key = signature(tile)
        if key not in engines:
            engines[key] = engine.load(tile.to_bytes())
        made = engines[key].run([np.ascontiguousarray(crop(image, Box.tile(image.shape, regions[partition.image])))])
        for whole, t, part in zip(maps, cut.tensors, made, strict=True):
            crop(whole, Box.tile(whole.shape, outputs[t]))[...] = part
    return maps


def wrong_cuts(graph: Graph, rows: int, cols: int, image: np.ndarray | None = None) -> list[str]:
    """Names of the legal cuts whose tiles or tail differ in any bit from the unpartitioned run, and in what."""
    image = image_for(graph) if image is None else image
    partition = Partition(graph)
    whole = run(graph, [image])
    wrong = []
    for cut in partition.cuts:
        if min(n for t in cut.tensors for n in graph.tensors[t].shape[-3:-1]) < max(rows, cols):
            continue
        merged = merge(partition, cut, rows, cols, image)
        alone = run(Graph(graph.tensors, graph.ops, graph.inputs, cut.tensors).pruned(), [image])
        tail = tail_graph(partition, cut)
        made = dict(zip(cut.tensors, merged))
        if tail is not None:
            named = {t.name: i for i, t in enumerate(graph.tensors)}
            made |= dict(zip((named[tail.tensors[t].name] for t in tail.outputs), run(tail, merged)))
        wrong += [
            f"{cut.name} at {rows}x{cols}: {graph.tensors[t].name} differs from the prefix run whole"
            for t, a, b in zip(cut.tensors, merged, alone)
            if not same_bits(a, b)
        ]
        wrong += [
            f"{cut.name} at {rows}x{cols}: output {graph.tensors[t].name} differs from the whole model's"
            for t, b in zip(graph.outputs, whole)
            if not same_bits(made[t], b)
        ]
    return wrong


def convolved() -> Sketch:
    """One convolution of 8x8 pixels, which can be tiled."""
    sketch = Sketch((1, 8, 8, 3))
    weights, bias = sketch.constant(sketch.normal(4, 3, 3, 3)), sketch.constant(np.zeros(4, np.float32))
    sketch.op("CONV_2D", [0, weights, bias], sketch.tensor((1, 8, 8, 4), "float32"), "Conv2D", stride_w=1, stride_h=1)
    return sketch


def splitting(parts: int) -> Graph:
    """A convolution and a SPLIT of its channels. One that makes no parts kills ai-edge-litert 2.3.0 by SIGSEGV."""
    sketch = convolved()
    made, axis = len(sketch.tensors) - 1, sketch.constant(np.array(3, np.int32))
    return sketch.graph(sketch.op("SPLIT", [axis, made], sketch.like(made), "Split", num_splits=parts))
