"""Where frames come from. A source yields uint8 RGB images in order; a URI says which kind it is and how it is set.

The law: what a source yields depends on its URI and the files alone, so opening it twice gives equal frames. OpenCV is
imported by the kinds that need it, when they are opened, and by nothing else.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.uri import Uri, parse
from schemas.errors import PlanError

Image = NDArray[np.uint8]


class Source(Protocol):
    """A sequence of frames."""

    def frames(self) -> Iterator[Image]:
        """RGB images (height, width, 3), from the first on; each belongs to the caller. May be endless.

        Raises:
            PlanError: a frame cannot be read (a damaged picture, a file that vanished).
        """

    def close(self) -> None:
        """End every running ``frames()`` before its next frame. May be called from another thread, and twice."""


def open_source(uri: str) -> Source:
    """The source that ``uri`` names; its first frame has been read or is certain.

    ``file:///clip.mp4?loop=1`` (a video or one picture), ``dir:///images?glob=*.jpg&loop=1`` (pictures by name),
    ``synthetic://?scene=digits&width=640&height=480&seed=1&frames=8`` (drawn; endless without ``frames``), or the
    bare path of a file or folder. ``file://clip.mp4`` is a relative path.

    Raises:
        PlanError: unknown scheme or parameter, a missing or unreadable file, no OpenCV where it is needed.
    """
    where = parse(uri)
    kind = where.scheme or ("dir" if where.path.is_dir() else "file")
    if kind == "synthetic":
        return _synthetic(where)
    if kind == "dir":
        return _folder(where)
    if kind == "file":
        return _file(where)
    raise PlanError(f"source {uri!r} has the unknown scheme {kind!r}: use file://, dir://, synthetic:// or a path")


def _synthetic(where: Uri) -> Source:
    scene = where.word("scene", "shapes")
    if scene == "digits":
        from edge_agent.sources.digits import Digits

        return Digits.of(where)
    if scene != "shapes":
        raise PlanError(f"source {where.text!r}: there is no scene {scene!r}; use shapes or digits")
    from edge_agent.sources.synthetic import Synthetic

    return Synthetic.of(where)


def _folder(where: Uri) -> Source:
    if not where.path.is_dir():
        raise PlanError(f"source {where.text!r}: {str(where.path)!r} is not a folder; name one that exists")
    from edge_agent.sources.folder import Folder, pictures_in

    pattern = where.word("glob", "")
    loop = where.flag("loop")
    where.refuse_others("glob", "loop")
    return Folder(pictures_in(where.path, pattern), loop)


def _file(where: Uri) -> Source:
    from edge_agent.sources.folder import SUFFIXES, Folder
    from edge_agent.sources.video import Video

    _expect_file(where.text, where.path)
    loop = where.flag("loop")
    where.refuse_others("loop")
    return Folder([where.path], loop) if where.path.suffix.lower() in SUFFIXES else Video(where.path, loop)


def _expect_file(text: str, path: Path) -> None:
    if path.is_dir():
        raise PlanError(f"source {text!r} is a folder; use dir://{path}")
    if not path.is_file():
        raise PlanError(f"source {text!r}: there is no file {str(path)!r}; check the path")
