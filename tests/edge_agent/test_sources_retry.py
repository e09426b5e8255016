from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.retry import LEAST_S, MOST_S, CameraRetry
from tests.examples import examples


def test_a_line_without_frames_is_stalled_exactly_on_time() -> None:
    line = CameraRetry(100.0, 10.0, lambda: 0.5)
    assert line.deadline() == 110.0 and not line.stalled(109.9) and line.stalled(110.0)
    line.frame(105.0)
    assert line.deadline() == 115.0 and not line.stalled(114.9) and line.stalled(115.0)


def test_the_first_tries_wait_below_a_ceiling_that_doubles_up_to_thirty_seconds() -> None:
    line, waits = CameraRetry(0.0, 10.0, lambda: 1.0), []
    for now in range(7):
        line.lost(float(now), "gone")
        waits.append(line.deadline() - now)
    assert waits == [2, 4, 8, 16, 30, 30, 30]


@examples(200)
@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=300))
def test_every_wait_is_one_to_thirty_seconds(draws: list[float]) -> None:
    left = iter(draws)
    line = CameraRetry(0.0, 10.0, lambda: next(left))
    for _ in draws:
        line.lost(50.0, "gone")
        assert 50.0 + LEAST_S <= line.deadline() <= 50.0 + MOST_S
        assert not line.due(line.deadline() - 0.001) and line.due(line.deadline())


def test_an_outage_is_told_when_it_begins_and_when_a_frame_ends_it() -> None:
    line = CameraRetry(0.0, 10.0, lambda: 0.0)
    assert line.frame(1.0) is None
    assert line.lost(2.0, "no route") == "is lost: no route; trying again until it is back"
    assert [line.lost(3.0 + i, "refused") for i in range(20)] == [None] * 20
    line.opened(40.0)
    assert not line.stalled(49.0) and not line.due(49.0)
    assert line.lost(50.0, "no frame") is None  # it opened, but that was no frame
    line.opened(60.0)
    assert line.frame(62.0) == "is back after 60 s"
    assert line.frame(63.0) is None


def test_a_line_that_flaps_waits_ever_longer_and_one_that_held_begins_anew() -> None:
    line = CameraRetry(0.0, 10.0, lambda: 1.0)
    line.lost(0.0, "gone")
    line.opened(2.0)
    line.frame(2.0)
    line.lost(3.0, "gone")
    assert line.deadline() == 3.0 + 4.0
    line.opened(7.0)
    line.frame(7.0 + MOST_S)
    line.lost(40.0, "gone")
    assert line.deadline() == 40.0 + 2.0


@examples(200)
@given(st.lists(st.tuples(st.floats(0.1, 20), st.booleans()), max_size=100))
def test_told_news_alternate_and_the_deadline_lies_ahead_once_it_was_heeded(steps: list[tuple[float, bool]]) -> None:
    now, line, told, live = 0.0, CameraRetry(0.0, 10.0, lambda: 0.3), list[str | None](), True
    for passed, works in steps:
        now += passed
        if line.due(now):
            live = works
            if works:
                line.opened(now)
            else:
                told.append(line.lost(now, "refused"))
        elif line.stalled(now):
            live = False
            told.append(line.lost(now, "stalled"))
        elif live and works:
            told.append(line.frame(now))
        assert line.deadline() > now
    news = [text for text in told if text]
    assert all(("is lost" in text) == (i % 2 == 0) for i, text in enumerate(news))
