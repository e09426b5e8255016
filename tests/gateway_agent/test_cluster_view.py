import pytest

from gateway_agent.cluster_view import OPEN, ClusterView, Rate
from gateway_agent.dashboard.views import node_view, totals
from schemas.contract import messages as m

HEAD = {"node": "edge1", "epoch": "11111111"}
FRAME = "edge1-11111111-0"


def register(**about: object) -> m.Register:
    return m.Register.model_validate({**HEAD, "seq": 1, "runtime": "test", "camera": True, **about})


def ended(frame: str = FRAME, **about: object) -> m.Outcome:
    values = {"node": "gateway", "epoch": "aaaaaaaa", "frame": frame, "status": "ok", "latency_s": 0.5, **about}
    return m.Outcome.model_validate(values)


def result(tile: int, node: str = "edge1", compute_s: float = 0.1, frame: str = FRAME) -> m.ResultHeader:
    return m.ResultHeader(
        node=node, epoch="11111111", plan="0" * 32, frame=frame, block=0, tile=tile, compute_s=compute_s,
        stolen=node != "edge1",
    )  # fmt: skip


def test_a_failed_frame_degrades_its_source_until_the_next_result() -> None:
    board = ClusterView()
    board.hear(register(), 0.0)
    board.outcome(ended(), 1.0)
    assert board.sources["edge1"].degraded == ""
    for number in (1, 2):
        board.outcome(ended(f"edge1-11111111-{number}", status="failed", reason="source lost"), 2.0)
    view = board.sources["edge1"]
    assert (view.degraded, view.failed, view.frames) == ("source lost", 2, 1)
    assert view.seen is not None and view.seen.frame == FRAME
    board.outcome(ended("edge1-11111111-3"), 3.0)
    assert view.degraded == ""
    assert [event.kind for event in board.events] == ["failed", "recovered"]  # told once, not for every frame


def test_a_node_comes_goes_and_comes_again() -> None:
    board = ClusterView()
    board.hear(register(), 0.0)
    for now, nodes in ((0.0, {"edge1"}), (1.0, {"edge1"}), (5.0, set[str]()), (9.0, {"edge1"})):
        board.alive(nodes, now)
    assert [(event.kind, event.at) for event in board.events] == [("joined", 0.0), ("left", 5.0), ("joined", 9.0)]
    assert board.online == ("edge1",)
    assert [event.number for event in board.events] == [1, 2, 3]


def test_a_node_that_fetches_its_model_is_not_here_yet_and_shows_how_much_it_has() -> None:
    board = ClusterView()
    board.hear(m.Status.model_validate({**HEAD, "fetched": 0.25}), 1.0)
    shown = [node_view(board.nodes["edge1"], now, 0.0)["fetched"] for now in (1.0, 30.0, 31.0)]
    assert shown == [0.25, 0.25, None] and totals(board, 1.0)["fetching"] == 1 and totals(board, 31.0)["fetching"] == 0
    board.alive({"edge1"}, 2.0)
    assert node_view(board.nodes["edge1"], 2.0, 0.0)["fetched"] is None and totals(board, 2.0)["fetching"] == 0


def test_a_restarted_node_shows_no_counters_of_its_former_life() -> None:
    board = ClusterView()
    board.hear(register(), 0.0)
    board.hear(m.Status.model_validate({**HEAD, "computed": 7}), 0.0)
    board.hear(register(), 1.0)
    assert board.nodes["edge1"].status is not None
    board.hear(register(epoch="22222222"), 2.0)
    assert board.nodes["edge1"].status is None


def test_a_timeline_has_the_first_result_of_every_tile() -> None:
    board = ClusterView()
    board.hear(register(frames=[FRAME]), 10.0)
    board.hear(result(0, compute_s=0.25), 10.5)
    board.hear(result(1, node="edge2"), 11.0)
    board.hear(result(1), 12.0)  # repeated
    board.outcome(ended(computed={"edge1": 1, "edge2": 1}, stolen={"edge2": 1}), 12.5)
    (timeline,) = board.timelines
    first, second = timeline.spans
    assert (first.tile, first.node, first.stolen) == (0, "edge1", False)
    assert (first.start, first.end) == pytest.approx((0.25, 0.5))
    assert (second.node, second.stolen) == ("edge2", True)
    assert second.end == pytest.approx(1.0)
    assert (board.tiles, board.stolen) == (2, 1)


def test_frames_that_never_end_are_forgotten() -> None:
    board = ClusterView()
    for number in range(OPEN + 10):
        board.hear(result(0, frame=f"edge1-11111111-{number}"), float(number))
    board.outcome(ended(), 999.0)
    assert board.timelines[-1].spans == ()
    board.outcome(ended(f"edge1-11111111-{OPEN + 9}"), 999.0)
    assert len(board.timelines[-1].spans) == 1


def test_a_rate_counts_the_window_and_not_what_was_before() -> None:
    rate = Rate(10.0)
    assert rate.per_second(0.0) == 0.0
    for now in range(20):
        rate.count(float(now))
    assert rate.per_second(20.0) == pytest.approx(0.9)  # 11 to 19, over 10 s
    assert rate.per_second(100.0) == 0.0


def test_a_rate_that_nobody_looks_at_forgets_what_is_past() -> None:
    rate = Rate(10.0)
    for second in range(1000):
        rate.count(float(second))
    assert len(rate._times) == 10


def test_a_young_rate_is_over_the_time_since_its_start() -> None:
    rate = Rate(30.0)
    for tenth in range(20):
        rate.count(tenth / 10)
    assert rate.per_second(2.0) == pytest.approx(10.0)


def test_what_is_forgotten_is_not_shown() -> None:
    board = ClusterView()
    board.hear(register(), 0.0)
    board.forget("edge1")
    assert not board.nodes and not board.sources
