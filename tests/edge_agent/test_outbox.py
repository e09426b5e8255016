"""Results are published until they are accepted."""

from edge_agent.outbox import Outbox

A, B = "cam-0000000a-0", "cam-0000000a-1"


def test_a_result_is_due_at_once_and_then_ever_less_often() -> None:
    box = Outbox()
    box.put((A, 0, 0), 0.0)
    times = []
    for _ in range(6):
        due = box.deadline()
        assert due is not None
        assert box.due(due - 0.001) == []
        assert box.due(due) == [(A, 0, 0)]
        times.append(due)
    assert times == [0.0, 2.0, 6.0, 14.0, 22.0, 30.0]


def test_an_accepted_result_is_never_sent_again() -> None:
    box = Outbox()
    box.put((A, 0, 0), 0.0)
    box.put((A, 0, 1), 0.0)
    assert box.accept(A, 0, [0], ended=False) == [(A, 0, 0)]
    assert box.due(0.0) == [(A, 0, 1)]
    assert (A, 0, 0) not in box and len(box) == 1


def test_the_end_of_a_frame_drops_all_its_results_and_no_other() -> None:
    box = Outbox()
    box.put((A, 0, 0), 0.0)
    box.put((A, 1, 3), 0.0)
    box.put((B, 0, 0), 0.0)
    assert box.accept(A, 0, [], ended=True) == [(A, 0, 0), (A, 1, 3)]
    assert box.due(0.0) == [(B, 0, 0)]


def test_acceptance_of_what_is_not_held_is_counted() -> None:
    box = Outbox()
    assert box.accept(A, 0, [0], ended=False) == []
    assert box.ignored["accepted: not held"] == 1


def test_a_full_box_drops_the_oldest_result_and_says_so() -> None:
    box = Outbox(limit=2)
    assert box.put((A, 0, 0), 0.0) == [] and not box.full
    assert box.put((A, 0, 1), 0.0) == [] and box.full
    assert box.put((A, 0, 2), 0.0) == [(A, 0, 0)]
    assert box.dropped == 1 and len(box) == 2


def test_a_result_put_twice_keeps_its_backoff() -> None:
    box = Outbox()
    box.put((A, 0, 0), 0.0)
    box.due(0.0)
    box.put((A, 0, 0), 1.0)
    assert box.due(1.0) == [] and box.deadline() == 2.0


def test_after_a_restart_of_the_gateway_everything_is_due_at_once() -> None:
    box = Outbox()
    box.put((A, 0, 0), 0.0)
    box.due(0.0)
    box.due(2.0)
    box.requeue(3.0)
    assert box.due(3.0) == [(A, 0, 0)] and box.deadline() == 5.0
    assert Outbox().deadline() is None
