"""What came, stayed and went, on boxes that move, flicker and come out of order."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.homeassistant.tracker import APPEAR, LEAVE, UPDATE_S, Change, Sight, Tracker, sights
from schemas.contract.results import Classification, Detection, Keypoint, Result, Segment

CAT = Sight("cat", 0.9, (10.0, 10.0, 50.0, 50.0))
DOG = Sight("dog", 0.8, (10.0, 10.0, 50.0, 50.0))


def play(frames: Sequence[Sequence[Sight]], tracker: Tracker | None = None, first: int = 0) -> list[list[str]]:
    """Types and labels of the changes of each frame, one second apart."""
    tracker = tracker or Tracker()
    return [
        [f"{c.type} {c.sight.label}" for c in tracker.see(f"e-11111111-{first + i}", seen, float(first + i))]
        for i, seen in enumerate(frames)
    ]


def test_an_object_appears_with_its_second_frame_and_leaves_after_three_without() -> None:
    seen = play([[CAT]] * 2 + [[]] * 4)
    assert seen == [[], ["appeared cat"], [], [], ["left cat"], []]


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_flicker_tells_nothing(there: list[bool]) -> None:
    tracker = Tracker()
    told = play([[CAT] if one else [] for one in there], tracker)
    present, run, gone = False, 0, 0
    for one, changes in zip(there, told):
        run, gone = (run + 1, 0) if one else (0, gone + 1)
        if not present and run >= APPEAR:
            present = True
            assert changes == ["appeared cat"]
        elif present and gone >= LEAVE:
            present = False
            assert changes == ["left cat"]
        else:
            assert changes == []
    assert tracker.counts == ({"cat": 1} if present else {})


@given(st.lists(st.sampled_from("abc"), max_size=6), st.randoms())
def test_still_objects_are_counted_by_label_whatever_their_order(labels: list[str], random: "st.Random") -> None:  # type: ignore[name-defined]
    seen = [Sight(label, 0.5, (100.0 * i, 0.0, 100.0 * i + 50, 50.0)) for i, label in enumerate(labels)]
    tracker, shuffled = Tracker(), list(seen)
    random.shuffle(shuffled)
    told = play([seen, shuffled, seen, shuffled], tracker)
    assert sorted(told[1]) == sorted(f"appeared {label}" for label in labels)
    assert told[2:] == [[], []]
    assert {label: count for label, count in tracker.counts.items() if count} == {one: labels.count(one) for one in labels}


def test_two_labels_at_one_place_are_two_objects() -> None:
    assert play([[CAT, DOG], [DOG, CAT], [DOG], [DOG], [DOG]]) == [[], ["appeared cat", "appeared dog"], [], [], ["left cat"]]


def test_a_walking_object_stays_the_same_and_tells_of_it_now_and_then() -> None:
    tracker, changes = Tracker(), list[tuple[float, Change]]()
    for second in range(20):
        box = (10.0 + 15 * second, 10.0, 50.0 + 15 * second, 50.0)
        changes += [(float(second), c) for c in tracker.see(f"e-11111111-{second}", [Sight("cat", 0.9, box)], float(second))]
    assert {c.number for _, c in changes} == {1}
    assert [c.type for _, c in changes] == ["appeared", "updated", "updated", "updated"]
    times = [at for at, _ in changes]
    assert all(b - a >= UPDATE_S for a, b in zip(times, times[1:]))


def test_an_object_that_stands_still_is_not_updated() -> None:
    assert play([[CAT]] * 30)[2:] == [[]] * 28


def test_a_fast_object_is_the_same_while_it_moves_less_than_its_size() -> None:
    far = Sight("cat", 0.9, (45.0, 10.0, 85.0, 50.0))  # 35 to the right, of 40: they hardly overlap
    assert play([[CAT], [far]]) == [[], ["appeared cat"]]
    away = Sight("cat", 0.9, (95.0, 10.0, 135.0, 50.0))
    assert play([[CAT], [away]]) == [[], []]


def test_a_late_frame_says_nothing_and_a_restarted_source_begins_anew() -> None:
    tracker = Tracker()
    play([[CAT]] * 2, tracker, first=5)
    assert play([[]] * 4, tracker, first=3) == [[], [], [], []][:4]
    assert tracker.counts == {"cat": 1}
    assert [c.type for n in range(3) for c in tracker.see(f"e-22222222-{n}", [], 0.0)] == ["left"]


def test_every_task_has_objects() -> None:
    points = tuple(Keypoint(name=str(i), x=float(i), y=2.0 * i, score=0.9) for i in range(4))
    person = Sight("person", 0.9, (0.0, 0.0, 3.0, 6.0))
    assert sights(Result(task="detect", detections=(Detection(label="a", index=0, score=1, box=(0, 0, 1, 1)),)), 0.5) == [
        Sight("a", 1.0, (0.0, 0.0, 1.0, 1.0))
    ]
    classes = (Classification(label="a", index=0, score=0.6), Classification(label="b", index=1, score=0.55))
    assert sights(Result(task="classify", classes=classes), 0.5) == [Sight("a", 0.6)]
    assert sights(Result(task="classify", classes=classes), 0.7) == []
    segments = (Segment(label="a", index=0, share=0.5), Segment(label="b", index=1, share=0.001))
    assert sights(Result(task="segment", segments=segments), 0.5) == [Sight("a", 0.5)]
    assert sights(Result(task="pose", keypoints=points), 0.5) == [person]
    unsure = tuple(k.model_copy(update={"score": 0.1}) for k in points)
    assert sights(Result(task="pose", keypoints=(*unsure, *unsure, *points[:2])), 0.5) == []
    assert sights(Result(task="raw"), 0.5) == []
