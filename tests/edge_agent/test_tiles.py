"""An edge's own tiles: taken from the front, lent from the back, kept until the frame has its outcome."""

import pytest

from edge_agent.tiles import NEVER, Computing, Done, Lease, Lent, Sent, TileQueue, Waiting
from schemas.contract.keys import LaneKey

A, B = "cam-0000000a-0", "cam-0000000a-1"


def key(tile: int, frame: str = A) -> LaneKey:
    return (frame, tile)


@pytest.fixture
def queue() -> TileQueue:
    """Two frames of three tiles; the plan's order of the first is 2, 0, 1."""
    queue = TileQueue()
    queue.add(A, [key(2), key(0), key(1)])
    queue.add(B, [key(0, B), key(1, B), key(2, B)])
    return queue


def test_the_engine_takes_the_oldest_frame_in_the_plans_order(queue: TileQueue) -> None:
    assert [queue.take(0.0) for _ in range(7)] == [key(2), key(0), key(1), key(0, B), key(1, B), key(2, B), None]


def test_a_thief_gets_the_last_tile_of_the_oldest_frame(queue: TileQueue) -> None:
    assert queue.lend("thief", "r1", False, 0.0, 10.0) == key(1)
    assert queue.lend("thief", "r2", False, 0.0, 10.0) == key(0)
    assert queue.state(key(1)) == Lent((Lease("thief", "r1", 10.0),))
    assert (queue.waiting, queue.lent) == (4, 2)


def test_a_repeated_request_gets_the_same_tile_under_the_same_lease(queue: TileQueue) -> None:
    first = queue.lend("thief", "r1", False, 0.0, 10.0)
    assert queue.lend("thief", "r1", False, 5.0, 10.0) == first
    assert queue.state(key(1)) == Lent((Lease("thief", "r1", 10.0),))
    assert queue.lent == 1 and queue.ignored["steal repeated"] == 1


def test_a_request_ahead_never_takes_the_last_waiting_tile(queue: TileQueue) -> None:
    for _ in range(5):
        queue.take(0.0)
    assert queue.lend("thief", "r1", True, 0.0, 10.0) is None
    assert queue.lend("thief", "r1", False, 0.0, 10.0) == key(2, B)


def test_expired_lease_is_queued_again(queue: TileQueue) -> None:
    queue.lend("thief", "r1", False, 1.0, 10.0)
    assert queue.deadline() == 11.0
    assert queue.expire(10.999) == []
    assert queue.expire(11.0) == [(key(1), "thief")]
    assert queue.state(key(1)) == Waiting() and queue.deadline() is None
    assert [queue.take(11.0) for _ in range(3)] == [key(2), key(0), key(1)]


@pytest.fixture
def late(queue: TileQueue) -> TileQueue:
    """The oldest frame is lent: tile 1 is late after 4 s, tile 0 after 3, tile 2 never; the other frame's are all late."""
    for request, overdue_s in (("r1", 4.0), ("r0", 3.0), ("r2", NEVER), *((f"b{i}", 1.0) for i in range(3))):
        assert queue.lend("thief", request, False, 0.0, 10.0, overdue_s=overdue_s)
    return queue


def test_what_is_late_is_lent_once_more_the_latest_first_and_only_of_the_oldest_frame(late: TileQueue) -> None:
    assert late.overdue_at("other") == 3.0 and late.overdue_at("thief") == NEVER
    assert late.lend_again("other", "x1", 2.999, 10.0) is None
    assert late.lend_again("thief", "r9", 9.0, 10.0) is None, "who has it gets it not again"
    assert [late.lend_again("other", f"x{i}", 5.0, 2.0) for i in range(3)] == [key(0), key(1), None]
    assert late.state(key(0)) == Lent((Lease("thief", "r0", 10.0, 3.0), Lease("other", "x0", 7.0)), again=True)
    assert late.overdue_at("third") == NEVER and late.deadline() == 7.0
    assert late.lend("other", "x0", False, 6.0, 10.0) == key(0) and late.ignored["steal repeated"] == 1


def test_each_of_two_leases_ends_by_itself_and_with_the_last_the_tile_waits_again(late: TileQueue) -> None:
    late.lend_again("other", "x0", 3.0, 2.0)
    assert late.expire(5.0) == [(key(0), "other")]
    assert late.state(key(0)) == Lent((Lease("thief", "r0", 10.0, 3.0),), again=True)
    assert late.lend_again("third", "y", 9.0, 10.0) == key(1), "no third run"
    assert (key(0), "thief") in late.expire(10.0)
    assert late.state(key(0)) == Waiting() and late.state(key(1)) == Lent((Lease("third", "y", 19.0),), again=True)
    late.hand_back(key(1), "thief")
    assert late.ignored["handed back: not lent"] == 1
    late.hand_back(key(1), "third")
    assert late.state(key(1)) == Waiting()


