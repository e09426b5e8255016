from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.dashboard.door import STALLED_S, Door


def client(number: int, host: str = "a") -> tuple[str, int]:
    return host, number


def test_where_there_is_no_room_the_host_that_holds_the_most_gives_up_its_oldest() -> None:
    door: Door[str] = Door(most=4)
    assert [door.opened(client(1, host), f"{host}1", 0.0) for host in "ba"] == [[], []]
    assert [door.opened(client(n), f"a{n}", float(n)) for n in (2, 3)] == [[], []]
    assert door.opened(client(2, "b"), "b2", 4.0) == ["a1"] and len(door) == 4
    assert door.opened(client(3, "b"), "b3", 5.0) == ["b1"]  # both hold two: the one that has waited longest


def test_who_is_served_is_never_given_up_and_waits_again_when_it_is_done() -> None:
    door: Door[str] = Door(most=3, served=1)
    for n in range(3):
        door.opened(client(n), f"a{n}", float(n))
    assert door.serve(client(0)) and not door.serve(client(1))
    assert door.opened(client(3), "a3", 4.0) == ["a1"]
    assert door.overdue(100.0) == ["a2", "a3"]
    door.done(client(0), 100.0)
    assert door.overdue(109.0) == ["a2", "a3"] and door.overdue(110.0) == ["a2", "a3", "a0"]
    assert door.serve(client(3))


def test_a_reader_that_takes_nothing_is_overdue_and_one_that_goes_on_is_not() -> None:
    door: Door[str] = Door()
    for n in range(2):
        door.opened(client(n), f"a{n}", 0.0)
        assert door.serve(client(n))
        door.stalled(client(n), 5.0)
    door.stalled(client(0), None)
    assert door.overdue(5.0 + STALLED_S) == ["a1"]


@given(st.lists(st.tuples(st.sampled_from(["open", "serve", "done", "close"]), st.integers(0, 9), st.sampled_from("abc"))))
def test_never_are_there_too_many_and_a_new_one_always_gets_in(deeds: list[tuple[str, int, str]]) -> None:
    door: Door[object] = Door(most=5, served=3)
    there: dict[tuple[str, int], object] = {}
    served: set[tuple[str, int]] = set()
    for now, (deed, number, host) in enumerate(deeds):
        who = client(number, host)
        if deed == "open" and who not in there:
            there[who] = object()
            for gone in door.opened(who, there[who], float(now)):
                victim = next(one for one, line in there.items() if line is gone)
                assert victim not in served and victim != who
                del there[victim]
        elif deed == "serve" and door.serve(who):
            assert who in there
            served.add(who)
        elif deed == "done":
            door.done(who, float(now))
            served.discard(who)
        elif deed == "close" and who in there:
            door.closed(who, there.pop(who))
            served.discard(who)
        assert len(door) == len(there) <= 5 and len(served) <= 3
