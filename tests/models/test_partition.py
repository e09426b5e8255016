"""Tiles partition the maps of a cut, cuts are legal and named, and YOLOv2's costs are the measured ones."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.graph.build import build
from models.graph.file import Graph
from models.graph.ops import SAME, VALID, whole
from models.graph.prepare import image_input
from models.planning.planner import make_plan
from models.tiling.partition import Cut, Partition
from schemas.contract.errors import PlanError
from schemas.contract.plan import Region
from tests.examples import examples
from tests.models.sketch import Sketch

GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6))


@functools.cache
def yolov2() -> Partition:
    """The paper's network up to layer 15, weights left out of account."""
    return Partition(build("yolov2", layers=16))


def deepest(partition: Partition) -> Cut:
    return partition.cuts[-1]


def chain() -> Graph:
    net = Sketch((1, 13, 11, 3))
    x = net.conv(0, 4)
    x = net.pool("MAX_POOL_2D", x, (2, 2), (2, 2), SAME)
    return net.graph(net.conv(x, 5, (5, 5)))


def ladder() -> Graph:
    """Two branches of different sizes and an earlier map that is used late: cuts are sets."""
    net = Sketch((1, 12, 12, 3))
    stem = net.conv(0, 4)
    down = net.conv(stem, 4, stride=(2, 2))
    up = net.resize(net.conv(down, 4), 2)
    return net.graph(net.concat(up, stem), net.conv(down, 2))


def test_a_tile_of_a_chain_needs_its_halo() -> None:
    """Output rows 0..4 of 7: conv 5x5 needs 0..6 of the pool's, so 0..12 of the conv's, so 0..13 of the image."""
    partition = Partition(chain())
    cut = deepest(partition)
    regions = partition.regions(cut.ops, {cut.tensors[0]: Region(0, 0, 4, 3)})
    by_name = {partition.graph.tensors[t].name: region for t, region in regions.items()}
    assert by_name["image"] == Region(0, 0, 13, 11)
    regions = partition.regions(cut.ops, {cut.tensors[0]: Region(5, 0, 7, 1)})
    assert regions[partition.image] == Region(5, 0, 13, 7)


def drawn_graph(data: st.DataObject) -> Graph:
    """A chain of windows of any kind."""
    net = Sketch((1, data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)), 1))
    x, pairs = 0, st.tuples(st.integers(1, 7), st.integers(1, 7))
    for _ in range(data.draw(st.integers(1, 4))):
        kernel, stride = data.draw(pairs), data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        stride = (min(stride[0], kernel[0]), min(stride[1], kernel[1]))
        dilation = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        padding = data.draw(st.sampled_from([SAME, VALID]))
        if min(net.window(x, kernel, stride, dilation, padding)) > 0:
            x = net.conv(x, 1, kernel, stride, dilation, padding)
    return net.graph(x if x else net.conv(0, 1))


def assert_partitions(shape: tuple[int, ...], regions: list[Region]) -> None:
    """Every pixel of the map is in exactly one region, and no region is empty."""
    seen = [[0] * shape[2] for _ in range(shape[1])]
    for region in regions:
        assert region.height > 0
        assert region.width > 0
        for y in range(region.y0, region.y1):
            for x in range(region.x0, region.x1):
                seen[y][x] += 1
    assert all(count == 1 for row in seen for count in row)


@examples(150)
@given(st.data(), GRIDS)
def test_tiles_partition_every_map_or_the_grid_is_refused(data: st.DataObject, grid: tuple[int, int]) -> None:
    partition = Partition(drawn_graph(data))
    for cut in partition.cuts:
        shape = partition.graph.tensors[cut.tensors[0]].shape
        if grid[0] > shape[1] or grid[1] > shape[2]:
            with pytest.raises(PlanError, match=f"{grid[0]}x{grid[1]} grid .* {shape[1]}x{shape[2]}"):
                partition.tile_outputs(cut, *grid)
            continue
        assert_partitions(shape, [tile[cut.tensors[0]] for tile in partition.tile_outputs(cut, *grid)])


