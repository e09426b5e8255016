"""A plan says what every tile needs, gives and costs; the cut is chosen where none is named."""

import re
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.graph.build import build
from models.graph.file import parse
from models.graph.ops import SAME
from models.planning.planner import choose_cut, cut_bytes, exchanged_bytes, make_plan, parse_grid, tile_costs
from models.tiling import rewrite
from models.tiling.division import Division, Filters, Tiles, Whole, constant_bytes, peak_memory
from models.tiling.partition import Partition
from schemas.contract.errors import PlanError
from schemas.contract.plan import Plan, digest
from tests.models.sketch import Sketch

DIGEST = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def mini() -> Partition:
    return Partition(build("mini", 160))


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from("xX"))
def test_a_grid_is_rows_by_columns(rows: int, cols: int, x: str) -> None:
    assert parse_grid(f"{rows}{x}{cols}") == (rows, cols)


@pytest.mark.parametrize(
    "text", ["", "3", "x", "3x", "x3", "0x3", "3x0", "65x1", "-1x2", "3x3x3", "3 x 3", "axb", "1.5x2", "²x2"]
)
def test_what_is_no_grid_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(PlanError, match=re.escape(repr(text))):
        parse_grid(text)


def test_a_plan_holds_all_that_a_node_must_know(mini: Partition) -> None:
    plan, cut, edge_model = make_plan(mini, DIGEST, (2, 3), "max7")
    block = plan.blocks[0]
    assert (plan.model, plan.edge_model) == (DIGEST, digest(edge_model))
    assert (plan.pixels.tensor, plan.pixels.height, plan.pixels.width, plan.pixels.dtype) == (
        "image",
        160,
        160,
        "float32",
    )
    assert [(s.name, s.shape, s.dtype) for s in block.cut] == [("max7", (1, 20, 20, 64), "float32")]
    assert [(s.name, s.shape) for s in block.inputs] == [("image", (1, 160, 160, 3))]
    assert (block.rows, block.cols, len(block.tiles), block.split, block.reuse) == (2, 3, 6, "tiles", True)
    assert [s.name for s in plan.tail_inputs] == ["max7"]
    assert [s.shape for s in plan.outputs] == [(1, 10, 10, 75)]
    assert cut.name == "max7"
    assert parse(edge_model).tensors[parse(edge_model).outputs[0]].name == "max7"


def test_tiles_carry_the_regions_and_operations_of_the_partition(mini: Partition) -> None:
    plan, cut, _ = make_plan(mini, DIGEST, (3, 3), "max7")
    for tile, outputs in zip(plan.blocks[0].tiles, mini.tile_outputs(cut, 3, 3), strict=True):
        regions = mini.regions(cut.ops, outputs)
        assert {name: box.region for name, box in tile.outputs.items()} == {"max7": outputs[cut.tensors[0]]}
        assert {name: box.region for name, box in tile.inputs.items()} == {"image": regions[mini.image]}
        assert tile.flops == mini.flops(cut.ops, regions)
        assert tile.weight_bytes == constant_bytes(mini.graph, cut.ops)


def test_equal_plans_have_equal_digests_and_survive_json(mini: Partition) -> None:
    one, other = (make_plan(mini, DIGEST, (3, 3), "max7")[0] for _ in range(2))
    assert one.digest() == other.digest()
    assert Plan.model_validate_json(one.model_dump_json()) == one
    assert make_plan(mini, DIGEST, (3, 2), "max7")[0].digest() != one.digest()
    assert make_plan(mini, "f" * 32, (3, 3), "max7")[0].digest() != one.digest()


def test_tiles_of_a_class_have_the_same_graph_and_those_of_another_have_not(mini: Partition) -> None:
    plan, cut, _ = make_plan(mini, DIGEST, (4, 4), "max7")
    bytes_of: dict[int, set[bytes]] = {}
    for tile, outputs in zip(plan.blocks[0].tiles, mini.tile_outputs(cut, 4, 4), strict=True):
        graph = rewrite.tile_graph(mini, cut.ops, [mini.image], outputs)
        bytes_of.setdefault(tile.tile_class, set()).add(graph.to_bytes())
    assert all(len(graphs) == 1 for graphs in bytes_of.values())
    assert len(set.union(*bytes_of.values())) == len(bytes_of)
    assert len(bytes_of) <= 9


