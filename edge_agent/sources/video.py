"""Frames of a video file, decoded by OpenCV's FFmpeg in the order in which they are shown.

The law: every ``frames()`` decodes from the first frame on and yields all of them, none twice, none dropped.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.results import opencv
from schemas.contract.errors import PlanError


class Video:
    """The frames of one file, again and again if ``loop``. ``rate``: frames a second that the file is meant for."""

    def __init__(self, path: Path, loop: bool = False) -> None:
        """Raises PlanError if ``path`` has no first frame."""
        self._path, self._loop, self._closed = path, loop, False
        self._cv2 = opencv.load(f"the video {str(path)!r}")
        self.rate = 25.0
        next(self._play())

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """RGB images; see ``Source``."""
        yield from self._play()
        while self._loop and not self._closed:
            yield from self._play()

    def close(self) -> None:
        self._closed = True

    def _play(self) -> Iterator[NDArray[np.uint8]]:
        path = str(self._path.absolute())  # FFmpeg takes what stands before a colon for a scheme
        capture = self._cv2.VideoCapture(path, self._cv2.CAP_FFMPEG)
        try:
            image = self._read(capture)
            if image is None:
                name = str(self._path)
                raise PlanError(f"{name!r} is not a readable video; check or convert the file (H.264 in mp4 works)")
            rate = capture.get(self._cv2.CAP_PROP_FPS)
            self.rate = rate if 0.1 <= rate <= 1000 else self.rate
            while image is not None and not self._closed:
                yield image
                image = self._read(capture)
        finally:
            capture.release()

    def _read(self, capture: Any) -> NDArray[np.uint8] | None:
        try:
            found, image = capture.read()
        except self._cv2.error:  # a damaged stream whose pictures claim more than there is memory
            return None
        rgb: NDArray[np.uint8] | None = self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB) if found else None
        return rgb