@examples(150)
@given(st.data())
def test_one_tile_costs_what_the_whole_costs_and_more_never_cost_less(data: st.DataObject) -> None:
    graph = drawn_graph(data)
    partition = Partition(graph)
    for cut in partition.cuts:
        # A stride or VALID may leave pixels over that no tile computes: those of the cut's own operator are all needed.
        t = cut.tensors[0]
        assert partition.tile_outputs(cut, 1, 1) == [{t: whole(graph, t)}]
        one = partition.flops(cut.ops, partition.regions(cut.ops, {t: whole(graph, t)}))
        assert one <= partition.flops(cut.ops)
        if graph.tensors[t].shape[1] > 1:
            halves = partition.tile_outputs(cut, 2, 1)
            assert sum(partition.flops(cut.ops, partition.regions(cut.ops, tile)) for tile in halves) >= one


def test_one_tile_of_yolov2_costs_what_the_whole_costs() -> None:
    partition = yolov2()
    for cut in partition.cuts[::5]:
        assert partition.redundancy(cut, 1, 1) == 1.0


@examples(60)
@given(GRIDS)
def test_sets_of_tensors_are_divided_alike(grid: tuple[int, int]) -> None:
    partition = Partition(ladder())
    assert any(len(cut.tensors) > 1 for cut in partition.cuts)
    for cut in partition.cuts:
        tiles = partition.tile_outputs(cut, *grid)
        for t in cut.tensors:
            assert_partitions(partition.graph.tensors[t].shape, [tile[t] for tile in tiles])


def test_a_set_of_maps_that_are_smallest_on_different_axes_leaves_no_tile_empty() -> None:
    net = Sketch((1, 12, 12, 3))
    low, narrow = net.conv(0, 2, stride=(4, 1), kernel=(4, 4)), net.conv(0, 2, stride=(1, 4), kernel=(4, 4))
    partition = Partition(net.graph(low, narrow))
    cut = deepest(partition)
    assert len(cut.tensors) == 2
    for t in cut.tensors:
        assert_partitions(partition.graph.tensors[t].shape, [tile[t] for tile in partition.tile_outputs(cut, 3, 3)])


def test_a_set_of_a_map_and_a_narrow_one_of_equal_height_leaves_no_tile_empty() -> None:
    """5x5 and 5x2 by two columns: half of the wide one is two columns, of which the narrow one would get none."""
    net = Sketch((1, 5, 5, 3))
    x = net.conv(0, 2)
    partition = Partition(net.graph(x, net.pool("MAX_POOL_2D", x, (1, 1), (1, 3), VALID)))
    tiles = partition.tile_outputs(deepest(partition), 1, 2)
    for t in deepest(partition).tensors:
        assert_partitions(partition.graph.tensors[t].shape, [tile[t] for tile in tiles])


@pytest.mark.parametrize("graph", [chain(), ladder()], ids=["chain", "ladder"])
def test_nothing_but_the_cut_leaves_the_prefix(graph: Graph) -> None:
    partition = Partition(graph)
    assert len(partition.cuts) >= 3
    for cut in partition.cuts:
        inside = set(cut.ops)
        made = {t for i in inside for t in graph.ops[i].outputs}
        assert set(cut.tensors) <= made
        for i, op in enumerate(graph.ops):
            read = set(graph.data_inputs(op))
            if i in inside:
                assert read <= made | {partition.image}
            else:
                assert partition.image not in read
                assert read & made <= set(cut.tensors)
        assert set(graph.outputs) & made <= set(cut.tensors)
        assert list(cut.ops) == sorted(inside)
        assert cut.name == "+".join(graph.tensors[t].name for t in cut.tensors)
    assert len({cut.tensors for cut in partition.cuts}) == len(partition.cuts)


def test_a_cut_is_not_legal_while_the_tail_needs_the_image() -> None:
    net = Sketch((1, 8, 8, 3))
    x = net.conv(0, 3)
    net.binary("ADD", net.conv(x, 3), 0)
    partition = Partition(net.graph())
    assert [cut.ops for cut in partition.cuts] == [(0, 1, 2)]


def test_a_cut_is_found_by_its_name_its_index_and_the_tensor_of_its_last_operator() -> None:
    partition = Partition(ladder())
    for cut in partition.cuts:
        assert partition.find(cut.name) == cut
        assert partition.find(str(cut.ops[-1])).ops[-1] == cut.ops[-1]
    last = partition.graph.ops[deepest(partition).ops[-1]].outputs[0]
    assert partition.find(partition.graph.tensors[last].name).ops[-1] == deepest(partition).ops[-1]


