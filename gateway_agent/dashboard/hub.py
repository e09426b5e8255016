"""Where the gateway's thread lays snapshots down and the server's loop picks them up.

The law: the gateway's thread waits for nobody. A reader gets the newest snapshot and never a queue of old ones, however
slow it is. This file alone knows both threads.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable

from gateway_agent.dashboard.record import Entry, Snapshot

LINES = 200  # of the log
LONGEST_LINE = 600
LOOK_S = 10.0  # who asks for JSON or a picture counts as a reader for so long


class Hub:
    """``publish``, ``beat``, ``watched`` and ``close`` are for the gateway's thread, the rest for the server's loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.latest: Snapshot | None = None
        self.log = LogTail()
        self.closed = False
        self.readers = 0  # who listens to events at this moment
        self.connected = False  # to the broker
        self._clock = clock
        self._beat_at = clock()
        self._looked_at = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()

    def look(self) -> None:
        """Somebody has asked for what the cluster looks like, and may ask again."""
        self._looked_at = self._clock()

    @property
    def watched(self) -> bool:
        """Whether somebody looks at this moment, or has just done."""
        return self.readers > 0 or self._clock() < self._looked_at + LOOK_S

    def publish(self, snapshot: Snapshot) -> None:
        """From now on this is what the cluster looks like."""
        self.latest = snapshot
        self._call()

    def beat(self, connected: bool) -> None:
        """The gateway's loop is alive."""
        self._beat_at, self.connected = self._clock(), connected

    def silent_s(self) -> float:
        """How long the gateway's loop has made no turn."""
        return self._clock() - self._beat_at

    def close(self) -> None:
        """There will be no more."""
        self.closed = True
        self._call()

    def bind(self) -> None:
        """The running loop is where readers wait."""
        self._loop = asyncio.get_running_loop()

    async def after(self, number: int, timeout_s: float) -> Snapshot | None:
        """The newest snapshot, once that is newer than ``number``; None if it is not, ``timeout_s`` later or at the end."""
        if not self.closed and (self.latest is None or self.latest.number <= number):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), timeout_s)
        latest = self.latest
        return latest if latest is not None and latest.number > number and not self.closed else None

    def _call(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # that loop has ended
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class LogTail(logging.Handler):
    """The last lines of this process's log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[Entry] = deque(maxlen=LINES)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, which holds this handler's lock."""
        self._count += 1
        text = record.getMessage()[:LONGEST_LINE]
        line = {"number": self._count, "at": record.created, "level": record.levelname.lower(), "text": text}
        self.lines.append(Entry(self._count, json.dumps(line)))

    def since(self, number: int) -> list[Entry]:
        """Lines after ``number``, oldest first."""
        with self.lock or contextlib.nullcontext():
            return [line for line in self.lines if line.number > number]
