"""What an edge says and computes, message by message."""

from typing import Any

import numpy as np
import pytest

from edge_agent.node import Compute, EdgeNode, Reconnect
from schemas import messages as m
from schemas import topics
from schemas.errors import EngineError
from tests.nodes import heard, outputs, published, small_plan

PLAN = small_plan()
GATEWAY: dict[str, Any] = {"node": "gateway", "epoch": "aaaaaaaa"}
IMAGE = np.arange(32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 32, 32, 3)


def echoed(node: EdgeNode, seq: int, now: float, epoch: str = "aaaaaaaa", refused: str = "") -> list[object]:
    echo = m.Echo(node="gateway", epoch=epoch, seq=seq, to_epoch=node.epoch, plan=node.digest, refused=refused)
    return list(node.hear(heard(topics.ECHO, echo), now))


def joined(name: str = "edge1") -> EdgeNode:
    """An edge that the gateway has answered."""
    node = EdgeNode(name, "11111111", PLAN, "test kernels")
    node.connected(0.0)
    echoed(node, 1, 0.0)
    return node


def steal(node: EdgeNode, request: str, ahead: bool = False, now: float = 1.0) -> m.TileHeader:
    message = m.Steal(
        **GATEWAY, plan=node.digest, thief="edge2", thief_epoch="22222222", request=request, ahead=ahead
    )  # fmt: skip
    (said,) = published(node.hear(heard(topics.STEAL, message), now), topics.TILE)
    assert said.levels == {"node": "edge2"}
    header: m.TileHeader = said.message
    return header


def test_a_frame_is_computed_and_registered_at_once() -> None:
    node = joined()
    said = node.frame(IMAGE, 1.0)
    (work,) = [a for a in said if isinstance(a, Compute)]
    assert work.key == ("edge1.11111111.0", 0, PLAN.blocks[0].order[0])
    region = PLAN.blocks[0].tiles[work.key[2]].inputs["image"]
    np.testing.assert_array_equal(work.inputs["image"], IMAGE[:, region.y0 : region.y1, region.x0 : region.x1])
    (register,) = published(said, topics.REGISTER)
    assert register.message.waiting == 3 and register.message.frames == ("edge1.11111111.0",)


