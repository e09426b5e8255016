"""`dt nodes` and `dt watch`: a client of the cluster that asks every node once and then listens."""

import contextlib
import json as jsonlib
import queue
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

from rich.live import Live

from dt_cli.output import console
from dt_cli.view import View, failure
from schemas import messages as m
from schemas import topics
from schemas.codec import decode
from schemas.config import ROOT, Settings, parse_listen
from schemas.discovery import reachable, search
from schemas.errors import DecodeError, UnreachableError
from schemas.link import Arrived, Connected, Disconnected, Link

HEARD_S, PATIENCE_S = 2.5, 6.0  # by then every living node has sent a heartbeat; and its status, if it will at all
LINE_S = 2.0


def address(settings: Settings) -> tuple[str, str]:
    """The gateway's URL and the cluster's root: as configured, of this machine, or found by mDNS.

    Raises:
        UnreachableError: there is none.
    """
    edge, port = settings.edge, parse_listen(settings.gateway.listen)[1]
    if edge.gateway:
        return edge.gateway, edge.root or ROOT
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return f"mqtt://127.0.0.1:{port}", edge.root or settings.gateway.root
    found = search(edge.root)
    if found is None:
        raise UnreachableError("no gateway here and none answers by mDNS: name its address: --gateway HOST[:PORT]")
    return reachable(found), found.root


class Station:
    """A client at the broker and what it has heard. A context manager."""

    def __init__(self, url: str, root: str) -> None:
        self._name, self._epoch = f"watcher-{m.new_epoch()}", m.new_epoch()
        self._inbox: queue.Queue[Any] = queue.Queue(4096)
        self._link = Link(url, root, self._name, self._inbox)
        self.view = View(root, str(self._link.address))

    def __enter__(self) -> "Station":
        for topic in (topics.REGISTER, topics.STATUS, topics.OUTCOME):
            self._link.subscribe(topic)
        self._link.connect()
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
                        message = decode(self._link.root, event.topic, event.payload).message
                        self.view.hear(message, time.monotonic())
                        yield message


def nodes(settings: Settings, json: bool) -> None:
    """A table of the nodes, or JSON.

    Raises:
        UnreachableError: no broker, or nobody there.
    """
    with Station(*address(settings)) as station:
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), Station(*address(settings)) as station:
        if console.is_terminal and not console.is_dumb_terminal:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    for _ in station.hear(time.monotonic() + 0.25):
                        pass
                    live.update(station.view.render(time.monotonic(), console.width), refresh=True)
        while True:
            for message in station.hear(time.monotonic() + LINE_S):
                if said := failure(message):
                    _say(said)
            _say(station.view.headline(time.monotonic()))


def _say(line: str) -> None:
    print(line, flush=True)
