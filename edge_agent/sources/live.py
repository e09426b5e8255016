"""Frames as they come: one thread grabs them, and whoever asks gets the newest one, or, where all count, the next one.

The law: a frame is given at most once, never an older one after a newer one, what waits is bounded, and every frame that
nobody took is counted as dropped. A camera that was there once is opened anew for ever (``retry.CameraRetry`` says when).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import random
from typing import Protocol

from edge_agent.sources.frame import Image, Shot
from edge_agent.sources.retry import CameraRetry
from schemas.contract.errors import PlanError

WAITING, WAITING_BYTES = 256, 64 * 1024 * 1024  # frames that wait where all count: 5 s of 640x480 at 15 a second
LOOK_S = 0.25  # how often somebody who waits for a frame looks whether he should stop
_log = logging.getLogger(__name__)


class EndOfClip(Exception):
    """The camera is a clip and has no more frames."""


class Camera(Protocol):
    """An open camera, of one thread. ``period_s``: seconds from one read to the next, 0 to read as frames come."""

    period_s: float

    def read(self, timeout_s: float) -> Image | None:
        """The next RGB image; None if there was none for about ``timeout_s``.

        Raises:
            PlanError: the camera is gone. EndOfClip: it was a clip.
        """

    def close(self) -> None: ...


class Mailbox:
    """Frames that nobody has taken: one, which a new one replaces; after ``keep_all`` so many frames and bytes.

    A frame for which there is no room pushes out the oldest.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._shots: deque[Shot] = deque()
        self._limit, self._bytes = 1, 0
        self._dropped = 0
        self._shut = False

    def keep_all(self, limit: int = WAITING) -> None:
        """From now on frames wait in order."""
        with self._condition:
            self._limit = limit

    def put(self, shot: Shot) -> None:
        with self._condition:
            self._shots.append(shot)
            self._bytes += shot.image.nbytes
            while len(self._shots) > self._limit or (len(self._shots) > 1 and self._bytes > WAITING_BYTES):
                self._bytes -= self._shots.popleft().image.nbytes
                self._dropped += 1
            self._condition.notify()

    def take(self, stopped: Callable[[], bool]) -> Shot | None:
        """The frame that has waited longest, awaited; None if ``stopped()``, or if it is shut and empty."""
        with self._condition:
            while not self._shots and not self._shut and not stopped():
                self._condition.wait(LOOK_S)
            if stopped() or not self._shots:
                return None
            shot = self._shots.popleft()
            self._bytes -= shot.image.nbytes
            return replace(shot, dropped=self._dropped)

    def shut(self) -> None:
        """No frame will follow."""
        with self._condition:
            self._shut = True
            self._condition.notify_all()


class Grabber:
    """What the thread does, one ``turn`` after another."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Camera],
        mailbox: Mailbox,
        stall_s: float,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random,
    ) -> None:
        """Opens the camera and takes its first frame. Raises PlanError if either fails. ``name`` holds no password."""
        self._name, self._connect, self._mailbox, self._clock = name, connect, mailbox, clock
        camera = connect()
        self._camera: Camera | None = camera
        self._next_at = clock()
        self._line = CameraRetry(clock(), stall_s + camera.period_s, draw)
        try:
            if not self._read(camera, stall_s):
                raise PlanError(
                    f"source {name!r} is open but gave no frame for {stall_s:g} s: check the camera, or &stall="
                )
        except BaseException:
            self.close()
            raise

    def wait_s(self) -> float:
        """Seconds until the next turn; 0 for at once."""
        wake_at = self._next_at if self._camera is not None else self._line.deadline()
        return max(0.0, wake_at - self._clock())

    def turn(self) -> None:
        """Read one frame, or try to open the camera again. Raises EndOfClip."""
        try:
            if self._camera is not None:
                self._read(self._camera, max(0.0, self._line.deadline() - self._clock()))
            elif self._line.due(self._clock()):
                self._camera = self._connect()
                self._next_at = self._clock()
                self._line.opened(self._clock())
        except PlanError as error:
            self._lose(str(error))
            return
        if self._camera is not None and self._line.stalled(self._clock()):
            self._lose("no frame for too long")

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
        self._camera = None

    def _read(self, camera: Camera, timeout_s: float) -> bool:
        image = camera.read(timeout_s)
        now = self._clock()
        self._next_at = max(self._next_at + camera.period_s, now)  # late is not caught up
        if image is None:
            return False
        self._tell(logging.INFO, self._line.frame(now))
        self._mailbox.put(Shot(image, now, time.time()))
        return True

    def _lose(self, reason: str) -> None:
        self.close()
        self._tell(logging.WARNING, self._line.lost(self._clock(), reason))

    def _tell(self, level: int, news: str | None) -> None:
        if news:
            _log.log(level, "source %s %s", self._name, news)


class Live:
    """A live source: ``frames`` gives the newest frame each time and skips what came between, until ``keep_all``."""

    live = True

    def __init__(self, name: str, connect: Callable[[], Camera], stall_s: float) -> None:
        """Raises PlanError if the camera cannot be opened or has no first frame. ``name`` holds no password."""
        self._mailbox, self._closed = Mailbox(), threading.Event()
        self._grabber = Grabber(name, connect, self._mailbox, stall_s)
        self._thread = threading.Thread(target=self._run, name="grab", daemon=True)
        self._thread.start()

    def keep_all(self) -> None:
        """Every frame counts: those that come while nobody asks wait in order, as many as there is room for."""
        self._mailbox.keep_all()

    def shots(self, stopped: Callable[[], bool]) -> Iterator[Shot]:
        while (shot := self._mailbox.take(lambda: self._closed.is_set() or stopped())) is not None:
            yield shot

    def frames(self) -> Iterator[Image]:
        """RGB images; see ``Source``."""
        return (shot.image for shot in self.shots(lambda: False))

    def close(self) -> None:
        self._closed.set()
        self._mailbox.shut()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def _run(self) -> None:
        try:
            while not self._closed.wait(self._grabber.wait_s()):
                self._grabber.turn()
        except EndOfClip:
            pass
        finally:
            self._mailbox.shut()
            self._grabber.close()
