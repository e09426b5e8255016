import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.dashboard.record import BUCKETS_S, Latencies, Recorder, Snapshot
from gateway_agent.dashboard.views import reason_class, says
from schemas.contract.results import Detection, Result
from tests.gateway_agent.dashboard.played import NODES, Played

WALL = 1000.0


class Scene:
    """A played cluster and its recorder."""

    def __init__(self) -> None:
        self.played = Played()
        self.recorder = Recorder(self.played.board)

    def frame(self, now: float, latency_s: float = 0.2, reason: str = "") -> Any:
        outcome = self.played.frame(now, latency_s, reason)
        self.recorder.outcome(outcome, now, WALL)
        return outcome

    def look(self, now: float) -> Snapshot:
        return self.recorder.snapshot(self.played.controls, self.played.bundle, {"version": "1"}, now, WALL)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_empty_board_is_shown_as_empty(scene: Scene) -> None:
    state = scene.look(1.0).state
    assert state["nodes"] == state["sources"] == state["flows"] == []
    assert state["totals"]["frames"] == 0 and state["totals"]["latency_s"] is None
    assert json.loads(json.dumps(state)) == state


def test_the_quickest_frame_is_that_of_this_plan_and_these_nodes(scene: Scene) -> None:
    scene.played.join(1.0)
    for latency_s in (0.3, 0.2, 0.4):
        scene.frame(2.0, latency_s)
    assert scene.look(3.0).best_s == 0.2
    scene.frame(4.0, 0.1)
    assert scene.look(5.0).best_s == 0.1
    scene.played.board.forget("edge3")
    assert scene.look(6.0).best_s == float("inf")
    scene.frame(7.0, 0.5)
    assert scene.look(8.0).best_s == 0.5


def test_stolen_tiles_flow_from_their_camera_to_each_thief(scene: Scene) -> None:
    scene.played.join(1.0)
    for i in range(4):
        scene.frame(2.0 + i)
    state = scene.look(6.0).state
    assert [(f["from"], f["to"], f["tiles"]) for f in state["flows"]] == [
        ("edge1", "edge2", 12),
        ("edge1", "edge3", 12),
    ]
    assert all(f["rate"] > 0 for f in state["flows"])
    assert [n["name"] for n in state["nodes"]] == list(NODES)
    assert sum(n["computed"] for n in state["nodes"]) == state["totals"]["tiles"] == 36
    scene.played.board.forget("edge3")
    assert [f["to"] for f in scene.look(7.0).state["flows"]] == ["edge2"]


def test_a_frame_tells_which_node_computed_which_tile_when(scene: Scene) -> None:
    scene.played.join(1.0)
    outcome = scene.frame(5.0, 0.2)
    (entry,) = scene.look(5.0).frames
    frame = json.loads(entry.json)
    assert frame["frame"] == outcome.frame and frame["number"] == entry.number == 1 and frame["at"] == 5.0 + WALL
    assert [(tile, node, stolen) for tile, node, stolen, _, _ in frame["tiles"]] == [
        (i, NODES[i % 3], i % 3 != 0) for i in range(9)
    ]
    assert all(0 <= start < end <= frame["latency_s"] for *_, start, end in frame["tiles"])


def test_boxes_are_shown_with_the_picture_of_their_own_frame_only(scene: Scene) -> None:
    scene.played.join(1.0)
    first = scene.frame(2.0)
    scene.frame(3.0)  # a picture comes later than its frame's outcome
    scene.played.picture(first)
    scene.recorder.pictured(first.frame)
    snapshot = scene.look(3.0)
    shown = snapshot.state["sources"][0]["picture"]
    assert shown["frame"] == first.frame == snapshot.pictures["edge1"].outcome.frame
    assert (shown["width"], shown["height"]) == (640, 480) and shown["seen"]["detections"][0]["label"] == "7"


def test_a_failed_frame_degrades_its_camera_and_keeps_the_last_good_picture(scene: Scene) -> None:
    scene.played.join(1.0)
    good = scene.frame(2.0)
    scene.played.picture(good)
    scene.recorder.pictured(good.frame)
    scene.frame(3.0, reason="deadline passed with 2 of 9 tiles")
    snapshot = scene.look(3.0)
    source = snapshot.state["sources"][0]
    assert source["degraded"].startswith("deadline passed") and source["failed"] == 1
    assert source["picture"]["frame"] == good.frame
    assert snapshot.failures == {("edge1", "deadline"): 1}
    assert json.loads(snapshot.frames[-1].json)["status"] == "failed"
    assert json.loads(snapshot.events[-1].json)["kind"] == "failed"


def test_the_plan_is_told_again_only_when_it_or_a_size_of_picture_is_new(scene: Scene) -> None:
    assert scene.look(1.0).plan is scene.look(2.0).plan
    before = scene.look(2.0).plan
    scene.played.join(2.0)
    scene.frame(3.0)
    after = scene.look(3.0).plan
    assert after.number == before.number + 1 and scene.look(4.0).plan is after
    view = json.loads(after.json)["views"]["640x480"]
    assert len(view["shares"]) == len(view["halos"]) == 9
    for (x0, y0, x1, y1), (a0, b0, a1, b1) in zip(view["shares"], view["halos"]):
        assert a0 <= x0 < x1 <= a1 and b0 <= y0 < y1 <= b1
    area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in view["shares"])
    assert area == pytest.approx(640 * 480, rel=0.01)


@given(st.lists(st.floats(0.0, 100.0), max_size=30))
def test_every_latency_is_in_the_bucket_whose_bounds_hold_it(latencies: list[float]) -> None:
    made = Latencies()
    for latency_s in latencies:
        made.add(latency_s)
    upper = 0
    for i, bound in enumerate(BUCKETS_S):
        upper += made.counts[i]
        assert upper == sum(latency_s <= bound for latency_s in latencies)
    assert sum(made.counts) == len(latencies) and made.sum_s == pytest.approx(sum(latencies))


def test_a_reason_becomes_one_of_few_words() -> None:
    assert reason_class("source lost with 2 of 9 tiles") == "source lost"
    assert reason_class("model error on edge2: invoke failed at node 17") == "model error"
    assert reason_class("never seen before") == "other"


def test_what_is_seen_is_said_in_few_words() -> None:
    def box(label: str, x: float) -> Detection:
        return Detection(label=label, index=1, score=0.9, box=(x, 10.0, x + 10, 30.0))

    assert says(Result(task="detect", detections=(box("4", 20), box("2", 32)))) == "reads 42"
    assert (
        says(Result(task="detect", detections=(box("person", 1), box("dog", 40), box("person", 80)))) == "2 person, dog"
    )
    assert says(Result(task="detect")) == "nothing seen"
