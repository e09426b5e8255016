"""The engines of few tile classes at a time: a class costs memory while it is alive, and time to load.

Classes that share packed weights with the others and hold little besides (tiles that take most of a block from their
neighbours) come on top, up to a sixth of what the others hold: otherwise they would drive out classes worth more.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from models.engine import Engine

Key: TypeAlias = tuple[int, str]  # block, and name of the class in it
_LIGHT, _ON_TOP = 1 / 4, 1 / 6  # the most that a light class holds; what all of them hold, for each class kept


class Classes:
    """At most ``keep`` engines (and light ones on top); those used longest ago are dropped before the next is loaded."""

    def __init__(self, keep: int) -> None:
        self._keep, self._room = keep, keep * _ON_TOP
        self._alive: OrderedDict[Key, Engine] = OrderedDict()
        self._light: OrderedDict[Key, tuple[float, Engine]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._alive) + len(self._light)

    def has_room(self, key: Key, share: float = 1.0) -> bool:
        """Whether a class is not alive, and may be without another one's end; ``share`` as in ``get``."""
        if key in self._alive or key in self._light:
            return False
        return self._held(share) <= self._room if self._is_light(share) else len(self._alive) < self._keep

    def get(self, key: Key, load: Callable[[], Engine], share: float = 1.0) -> Engine:
        """The engine of a class, which ``load`` makes if it is not alive.

        ``share``: what the class holds in memory of its own, as a part of what an ordinary one holds.
        """
        if self._is_light(share):
            return self._get_light(key, load, share)
        if key not in self._alive:
            while len(self._alive) >= self._keep:
                self._alive.popitem(last=False)
            self._alive[key] = load()
        self._alive.move_to_end(key)
        return self._alive[key]

    def _get_light(self, key: Key, load: Callable[[], Engine], share: float) -> Engine:
        if key not in self._light:
            while self._light and self._held(share) > self._room:
                self._light.popitem(last=False)
            self._light[key] = share, load()
        self._light.move_to_end(key)
        return self._light[key][1]

    def _is_light(self, share: float) -> bool:
        return share <= min(_LIGHT, self._room)

    def _held(self, share: float) -> float:
        """By all light classes, and one more."""
        return sum(other for other, _ in self._light.values()) + share
