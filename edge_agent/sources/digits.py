"""Frames with known digits: two displays that drift before a textured background and count. Drawn with OpenCV.

The law: frame ``i`` and its readings depend on width, height, seed and ``i`` only.
"""

import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.synthetic import Drawn
from edge_agent.sources.uri import Uri, parse
from models.results.opencv import load


class Digits(Drawn):
    """Images of ``width x height`` pixels."""

    def __init__(self, width: int = 640, height: int = 480, seed: int = 1, frames: int = 0) -> None:
        super().__init__(frames)
        load("drawing digits")
        self._width, self._height, self._seed = width, height, seed

    @classmethod
    def of(cls, uri: Uri) -> "Digits":
        """Set by a URI's parameters. Raises PlanError if one is unknown or out of range."""
        uri.refuse_others("scene", "width", "height", "seed", "frames", "fps")
        width, height = uri.number("width", 640, 64, 8192), uri.number("height", 480, 64, 8192)
        return cls(width, height, uri.number("seed", 1, 0, 2**31 - 1), uri.number("frames", 0, 0, 10**9))

    def draw(self, index: int) -> NDArray[np.uint8]:
        """Frame ``index`` (from 0), RGB."""
        return self._scene(index)[0]

    def readings(self, index: int) -> list[str]:
        """What the displays of frame ``index`` say, from top to bottom."""
        return self._scene(index)[1]

    def _scene(self, index: int) -> tuple[NDArray[np.uint8], list[str]]:
        from edge_agent.sources.scenes.scenes import moving_scene

        scene = moving_scene(self._seed, index, self._width, self._height)
        return scene.image, scene.readings


def truth(uri: str, index: int) -> list[str] | None:
    """The readings of frame ``index`` of a source; None if it is not one of these, or leaves frames out."""
    where = parse(uri)
    if where.flag("motion") or "fps" in where.query:
        return None
    if where.scheme != "synthetic" or where.word("scene", "shapes") != "digits":
        return None
    return Digits.of(where).readings(index)
