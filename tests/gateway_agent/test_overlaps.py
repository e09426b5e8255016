"""The overlap pool: a taker's strips leave together, to the node that computes it, and go with their frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.node import GatewayNode
from gateway_agent.overlaps import OverlapPool
from schemas import messages as m
from schemas import topics
from schemas.errors import DecodeError
from tests.models.test_trade import PLAN, TRADE, strips
from tests.nodes import heard, published

FRAME = "edge1.11111111.0"
MAKERS = sorted(TRADE.makers(1))


def put(pool: OverlapPool, maker: int, taker: int = 1, frame: str = FRAME) -> list[tuple[str, int]]:
    return [(h.to, h.maker) for h in pool.put(frame, 0, taker, maker, strips(TRADE, taker, maker))]


def test_strips_are_sent_once_all_are_here_and_somebody_is_named() -> None:
    pool = OverlapPool(TRADE)
    assert pool.ask(FRAME, 1, None) == [] and pool.ask(FRAME, 1, "edge2") == []
    assert put(pool, 0) == put(pool, 2) == []
    assert put(pool, 4) == [("edge2", 0), ("edge2", 2), ("edge2", 4)]
    assert put(pool, 4) == [], "once"
    assert [h.maker for h in pool.ask(FRAME, 1, "edge3")] == MAKERS, "another node has got the tile"
    assert pool.counts == {"strips": 3, "strips repeated": 1, "strips passed on": 6}


@given(st.permutations(MAKERS), st.integers(0, 3))
def test_the_order_in_which_they_come_does_not_matter(order: list[int], asked: int) -> None:
    pool, sent = OverlapPool(TRADE), []
    for number, maker in enumerate([*order, None]):
        if number == asked:
            sent += [(h.to, h.maker) for h in pool.ask(FRAME, 1, "edge2")]
        if maker is not None:
            sent += put(pool, maker)
    assert sorted(sent) == [("edge2", maker) for maker in MAKERS]


def test_what_a_node_has_made_itself_is_not_sent_to_it_and_not_waited_for() -> None:
    pool = OverlapPool(TRADE)
    pool.computed(FRAME, 0, "edge2")
    put(pool, 2)
    put(pool, 4)
    assert [h.maker for h in pool.ask(FRAME, 1, "edge2")] == [2, 4]
    assert pool.ask(FRAME, 1, "edge3") == [], "which has not made it"


def test_a_tile_that_is_computed_needs_nothing_any_more() -> None:
    pool = OverlapPool(TRADE)
    pool.ask(FRAME, 1, "edge2")
    put(pool, 0)
    put(pool, 0, taker=3)
    pool.computed(FRAME, 1, "edge2")
    assert pool.nbytes == sum(a.nbytes for a in strips(TRADE, 3, 0).values())
    assert put(pool, 2) == put(pool, 4) == [] and pool.counts["strips too late"] == 2


def test_a_frame_s_strips_go_with_its_outcome_and_the_oldest_frame_s_if_there_are_too_many() -> None:
    room = sum(a.nbytes for maker in MAKERS for a in strips(TRADE, 1, maker).values())
    pool = OverlapPool(TRADE, limit=room)
    for maker in MAKERS:
        put(pool, maker)
    assert pool.nbytes == room and pool.dropped == 0
    put(pool, 0, frame="edge1.11111111.1")
    assert pool.dropped == 1 and pool.nbytes < room
    assert pool.ask(FRAME, 1, "edge2") == []
    pool.end("edge1.11111111.1")
    assert pool.nbytes == 0


def test_frames_that_never_end_do_not_pile_up() -> None:
    pool = OverlapPool(TRADE)
    for number in range(200):
        put(pool, 0, frame=f"edge1.11111111.{number}")
    assert len(pool._frames) <= 64 and pool.nbytes <= 64 * sum(a.nbytes for a in strips(TRADE, 1, 0).values())


def test_what_the_plan_does_not_say_is_refused() -> None:
    pool = OverlapPool(TRADE)
    with pytest.raises(DecodeError):
        pool.put(FRAME, 0, 1, 0, {})
    with pytest.raises(DecodeError):
        pool.put(FRAME, 0, 1, 8, strips(TRADE, 1, 0))
    assert pool.nbytes == 0 and pool.ask(FRAME, 99, "edge2") == []


def test_the_gateway_passes_strips_on_and_forgets_them_with_the_frame() -> None:
    node = GatewayNode("gateway", "aaaaaaaa", PLAN, trade=TRADE)
    head = {"node": "edge1", "epoch": "11111111", "plan": node.digest, "frame": FRAME, "layer": 0, "tile": 1}
    register = m.Register(node="edge1", epoch="11111111", seq=1, runtime="", plan=node.digest, frames=(FRAME,))
    node.hear(heard(topics.REGISTER, register), 0.0)
    said = []
    for maker in MAKERS:
        header = m.OverlapHeader.model_validate({**head, "maker": maker})
        said += node.hear(heard(topics.OVERLAP, header, strips(TRADE, 1, maker)), 1.0)
    assert not said
    lacks = m.OverlapRequest.model_validate({**head, "to": "edge2"})
    sent = published(node.hear(heard(topics.OVERLAP_REQ, lacks), 1.0), topics.STRIPS)
    assert [(s.levels, s.message.node, s.message.maker) for s in sent] == [
        ({"node": "edge2"}, "gateway", maker) for maker in MAKERS
    ]
    for s in sent:
        TRADE.check(s.message.tile, s.message.maker, s.tensors)
    node.failed(FRAME, "no reason", 2.0)
    assert node.overlaps.nbytes == 0
    header = m.OverlapHeader.model_validate({**head, "maker": 0})
    assert not node.hear(heard(topics.OVERLAP, header, strips(TRADE, 1, 0)), 3.0) and node.overlaps.nbytes == 0
