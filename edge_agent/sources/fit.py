"""A frame becomes the model's picture: once, at the source, so that every node computes on the same pixels.

The law: equal frames give equal pixels, and a frame that has the model's size already is passed on untouched.
"""

import numpy as np
from numpy.typing import NDArray

from edge_agent.sources import opencv
from schemas.plan import Pixels

BORDER = 114  # the grey of YOLO's letterbox


def fit(image: NDArray[np.uint8], pixels: Pixels) -> NDArray[np.uint8]:
    """``image`` (any height, any width, 3; uint8 RGB) as (1, pixels.height, pixels.width, 3).

    ``letterbox`` keeps the aspect and centres the picture on grey, ``stretch`` does not. A view of ``image`` if it fits
    as it is.

    Raises:
        PlanError: it must be resized and OpenCV is missing.
    """
    height, width = image.shape[:2]
    if (height, width) == (pixels.height, pixels.width):
        return image[None]
    if pixels.fit == "stretch":
        return _resize(image, pixels.height, pixels.width)[None]
    height, width = letterboxed(height, width, pixels)
    top, left = (pixels.height - height) // 2, (pixels.width - width) // 2
    canvas = np.full((1, pixels.height, pixels.width, 3), BORDER, np.uint8)
    canvas[0, top : top + height, left : left + width] = _resize(image, height, width)
    return canvas


def letterboxed(height: int, width: int, pixels: Pixels) -> tuple[int, int]:
    """Height and width of the picture inside the letterbox: one side fills it, the other is rounded to nearest."""
    if pixels.height * width <= pixels.width * height:
        return pixels.height, _share(width * pixels.height, height, pixels.width)
    return _share(height * pixels.width, width, pixels.height), pixels.width


def _share(part: int, whole: int, limit: int) -> int:
    return min(limit, max(1, (2 * part + whole) // (2 * whole)))


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