@pytest.mark.parametrize("how", ["accept", "requeue", "restart", "hand back"])
def test_a_tile_that_is_lent_twice_takes_every_other_way_out(late: TileQueue, how: str) -> None:
    late.lend_again("other", "x0", 3.0, 10.0)
    if how == "accept":
        late.accept(A, 0, [0], ended=False)
        late.hand_back(key(0), "other")
        assert late.state(key(0)) == Done() and late.overdue_at("other") == 4.0
    elif how == "hand back":
        late.hand_back(key(0), "thief")
        assert late.state(key(0)) == Lent((Lease("other", "x0", 13.0),), again=True)
        assert late.expire(12.999) and late.state(key(0)) is not None and late.expire(13.0) == [(key(0), "other")]
    else:
        late.requeue() if how == "requeue" else late.restart(A)
        assert late.state(key(0)) == Waiting() and late.lend("thief", "z", False, 5.0, 1.0) == key(1)


def test_a_tile_is_done_when_the_gateway_has_accepted_it(queue: TileQueue) -> None:
    assert queue.take(0.0) == key(2)
    assert queue.state(key(2)) == Computing()
    assert queue.computed(key(2))
    assert queue.state(key(2)) == Sent()
    queue.accept(A, 0, [2], ended=False)
    assert queue.state(key(2)) == Done()
    assert queue.frames == (A, B)


def test_a_frame_leaves_only_when_it_has_ended(queue: TileQueue) -> None:
    queue.accept(A, 0, [0, 1, 2], ended=False)
    assert list(queue.frames) == [A, B]
    queue.accept(A, 0, [], ended=True)
    assert list(queue.frames) == [B]
    assert queue.state(key(0)) is None


def test_a_tile_that_a_thief_finished_first_stays_done(queue: TileQueue) -> None:
    queue.take(0.0)
    queue.accept(A, 0, [2], ended=False)
    assert not queue.computed(key(2))
    assert queue.state(key(2)) == Done() and queue.ignored["computed too late"] == 1


def test_after_a_restart_of_the_gateway_what_is_not_in_hand_waits_again(queue: TileQueue) -> None:
    queue.take(0.0)
    queue.lend("thief", "r1", False, 0.0, 10.0)
    queue.accept(A, 0, [0], ended=False)
    queue.requeue()
    assert [queue.state(key(tile)) for tile in range(3)] == [Waiting(), Waiting(), Computing()]
    assert queue.deadline() is None


def test_a_result_in_the_outbox_is_not_computed_again_after_a_restart(queue: TileQueue) -> None:
    queue.take(0.0)
    queue.computed(key(2))
    queue.requeue()
    assert queue.state(key(2)) == Sent()


def test_a_result_that_the_outbox_dropped_is_computed_again(queue: TileQueue) -> None:
    queue.take(0.0)
    queue.computed(key(2))
    queue.put_back(key(2))
    assert queue.take(1.0) == key(2)


def test_late_and_unknown_messages_are_counted_and_change_nothing(queue: TileQueue) -> None:
    before = dict(queue.tiles)
    queue.accept("cam-0000000a-9", 0, [0], ended=True)
    queue.accept(A, 0, [7], ended=False)
    queue.put_back(("cam-0000000a-9", 0))
    queue.add(A, [key(0)])
    assert not queue.computed(("cam-0000000a-9", 0))
    assert dict(queue.tiles) == before
    assert queue.ignored.total() == 5


def test_a_lane_is_done_when_all_its_answers_are_accepted() -> None:
    queue = TileQueue([(0, 0), (2, 0), (2, 1)])
    queue.add(A, [key(0), key(1), key(2)])
    queue.accept(A, 2, [0, 1], ended=False)
    assert [queue.state(key(lane)) for lane in range(3)] == [Waiting(), Done(), Waiting()]
    queue.accept(A, 0, [0], ended=False)
    assert queue.state(key(0)) == Done()
    queue.requeue()
    queue.accept(A, 2, [0], ended=False)
    assert queue.state(key(0)) == Waiting(), "a gateway that restarted has forgotten the other one"


def test_a_thief_gets_the_tile_that_it_prefers_but_never_the_next_of_the_own_engine() -> None:
    queue = TileQueue()
    queue.add("cam-00000000-0", [("cam-00000000-0", tile) for tile in range(4)])
    assert queue.lend("thief", "r1", False, 0.0, 1.0, prefer=0) == ("cam-00000000-0", 3)
    assert queue.lend("thief", "r2", False, 0.0, 1.0, prefer=1) == ("cam-00000000-0", 1)


def test_tiles_that_are_cheaper_here_are_lent_last() -> None:
    queue = TileQueue()
    queue.add("cam-00000000-0", [("cam-00000000-0", tile) for tile in range(5)])
    lent = [queue.lend("thief", f"r{n}", False, 0.0, 1.0, keep={2, 4}) for n in range(4)]
    assert [key and key[1] for key in lent] == [3, 1, 4, 2]


def test_a_result_counts_though_its_frame_was_restarted_meanwhile(queue: TileQueue) -> None:
    assert queue.take(0.0) == key(2)
    queue.restart(key(2)[0])
    assert queue.computed(key(2)) and queue.state(key(2)) == Sent()
    assert not queue.computed(key(2)), "once"


def test_a_restarted_gateway_needs_all_tiles_of_a_frame_whose_tiles_need_each_other(queue: TileQueue) -> None:
    queue.accept(key(0)[0], 0, (0,), False)
    queue.take(0.0)
    queue.requeue(whole=True)
    assert queue.state(key(2)) == queue.state(key(0)) == Waiting()
