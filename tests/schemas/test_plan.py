"""A plan that is accepted can be cropped, sent and stitched by: its names, shapes and regions hold together."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.tensor import check, crop, part_shape, parts
from schemas.plan import Plan
from tests.nodes import blocks_plan, small_plan, whole_plan

PLANS = [json.loads(plan.model_dump_json()) for plan in (small_plan(), blocks_plan(), whole_plan())]


def places(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every leaf."""
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [way for key, inner in items for way in places(inner, (*where, key))]
    return [where]


def changed(plan: Any, where: tuple[Any, ...], value: Any) -> str:
    spoilt = json.loads(json.dumps(plan))
    holder = spoilt
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    return json.dumps(spoilt)


odd: st.SearchStrategy[Any] = st.integers(-3, 40) | st.sampled_from(
    [2**31, 2**53 + 1, "", "x", "int64", None, [], [1, 2, 3], {}, 1e300, True]
)


@given(st.sampled_from(PLANS), st.data())
def test_a_plan_with_any_value_changed_is_refused_or_can_be_worked_with(plan: Any, data: st.DataObject) -> None:
    text = changed(plan, data.draw(st.sampled_from(places(plan))), data.draw(odd))
    try:
        made = Plan.model_validate_json(text)
    except ValidationError:
        return
    image = np.zeros((1, made.pixels.height, made.pixels.width, made.blocks[0].inputs[0].shape[3]), np.uint8)
    for index, block in enumerate(made.blocks):
        specs = {spec.name: spec for spec in block.inputs}
        for tile in block.tiles:
            whole = {t.name: np.zeros(t.shape, np.uint8 if t.name == made.pixels.tensor else t.dtype) for t in block.inputs}
            given = {name: crop(whole[name], region) for name, region in tile.inputs.items()}
            assert all(given[name].shape == part_shape(specs[name], tile.inputs[name]) for name in given)
            check(made, index, tile.index, given, inputs=True)
            parts(made, index, tile.index)
    assert made.lanes == len(made.blocks[0].tiles) and 1 <= made.spread <= len(made.blocks)
    assert image.size


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("blocks", 0, "tiles", 1, "inputs", "image", 2), 99, "outside of its map"),
        (("blocks", 0, "tiles", 1, "outputs", "max1", 0), -1, "outside of its map"),
        (("blocks", 0, "tiles", 1, "outputs", "max1", 2), 0, "outside of its map"),
        (("blocks", 0, "tiles", 1, "outputs"), {}, "other tensors than its block"),
        (("blocks", 0, "cut", 0, "dtype"), "object", "map has four dimensions"),
        (("blocks", 0, "cut", 0, "shape"), [1, 16, 16], "map has four dimensions"),
        (("blocks", 0, "cut", 0, "shape"), [1, 2**20, 2**20, 2**20], "1073741824 elements"),
        (("blocks", 0, "inputs", 0, "name"), "other", "other tensors than its block"),
        (("pixels", "tensor"), "other", "must read the image 'other'"),
        (("pixels", "height"), 31, "must read the image"),
    ],
)
def test_what_does_not_hold_together_is_named(where: tuple[Any, ...], value: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Plan.model_validate_json(changed(PLANS[0], where, value))


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("blocks", 3, "mode"), "tiles", "map has four dimensions"),
        (("blocks", 2, "mode"), "tiles", "blocks have one grid"),
        (("blocks", 0, "mode"), "whole", "'image' in part"),
        (("blocks", 0, "rows"), 1, "needs 3 tiles"),
        (("blocks", 3, "reuse"), True, "reuses nothing"),
        (("blocks", 2, "tiles", 0, "inputs", "conv1", 2), 23, "'conv1' in part"),
        (("blocks", 3, "tiles", 0, "outputs", "mean", 3), 5, "'mean' in part"),
        (("blocks", 3, "cut", 0, "dtype"), "complex64", "must have 1 to 6 known dimensions"),
        (("blocks", 3, "cut", 0, "shape"), [], "must have 1 to 6 known dimensions"),
        (("blocks", 3, "cut", 0, "shape"), [1, 0], "must have 1 to 6 known dimensions"),
        (("blocks", 3, "cut", 0, "shape"), [1] * 7, "must have 1 to 6 known dimensions"),
        (("blocks", 3, "cut", 0, "shape"), [2**16, 2**16], "1073741824 elements"),
    ],
)
def test_what_does_not_hold_together_of_blocks_that_are_executed_whole_is_named(
    where: tuple[Any, ...], value: Any, words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        Plan.model_validate_json(changed(PLANS[2], where, value))


def test_blocks_that_are_executed_whole_stand_behind_all_others() -> None:
    spoilt = json.loads(json.dumps(PLANS[2]))
    one = spoilt["blocks"][0]
    tile = {**one["tiles"][0], "inputs": {"image": [0, 0, 24, 30]}, "outputs": {"conv0": [0, 0, 24, 30]}}
    first = {**one, "mode": "whole", "rows": 1, "cols": 1, "tiles": [tile], "order": [0]}
    with pytest.raises(ValidationError, match="the first block is executed tile by tile"):
        Plan.model_validate({**spoilt, "blocks": [first, *spoilt["blocks"][1:]]})
    with pytest.raises(ValidationError, match="behind one that is executed whole all are"):
        Plan.model_validate({**spoilt, "blocks": [one, {**first, "inputs": one["cut"], "tiles": [
            {**tile, "inputs": {"conv0": [0, 0, 24, 30]}}]}, *spoilt["blocks"][1:2]]})  # fmt: skip


def test_a_block_that_is_executed_whole_is_one_tile() -> None:
    last = PLANS[2]["blocks"][3]
    two = {**last, "rows": 2, "tiles": [last["tiles"][0], {**last["tiles"][0], "index": 1}], "order": [0, 1]}
    with pytest.raises(ValidationError, match="is one tile"):
        Plan.model_validate({**PLANS[2], "blocks": [*PLANS[2]["blocks"][:3], two]})


def test_another_way_to_execute_a_block_is_another_plan() -> None:
    plan = whole_plan()
    one = plan.blocks[2].model_copy(update={"mode": "tiles"})
    assert plan.model_copy(update={"blocks": (*plan.blocks[:2], one, plan.blocks[3])}).digest() != plan.digest()


def test_a_block_reads_no_more_than_the_one_before_it_gives() -> None:
    spoilt = json.loads(json.dumps(PLANS[1]))
    spoilt["blocks"][1]["inputs"][0]["shape"][3] += 1
    with pytest.raises(ValidationError, match="what the one before it does not give"):
        Plan.model_validate(spoilt)


def test_tensors_of_one_end_of_a_block_have_one_name() -> None:
    spoilt = json.loads(json.dumps(PLANS[1]))
    spoilt["blocks"][1]["cut"] *= 2
    with pytest.raises(ValidationError, match="have one name"):
        Plan.model_validate(spoilt)
