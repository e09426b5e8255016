"""`dt nodes` and `dt watch`: a client of the cluster that asks every node once and then listens.

It has no keys: in a sealed cluster it believes what the broker lets through.
"""

import contextlib
import json as jsonlib
import queue
import time
from collections.abc import Iterator
from typing import Any

from rich.live import Live

from dt_cli.looking import enter
from dt_cli.output import console
from dt_cli.streams import reader_is_gone
from dt_cli.view import View, failure
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.config import Settings
from schemas.contract.errors import CredentialError, DecodeError, UnreachableError
from schemas.host.process import interrupt_on_end
from schemas.security.seal import bare
from schemas.wire.codec import decode
from schemas.wire.link import Address, Arrived, Connected, Disconnected, Link

HEARD_S, PATIENCE_S = 2.5, 6.0  # by then every living node has sent a heartbeat; and its status, if it will at all
LINE_S = 2.0


class Station:
    """A client at the broker and what it has heard. A context manager."""

    def __init__(self, address: Address, root: str) -> None:
        self._name, self._epoch = f"watcher-{m.new_epoch()}", m.new_epoch()
        self._inbox: queue.Queue[Any] = queue.Queue(4096)
        self._link = Link(address, root, self._name, self._inbox)
        self.view = View(root, str(address))

    def __enter__(self) -> "Station":
        for topic in (topics.REGISTER, topics.STATUS, topics.OUTCOME, topics.BRIDGE_INFO):
            self._link.subscribe(topic)
        try:
            self._link.connect()
        except UnreachableError:
            if self._link.unknown and self._link.address.authority:
                raise CredentialError(
                    f"the gateway at {self.view.url} does not know this reader: 'dt enroll NAME --reader' prints a new line "
                    "there; give it here: --join LINE"
                ) from None
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close(0.1)

    def hear(self, until: float) -> Iterator[m.Message]:
        """Messages as they come, all of them in the view already, until that time (monotonic seconds)."""
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                event = self._inbox.get(timeout=left)
                if isinstance(event, Connected):
                    self.view.connected = True
                    ask = m.StatusRequest(node=self._name, epoch=self._epoch)
                    self._link.publish(topics.STATUS_REQ, ask)
                elif isinstance(event, Disconnected):
                    self.view.connected = False
                elif isinstance(event, Arrived):
                    with contextlib.suppress(DecodeError):  # the agents count what is malformed
                        message = decode(self._link.root, event.topic, bare(event.payload)).message
                        self.view.hear(message, time.monotonic())
                        yield message


def nodes(settings: Settings, json: bool) -> None:
    """A table of the nodes, or JSON.

    Raises:
        UnreachableError: no broker, or nobody there.
    """
    with Station(*enter(settings)) as station:
        start, view = time.monotonic(), station.view
        for _ in station.hear(start + HEARD_S):
            pass
        while not view.complete and time.monotonic() < start + PATIENCE_S:
            next(station.hear(time.monotonic() + 0.25), None)
        if not view.nodes:
            raise UnreachableError(f"nobody of cluster {view.root} is at {view.url}: is 'dt gateway' running there?")
        now = time.monotonic()
        if json:
            print(jsonlib.dumps(view.rows(now), indent=1))
        else:
            console.print(view.table(now, console.width))


def watch(settings: Settings) -> None:
    """A picture that changes, or, where there is no terminal for it, a line every two seconds; ends with Ctrl-C."""
    interrupt_on_end()
    with contextlib.suppress(KeyboardInterrupt), Station(*enter(settings)) as station:
        if console.is_terminal and not console.is_dumb_terminal:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    for _ in station.hear(time.monotonic() + 0.25):
                        pass
                    live.update(station.view.render(time.monotonic(), console.width), refresh=True)
        while not reader_is_gone():
            for message in station.hear(time.monotonic() + LINE_S):
                if said := failure(message):
                    _say(said)
            _say(station.view.headline(time.monotonic()))


def _say(line: str) -> None:
    print(line, flush=True)
