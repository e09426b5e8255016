"""A frame becomes the model's picture: once, at the source, so that every node computes on the same pixels.

The law: equal frames give equal pixels, and a frame that has the model's size already is passed on untouched.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from models.results import opencv
from models.results.geometry import placed
from schemas.contract.plan import Pixels

BORDER = 114  # the grey of YOLO's letterbox
_LUMINANCE = np.array([299, 587, 114], np.uint32)  # of red, green and blue, in thousandths
_OPAQUE = 255


class Clip:
    """Pictures one after another become the model's input: itself, or with those before it.

    A clip ends with the newest picture and has every ``pixels.step``-th before it; for those before the first it has the
    first.
    """

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels
        self._seen: deque[NDArray[np.uint8]] = deque(maxlen=max(pixels.frames - 1, 0) * pixels.step + 1)

    def add(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``image`` as in ``fit`` -> uint8 of ``pixels.shape``.

        Raises:
            PlanError: as ``fit``.
        """
        self._seen.append(fit(image, self._pixels))
        if not self._pixels.frames:
            return self._seen[-1]
        ages = range((self._pixels.frames - 1) * self._pixels.step, -1, -self._pixels.step)
        return np.stack([self._seen[max(len(self._seen) - 1 - age, 0)] for age in ages], axis=1)


def fit(image: NDArray[np.uint8], pixels: Pixels) -> NDArray[np.uint8]:
    """``image`` (any height, any width, 3; uint8 RGB) as (1, pixels.height, pixels.width, pixels.channels).

    Channels are in the model's order; grey is the luminance of ITU-R BT.601, a fourth channel full opacity. ``letterbox``
    keeps the aspect and centres the picture on grey, ``stretch`` does not. A view of ``image`` if it fits as it is.

    Raises:
        PlanError: it must be resized and OpenCV is missing.
    """
    where = placed(image.shape[0], image.shape[1], pixels)
    image = _resize(image, where.height, where.width)
    if pixels.channels == 1:
        image = ((image @ _LUMINANCE + 500) // 1000).astype(np.uint8)[..., None]
    elif pixels.colour == "bgr":
        image = np.ascontiguousarray(image[..., ::-1])
    if image.shape[:2] == (pixels.height, pixels.width) and pixels.channels != 4:
        return image[None]
    canvas = np.full((1, pixels.height, pixels.width, pixels.channels), BORDER, np.uint8)
    canvas[0, where.y0 : where.y1, where.x0 : where.x1, :3] = image
    canvas[..., 3:] = _OPAQUE
    return canvas


def _resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Averages areas when neither side grows, interpolates linearly otherwise."""
    old_height, old_width = image.shape[:2]
    if (old_height, old_width) == (height, width):
        return image
    cv2 = opencv.load(f"resizing {old_width}x{old_height} frames to {width}x{height}")
    shrinks = height <= old_height and width <= old_width
    resized: NDArray[np.uint8] = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return resized
