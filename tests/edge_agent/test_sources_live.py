import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import sources
from edge_agent.sources import open_source
from edge_agent.sources.frame import Image, Shot
from edge_agent.sources.live import WAITING, WAITING_BYTES, Camera, EndOfClip, Grabber, Live, Mailbox
from edge_agent.sources.opened import Clip
from edge_agent.sources.video import Video
from schemas.contract.config import Drop
from schemas.contract.errors import PlanError
from tests.paths import shared

GONE = PlanError("the cable is out")


def picture(value: int) -> Image:
    return np.full((2, 3, 3), value, np.uint8)


def shot(value: int) -> Shot:
    return Shot(picture(value), float(value), 1e9 + value)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Script:
    """A camera at the boundary: each read takes a second and does what the script says; None is a silent camera."""

    period_s = 0.0

    def __init__(self, clock: Clock, *script: "int | PlanError | EndOfClip | None") -> None:
        self._clock, self._script, self.closed = clock, list(script), False

    def read(self, timeout_s: float) -> Image | None:
        assert not self.closed
        step = self._script.pop(0)
        self._clock.now += timeout_s if step is None else 1.0
        if isinstance(step, Exception):
            raise step
        return None if step is None else picture(step)

    def close(self) -> None:
        self.closed = True


def opener(*cameras: "Script | PlanError") -> Callable[[], Camera]:
    left = list(cameras)

    def connect() -> Camera:
        camera = left.pop(0)
        if isinstance(camera, PlanError):
            raise camera
        return camera

    return connect


def never() -> bool:
    return False


def test_the_mailbox_gives_the_newest_frame_once_and_counts_the_others() -> None:
    box = Mailbox()
    for value in range(5):
        box.put(shot(value))
    taken = box.take(never)
    assert taken is not None and taken.image[0, 0, 0] == 4 and taken.dropped == 4
    box.put(shot(5))
    taken = box.take(never)
    assert taken is not None and taken.at == 5.0 and taken.utc == 1e9 + 5 and taken.dropped == 4
    box.put(shot(6))
    box.shut()
    assert (last := box.take(never)) is not None and last.at == 6.0
    assert box.take(never) is None


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_where_all_count_frames_wait_in_order_and_the_oldest_makes_room(puts: list[bool], limit: int) -> None:
    box, model, dropped = Mailbox(), list[int](), 0
    box.keep_all(limit)
    for value, put in enumerate(puts):
        if put:
            box.put(shot(value))
            model.append(value)
            dropped += len(model) > limit
            model = model[-limit:]
        elif model:
            taken = box.take(never)
            assert taken is not None and taken.at == model.pop(0) and taken.dropped == dropped
    box.shut()
    assert [left.at for left in iter(lambda: box.take(never), None)] == model


