"""One thread around the engine: it releases the interpreter lock while a tile computes, so the loop goes on."""

import logging
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from edge_agent.node import Compute
from models.running.runner import TileRunner
from schemas.contract.errors import DtError
from schemas.contract.keys import TaskKey
from schemas.host.process import give_way

RELIEVE_S = 1.0
TOLD_S = 600.0  # so often it is said that memory is short
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Computed:
    """A tile's outputs and the seconds in ``worker``'s engine (loading its class included); or why there are none.

    ``whole`` and ``reuse`` as in ``Compute``; ``reduced``: it has taken what its neighbours computed before.
    """

    worker: "Worker"
    key: TaskKey
    outputs: Mapping[str, np.ndarray]
    seconds: float
    error: str = ""
    whole: bool = False
    reuse: bool = False
    reduced: bool = False


class Worker:
    """``submit`` one tile at a time; it comes back as ``Computed`` in ``inbox``.

    ``ahead``: until the first one comes tile classes are loaded. Later that would take time from what is in a hurry. With the
    last one it is ``ready``, and None in ``inbox`` says so.
    """

    def __init__(self, runner: TileRunner, inbox: "queue.Queue[object]", ahead: bool = False) -> None:
        self._runner, self.ready = runner, not ahead
        self._inbox = inbox
        self._work: queue.SimpleQueue[Compute | None] = queue.SimpleQueue()
        self._closed = False
        self._relieve_at, self._told_at = 0.0, float("-inf")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, work: Compute) -> None:
        self._work.put(work)

    def close(self, wait_s: float = 5.0) -> None:
        """Ends the thread after the tile that it computes; nothing of it comes back any more."""
        self._closed = True
        self._work.put(None)
        self._thread.join(wait_s)

    def _run(self) -> None:
        give_way()
        if not self.ready:
            self._load()
            self.ready = True
            self._inbox.put(None)
        while (work := self._next()) is not None:
            done = self._compute(work)
            if not self._closed:
                self._inbox.put(done)

    def _next(self) -> Compute | None:
        """What is to be computed next. Whether memory is short is looked at on the way there, now and then."""
        while True:
            if time.monotonic() >= self._relieve_at:
                self._relieve_at = time.monotonic() + RELIEVE_S
                if self._runner.relieve() and time.monotonic() >= self._told_at + TOLD_S:
                    self._told_at = time.monotonic()
                    _log.info("memory is short: fewer tile classes are kept loaded")
            with suppress(queue.Empty):
                return self._work.get(timeout=RELIEVE_S)

    def _load(self) -> None:
        try:
            while self._work.empty() and self._runner.warm():
                pass
        except (DtError, MemoryError) as error:
            _log.warning("no tile class is loaded ahead: %s", error or "out of memory")

    def _compute(self, work: Compute) -> Computed:
        start = time.monotonic()
        frame, block, tile = work.key
        try:
            if work.whole:
                outputs = self._runner.run_whole(work.inputs)
            else:
                outputs = self._runner.run(block, tile, work.inputs, frame if work.reuse else "")
        except (DtError, MemoryError) as error:
            return Computed(self, work.key, {}, time.monotonic() - start, str(error) or "out of memory")
        took = work.reuse and self._runner.last == "takes"
        return Computed(self, work.key, outputs, time.monotonic() - start, "", work.whole, work.reuse, took)
