"""What an edge says and computes, message by message."""

from typing import Any

import numpy as np
import pytest

from edge_agent.lanes import FIRST_WANT_S
from edge_agent.lending import HAND_S, LATE_S, SUSPECT_S
from edge_agent.node import Answer, Compute, EdgeNode, Listen, Meet, Reconnect
from models.graph.build import build
from models.planning.planner import make_plan
from models.tiling.division import Tiles
from models.tiling.partition import Partition
from models.tiling.tensor import crop
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import EngineError
from schemas.contract.results import Result
from schemas.contract.topics import Publish
from tests.nodes import blocks_plan, heard, outputs, published, small_plan

PLAN = small_plan()
GATEWAY: dict[str, Any] = {"node": "gateway", "epoch": "aaaaaaaa"}
IMAGE = np.arange(32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 32, 32, 3)


def echoed(
    node: EdgeNode, seq: int, now: float, epoch: str = "aaaaaaaa", refused: str = "", cameras: int = 0, helpers: int = 0
) -> list[object]:
    echo = m.Echo(
        node="gateway", epoch=epoch, seq=seq, to_epoch=node.epoch, plan=node.digest, refused=refused,
        cameras=cameras, helpers=helpers,
    )  # fmt: skip
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


def test_an_edge_says_where_it_takes_connections_and_meets_the_others_once() -> None:
    node = EdgeNode("edge1", "11111111", PLAN, "test kernels")
    node.address = "10.0.0.1:40000"
    (register,) = published(node.connected(0.0), topics.REGISTER)
    assert (register.message.address, register.message.roster) == ("10.0.0.1:40000", None)
    peers = {"edge2": m.Peer(epoch="22222222", address="10.0.0.2:40000")}

    def meets(seq: int, roster: str | None, peers: dict[str, m.Peer]) -> list[object]:
        echo = m.Echo(**GATEWAY, seq=seq, to_epoch=node.epoch, plan=node.digest, roster=roster, peers=peers)
        return [a for a in node.hear(heard(topics.ECHO, echo), 0.0) if isinstance(a, Meet)]

    assert meets(1, "0badcafe", peers) == [Meet(peers)]
    assert not meets(2, "0badcafe", {}) and not meets(3, "0badf00d", {}), "of the other list it asks by its register"
    (register,) = published(node.tick(9.0), topics.REGISTER)
    assert register.message.roster == "0badcafe"
    assert meets(4, None, {}) == [Meet({})]


def test_a_frame_is_computed_and_registered_at_once() -> None:
    node = joined()
    said = node.frame(IMAGE, 1.0)
    (work,) = [a for a in said if isinstance(a, Compute)]
    assert work.key == ("edge1-11111111-0", 0, PLAN.blocks[0].order[0])
    box = PLAN.blocks[0].tiles[work.key[2]].inputs["image"]
    np.testing.assert_array_equal(work.inputs["image"], crop(IMAGE, box))
    (register,) = published(said, topics.REGISTER)
    assert register.message.waiting == 3 and register.message.frames == ("edge1-11111111-0",)


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
    pixels = {"image": crop(IMAGE, tile.inputs["image"])}
    header = m.TileHeader(
        node="edge1", epoch="11111111", plan=node.digest, to_epoch="22222222", request=ask.message.request,
        frame="edge1-11111111-0", tile=3, lease_s=5,
    )  # fmt: skip
    said = node.hear(heard(topics.TILE, header, pixels), 1.0)
    (work,) = [a for a in said if isinstance(a, Compute)]
    assert work.key == ("edge1-11111111-0", 0, 3)
    (ahead,) = published(said, topics.VICTIM_REQ)
    assert ahead.message.ahead
    said = node.computed(work.key, outputs(PLAN, 3), 0.1, 2.0)
    (result,), (again,) = published(said, topics.RESULT), published(said, topics.VICTIM_REQ)
    assert result.message.stolen and result.levels == {"frame": "edge1-11111111-0"}
    assert said.index(again) < said.index(result), "the result may end the frame: of the next one it gets a tile at once"


