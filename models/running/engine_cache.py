"""The engines of few tile classes at a time: a class costs memory while it is alive, and time to load.

Frames go through the same classes one after another, so that the one used longest ago is the one needed next: where there
is no room for all, those loaded first stay, and the newest makes room for the next. Only what has not been used for a long
while goes before it. EngineCache that share packed weights with the others and hold little besides (tiles that take most of a
block from their neighbours) come on top, up to a sixth of what the others hold: otherwise they would drive out classes
worth more. Law: whatever is kept here is given back when memory is short; what runs next is loaded all the same.
"""

from collections.abc import Callable
from typing import TypeAlias

from models.running.engine import Engine

ClassKey: TypeAlias = tuple[int, str]  # block, and name of the class in it
_LIGHT, _ON_TOP = 1 / 4, 1 / 6  # the most that a light class holds; what all of them hold, for each class kept
_STALE = 200  # uses of others since


class _Pool:
    """Engines that hold at most ``limit`` together, but one is always there."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._alive: dict[ClassKey, tuple[float, Engine]] = {}  # in the order of their loading
        self._used: dict[ClassKey, int] = {}
        self._uses = 0

    def __len__(self) -> int:
        return len(self._alive)

    def __contains__(self, key: ClassKey) -> bool:
        return key in self._alive

    @property
    def held(self) -> float:
        return sum(share for share, _ in self._alive.values())

    def has_room(self, share: float) -> bool:
        return self.held + share <= self.limit

    def get(self, key: ClassKey) -> Engine:
        self._uses += 1
        self._used[key] = self._uses
        return self._alive[key][1]

    def put(self, key: ClassKey, share: float, engine: Engine) -> None:
        self._alive[key] = share, engine

    def drop(self) -> None:
        """The end of one class."""
        oldest = min(self._alive, key=lambda key: self._used.get(key, 0))
        stale = self._used.get(oldest, 0) + _STALE < self._uses
        del self._alive[oldest if stale else next(reversed(self._alive))]


class EngineCache:
    """At most ``keep`` engines, and light ones on top.

    ``has_memory`` says whether there is memory for a class that holds this share of what an ordinary one does.
    """

    def __init__(self, keep: int, has_memory: Callable[[float], bool] = lambda _: True) -> None:
        self._keep, self._has_memory = keep, has_memory
        self._ordinary, self._light = _Pool(keep), _Pool(keep * _ON_TOP)

    def __len__(self) -> int:
        return len(self._ordinary) + len(self._light)

    def has_room(self, key: ClassKey, share: float = 1.0) -> bool:
        """Whether a class is not alive, and may be without another one's end; ``share`` as in ``get``."""
        pool, share = self._place(share)
        return key not in pool and pool.has_room(share) and self._has_memory(share)

    def get(self, key: ClassKey, load: Callable[[], Engine], share: float = 1.0) -> Engine:
        """The engine of a class, which ``load`` makes if it is not alive.

        ``share``: what the class holds in memory of its own, as a part of what an ordinary one holds.
        """
        pool, share = self._place(share)
        if key not in pool:
            while len(pool) and not pool.has_room(share):
                pool.drop()
            while len(self) and not self._has_memory(share):
                self._drop()
            pool.put(key, share, load())
        return pool.get(key)

    def give_back(self) -> bool:
        """The end of one class, and of its place, until ``regrow``; False: there is none."""
        if not len(self):
            return False
        self._drop()
        self._ordinary.limit = max(self._ordinary.held, 1.0)
        return True

    def regrow(self) -> None:
        """One that was given back may come again."""
        self._ordinary.limit = min(self._ordinary.limit + 1, self._keep)

    def _drop(self) -> None:
        (self._light if len(self._light) else self._ordinary).drop()

    def _place(self, share: float) -> tuple[_Pool, float]:
        """Where a class belongs, and what it counts there."""
        if share <= min(_LIGHT, self._light.limit):
            return self._light, share
        return self._ordinary, max(share, 1.0)