def test_a_constant_map_makes_every_tile_a_class_of_its_own() -> None:
    """Tiles of one size crop different constants: to share a graph would be wrong."""
    net = Sketch((1, 16, 16, 3))
    net.binary("MUL", 0, net.constant(net.normal(16, 16, 3)))
    plan, _, _ = make_plan(Partition(net.graph()), DIGEST, (2, 2))
    assert sorted(tile.tile_class for tile in plan.blocks[0].tiles) == [0, 1, 2, 3]
    small = Sketch((1, 4, 4, 3))
    small.binary("MUL", 0, small.constant(small.normal(4, 4, 1)))  # so small that its bytes are compared
    plan, _, _ = make_plan(Partition(small.graph()), DIGEST, (2, 2))
    assert len({tile.tile_class for tile in plan.blocks[0].tiles}) == 4


def test_a_plan_of_one_block_with_several_tiles_reuses_and_takes_the_first_level_first(mini: Partition) -> None:
    block = make_plan(mini, DIGEST, (3, 3), "max7")[0].blocks[0]
    assert block.reuse and sorted(block.order[:5]) == [0, 2, 4, 6, 8]
    assert not make_plan(mini, DIGEST, (1, 1), "max7")[0].blocks[0].reuse
    several = make_plan(mini, DIGEST, blocks=[("max3", Tiles(3, 3)), ("max7", Tiles(3, 3))])[0].blocks
    assert not any(b.reuse for b in several)


def test_tiles_of_a_class_stand_together_in_the_order(mini: Partition) -> None:
    block = make_plan(mini, DIGEST, (5, 5), "max7", reuse=False)[0].blocks[0]
    classes = [block.tiles[i].tile_class for i in block.order]
    assert sorted(block.order) == list(range(25))
    assert sum(a != b for a, b in zip(classes, classes[1:])) == len(set(classes)) - 1


def test_the_chosen_cut_is_one_that_can_be_divided_so(mini: Partition) -> None:
    for grid in ((1, 1), (2, 2), (5, 5), (40, 40)):
        cut = choose_cut(mini, *grid)
        assert len(mini.tile_outputs(cut, *grid)) == grid[0] * grid[1]


def test_a_grid_that_no_map_can_be_divided_by_is_refused(mini: Partition) -> None:
    small = Partition(build("mini", 32))
    with pytest.raises(PlanError, match="no cut of this model can be divided 64x64: every map is smaller"):
        choose_cut(small, 64, 64)


def test_a_model_that_cannot_be_tiled_is_refused_with_the_operator() -> None:
    net = Sketch((1, 7, 8, 3))
    net.pool("AVERAGE_POOL_2D", 0, (2, 3), (3, 3), SAME)
    with pytest.raises(PlanError, match=r"divided 2x2: operator 0 \(AVERAGE_POOL_2D\)"):
        choose_cut(Partition(net.graph()), 2, 2)


def test_an_image_too_large_for_a_plan_is_a_plan_error() -> None:
    net = Sketch((1, 16, 20000, 3))
    net.unary("RELU", 0)
    with pytest.raises(PlanError, match="20000"):
        make_plan(Partition(net.graph()), DIGEST, (1, 2))


def test_costs_of_a_tile_count_pixels_in_and_the_cut_out(mini: Partition) -> None:
    plan, cut, _ = make_plan(mini, DIGEST, (2, 2), "max7")
    costs = tile_costs(mini, plan)
    assert sum(c.bytes_out for c in costs) == cut_bytes(mini.graph, cut) == 20 * 20 * 64 * 4
    first = plan.blocks[0].tiles[0].inputs["image"]
    assert costs[0].bytes_in == first.region.height * first.region.width * 3
    assert [c.flops for c in costs] == [t.flops for t in plan.blocks[0].tiles]
    assert all(c.peak_memory_bytes > c.bytes_out for c in costs)


def test_peak_memory_is_of_activations_that_live_at_once() -> None:
    """image 300 B, a 400 B and b 400 B alive together, then b and the sum; no weights."""
    net = Sketch((1, 5, 5, 3))
    a = net.conv(0, 4, (1, 1))
    b = net.unary("RELU", a)
    net.binary("ADD", a, b)
    assert peak_memory(net.graph()) == 3 * 400


