import queue
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge_agent.capture import Capture, Captured, Ended
from edge_agent.sources import open_source
from edge_agent.sources.frame import Image, Shot
from schemas.contract.errors import PlanError
from schemas.contract.plan import Pixels

PIXELS = Pixels(tensor="image", width=40, height=30, dtype="uint8")


class Ticker:
    """A live source at the boundary: ``value`` is what it would give now, or it fails."""

    live = True

    def __init__(self) -> None:
        self.value, self.asked, self.failure = 0, threading.Semaphore(0), False

    def shots(self, stopped: Callable[[], bool]) -> Iterator[Shot]:
        while not stopped():
            self.asked.release()
            if self.failure:
                raise PlanError("the source is broken")
            yield Shot(np.full((30, 40, 3), self.value, np.uint8), 7.0 + self.value, 1e9, self.value, 2)

    def frames(self) -> Iterator[Image]:
        return (shot.image for shot in self.shots(lambda: False))

    def close(self) -> None: ...


def captured(inbox: "queue.Queue[object]") -> Captured:
    event = inbox.get(timeout=30)
    assert isinstance(event, Captured)
    event.capture.ahead()
    return event


def with_room(source: Ticker) -> tuple[Capture, "queue.Queue[object]"]:
    """A capture that has room for one frame, and its inbox."""
    inbox: queue.Queue[object] = queue.Queue()
    capture = Capture(source, PIXELS, None, inbox)
    capture.more()
    return capture, inbox


def test_a_file_is_captured_whole_and_in_order_as_room_is_given() -> None:
    inbox: queue.Queue[object] = queue.Queue()
    begun, begun_utc = time.monotonic(), time.time()
    capture = Capture(open_source("synthetic://?width=40&height=30&frames=5"), PIXELS, None, inbox)
    expected = list(open_source("synthetic://?width=40&height=30&frames=5").frames())
    for image in expected:
        assert inbox.empty()
        capture.more()
        event = captured(inbox)
        assert event.capture is capture and (event.image[0] == image).all() and event.picture == (30, 40)
        assert begun <= event.at <= time.monotonic() and begun_utc <= event.utc <= time.time()
        assert event.dropped == event.skipped == 0
    assert inbox.get(timeout=30) == Ended(capture)
    capture.close()


def test_a_limit_ends_the_capture_after_so_many_frames() -> None:
    inbox: queue.Queue[object] = queue.Queue()
    capture = Capture(open_source("synthetic://?width=40&height=30"), PIXELS, 2, inbox)
    for _ in range(5):
        capture.more()
    assert captured(inbox) and captured(inbox)
    assert inbox.get(timeout=30) == Ended(capture)
    capture.close()
    assert inbox.empty()


def test_the_next_picture_is_read_ahead_once_the_last_one_is_on_its_way() -> None:
    source = Ticker()
    source.live = False
    capture, inbox = with_room(source)
    event = inbox.get(timeout=30)
    assert isinstance(event, Captured) and source.asked.acquire(timeout=30)
    assert not source.asked.acquire(timeout=0.1)
    event.capture.ahead()
    assert source.asked.acquire(timeout=30) and inbox.empty()  # nobody has room for it yet
    capture.close()


def test_a_live_source_is_asked_only_when_there_is_room() -> None:
    inbox: queue.Queue[object] = queue.Queue()
    source = Ticker()
    capture = Capture(source, PIXELS, None, inbox)
    for value in (3, 9):
        source.value = value
        capture.more()
        event = captured(inbox)
        assert (event.image == value).all() and event.at == 7.0 + value and event.utc == 1e9
        assert (event.dropped, event.skipped) == (value, 2)
    capture.close()
    assert source.asked.acquire(timeout=0) and source.asked.acquire(timeout=0) and not source.asked.acquire(timeout=0)


def test_a_closed_capture_is_silent_and_its_source_can_be_captured_again() -> None:
    inbox: queue.Queue[object] = queue.Queue()
    source = Ticker()
    first = Capture(source, PIXELS, None, inbox)
    first.close()
    assert inbox.empty() and not first._thread.is_alive()
    second = Capture(source, PIXELS, None, inbox)
    second.more()
    assert captured(inbox).capture is second
    second.close()


def test_a_source_that_fails_ends_the_capture_with_its_error() -> None:
    source = Ticker()
    source.failure = True
    capture, inbox = with_room(source)
    event = inbox.get(timeout=30)
    assert isinstance(event, Ended) and str(event.error) == "the source is broken"
    capture.close()


@pytest.mark.parametrize("waiting", [True, False])
def test_closing_ends_a_capture_that_waits_for_a_silent_camera(waiting: bool) -> None:
    from edge_agent.sources.live import Live
    from tests.edge_agent.test_sources_live import Clock, Script

    class Silent(Script):
        def read(self, timeout_s: float) -> Image | None:
            if self._script:
                return super().read(timeout_s)
            ended.wait(30)
            return None

    ended = threading.Event()
    inbox: queue.Queue[object] = queue.Queue()
    source = Live("cam", lambda: Silent(Clock(), 1), 10.0)
    capture = Capture(source, PIXELS, None, inbox)
    if waiting:
        pytest.importorskip("cv2")
        capture.more()
        captured(inbox)
        capture.more()
    capture.close()
    assert inbox.empty() and not capture._thread.is_alive()
    ended.set()
    source.close()


class Starved:
    """A source whose first frame does not fit into memory."""

    def frames(self) -> Iterator[Image]:
        raise MemoryError
        yield

    def close(self) -> None:
        pass


def test_a_frame_that_the_memory_does_not_hold_ends_the_source_with_a_reason() -> None:
    inbox: queue.Queue[object] = queue.Queue()
    capture = Capture(Starved(), PIXELS, None, inbox)
    ended = inbox.get(timeout=30)
    assert isinstance(ended, Ended) and "more memory than there is" in str(ended.error)
    capture.close()


class Counter(Ticker):
    """A live source that counts its pictures, and waits after each until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.next = threading.Semaphore(0)

    def shots(self, stopped: Callable[[], bool]) -> Iterator[Shot]:
        for n in range(9):
            yield Shot(np.full((30, 40, 3), n, np.uint8), float(n), 1e9)
            self.asked.release()
            self.next.acquire()


def test_a_clip_of_a_camera_has_the_pictures_that_came_while_there_was_no_room() -> None:
    inbox: queue.Queue[object] = queue.Queue()
    source = Counter()
    capture = Capture(source, PIXELS.model_copy(update={"frames": 3}), None, inbox)
    for n in range(9):
        if n in (1, 7):
            capture.more()
        source.next.release() if n else None
        assert source.asked.acquire(timeout=30)
    source.next.release()
    events = [captured(inbox), captured(inbox)]
    assert [event.image[0, :, 0, 0, 0].tolist() for event in events] == [[0, 0, 1], [5, 6, 7]]
    assert [event.dropped for event in events] == [1, 6]
    capture.close()
