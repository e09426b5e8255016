"""Strips between edges: who makes them, who is asked for them, and that nobody waits."""

from typing import Any

import numpy as np
import pytest

from edge_agent.lanes import Strip
from edge_agent.node import Compute, EdgeNode
from edge_agent.overlaps import Ask, Overlaps, Rates
from edge_agent.tiles import Computing, Done, Lease, Lent, State, TileQueue, Waiting
from models.build import build
from models.partition import Partition
from models.planner import make_plan
from models.tensor import part_shape
from schemas import messages as m
from schemas import topics
from schemas.errors import DecodeError
from schemas.plan import Plan
from tests.models.test_trade import LARGE as TRADE
from tests.models.test_trade import PLAN, strips
from tests.nodes import heard, published

FRAME = "edge1.11111111.0"
IMAGE = np.zeros((1, 96, 96, 3), np.uint8)
PAYS, SLOW = Rates(1e6, 1e9), Rates(1e9, 1e6)
TILE_S = PLAN.blocks[0].tiles[0].effort / PAYS.flops_s
GATEWAY: dict[str, Any] = {"node": "gateway", "epoch": "aaaaaaaa"}


def made(maker: int) -> dict[int, dict[str, np.ndarray]]:
    """What the engine makes for all takers."""
    return {taker: strips(TRADE, taker, maker) for taker in TRADE.takers(maker)}


def outputs(tile: int) -> dict[str, np.ndarray]:
    spec = PLAN.blocks[0].cut[0]
    return {spec.name: np.zeros(part_shape(spec, PLAN.blocks[0].tiles[tile].outputs[spec.name]), spec.dtype)}


class Source:
    """The tiles of a frame at its source, and what it asks for."""

    def __init__(self, rates: Rates = PAYS) -> None:
        self.tiles, self.overlaps, self.rates = TileQueue(), Overlaps("edge1", TRADE), rates
        self.tiles.add(FRAME, [(FRAME, 0, tile) for tile in PLAN.blocks[0].order])

    def done(self, *tiles: int) -> None:
        self.tiles.accept(FRAME, 0, tiles, False)

    def lend(self, thief: str, ahead: bool = False, now: float = 0.0) -> tuple[int, list[Ask]]:
        keep = self.overlaps.keep(self.tiles, FRAME, 0, self.rates)
        key = self.tiles.lend(thief, f"{thief}{now}", ahead, now, 1e3, None, keep)
        assert key is not None
        effort = PLAN.blocks[0].tiles[key[2]].effort
        steal = m.Steal(**GATEWAY, plan=PLAN.digest(), thief=thief, thief_epoch="22222222", request="0000000a", ahead=ahead)
        return key[2], self.overlaps.lent(key, steal, effort, self.rates, now)

    def asks(self, now: float = 0.0) -> list[Ask]:
        return self.overlaps.asks(self.tiles, 0, lambda node: self.rates, now)


def test_tiles_that_depend_on_unfinished_ones_are_lent_last_and_others_as_well_as_any() -> None:
    source = Source()
    source.tiles.take(0.0)
    source.done(2, 4, 8)
    assert PLAN.blocks[0].order == (0, 2, 6, 8, 4, 1, 3, 5, 7)
    assert source.lend("edge2")[0] == 5, "its makers 2, 4 and 8 are done; 7 lacks 6"
    assert source.overlaps.keep(source.tiles, FRAME, 0, PAYS) == {1, 3, 7}
    assert source.overlaps.keep(source.tiles, FRAME, 0, SLOW) == {1, 3, 5, 7}, "where strips do not travel: all that take"


def test_strips_are_asked_for_once_when_all_makers_are_done_and_somebody_else_is_at_work() -> None:
    source = Source()
    source.done(0, 2, 4)
    assert source.asks() == [], "nobody else has a tile"
    assert source.lend("edge2")[0] == 1
    source.done(8)
    assert source.asks() == [Ask(FRAME, 5, None)], "1 has begun, 3 and 7 lack 6"
    assert source.asks(9.0) == []


