"""Plans that end on one node: what an edge does with lane 0, and with the lanes that end before it."""

from typing import Any

import numpy as np
import pytest

from edge_agent.node import FIRST_LEASE_S, LEASE_TILES, Compute, EdgeNode
from edge_agent.tiles import Computing, Done, Lent, Passed, Sent, Waiting
from models.tiling.division import Tiles, Whole
from models.tiling.tensor import crop
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.keys import TaskKey
from tests.nodes import heard, published, whole_plan

PLAN = whole_plan()
LANES = range(PLAN.lanes)
LAST, SPREAD = len(PLAN.blocks) - 1, 2
IMAGE = np.zeros((1, 24, 30, 3), np.uint8)
FRAME = "edge1-11111111-0"
GATEWAY: dict[str, Any] = {"node": "gateway", "epoch": "aaaaaaaa"}


def edge(name: str = "edge1", epoch: str = "11111111", helpers: int = 1) -> EdgeNode:
    """An edge that the gateway has answered; the first has the only camera."""
    node = EdgeNode(name, epoch, PLAN, "test kernels", camera=name == "edge1")
    node.connected(0.0)
    echo(node, 1, helpers=helpers)
    return node


def echo(node: EdgeNode, seq: int, epoch: str = "aaaaaaaa", helpers: int = 1) -> list[Any]:
    message = m.Echo(
        node="gateway", epoch=epoch, seq=seq, to_epoch=node.epoch, plan=node.digest, cameras=1, helpers=helpers
    )
    return list(node.hear(heard(topics.ECHO, message), 0.0))


def made(block: int, tile: int) -> dict[str, np.ndarray]:
    specs, boxes = PLAN.blocks[block].cut, PLAN.blocks[block].by_home[tile].outputs
    return {spec.name: crop(np.zeros(spec.shape, spec.dtype), boxes[spec.name]) for spec in specs}


def work(node: EdgeNode, said: list[Any], seconds: float = 0.1, count: int = 100) -> tuple[list[TaskKey], list[Any]]:
    """The engine works until it has nothing, or for so many tiles: what it computed, and what was said."""
    keys: list[TaskKey] = []
    heard_of = list(said)
    while (compute := next((a for a in said if isinstance(a, Compute)), None)) and len(keys) < count:
        assert not compute.whole
        keys.append(compute.key)
        said = node.computed(compute.key, made(*compute.key[1:]), seconds, 1.0)
        heard_of += said
    return keys, heard_of


def lend(node: EdgeNode, request: str) -> Any:
    message = m.Steal(**GATEWAY, plan=PLAN.digest(), thief="edge2", thief_epoch="22222222", request=request)
    (said,) = published(node.hear(heard(topics.STEAL, message), 1.0), topics.TILE)
    return said


def accept(node: EdgeNode, ended: bool = False) -> None:
    message = m.Accepted(**GATEWAY, frame=FRAME, block=LAST, tiles=tuple(LANES), ended=ended)
    node.hear(heard(topics.ACCEPTED, message), 2.0)


def states(node: EdgeNode) -> list[type]:
    return [type(node.tiles.state((FRAME, tile))) for tile in LANES]


def test_one_edge_computes_all_tiles_and_the_end_once_and_gives_one_result() -> None:
    node = edge()
    keys, said = work(node, node.frame(IMAGE, 1.0))
    assert sorted(key[1:] for key in keys) == sorted(
        [(block, tile) for block in range(SPREAD) for tile in LANES] + [(block, 0) for block in range(SPREAD, LAST + 1)]
    )
    (result,) = published(said, topics.RESULT)
    assert (result.message.block, result.message.tile, result.message.whole) == (LAST, 0, False)
    assert result.tensors["mean"].shape == (1, 5)
    assert states(node) == [Sent] + [Passed] * (len(LANES) - 1)
    assert all(part.message.layer < SPREAD - 1 for part in published(said, topics.OVERLAP)), "lane 0 is here"
    assert node.counts["computed"] == len(LANES)
    accept(node)
    assert states(node) == [Done] * len(LANES)
    accept(node, ended=True)
    assert not node.tiles.frames and not len(node.lanes) and node.deadline() > 1.0