def test_a_stolen_tile_of_a_wrong_shape_is_not_computed() -> None:
    node = joined("edge2")
    (ask,) = published(node.tick(5.0), topics.VICTIM_REQ)
    header = m.TileHeader(
        node="edge1", epoch="11111111", plan=node.digest, to_epoch="11111111", request=ask.message.request,
        frame="edge1-11111111-0", tile=3, lease_s=5,
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


def test_a_restarted_gateway_hears_at_once_that_a_node_is_idle() -> None:
    node = joined()
    (ask,) = published(node.tick(4.0), topics.VICTIM_REQ)
    (again,) = published(echoed(node, 3, 4.1, epoch="bbbbbbbb"), topics.VICTIM_REQ)
    assert again.message.request == ask.message.request
    assert not published(echoed(node, 4, 4.2, epoch="bbbbbbbb"), topics.VICTIM_REQ)


def test_after_a_connection_a_node_registers_ever_less_often_until_it_is_answered() -> None:
    node, times, now = joined(), [10.0], 10.0
    assert published(node.connected(now), topics.REGISTER)
    while now < 20.0:
        now = node.deadline()
        times += [now] if published(node.tick(now), topics.REGISTER) else []
    assert np.diff(times)[:6].tolist() == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    node.connected(30.0)
    echoed(node, 99, 30.01)
    assert not published(node.tick(31.99), topics.REGISTER) and published(node.tick(32.0), topics.REGISTER)


def test_after_a_connection_a_node_registers_before_it_sends_its_results_again() -> None:
    node = joined()
    (work,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    node.computed(work.key, outputs(PLAN, work.key[2]), 0.5, 1.0)
    said = [a.topic for a in node.connected(1.5) if isinstance(a, Publish)]
    assert said == [topics.REGISTER, topics.RESULT]


def test_an_undivided_frame_has_the_effort_of_all_blocks_where_the_plan_knows_it() -> None:
    chain = make_plan(Partition(build("mini", 96)), "0" * 32, blocks=[("max3", Tiles(1, 1)), ("max7", Tiles(1, 1))])[0]
    key = ("edge1-11111111-0", 0, 0)
    one, divided = (EdgeNode("edge1", "11111111", plan, "test kernels") for plan in (chain, PLAN))
    assert one.effort(key, whole=True) == sum(block.tiles[0].effort for block in chain.blocks) > one.effort(key)
    assert divided.effort(key, whole=True) == 0 < divided.effort(key)


def test_an_ended_frame_makes_room_for_the_next() -> None:
    node = joined()
    node.frame(IMAGE, 1.0)
    node.frame(IMAGE, 1.0)
    assert not node.wants_frame
    node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame="edge1-11111111-0", ended=True)), 2.0)
    assert node.wants_frame and node.tiles.frames == ("edge1-11111111-1",)


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


def camera(cameras: int = 1, helpers: int = 3, plan: Any = PLAN) -> EdgeNode:
    """An edge with a source, in a cluster of so many."""
    node = EdgeNode("edge1", "11111111", plan, "test kernels", camera=True)
    node.connected(0.0)
    echoed(node, 1, 0.0, cameras=cameras, helpers=helpers)
    return node


def idle(node: EdgeNode, thief: str, now: float = 0.5, ahead: bool = False) -> list[Any]:
    """The gateway passes on the request of an idle node."""
    steal = m.Steal(
        **GATEWAY, plan=node.digest, thief=thief, thief_epoch="22222222", request=f"0000000{thief[-1]}", ahead=ahead
    )  # fmt: skip
    return published(node.hear(heard(topics.STEAL, steal), now), topics.TILE)


def test_a_frame_of_the_only_camera_goes_to_the_nodes_that_wait_for_it_at_once() -> None:
    node = camera()
    assert not [said for thief in ("edge2", "edge3", "edge4") for said in idle(node, thief)]
    said: list[Any] = list(node.frame(IMAGE, 1.0))
    tiles = published(said, topics.TILE)
    assert [t.levels["node"] for t in tiles] == ["edge2", "edge3", "edge4"]
    assert len({t.message.tile for t in tiles}) == 3
    (own,) = [a for a in said if isinstance(a, Compute)]
    assert own.key[2] not in {t.message.tile for t in tiles}
    (register,) = published(said, topics.REGISTER)
    assert said[0] is register and register.message.waiting == 0 and register.message.camera


