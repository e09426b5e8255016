"""Pictures of a folder in the order of their names, or one picture file.

The law: every picture is yielded whole or refused by name. Pictures are decoded from memory: read from a file, OpenCV
fills the missing part of a truncated JPEG with grey.
"""

import zlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.results import opencv
from schemas.contract.errors import PlanError
from schemas.host.files import read_file

MOST_BYTES = 256 << 20
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Folder:
    """Pictures one after another, again and again if ``loop``."""

    def __init__(self, paths: Sequence[Path], loop: bool = False) -> None:
        """Raises PlanError if the first picture cannot be read."""
        self._paths, self._loop, self._closed = tuple(paths), loop, False
        read_picture(self._paths[0])

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """RGB images; see ``Source``."""
        while True:
            for path in self._paths:
                if self._closed:
                    return
                yield read_picture(path)
            if not self._loop:
                return

    def close(self) -> None:
        self._closed = True


def pictures_in(folder: Path, pattern: str = "") -> list[Path]:
    """Files of ``folder`` sorted by name: those that match ``pattern``, or by default every visible picture.

    Raises:
        PlanError: there is none, or the folder cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise PlanError(f"the folder {str(folder)!r} cannot be read: {error.strerror}") from error
    if pattern:
        found = [path for path in files if fnmatchcase(path.name, pattern)]
    else:
        found = [path for path in files if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not found:
        wanted = f"that match {pattern!r}" if pattern else f"({' '.join(SUFFIXES)})"
        raise PlanError(f"the folder {str(folder)!r} has no pictures {wanted}; choose another folder or ?glob=")
    return found


def read_picture(path: Path) -> NDArray[np.uint8]:
    """The picture as RGB (height, width, 3), turned as its EXIF data say.

    Raises:
        PlanError: it cannot be read, is damaged, or OpenCV is missing.
    """
    cv2 = opencv.load(f"the picture {str(path)!r}")
    data = read_file(path, MOST_BYTES, "picture")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data and _png_holds(data) else None
    except cv2.error:  # larger than OpenCV allows, for one
        image = None
    if image is None:
        raise PlanError(f"the picture {str(path)!r} is damaged or not a picture: repair or remove it")
    rgb: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb


def _png_holds(data: bytes) -> bool:
    """Whether a PNG has every chunk up to IEND with its checksum (section 5.3): libpng would print what is wrong."""
    at, kind = 8, b"" if data.startswith(b"\x89PNG\r\n\x1a\n") else b"IEND"
    while kind != b"IEND":
        length = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if len(data) < end + 4 or zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        at = end + 4
    return True
