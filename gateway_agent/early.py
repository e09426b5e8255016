"""Results of frames that their source has not announced: they wait a moment for its word, and then count for nothing.

Only its source opens a frame; but after a restart of the gateway, or on a line that loses messages, a helper may be heard
before it. Law: what waits is bounded in time, in number for each node, and in bytes for all; nobody pushes out another's.
Who was dropped unheard sends again.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np

from schemas.contract.messages import ResultHeader

HELD_S = 6.0  # a source that is silent for longer is dead
RESULTS = 8  # of each node
BYTES = 64 << 20  # of all

Tensors = Mapping[str, np.ndarray]
Result = tuple[ResultHeader, Tensors]


class Early:
    """Results by node, oldest first."""

    def __init__(self) -> None:
        self._held: dict[str, dict[tuple[str, int, int], tuple[ResultHeader, Tensors, float]]] = {}

    def put(self, header: ResultHeader, tensors: Tensors, now: float) -> int:
        """Hold a result; returns how many had to make room. One that comes again keeps its time."""
        own = self._held.setdefault(header.node, {})
        own.setdefault((header.frame, header.block, header.tile), (header, tensors, now + HELD_S))
        dropped = 0
        while len(own) > RESULTS or self.nbytes > BYTES:
            fullest = header.node if len(own) > RESULTS else max(self._held, key=self._bytes_of)
            del self._held[fullest][next(iter(self._held[fullest]))]
            dropped += 1
        return dropped

    def take(self, frames: Collection[str]) -> list[Result]:
        """The source has announced these frames: what waited for them."""
        return [(header, tensors) for header, tensors, _ in self._pop(lambda header, _: header.frame in frames)]

    def expire(self, now: float) -> list[ResultHeader]:
        """What has waited in vain."""
        return [header for header, _, _ in self._pop(lambda _, until: until <= now)]

    def deadline(self) -> float | None:
        """When the next one has waited in vain."""
        return min((until for own in self._held.values() for _, _, until in own.values()), default=None)

    @property
    def nbytes(self) -> int:
        """Bytes of all that waits."""
        return sum(map(self._bytes_of, self._held))

    def _bytes_of(self, node: str) -> int:
        return sum(array.nbytes for _, tensors, _ in self._held[node].values() for array in tensors.values())

    def _pop(self, which: Callable[[ResultHeader, float], bool]) -> list[tuple[ResultHeader, Tensors, float]]:
        found = [
            (node, key) for node, own in self._held.items() for key, (header, _, until) in own.items() if which(header, until)
        ]
        popped = [self._held[node].pop(key) for node, key in found]
        self._held = {node: own for node, own in self._held.items() if own}
        return popped
