"""Regions of a map are cut out and put together again, and pixels become input values, element by element."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.graph.build import build
from models.planning.planner import BlockChoices, make_plan
from models.tiling.division import Filters, Tiles, Whole
from models.tiling.partition import Partition
from models.tiling.tensor import assemble, check_answer, check_inputs, crop, exchange, stitch, to_input
from schemas.contract.errors import DecodeError, PlanError
from schemas.contract.plan import Box, Pixels, Plan, Region, TensorSpec
from tests.models.sketch import Sketch

SPEC = TensorSpec(name="map", shape=(1, 4, 6, 2), dtype="float32")
HALVES = [Box.tile(SPEC.shape, Region(0, 0, 4, 3)), Box.tile(SPEC.shape, Region(0, 3, 4, 6))]


def plan_of_mini() -> Plan:
    return make_plan(Partition(build("mini", 96)), "0" * 32, (2, 2), "max3")[0]


def test_a_crop_is_a_view_of_the_region() -> None:
    array = np.arange(48, dtype=np.float32).reshape(1, 4, 6, 2)
    part = crop(array, Box.tile(array.shape, Region(1, 2, 3, 5)))
    assert part.shape == (1, 2, 3, 2)
    assert part[0, 0, 0, 0] == array[0, 1, 2, 0]
    assert np.shares_memory(part, array)


@given(st.lists(st.integers(1, 5), max_size=2), st.lists(st.integers(1, 3), max_size=2), st.randoms())
def test_crops_of_a_partition_stitched_in_any_order_are_the_map(xs: list[int], ys: list[int], random: object) -> None:
    array = np.random.default_rng(0).standard_normal(SPEC.shape).astype(np.float32)
    cols, rows = sorted({0, 6, *xs}), sorted({0, 4, *ys})
    boxes = [
        Box([(0, 1), (a, b), (c, d), (e, f)])
        for a, b in zip(rows, rows[1:]) for c, d in zip(cols, cols[1:]) for e, f in ((0, 1), (1, 2))
    ]  # fmt: skip
    random.shuffle(boxes)  # type: ignore[attr-defined]
    assert np.array_equal(stitch(SPEC, ((box, crop(array, box)) for box in boxes)), array)


@pytest.mark.parametrize(
    "regions", [HALVES[:1], [HALVES[0], HALVES[0]], [*HALVES, HALVES[0]], []], ids=["hole", "twice", "thrice", "none"]
)
def test_tiles_that_leave_a_hole_or_overlap_are_refused(regions: list[Box]) -> None:
    array = np.zeros(SPEC.shape, np.float32)
    with pytest.raises(PlanError, match="elements of map not at all or twice"):
        stitch(SPEC, [(r, crop(array, r)) for r in regions])


def pixels(dtype: str, **more: float) -> Pixels:
    return Pixels(tensor="image", height=2, width=2, dtype=dtype, **more)  # type: ignore[arg-type]


def test_pixels_become_input_values() -> None:
    image = np.array([0, 1, 127, 128, 255], np.uint8).reshape(1, 1, 5, 1)
    assert to_input(image, pixels("uint8")).tolist() == image.tolist()
    assert to_input(image, pixels("int8")).reshape(-1).tolist() == [-128, -127, -1, 0, 127]
    floats = to_input(image, pixels("float32"))
    assert floats.dtype == np.float32
    assert np.array_equal(floats.reshape(-1), np.array([0, 1, 127, 128, 255], np.float32) * np.float32(1 / 255))
    ends = to_input(image, pixels("float32", scale=2 / 255, offset=-1.0)).reshape(-1)
    assert ends[0] == -1
    assert ends[-1] == pytest.approx(1)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 12), st.sampled_from(["float32", "int8", "uint8"]))
def test_a_crop_of_input_values_is_the_input_of_a_crop(y: int, x: int, size: int, dtype: str) -> None:
    image = np.random.default_rng(1).integers(0, 256, (1, 33, 31, 3)).astype(np.uint8)
    box, spec = Box.tile(image.shape, Region(y, x, y + size, x + size)), pixels(dtype, scale=0.0071, offset=-0.93)
    assert crop(to_input(image, spec), box).tobytes() == to_input(crop(image, box), spec).tobytes()


def tile_tensors(plan: Plan, tile: int) -> dict[str, np.ndarray]:
    return {"max3": np.zeros(plan.blocks[0].tiles[tile].outputs["max3"].shape, np.float32)}


def test_a_tile_that_is_as_planned_passes() -> None:
    plan = plan_of_mini()
    for tile in plan.blocks[0].tiles:
        check_answer(plan, 0, tile.home, tile_tensors(plan, tile.home))
        check_inputs(plan, tile.home, {"image": np.zeros(tile.inputs["image"].shape, np.uint8)})


def test_a_tile_of_another_name_shape_dtype_or_number_is_refused() -> None:
    plan = plan_of_mini()
    good = tile_tensors(plan, 0)["max3"]
    for tensors in ({}, {"other": good}, {"max3": good, "other": good}, {"max3": good[:, 1:]}, {"max3": good[0]}):
        with pytest.raises(DecodeError, match="tile 0"):
            check_answer(plan, 0, 0, tensors)
    with pytest.raises(DecodeError, match="float64"):
        check_answer(plan, 0, 0, {"max3": good.astype(np.float64)})
    with pytest.raises(DecodeError, match="float32"):
        check_inputs(plan, 0, {"image": np.zeros(plan.blocks[0].tiles[0].inputs["image"].shape, np.float32)})
    for block, tile in ((0, 4), (1, 0)):
        with pytest.raises(DecodeError, match=f"tile {tile} of block {block} answers for nothing"):
            check_answer(plan, block, tile, {"max3": good})
    with pytest.raises(DecodeError, match="no lane 4"):
        check_inputs(plan, 4, {})


def plan_of_blocks() -> Plan:
    """Tiles, then filters, then tiles of another grid, then all of it in lane 1."""
    partition = Partition(build("mini", 96))
    blocks: BlockChoices = [("max1", Tiles(2, 3)), ("conv5", Filters(4)), ("max7", Tiles(2, 2)), ("conv9", Whole(1))]
    return make_plan(partition, "0" * 32, blocks=blocks)[0]


def whole_map(spec: TensorSpec) -> np.ndarray:
    """Numbers that tell where they belong."""
    return np.arange(np.prod(spec.shape), dtype=np.float32).reshape(spec.shape)


def given_to(plan: Plan, block: int, lane: int) -> list[tuple[str, Box, np.ndarray]]:
    """What a task gets of those that it needs, cut out of what they have made."""
    between, specs = exchange(plan.blocks), {spec.name: spec for b in plan.blocks for spec in b.cut}
    return [
        (name, box, crop(whole_map(specs[name]), box))
        for maker in sorted(between.needs[block, lane])
        for name, box in between.gives[maker][lane].items()
    ]


def test_parts_of_all_tasks_assemble_to_what_a_task_needs() -> None:
    plan = plan_of_blocks()
    for block in range(1, 4):
        for task in plan.blocks[block].tiles:
            made = assemble(plan.blocks[block].inputs, task.inputs, given_to(plan, block, task.home))
            specs = {spec.name: spec for spec in plan.blocks[block].inputs}
            assert made.keys() == task.inputs.keys()
            assert all(np.array_equal(made[name], crop(whole_map(specs[name]), box)) for name, box in task.inputs.items())


def test_tasks_give_what_they_made_and_the_last_give_nothing() -> None:
    plan = plan_of_blocks()
    between = exchange(plan.blocks)
    for (block, lane), takers in between.gives.items():
        made = plan.blocks[block].by_home[lane].outputs
        assert all(box.common(made[name]) == box for boxes in takers.values() for name, box in boxes.items())
        assert bool(takers) == (block < 3)
    assert between.needs[0, 0] == frozenset() and len(between.needs[3, 1]) == 4


def test_a_lane_whose_tasks_need_different_parts_of_a_tensor_gets_their_hull_once() -> None:
    net = Sketch((1, 24, 24, 3))
    skip = net.conv(0, 4, (3, 3), (1, 1))
    x = net.conv(skip, 4, (3, 3), (1, 1))
    y = net.binary("ADD", skip, x)
    z = net.conv(y, 4, (3, 3), (1, 1))
    partition = Partition(net.graph(z))
    names = [net.tensors[t].name for t in (skip, x, z)]
    blocks = [(names[0], Tiles(2, 1)), (f"{names[0]}+{names[1]}", Tiles(2, 1)), (names[2], Tiles(2, 1))]
    plan, _, _ = make_plan(partition, "0" * 32, blocks=blocks)
    between = exchange(plan.blocks)
    needs = [plan.blocks[i].by_home[1].inputs[names[0]] for i in (1, 2)]
    assert between.needs[2, 1] >= {(0, 0), (0, 1)}, "what passes a block by comes from who made it"
    assert between.gives[0, 0][1][names[0]] == plan.blocks[0].by_home[0].outputs[names[0]].common(needs[0].hull(needs[1]))


def test_parts_that_come_twice_or_in_another_order_do_no_harm() -> None:
    plan = plan_of_blocks()
    found, task = given_to(plan, 1, 2), plan.blocks[1].by_home[2]
    once, again = (assemble(plan.blocks[1].inputs, task.inputs, parts) for parts in (found, [*reversed(found), *found]))
    assert np.array_equal(once["max1"], again["max1"])


def test_a_part_that_is_all_of_an_input_is_used_as_it_is() -> None:
    plan = plan_of_blocks()
    need = plan.blocks[1].tiles[0].inputs
    array = crop(whole_map(plan.blocks[0].cut[0]), need["max1"])
    assert assemble(plan.blocks[1].inputs, need, [("max1", need["max1"], array)])["max1"] is array


def test_parts_that_leave_a_hole_are_refused() -> None:
    plan = plan_of_blocks()
    with pytest.raises(PlanError, match="leave elements of max1"):
        assemble(plan.blocks[1].inputs, plan.blocks[1].tiles[0].inputs, given_to(plan, 1, 0)[1:])
