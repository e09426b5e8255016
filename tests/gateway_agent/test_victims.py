"""The ring gives each request to one victim, round robin, and parks what nobody can serve."""

import pytest

from gateway_agent.victims import DOUBT_S, Forward, VictimRing


@pytest.fixture
def ring() -> VictimRing:
    """Three nodes that live, none with a waiting tile."""
    ring = VictimRing()
    for node in "abc":
        ring.register(node, "e" + node, 0, 0.0)
    return ring


def pairs(forwards: list[Forward]) -> list[tuple[str, str]]:
    return [(f.thief, f.victim) for f in forwards]


def test_victims_are_picked_round_robin(ring: VictimRing) -> None:
    ring.register("a", "ea", 5, 0.0)
    ring.register("b", "eb", 5, 0.0)
    given = [pairs(ring.request("c", "ec", f"r{n}", False, 0.0)) for n in range(4)]
    assert given == [[("c", "a")], [("c", "b")], [("c", "a")], [("c", "b")]]
    assert ring.nodes["a"] == ring.nodes["b"] == 3


def test_who_says_that_tiles_wait_and_lends_none_is_not_believed_for_a_while(ring: VictimRing) -> None:
    given = []
    for n in range(20):
        ring.register("b", "eb", 999, float(n), priority=100)
        given += pairs(ring.request("c", "ec", f"r{n}", False, float(n)))
    assert given == [("c", "b")] * 3, "as many as may be under way"
    assert pairs(ring.register("a", "ea", 1, 20.0)) == [("c", "a")], "whose tiles are real is not kept waiting"
    ring.register("b", "fb", 999, 21.0, priority=100)  # a new epoch makes it no better
    assert pairs(ring.request("c", "ec", "s", False, 21.0)) == []
    assert pairs(ring.request("c", "ec", "t", False, 2.0 + DOUBT_S)) == [("c", "b")]
    ring.paid("a")
    ring.register("a", "ea", 1, 3.0 + DOUBT_S)
    ring._owes.clear()
    assert pairs(ring.request("c", "ec", "p", False, 3.0 + DOUBT_S)) == [("c", "a")], "who has lent before who claims"
    ring.paid("b")
    assert pairs(ring.request("c", "ec", "u", False, 6.0 + DOUBT_S)) == [("c", "b")]


def test_who_has_never_lent_gets_one_thief_where_others_have_lent(ring: VictimRing) -> None:
    """For that thief waits, perhaps in vain."""
    ring.paid("a")
    for n in range(5):
        ring.register("b", "eb", 999, float(n), priority=100)
        given = pairs(ring.request("c", "ec", f"r{n}", False, float(n)))
        assert given == ([("c", "b")] if n == 0 else [])
    ring.paid("b")
    assert pairs(ring.request("c", "ec", "r9", False, 9.0)) == [("c", "b")], "one that lends is believed"


def test_a_forward_names_both_ends_with_their_epochs(ring: VictimRing) -> None:
    ring.register("a", "ea", 1, 0.0)
    assert ring.request("c", "ec", "r1", False, 0.0) == [Forward("a", "ea", "c", "ec", "r1", False)]


def test_a_request_is_parked_until_somebody_has_work(ring: VictimRing) -> None:
    assert ring.request("c", "ec", "r1", False, 0.0) == []
    assert ring.parked == ("c",)
    assert pairs(ring.register("a", "ea", 1, 3.0)) == [("c", "a")]
    assert not ring.parked and ring.nodes["a"] == 0


def test_one_register_serves_as_many_parked_requests_as_it_has_tiles(ring: VictimRing) -> None:
    ring.request("b", "eb", "r1", False, 0.0)
    ring.request("c", "ec", "r2", False, 0.0)
    assert pairs(ring.register("a", "ea", 1, 1.0)) == [("b", "a")]
    assert pairs(ring.register("a", "ea", 1, 1.1)) == [("c", "a")]


def test_nobody_steals_from_itself(ring: VictimRing) -> None:
    ring.register("a", "ea", 5, 0.0)
    assert ring.request("a", "ea", "r1", False, 0.0) == []
    assert pairs(ring.request("b", "eb", "r2", False, 0.0)) == [("b", "a")]


def test_a_request_ahead_leaves_the_last_tile_to_the_idle(ring: VictimRing) -> None:
    ring.request("b", "eb", "r1", True, 0.0)
    assert ring.register("a", "ea", 1, 0.0) == []
    assert pairs(ring.request("c", "ec", "r2", False, 0.0)) == [("c", "a")]
    assert pairs(ring.register("a", "ea", 2, 0.0)) == [("b", "a")]