def test_a_tail_holds_every_output_that_the_cut_is_not() -> None:
    net = Sketch((1, 8, 8, 3))
    x = net.conv(0, 4)
    y = net.conv(x, 5)
    plan, _, _ = make_plan(Partition(net.graph(y, x)), DIGEST, (2, 2), net.tensors[x].name)
    assert [s.name for s in plan.outputs] == [net.tensors[y].name, net.tensors[x].name]
    assert [s.name for s in plan.tail_inputs] == [net.tensors[x].name]
    whole, _, _ = make_plan(Partition(net.graph(y)), DIGEST, (2, 2), net.tensors[y].name)
    assert whole.tail_inputs == ()


def test_blocks_follow_each_other_from_the_image_to_the_deepest_cut(mini: Partition) -> None:
    names = ["max3", "conv5", "max7"]
    plan, cut, edge_model = make_plan(mini, DIGEST, blocks=[(name, Tiles(2, 3)) for name in names])
    assert [[s.name for s in b.inputs] for b in plan.blocks] == [["image"], ["max3"], ["conv5"]]
    assert [[s.name for s in b.cut] for b in plan.blocks] == [["max3"], ["conv5"], ["max7"]]
    assert cut.name == "max7" and [s.name for s in plan.tail_inputs] == ["max7"]
    assert (plan.edge_model, plan.blocks[2].cols) == (digest(edge_model), 3)
    assert make_plan(mini, DIGEST, (2, 3), "max7")[2] == edge_model


def test_operations_of_a_tile_are_those_of_its_block_alone(mini: Partition) -> None:
    plan, _, _ = make_plan(mini, DIGEST, blocks=[("max3", Tiles(1, 1)), ("max7", Tiles(1, 1))])
    done = [block.tiles[0].flops for block in plan.blocks]
    assert done == [mini.flops(mini.find("max3").ops), mini.flops(mini.find("max7").ops) - done[0]]


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ([], "at least one block"),
        ([("max7", Tiles(2, 2)), ("max3", Tiles(2, 2))], "cut max3 does not follow max7"),
        ([("max3", Tiles(2, 2)), ("max3", Tiles(2, 2))], "cut max3 does not follow max3"),
        ([("max3", Tiles(2, 2)), ("max7", Whole(5))], "nothing is in lane 4"),
        ([("max3", Filters(5))], "32 channels cannot be divided among 5 tasks"),
        ([("max3", Tiles(2, 2))] * 257, "257 blocks: a plan holds at most 256"),
    ],
)
def test_blocks_that_make_no_plan_are_refused(
    blocks: list[tuple[str, Division]], says: str, mini: Partition
) -> None:
    with pytest.raises(PlanError, match=says):
        make_plan(mini, DIGEST, blocks=blocks)


def test_costs_of_a_later_block_count_its_maps_in_their_dtype(mini: Partition) -> None:
    plan, _, _ = make_plan(mini, DIGEST, blocks=[("max3", Tiles(2, 2)), ("max7", Tiles(2, 2))])
    need = plan.blocks[1].tiles[0].inputs["max3"]
    first = tile_costs(mini, plan, 1)[0]
    assert first.bytes_in == need.region.height * need.region.width * 32 * 4
    assert first.peak_memory_bytes >= first.bytes_in


def test_exchanged_bytes_are_what_tiles_need_beyond_their_own(mini: Partition) -> None:
    plan, _, _ = make_plan(mini, DIGEST, blocks=[("max3", Tiles(2, 2)), ("max7", Tiles(2, 2))])
    areas = [
        [prod(boxes["max3"].shape) for boxes in (b.inputs, a.outputs)]
        for a, b in zip(plan.blocks[0].tiles, plan.blocks[1].tiles)
    ]
    assert exchanged_bytes(plan) == sum(need - own for need, own in areas) * 4 > 0
    assert exchanged_bytes(make_plan(mini, DIGEST, blocks=[("max3", Tiles(1, 1)), ("max7", Tiles(1, 1))])[0]) == 0
