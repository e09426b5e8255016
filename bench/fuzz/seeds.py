"""Good bytes to begin with: models that this project draws and builds itself, and messages, cards and plans of them."""

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle import Bundle, make_bundle, save
from models.graph.build import Network
from models.graph.file import Graph, Op, Quantization, Tensor
from models.graph.tflite_schema import OPTIONS
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.plan import Plan
from schemas.wire.codec import encode

_D, _E, _FRAME = "0123456789abcdef" * 2, "01234567", "n-01234567-0"


# --- models ----------------------------------------------------------------------------------------------------------


def detector() -> Graph:
    """A detector of a few convolutions, with a route and a reorg, as ``models.graph.build`` makes it."""
    network = Network((16, 16, 3))
    for row in (("conv", 2, 3, 1), ("max", 2, 2), ("conv", 4, 3, 2), ("route", -2), ("reorg", 2), ("route", -1, -3)):
        network.add(row)
    network.add(("linear", 35, 1, 1))
    return network.graph()


def quantized() -> Graph:
    """An int8 chain: depthwise convolution, addition, padding, pool, concatenation, then a dense tail."""
    q, random = Quantization((0.1,), (0,)), np.random.default_rng(0)
    tensors = [Tensor("image", (1, 8, 8, 3), "int8", q)]
    ops: list[Op] = []

    def constant(values: np.ndarray, name: str) -> int:
        scale = None if name.startswith("pad") else q
        tensors.append(Tensor(name, values.shape, str(values.dtype), scale, values.reshape(-1).view(np.uint8)))
        return len(tensors) - 1

    def made(kind: str, options: str, inputs: list[int], shape: tuple[int, ...], **values: Any) -> int:
        tensors.append(Tensor(f"t{len(tensors)}", shape, "int8", q))
        ops.append(Op(kind, tuple(inputs), (len(tensors) - 1,), OPTIONS.index(options), values))
        return len(tensors) - 1

    def weights(*shape: int) -> np.ndarray:
        return random.integers(-9, 9, shape, np.int8)

    given = [0, constant(weights(1, 3, 3, 3), "w1"), constant(np.zeros(3, np.int32), "b1")]
    one = {"stride_w": 1, "stride_h": 1}
    a = made("DEPTHWISE_CONV_2D", "DepthwiseConv2D", given, (1, 8, 8, 3), depth_multiplier=1, **one)
    b = made("ADD", "Add", [0, a], (1, 8, 8, 3))
    widths = constant(np.array([(0, 0), (1, 1), (1, 1), (0, 0)], np.int32), "pads")
    c = made("PAD", "Pad", [b, widths], (1, 10, 10, 3))
    d = made("MAX_POOL_2D", "Pool2D", [c], (1, 5, 5, 3), padding=1, stride_w=2, stride_h=2, filter_width=2, filter_height=2)
    e = made("CONCATENATION", "Concatenation", [d, d], (1, 5, 5, 6), axis=3)
    f = made("RESHAPE", "Reshape", [e, constant(np.array([1, 150], np.int32), "pad_shape")], (1, 150))
    g = made("FULLY_CONNECTED", "FullyConnected", [f, constant(weights(4, 150), "w2"), -1], (1, 4))
    made("SOFTMAX", "Softmax", [g], (1, 4), beta=1.0)
    return Graph(tensors, ops, (0,), (len(tensors) - 1,))


GRAPHS: dict[str, Callable[[], Graph]] = {"detector": detector, "quantized": quantized}


def models() -> Iterator[bytes]:
    for draw in GRAPHS.values():
        yield draw().to_bytes()


def changes() -> Iterator[bytes]:
    """As ``targets.graph`` reads them: a model and what is changed in it."""
    random = np.random.default_rng(0)
    for i in range(len(GRAPHS)):
        yield bytes((i,))
        for _ in range(20):
            yield bytes((i,)) + random.bytes(4 * int(random.integers(1, 5)))


# --- the wire --------------------------------------------------------------------------------------------------------


def _head() -> dict[str, Any]:
    return {"node": "n", "epoch": _E}


@cache
def bundle() -> Bundle:
    with tempfile.TemporaryDirectory(prefix="dt-fuzz-") as folder:
        model = Path(folder) / "model.tflite"
        model.write_bytes(detector().to_bytes())
        return make_bundle(model, (2, 1))


def plan() -> Plan:
    return bundle().plan


def every_message() -> dict[topics.Topic, m.Message]:
    """One good message of each topic."""
    said = [
        m.Register(**_head(), seq=1, runtime="r", plan=_D, waiting=2, frames=(_FRAME,), camera=True),
        m.Echo(**_head(), seq=1, to_epoch=_E, plan=_D),
        m.VictimRequest(**_head(), plan=_D, request=_E),
        m.Steal(**_head(), plan=_D, thief="t", thief_epoch=_E, request=_E),
        m.TileHeader(**_head(), plan=_D, to_epoch=_E, request=_E, frame=_FRAME, lease_s=1.5, picture=(3, 4)),
        m.ResultHeader(**_head(), plan=_D, frame=_FRAME, block=0, tile=1, compute_s=0.25),
        m.Accepted(**_head(), frame=_FRAME, tiles=(0, 1)),
        m.OverlapHeader(**_head(), plan=_D, frame=_FRAME, layer=0, tile=1, maker=0),
        m.OverlapRequest(**_head(), plan=_D, frame=_FRAME, layer=0, tile=1),
        m.PlanMessage(**_head(), plan=plan(), chunks=(_D,), model_bytes=1000),
        m.ChunkRequest(**_head(), digest=_D, chunks=(0, 1)),
        m.ChunkHeader(**_head(), digest=_D, n=0),
        m.Outcome(**_head(), frame=_FRAME, status="ok", latency_s=0.5, digests={"cut/a": _D}, computed={"n": 1}),
        m.PictureHeader(**_head(), frame=_FRAME, picture=(3, 4)),
        m.OutputHeader(**_head(), frame=_FRAME),
        m.StatusRequest(**_head()),
        m.Status(**_head(), dropped={"form": 1}),
    ]
    return {row: message for message in said for row in topics.TABLE if row.payload is type(message)}


