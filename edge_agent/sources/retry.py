"""When a live source is opened anew: its line is live, or it waits for the next try. Knows no clock and no thread.

The law: a line that has no frame for ``stall_s`` is lost; between a loss and the next try lie 1 to 30 s, drawn with
full jitter below a ceiling that doubles (Brooker, "Exponential Backoff And Jitter", 2015); and every outage is told
twice, when it begins and when it is over, however many tries it takes.
"""

from collections.abc import Callable

FIRST_S = 2.0  # the ceiling of the first wait
LEAST_S, MOST_S = 1.0, 30.0


class CameraRetry:
    """One camera's line, live from ``now`` on. ``random`` draws from [0, 1)."""

    def __init__(self, now: float, stall_s: float, random: Callable[[], float]) -> None:
        self._stall_s, self._random = stall_s, random
        self._open = True
        self._since = now  # the last frame, or the opening before there was one
        self._opened = now
        self._retry_at = now
        self._tries = 0
        self._lost_at: float | None = None

    def deadline(self) -> float:
        """When ``stalled`` or ``due`` becomes true unless something happens before."""
        return self._since + self._stall_s if self._open else self._retry_at

    def stalled(self, now: float) -> bool:
        """Whether an open line has had no frame for too long: it should be closed and reported ``lost``."""
        return self._open and now >= self.deadline()

    def due(self, now: float) -> bool:
        """Whether a closed line should be opened again."""
        return not self._open and now >= self._retry_at

    def opened(self, now: float) -> None:
        """It was opened again; it is back only with its first frame."""
        self._open, self._since, self._opened = True, now, now

    def frame(self, now: float) -> str | None:
        """A frame has come. Returns what to tell if that ends an outage."""
        self._since = now
        if now - self._opened >= MOST_S:
            self._tries = 0
        if self._lost_at is None:
            return None
        outage_s, self._lost_at = now - self._lost_at, None
        return f"is back after {outage_s:.0f} s"

    def lost(self, now: float, reason: str) -> str | None:
        """It was closed, or could not be opened. Returns what to tell if that begins an outage."""
        ceiling = min(MOST_S, FIRST_S * 2.0 ** min(self._tries, 8))
        self._tries += 1
        self._open, self._retry_at = False, now + LEAST_S + self._random() * (ceiling - LEAST_S)
        if self._lost_at is not None:
            return None
        self._lost_at = now
        return f"is lost: {reason}; trying again until it is back"
