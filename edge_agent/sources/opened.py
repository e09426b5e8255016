"""Cameras that OpenCV opens: a V4L2 device, an RTSP stream. And a clip that is shown at its own pace.

The law: OpenCV says only yes or no, so whatever can be told about a failure is looked up here; and FFmpeg's options,
which OpenCV takes from the environment alone, are set for the time of one opening.
"""

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_agent.sources.frame import Image, Source
from edge_agent.sources.live import EndOfClip
from models.results import opencv
from schemas.contract.errors import PlanError
from schemas.contract.redact import redact

_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_opening = threading.Lock()


class Opened:
    """A camera behind OpenCV's VideoCapture; ``name`` may be shown. Its timeouts were given when it was opened."""

    period_s = 0.0

    def __init__(self, capture: Any, cv2: Any, name: str) -> None:
        self._capture, self._cv2, self._name = capture, cv2, name

    def read(self, timeout_s: float) -> Image | None:
        """The next frame; see ``Camera``."""
        try:
            found, image = self._capture.read()
        except self._cv2.error:
            found, image = False, None
        if not found:
            raise PlanError(f"source {self._name!r} gives no more frames: check camera and cable")
        rgb: Image = self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB)
        return rgb

    def close(self) -> None:
        self._capture.release()


def open_device(path: Path, name: str, width: int, height: int, fps: int) -> Opened:
    """The V4L2 device ``path``, as JPEG if it can; 0 leaves size or rate to it, and it chooses the nearest that it has.

    Raises:
        PlanError: there is no such device, it may not be opened or is in use, no OpenCV.
    """
    cv2 = opencv.load(f"the camera {name!r}")
    try:
        is_device = stat.S_ISCHR(path.stat().st_mode)
    except OSError as error:
        raise PlanError(
            f"source {name!r}: no device {redact(str(path))!r} ({error.strerror}); see v4l2-ctl --list-devices"
        ) from None
    if not is_device:
        raise PlanError(f"source {name!r}: {redact(str(path))!r} is not a device; see v4l2-ctl --list-devices")
    if not os.access(path, os.R_OK | os.W_OK):
        raise PlanError(
            f"source {name!r} may not be opened by this user: sudo usermod -aG video USER, and log in again"
        )
    capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
    if not capture.isOpened():
        capture.release()
        raise PlanError(f"source {name!r} does not open: it is in use or not a camera; see v4l2-ctl --device {path} --all")
    if width or fps:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))  # raw pictures of this rate overload USB 2
    for prop, value in (
        (cv2.CAP_PROP_FRAME_WIDTH, width),
        (cv2.CAP_PROP_FRAME_HEIGHT, height),
        (cv2.CAP_PROP_FPS, fps),
    ):
        if value:
            capture.set(prop, value)
    return Opened(capture, cv2, name)


def open_stream(url: str, name: str, timeout_s: float) -> Opened:
    """The RTSP stream ``url``, over TCP. ``timeout_s`` holds for the opening and for every read.

    Raises:
        PlanError: it does not open, no OpenCV.
    """
    cv2 = opencv.load(f"the stream {name!r}")
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        int(timeout_s * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        int(timeout_s * 1000),
    ]
    with _ffmpeg_options("rtsp_transport;tcp"):
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        capture.release()
        raise PlanError(f"source {name!r} does not open: check host, port, path, user and password of the camera")
    return Opened(capture, cv2, name)


@contextlib.contextmanager
def _ffmpeg_options(text: str) -> Iterator[None]:
    """Set for captures that are opened meanwhile; a user's own setting is respected."""
    with _opening:
        if _OPTIONS in os.environ:
            yield
            return
        os.environ[_OPTIONS] = text
        try:
            yield
        finally:
            del os.environ[_OPTIONS]


class Clip:
    """A video or a drawn scene as a camera that gives its frames in order, ``rate`` of them a second."""

    def __init__(self, clip: Source, rate: float) -> None:
        self._clip, self._frames, self.period_s = clip, iter(clip.frames()), 1.0 / rate

    def read(self, timeout_s: float) -> Image:
        """The next frame. Raises EndOfClip."""
        for image in self._frames:
            return image
        raise EndOfClip

    def close(self) -> None:
        self._clip.close()
