"""One thread that draws what a model says onto the pictures that sources send for people to look at.

A picture comes before or after its frame's outcome; of each source only the newest few wait for the other half.
"""

import logging
import queue
import threading
from collections import OrderedDict
from dataclasses import dataclass

from models.results import jpeg
from models.results.draw import draw
from models.results.geometry import scaled
from schemas.contract.errors import DtError
from schemas.contract.messages import Outcome

WAITING = 16  # pictures or outcomes without their other half
WIDEST = 1280


@dataclass(frozen=True)
class Painted:
    """A frame's picture as JPEG, as it came and annotated."""

    frame: str
    plain: bytes
    annotated: bytes


class Painter:
    """``picture`` and ``outcome`` as they come; each pair comes back once, as ``Painted``, in ``inbox``."""

    def __init__(self, inbox: "queue.Queue[object]") -> None:
        self._inbox = inbox
        self._pictures: OrderedDict[str, bytes] = OrderedDict()
        self._outcomes: OrderedDict[str, Outcome] = OrderedDict()
        self._work: queue.Queue[tuple[bytes, Outcome] | None] = queue.Queue(4)
        self._thread = threading.Thread(target=self._run, name="painter", daemon=True)
        self._thread.start()

    def picture(self, frame: str, data: bytes) -> None:
        """A source's JPEG of ``frame``."""
        self._pictures[frame] = data
        self._pair(frame)

    def outcome(self, outcome: Outcome) -> None:
        """A frame has ended. Failed ones are not painted: nothing is known of them."""
        if outcome.result is None:
            self._pictures.pop(outcome.frame, None)
            return
        self._outcomes[outcome.frame] = outcome
        self._pair(outcome.frame)

    def close(self) -> None:
        while True:  # what waits is not needed any more
            try:
                self._work.get_nowait()
            except queue.Empty:
                break
        self._work.put(None)
        self._thread.join(2.0)

    def _pair(self, frame: str) -> None:
        if frame in self._pictures and frame in self._outcomes:
            try:
                self._work.put_nowait((self._pictures.pop(frame), self._outcomes.pop(frame)))
            except queue.Full:  # the thread is behind: people see the next one
                return
        for waiting in (self._pictures, self._outcomes):
            while len(waiting) > WAITING:
                waiting.popitem(last=False)

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            try:
                painted = paint(*job)
            except DtError as error:
                logging.getLogger(__name__).warning("no picture of frame %s: %s", job[1].frame, error)
                continue
            if painted is not None:
                self._inbox.put(painted)


def paint(data: bytes, outcome: Outcome) -> Painted | None:
    """``data``: a JPEG of the frame, of any size. None if it is no JPEG.

    Raises:
        PlanError: OpenCV is missing.
    """
    image = jpeg.decode(data)
    if image is None or outcome.result is None:
        return None
    result = scaled(outcome.result, outcome.picture, (image.shape[0], image.shape[1]))
    return Painted(outcome.frame, data, jpeg.encode(draw(image, result), WIDEST))