def test_large_frames_wait_by_their_bytes_and_one_always_may() -> None:
    box = Mailbox()
    box.keep_all()
    box.shut()  # so that an empty one does not wait
    for value in range(5):
        box.put(Shot(np.broadcast_to(np.uint8(value), (WAITING_BYTES // 3, 1, 1)), float(value), 0.0))
    assert (taken := box.take(never)) is not None and taken.at == 2.0 and taken.dropped == 2
    box.put(Shot(np.broadcast_to(np.uint8(5), (WAITING_BYTES, 2, 1)), 5.0, 0.0))
    assert (taken := box.take(never)) is not None and taken.at == 5.0 and taken.dropped == 4
    for _ in range(WAITING + 1):
        box.put(shot(6))
    assert (taken := box.take(never)) is not None and taken.dropped == 5


@pytest.mark.parametrize(("drop", "seen"), [(None, [3.0]), ("latest", [3.0]), ("all", [1.0, 2.0, 3.0])])
def test_the_policy_says_which_frames_of_a_camera_are_kept(
    drop: Drop | None, seen: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, proceed = threading.Event(), threading.Event()

    class Stepped(Script):
        def read(self, timeout_s: float) -> Image | None:
            if len(self._script) == 4:
                proceed.wait(30)
            if len(self._script) == 1:
                arrived.set()
            return super().read(timeout_s)

    clip = Stepped(Clock(), 0, 1, 2, 3, EndOfClip())
    monkeypatch.setitem(sources._KINDS, "v4l2", lambda where: Live(where.text, opener(clip), 10.0))
    source = open_source("v4l2:///dev/video0", drop)
    assert isinstance(source, Live)
    first = source.shots(never)
    next(first)
    proceed.set()
    assert arrived.wait(30)
    source._thread.join(30)
    assert [float(s.image[0, 0, 0]) for s in first] == seen


@pytest.mark.parametrize("uri", ["synthetic://", "synthetic://?frames=3"])
def test_what_waits_has_nothing_to_drop_and_says_so(uri: str) -> None:
    assert sum(1 for _ in zip(range(3), open_source(uri, "all").frames())) == 3
    with pytest.raises(PlanError, match="nothing to drop: leave it out"):
        open_source(uri, "latest")


@pytest.mark.parametrize("wake", ["frame", "end", "stop"])
def test_whoever_waits_at_the_mailbox_is_woken_by_a_frame_by_its_end_and_by_his_own(wake: str) -> None:
    box, stop, found, waits = Mailbox(), threading.Event(), list[Shot | None](), threading.Event()

    def stopped() -> bool:
        waits.set()
        return stop.is_set()

    thread = threading.Thread(target=lambda: found.append(box.take(stopped)))
    thread.start()
    assert waits.wait(30)
    {"frame": lambda: box.put(shot(1)), "end": box.shut, "stop": stop.set}[wake]()
    thread.join(30)
    assert len(found) == 1 and (found[0] is not None) == (wake == "frame")


def test_frames_go_to_the_mailbox_with_the_time_at_which_they_came() -> None:
    clock, box = Clock(), Mailbox()
    grabber = Grabber("cam", opener(Script(clock, 1, 2, 3)), box, 10.0, clock)
    grabber.turn()
    grabber.turn()
    taken = box.take(never)
    assert taken is not None and taken.image[0, 0, 0] == 3 and taken.at == 1003.0 and taken.dropped == 2
    assert grabber.wait_s() == 0.0


def test_a_camera_that_is_not_there_at_the_start_is_an_error_and_is_closed() -> None:
    clock = Clock()
    with pytest.raises(PlanError, match="the cable is out"):
        Grabber("cam", opener(GONE), Mailbox(), 10.0, clock)
    silent = Script(clock, None)
    with pytest.raises(PlanError, match="'cam' is open but gave no frame for 10 s"):
        Grabber("cam", opener(silent), Mailbox(), 10.0, clock)
    assert silent.closed


def test_a_camera_that_vanishes_is_opened_until_it_is_back_and_told_twice(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock, box = Clock(), Mailbox()
    first, last = Script(clock, 1, GONE), Script(clock, 7, 8)
    grabber = Grabber("cam", opener(first, *[GONE] * 50, last), box, 10.0, clock, lambda: 0.5)
    for _ in range(200):
        clock.now += grabber.wait_s()
        grabber.turn()
        if len(caplog.messages) == 2:
            break
    assert first.closed and not last.closed
    taken = box.take(never)
    assert taken is not None and taken.image[0, 0, 0] == 7
    assert len(caplog.messages) == 2
    assert caplog.messages[0] == "source cam is lost: the cable is out; trying again until it is back"
    assert caplog.messages[1].startswith("source cam is back after ")


def test_a_closed_line_is_not_opened_before_its_time() -> None:
    clock, tries = Clock(), list[float]()
    cameras = opener(Script(clock, 1, GONE), *[GONE] * 9)

    def connect() -> Camera:
        tries.append(clock.now)
        return cameras()

    grabber = Grabber("cam", connect, Mailbox(), 10.0, clock, lambda: 1 / 3)
    grabber.turn()
    for _ in range(100):
        grabber.turn()
        clock.now += 0.25
    assert tries[0] == 1000.0
    assert [round(after - before, 2) for before, after in zip(tries[1:], tries[2:], strict=False)][:2] == [2.0, 3.5]


def test_a_silent_camera_is_closed_and_opened_anew_when_the_watchdog_is_due() -> None:
    clock = Clock()
    silent, back = Script(clock, 1, None), Script(clock, 2)
    grabber = Grabber("cam", opener(silent, back), Mailbox(), 10.0, clock, lambda: 0.0)
    grabber.turn()
    assert silent.closed and clock.now == 1011.0  # a second for the first frame, ten of silence
    assert grabber.wait_s() == 1.0
    clock.now += 1.0
    grabber.turn()
    grabber.turn()
    assert not back.closed


def test_a_paced_camera_is_read_at_its_period_and_what_is_late_is_not_caught_up() -> None:
    clock = Clock()
    camera = Script(clock, *range(10))
    camera.period_s = 5.0
    grabber = Grabber("cam", opener(camera), Mailbox(), 10.0, clock)
    assert grabber.wait_s() == 4.0  # the read took a second
    clock.now += 4.0
    grabber.turn()
    assert grabber.wait_s() == 4.0
    clock.now += 14.0  # the machine slept
    grabber.turn()
    assert clock.now == 1021.0 and grabber.wait_s() == 0.0
    grabber.turn()
    assert grabber.wait_s() == 4.0


def test_a_live_source_ends_with_its_clip_and_gives_its_last_frame() -> None:
    clock = Clock()
    source = Live("clip", opener(Script(clock, 1, 2, 3, EndOfClip())), 10.0)
    values = [int(image[0, 0, 0]) for image in source.frames()]
    assert values == sorted(set(values)) and values[-1] == 3


def test_closing_a_live_source_ends_its_frames_its_thread_and_its_camera() -> None:
    clock = Clock()
    camera = Script(clock, *[1] * 100_000)
    source = Live("cam", opener(camera), 10.0)
    running = source.frames()
    next(running)
    source.close()
    source.close()
    assert next(running, None) is None and camera.closed and not source._thread.is_alive()


def test_a_realtime_clip_is_paced_by_its_own_frame_rate() -> None:
    pytest.importorskip("cv2")
    clock, box = Clock(), Mailbox()
    video = Video(shared("data/video") / "car-detection.mp4")
    grabber = Grabber("clip", lambda: Clip(video, video.rate), box, 10.0, clock)
    came = []
    for _ in range(20):
        came.append(clock.now)
        clock.now += grabber.wait_s()
        grabber.turn()
    assert 5 < video.rate < 100
    np.testing.assert_allclose(np.diff(came), 1 / video.rate, rtol=1e-6)
    grabber.close()


def test_a_realtime_clip_is_a_live_source_with_the_frames_of_the_file(tmp_path: Path) -> None:
    cv2: Any = pytest.importorskip("cv2")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 50, (64, 48))
    for level in range(0, 200, 40):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    source = open_source(f"file://{path}?realtime=1")
    assert isinstance(source, Live)
    levels = [round(float(image.mean()), -1) for image in source.frames()]
    assert levels == sorted(set(levels)) and set(levels) <= {0, 40, 80, 120, 160} and levels[-1] == 160
    looped = open_source(f"file://{path}?realtime=1&loop=1")
    running = looped.frames()
    assert len([next(running) for _ in range(8)]) == 8
    looped.close()
    with pytest.raises(PlanError, match="unknown parameter 'realtime'"):
        cv2.imwrite(str(tmp_path / "a.png"), picture(1))
        open_source(f"file://{tmp_path}/a.png?realtime=1")