def record(row: topics.Topic, message: m.Message, tensors: Any = None) -> bytes:
    """A message as ``targets.addressed`` reads it, with all of its form supplied: topic, form, header, tensors."""
    start = bytes((topics.TABLE.index(row), 3))
    if not row.tensors:
        return start + encode(row, message)
    whole = encode(row, message, tensors)
    end = 8 + int.from_bytes(whole[4:8], "little")
    return start + whole[8:end].rstrip() + b"\0" + whole[end:]


def messages() -> Iterator[bytes]:
    """As ``targets.addressed`` reads them: topic, form, header, tensors."""
    for row, message in every_message().items():
        at = topics.TABLE.index(row)
        if not row.tensors:
            yield bytes((at, 3)) + encode(row, message)
            continue
        for packed in (False, True):
            whole = encode(row, message, {"x": np.zeros((1, 4, 4, 3), np.uint8), "y": np.ones(2, np.float32)}, packed)
            end = 8 + int.from_bytes(whole[4:8], "little")
            yield bytes((at, 3)) + whole[8:end].rstrip() + b"\0" + whole[end:]
            yield bytes((at, 0)) + whole


# --- text ------------------------------------------------------------------------------------------------------------

_CFG = """[net]
width=32
height=32
channels=3
[convolutional]
batch_normalize=1
filters=4
size=3
stride=1
pad=1
activation=leaky
[maxpool]
size=2
stride=2
[convolutional]
filters=12
size=1
activation=linear
[route]
layers=-1,-2
[reorg]
stride=2
[upsample]
stride=2
[convolutional]
filters=4
size=3
stride=1
pad=1
[shortcut]
from=-1
activation=linear
[convolutional]
filters=14
activation=linear
[region]
softmax=1
classes=2
num=2
anchors=1,2, 3,4
"""
_YOLO = _CFG.replace("[region]\nsoftmax=1", "[yolo]\nmask=0,1")


def networks() -> Iterator[bytes]:
    for text in (_CFG, _YOLO):
        yield text.encode()
    yield b"[net]\nwidth=8\nheight=8\n[convolutional]\nfilters=6\nactivation=linear\n[region]\nsoftmax=1\nclasses=1\n" + (
        b"anchors=1,1\n\0" + bytes((0, 0, 0, 0, 2, 0, 0, 0)) + bytes(12 + 4 * 24)
    )


def cards() -> Iterator[bytes]:
    yield b'decoder = "yolov2"\nlabels = "labels.txt"\nanchors = [[0.5, 0.6], [1.8, 2.0], [1, 2], [3, 4], [5, 6]]\n\0cat\ndog\n'
    yield b'decoder = "grid"\nlabels = ["a", "b"]\nscore_threshold = 0.3\nstride = 8\n[input]\nscale = [1, 2, 3]'
    yield b'decoder = "raw"\n[state]\na = "b"\n[made]\nby = 1979-05-27T07:32:00Z\nx = 0xFF\n\0 0 person\n 2: cat\n'


def configs() -> Iterator[bytes]:
    yield b'log = "DEBUG"\n[gateway]\nlisten = "127.0.0.1:1883"\ngrid = "3x3"\ndeadline = 60\noutputs = true\n'
    yield b'[edge]\nname = "a"\ngateway = "10.0.0.1:1883"\nsource = "synthetic://?frames=8"\nkeep = 2\nthreads = 4\n'


@cache
def room() -> Path:
    """A folder of this process, for what is read from files alone."""
    folder = tempfile.TemporaryDirectory(prefix="dt-fuzz-")
    _KEPT.append(folder)
    return Path(folder.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@cache
def bundle_folder() -> Path:
    """A folder with a planned model; its plan and card are good."""
    model = room() / "drawn.tflite"
    model.write_bytes(detector().to_bytes())
    save(make_bundle(model, (2, 1)), room() / "planned")
    return room() / "planned"


def bundles() -> Iterator[bytes]:
    folder = bundle_folder()
    yield (folder / "plan.json").read_bytes() + b"\0" + (folder / "card.json").read_bytes()


def outputs() -> Iterator[bytes]:
    random = np.random.default_rng(0)
    for kind in range(12):
        yield bytes((kind, 0, 99, 0, 99, 0, 60, 1)) + random.standard_normal(40).astype(np.float32).tobytes()
        yield bytes((kind, 0, 99, 0, 99, 0, 60, 1)) + np.array([3e38, -3e38, 0.5, np.nan], np.float32).tobytes()
        yield bytes((kind, 2, 99, 0, 99, 0, 60, 1)) + random.bytes(60)