def test_where_it_does_not_pay_nothing_is_asked_for() -> None:
    for rates in (SLOW, Rates(0.0, 1e9), Rates(1e6, 0.0)):
        source = Source(rates)
        source.done(0, 2, 4, 6)
        source.lend("edge2")
        assert source.asks() == []
        assert source.overlaps.takers(4, lambda tile: Waiting(), rates) == ()
    assert source.overlaps.takers(4, lambda tile: Waiting(), PAYS) == (1, 3, 5, 7)
    states: dict[int, State] = {1: Waiting(), 3: Lent((Lease("edge2", "r", 9.0),)), 5: Done(), 7: Computing()}
    assert source.overlaps.takers(4, lambda tile: states[tile], PAYS) == (1, 3)


def test_who_asked_ahead_gets_strips_while_it_computes_another_tile_and_not_when_it_has_begun() -> None:
    source = Source()
    source.done(0, 2, 4)
    assert source.lend("edge2", now=0.0)[0] == 1
    source = Source()
    assert source.lend("edge2", now=0.0)[0] == 4
    source.done(0, 2, 6, 8)
    tile, _ = source.lend("edge2", ahead=True, now=0.1)
    assert tile == 7
    source.done(4)
    assert Ask(FRAME, 7, "edge2") in source.asks(TILE_S / 2)
    late = Source()
    late.lend("edge2", now=0.0)
    late.done(0, 2, 6, 8)
    late.lend("edge2", ahead=True, now=0.1)
    late.done(4)
    assert Ask(FRAME, 7, "edge2") not in late.asks(TILE_S * 2)


def test_who_begins_at_once_gets_strips_only_if_they_must_be_in_the_pool() -> None:
    travel_s = TRADE.bytes(3) / PAYS.bytes_s
    for wait_s, arrived in ((0.5 * travel_s, False), (1.5 * travel_s, True)):
        source = Source()
        source.tiles.take(0.0)
        assert [source.lend(f"edge{n}")[0] for n in (2, 3, 4)] == [4, 8, 6]
        source.done(0, 4, 6)
        assert source.asks(1.0) == [Ask(FRAME, 3, None)]
        tile, asks = source.lend("edge3", now=1.0 + wait_s)
        assert tile == 3 and asks == ([Ask(FRAME, 3, "edge3")] if arrived else [])


def test_the_next_tile_of_the_own_engine_gets_what_is_not_here() -> None:
    source = Source()
    source.lend("edge2")
    source.done(0, 2, 6, 8, 4)
    source.overlaps.begin(FRAME, 0, PLAN.blocks[0].tiles[0].effort, PAYS, 0.0)
    assert source.tiles.next == (FRAME, 0, 1)
    assert Ask(FRAME, 1, "edge1") in source.asks(0.1)
    for maker in (0, 2, 4):
        source.overlaps.made(FRAME, maker, made(maker))
    here = Source()
    here.lend("edge2")
    here.done(0, 2, 6, 8, 4)
    here.overlaps.begin(FRAME, 0, PLAN.blocks[0].tiles[0].effort, PAYS, 0.0)
    for maker in (0, 2, 4):
        here.overlaps.made(FRAME, maker, made(maker))
    assert not [ask for ask in here.asks(0.1) if ask.taker == 1], "all is here"


def test_what_was_made_is_published_once_and_never_for_the_own_use() -> None:
    overlaps = Overlaps("edge2", TRADE)
    overlaps.made(FRAME, 4, made(4))
    assert overlaps.answer(Ask(FRAME, 1, "edge2")) == []
    (strip,) = overlaps.answer(Ask(FRAME, 1, "edge3"))
    assert (strip.frame, strip.layer, strip.tile, strip.maker) == (FRAME, 0, 1, 4)
    TRADE.check(1, 4, strip.tensors)
    assert overlaps.answer(Ask(FRAME, 1, "edge4")) == []
    overlaps.restart()
    assert len(overlaps.answer(Ask(FRAME, 1, None))) == 1, "the pool is empty"
    overlaps.end(FRAME)
    overlaps.restart()
    assert overlaps.answer(Ask(FRAME, 1, None)) == []


