"""One thread that reads the source: decodes, fits to the model's size, and waits until the loop has room for a frame.

Files and folders are lossless and in order: the next frame is read ahead, and handed over when it is asked for.
"""

import queue
import threading
from dataclasses import dataclass

import numpy as np

from edge_agent.sources import Source
from edge_agent.sources.fit import fit
from schemas.errors import DtError
from schemas.plan import Pixels


@dataclass(frozen=True)
class Captured:
    """One frame, uint8 pixels of the model's size, NHWC; ``picture`` is the size (height, width) that it came in."""

    capture: "Capture"
    image: np.ndarray
    picture: tuple[int, int]


@dataclass(frozen=True)
class Ended:
    """The source has no more frames; with ``error``, because it failed."""

    capture: "Capture"
    error: DtError | None = None


class Capture:
    """Reads ``source`` from its start, at most ``limit`` frames; each ``more()`` lets one into ``inbox``."""

    def __init__(self, source: Source, pixels: Pixels, limit: int | None, inbox: "queue.Queue[object]") -> None:
        self._source, self._pixels, self._limit, self._inbox = source, pixels, limit, inbox
        self._room = threading.Semaphore(0)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def more(self) -> None:
        """There is room for one frame."""
        self._room.release()

    def close(self) -> None:
        self._closed = True
        self._room.release()
        self._thread.join(2.0)

    def _run(self) -> None:
        count, error = 0, None
        try:
            for image in self._source.frames():
                fitted = fit(image, self._pixels)
                self._room.acquire()
                if self._closed:
                    return
                self._inbox.put(Captured(self, fitted, (image.shape[0], image.shape[1])))
                count += 1
                if count == self._limit:
                    break
        except DtError as failure:
            error = failure
        self._inbox.put(Ended(self, error))
