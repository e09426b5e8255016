import logging
import queue
import threading
import time
from typing import Any, cast

import numpy as np
import pytest

from edge_agent.node import Compute
from edge_agent.worker import Computed, Worker
from models.running.runner import TileRunner
from schemas.contract.errors import EngineError


class Engine:
    """A runner at the boundary: it has ``classes`` to load ahead, and says what it did."""

    last = "plain"

    def __init__(self, classes: int, error: str = "") -> None:
        self.done: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.go = threading.Semaphore(0)
        self._classes, self._error = classes, error
        self.relieved = 0

    def warm(self) -> bool:
        if self._error:
            raise EngineError(self._error)
        if not self._classes:
            return False
        self._classes -= 1
        self.done.put("loaded")
        self.go.acquire(timeout=30)
        return True

    def run(self, block: int, tile: int, *_: Any) -> dict[str, np.ndarray]:
        self.done.put(f"tile {tile}")
        return {}

    def relieve(self) -> int:
        self.relieved += 1
        return 0

    def heard(self) -> str:
        return self.done.get(timeout=30)


def worker(engine: Engine, ahead: bool = True) -> tuple[Worker, "queue.Queue[object]"]:
    inbox: queue.Queue[object] = queue.Queue()
    return Worker(cast(TileRunner, engine), inbox, ahead), inbox


def test_classes_are_loaded_ahead_until_a_tile_comes() -> None:
    engine = Engine(3)
    under_test, inbox = worker(engine)
    assert engine.heard() == "loaded"
    for tile in (3, 4):
        under_test.submit(Compute(("f", 0, tile), {}))
        engine.go.release()
        assert engine.heard() == f"tile {tile}"
        if tile == 3:
            assert inbox.get(timeout=30) is None and under_test.ready
        assert cast(Computed, inbox.get(timeout=30)).key == ("f", 0, tile)
    under_test.close()
    assert engine.done.empty()


def test_it_is_ready_once_all_classes_are_loaded() -> None:
    engine = Engine(2)
    under_test, inbox = worker(engine)
    for _ in range(2):
        assert engine.heard() == "loaded" and not under_test.ready
        engine.go.release()
    assert inbox.get(timeout=30) is None and under_test.ready
    under_test.close()


def test_nothing_is_loaded_ahead_where_tiles_are_in_a_hurry() -> None:
    engine = Engine(3)
    under_test, _ = worker(engine, ahead=False)
    assert under_test.ready
    under_test.close()
    assert engine.done.empty()


def test_a_class_that_cannot_be_loaded_ahead_is_told_and_tiles_run(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(1, "no such operator")
    with caplog.at_level(logging.WARNING):
        under_test, inbox = worker(engine)
        assert inbox.get(timeout=30) is None and under_test.ready
        under_test.submit(Compute(("f", 0, 3), {}))
        assert cast(Computed, inbox.get(timeout=30)).error == ""
        under_test.close()
    assert "no tile class is loaded ahead: no such operator" in caplog.text


def test_memory_is_looked_at_between_tiles_and_while_none_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.worker.RELIEVE_S", 0.0)
    engine = Engine(0)
    under_test, inbox = worker(engine, ahead=False)
    for count in (1, 2):
        under_test.submit(Compute(("f", 0, 0), {}))
        assert inbox.get(timeout=30) is not None and engine.relieved >= count
    seen = engine.relieved
    until = time.monotonic() + 30
    while engine.relieved == seen and time.monotonic() < until:
        time.sleep(0.001)
    assert engine.relieved > seen
    under_test.close()
