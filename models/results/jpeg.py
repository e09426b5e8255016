"""JPEG pictures that come and go over the network.

The law: nothing is decoded that is no JPEG or has more than ``MOST_PIXELS`` by its header (ITU-T T.81, B.2.2), and
nothing comes out of a truncated one: OpenCV refuses it when it decodes from memory.
"""

import numpy as np
from numpy.typing import NDArray

from models.results import opencv

MOST_BYTES = 16 << 20
MOST_PIXELS = 64_000_000
_SEGMENTS = 10_000  # before the frame header, fill bytes among them; cameras write some tens
_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15


def decode(data: bytes) -> NDArray[np.uint8] | None:
    """RGB image; None if ``data`` are no whole JPEG picture of a size that we accept. Raises PlanError without OpenCV."""
    cv2 = opencv.load("a JPEG picture")
    if not data.startswith(b"\xff\xd8") or not 0 < pixels(data) <= MOST_PIXELS:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    if image is None:
        return None
    rgb: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb


def encode(image: NDArray[np.uint8], widest: int, quality: int = 80) -> bytes:
    """An RGB image as JPEG, shrunk to ``widest`` pixels if it is wider.

    Raises:
        PlanError: OpenCV is missing.
    """
    cv2 = opencv.load("a JPEG picture")
    height, width = image.shape[:2]
    if width > widest:
        size = (widest, max(1, round(height * widest / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    written: NDArray[np.uint8] = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    return written.tobytes()


def pixels(data: bytes) -> int:
    """Width times height by the frame header; 0 if there is none."""
    at = 2
    for _ in range(_SEGMENTS):
        if at + 9 > len(data) or data[at] != 0xFF:
            break
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if kind == 0xFF:  # a fill byte
            at += 1
        elif kind in _HEADERS:
            return int.from_bytes(data[at + 5 : at + 7], "big") * int.from_bytes(data[at + 7 : at + 9], "big")
        else:
            at += 2 + length
    return 0
