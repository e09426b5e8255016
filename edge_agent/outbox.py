"""Results that were computed here and that the gateway has not accepted yet, own tiles and stolen ones.

Law: a result is published at once and again with backoff until it is accepted or its frame has ended; no guarantee
rests on a PUBACK. The box is bounded: a worker that starts no tile while the box is ``full`` loses nothing. The tensors
stay with the caller, by key.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.contract.keys import TaskKey

FIRST_BACKOFF_S = 2.0
LAST_BACKOFF_S = 8.0


@dataclass(frozen=True)
class Held:
    """To be published at ``due`` (monotonic seconds), and ``backoff_s`` later again."""

    due: float
    backoff_s: float = FIRST_BACKOFF_S


class Outbox:
    """The results held, oldest first."""

    def __init__(self, limit: int = 64) -> None:
        self.ignored: Counter[str] = Counter()
        self.dropped = 0
        self._limit = limit
        self._held: dict[TaskKey, Held] = {}

    def put(self, key: TaskKey, now: float) -> list[TaskKey]:
        """Hold a result, due at once. Returns those that had to make room: their tiles must be computed again."""
        if key in self._held:
            self.ignored["result held already"] += 1
            return []
        self._held[key] = Held(now)
        dropped = list(self._held)[: -self._limit]
        for old in dropped:
            del self._held[old]
        self.dropped += len(dropped)
        return dropped

    def due(self, now: float) -> list[TaskKey]:
        """Results to publish now."""
        keys = [key for key, held in self._held.items() if held.due <= now]
        for key in keys:
            backoff_s = self._held[key].backoff_s
            self._held[key] = Held(now + backoff_s, min(2 * backoff_s, LAST_BACKOFF_S))
        return keys

    def accept(self, frame: str, block: int, tiles: Sequence[int], ended: bool) -> list[TaskKey]:
        """The gateway has these tiles, or needs nothing more of the frame. Returns what is held no longer."""
        named = {(frame, block, tile) for tile in tiles}
        keys = [key for key in self._held if key in named or (ended and key[0] == frame)]
        for key in keys:
            del self._held[key]
        if not keys:
            self.ignored["accepted: not held"] += 1  # normal for a source: it hears of what thieves computed, too
        return keys

    def requeue(self, now: float) -> None:
        """The gateway restarted: everything is due at once."""
        self._held = {key: Held(now) for key in self._held}

    def deadline(self) -> float | None:
        """When the next result is due."""
        return min((held.due for held in self._held.values()), default=None)

    @property
    def full(self) -> bool:
        """Whether another result would push one out."""
        return len(self._held) >= self._limit

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)