def test_strips_that_came_are_taken_with_the_tile_and_late_and_repeated_ones_are_counted() -> None:
    overlaps = Overlaps("edge2", TRADE)
    for maker in (0, 2, 0):
        overlaps.hear(Strip(FRAME, 0, 1, maker, strips(TRADE, 1, maker)))
    assert overlaps.counts["strip repeated"] == 1
    reuse, come = overlaps.begin(FRAME, 1, 10, PAYS, 0.0)
    assert reuse and set(come) == {0, 2} and overlaps.counts["strips late"] == 1
    overlaps.hear(Strip(FRAME, 0, 1, 4, strips(TRADE, 1, 4)))
    assert overlaps.counts["strip came too late"] == 1
    assert overlaps.begin(FRAME, 1, 10, PAYS, 0.0) == (False, {}), "a tile that is computed again is computed plainly"
    with pytest.raises(DecodeError):
        overlaps.hear(Strip(FRAME, 0, 1, 4, {}))


def test_a_thief_makes_strips_where_the_source_says_that_somebody_may_want_them() -> None:
    overlaps = Overlaps("edge2", TRADE)
    assert overlaps.begin(FRAME, 4, 10, PAYS, 0.0) == (False, {})
    overlaps.want(FRAME, (1, 3))
    assert overlaps.begin(FRAME, 8, 10, PAYS, 0.0) == (False, {}), "8 gives to 5 and 7"
    assert overlaps.begin(FRAME, 4, 10, PAYS, 0.0) == (True, {})


def test_frames_that_a_thief_never_hears_of_again_do_not_pile_up() -> None:
    overlaps = Overlaps("edge2", TRADE)
    for number in range(200):
        frame = f"edge1.11111111.{number}"
        overlaps.want(frame, (1,))
        overlaps.made(frame, 4, made(4))
    assert len(overlaps._frames) <= 64
    assert overlaps._made.nbytes <= 6 * sum(a.nbytes for given in made(4).values() for a in given.values())


def edge(name: str = "edge1", camera: bool = True, plan: Plan = PLAN, helpers: int = 1) -> EdgeNode:
    node = EdgeNode(name, "11111111" if camera else "22222222", plan, "test kernels", camera=camera, trade=TRADE)
    node.flops_s, node.bytes_s = PAYS
    node.connected(0.0)
    echo = m.Echo(**GATEWAY, seq=1, to_epoch=node.epoch, plan=node.digest, cameras=1, helpers=helpers)
    node.hear(heard(topics.ECHO, echo), 0.0)
    return node


@pytest.mark.parametrize(("nodes", "share"), [(1, 1.0), (2, 1.0), (4, 0.5), (5, 0.4)])
def test_the_more_nodes_share_the_brokers_link_the_more_a_strip_must_save(nodes: int, share: float) -> None:
    plan = make_plan(Partition(build("mini", 96)), "0" * 32, (4, 4), "max3")[0]
    assert edge(plan=plan, helpers=nodes - 1)._rates(None) == Rates(PAYS.flops_s, PAYS.bytes_s * share)
    assert edge(plan=plan, helpers=5)._rates(None) == (0.0, 0.0), "three tiles for each node, or none travels"


def work(said: Any) -> Compute | None:
    return next((action for action in said if isinstance(action, Compute)), None)


def test_strips_flow_from_a_source_s_giver_through_the_pool_to_a_thief_s_taker() -> None:
    source, thief = edge(), edge("edge2", camera=False)
    first = work(source.frame(IMAGE, 1.0))
    assert first is not None and first.reuse
    steal = m.Steal(**GATEWAY, plan=PLAN.digest(), thief="edge2", thief_epoch="22222222", request="0000000a")
    (tile,) = published(source.hear(heard(topics.STEAL, steal), 1.0), topics.TILE)
    assert tile.message.tile == 4 and tile.message.takers == (1, 3, 5, 7)
    source.computed(first.key, outputs(0), 0.1, 1.1, strips=made(0))
    others = m.Accepted(**GATEWAY, frame=FRAME, tiles=(2, 6, 8))
    source.hear(heard(topics.ACCEPTED, others), 1.2)
    said = source.hear(heard(topics.ACCEPTED, m.Accepted(**GATEWAY, frame=FRAME, tiles=(4,))), 1.3)
    assert [a.message.to for a in published(said, topics.OVERLAP_REQ)] == ["edge1"], "nobody else is at work any more"
    ahead = steal.model_copy(update={"request": "0000000b"})
    said = source.hear(heard(topics.STEAL, ahead), 1.4)
    asked = published(said, topics.OVERLAP_REQ)
    assert asked and all(a.message.to is None or a.message.to == "edge1" for a in asked)
    (strip,) = [s for s in published(said, topics.OVERLAP) if s.message.tile == 3]
    assert strip.message.maker == 0 and strip.levels == {"layer": 0, "tile": 3}
    pooled = m.OverlapHeader(**GATEWAY, plan=PLAN.digest(), frame=FRAME, layer=0, tile=3, maker=0)
    thief.hear(heard(topics.STRIPS, pooled, strip.tensors), 1.5)
    reuse, come = thief.overlaps.begin(FRAME, 3, 10, PAYS, 1.6)
    assert reuse and set(come) == {0}