def test_each_thief_gets_the_tile_that_it_had_before_if_it_can() -> None:
    node = camera()
    had: dict[str, int] = {}
    for number, thieves in enumerate((("edge2", "edge3"), ("edge3",), ("edge2", "edge3"))):
        for thief in thieves:
            idle(node, thief, 1.0 + number)
        tiles = published(node.frame(IMAGE, 1.5 + number), topics.TILE)
        got = {t.levels["node"]: t.message.tile for t in tiles}
        assert all(had.setdefault(thief, tile) == tile for thief, tile in got.items()), "its class is loaded there"
        node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=tiles[0].message.frame, ended=True)), 1.8 + number)
        frame, lane = next(iter(node.tiles.tiles), ("edge1-11111111-9", 0))
        node.computed((frame, 0, lane), outputs(PLAN, lane), 0.1, 1.9 + number)


def test_a_node_that_has_not_repeated_its_request_is_given_nothing() -> None:
    node = camera()
    idle(node, "edge2", now=0.5)
    idle(node, "edge3", now=5.0)
    tiles = published(node.frame(IMAGE, 0.5 + HAND_S), topics.TILE)
    assert [t.levels["node"] for t in tiles] == ["edge3"]


def practised() -> EdgeNode:
    """A camera that knows how long a tile takes, here and elsewhere: a second; it has no frame."""
    node = camera()
    (first,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    (lent,) = idle(node, "edge9", 1.0)
    (second,) = [a for a in node.computed(first.key, outputs(PLAN, first.key[2]), 1.0, 2.0) if isinstance(a, Compute)]
    node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=first.key[0], tiles=(lent.message.tile,))), 2.0)
    node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=first.key[0], ended=True)), 2.0)
    node.computed(second.key, outputs(PLAN, second.key[2]), 1.0, 3.0)
    assert not node.tiles.frames and node.tile_s == 1.0 and node._computing is None
    return node


@pytest.mark.parametrize("busy", [True, False])
def test_what_is_late_on_a_thief_goes_to_a_node_that_waits_once(busy: bool) -> None:
    node = practised()
    for thief in ("edge2", "edge3", "edge4"):
        idle(node, thief, 9.5)
    said = list(node.frame(IMAGE, 10.0))
    lent = {t.levels["node"]: t.message for t in published(said, topics.TILE)}
    (own,) = [a for a in said if isinstance(a, Compute)]
    if not busy:
        node.computed(own.key, outputs(PLAN, own.key[2]), 1.0, 10.9)
    frame = own.key[0]
    node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=frame, tiles=(lent["edge2"].tile,))), 11.0)
    assert not idle(node, "edge2", 11.1), "nothing is late yet"
    assert not published(node.tick(11.499), topics.TILE) and node.deadline() == 11.5
    (again,) = published(node.tick(11.5), topics.TILE)
    assert again.levels["node"] == "edge2" and again.message.tile in {lent["edge3"].tile, lent["edge4"].tile}
    assert again.tensors and node.deadline() > 11.5 and node.counts["lent again"] == 1
    (other,) = idle(node, "edge5", 11.6)
    assert {again.message.tile, other.message.tile} == {lent["edge3"].tile, lent["edge4"].tile}, "each a second time"
    assert not idle(node, "edge6", 11.7), "and no third"


def test_a_tile_that_waits_goes_before_one_that_is_late() -> None:
    node = practised()
    idle(node, "edge2", 9.5)
    (first,) = published(node.frame(IMAGE, 10.0), topics.TILE)
    (second,) = idle(node, "edge3", 13.0)
    assert second.message.tile != first.message.tile and not node.counts["lent again"]


