"""Lanes: tiles on their way through several blocks, on nodes that exchange what their neighbours need."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.lanes import FIRST_WANT_S, FRAMES, Lanes, Part, Tensors, Want, weights
from models.tiling.tensor import crop
from schemas.contract.errors import DecodeError
from schemas.contract.plan import Plan, TensorSpec
from tests.examples import examples
from tests.nodes import blocks_plan, whole_plan
from tests.simulation.pictures import EVERYTHING, FILTERS, PIPELINE, lanes_plan

PLAN, WHOLE = blocks_plan(), whole_plan()
LAST, SPREAD = len(PLAN.blocks) - 1, 2
TILES = range(len(PLAN.blocks[0].tiles))
FRAME = "edge1-11111111-0"


def truth(spec: TensorSpec) -> np.ndarray:
    """A map whose every element is different, also from those of other tensors."""
    start = sum(map(ord, spec.name)) * 100_000
    return np.arange(start, start + int(np.prod(spec.shape))).astype(spec.dtype).reshape(spec.shape)


def made(block: int, tile: int, plan: Plan = PLAN) -> Tensors:
    boxes = plan.blocks[block].by_home[tile].outputs
    return {spec.name: crop(truth(spec), boxes[spec.name]) for spec in plan.blocks[block].cut}


def expected(block: int, tile: int, plan: Plan = PLAN) -> Tensors:
    task = plan.task(block, tile)
    return {spec.name: crop(truth(spec), task.inputs[spec.name]) for spec in plan.blocks[block].inputs} if task else {}


class Node:
    """What an edge does with its lanes; the engine answers with the true maps."""

    def __init__(self, tiles: list[int], now: float = 0.0, plan: Plan = PLAN) -> None:
        self.lanes, self.done, self.plan = Lanes(plan), set[int](), plan
        for tile in tiles:
            self.lanes.start(FRAME, tile, expected(0, tile, plan), now)

    def work(self, now: float) -> list[Part]:
        said: list[Part] = []
        while taken := self.lanes.take():
            (frame, block, tile), inputs = taken
            wanted = expected(block, tile, self.plan)
            assert inputs.keys() == wanted.keys() and all((inputs[n] == wanted[n]).all() for n in wanted)
            said += self.lanes.computed((frame, block, tile), made(block, tile, self.plan), now)
            if self.lanes.ends(tile, block):
                assert (frame, tile) not in self.lanes
                self.done.add(tile)
        return said


@examples(200)
@given(st.data(), st.sampled_from([PLAN, WHOLE, *(lanes_plan(blocks) for blocks in (FILTERS, PIPELINE, EVERYTHING))]))
def test_every_tile_gets_exactly_its_inputs_whoever_computes_the_others_and_whatever_is_lost(
    data: st.DataObject, plan: Plan
) -> None:
    lanes = range(plan.lanes)
    holders = data.draw(st.lists(st.integers(0, 3), min_size=len(lanes), max_size=len(lanes)))
    nodes = [Node([t for t in lanes if holders[t] == n], plan=plan) for n in range(4)]
    flights: list[tuple[int, Part]] = []

    def publish(sender: int, strips: list[Part]) -> None:
        flights.extend((to, strip) for strip in strips for to in {holders[strip.tile]} - {sender})

    for n, node in enumerate(nodes):
        publish(n, node.work(0.0))
    for _ in range(data.draw(st.integers(0, 30))):  # lost, repeated or delivered in any order
        if flights:
            to, strip = flights.pop(data.draw(st.integers(0, len(flights) - 1)))
            for _ in range(data.draw(st.integers(0, 2))):
                nodes[to].lanes.hear(strip)
            publish(to, nodes[to].work(0.0))
    flights.clear()
    for now in range(1, 40):  # faults stop; what is missing is asked for and comes
        for n, node in enumerate(nodes):
            for want in node.lanes.wants(float(now * 10)):
                for other in nodes:
                    for strip in other.lanes.again(want) if other is not node else []:
                        node.lanes.hear(strip)
            publish(n, node.work(float(now * 10)))
        for to, strip in flights:
            nodes[to].lanes.hear(strip)
        flights.clear()
    assert sorted(t for node in nodes for t in node.done) == list(lanes)


def test_strips_between_lanes_of_one_node_never_travel() -> None:
    assert Node(list(TILES)).work(0.0) == []


def test_strips_for_a_tile_that_is_elsewhere_or_waits_are_published_once() -> None:
    said = Node([0]).work(0.0)
    assert said and len({(s.layer, s.tile) for s in said}) == len(said)
    assert 0 not in {s.tile for s in said}


def test_a_node_that_takes_a_lane_over_gets_its_neighbours_parts_from_those_who_made_them() -> None:
    others, late = Node([t for t in TILES if t != 3]), Node([3])
    said = others.work(0.0) + late.work(0.0)
    dead = Lanes(PLAN)  # lane 3's first node died; this one begins again and hears nothing of what was said before
    dead.start(FRAME, 3, expected(0, 3), 1.0)
    again = Node([])
    again.lanes = dead
    assert again.work(1.0) and not again.done
    (want,) = again.lanes.wants(1.0 + FIRST_WANT_S)
    assert want == Want(FRAME, 0, 3)
    for strip in others.lanes.again(want):
        again.lanes.hear(strip)
    for strip in (s for s in again.work(2.0) + said if s.tile != 3):
        others.lanes.hear(strip)
    said = others.work(2.0)
    for strip in said:
        again.lanes.hear(strip)
    again.work(2.0)
    assert others.done | again.done == set(TILES)


def test_a_lane_asks_ever_less_often_and_is_told_as_stuck_in_time() -> None:
    node = Node([0])
    node.work(0.0)
    asked = [t / 10 for t in range(100) if node.lanes.wants(t / 10)]
    assert asked == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert node.lanes.stuck(9.9, 10.0) == []
    assert node.lanes.stuck(10.0, 10.0) == [(FRAME, 0)]
    assert (FRAME, 0) not in node.lanes and node.lanes.deadline() is None


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s._replace(maker=s.tile + 40),
        lambda s: s._replace(layer=LAST),
        lambda s: s._replace(tensors={}),
        lambda s: s._replace(tensors={**s.tensors, "more": np.zeros((1, 1, 1, 1), np.float32)}),
        lambda s: s._replace(tensors={n: a[:, 1:] for n, a in s.tensors.items()}),
        lambda s: s._replace(tensors={n: a.astype(np.float64) for n, a in s.tensors.items()}),
    ],
)
def test_parts_that_the_plan_does_not_know_are_refused(change: object) -> None:
    strip = Node([0]).work(0.0)[0]
    with pytest.raises(DecodeError):
        Lanes(PLAN).check(change(strip))  # type: ignore[operator]


def test_parts_of_few_frames_are_remembered() -> None:
    strip, lanes = Node([0]).work(0.0)[0], Lanes(PLAN)
    for number in range(2 * FRAMES):
        lanes.hear(strip._replace(frame=f"edge1-11111111-{number}"))
    known = [n for n in range(2 * FRAMES) if lanes.again(Want(f"edge1-11111111-{n}", 0, strip.tile))]
    assert known == list(range(FRAMES, 2 * FRAMES))


def test_an_ended_frame_leaves_nothing() -> None:
    node = Node([0, 1])
    node.work(0.0)
    node.lanes.end(FRAME)
    assert len(node.lanes) == 0 and node.lanes.again(Want(FRAME, 0, 3)) == []


def test_only_what_is_lacked_is_published_again_and_what_was_used_is_forgotten() -> None:
    node = Node(list(TILES))
    node.work(0.0)
    every = [s for tile in TILES for s in node.lanes.again(Want(FRAME, 0, tile))]
    assert every == [], "all lanes have used what they had"
    one = Node([0])
    (target,) = {s.tile for s in one.work(0.0) if s.tile == 1}
    assert {s.layer for s in one.lanes.again(Want(FRAME, 0, target))} == {0}
    assert one.lanes.again(Want(FRAME, 1, target)) == []
    assert all(s.maker != 0 for s in one.lanes.again(Want(FRAME, 0, 0))), "a lane's own part is made where the lane is"


def test_where_a_block_is_executed_whole_lane_0_goes_on_and_the_others_end_with_their_parts_for_it() -> None:
    node, others = Node([0], plan=WHOLE), Node(list(TILES[1:]), plan=WHOLE)
    for strip in node.work(0.0):
        others.lanes.hear(strip)
    said = others.work(0.0)
    assert others.done == set(TILES[1:]) and len(others.lanes) == 0
    assert {s.tile for s in said if s.layer == SPREAD - 1} == {0}
    assert {s.maker for s in said if s.layer == SPREAD - 1} == set(TILES[1:])
    for strip in said:
        node.lanes.hear(strip)
    assert node.work(0.0) == [] and node.done == {0}, "what is whole has no halo"


def test_who_takes_lane_0_over_gets_the_parts_of_lanes_that_have_ended_from_those_who_made_them() -> None:
    node, others = Node([0], plan=WHOLE), Node(list(TILES[1:]), plan=WHOLE)
    for strip in node.work(0.0):
        others.lanes.hear(strip)
    others.work(0.0)
    late = Node([0], now=1.0, plan=WHOLE)
    late.work(1.0)
    for now in (2.0, 4.0):
        for want in late.lanes.wants(now):
            for strip in others.lanes.again(want):
                late.lanes.hear(strip)
        late.work(now)
    assert late.done == {0}


def test_a_block_that_is_executed_whole_amounts_to_several_tiles() -> None:
    assert weights(PLAN) == [1.0] * 3
    tiles = [tile.effort for block in WHOLE.blocks[:2] for tile in block.tiles]
    assert weights(WHOLE)[:2] == [1.0, 1.0]
    assert weights(WHOLE)[2] == pytest.approx(WHOLE.blocks[2].tiles[0].effort / (sum(tiles) / len(tiles)))
    small = WHOLE.blocks[3].model_copy(update={"tiles": (WHOLE.blocks[3].tiles[0].model_copy(update={"effort": 0}),)})
    assert weights(WHOLE.model_copy(update={"blocks": (*WHOLE.blocks[:3], small)}))[3] == 1.0


def test_lanes_that_need_the_same_of_a_task_get_one_copy_of_it() -> None:
    plan = lanes_plan(FILTERS)
    lanes, other = Lanes(plan), Lanes(plan)
    for tile, own in enumerate((lanes, other)):
        own.start("f", tile, {}, 0.0)
        assert own.take() is not None
    for part in other.computed(("f", 0, 1), made(0, 1, plan), 1.0):
        lanes.hear(part)
    lanes.computed(("f", 0, 0), made(0, 0, plan), 1.0)
    assert lanes.take() is not None
    given = [part.tensors for part in lanes.computed(("f", 1, 0), made(1, 0, plan), 1.0) if part.tile != 0]
    assert len(given) == 2 and all(one is same for one, same in zip(given[0].values(), given[1].values(), strict=True))