@pytest.mark.parametrize("name", ["conv99", "999", "-1", "", "²", "image", "c1"])
def test_an_unknown_cut_is_an_error_that_names_some_there_are(name: str) -> None:
    partition = Partition(chain())
    with pytest.raises(PlanError) as caught:
        partition.find(name)
    assert repr(name) in str(caught.value)
    assert deepest(partition).name in str(caught.value)


def test_a_model_that_cannot_be_tiled_at_all_says_why() -> None:
    net = Sketch((1, 7, 8, 3))
    net.pool("AVERAGE_POOL_2D", 0, (2, 3), (3, 3), SAME)
    with pytest.raises(PlanError, match=r"cannot be tiled at all: operator 0 \(AVERAGE_POOL_2D\): .*smaller than its stride"):
        Partition(net.graph()).find("auto")


def test_a_model_without_an_image_is_refused_with_what_it_has() -> None:
    with pytest.raises(PlanError, match=r"no image input .* image \(1, 8\)"):
        image_input(Sketch((1, 8)).graph(0))


@pytest.mark.parametrize("grid", [(0, 1), (1, 0), (-1, 2), (8, 1), (1, 7)])
def test_a_grid_that_leaves_tiles_empty_names_the_map_and_the_grid(grid: tuple[int, int]) -> None:
    partition = Partition(chain())
    cut = deepest(partition)
    with pytest.raises(PlanError) as caught:
        partition.lines(cut, *grid)
    for part in (f"{grid[0]}x{grid[1]}", "7x6", cut.name):
        assert part in str(caught.value)


# --- DESIGN.md's table: YOLOv2-608, layers 0 to 15


def test_sixteen_layers_of_yolov2_are_13_gmac() -> None:
    partition = yolov2()
    cut = deepest(partition)
    assert partition.graph.tensors[cut.tensors[0]].shape == (1, 38, 38, 256)
    assert cut.name == "conv15"
    assert partition.flops(cut.ops) / 2 == pytest.approx(13.0e9, rel=0.003)


@pytest.mark.parametrize(
    ("grid", "redundancy"), [((2, 2), 1.247), ((3, 3), 1.529), ((4, 4), 1.845), ((5, 5), 2.196), ((2, 3), 1.380)]
)
def test_redundancy_of_yolov2_is_the_measured_one(grid: tuple[int, int], redundancy: float) -> None:
    assert yolov2().redundancy(deepest(yolov2()), *grid) == pytest.approx(redundancy, abs=0.002)


@pytest.mark.parametrize(("grid", "megabytes"), [((2, 2), 1.58), ((3, 3), 2.14), ((5, 5), 3.50)])
def test_pixels_of_all_tiles_of_yolov2_are_as_measured(grid: tuple[int, int], megabytes: float) -> None:
    partition, cut = yolov2(), deepest(yolov2())
    regions = [partition.regions(cut.ops, tile)[partition.image] for tile in partition.tile_outputs(cut, *grid)]
    assert sum(r.height * r.width * 3 for r in regions) / 1e6 == pytest.approx(megabytes, rel=0.02)


def test_25_tiles_of_yolov2_fall_into_9_classes_that_cost_alike() -> None:
    plan, cut, _ = make_plan(yolov2(), "0" * 32, (5, 5), "conv15")
    tiles = plan.blocks[0].tiles
    assert len({tile.tile_class for tile in tiles}) == 9
    rows = yolov2().lines(cut, 5, 5)[cut.tensors[0]][0]
    sizes = [b - a for a, b in zip(rows, rows[1:])]
    assert sizes[0] == sizes[-1] >= sizes[2]
    assert len(set(sizes[1:-1])) == 1
    assert max(t.flops for t in tiles) < 1.45 * sum(t.flops for t in tiles) / len(tiles)


def test_operations_are_counted_of_tiles_that_begin_behind_what_cannot_be_tiled() -> None:
    net = Sketch((1, 8, 8, 3))
    last = net.conv(net.op("CUMSUM", [net.conv(0, 4)], net.tensor((1, 8, 8, 4), "float32")), 5)
    partition = Partition(net.graph())
    assert partition.tileable == {0}
    for count in (partition.flops, partition.effort):
        assert count((2,), {last: Region(0, 0, 8, 8)}) == count((2,)) > count((2,), {last: Region(0, 0, 4, 8)}) > 0
