"""What a source is, and a frame with the time at which it was taken."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from schemas.contract.results import Result

Image = NDArray[np.uint8]


class Source(Protocol):
    """A sequence of frames."""

    def frames(self) -> Iterator[Image]:
        """RGB images (height, width, 3), from the first on; each belongs to the caller. May be endless.

        A live source gives what comes next instead of its first frame.

        Raises:
            PlanError: a frame cannot be read (a damaged picture, a file that vanished).
        """

    def close(self) -> None:
        """End every running ``frames()`` before its next frame. May be called from another thread, and twice."""


@dataclass(frozen=True)
class Shot:
    """One RGB image (height, width, 3) and when it was taken: ``at`` monotonic seconds, ``utc`` seconds since 1970.

    ``dropped`` and ``skipped`` count what came before it since the source was opened: frames that nobody took in time,
    and frames without motion. ``ticket`` names it to the source that wants to know what it shows; 0: nobody does.
    """

    image: Image
    at: float
    utc: float
    dropped: int = 0
    skipped: int = 0
    ticket: int = 0


@runtime_checkable
class Stamped(Protocol):
    """A source that knows more of its frames than their pixels. ``live``: it does not wait for those who ask."""

    live: bool

    def shots(self, stopped: Callable[[], bool]) -> Iterator[Shot]:
        """Frames until the source ends or is closed, or soon after ``stopped()`` is true."""


@runtime_checkable
class Asked(Protocol):
    """A source of pictures about which somebody asks: he waits ``timeout_s`` seconds for what each shows."""

    timeout_s: float

    @property
    def unanswered(self) -> int:
        """How many got no answer in time."""

    def runs(self, model: str) -> None:
        """The model's name that answers from now on; empty: none does."""

    def answer(self, ticket: int, result: Result | None) -> None:
        """What a shot shows; None: there is no result."""


def is_live(source: Source) -> bool:
    """Whether its frames come by themselves, so that one should be taken only when there is room for it."""
    return isinstance(source, Stamped) and source.live


def shots(source: Source, stopped: Callable[[], bool]) -> Iterator[Shot]:
    """The frames of any source; those of a file are stamped when they are read."""
    return source.shots(stopped) if isinstance(source, Stamped) else _read(source, stopped)


def _read(source: Source, stopped: Callable[[], bool]) -> Iterator[Shot]:
    for image in source.frames():
        if stopped():
            return
        yield Shot(image, time.monotonic(), time.time())
