"""The strips of the frames in flight on this node: kept until their taker runs, never more than so many bytes.

Law: what is missing here is no error, its taker computes it; so everything may be dropped at any time.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from models.tiling.reuse import Place

Tile: TypeAlias = tuple[int, int]  # block and index
_MOST_FRAMES = 8  # an edge has two in flight; nobody tells it to forget one


@dataclass
class _Frame:
    strips: dict[Tile, dict[Place, np.ndarray]] = field(default_factory=dict)  # by taker
    begun: set[Tile] = field(default_factory=set)  # takers that need no strips any more

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for strips in self.strips.values() for array in strips.values())


class Strips:
    """Strips by frame and by the tile that takes them, at most ``limit`` bytes: the oldest frame's are dropped first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: OrderedDict[str, _Frame] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes of all strips."""
        return sum(frame.nbytes for frame in self._frames.values())

    def wants(self, frame: str, taker: Tile) -> bool:
        """Whether ``taker`` has not run here, so that strips for it are of use."""
        return frame not in self._frames or taker not in self._frames[frame].begun

    def put(self, frame: str, taker: Tile, strips: Mapping[Place, np.ndarray]) -> None:
        """Keeps strips for ``taker``."""
        self._frame(frame).strips.setdefault(taker, {}).update(strips)
        while self.nbytes > self._limit:
            oldest = next(held for held in self._frames.values() if held.strips)
            oldest.strips.clear()

    def take(self, frame: str, taker: Tile) -> dict[Place, np.ndarray]:
        """All strips that are here for ``taker``, which runs now: they are kept no longer."""
        held = self._frame(frame)
        held.begun.add(taker)
        return held.strips.pop(taker, {})

    def forget(self, frame: str) -> None:
        """Drops all of a frame."""
        self._frames.pop(frame, None)

    def _frame(self, name: str) -> _Frame:
        held = self._frames.setdefault(name, _Frame())
        if len(self._frames) > _MOST_FRAMES:
            self._frames.popitem(last=False)
        return held