def test_a_tile_is_late_by_what_the_slowest_took_lately_whatever_that_was_spent_on() -> None:
    node, late_at = practised(), []
    for number, took_s in enumerate((0.1, 3.0, *[0.1] * 60)):
        now = 10.0 * (number + 1)
        node.frame(IMAGE, now)
        (tile,) = idle(node, "edge2", now)
        late_at.append(node.tiles.overdue_at("edge3") - now)
        frame = tile.message.frame
        node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=frame, tiles=(tile.message.tile,))), now + took_s)
        node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=frame, ended=True)), now + took_s)
        while node._computing is not None:
            node.computed(node._computing.key, outputs(PLAN, node._computing.key[2]), 0.01, now + took_s)
    assert late_at[:4] == pytest.approx([1.5 * 1.0, 1.5 * 0.95, 1.5 * 3.0, 1.5 * 3.0 * 0.95])
    assert late_at[-1] == pytest.approx(LATE_S), "it fades, but for a least"


def test_what_was_lent_twice_or_ended_with_its_lease_tells_nothing_of_what_tiles_take() -> None:
    node = practised()
    idle(node, "edge2", 9.5)
    (tile,) = published(node.frame(IMAGE, 10.0), topics.TILE)
    while node._computing is not None:
        node.computed(node._computing.key, outputs(PLAN, node._computing.key[2]), 0.01, 10.5)
    (again,) = idle(node, "edge3", 20.0)
    assert again.message.tile == tile.message.tile and node.counts["lent again"] == 1
    node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=tile.message.frame, tiles=(tile.message.tile,))), 29.0)
    assert node.lending._turn_s == 1.0


DEALT = PLAN.model_copy(update={"schedule": "sharing"})


@pytest.mark.parametrize("plan", [blocks_plan(), DEALT], ids=["several blocks", "dealt"])
def test_tiles_of_several_blocks_and_dealt_ones_are_never_late(plan: Any) -> None:
    node = camera(plan=plan)
    node.lending._turn_s = 0.1
    node.frame(IMAGE, 1.0)
    assert idle(node, "edge2", 1.0)
    assert node.tiles.overdue_at("edge3") == float("inf")


@pytest.mark.parametrize(("cameras", "ahead"), [(2, False), (1, True)])
def test_one_camera_of_several_answers_none_and_so_does_any_to_a_request_ahead(cameras: int, ahead: bool) -> None:
    (none,) = idle(camera(cameras), "edge2", ahead=ahead)
    assert none.message.frame is None


def test_a_frame_is_computed_undivided_where_helpers_are_fewer_than_cameras() -> None:
    node = camera(cameras=2, helpers=1)
    (work,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    assert work.whole and work.inputs["image"] is IMAGE and work.key == ("edge1-11111111-0", 0, 0)
    maps = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in PLAN.blocks[0].cut}
    (result,) = published(node.computed(work.key, maps, 0.1, 2.0), topics.RESULT)
    assert result.message.whole and result.message.tile == 0 and node.counts["computed"] == 4
    accepted = m.Accepted(**GATEWAY, frame=work.key[0], tiles=(0, 1, 2, 3))
    node.hear(heard(topics.ACCEPTED, accepted), 2.1)
    assert not published(node.tick(60.0), topics.RESULT)


def test_an_undivided_frame_s_result_is_sent_until_all_tiles_are_accepted() -> None:
    """A tile's own acceptance may be of what was lent before the frame began anew."""
    node = camera(cameras=2, helpers=1)
    (work,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    node.computed(work.key, {}, 0.1, 2.0)
    node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=work.key[0], tiles=(0,))), 2.1)
    (again,) = published(node.tick(10.0), topics.RESULT)
    assert again.message.whole
    node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=work.key[0], tiles=(0, 1, 2, 3))), 10.1)
    assert not published(node.tick(60.0), topics.RESULT)


def test_a_thief_whose_engine_fails_gives_the_tile_back_and_its_source_lends_it_to_others() -> None:
    source, thief = camera(cameras=2, helpers=2), EdgeNode("edge2", "22222222", PLAN, "test kernels")
    thief.connected(0.0)
    (ask,) = published(echoed(thief, 1, 0.0), topics.VICTIM_REQ)
    source.frame(IMAGE, 1.0)
    (lent,) = idle(source, "edge2", 1.1)
    header = lent.message.model_copy(update={"request": ask.message.request})
    (work,) = [a for a in thief.hear(heard(topics.TILE, header, lent.tensors), 1.2) if isinstance(a, Compute)]
    said = thief.computed(work.key, {}, 0.1, 1.3, "out of memory")
    (back,) = published(said, topics.RETURN)
    assert (back.levels, back.message.error) == ({"node": "edge1"}, "out of memory") and not published(said, topics.RESULT)
    waiting = source.tiles.waiting
    source.hear(heard(topics.RETURN, back.message), 1.4)
    assert source.tiles.waiting == waiting + 1 and idle(source, "edge2", 1.5)[0].message.frame is None
    assert idle(source, "edge3", 1.5)[0].message.tile == header.tile


