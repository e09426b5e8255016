"""Plans that end on one node: one result makes a frame whole, and is accepted for all of its tiles."""

from typing import Any

import numpy as np
import pytest

from gateway_agent.dashboard.views import plan_flops
from gateway_agent.node import Finish, GatewayNode
from gateway_agent.victims import Forward
from models.results.geometry import answer_boxes
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DecodeError
from tests.nodes import blocks_plan, heard, published, whole_plan

PLAN = whole_plan()
LAST = len(PLAN.blocks) - 1
FRAME = "edge1-11111111-0"
MEAN = {"mean": np.arange(5, dtype=np.float32).reshape(1, 5)}


def gateway() -> GatewayNode:
    """With a source that has one frame open and an idle worker."""
    node = GatewayNode("gateway", "aaaaaaaa", PLAN, deadline_s=30.0)
    for name, epoch, frames in (("edge1", "11111111", (FRAME,)), ("edge2", "22222222", ())):
        register = m.Register(node=name, epoch=epoch, seq=1, runtime="test kernels", plan=node.digest, frames=frames)
        node.hear(heard(topics.REGISTER, register), 0.0)
    return node


def result(node: GatewayNode, tensors: Any, tile: int = 0, worker: str = "edge2", **more: Any) -> list[Any]:
    epoch = {"edge1": "11111111", "edge2": "22222222"}[worker]
    node.grants.add([Forward("edge1", "11111111", "edge2", "22222222", f"{tile:08x}", False)])
    header = m.ResultHeader(
        node=worker, epoch=epoch, plan=node.digest, frame=FRAME, block=LAST, tile=tile, stolen=worker == "edge2",
        request=f"{tile:08x}", **more,
    )  # fmt: skip
    return list(node.hear(heard(topics.RESULT, header, tensors), 1.0))


def test_the_ends_result_makes_the_frame_whole_and_is_accepted_for_all_tiles() -> None:
    node = gateway()
    said = result(node, MEAN)
    accepted = {a.levels["node"]: a.message.tiles for a in published(said, topics.ACCEPTED)}
    assert accepted == dict.fromkeys(("edge1", "edge2"), tuple(range(6)))
    (finish,) = [a for a in said if isinstance(a, Finish)]
    assert np.array_equal(finish.complete.tiles[LAST, 0]["mean"], MEAN["mean"])
    (outcome,) = published(node.finished(FRAME, {}, 2.0), topics.OUTCOME)
    assert outcome.message.workers == ("edge2",) and outcome.message.stolen_tiles == (0,)


def test_the_end_that_comes_twice_counts_once_and_is_accepted_again() -> None:
    node = gateway()
    result(node, MEAN)
    again = result(node, MEAN, worker="edge1")
    assert not [a for a in again if isinstance(a, Finish)]
    assert [a.message.tiles for a in published(again, topics.ACCEPTED)] == [tuple(range(6))]


def test_an_undivided_frame_is_accepted_for_all_tiles() -> None:
    said = result(gateway(), MEAN, worker="edge1", whole=True)
    assert [a.message.tiles for a in published(said, topics.ACCEPTED)] == [tuple(range(6))]
    assert [a for a in said if isinstance(a, Finish)]


def test_a_result_of_another_lane_is_no_result() -> None:
    with pytest.raises(DecodeError, match="tile 1 of block 3 answers for nothing"):
        result(gateway(), MEAN, tile=1)


@pytest.mark.parametrize(
    "tensors", [{}, {"mean": np.zeros((1, 6), np.float32)}, {"mean": np.zeros((1, 5), np.int32)}, {"conv4": MEAN["mean"]}]
)
def test_an_end_of_another_shape_is_refused(tensors: Any) -> None:
    with pytest.raises(DecodeError):
        result(gateway(), tensors)


def test_a_model_error_of_any_lane_fails_the_frame_unless_the_end_is_here() -> None:
    node = gateway()
    (outcome,) = published(result(node, {}, tile=3, worker="edge1", error="broken"), topics.OUTCOME)
    assert outcome.message.reason == "model error on edge1: broken"
    node = gateway()
    result(node, MEAN)
    assert not published(result(node, {}, tile=3, worker="edge1", error="broken"), topics.OUTCOME)


def test_where_tiles_are_shared_out_each_node_gets_its_share_of_the_lanes() -> None:
    node = GatewayNode("gateway", "aaaaaaaa", PLAN.model_copy(update={"schedule": "sharing"}))
    said: list[Any] = []
    for name, epoch, frames in (("edge2", "22222222", ()), ("edge1", "11111111", (FRAME,))):
        register = m.Register(node=name, epoch=epoch, seq=1, runtime="test kernels", plan=node.digest, frames=frames)
        said += node.hear(heard(topics.REGISTER, register), 0.0)
    assert len(published(said, topics.STEAL)) == PLAN.lanes // 2


def test_people_see_who_has_computed_the_end_as_the_one_who_answers_for_the_picture() -> None:
    assert answer_boxes(PLAN, (24, 30)) == [(0.0, 0.0, 30.0, 24.0)]
    assert plan_flops(PLAN) == [sum(tile.flops for block in PLAN.blocks for tile in block.tiles)]
    assert len(plan_flops(blocks_plan())) == 6
