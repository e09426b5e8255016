import errno
import logging
import queue
from importlib import metadata
from typing import NoReturn

import pytest

from gateway_agent.watchers import Watchers
from schemas.host.process import version
from tests.test_controls import Seen


class Failing(Seen):
    """A watcher that has no files left as long as ``short``."""

    short = True

    def tick(self, now: float) -> None:
        if self.short:
            raise OSError(errno.EMFILE, "Too many open files")

    close = None  # type: ignore[assignment]


def test_a_watcher_that_fails_is_told_of_once_an_outage_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    watchers, failing, seen = Watchers(), Failing(), Seen()
    for one in (failing, seen):
        watchers.add(one)
    for short, times in ((True, 1), (True, 1), (False, 1), (True, 2)):
        failing.short = short
        watchers.tick(0.0)
        watchers.pictured("frame", 0.0)
        assert caplog.text.count("Failing fails") == times
        assert seen.pictures.get(timeout=0) == "frame"
    watchers.close()
    assert seen.closed and caplog.records[0].levelno == logging.ERROR and "Too many open files" in caplog.text
    with pytest.raises(queue.Empty):
        seen.outcomes.get(timeout=0)


def test_the_version_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    known = version()

    def short(_: str) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(metadata, "version", short)
    assert version() == known
