"""The motion gate: frames of a still scene are not offered, so that no node infers what has not changed.

The law: the first frame passes, then every frame with motion, and one when ``still_s`` seconds have gone without any.
Files and folders have seconds of their own, so that the same frames pass on every machine and in every run.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from edge_agent.sources.frame import Image, Shot, Source, is_live, shots
from models.results import opencv

WIDTH = 160  # pixels of the copy that is looked at
MOVED = 0.004  # the part of it that must differ from the background


class Motion:
    """Tells motion by background subtraction: OpenCV's MOG2 (Zivkovic, 2004)."""

    def __init__(self) -> None:
        """Raises PlanError without OpenCV."""
        self._cv2 = opencv.load("the motion gate")
        self._background = self._cv2.createBackgroundSubtractorMOG2(history=200, varThreshold=25, detectShadows=False)

    def seen(self, image: Image) -> bool:
        """Whether ``image`` (RGB) differs from the scene so far."""
        height = max(1, image.shape[0] * WIDTH // image.shape[1])
        small = self._cv2.resize(image, (WIDTH, height), interpolation=self._cv2.INTER_AREA)
        grey = self._cv2.GaussianBlur(self._cv2.cvtColor(small, self._cv2.COLOR_RGB2GRAY), (5, 5), 0)
        moved = self._background.apply(grey)
        return bool(np.count_nonzero(moved) >= MOVED * moved.size)


class MotionFilter:
    """``source`` without its still frames. ``rate`` (frames a second) is the clock of one that is not live."""

    def __init__(self, source: Source, still_s: float, rate: float = 1.0) -> None:
        """Raises PlanError without OpenCV."""
        opencv.load("the motion gate")
        self._source, self._still_s, self._rate, self.live = source, still_s, rate, is_live(source)
        self._skipped = 0

    def shots(self, stopped: Callable[[], bool]) -> Iterator[Shot]:
        """Frames that pass; see ``Stamped``."""
        motion, passed_at = Motion(), float("-inf")
        for index, shot in enumerate(shots(self._source, stopped)):
            seconds = shot.at if self.live else index / self._rate
            moved = motion.seen(shot.image)
            if moved or seconds >= passed_at + self._still_s:
                passed_at = seconds
                yield replace(shot, skipped=self._skipped)
            else:
                self._skipped += 1

    def frames(self) -> Iterator[Image]:
        """RGB images; see ``Source``."""
        return (shot.image for shot in self.shots(lambda: False))

    def close(self) -> None:
        self._source.close()
