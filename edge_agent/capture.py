"""One thread that reads the source: decodes, fits to the model's size, and waits until the loop has room for a frame.

Files and folders are lossless and in order: the next frame is read ahead, once the tiles of the one before are on their
way, and handed over when it is asked for. A live source is asked only when there is room, and gives its newest frame or,
where all count, the one that waits longest.
"""

import logging
import queue
import threading
from dataclasses import dataclass

import numpy as np

from edge_agent.sources.fit import Clip
from edge_agent.sources.frame import Shot, Source, is_live, shots
from models.results import jpeg
from schemas.contract.errors import DtError, PlanError
from schemas.contract.plan import Pixels
from schemas.host.process import give_way

PICTURE_WIDTH = 960  # pixels; enough to look at
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captured:
    """One frame, uint8 pixels of the model's shape; ``picture`` is the size (height, width) that it came in.

    It was taken ``at`` monotonic seconds, which is ``utc`` seconds since 1970. ``dropped`` and ``skipped`` count, since
    the source was opened, frames that came while there was no room, and frames without motion. ``jpeg`` is the picture
    for people, if one was due; ``ticket`` is the shot's.
    """

    capture: "Capture"
    image: np.ndarray
    picture: tuple[int, int]
    at: float
    utc: float
    dropped: int = 0
    skipped: int = 0
    jpeg: bytes = b""
    ticket: int = 0


@dataclass(frozen=True)
class Ended:
    """The source has no more frames; with ``error``, because it failed."""

    capture: "Capture"
    error: DtError | None = None


class Capture:
    """Reads ``source``, at most ``limit`` frames; each ``more()`` lets one into ``inbox``, each ``ahead()`` has one read.

    ``pictures_s`` may be set at any time: a frame carries a picture for people so often at most; 0: never. ``drops``: of a
    live source the newest frame counts, not each.
    """

    def __init__(
        self, source: Source, pixels: Pixels, limit: int | None, inbox: "queue.Queue[object]", drops: bool = True
    ) -> None:
        self._source, self._pixels, self._limit, self._inbox, self._drops = source, pixels, limit, inbox, drops
        self._room, self._ahead = threading.Semaphore(0), threading.Semaphore(1)
        self._closed = False
        self.pictures_s = 0.0
        self._pictured_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def more(self) -> None:
        """There is room for one frame."""
        self._room.release()

    def ahead(self) -> None:
        """What is in a hurry is done for the frame that came last: the next one may be read."""
        self._ahead.release()

    def close(self) -> None:
        """No frame follows. The source stays open and may be captured again."""
        self._closed = True
        self._room.release()
        self._ahead.release()
        self._thread.join(2.0)

    def _run(self) -> None:
        give_way()
        error = None
        try:
            self._read()
        except DtError as failure:
            error = failure
        except MemoryError:
            error = DtError("the source's next frame needs more memory than there is: choose a smaller picture")
        if not self._closed:
            self._inbox.put(Ended(self, error))

    def _read(self) -> None:
        live = is_live(self._source)
        running, clip = shots(self._source, lambda: self._closed), Clip(self._pixels)
        passes = live and self._drops and self._pixels.frames > 0  # all are looked at, for a clip has those before it, too
        count = passed = 0
        while count != self._limit and not self._closed:
            if not passes:
                (self._room if live else self._ahead).acquire()
            shot = next(running, None)
            if shot is None:
                return
            image, picture = clip.add(shot.image), (shot.image.shape[0], shot.image.shape[1])
            if passes and not self._room.acquire(blocking=False):
                passed += 1
                continue
            if not live:
                self._room.acquire()
            if self._closed:
                return
            dropped, shown = shot.dropped + passed, self._shown(shot)
            self._inbox.put(Captured(self, image, picture, shot.at, shot.utc, dropped, shot.skipped, shown, shot.ticket))
            count += 1

    def _shown(self, shot: Shot) -> bytes:
        """The picture for people, if it is time for one."""
        if not self.pictures_s or shot.at < self._pictured_at + self.pictures_s:
            return b""
        self._pictured_at = shot.at
        try:
            return jpeg.encode(shot.image, PICTURE_WIDTH)
        except PlanError as error:
            _log.warning("no preview pictures: %s", error)
            self._pictured_at = float("inf")
            return b""
