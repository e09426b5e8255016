"""What operators cost a processor: the same tile by tile as whole, and in proportion to the time that a runtime takes."""

import time
from importlib.resources import files

import numpy as np
import pytest

from models.graph.effort import ARITHMETICS, arithmetic, effort_of
from models.graph.file import Graph, parse
from models.graph.ops import whole
from models.running import engine
from models.tiling.partition import Partition
from tests.models.sketch import Sketch, quantized

MIDDLE = {"float32": None, "int8": quantized(0.02), "uint8": quantized(0.02, 128)}


def sketch(dtype: str) -> Sketch:
    return Sketch((1, 38, 38, 64), dtype, MIDDLE[dtype])


@pytest.mark.parametrize("dtype", ARITHMETICS)
def test_the_effort_of_all_of_a_map_is_that_of_its_operators(dtype: str) -> None:
    net = Sketch((1, 38, 38, 3), dtype, MIDDLE[dtype])
    last = net.pool("MAX_POOL_2D", net.conv(net.conv(0, 48), 1, depthwise=True), (2, 2), (2, 2), 0)
    partition = Partition(net.graph(last))
    ops = range(3)
    assert partition.effort(ops) == partition.effort(ops, partition.regions(ops, {last: whole(partition.graph, last)}))


def test_by_hand() -> None:
    net = Sketch((1, 4, 4, 2))
    dense = net.conv(0, 5)
    depthwise = net.conv(dense, 1, depthwise=True)
    graph = net.graph(net.unary("ABS", depthwise))
    elements = 4 * 4 * 5
    assert effort_of(graph, [0]) == 2 * 9 * 2 * elements + 20 * elements
    assert effort_of(graph, [1]) == int(2.4 * 2 * 9 * elements + 20 * elements)
    assert effort_of(graph, [2]) == 20 * elements


def test_integers_of_xnnpack_are_cheaper_than_floats_and_those_of_other_kernels_hardly() -> None:
    found = {}
    for dtype in ARITHMETICS:
        net = sketch(dtype)
        net.conv(0, 64)
        found[dtype] = effort_of(net.graph(), [0])
    assert 3 * found["int8"] < found["float32"]
    assert 0.8 * found["float32"] < found["uint8"] < 1.2 * found["float32"]


def test_the_arithmetic_of_a_model_is_that_of_most_of_its_operations() -> None:
    zoo = files("models") / "zoo"
    assert arithmetic(parse((zoo / "digits_int8.tflite").read_bytes())) == "int8"
    assert arithmetic(parse((zoo / "digits.tflite").read_bytes())) == "float32"
    net = sketch("uint8")
    net.conv(0, 8)
    assert arithmetic(net.graph()) == "uint8"
    assert arithmetic(Sketch((1, 4, 4, 2)).graph(0)) == "float32"


def seconds(graph: Graph) -> float:
    runner, given = engine.load(graph.to_bytes()), [np.ones(graph.tensors[t].shape, np.float32) for t in graph.inputs]
    runner.run(given)
    found = []
    for _ in range(20):
        begun = time.perf_counter()
        runner.run(given)
        found.append(time.perf_counter() - begun)
    return min(found)


def test_operations_of_a_depthwise_convolution_take_longer_than_those_of_a_dense_one() -> None:
    """By their count they would take a 64th of its time; it is nearer to a 20th, and so says the effort."""
    dense, depthwise = sketch("float32"), sketch("float32")
    for _ in range(4):
        dense.conv(len(dense.tensors) - 1, 64)
        depthwise.conv(len(depthwise.tensors) - 1, 1, depthwise=True)
    graphs = dense.graph(), depthwise.graph()
    took = seconds(graphs[1]) / seconds(graphs[0])
    efforts = [effort_of(graph, range(4)) for graph in graphs]
    assert 0.3 < efforts[1] / efforts[0] / took < 3
