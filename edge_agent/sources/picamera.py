"""The Raspberry Pi's camera by picamera2, which comes from apt and not from pip."""

from concurrent import futures
from importlib import import_module
from typing import Any

import numpy as np

from edge_agent.sources.frame import Image
from schemas.contract.errors import PlanError

REMEDY = "sudo apt install python3-picamera2, in a venv made with --system-site-packages"


class PiCamera:
    """Camera ``number``; 0 leaves the rate to it."""

    period_s = 0.0

    def __init__(self, number: int, name: str, width: int, height: int, fps: int) -> None:
        """Raises PlanError if picamera2 is missing, there is no such camera, or it is in use."""
        try:
            module: Any = import_module("picamera2")
        except ImportError as error:
            raise PlanError(f"source {name!r} needs picamera2 ({error}): {REMEDY}") from None
        self._name = name
        self._camera: Any = None
        try:
            self._camera = module.Picamera2(number)
            controls = {"FrameRate": float(fps)} if fps else {}
            main = {"size": (width, height), "format": "BGR888"}  # libcamera's name for R, G, B in memory
            self._camera.configure(self._camera.create_video_configuration(main=main, controls=controls))
            self._camera.start()
        except (RuntimeError, IndexError, OSError, ValueError) as error:
            self.close()
            raise PlanError(
                f"source {name!r} does not open ({_line(error)}): see rpicam-hello --list-cameras, and who else uses it"
            ) from None

    def read(self, timeout_s: float) -> Image | None:
        """The next frame; see ``Camera``."""
        try:
            job = self._camera.capture_array("main", wait=False)
            image: Image = np.ascontiguousarray(job.get_result(timeout=timeout_s))
        except (futures.TimeoutError, TimeoutError):
            return None
        except (RuntimeError, OSError, ValueError) as error:
            raise PlanError(f"source {self._name!r} gives no more frames ({_line(error)}): check its cable") from None
        return image

    def close(self) -> None:
        if self._camera is not None:
            self._camera.stop()
            self._camera.close()
            self._camera = None


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