def test_a_steal_of_a_gateway_that_was_replaced_gets_nothing() -> None:
    """The one of now has not passed the request on, and takes no result for it."""
    node = camera(cameras=1, helpers=1)
    node.frame(IMAGE, 1.0)
    steal = m.Steal(
        node="gateway", epoch="99999999", plan=node.digest, thief="edge2", thief_epoch="22222222", request="0000000a"
    )
    (none,) = published(node.hear(heard(topics.STEAL, steal), 1.1), topics.TILE)
    assert none.message.frame is None and node.tiles.lent == 0


def test_a_tile_of_a_frame_that_its_sender_did_not_open_is_not_computed() -> None:
    node = joined("edge1")
    (ask,) = published(node.tick(5.0), topics.VICTIM_REQ)
    header = m.TileHeader(
        node="edge3", epoch="33333333", plan=node.digest, to_epoch="11111111", request=ask.message.request,
        frame="edge2-22222222-0", tile=3, lease_s=5,
    )  # fmt: skip
    pixels = {name: crop(IMAGE, box) for name, box in PLAN.blocks[0].tiles[3].inputs.items()}
    for sender, computed in (("edge3", 0), ("edge2", 1)):
        said = node.hear(heard(topics.TILE, header.model_copy(update={"node": sender}), pixels), 6.0)
        assert len([a for a in said if isinstance(a, Compute)]) == computed
    assert node.counts["tile of another's frame"] == 1


