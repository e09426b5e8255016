"""OpenCV on demand: imported by the first function that needs it, and silent on stderr about bad files.

The callers turn bad files into a PlanError themselves; a user's own settings in ``OPENCV_...`` are respected. A picture
that by its header is larger than ``MOST_PIXELS`` is refused before it is decoded.
"""

import os
from types import ModuleType

from schemas.contract.errors import PlanError
from schemas.host.packages import install

MOST_SIDE = 65535  # as in schemas.contract.messages.Picture
MOST_PIXELS = 1 << 27  # 400 MB as RGB; OpenCV's own limit is 3 GB


def load(purpose: str) -> ModuleType:
    """The module ``cv2``.

    Raises:
        PlanError: it is not installed or cannot be loaded; ``purpose`` says what needs it.
    """
    asked = "OPENCV_LOG_LEVEL" in os.environ
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read when the first video is opened
    for what, most in (("WIDTH", MOST_SIDE), ("HEIGHT", MOST_SIDE), ("PIXELS", MOST_PIXELS)):  # read when it is loaded
        os.environ.setdefault(f"OPENCV_IO_MAX_IMAGE_{what}", str(most))
    try:
        import cv2
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise _refusal(purpose, error) from error
        raise PlanError(f"{purpose} needs OpenCV: {install('camera')}") from error
    except ImportError as error:
        raise _refusal(purpose, error) from error
    module: ModuleType = cv2
    if not asked:
        getattr(module.utils, "logging", module).setLogLevel(0)  # OpenCV 5 moved it from the top
    return module


def _refusal(purpose: str, error: ImportError) -> PlanError:
    reason = str(error).partition("\n")[0]
    return PlanError(f"{purpose} needs OpenCV, which does not load ({reason}): {install('camera')}")
