"""The idle side of an edge: when to ask for somebody's tile, and which tiles that come are ours.

Law: one request is open at a time, and each request id brings at most one tile. A request that was withdrawn (own work
came) or refused (a victim had none) may still bring one: it is leased to us, so it is computed, not wasted. The gateway
parks a request until somebody has work, so an idle thief repeats its own only every ``retry_s``, against loss.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from schemas.contract.messages import new_epoch

RETRY_S = 4.0
FIRST_BACKOFF_S = 0.05
LAST_BACKOFF_S = 1.0
REMEMBERED = 8  # refused requests that may still bring a tile


@dataclass(frozen=True)
class Ask:
    """To publish now: this node can take one tile; ``ahead``: while it still computes another."""

    request: str
    ahead: bool


@dataclass(frozen=True)
class Asked:
    """Asked; asked again at this time (monotonic seconds)."""

    ahead: bool
    retry_at: float


@dataclass(frozen=True)
class Withdrawn:
    """Own work came. The gateway may not know: asked again under the same id when hungry again."""


@dataclass(frozen=True)
class Refused:
    """A victim had nothing. Another one may have had: two can be asked when a forward seemed lost."""


State: TypeAlias = Asked | Withdrawn | Refused


class Thief:
    """Requests by id; at most one is Asked or Withdrawn, and it is the one to ask again."""

    def __init__(self, new_request: Callable[[], str] = new_epoch, retry_s: float = RETRY_S) -> None:
        self.ignored: Counter[str] = Counter()
        self._new_request = new_request
        self._retry_s = retry_s
        self._requests: dict[str, State] = {}
        self._hungry = False
        self._ask_after = float("-inf")
        self._backoff_s = FIRST_BACKOFF_S

    def poll(self, hungry: bool, ahead: bool, now: float) -> Ask | None:
        """What to publish now. To be called after every message and at every deadline.

        ``hungry``: no tile waits here and none is held; ``ahead``: a tile is being computed.
        """
        self._hungry = hungry
        request = self._current()
        if not hungry:
            if request:
                self._requests[request] = Withdrawn()
            return None
        if request is None:
            if now < self._ask_after:
                return None
            request = self._new_request()
        else:
            state = self._requests[request]
            if isinstance(state, Asked) and state.ahead == ahead and now < state.retry_at:
                return None
        self._requests[request] = Asked(ahead, now + self._retry_s)
        return Ask(request, ahead)

    def tile(self, request: str) -> bool:
        """A tile came under ``request``. False: not ours to compute (repeated, or of a time before a restart)."""
        if self._requests.pop(request, None) is None:
            self.ignored["tile of no request"] += 1
            return False
        self._backoff_s = FIRST_BACKOFF_S
        self._ask_after = float("-inf")
        self._hungry = False  # until the next poll says otherwise
        return True

    def none(self, request: str, now: float) -> None:
        """The victim had nothing: ask again under a new id, soon and then ever less often."""
        if request != self._current():
            self.ignored["none of no request"] += 1
            return
        del self._requests[request]
        self._requests[request] = Refused()
        for old in [r for r, state in self._requests.items() if isinstance(state, Refused)][:-REMEMBERED]:
            del self._requests[old]
        self._ask_after = now + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, LAST_BACKOFF_S)

    def repeat(self, now: float) -> None:
        """Whoever had parked the request is gone: it is asked again with the next poll."""
        request = self._current()
        state = self._requests[request] if request else None
        if request and isinstance(state, Asked):
            self._requests[request] = Asked(state.ahead, now)

    def deadline(self) -> float | None:
        """When to poll again if nothing happens; None while not hungry."""
        if not self._hungry:
            return None
        request = self._current()
        state = self._requests[request] if request else None
        return state.retry_at if isinstance(state, Asked) else self._ask_after

    def _current(self) -> str | None:
        return next((r for r, state in self._requests.items() if not isinstance(state, Refused)), None)