def test_a_frame_of_which_somebody_has_a_tile_is_never_computed_undivided() -> None:
    node = camera(cameras=2, helpers=1)
    (first,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    node.frame(IMAGE, 1.1)
    (tile,) = idle(node, "edge2", 1.2)
    assert tile.message.frame == "edge1-11111111-1"
    (work,) = [a for a in node.computed(first.key, {}, 0.1, 2.0, "failed") if isinstance(a, Compute)]
    assert not work.whole and work.key[0] == "edge1-11111111-1"


def test_a_camera_that_does_not_divide_its_frames_steals_nothing_until_its_source_has_ended() -> None:
    node = camera(cameras=2, helpers=1)
    assert not published(node.tick(1.0), topics.VICTIM_REQ)
    node.source_ended()
    assert published(node.tick(1.1), topics.VICTIM_REQ)


def test_a_plan_may_forbid_undivided_frames() -> None:
    plan = PLAN.model_copy(update={"undivided": False})
    (work,) = [a for a in camera(2, 0, plan).frame(IMAGE, 1.0) if isinstance(a, Compute)]
    assert not work.whole


def test_a_node_without_memory_for_an_undivided_frame_computes_tiles() -> None:
    node = EdgeNode("edge1", "11111111", PLAN, "test kernels", camera=True)
    node.fits_whole = False
    node.connected(0.0)
    echo = m.Echo(**GATEWAY, seq=1, to_epoch=node.epoch, plan=node.digest, cameras=1, helpers=0)
    node.hear(heard(topics.ECHO, echo), 0.0)
    (work,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    assert not work.whole


BLOCKS = blocks_plan()
BIG = np.zeros((1, 24, 30, 3), np.uint8)


def block_outputs(key: Any) -> dict[str, np.ndarray]:
    return {name: np.zeros(box.shape, np.float32) for name, box in BLOCKS.blocks[key[1]].tiles[key[2]].outputs.items()}


def test_one_edge_takes_its_tiles_through_all_blocks_and_says_nothing_of_the_parts_between() -> None:
    node = camera(1, 1, BLOCKS)
    said, blocks, results = node.frame(BIG, 1.0), [], []
    while work := next((a for a in said if isinstance(a, Compute)), None):
        blocks.append(work.key[1])
        said = node.computed(work.key, block_outputs(work.key), 0.1, 1.0)
        results += published(said, topics.RESULT)
    assert sorted(blocks) == [0] * 6 + [1] * 6 + [2] * 6
    assert sorted((r.message.block, r.message.tile) for r in results) == [(2, t) for t in range(6)]
    assert results[0].message.compute_s == pytest.approx(0.3)


def test_a_lane_publishes_its_parts_and_listens_for_those_of_others() -> None:
    node = camera(1, 1, BLOCKS)
    said = node.frame(BIG, 1.0)
    (work,) = [a for a in said if isinstance(a, Compute)]
    (listen,) = [a for a in said if isinstance(a, Listen)]
    assert listen.tile == work.key[2]
    strips = published(node.computed(work.key, block_outputs(work.key), 0.1, 1.0), topics.OVERLAP)
    assert strips and all(s.levels == {"layer": 0, "tile": s.message.tile} for s in strips)
    assert listen.tile not in {s.message.tile for s in strips}


def test_parts_of_a_lane_that_others_have_for_good_are_no_longer_wanted() -> None:
    node = EdgeNode("edge2", "22222222", BLOCKS, "test kernels")
    node.connected(0.0)
    said = published(echoed(node, 1, 0.0), topics.VICTIM_REQ)

    def lend(lane: int, number: int, now: float) -> list[Listen]:
        """edge1 lends it a lane of its next frame, as answer to a request."""
        request = next(p.message.request for p in reversed(said) if p.topic is topics.VICTIM_REQ)
        frame = m.frame_id("edge1", "11111111", number)
        header = m.TileHeader(node="edge1", epoch="11111111", plan=node.digest, to_epoch="22222222", request=request,
                              frame=frame, tile=lane, lease_s=5.0, token="0" * 32)  # fmt: skip
        pixels = {name: np.zeros(box.shape, np.uint8) for name, box in BLOCKS.task(0, lane).inputs.items()}  # type: ignore[union-attr]
        actions = node.hear(heard(topics.TILE, header, pixels), now)
        ended = m.Accepted(**GATEWAY, frame=frame, tiles=tuple(range(6)), ended=True)
        (work,) = [a for a in actions if isinstance(a, Compute)]
        actions += node.hear(heard(topics.ACCEPTED, ended), now) + node.computed(work.key, block_outputs(work.key), 0.1, now)
        said.extend(published(actions, topics.VICTIM_REQ))
        return [a for a in actions if isinstance(a, Listen)]

    assert lend(3, 0, 1.0) == [Listen(3)]
    assert lend(4, 1, 2.0) == [Listen(4)] and lend(4, 2, 30.0) == []
    assert lend(4, 3, 40.0) == [Listen(3, wanted=False)]
    assert lend(3, 4, 41.0) == [Listen(3)]


def test_what_another_lane_lacks_is_published_again() -> None:
    node = camera(1, 1, BLOCKS)
    (work,) = [a for a in node.frame(BIG, 1.0) if isinstance(a, Compute)]
    strips = published(node.computed(work.key, block_outputs(work.key), 0.1, 1.0), topics.OVERLAP)
    tile = strips[0].message.tile
    lacks = m.OverlapRequest(node="edge2", epoch="22222222", plan=node.digest, frame=work.key[0], layer=0, tile=tile)
    (again,) = published(node.hear(heard(topics.OVERLAP_REQ, lacks), 2.0), topics.OVERLAP)
    assert again.message == strips[0].message
    own = lacks.model_copy(update={"node": "edge1"})
    assert not published(node.hear(heard(topics.OVERLAP_REQ, own), 2.0), topics.OVERLAP)


def test_a_lane_that_waits_asks_and_after_a_lease_the_source_begins_the_frame_anew() -> None:
    node = camera(1, 1, BLOCKS)
    (work,) = [a for a in node.frame(BIG, 1.0) if isinstance(a, Compute)]
    for tile in range(5):
        assert idle(node, f"edge{tile + 2}", 1.0)
    node.computed(work.key, block_outputs(work.key), 0.1, 1.0)
    assert node.deadline() <= 1.0 + FIRST_WANT_S
    (lacks,) = published(node.tick(1.0 + FIRST_WANT_S), topics.OVERLAP_REQ)
    assert lacks.message.tile == work.key[2] and lacks.message.layer == 0
    lease_s = node._lease_s
    assert not [a for a in node.tick(0.9 + lease_s) if isinstance(a, Compute)]
    assert [a.key for a in node.tick(1.0 + lease_s) if isinstance(a, Compute)] == [work.key]


def test_the_own_engine_keeps_one_tile_however_many_wait_for_it() -> None:
    node = camera(1, 9)
    for number in range(2, 8):
        idle(node, f"edge{number}")
    said = node.frame(IMAGE, 1.0)
    assert len(published(said, topics.TILE)) == 3 and len([a for a in said if isinstance(a, Compute)]) == 1


def test_the_second_lease_that_ends_unanswered_begins_a_frame_of_several_blocks_anew() -> None:
    node = camera(1, 9, BLOCKS)
    node.frame(BIG, 1.0)
    for tile in range(5):
        idle(node, f"edge{tile + 2}", 1.0 + tile)
    (frame,) = node.tiles.frames
    first = node.tiles.deadline()
    assert first is not None
    node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=frame, block=2, tiles=(5,))), 2.0)
    node.tick(first)
    assert sum(type(state).__name__ == "Done" for state in node.tiles.tiles.values()) == 1
    node.tick(first + 4.0)
    assert not [state for state in node.tiles.tiles.values() if type(state).__name__ == "Done"]


