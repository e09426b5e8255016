"""A plan that is accepted can be cropped, sent and stitched by: its names, shapes and regions hold together."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.tiling.tensor import answer_of, check_inputs, crop, exchange
from schemas.contract.plan import Plan
from tests.nodes import blocks_plan, small_plan, whole_plan
from tests.simulation.pictures import EVERYTHING, lanes_plan

PLANS = [json.loads(plan.model_dump_json()) for plan in (small_plan(), blocks_plan(), whole_plan(), lanes_plan(EVERYTHING))]


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
    for index, block in enumerate(made.blocks):
        for tile in block.tiles:
            whole = {t.name: np.zeros(t.shape, np.uint8 if t.name == made.pixels.tensor else t.dtype) for t in block.inputs}
            given = {name: crop(whole[name], box) for name, box in tile.inputs.items()}
            assert all(given[name].shape == tile.inputs[name].shape for name in given)
            if index == 0:
                check_inputs(made, tile.home, given)
    between = exchange(made.blocks)
    assert between.gives.keys() == between.needs.keys() == {(i, lane) for lane in range(made.lanes) for i in made.steps[lane]}
    assert {name for answer in made.answers for name in answer_of(made, *answer)} == {spec.name for spec in made.ends}


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("blocks", 0, "tiles", 1, "inputs", "image", 1, 1), 99, "outside of its map"),
        (("blocks", 0, "tiles", 1, "outputs", "max1", 1, 0), -1, "greater than or equal to 0"),
        (("blocks", 0, "tiles", 1, "outputs", "max1", 1, 1), 0, "outside of its map"),
        (("blocks", 0, "tiles", 1, "outputs", "max1"), [[0, 1]], "outside of its map"),
        (("blocks", 0, "tiles", 1, "outputs"), {}, "other tensors than its block"),
        (("blocks", 0, "cut", 0, "dtype"), "object", "must have 1 to 6 known dimensions"),
        (("blocks", 0, "cut", 0, "shape"), [1, 16, 16], "outside of its map"),
        (("ends", 0, "name"), "other", "the gateway merges what no block gives"),
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
        (("blocks", 0, "split"), "whole", "'image' in part"),
        (("blocks", 2, "tiles", 0, "home"), 6, "order must name every tile once"),
        (("blocks", 0, "rows"), 1, "needs 3 tiles"),
        (("blocks", 3, "reuse"), True, "reuses nothing"),
        (("blocks", 2, "tiles", 0, "inputs", "conv1", 1, 1), 23, "'conv1' in part"),
        (("blocks", 3, "tiles", 0, "outputs", "mean", 1, 1), 4, "'mean' in part"),
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


def test_a_block_that_is_executed_whole_is_one_task() -> None:
    last = PLANS[2]["blocks"][3]
    two = {**last, "rows": 2, "tiles": [last["tiles"][0], {**last["tiles"][0], "home": 1}], "order": [0, 1]}
    with pytest.raises(ValidationError, match="is one task"):
        Plan.model_validate({**PLANS[2], "blocks": [*PLANS[2]["blocks"][:3], two]})


def test_lanes_are_numbered_without_a_gap() -> None:
    spoilt = json.loads(json.dumps(PLANS[2]))
    spoilt["blocks"][2]["tiles"][0]["home"], spoilt["blocks"][2]["order"] = 7, [7]
    with pytest.raises(ValidationError, match="without a gap"):
        Plan.model_validate(spoilt)


def test_no_two_blocks_give_the_same() -> None:
    spoilt = json.loads(json.dumps(PLANS[2]))
    spoilt["blocks"].append(spoilt["blocks"][3])
    with pytest.raises(ValidationError, match="two blocks give the same"):
        Plan.model_validate(spoilt)


def test_what_follows_from_a_plan_is_worked_out_anew_for_a_copy_that_differs() -> None:
    plan = small_plan()
    assert plan.lanes == 4
    copy = plan.model_copy(update={"blocks": whole_plan().blocks})
    assert copy.lanes == 6 and len(copy.steps[0]) == 4


def test_another_way_to_execute_a_block_is_another_plan() -> None:
    plan = whole_plan()
    one = plan.blocks[2].model_copy(update={"split": "filters"})
    assert plan.model_copy(update={"blocks": (*plan.blocks[:2], one, plan.blocks[3])}).digest() != plan.digest()


def test_a_block_reads_no_more_than_those_before_it_give() -> None:
    spoilt = json.loads(json.dumps(PLANS[1]))
    spoilt["blocks"][1]["inputs"][0]["shape"][3] += 1
    with pytest.raises(ValidationError, match="reads what none before it gives"):
        Plan.model_validate(spoilt)


def test_tensors_of_one_end_of_a_block_have_one_name() -> None:
    spoilt = json.loads(json.dumps(PLANS[1]))
    spoilt["blocks"][1]["cut"] *= 2
    with pytest.raises(ValidationError, match="have one name"):
        Plan.model_validate(spoilt)