def test_the_engine_gets_its_next_tile_before_the_result_is_sent() -> None:
    node = joined()
    (work,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    said = node.computed(work.key, outputs(PLAN, work.key[2]), 0.5, 2.0)
    kinds = [type(a).__name__ if isinstance(a, Compute) else getattr(a, "topic", None) for a in said]
    assert kinds.index("Compute") < kinds.index(topics.RESULT)


def test_a_thief_gets_the_last_tile_with_its_pixels_and_a_lease() -> None:
    node = joined()
    node.frame(IMAGE, 1.0)
    header = steal(node, "0000000a")
    assert header.tile == PLAN.blocks[0].order[-1] and header.lease_s > 0 and header.to_epoch == "22222222"


def test_an_empty_victim_says_none() -> None:
    assert steal(joined(), "0000000a").frame is None


def test_an_idle_edge_asks_once_the_gateway_has_answered_and_then_computes_what_it_steals() -> None:
    node = EdgeNode("edge2", "22222222", PLAN, "test kernels")
    assert not published(node.connected(0.0), topics.VICTIM_REQ)
    (ask,) = published(echoed(node, 1, 0.0), topics.VICTIM_REQ)
    tile = PLAN.blocks[0].tiles[3]
    pixels = {"image": IMAGE[:, tile.inputs["image"].y0 :, tile.inputs["image"].x0 :]}
    header = m.TileHeader(
        node="edge1", epoch="11111111", plan=node.digest, to_epoch="22222222", request=ask.message.request,
        frame="edge1.11111111.0", tile=3, lease_s=5,
    )  # fmt: skip
    said = node.hear(heard(topics.TILE, header, pixels), 1.0)
    (work,) = [a for a in said if isinstance(a, Compute)]
    assert work.key == ("edge1.11111111.0", 0, 3)
    (ahead,) = published(said, topics.VICTIM_REQ)
    assert ahead.message.ahead
    (result,) = published(node.computed(work.key, outputs(PLAN, 3), 0.1, 2.0), topics.RESULT)
    assert result.message.stolen and result.levels == {"frame": "edge1.11111111.0"}


def test_a_stolen_tile_of_a_wrong_shape_is_not_computed() -> None:
    node = joined("edge2")
    (ask,) = published(node.tick(5.0), topics.VICTIM_REQ)
    header = m.TileHeader(
        node="edge1", epoch="11111111", plan=node.digest, to_epoch="11111111", request=ask.message.request,
        frame="edge1.11111111.0", tile=3, lease_s=5,
    )  # fmt: skip
    said = node.hear(heard(topics.TILE, header, {"image": IMAGE}), 6.0)
    assert not [a for a in said if isinstance(a, Compute)] and node.counts["tile of a wrong shape"] == 1


def test_a_result_is_sent_again_until_it_is_accepted() -> None:
    node = joined()
    (work,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    node.computed(work.key, outputs(PLAN, work.key[2]), 0.5, 1.0)
    assert len(published(node.tick(3.0), topics.RESULT)) == 1
    accepted = m.Accepted(**GATEWAY, frame=work.key[0], tiles=(work.key[2],))
    node.hear(heard(topics.ACCEPTED, accepted), 3.5)
    assert not published(node.tick(60.0), topics.RESULT)


def test_an_expired_lease_is_computed_at_home() -> None:
    node = joined()
    (work,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    leases = [steal(node, f"0000000{i}") for i in range(3)]
    assert all(lease.frame for lease in leases)
    assert not [a for a in node.computed(work.key, outputs(PLAN, 0), 0.1, 1.1) if isinstance(a, Compute)]
    said = node.tick(1.0 + leases[0].lease_s)
    assert [a for a in said if isinstance(a, Compute)]


def test_a_restarted_gateway_gets_everything_again() -> None:
    node = joined()
    (work,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    node.computed(work.key, outputs(PLAN, work.key[2]), 0.5, 1.0)
    node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=work.key[0], tiles=(work.key[2],))), 1.1)
    before = node.tiles.waiting
    echoed(node, 2, 2.0, epoch="bbbbbbbb")
    assert node.tiles.waiting == before + 1


def test_an_ended_frame_makes_room_for_the_next() -> None:
    node = joined()
    node.frame(IMAGE, 1.0)
    node.frame(IMAGE, 1.0)
    assert not node.wants_frame
    node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame="edge1.11111111.0", ended=True)), 2.0)
    assert node.wants_frame and node.tiles.frames == ("edge1.11111111.1",)


def test_a_failed_engine_is_reported_and_not_tried_for_ever() -> None:
    node = joined()
    (work,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    (result,) = published(node.computed(work.key, {}, 0.1, 2.0, error="out of memory"), topics.RESULT)
    assert result.message.error == "out of memory" and not result.tensors


def test_a_refused_edge_stops_with_the_gateways_reason() -> None:
    node = EdgeNode("edge1", "11111111", PLAN, "other kernels")
    node.connected(0.0)
    with pytest.raises(EngineError, match="the gateway refuses edge1: other bits"):
        echoed(node, 1, 0.0, refused="other bits")


def test_silence_of_the_gateway_reconnects_once_in_a_while() -> None:
    node = joined()
    now, reconnects = 0.0, 0
    while now < 20.0:
        now = max(node.deadline(), now + 0.01)
        reconnects += sum(isinstance(a, Reconnect) for a in node.tick(now))
    assert reconnects == 2


def test_an_idle_edge_says_less_than_one_message_a_second() -> None:
    node, now, said = joined(), 0.0, 0
    while now < 100.0:
        now = max(node.deadline(), now + 0.01)
        registers = published(actions := node.tick(now), topics.REGISTER)
        said += len(actions)
        for register in registers:
            said += 1  # its echo
            echoed(node, register.message.seq, now)
    assert said / now < 1.5