def test_of_the_nodes_that_wait_the_fastest_gets_the_last_and_largest_tile() -> None:
    plain = PLAN.model_copy(update={"blocks": tuple(b.model_copy(update={"reuse": False}) for b in PLAN.blocks)})
    node = EdgeNode("edge1", "11111111", plain, "test kernels", camera=True)
    node.connected(0.0)
    echoed(node, 1, 0.0, cameras=1, helpers=2)
    for thief, flops_s in (("edge2", 1e9), ("edge3", 5e9)):
        wish = m.Steal(
            **GATEWAY, plan=node.digest, thief=thief, thief_epoch="22222222", request="0000000a", flops_s=flops_s
        )
        assert not published(node.hear(heard(topics.STEAL, wish), 0.5), topics.TILE)
    tiles = {said.levels["node"]: said.message.tile for said in published(node.frame(IMAGE, 1.0), topics.TILE)}
    order = PLAN.blocks[0].order
    assert tiles == {"edge3": order[-1], "edge2": order[-2]}


def test_where_tiles_are_shared_out_a_node_takes_them_unasked_and_asks_for_none() -> None:
    plan = PLAN.model_copy(update={"schedule": "sharing"})
    node = EdgeNode("edge2", "22222222", plan, "test kernels")
    node.connected(0.0)
    said = echoed(node, 1, 0.0, cameras=1, helpers=1)
    assert not published(said, topics.VICTIM_REQ)
    tile = plan.blocks[0].tiles[3]
    pixels = {name: crop(IMAGE, box) for name, box in tile.inputs.items()}
    header = m.TileHeader(
        node="edge1", epoch="11111111", plan=node.digest, to_epoch="22222222", request="0000000a",
        frame="edge1-11111111-0", tile=3, lease_s=5.0,
    )  # fmt: skip
    (work,) = [a for a in node.hear(heard(topics.TILE, header, pixels), 1.0) if isinstance(a, Compute)]
    assert work.key == ("edge1-11111111-0", 0, 3)


def test_a_thief_that_lets_a_lease_expire_gets_no_tile_for_a_while() -> None:
    node = joined()
    node.frame(IMAGE, 1.0)
    lease_s = steal(node, "0000000a").lease_s
    node.tick(1.0 + lease_s)
    assert steal(node, "0000000b", now=2.0 + lease_s).frame is None
    assert steal(node, "0000000c", now=1.0 + lease_s + SUSPECT_S).frame is not None


