"""One request open at a time, at most one tile for each."""

import itertools

import pytest

from edge_agent.thief import REMEMBERED, Ask, Thief


@pytest.fixture
def thief() -> Thief:
    ids = itertools.count(1)
    return Thief(lambda: f"r{next(ids)}")


def test_an_idle_thief_asks_once_and_again_after_four_seconds(thief: Thief) -> None:
    assert thief.deadline() is None
    assert thief.poll(True, False, 0.0) == Ask("r1", False)
    assert thief.poll(True, False, 3.999) is None
    assert thief.deadline() == 4.0
    assert thief.poll(True, False, 4.0) == Ask("r1", False)


def test_a_request_that_was_forgotten_with_a_gateway_is_asked_again_at_once(thief: Thief) -> None:
    thief.repeat(0.0)
    assert thief.poll(True, False, 0.0) == Ask("r1", False)
    thief.repeat(1.0)
    assert thief.deadline() == 1.0 and thief.poll(True, False, 1.0) == Ask("r1", False)
    assert thief.poll(True, False, 1.1) is None and thief.deadline() == 5.0
    thief.poll(False, False, 2.0)
    thief.repeat(2.0)
    assert thief.deadline() is None, "what was withdrawn is not asked"


def test_a_tile_counts_once(thief: Thief) -> None:
    thief.poll(True, False, 0.0)
    assert thief.tile("r1")
    assert not thief.tile("r1")
    assert not thief.tile("from before the restart")
    assert thief.ignored["tile of no request"] == 2
    assert thief.deadline() is None


def test_with_a_tile_in_the_engine_the_next_is_asked_ahead_under_a_new_id(thief: Thief) -> None:
    thief.poll(True, False, 0.0)
    thief.tile("r1")
    assert thief.poll(True, True, 0.1) == Ask("r2", True)
    assert thief.poll(True, True, 0.2) is None


def test_a_request_ahead_is_repeated_at_once_when_the_engine_runs_dry(thief: Thief) -> None:
    thief.poll(True, True, 0.0)
    assert thief.poll(True, False, 0.1) == Ask("r1", False)
    assert thief.deadline() == 4.1


def test_none_backs_off_doubling_to_a_second_and_asks_under_a_new_id(thief: Thief) -> None:
    now, waits = 0.0, []
    for number in range(1, 8):
        assert thief.poll(True, False, now) == Ask(f"r{number}", False)
        thief.none(f"r{number}", now)
        wake = thief.deadline()
        assert wake is not None
        assert thief.poll(True, False, wake - 0.001) is None
        waits.append(round(wake - now, 9))
        now = wake
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_tile_resets_the_backoff(thief: Thief) -> None:
    thief.poll(True, False, 0.0)
    thief.none("r1", 0.0)
    thief.poll(True, False, 0.05)
    thief.tile("r2")
    assert thief.poll(True, True, 0.05) == Ask("r3", True)
    thief.none("r3", 1.0)
    assert thief.deadline() == 1.05


def test_a_tile_for_a_withdrawn_request_is_taken(thief: Thief) -> None:
    thief.poll(True, False, 0.0)
    assert thief.poll(False, True, 1.0) is None
    assert thief.deadline() is None
    assert thief.tile("r1")


def test_a_withdrawn_request_is_asked_again_under_its_id(thief: Thief) -> None:
    thief.poll(True, False, 0.0)
    thief.poll(False, True, 1.0)
    assert thief.poll(True, True, 1.5) == Ask("r1", True)


def test_a_tile_may_overtake_the_refusal_of_another_victim(thief: Thief) -> None:
    thief.poll(True, False, 0.0)
    thief.none("r1", 4.1)
    thief.poll(True, False, 5.0)
    assert thief.tile("r1")
    assert thief.tile("r2")


def test_a_refusal_that_comes_late_or_twice_changes_nothing(thief: Thief) -> None:
    thief.poll(True, False, 0.0)
    thief.none("r1", 0.0)
    thief.none("r1", 0.01)
    thief.none("r9", 0.01)
    assert thief.deadline() == 0.05
    assert thief.ignored["none of no request"] == 2


def test_only_the_last_refused_requests_are_remembered(thief: Thief) -> None:
    for number in range(1, REMEMBERED + 2):
        thief.poll(True, False, 10.0 * number)
        thief.none(f"r{number}", 10.0 * number)
    assert not thief.tile("r1")
    assert thief.tile("r2")


def test_a_thief_that_is_not_hungry_needs_no_waking(thief: Thief) -> None:
    thief.poll(True, False, 0.0)
    thief.none("r1", 0.0)
    thief.poll(False, True, 0.01)
    assert thief.deadline() is None
    assert thief.poll(False, True, 9.0) is None
