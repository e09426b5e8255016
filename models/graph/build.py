"""Builds networks from the layers of ``models.graph.networks``, with weights from a seed.

Weights are drawn layer by layer from the seed and the layer's number, with a batch norm that is folded into them as an
importer would do, so that a file is the same on every machine and deeper layers keep a useful range of values.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.graph.file import Graph, Op, Tensor
from models.graph.networks import CLIPS, NETWORKS, Layer
from models.graph.ops import SAME, VALID, Window
from models.graph.tflite_schema import OPTIONS
from schemas.contract.errors import PlanError

# Darknet's name -> operator, its options' table and their values.
ACTIVATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "leaky": ("LEAKY_RELU", "LeakyRelu", {"alpha": 0.1}),
    "relu": ("RELU", "", {}),
    "logistic": ("LOGISTIC", "", {}),
}

# Kind of a row -> whether there is a batch norm, and the activation.
CONVOLUTIONS = {"conv": (True, "leaky"), "relu": (False, "relu"), "norm": (True, "linear"), "linear": (False, "linear")}

_LOWEST = float(np.finfo(np.float32).min)


def build(name: str, size: int | None = None, seed: int = 1, layers: int | None = None) -> Graph:
    """One of ``NETWORKS``: input ``1 x size x size x 3`` float32 in [0, 1] (or a clip), the last layer's map as output.

    ``layers`` keeps the first so many layers of the network (16: the part that the paper distributes).

    Raises:
        PlanError: an unknown name, a size that is not a multiple of 32, or too many layers.
    """
    if name not in NETWORKS:
        raise PlanError(f"unknown network {name!r}: choose one of {', '.join(NETWORKS)}")
    rows, default, step = NETWORKS[name]
    size = default if size is None else size
    if size < 32 or size % step or size > 4096:
        raise PlanError(f"size {size} is not a multiple of {step} from 32 to 4096")
    if layers is not None and not 1 <= layers <= len(rows):
        raise PlanError(f"--layers {layers}: {name} has 1 to {len(rows)} layers")
    network = Network((CLIPS[name], size, size, 3) if name in CLIPS else (size, size, 3), seed)
    for row in rows[:layers]:
        network.add(row)
    return network.graph()


class Network:
    """A graph under construction, layer by layer; ``shape`` is the input's height, width and channels, frames before them."""

    def __init__(self, shape: tuple[int, ...], seed: int = 1) -> None:
        self.seed = seed
        self.tensors: list[Tensor] = [Tensor("image", (1, *shape), "float32")]
        self.ops: list[Op] = []
        self.layers: list[int] = []  # each layer's output tensor

    def graph(self) -> Graph:
        return Graph(self.tensors, self.ops, (0,), (self.layers[-1],)).pruned()

    def add(self, layer: Layer) -> None:
        """Appends a row of ``models.graph.networks``; its output is called after its kind and number, such as ``conv15``."""
        kind, *rest = layer
        source = self.layers[-1] if self.layers else 0
        name = f"{'conv' if kind in CONVOLUTIONS else kind}{len(self.layers)}"
        if kind in CONVOLUTIONS:
            filters, kernel, stride, pad, *back = rest if len(rest) > 3 else (*rest, -1)
            source = self.layers[back[0]] if back else source
            shape = (filters, kernel, kernel, self.tensors[source].shape[3])
            batch_norm, activation = CONVOLUTIONS[kind]
            made = self.conv(name, source, *self.weights(shape, batch_norm), stride, activation, pad)
        elif kind == "max":
            made = self.maxpool(name, source, *rest)
        elif kind == "conv3d":
            made = self.conv3d(name, source, rest[0])
        elif kind == "max3d":
            made = self.maxpool3d(name, source, *rest)
        elif kind == "route":
            made = self.route(name, [self.layers[i] for i in rest])
        elif kind == "add":
            made = self.shortcut(name, [self.layers[i] for i in rest], "linear")
        elif kind == "act":
            made = self.activate(name, source, rest[0])
        elif kind == "separable":
            made = self.separable(name, source, rest[0])
        elif kind == "dense":
            made = self.dense(name, source, *rest)
        elif kind == "lrn":
            options = {"radius": 2, "bias": 2.0, "alpha": 1e-4, "beta": 0.75}
            made = self._like(name, "LOCAL_RESPONSE_NORMALIZATION", source, "LocalResponseNormalization", **options)
        elif kind == "mean":
            axes = self.constant(f"{name}/axes", np.array([1, 2], np.int32))
            flat = self.tensor(name, (1, self.tensors[source].shape[3]))
            made = self.op("MEAN", [source, axes], flat, "Reducer", keep_dims=False)
        elif kind == "softmax":
            made = self._like(name, "SOFTMAX", source, "Softmax", beta=1.0)
        else:
            made = self.reorg(name, source, *rest)
        self.layers.append(made)

    def _like(self, name: str, kind: str, source: int, options: str, **values: Any) -> int:
        """An operator whose output has its input's shape."""
        return self.op(kind, [source], self.tensor(name, self.tensors[source].shape), options, **values)

    def separable(self, name: str, source: int, filters: int) -> int:
        """A depthwise 3x3, then a 1x1 with batch norm (Xception)."""
        shape = self.tensors[source].shape
        random = np.random.default_rng([self.seed, len(self.layers), 1])
        each = (random.standard_normal((1, 3, 3, shape[3]), np.float32) * np.float32((1 / 9) ** 0.5)).astype(np.float32)
        nothing = self.constant(f"{name}/zeros", np.zeros(shape[3], np.float32))
        deep = self.tensor(f"{name}/depthwise", shape)
        given = [source, self.constant(f"{name}/depthwise/filters", each), nothing]
        options = {"padding": SAME, "stride_w": 1, "stride_h": 1, "depth_multiplier": 1}
        self.op("DEPTHWISE_CONV_2D", given, deep, "DepthwiseConv2D", **options)
        return self.conv(name, deep, *self.weights((filters, 1, 1, shape[3]), batch_norm=True), 1, "linear")

    def dense(self, name: str, source: int, units: int, activation: str = "linear") -> int:
        """A dense layer over the map laid flat."""
        size = int(np.prod(self.tensors[source].shape))
        if self.tensors[source].shape != (1, size):
            source = self._reshape(f"{name}/flat", source, (1, size))
        weights, bias = self.weights((units, 1, 1, size), batch_norm=False)
        made = self.tensor(name if activation == "linear" else f"{name}/linear", (1, units))
        given = [source, self.constant(f"{name}/weights", weights.reshape(units, size)), self.constant(f"{name}/bias", bias)]
        return self.activate(name, self.op("FULLY_CONNECTED", given, made, "FullyConnected"), activation)

    def weights(self, shape: tuple[int, int, int, int], batch_norm: bool) -> tuple[np.ndarray, np.ndarray]:
        """Random filters (He's variance) and bias, the batch norm folded in."""
        random = np.random.default_rng([self.seed, len(self.layers)])
        fan_in = shape[1] * shape[2] * shape[3]
        filters = (random.standard_normal(shape, np.float32) * np.float32((2.0 / fan_in) ** 0.5)).astype(np.float32)
        bias = (random.standard_normal(shape[0], np.float32) * np.float32(0.1)).astype(np.float32)
        if batch_norm:
            gamma = random.uniform(0.8, 1.2, shape[0]).astype(np.float32)
            mean = random.normal(0, 0.1, shape[0]).astype(np.float32)
            variance = random.uniform(0.8, 1.2, shape[0]).astype(np.float32)
            filters, bias = fold(filters, bias, gamma, mean, variance)
        return filters, bias

    def tensor(self, name: str, shape: Sequence[int], dtype: str = "float32") -> int:
        self.tensors.append(Tensor(name, tuple(shape), dtype))
        return len(self.tensors) - 1

    def constant(self, name: str, values: np.ndarray) -> int:
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self.tensors.append(Tensor(name, values.shape, str(values.dtype), None, raw))
        return len(self.tensors) - 1

    def op(self, kind: str, inputs: Sequence[int], output: int, options: str, **values: Any) -> int:
        self.ops.append(Op(kind, tuple(inputs), (output,), OPTIONS.index(options), values))
        return output

    def conv(
        self, name: str, source: int, filters: np.ndarray, bias: np.ndarray, stride: int, activation: str, pad: int = -1
    ) -> int:
        """Convolution of a map with ``pad`` zeros (half the kernel, unless told) on all four sides, then ``activation``
        ("linear": none). ``filters``: out x height x width x in."""
        kernel = filters.shape[1]
        pad = kernel // 2 if pad < 0 else pad
        source, padding, size = self._window(name, source, kernel, stride, pad, 2 * pad)
        shape = (1, *size, filters.shape[0])
        linear = self.tensor(name if activation == "linear" else f"{name}/linear", shape)
        given = [source, self.constant(f"{name}/filters", filters), self.constant(f"{name}/bias", bias)]
        self.op("CONV_2D", given, linear, "Conv2D", padding=padding, stride_w=stride, stride_h=stride)
        return self.activate(name, linear, activation)

    def activate(self, name: str, source: int, activation: str) -> int:
        if activation == "linear":
            return source
        kind, options, values = ACTIVATIONS[activation]
        return self.op(kind, [source], self.tensor(name, self.tensors[source].shape), options, **values)

    def maxpool(self, name: str, source: int, kernel: int, stride: int, pad: int = -1) -> int:
        """Darknet's: ``pad`` pixels (kernel - 1, unless told) in all along an axis, the odd one after the map."""
        pad = kernel - 1 if pad < 0 else pad
        batch, _, _, depth = self.tensors[source].shape
        source, padding, size = self._window(name, source, kernel, stride, pad // 2, pad, _LOWEST)
        pooled = self.tensor(name, (batch, *size, depth))
        sizes = {"filter_width": kernel, "filter_height": kernel, "stride_w": stride, "stride_h": stride}
        return self.op("MAX_POOL_2D", [source], pooled, "Pool2D", padding=padding, **sizes)

    def _window(
        self, name: str, source: int, kernel: int, stride: int, before: int, pad: int, value: float = 0.0
    ) -> tuple[int, int, tuple[int, int]]:
        """What a window operator reads, its padding and its output's height and width.

        ``pad`` pixels of ``value`` surround the map along each axis, ``before`` of them above and left. Where TFLite's SAME
        puts its padding elsewhere (stride 2 on even sizes), the map is padded by an operator of its own.
        """
        batch, height, width, depth = self.tensors[source].shape
        rows, cols = (Window(kernel, stride, 1, before, size) for size in (height, width))
        out_height, out_width = ((size + pad - kernel) // stride + 1 for size in (height, width))
        above, beside = rows.padding(0, out_height), cols.padding(0, out_width)
        same = rows.is_same(height, out_height, above) and cols.is_same(width, out_width, beside)
        if same and stride <= kernel:  # tflite-runtime 2.14 answers nonsense to SAME where windows leave gaps
            return source, SAME, (out_height, out_width)
        if any(above + beside):
            given = [source, self.constant(f"{name}/pads", np.array([(0, 0), above, beside, (0, 0)], np.int32))]
            padded = self.tensor(f"{name}/padded", (batch, height + sum(above), width + sum(beside), depth))
            if value:
                given.append(self.constant(f"{name}/lowest", np.array([value], np.float32)))
            source = self.op("PADV2" if value else "PAD", given, padded, "PadV2" if value else "Pad")
        return source, VALID, (out_height, out_width)

    def conv3d(self, name: str, source: int, filters: int) -> int:
        """A 3x3x3 convolution of a clip with one zero on all sides, then a ReLU (C3D)."""
        *size, depth = self.tensors[source].shape
        weights, bias = self.weights((filters, 3, 3, 3 * depth), batch_norm=False)
        kernel = np.ascontiguousarray(weights.reshape(filters, 3, 3, 3, depth).transpose(1, 2, 3, 4, 0))
        linear = self.tensor(f"{name}/linear", (*size, filters))
        steps = {f"{what}_{axis}{end}": 1 for what, end in (("stride", ""), ("dilation", "_factor")) for axis in "dhw"}
        given = [source, self.constant(f"{name}/filters", kernel), self.constant(f"{name}/bias", bias)]
        return self.activate(name, self.op("CONV_3D", given, linear, "Conv3D", padding=SAME, **steps), "relu")

    def maxpool3d(self, name: str, source: int, frames: int, pad: int = 0) -> int:
        """The largest of 2x2 pixels (``pad`` as in ``maxpool``) in so many frames, by operators that runtimes have."""
        _, count, height, width, depth = self.tensors[source].shape
        flat = self._reshape(f"{name}/frames", source, (count, height, width, depth))
        pooled = self.maxpool(f"{name}/pooled", flat, 2, 2, pad)
        _, *size = self.tensors[pooled].shape
        if frames > 1:
            pooled = self._reshape(f"{name}/groups", pooled, (count // frames, frames, *size))
            given = [pooled, self.constant(f"{name}/axes", np.array([1], np.int32))]
            most = self.tensor(f"{name}/most", (count // frames, *size))
            pooled = self.op("REDUCE_MAX", given, most, "Reducer", keep_dims=False)
        return self._reshape(name, pooled, (1, count // frames, *size))

    def route(self, name: str, sources: Sequence[int]) -> int:
        if len(sources) == 1:
            return sources[0]
        shapes = [self.tensors[t].shape for t in sources]
        joined = self.tensor(name, (*shapes[0][:3], sum(shape[3] for shape in shapes)))
        return self.op("CONCATENATION", sources, joined, "Concatenation", axis=3)

    def shortcut(self, name: str, sources: Sequence[int], activation: str) -> int:
        """The sum of two maps of one shape, then ``activation``."""
        added = self.tensor(name if activation == "linear" else f"{name}/sum", self.tensors[sources[0]].shape)
        self.op("ADD", sources, added, "Add")
        return self.activate(name, added, activation)

    def upsample(self, name: str, source: int, factor: int) -> int:
        """Every pixel ``factor`` x ``factor`` times."""
        _, height, width, depth = self.tensors[source].shape
        size = (height * factor, width * factor)
        given = [source, self.constant(f"{name}/size", np.array(size, np.int32))]
        grown = self.tensor(name, (1, *size, depth))
        return self.op("RESIZE_NEAREST_NEIGHBOR", given, grown, "ResizeNearestNeighbor")

    def reorg(self, name: str, source: int, stride: int) -> int:
        """Darknet's reorg layer in its own element order.

        Darknet reads the C x H x W input as if it were C/s^2 x H*s x W*s and takes every s-th pixel; not TFLite's
        SPACE_TO_DEPTH. Source: reorg_cpu in Darknet's blas.c, called with forward=0.
        """
        _, height, width, depth = self.tensors[source].shape
        s, c = stride, depth // (stride * stride)
        out = (depth * s * s, height // s, width // s)
        planes = self._transpose(f"{name}/planes", source, (0, 3, 1, 2))
        view = self._reshape(f"{name}/view", planes, (c, height, s, width, s))
        taken = self._transpose(f"{name}/taken", view, (2, 4, 0, 1, 3))
        folded = self._reshape(f"{name}/folded", taken, (1, *out))
        return self._transpose(name, folded, (0, 2, 3, 1))

    def _transpose(self, name: str, source: int, order: Sequence[int]) -> int:
        shape = [self.tensors[source].shape[axis] for axis in order]
        given = [source, self.constant(f"{name}/order", np.array(order, np.int32))]
        return self.op("TRANSPOSE", given, self.tensor(name, shape), "Transpose")

    def _reshape(self, name: str, source: int, shape: Sequence[int]) -> int:
        given = [source, self.constant(f"{name}/shape", np.array(shape, np.int32))]
        return self.op("RESHAPE", given, self.tensor(name, shape), "Reshape", new_shape=np.array(shape, np.int32))


def fold(
    filters: np.ndarray, bias: np.ndarray, gamma: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Filters and bias with a batch norm folded in; ``bias`` is the norm's beta. Darknet's epsilon, 1e-6."""
    factor = gamma / (np.sqrt(variance) + np.float32(1e-6))
    return filters * factor.reshape(-1, 1, 1, 1), bias - mean * factor
