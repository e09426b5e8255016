"""Fixtures that several rooms share: one real embedded broker for the whole session, links to it, and a way to wait."""

import os
import queue
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gateway_agent.broker import BrokerProcess
from schemas.wire.link import Link
from tests.examples import register

E = TypeVar("E")
HERE = Path(__file__).parent

register()
os.environ["DT_CONFIG"] = os.devnull  # whatever this machine is configured to be
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole clusters first: of files that are run side by side, a long one that comes last is waited for alone."""
    items.sort(key=lambda item: item.path.parent != HERE)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands remember stays in this session's folder, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_state_of_this_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Gateways that tests start keep nothing in the home folder, and meet nothing there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("STATE_DIRECTORY", raising=False)
        yield


@pytest.fixture(scope="session")
def broker() -> Iterator[BrokerProcess]:
    """One broker process on a free port; tests share it and keep apart by ``root``."""
    with BrokerProcess() as running:
        yield running


@pytest.fixture
def root() -> str:
    """A cluster name of the test's own."""
    return f"test-{secrets.token_hex(4)}"


class Station:
    """A link with its inbox; closed at the test's end."""

    def __init__(self, url: str, root: str, node: str, **settings: Any) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue(settings.pop("inbox", 1000))
        self.link = Link(url, root, node, self.inbox, **settings)

    def expect(self, kind: type[E], timeout_s: float = 30.0) -> E:
        """The next event of ``kind``; others before it are passed over."""
        while True:
            event = self.inbox.get(timeout=timeout_s)
            if isinstance(event, kind):
                return event


@pytest.fixture
def station(broker: BrokerProcess, root: str) -> Iterator[Callable[..., Station]]:
    """Makes stations: ``station("e1")`` on the session's broker, or with ``url=`` and ``root=`` of its own."""
    made: list[Station] = []

    def make(node: str, **settings: Any) -> Station:
        made.append(Station(settings.pop("url", broker.url), settings.pop("root", root), node, **settings))
        return made[-1]

    yield make
    for one in made:
        one.link.close(0.1)