def test_the_idle_are_served_before_those_that_ask_ahead(ring: VictimRing) -> None:
    ring.request("b", "eb", "r1", True, 0.0)
    ring.request("c", "ec", "r2", False, 1.0)
    assert ring.parked == ("c", "b")
    assert pairs(ring.register("a", "ea", 3, 2.0)) == [("c", "a"), ("b", "a")]


def test_a_repeated_request_keeps_its_place_and_a_newer_one_goes_last(ring: VictimRing) -> None:
    ring.request("b", "eb", "r1", False, 0.0)
    ring.request("c", "ec", "r2", False, 0.0)
    ring.request("b", "eb", "r1", False, 4.0)
    assert ring.parked == ("b", "c")
    ring.request("b", "eb", "r3", False, 5.0)
    assert ring.parked == ("c", "b")


def test_a_repeated_request_is_forwarded_again_only_when_the_first_seems_lost(ring: VictimRing) -> None:
    ring.register("a", "ea", 5, 0.0)
    assert len(ring.request("c", "ec", "r1", False, 0.0)) == 1
    assert ring.request("c", "ec", "r1", False, 1.999) == []
    assert ring.ignored["request: repeated"] == 1
    assert pairs(ring.request("c", "ec", "r1", False, 2.0)) == [("c", "a")]


def test_requests_of_strangers_and_of_the_dead_are_ignored(ring: VictimRing) -> None:
    ring.register("a", "ea", 5, 0.0)
    assert ring.request("x", "ex", "r1", False, 0.0) == []
    assert ring.request("c", "e-old", "r1", False, 0.0) == []
    assert ring.ignored == {"request: unknown node": 1, "request: stale epoch": 1}


def test_a_restarted_node_has_no_parked_request(ring: VictimRing) -> None:
    ring.request("c", "ec", "r1", False, 0.0)
    ring.register("c", "ec2", 0, 1.0)
    assert ring.parked == ()
    assert ring.register("a", "ea", 1, 1.0) == []


def test_a_late_message_of_the_epoch_before_is_stale(ring: VictimRing) -> None:
    ring.register("c", "ec2", 1, 1.0)
    ring.register("c", "ec", 9, 2.0)
    assert ring.nodes["c"] == 1
    assert ring.ignored["register: stale epoch"] == 1


def test_a_node_with_own_tiles_waiting_wants_no_other(ring: VictimRing) -> None:
    ring.request("c", "ec", "r1", False, 0.0)
    ring.register("c", "ec", 3, 1.0)
    assert ring.parked == ()


def test_a_node_is_dead_after_three_missed_heartbeats(ring: VictimRing) -> None:
    ring.request("c", "ec", "r1", False, 0.0)
    ring.register("a", "ea", 0, 1.0)
    assert ring.deadline() == 6.0
    assert ring.expire(5.999) == []
    assert ring.expire(6.0) == ["b", "c"]
    assert list(ring.nodes) == ["a"] and ring.parked == ()
    assert ring.deadline() == 7.0


def test_who_leaves_is_gone_but_only_in_its_own_epoch(ring: VictimRing) -> None:
    assert not ring.leave("c", "e-old")
    assert ring.leave("c", "ec")
    assert "c" not in ring.nodes
    assert not ring.leave("c", "ec")
    assert VictimRing().deadline() is None


def test_a_request_goes_to_the_only_camera_before_it_has_work(ring: VictimRing) -> None:
    ring.register("a", "ea", 0, 0.0, camera=True)
    assert pairs(ring.request("b", "eb", "r1", False, 0.0)) == [("b", "a")]
    assert ring.nodes["a"] == 0 and not ring.parked
    assert ring.request("c", "ec", "r2", True, 0.0) == [], "a node that computes can wait"
    assert ring.request("a", "ea", "r3", False, 0.0) == []


def test_with_two_cameras_a_request_waits_for_whoever_has_work_first(ring: VictimRing) -> None:
    ring.register("a", "ea", 0, 0.0, camera=True)
    ring.register("b", "eb", 0, 0.0, camera=True)
    assert ring.request("c", "ec", "r1", False, 0.0) == []
    assert pairs(ring.register("b", "eb", 1, 0.0, camera=True)) == [("c", "b")]
