"""Chains of operators that only move elements: which are fused, what a region of them needs, and that files keep them."""

from collections.abc import Callable

import numpy as np
import pytest

from models.graph.build import build
from models.graph.file import MOVES, Graph, Op, parse
from models.graph.permutations import Movement, fuse_permutations
from models.running import engine
from models.tiling.partition import Partition
from models.tiling.rewrite import tile_graph, whole_graph
from schemas.contract.plan import Region
from tests.models.sketch import Sketch, image_for, quantized, run, same_bits, wrong_cuts


def moves(graph: Graph) -> list[Op]:
    return [op for op in fuse_permutations(graph).ops if op.kind == MOVES]


def movement(graph: Graph) -> Movement:
    (op,) = moves(graph)
    found = op.options["movement"]
    assert isinstance(found, Movement)
    return found


def reorg(height: int = 8, width: int = 6, depth: int = 8) -> Graph:
    net = Sketch((1, height, width, 3))
    return net.graph(net.conv(net.reorg(net.conv(0, depth), 2), 5))


def shuffled() -> Graph:
    net = Sketch((1, 7, 5, 3))
    return net.graph(net.conv(net.shuffle(net.conv(0, 6), 3), 4))


@pytest.mark.parametrize("make", [reorg, shuffled])
def test_a_chain_is_one_operator_whose_regions_need_what_they_are_made_of(make: Callable[[], Graph]) -> None:
    graph = make()
    found = movement(graph)
    source = np.arange(np.prod(found.shape)).reshape(found.shape)
    height, width, _ = found.elements.shape
    for y0, x0, y1, x1 in np.ndindex(height, width, height, width):
        out = Region(y0, x0, y1 + 1, x1 + 1)
        if y0 > y1 or x0 > x1:
            continue
        need, wanted = found.needs(out), found.elements[y0 : y1 + 1, x0 : x1 + 1]
        part = source[need.y0 : need.y1, need.x0 : need.x1]
        rows, cols, _ = np.nonzero(np.isin(part, wanted))
        assert (rows.min(), cols.min(), rows.max() + 1, cols.max() + 1) == (0, 0, need.height, need.width), "no larger"
        assert np.array_equal(part.reshape(-1)[found.within(out)], wanted)


def test_reorg_needs_the_same_columns_and_at_the_borders_all_rows() -> None:
    found = movement(build("yolov2", size=608, layers=29))
    assert (found.reach(0), found.reach(1)) == (38, 2)
    assert found.needs(Region(0, 6, 9, 12)) == Region(0, 12, 38, 24)
    assert found.needs(Region(8, 6, 11, 12)) == Region(15, 12, 23, 24)


def test_a_shuffle_of_channels_is_gathered_by_channel_and_all_else_by_element() -> None:
    cases = (shuffled(), ["CONV_2D", "GATHER", "CONV_2D"]), (reorg(), ["CONV_2D", "RESHAPE", "GATHER", "CONV_2D"])
    for graph, kinds in cases:
        partition = Partition(graph)
        cut = partition.cuts[-1]
        _, height, width, _ = graph.tensors[graph.outputs[0]].shape
        made = tile_graph(partition, cut.ops, [partition.image], {cut.tensors[0]: Region(0, 0, height, width)})
        assert [op.kind for op in made.ops if op.kind not in ("PAD", "SLICE")] == kinds


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("grid", [(1, 3), (2, 2), (3, 1)])
def test_tiles_behind_a_reorg_and_a_shuffle_equal_the_unpartitioned_run(dtype: str, grid: tuple[int, int]) -> None:
    net = Sketch((1, 12, 18, 3), dtype, None if dtype == "float32" else quantized(0.02, 5 if dtype == "int8" else 121))
    x = net.shuffle(net.conv(0, 8), 2)
    y = net.conv(net.reorg(x, 2), 6)
    assert wrong_cuts(net.graph(net.conv(y, 4)), *grid) == []


def test_all_of_yolov2_can_be_tiled() -> None:
    partition = Partition(build("yolov2", size=96))
    assert not partition.blockers and len(partition.tileable) == len(partition.graph.ops)


def test_what_is_written_holds_the_chains_own_operators() -> None:
    graph = reorg()
    one = fuse_permutations(graph)
    again = parse(one.pruned().to_bytes())
    assert [op.kind for op in again.ops] == [op.kind for op in graph.ops] and len(one.ops) == 3
    image = image_for(graph)
    assert all(same_bits(a, b) for a, b in zip(run(again, [image]), run(graph, [image])))
    partition = Partition(graph)
    made, (x,) = partition.cuts[0].tensors[0], graph.outputs
    rest = whole_graph(partition, [made], [x])
    between = engine.load(Graph(graph.tensors, graph.ops, graph.inputs, (made,)).pruned().to_bytes()).run([image])
    assert same_bits(engine.load(rest.to_bytes()).run(between)[0], run(graph, [image])[0])
    assert moves(graph)[0].label == "TRANSPOSE+RESHAPE"