def test_a_maker_answers_the_source_s_question_and_a_thief_that_has_strips_takes_them() -> None:
    thief = edge("edge2", camera=False)
    (ask,) = published(thief.tick(5.0), topics.VICTIM_REQ) or published(thief.tick(9.0), topics.VICTIM_REQ)
    tile = PLAN.blocks[0].tiles[1]
    for maker in TRADE.makers(1):
        pooled = m.OverlapHeader(**GATEWAY, plan=PLAN.digest(), frame=FRAME, layer=0, tile=1, maker=maker)
        thief.hear(heard(topics.STRIPS, pooled, strips(TRADE, 1, maker)), 9.1)
    pixels = {name: IMAGE[:, r.y0 : r.y1, r.x0 : r.x1] for name, r in tile.inputs.items()}
    header = m.TileHeader(
        node="edge1", epoch="11111111", plan=PLAN.digest(), to_epoch="22222222", request=ask.message.request,
        frame=FRAME, tile=1, lease_s=5.0, takers=(),
    )  # fmt: skip
    computing = work(thief.hear(heard(topics.TILE, header, pixels), 9.2))
    assert computing is not None and computing.reuse and computing.strips.keys() == TRADE.makers(1)
    thief.computed(computing.key, outputs(1), 0.1, 9.3)
    thief.overlaps.made(FRAME, 4, made(4))
    lacks = m.OverlapRequest(node="edge1", epoch="11111111", plan=PLAN.digest(), frame=FRAME, layer=0, tile=3, to="edge3")
    (strip,) = published(thief.hear(heard(topics.OVERLAP_REQ, lacks), 9.4), topics.OVERLAP)
    assert strip.message.maker == 4 and strip.levels == {"layer": 0, "tile": 3}


def test_strips_of_another_frame_are_not_taken() -> None:
    overlaps = Overlaps("edge2", TRADE)
    overlaps.hear(Strip(FRAME, 0, 1, 0, strips(TRADE, 1, 0)))
    assert overlaps.begin("edge1.11111111.1", 1, 10, PAYS, 0.0) == (False, {})


def test_a_node_publishes_again_for_a_gateway_that_has_restarted_and_forgets_with_the_frame() -> None:
    node = edge()
    first = work(node.frame(IMAGE, 1.0))
    assert first is not None
    node.computed(first.key, outputs(0), 0.1, 1.1, strips=made(0))
    lacks = m.OverlapRequest(node="edge2", epoch="22222222", plan=PLAN.digest(), frame=FRAME, layer=0, tile=1)
    assert len(published(node.hear(heard(topics.OVERLAP_REQ, lacks), 1.2), topics.OVERLAP)) == 1
    assert not published(node.hear(heard(topics.OVERLAP_REQ, lacks), 1.3), topics.OVERLAP)
    later = {"node": "gateway", "epoch": "bbbbbbbb"}
    echo = m.Echo(**later, seq=2, to_epoch=node.epoch, plan=node.digest, cameras=1, helpers=1)  # type: ignore[arg-type]
    node.hear(heard(topics.ECHO, echo), 1.4)
    assert len(published(node.hear(heard(topics.OVERLAP_REQ, lacks), 1.5), topics.OVERLAP)) == 1
    node.hear(heard(topics.ACCEPTED, m.Accepted(**later, frame=FRAME, ended=True)), 1.6)  # type: ignore[arg-type]
    assert node.overlaps._made.nbytes == 0 and not node.overlaps.answer(Ask(FRAME, 1, None))
