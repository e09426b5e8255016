"""Regions of a map are cut out and put together again, and pixels become input values, element by element."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.build import build
from models.partition import Partition
from models.planner import make_plan
from models.tensor import assemble, check, crop, parts, stitch, to_input
from schemas.errors import DecodeError, PlanError
from schemas.plan import Pixels, Plan, Region, TensorSpec

SPEC = TensorSpec(name="map", shape=(1, 4, 6, 2), dtype="float32")
HALVES = [Region(0, 0, 4, 3), Region(0, 3, 4, 6)]


def plan_of_mini() -> Plan:
    return make_plan(Partition(build("mini", 96)), "0" * 32, (2, 2), "max3")[0]


def test_a_crop_is_a_view_of_the_region() -> None:
    array = np.arange(48, dtype=np.float32).reshape(1, 4, 6, 2)
    part = crop(array, Region(1, 2, 3, 5))
    assert part.shape == (1, 2, 3, 2)
    assert part[0, 0, 0, 0] == array[0, 1, 2, 0]
    assert np.shares_memory(part, array)


@given(st.lists(st.integers(1, 5), max_size=2), st.lists(st.integers(1, 3), max_size=2), st.randoms())
def test_crops_of_a_partition_stitched_in_any_order_are_the_map(xs: list[int], ys: list[int], random: object) -> None:
    array = np.random.default_rng(0).standard_normal(SPEC.shape).astype(np.float32)
    cols, rows = sorted({0, 6, *xs}), sorted({0, 4, *ys})
    regions = [Region(a, c, b, d) for a, b in zip(rows, rows[1:]) for c, d in zip(cols, cols[1:])]
    random.shuffle(regions)  # type: ignore[attr-defined]
    assert np.array_equal(stitch(SPEC, ((r, crop(array, r)) for r in regions)), array)


@pytest.mark.parametrize(
    "regions", [HALVES[:1], [HALVES[0], HALVES[0]], [*HALVES, HALVES[0]], []], ids=["hole", "twice", "thrice", "none"]
)
def test_tiles_that_leave_a_hole_or_overlap_are_refused(regions: list[Region]) -> None:
    array = np.zeros(SPEC.shape, np.float32)
    with pytest.raises(PlanError, match="pixels of map"):
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
    region, spec = Region(y, x, y + size, x + size), pixels(dtype, scale=0.0071, offset=-0.93)
    assert crop(to_input(image, spec), region).tobytes() == to_input(crop(image, region), spec).tobytes()


def tile_tensors(plan: Plan, tile: int) -> dict[str, np.ndarray]:
    where = plan.blocks[0].tiles[tile].outputs["max3"]
    return {"max3": np.zeros((1, where.height, where.width, 32), np.float32)}


def test_a_tile_that_is_as_planned_passes() -> None:
    plan = plan_of_mini()
    for tile in plan.blocks[0].tiles:
        check(plan, 0, tile.index, tile_tensors(plan, tile.index), inputs=False)
        where = tile.inputs["image"]
        check(plan, 0, tile.index, {"image": np.zeros((1, where.height, where.width, 3), np.uint8)}, inputs=True)


def test_a_tile_of_another_name_shape_dtype_or_number_is_refused() -> None:
    plan = plan_of_mini()
    good = tile_tensors(plan, 0)["max3"]
    for tensors in ({}, {"other": good}, {"max3": good, "other": good}, {"max3": good[:, 1:]}, {"max3": good[0]}):
        with pytest.raises(DecodeError, match="tile 0"):
            check(plan, 0, 0, tensors, inputs=False)
    with pytest.raises(DecodeError, match="float64"):
        check(plan, 0, 0, {"max3": good.astype(np.float64)}, inputs=False)
    with pytest.raises(DecodeError, match="float32"):
        where = plan.blocks[0].tiles[0].inputs["image"]
        check(plan, 0, 0, {"image": np.zeros((1, where.height, where.width, 3), np.float32)}, inputs=True)
    for block, tile in ((0, 4), (1, 0)):
        with pytest.raises(DecodeError, match=f"no tile {tile} in block {block}"):
            check(plan, block, tile, {"max3": good}, inputs=False)


def plan_of_blocks() -> Plan:
    partition = Partition(build("mini", 96))
    return make_plan(partition, "0" * 32, blocks=[(cut, (2, 3)) for cut in ("max1", "conv5", "max7")])[0]


def whole_map(plan: Plan, block: int) -> np.ndarray:
    """Numbers that tell where they belong."""
    shape = plan.blocks[block].cut[0].shape
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def pieces(plan: Plan, block: int) -> dict[int, list[tuple[str, Region, np.ndarray]]]:
    """What each tile of the block after gets, cut out of what each tile of ``block`` has made."""
    name, whole = plan.blocks[block].cut[0].name, whole_map(plan, block)
    made_of: dict[int, list[tuple[str, Region, np.ndarray]]] = {}
    for tile in plan.blocks[block].tiles:
        made = crop(whole, tile.outputs[name])
        for part in parts(plan, block, tile.index):
            array = crop(made, part.region.within(tile.outputs[name]))
            made_of.setdefault(part.tile, []).append((part.tensor, part.region, array))
    return made_of


@pytest.mark.parametrize("block", [0, 1])
def test_parts_of_all_tiles_assemble_to_what_a_tile_needs(block: int) -> None:
    plan = plan_of_blocks()
    name, whole = plan.blocks[block].cut[0].name, whole_map(plan, block)
    for index, found in pieces(plan, block).items():
        need = plan.blocks[block + 1].tiles[index].inputs[name]
        made = assemble(plan, block + 1, index, found)
        assert list(made) == [name]
        assert np.array_equal(made[name], crop(whole, need))


def test_no_pixel_is_given_twice_and_the_last_block_gives_nothing() -> None:
    plan = plan_of_blocks()
    for index, found in pieces(plan, 1).items():
        need = plan.blocks[2].tiles[index].inputs["conv5"]
        assert sum(r.height * r.width for _, r, _ in found) == need.height * need.width
    assert parts(plan, 2, 0) == []


def test_parts_that_come_twice_or_in_another_order_do_no_harm() -> None:
    plan = plan_of_blocks()
    found = pieces(plan, 0)[4]
    once, again = assemble(plan, 1, 4, found), assemble(plan, 1, 4, [*reversed(found), *found])
    assert np.array_equal(once["max1"], again["max1"])


def test_a_part_that_is_all_of_an_input_is_used_as_it_is() -> None:
    plan = plan_of_blocks()
    need = plan.blocks[1].tiles[0].inputs["max1"]
    array = crop(whole_map(plan, 0), need)
    assert assemble(plan, 1, 0, [("max1", need, array)])["max1"] is array


def test_parts_that_leave_a_hole_are_refused_with_its_size() -> None:
    plan = plan_of_blocks()
    found = pieces(plan, 0)[4]
    _, missing, _ = found[0]
    with pytest.raises(PlanError, match=f"leave {missing.height * missing.width} of the"):
        assemble(plan, 1, 4, found[1:])


def test_a_part_of_another_tensor_place_size_or_dtype_is_refused() -> None:
    plan = plan_of_blocks()
    name, region, array = pieces(plan, 0)[4][0]
    outside = Region(region.y0 - 1, region.x0, region.y1 - 1, region.x1)
    for wrong in (("other", region, array), (name, outside, array), (name, region, array[:, 1:])):
        with pytest.raises(DecodeError, match=r"tile 4 of block 1"):
            assemble(plan, 1, 4, [wrong])
    with pytest.raises(DecodeError, match="float64"):
        assemble(plan, 1, 4, [(name, region, array.astype(np.float64))])
