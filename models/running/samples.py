"""One small network for each arithmetic: nodes that make other bits of it have other kernels (``models.running.engine``).

Each has the operators that models use, over odd sizes, and every map that it makes is an output: none hides another's
difference. Numbers are drawn with fixed seeds, so that the networks are the same everywhere.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.graph.file import Graph, Op, Quantization, Tensor
from models.graph.tflite_schema import OPTIONS
from schemas.contract.plan import MAPS

DYNAMIC = "dynamic"  # float32 maps, int8 weights: dynamic-range quantization
ARITHMETICS = (*MAPS, DYNAMIC)
_IMAGE, _SPREAD = (1, 13, 11, 3), 40  # of quantized maps: the standard deviation that their scales are made for
_FEW = 32
_WEIGHTS = {"float32": "float32", "int8": "int8", "uint8": "uint8", DYNAMIC: "int8"}
_UNARY = "LOGISTIC TANH HARD_SWISH LEAKY_RELU".split()
_UNARY_FLOAT = "ABS SQRT RSQRT LOG EXP ELU".split()  # in this order: no root or logarithm of what is negative


def arithmetics(graph: Graph) -> tuple[str, ...]:
    """Those of ``ARITHMETICS`` that a graph uses: an operator has that of the maps which it makes, a conversion too."""
    found: set[str] = set()
    for op in graph.ops:
        made = {graph.tensors[t].dtype for t in op.outputs if t not in graph.constant}
        given = {graph.tensors[t].dtype for t in graph.data_inputs(op)}
        found |= made.intersection(MAPS) or (given.intersection(MAPS) if made else set())
        constants = {graph.tensors[t].dtype for t in op.inputs if t in graph.constant}
        if "float32" in made and constants & {"int8", "int4"}:
            found.add(DYNAMIC)
    return tuple(arithmetic for arithmetic in ARITHMETICS if arithmetic in found)


def sample(arithmetic: str) -> tuple[Graph, np.ndarray]:
    """The network of one of ``ARITHMETICS``, and its input."""
    net = _Network(arithmetic)
    conv = net.conv("CONV_2D", 0, 19, 3)
    if arithmetic == DYNAMIC:
        net.dense(net.conv("DEPTHWISE_CONV_2D", conv, 19, 5), 9)
        return net.graph(), net.image()
    deep = net.conv("DEPTHWISE_CONV_2D", conv, 19, 5)
    joined = net.op("ADD", [conv, deep], net.like(conv, scale=net.scale(conv) + net.scale(deep)), "Add")
    net.op("MUL", [conv, deep], net.like(conv, scale=net.scale(conv) * net.scale(deep) * _SPREAD), "Mul")
    for filters in (7, 13):  # widths for which XNNPACK has two kernels on Arm
        narrow = net.conv("CONV_2D", joined, filters, 1)
    window = {"filter_height": 3, "filter_width": 2, "stride_h": 2, "stride_w": 1, "padding": 1}
    for kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        net.op(kind, [narrow], net.like(narrow, (1, 6, 10, 13)), "Pool2D", **window)
    net.op("MEAN", [narrow, net.numbers(1, 2)], net.like(narrow, (1, 1, 1, 13)), "Reducer", keep_dims=True)
    net.op("RESIZE_BILINEAR", [narrow, net.numbers(26, 22)], net.like(narrow, (1, 26, 22, 13)), "ResizeBilinear")
    for kind in _UNARY:
        net.unary(kind, narrow)
    net.op("SOFTMAX", [dense := net.dense(narrow, 9)], net.fixed(dense, "SOFTMAX"), "Softmax", beta=1.0)
    if arithmetic == "float32":
        for kind in _UNARY_FLOAT:
            narrow = net.unary(kind, narrow)
    net.there_and_back(conv)
    return net.graph(), net.image()


def noise(tensor: Tensor) -> np.ndarray:
    """Values for a map, the same each time: any numbers will do to tell kernels apart."""
    return _draw(np.random.default_rng(7), tensor.dtype, *tensor.shape)


def few_channels(data: Tensor, weights: Tensor, axis: int = -1) -> tuple[Tensor, Tensor]:
    """Map and weights of a convolution or dense layer with at most 39 input channels, and their rest by 8; not of groups.

    ``axis``: that of the weights' input channels.
    How many there are chooses no kernel, but that rest is summed apart.
    """
    depth = weights.shape[axis]
    if depth < _FEW + 8 or depth != data.shape[-1]:
        return data, weights
    few = np.arange(_FEW + depth % 8)
    values = np.ascontiguousarray(np.take(weights.array(), few, axis))
    thin = replace(weights, shape=values.shape, data=values.reshape(-1).view(np.uint8), buffer=0)
    return replace(data, shape=(*data.shape[:-1], len(few))), thin


def _draw(random: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    if dtype == "float32":
        return random.standard_normal(shape).astype(np.float32)
    info = np.iinfo(dtype)
    return random.integers(info.min + 1, info.max, shape, endpoint=True).astype(dtype)


def long_sums() -> tuple[Graph, np.ndarray]:
    """Two convolutions and their input: the second sums 576 products, which a runtime may divide among its threads."""
    net = _Network("float32")
    net.conv("CONV_2D", net.conv("CONV_2D", 0, 64, 3), 32, 3)
    return net.graph(), net.image()


class _Network:
    def __init__(self, arithmetic: str) -> None:
        self._arithmetic = arithmetic
        self._dtype = "float32" if arithmetic == DYNAMIC else arithmetic
        self._ops: list[Op] = []
        self._random = np.random.default_rng(7)
        self._tensors = [Tensor("in", _IMAGE, self._dtype, self._quantization(0.001))]

    def graph(self) -> Graph:
        made = tuple(t for op in self._ops for t in op.outputs if self._tensors[t].dtype == self._dtype)
        return Graph(self._tensors, self._ops, (0,), made)

    def image(self) -> np.ndarray:
        return _draw(self._random, self._dtype, *_IMAGE)

    def scale(self, t: int) -> float:
        spec = self._tensors[t].quantization
        return spec.scale[0] if spec else 1.0

    def op(self, kind: str, inputs: Sequence[int], made: int, options: str = "", **values: Any) -> int:
        self._ops.append(Op(kind, tuple(inputs), (made,), OPTIONS.index(options), values))
        return made

    def like(self, t: int, shape: tuple[int, ...] = (), scale: float = 0.0) -> int:
        """A map with the shape and scale of ``t`` where none is told."""
        return self._add(shape or self._tensors[t].shape, self._dtype, self._quantization(scale or self.scale(t)))

    def fixed(self, t: int, kind: str) -> int:
        """A map for operators whose results have one quantization."""
        lowest = {"int8": -128, "uint8": 0, "float32": 0}[self._dtype]
        spec = Quantization((1 / 128,), (lowest + 128,)) if kind == "TANH" else Quantization((1 / 256,), (lowest,))
        return self._add(self._tensors[t].shape, self._dtype, None if self._dtype == "float32" else spec)

    def numbers(self, *values: int) -> int:
        return self._constant(np.array(values, np.int32))

    def unary(self, kind: str, t: int) -> int:
        options = {"LEAKY_RELU": "LeakyRelu", "HARD_SWISH": "HardSwish", "EXP": "Exp", "ABS": "Abs"}
        made = self.fixed(t, kind) if kind in ("LOGISTIC", "TANH") else self.like(t)
        return self.op(kind, [t], made, options.get(kind, ""), **({"alpha": 0.1} if kind == "LEAKY_RELU" else {}))

    def conv(self, kind: str, t: int, filters: int, kernel: int) -> int:
        depthwise, (_, height, width, depth) = kind != "CONV_2D", self._tensors[t].shape
        shape = (1, kernel, kernel, filters) if depthwise else (filters, kernel, kernel, depth)
        taps = kernel * kernel * (1 if depthwise else depth)
        given, scale = self._weights(t, shape, 3 if depthwise else 0, taps)
        made = self.like(t, (1, height, width, filters), scale)
        options = {"stride_w": 1, "stride_h": 1} | ({"depth_multiplier": 1} if depthwise else {})
        return self.op(kind, [t, *given], made, "DepthwiseConv2D" if depthwise else "Conv2D", **options)

    def dense(self, t: int, filters: int) -> int:
        size = int(np.prod(self._tensors[t].shape))
        flat = self.op("RESHAPE", [t, self.numbers(1, size)], self.like(t, (1, size)), "Reshape")
        given, scale = self._weights(t, (filters, size), None, size)
        return self.op("FULLY_CONNECTED", [flat, *given], self.like(t, (1, filters), scale), "FullyConnected")

    def there_and_back(self, t: int) -> None:
        """Conversions that end in this arithmetic."""
        over = "int8" if self._dtype == "float32" else "float32"
        middle = self._add(self._tensors[t].shape, over, Quantization((0.05,), (3,)) if over == "int8" else None)
        kinds = ["QUANTIZE", "DEQUANTIZE"]
        for kind, given, made in zip(kinds if over == "int8" else kinds[::-1], (t, middle), (middle, self.like(t))):
            self.op(kind, [given], made, kind.title())

    def _weights(self, t: int, shape: tuple[int, ...], axis: int | None, taps: int) -> tuple[list[int], float]:
        """Weights and bias, and the scale of what is made with them; int8 has a scale a channel along ``axis``."""
        dtype, filters = _WEIGHTS[self._arithmetic], shape[0 if axis is None else axis]
        values, bias = _draw(self._random, dtype, *shape), self._random.standard_normal(filters)
        if dtype == "float32":
            values *= np.float32(taps**-0.5)
            return [self._constant(values), self._constant(bias.astype(np.float32))], 0.0
        by_channel = dtype == "int8" and axis is not None
        scales = tuple(map(float, np.linspace(0.005, 0.015, filters))) if by_channel else (0.01,)
        spec = Quantization(scales, (131 if dtype == "uint8" else 0,) * len(scales), axis or 0)
        if self._dtype == "float32":
            return [self._constant(values, spec), self._constant(bias.astype(np.float32))], 0.0
        steps = Quantization(tuple(self.scale(t) * scale for scale in scales), (0,) * len(scales))
        given = [self._constant(values, spec), self._constant((bias * 1000).astype(np.int32), steps)]
        return given, self.scale(t) * 0.01 * 74 * float(taps) ** 0.5

    def _quantization(self, scale: float) -> Quantization | None:
        return {"int8": Quantization((scale,), (3,)), "uint8": Quantization((scale,), (131,))}.get(self._dtype)

    def _constant(self, values: np.ndarray, spec: Quantization | None = None) -> int:
        return self._add(values.shape, str(values.dtype), spec, np.ascontiguousarray(values).reshape(-1).view(np.uint8))

    def _add(
        self, shape: tuple[int, ...], dtype: str, spec: Quantization | None = None, data: np.ndarray | None = None
    ) -> int:
        self._tensors.append(Tensor(f"t{len(self._tensors)}", shape, dtype, spec, data))
        return len(self._tensors) - 1
