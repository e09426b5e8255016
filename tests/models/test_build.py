"""The built networks are the paper's, the same on every call, and hold values that later layers can work with."""

import numpy as np
import pytest

from models.graph.build import Network, build, fold
from models.graph.file import Graph
from models.graph.networks import NETWORKS
from models.running import engine
from schemas.contract.errors import PlanError

# Output of each layer of YOLOv2-608 in Darknet's yolov2.cfg: height, width, channels.
DARKNET = [
    *((608, 608, 32), (304, 304, 32), (304, 304, 64), (152, 152, 64)),
    *((152, 152, 128), (152, 152, 64), (152, 152, 128), (76, 76, 128)),
    *((76, 76, 256), (76, 76, 128), (76, 76, 256), (38, 38, 256)),
    *((38, 38, 512), (38, 38, 256), (38, 38, 512), (38, 38, 256), (38, 38, 512), (19, 19, 512)),
    *((19, 19, 1024), (19, 19, 512), (19, 19, 1024), (19, 19, 512), (19, 19, 1024)),
    *((19, 19, 1024), (19, 19, 1024), (38, 38, 512), (38, 38, 64), (19, 19, 256), (19, 19, 1280)),
    *((19, 19, 1024), (19, 19, 425)),
]


class Hollow(Network):
    """A network whose weights are zeros: shapes without the time to draw 50 million numbers."""

    def weights(self, shape: tuple[int, int, int, int], batch_norm: bool) -> tuple[np.ndarray, np.ndarray]:
        return np.broadcast_to(np.float32(0), shape), np.zeros(shape[0], np.float32)

    def constant(self, name: str, values: np.ndarray) -> int:
        return super().constant(name, np.zeros(1, np.float32) if values.size > 10**5 else values)


def test_the_layers_of_yolov2_have_darknets_shapes() -> None:
    network = Hollow((608, 608, 3))
    for row in NETWORKS["yolov2"][0]:
        network.add(row)
    assert [network.tensors[t].shape for t in network.layers] == [(1, *shape) for shape in DARKNET]
    assert len(DARKNET) == 31  # layer 31 of the cfg, region, decodes the last map


def test_a_file_is_the_same_on_every_call_and_another_with_another_seed() -> None:
    first = build("mini", 96, seed=3).to_bytes()
    assert build("mini", 96, seed=3).to_bytes() == first
    assert build("mini", 96, seed=4).to_bytes() != first


def test_first_layers_are_the_same_however_many_follow() -> None:
    few, all_of_them = build("mini", 96, layers=5), build("mini", 96)
    for tensor in few.tensors:
        if tensor.data is not None:
            assert np.array_equal(tensor.array(), all_of_them.tensors[all_of_them.by_name[tensor.name]].array())


def test_layers_keeps_so_many_layers() -> None:
    graph = build("yolov2", 96, layers=16)
    assert [graph.tensors[t].name for t in graph.outputs] == ["conv15"]
    assert graph.tensors[graph.outputs[0]].shape == (1, 6, 6, 256)
    assert build("mini", 64, layers=1).tensors[build("mini", 64, layers=1).outputs[0]].name == "conv0"


@pytest.mark.parametrize("size", [0, -32, 31, 33, 100, 4128])
def test_a_size_that_is_no_multiple_of_32_is_refused(size: int) -> None:
    with pytest.raises(PlanError, match=f"size {size} "):
        build("mini", size)


@pytest.mark.parametrize("layers", [0, -1, 23])
def test_a_number_of_layers_that_there_is_not_is_refused(layers: int) -> None:
    with pytest.raises(PlanError, match=rf"--layers {layers}: mini has 1 to \d+ layers"):
        build("mini", 96, layers=layers)


def test_an_unknown_network_is_refused_and_the_known_named() -> None:
    with pytest.raises(PlanError, match="unknown network 'yolov9': choose one of yolov2, mini"):
        build("yolov9")


def reorg_of_darknet(image: np.ndarray, stride: int) -> np.ndarray:
    """``reorg_cpu`` of Darknet's blas.c with forward=0, line by line: C x H x W in, C x H x W out of the same number."""
    channels, height, width = image.shape
    x, out = image.reshape(-1), np.zeros(image.size, image.dtype)
    out_c = channels // (stride * stride)
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                in_index = i + width * (j + height * k)
                c2, offset = k % out_c, k // out_c
                w2, h2 = i * stride + offset % stride, j * stride + offset // stride
                out_index = w2 + width * stride * (h2 + height * stride * c2)
                out[in_index] = x[out_index]
    return out.reshape(channels * stride * stride, height // stride, width // stride)


@pytest.mark.parametrize(("height", "width", "depth"), [(4, 6, 8), (2, 2, 4), (6, 4, 12)])
def test_reorg_has_darknets_element_order(height: int, width: int, depth: int) -> None:
    network = Network((height, width, depth))
    made = network.reorg("reorg", 0, 2)
    graph = Graph(network.tensors, network.ops, (0,), (made,))
    image = np.arange(height * width * depth, dtype=np.float32).reshape(1, height, width, depth)
    got = engine.load(graph.to_bytes()).run([image])[0]
    want = reorg_of_darknet(np.ascontiguousarray(image[0].transpose(2, 0, 1)), 2)
    assert np.array_equal(got[0], want.transpose(1, 2, 0))


def test_a_folded_batch_norm_is_the_batch_norm() -> None:
    random = np.random.default_rng(0)
    filters, x = random.standard_normal((3, 1, 1, 4)), random.standard_normal(4)
    bias, gamma, mean = (random.standard_normal(3) for _ in range(3))
    variance = random.uniform(0.5, 2, 3)
    folded, shifted = fold(*(a.astype(np.float32) for a in (filters, bias, gamma, mean, variance)))
    linear = filters[:, 0, 0] @ x
    want = (linear - mean) / (np.sqrt(variance) + 1e-6) * gamma + bias
    assert folded[:, 0, 0] @ x + shifted == pytest.approx(want, rel=1e-5)


def test_deep_layers_keep_values_that_differ_from_pixel_to_pixel() -> None:
    """A network whose maps died away would make every test of equality easy."""
    image = np.random.default_rng(0).random((1, 96, 96, 3), np.float32)
    made = engine.load(build("yolov2", 96, layers=16).to_bytes()).run([image])[0]
    assert 0.1 < made.std() < 100
    assert np.unique(made).size > made.size * 0.99