def test_a_thief_of_another_lane_gives_its_parts_and_no_result_and_is_free_for_the_next() -> None:
    plan = whole_plan((("conv0+conv2", Tiles(2, 3)), ("end", Whole())))
    thief, tile = EdgeNode("edge2", "22222222", plan, "test kernels"), plan.blocks[0].tiles[4]
    thief.connected(0.0)
    (ask,) = published(echo(thief, 1), topics.VICTIM_REQ)
    header = m.TileHeader(
        node="edge1", epoch="11111111", plan=thief.digest, to_epoch="22222222", request=ask.message.request,
        frame=FRAME, tile=4, lease_s=9.0,
    )  # fmt: skip
    said = thief.hear(heard(topics.TILE, header, {"image": crop(IMAGE, tile.inputs["image"])}), 1.0)
    (compute,) = [a for a in said if isinstance(a, Compute)]
    outputs = {name: np.zeros(box.shape, np.float32) for name, box in tile.outputs.items()}
    said = thief.computed(compute.key, outputs, 0.1, 2.0)
    (part,) = published(said, topics.OVERLAP)
    assert (part.message.layer, part.message.tile, part.message.maker) == (0, 0, 4) and set(part.tensors) == set(outputs)
    assert not published(said, topics.RESULT) and not len(thief.lanes) and thief.counts["stolen"] == 1
    (again,) = published(said, topics.VICTIM_REQ)
    assert not again.message.ahead


def test_leases_of_a_frame_end_with_the_result_that_answers_for_it() -> None:
    node = edge()
    node.frame(IMAGE, 1.0)
    lend(node, "00000001")
    assert Lent in states(node)
    accept(node)
    assert states(node) == [Done] * len(LANES) and node.tiles.deadline() is None


def test_a_lease_is_as_long_as_the_end_takes() -> None:
    node = edge()
    assert node._lease_s == FIRST_LEASE_S * len(PLAN.blocks)
    work(node, node.frame(IMAGE, 1.0), seconds=1.0, count=1)
    assert node._lease_s == pytest.approx(LEASE_TILES * sum(node._weights))
    node.computed((FRAME, 2, 0), made(2, 0), node._weights[2], 2.0)
    assert node.tile_s == pytest.approx(1.0), "a heavy block does not make tiles seem slow"


def test_what_has_passed_stays_so_over_a_gateways_restart_until_something_of_it_was_accepted() -> None:
    node = edge()
    work(node, node.frame(IMAGE, 1.0))
    echo(node, 2, epoch="bbbbbbbb")
    assert states(node) == [Sent] + [Passed] * (len(LANES) - 1), "the result is said again"
    node = edge()
    work(node, node.frame(IMAGE, 1.0))
    accept(node)
    echo(node, 2, epoch="bbbbbbbb")
    assert set(states(node)) <= {Waiting, Computing}, "the result is gone: all of it anew"


def test_where_lane_0_is_stuck_the_frame_begins_anew() -> None:
    node = edge()
    said = node.frame(IMAGE, 1.0)
    for request in range(1, 6):
        lend(node, f"{request:08x}")
    work(node, said)
    assert (FRAME, 0) in node.lanes
    node.tiles.computed((FRAME, 1), passed=True)
    node.tick(1.0 + node._lease_s - 1e-6)
    assert states(node)[1] is Passed
    node.tick(2.0 + node._lease_s)
    assert node.counts["lane stuck"] == 1 and set(states(node)) <= {Waiting, Computing}


def test_an_engine_that_fails_in_another_lane_says_so() -> None:
    node = edge()
    said, failed = node.frame(IMAGE, 1.0), None
    while failed is None:
        (compute,) = [a for a in said if isinstance(a, Compute)]
        error = "broken" if compute.key[2] == 1 else ""
        said = node.computed(compute.key, {} if error else made(*compute.key[1:]), 0.1, 1.0, error)
        failed = next((r for r in published(said, topics.RESULT) if r.message.error), None)
    assert (failed.message.block, failed.message.tile, failed.message.error) == (0, 1, "broken")


def test_a_frame_that_is_computed_undivided_answers_for_all_tiles() -> None:
    node = edge(helpers=0)
    said = node.frame(IMAGE, 1.0)
    (compute,) = [a for a in said if isinstance(a, Compute)]
    assert compute.whole
    said = node.computed(compute.key, {"mean": np.zeros((1, 5), np.float32)}, 1.0, 2.0)
    (result,) = published(said, topics.RESULT)
    assert result.message.whole and states(node) == [Sent] * len(LANES)
    assert node.counts["computed"] == len(LANES)
