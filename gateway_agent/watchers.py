"""Who shows the gateway's board somewhere, and the law between them: nothing that a watcher does ends the gateway.

What a watcher cannot do now, for want of files, memory or a disk, it may do at the next turn; meanwhile frames go on.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gateway_agent.cluster_view import ClusterView
from gateway_agent.controls import Request, State
from models.bundle import Bundle
from schemas.contract import messages as m

_log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Shows the gateway's board somewhere. Called in the gateway's thread, which it must not hold up."""

    def outcome(self, outcome: m.Outcome, now: float) -> None:
        """A frame has ended; the board knows of it already."""

    def pictured(self, frame: str, now: float) -> None:
        """The board has a new picture, of this frame."""

    def tick(self, now: float) -> None:
        """After every event, and at least once a second."""

    def close(self) -> None:
        """The gateway ends."""


class Watched(Protocol):
    """What watchers need of a gateway."""

    board: ClusterView
    models: dict[str, Path]

    @property
    def controls(self) -> State: ...
    @property
    def bundle(self) -> Bundle: ...
    @property
    def connected(self) -> bool: ...
    @property
    def address(self) -> str: ...
    def ask(self, request: Request) -> None: ...
    def want_pictures(self, watcher: Watcher, pictures_s: float) -> None: ...


class Watchers:
    """All of them, as one. A failure is told once, with its trace, until the watcher's turn has gone well again."""

    def __init__(self) -> None:
        self._watchers: list[Watcher] = []
        self._failed: set[int] = set()

    def add(self, watcher: Watcher) -> None:
        self._watchers.append(watcher)

    def outcome(self, outcome: m.Outcome, now: float) -> None:
        self._each(lambda watcher: watcher.outcome(outcome, now))

    def pictured(self, frame: str, now: float) -> None:
        self._each(lambda watcher: watcher.pictured(frame, now))

    def tick(self, now: float) -> None:
        for watcher in self._each(lambda watcher: watcher.tick(now)):
            self._failed.discard(id(watcher))

    def close(self) -> None:
        self._each(lambda watcher: watcher.close())

    def _each(self, do: Callable[[Watcher], None]) -> list[Watcher]:
        """Those with whom it went well."""
        well = []
        for watcher in self._watchers:
            try:
                do(watcher)
                well.append(watcher)
            except Exception:
                if id(watcher) not in self._failed:
                    self._failed.add(id(watcher))
                    _log.exception("%s fails; the gateway goes on without it until it works again", type(watcher).__name__)
        return well
