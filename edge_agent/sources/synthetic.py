"""Frames that are drawn: textured shapes that move over a moving texture. Needs numpy alone.

The law: frame ``i`` depends on width, height, seed and ``i`` only, in integer arithmetic and with numpy's frozen
generator (``RandomState``), so it is the same on every machine; and no two frames are equal, because a patch of noise
is drawn afresh for each.
"""

from collections.abc import Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.uri import Uri

SHAPES = 6
CELL = 16  # pixels of a patch of the background


class Drawn:
    """Frames that ``draw`` makes by number: ``frames`` of them, endless if that is 0."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._closed = False

    def draw(self, index: int) -> NDArray[np.uint8]:
        """Frame ``index`` (from 0), RGB."""
        raise NotImplementedError

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """RGB images; see ``Source``."""
        for index in range(self._frames) if self._frames else count():
            if self._closed:
                return
            yield self.draw(index)

    def close(self) -> None:
        self._closed = True


class Synthetic(Drawn):
    """Images of ``width x height`` pixels."""

    def __init__(self, width: int = 640, height: int = 480, seed: int = 1, frames: int = 0) -> None:
        super().__init__(frames)
        self._width, self._height, self._seed = width, height, seed
        random = np.random.RandomState(seed)
        coarse = random.randint(0, 192, (height // CELL + 1, width // CELL + 1, 3), np.uint8)
        fine = random.randint(0, 64, (height, width, 3), np.uint8)
        enlarged = coarse.repeat(CELL, axis=0).repeat(CELL, axis=1)[:height, :width]
        self._ground: NDArray[np.uint8] = enlarged + fine
        largest = max(2, min(width, height) // 3)
        self._sizes = random.randint(largest // 2, largest + 1, SHAPES)
        self._starts = random.randint(0, width + height, (SHAPES + 1, 2))
        self._steps = random.randint(1, 9, (SHAPES + 1, 2))
        self._colours = random.randint(0, 256, (SHAPES, 2, 3), np.uint8)

    @classmethod
    def of(cls, uri: Uri) -> "Synthetic":
        """Set by a URI's parameters. Raises PlanError if one is unknown or out of range."""
        uri.refuse_others("scene", "width", "height", "seed", "frames", "fps")
        width, height = uri.number("width", 640, 1, 16384), uri.number("height", 480, 1, 16384)
        return cls(width, height, uri.number("seed", 1, 0, 2**32 - 1), uri.number("frames", 0, 0, 10**9))

    def draw(self, index: int) -> NDArray[np.uint8]:
        """Frame ``index`` (from 0)."""
        image = np.roll(self._ground, (index, 2 * index), axis=(0, 1))
        for shape, size in enumerate(self._sizes):
            self._paint(image, shape, int(size), index)
        noise = np.random.RandomState([self._seed, index]).randint(0, 256, (64, 64, 3), np.uint8)
        y, x = self._place(SHAPES, index, min(64, self._height), min(64, self._width))
        patch = image[y : y + 64, x : x + 64]
        patch[...] = noise[: patch.shape[0], : patch.shape[1]]
        return image

    def _paint(self, image: NDArray[np.uint8], shape: int, size: int, index: int) -> None:
        """A checked square or, for odd ``shape``, disc of ``size`` pixels."""
        y, x = self._place(shape, index, size, size)
        ys, xs = np.ogrid[:size, :size]
        checks = (ys // 8 + xs // 8) % 2
        disc = (2 * ys - size + 1) ** 2 + (2 * xs - size + 1) ** 2 <= size * size
        inside = disc if shape % 2 else np.ones((size, size), bool)
        target = image[y : y + size, x : x + size]
        inside, checks = inside[: target.shape[0], : target.shape[1]], checks[: target.shape[0], : target.shape[1]]
        target[inside] = self._colours[shape][checks[inside]]

    def _place(self, shape: int, index: int, height: int, width: int) -> tuple[int, int]:
        """Upper left corner of a shape that bounces between the borders."""
        rooms = (self._height - height, self._width - width)
        way = self._starts[shape] + self._steps[shape] * index
        y, x = (_bounce(int(at), room) for at, room in zip(way, rooms))
        return y, x


def _bounce(at: int, room: int) -> int:
    """Triangular wave from 0 to ``room`` and back."""
    return abs((at + room) % (2 * room) - room) if room > 0 else 0