def test_what_a_gateway_accepts_that_has_not_answered_is_not_believed() -> None:
    node = EdgeNode("edge1", "11111111", PLAN, "test kernels")
    node.connected(0.0)
    (work,) = [a for a in node.frame(IMAGE, 1.0) if isinstance(a, Compute)]
    node.computed(work.key, outputs(PLAN, work.key[2]), 0.5, 1.0)
    accepted = m.Accepted(**GATEWAY, frame=work.key[0], tiles=(work.key[2],))
    node.hear(heard(topics.ACCEPTED, accepted), 1.1)
    assert work.key in node.outbox
    echoed(node, 1, 1.2)
    node.hear(heard(topics.ACCEPTED, accepted), 1.3)
    assert work.key not in node.outbox


def test_a_lane_that_outlives_the_restart_of_its_frame_is_not_computed_again() -> None:
    node = camera(1, 1, BLOCKS)
    said, results = node.frame(BIG, 1.0), []
    for _ in range(3):  # one tile's first block, and others'
        (work,) = [a for a in said if isinstance(a, Compute)]
        said = node.computed(work.key, block_outputs(work.key), 0.1, 1.0)
    node.tiles.restart(work.key[0])
    while following := next((a for a in said if isinstance(a, Compute)), None):
        said = node.computed(following.key, block_outputs(following.key), 0.1, 1.0)
        results += published(said, topics.RESULT)
    assert sorted(r.message.tile for r in results) == list(range(6))


def test_the_engine_takes_another_tile_where_a_lane_that_is_here_waits_for_parts() -> None:
    node = camera(1, 1, BLOCKS)
    (work,) = [a for a in node.frame(BIG, 1.0) if isinstance(a, Compute)]
    leases = [idle(node, f"edge{i + 2}", 1.0) for i in range(5)]
    assert all(told.message.frame for (told,) in leases)
    node.computed(work.key, block_outputs(work.key), 0.1, 1.1)  # its lane waits for parts of the others
    node.tiles.restart(work.key[0])
    assert [a for a in node.tick(1.2) if isinstance(a, Compute)]


def test_a_leaving_thief_hands_back_what_it_has_not_computed_and_the_source_need_not_wait_for_the_lease() -> None:
    source, thief = joined("edge1"), EdgeNode("edge2", "22222222", PLAN, "test kernels")
    thief.connected(0.0)
    (ask,) = published(echoed(thief, 1, 0.0), topics.VICTIM_REQ)
    source.frame(IMAGE, 1.0)
    message = m.Steal(
        **GATEWAY, plan=source.digest, thief="edge2", thief_epoch="22222222", request=ask.message.request
    )  # fmt: skip
    (lent,) = published(source.hear(heard(topics.STEAL, message), 1.0), topics.TILE)
    thief.hear(heard(topics.TILE, lent.message, lent.tensors), 1.0)
    waiting = source.tiles.waiting
    *back, bye = thief.leave(1.5)
    (handed,) = published(back, topics.RETURN)
    assert handed.levels == {"node": "edge1"} and handed.message.tiles == (lent.message.tile,)
    assert published([bye], topics.REGISTER)[0].message.leaving
    source.hear(heard(topics.RETURN, handed.message), 1.6)
    source.hear(heard(topics.RETURN, handed.message), 1.7)
    assert source.tiles.waiting == waiting + 1


@pytest.mark.parametrize("result", [None, Result(task="detect")])
def test_who_asks_about_a_frame_gets_one_answer_when_it_has_ended(result: Result | None) -> None:
    node = joined()
    node.answers = True
    said = node.frame(IMAGE, 1.0, ticket=7)
    (register,) = published(said, topics.REGISTER)
    assert register.message.answers
    about: dict[str, Any] = {"frame": "edge1-11111111-0", "tiles": (0,)}
    assert not answers(node.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, **about)), 1.5))
    ended = heard(topics.ACCEPTED, m.Accepted(**GATEWAY, **about, ended=True, result=result))
    assert answers(node.hear(ended, 2.0)) == [Answer(7, result)]
    assert not answers(node.hear(ended, 3.0)), "it is said again"


def answers(said: Any) -> list[Answer]:
    return [action for action in said if isinstance(action, Answer)]
