"""From trained weights to .tflite: batch norm folded, written by our own writer, then int8 by ai-edge-quantizer.

The float32 file equals the PyTorch network to rounding; the int8 file has int8 input and output: pixel minus 128, and
the map in steps of one scale.
"""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edge_agent.sources.scenes.scenes import VIEW, Studio
from models.graph.build import Network
from models.graph.file import Graph, Tensor, parse
from models.graph.ops import SAME
from models.running import engine
from training.network import INPUT, LAYERS, Detector
from training.view import letterbox, square

_RELU6 = 3  # in the schema's ActivationFunctionType
_TOLERANCE = 1e-4
_SIGNATURE = "main"


def to_graph(network: Detector, size: int = INPUT) -> Graph:
    """The trained network as a graph: image (1, size, size, 3) in [0, 1] -> digits (1, size / 8, size / 8, 15)."""
    built = Network((size, size, 3))
    convolutions = [m for m in network.body if isinstance(m, torch.nn.Conv2d)]
    norms = [m for m in network.body if isinstance(m, torch.nn.BatchNorm2d)]
    rows = iter(zip(convolutions, norms))
    source = 0
    for number, layer in enumerate(LAYERS):
        if layer == "max":
            source = built.maxpool(f"max{number}", source, 2, 2)
        else:
            source = _conv(built, f"conv{number}", source, *_folded(*next(rows)), activation=_RELU6)
    head = network.head
    assert head.bias is not None
    source = _conv(built, "digits", source, _nhwc(head.weight), head.bias.detach().numpy().copy(), activation=0)
    built.layers.append(source)
    return built.graph()


def _nhwc(weight: torch.Tensor) -> NDArray[np.float32]:
    return np.array(weight.detach().permute(0, 2, 3, 1).numpy(), order="C")


def _folded(conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * factor
    return _nhwc(conv.weight * factor.reshape(-1, 1, 1, 1)), bias.detach().numpy()


def _conv(
    built: Network,
    name: str,
    source: int,
    filters: NDArray[np.float32],
    bias: NDArray[np.float32],
    activation: int,
) -> int:
    made = built.tensor(name, (*built.tensors[source].shape[:3], filters.shape[0]))
    given = [source, built.constant(f"{name}/filters", filters), built.constant(f"{name}/bias", bias)]
    options = {"padding": SAME, "stride_w": 1, "stride_h": 1, "fused_activation_function": activation}
    return built.op("CONV_2D", given, made, "Conv2D", **options)


def difference(network: Detector, graph: Graph, images: Sequence[NDArray[np.uint8]]) -> float:
    """The largest distance of the file's map from PyTorch's, on images (1, height, width, 3) of the file's size.

    Raises:
        ValueError: it is above 1e-4 of the map's range: the export is wrong.
    """
    runner, largest = engine.load(graph.to_bytes()), 0.0
    for image in images:
        values = image.astype(np.float32) / 255
        with torch.no_grad():
            want = network.eval()(torch.from_numpy(values).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        got = runner.run([values])[0]
        largest = max(largest, float(np.abs(got - want).max() / max(1.0, np.abs(want).max())))
    if largest > _TOLERANCE:
        raise ValueError(f"the exported model differs from PyTorch's by {largest:.2g}: more than {_TOLERANCE}")
    return largest


def calibration_images(seed: int, count: int) -> list[NDArray[np.uint8]]:
    """Letterboxed frames (1, size, size, 3) with training's fonts and backgrounds."""
    studio = Studio(seed, "train")
    return [letterbox(studio.scene(i, VIEW).image, square(INPUT)) for i in range(count)]


def quantize(graph: Graph, images: Sequence[NDArray[np.uint8]]) -> Graph:
    """The model in static int8: weights per channel, activations per tensor with the extremes seen on ``images``."""
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(_signed(graph.to_bytes()), recipe.static_wi8_ai8())
    name = graph.tensors[graph.inputs[0]].name
    samples = [{name: image.astype(np.float32) / 255} for image in images]
    with contextlib.redirect_stdout(io.StringIO()):
        seen = made.calibrate({_SIGNATURE: samples}, num_threads=1)
        # The input is all 256 grey values, whatever the images held: int8 is then the pixel minus 128.
        seen[name] = {"min": np.zeros((1, 1, 1, 1), np.float32), "max": np.ones((1, 1, 1, 1), np.float32)}
        data = bytes(made.quantize(seen, enable_progress_report=False).quantized_model)
    return parse(data)


def _signed(model: bytes) -> bytes:
    """The file with a signature, which our writer leaves out and the quantizer asks for."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    record = schema.ModelT.InitFromPackedBuf(model, 0)
    signature, main = schema.SignatureDefT(), record.subgraphs[0]
    signature.signatureKey, signature.subgraphIndex = _SIGNATURE, 0
    for names, tensors in (("inputs", main.inputs), ("outputs", main.outputs)):
        entries = []
        for tensor in tensors:
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = main.tensors[tensor].name, tensor
            entries.append(entry)
        setattr(signature, names, entries)
    record.signatureDefs = [signature]
    builder = flatbuffers.Builder(len(model) + 4096)
    builder.Finish(record.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def check_input(tensor: Tensor) -> None:
    """Raises ValueError unless int8 input is the pixel minus 128."""
    q = tensor.quantization
    if tensor.dtype != "int8" or q is None or q.zero_point != (-128,) or abs(q.scale[0] * 255 - 1) > 1e-5:
        raise ValueError(f"the int8 model's input {tensor.name} is {tensor.dtype} with {q}, not the pixel minus 128")