def looked_at() -> Graph:
    """Of a chain's inside somebody else reads: the chain ends there, and it is no map."""
    net = Sketch((1, 8, 8, 3))
    out = net.reorg(net.conv(0, 8), 2)
    return net.graph(out, net.ops[-2].outputs[0])


def rescaled() -> Graph:
    net = Sketch((1, 4, 4, 3), "int8", quantized(0.02))
    turned = net.transpose(0, 0, 2, 1, 3)
    net.tensors[turned] = net.tensors[net.like(turned, quantization=quantized(0.03))]
    return net.graph(net.transpose(turned, 0, 2, 1, 3))


def to_channels() -> Graph:
    net = Sketch((1, 8, 8, 3))
    return net.graph(net.transpose(net.conv(0, 8), 0, 3, 1, 2))


def flattened() -> Graph:
    net = Sketch((1, 8, 8, 3))
    return net.graph(net.reshape(net.conv(0, 8), 1, 64, 1, 8))


def turned() -> Graph:
    net = Sketch((1, 8, 8, 3))
    return net.graph(net.transpose(net.conv(0, 8), 0, 2, 1, 3))


@pytest.mark.parametrize("make", [looked_at, rescaled, to_channels, flattened, turned])
def test_what_is_no_such_chain_is_left_alone(make: Callable[[], Graph]) -> None:
    graph = make()
    assert fuse_permutations(graph) is graph and Partition(graph).blockers


def doubled(depth: int, stacked: bool) -> Graph:
    """Keras 3's nearest neighbours, or a map that is stacked on itself."""
    net = Sketch((1, 6, 5, 3))
    x = net.conv(0, depth)
    if stacked:
        made = net.packed([net.packed([x, x], 2)] * 2, 4)
    else:
        rows = net.tiled(net.reshape(x, 1, 6, 1, 5, depth), 1, 1, 2, 1, 1)
        made = net.tiled(net.reshape(rows, 1, 12, 5, 1, depth), 1, 1, 1, 2, 1)
    return net.graph(net.conv(net.moved(net.reshape(made, 1, 12, 10, depth)), 4))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("depth", [1, 4])
def test_pixels_that_move_whole_are_gathered_as_such(depth: int, stacked: bool) -> None:
    graph = doubled(depth, stacked)
    found = movement(graph)
    assert found.unit == depth and found.elements.shape == (12, 10, 1)
    assert np.array_equal(found.elements[..., 0], np.arange(30).reshape(6, 5).repeat(2, 0).repeat(2, 1))
    assert found.needs(Region(3, 4, 7, 5)) == Region(1, 2, 4, 3)
    partition = Partition(graph)
    tile = tile_graph(partition, partition.cuts[-1].ops, [partition.image], {graph.outputs[0]: Region(4, 0, 8, 5)})
    (gather,) = (op for op in tile.ops if op.kind == "GATHER")
    places = tile.tensors[gather.inputs[1]].shape
    assert tile.tensors[gather.outputs[0]].shape == (*places, depth) if depth > 1 else (*places,)


def test_a_map_whose_pixels_fit_is_tiled_though_its_elements_do_not() -> None:
    net = Sketch((1, 512, 512, 3))
    rows = net.tiled(net.reshape(net.conv(0, 24, (1, 1)), 1, 512, 1, 512, 24), 1, 1, 2, 1, 1)
    graph = net.graph(net.moved(net.reshape(rows, 1, 1024, 512, 24)))
    assert [op.kind for op in Partition(net.graph(graph.outputs[0])).graph.ops][-1] == "RESHAPE", "no map of these proportions"
    cols = net.tiled(net.reshape(graph.outputs[0], 1, 1024, 512, 1, 24), 1, 1, 1, 2, 1)
    assert movement(net.graph(net.moved(net.reshape(cols, 1, 1024, 1024, 24)))).unit == 24


def test_unpacked_channels_are_packed_in_another_order() -> None:
    net = Sketch((1, 6, 5, 3))
    red, green, blue = net.unpacked(0, 3)
    graph = net.graph(net.conv(net.moved(net.packed([blue, green, red, red], 3)), 4))
    order = movement(graph).shuffled
    assert order is not None and order.tolist() == [2, 1, 0, 0]
    assert wrong_cuts(graph, 2, 3) == []


def test_strands_that_part_are_no_chain() -> None:
    net = Sketch((1, 6, 5, 3))
    red, green, blue = net.unpacked(0, 3)
    packed = net.moved(net.packed([blue, green, red], 3))
    assert moves(net.graph(packed, net.unary("RELU", red))) == []
