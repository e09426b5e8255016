"""A sealed gateway's loop under fire: whatever it reads while it runs, it goes on, and repairs its registry.

The gateway is the program's own, with its guard, registry, journal, bridge, dashboard and Home Assistant; only the two
lines to brokers, the tail and the dashboard's sockets are not there. What it publishes must be fit to be sent.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import queue
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from bench.fuzz.seeds import bundle_folder, room
from bench.fuzz.targets import ROOT, addressed
from gateway_agent import app, registry, rules
from gateway_agent.access import arrange
from gateway_agent.controls import VERBS, Request
from gateway_agent.dashboard.access import Access
from gateway_agent.dashboard.door import Door
from gateway_agent.dashboard.hub import Hub
from gateway_agent.dashboard.record import Recorder
from gateway_agent.dashboard.server import HttpConnection, Pages
from gateway_agent.dashboard.watcher import Dashboard
from gateway_agent.gate import GatewayGuard
from gateway_agent.homeassistant import watcher as home
from gateway_agent.homeassistant.client import Heard, Up
from gateway_agent.journal import JOURNAL, Journal
from gateway_agent.node import Finish
from gateway_agent.plans import Make, Planned, Plans, bind
from gateway_agent.registry import FILE, LOCK, Enrolled, Members, Permission, Registry
from gateway_agent.tail import Finished
from gateway_agent.watchers import Watcher, Watchers
from models.bundle import Bundle, open_bundle
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.config import GatewayOptions
from schemas.contract.errors import DtError
from schemas.contract.topics import Publish
from schemas.security import keyring
from schemas.security.rights import GATEWAY
from schemas.wire.codec import decode, encode, limit
from schemas.wire.guard import OpenGuard
from schemas.wire.link import Arrived

END = b"\xff\xfe\xff"  # between two events
EPOCH, NAME, OPEN, TOKEN = "01234567", "n", "0000000a", "a token of the dashboard"
_MOST = 16
_NOW = 1_800_000_000.0
_SECRET = "ab" * 32
_MEMBERS = Members(
    secret="cd" * 32,
    nodes={name: Enrolled(secret=_SECRET, serial=EPOCH, since=_NOW) for name in (NAME, "t")},
    permissions={OPEN: Permission(secret=_SECRET, node=None, until=_NOW + 3600)},
    listen="127.0.0.1:8883",
)
_PLAN = b"0123456789abcdef" * 2  # in the seeds, for the plan that runs


class _Broker:
    """In place of the link: everything that is said is sealed and read again."""

    address, root = SimpleNamespace(tls=True), ROOT
    connected, outstanding = True, 0
    bytes_in = bytes_out = messages_in = messages_out = 0

    def __init__(self, *_: object, guard: OpenGuard) -> None:
        self._guard = guard

    def publish(self, topic: topics.Topic, message: m.Message, tensors: Any = None, **levels: str | int) -> bool:
        path, payload = topic.path(ROOT, **levels), encode(topic, message, tensors)
        assert decode(ROOT, path, payload).message == message
        sealed = self._guard.seal(topic, path, levels, message, payload)
        assert sealed is None or len(sealed) <= limit(topic), f"a sealed message of {len(sealed)} bytes"
        return sealed is not None

    def send(self, said: Publish) -> bool:
        return self.publish(said.topic, said.message, said.tensors, **said.levels)

    def flush(self, _: float) -> bool:
        return True

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class _Tail:
    """In place of the thread: it has nothing to say of any frame."""

    threshold = None

    def __init__(self, _: object, inbox: "queue.Queue[object]", __: int) -> None:
        self._inbox = inbox

    def submit(self, finish: Finish) -> None:
        self._inbox.put(Finished(finish.complete.frame))

    def close(self) -> None:
        pass


class _Home:
    """In place of the line to Home Assistant's broker."""

    def __init__(self, address: object, *_: object) -> None:
        self.address = address
        self.heard: queue.Queue[object] = queue.Queue()
        self.heard.put(Up())

    def say(self, _: object) -> bool:
        return True

    def start(self) -> None:
        pass


class _Page(Dashboard):
    """The dashboard without its sockets: requests are handed to its pages."""

    def __init__(self, gateway: app.Gateway) -> None:
        self._gateway, self._root = gateway, ROOT
        self.recorder, self.hub = Recorder(gateway.board), Hub()
        self._next_at, self._watched = 0.0, True
        door: Door[HttpConnection] = Door()
        door.opened(("127.0.0.1", 1), None, 0.0)  # type: ignore[arg-type]
        self._pages = Pages(self.hub, Access(TOKEN), gateway.ask, door).app()

    async def asked(self, data: bytes, turn: Callable[[], None]) -> None:
        """The first byte chooses the path; the rest is a body, or what stands behind the path. ``turn``: the gateway's loop."""
        paths = ("/login", "/api/control", "/api/expected", "/api/state", "/metrics", "/api/frames", "/picture/n", "/healthz")
        path, rest = paths[data[0] % len(paths)], data[1:]
        posts = path in ("/login", "/api/control")
        headers = [
            (b"host", b"localhost"), (b"authorization", b"Bearer " + TOKEN.encode()), (b"x-dt-request", b"1"),
            (b"content-type", b"application/json"), (b"cookie", rest[:100]),
        ]  # fmt: skip
        scope = {
            "type": "http", "method": "POST" if posts else "GET", "path": path, "query_string": rest, "headers": headers,
            "client": ("127.0.0.1", 1), "root_path": "", "scheme": "http", "http_version": "1.1",
        }  # fmt: skip
        said: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": rest, "more_body": False}

        async def send(message: Any) -> None:
            said.append(message)

        answer = asyncio.ensure_future(self._pages(scope, receive, send))
        while not answer.done():
            await asyncio.sleep(0)
            turn()
        answer.result()
        assert said[0]["status"] < 500, f"{path} answers {said[0]['status']}"


class _Plain(Watchers):
    """Their failures are faults here."""

    def _each(self, do: Callable[[Watcher], None]) -> list[Watcher]:
        for watcher in self._watchers:
            do(watcher)
        return self._watchers


class _Plans(Plans):
    """What is planned is planned at once, and once."""

    planned = False

    def make(self, make: Make, request: Request | None = None) -> str | None:
        if self.planned:
            return "another plan is being made: try again"
        self.planned = True
        try:
            made = make()
            self._inbox.put(Planned(request, None if made is None else bind(made)))
        except DtError as error:
            self._inbox.put(Planned(request, None, str(error)))
        return None


class _Gateway(app.Gateway):
    """Each event is handled before the next comes."""

    def turn(self, event: object = None) -> None:
        self._inbox.put(event)
        while not self._inbox.empty():
            self._step()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _bundle() -> Bundle:
    return bind(open_bundle(bundle_folder()))


@cache
def _files() -> dict[str, bytes]:
    """A state folder as it is after a start: making its keys anew takes time."""
    folder = room() / "first"
    folder.mkdir(mode=0o700)
    (folder / FILE).write_bytes(_MEMBERS.model_dump_json().encode())
    arrange(_options(folder))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _options(folder: Path) -> GatewayOptions:
    return GatewayOptions(sealed=True, listen="127.0.0.1:0", state=folder, ha=True)


@contextlib.contextmanager
def running() -> Iterator[tuple[_Gateway, _Page, Path]]:
    """A gateway of two members, one of whom speaks, with a line that is open to anybody."""
    files, folder = _files(), room() / "state"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with (
        patch.object(os, "fsync", lambda _: None), patch.object(logging.root, "level", logging.CRITICAL + 1),
        patch.object(app, "Link", _Broker), patch.object(app, "TailThread", _Tail), patch.object(app, "Plans", _Plans),
        patch.object(home, "Client", _Home), patch.object(registry, "RETRY_S", 0.0), patch.object(rules, "ROUNDS", 1),
        contextlib.closing(Journal(folder / JOURNAL)) as journal,
    ):  # fmt: skip
        guard = arrange(_options(folder)).guard
        assert isinstance(guard, GatewayGuard)
        looks = itertools.count()
        guard._clock, guard._told_at = lambda: _NOW + next(looks), _NOW  # newcomers are let in together, once a second
        gateway = _Gateway(_options(folder), _bundle(), "mqtt://x", None, None, journal, guard)
        gateway._watchers, gateway.models = _Plain(), {"drawn": _bundle().path}
        page = _Page(gateway)
        gateway._watchers.add(page)
        gateway._watchers.add(home.HomeAssistant(gateway, home.settings_of(_options(folder), "mqtt://x")))
        gateway.turn()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)  # which a full disk of the day changes
        try:
            yield gateway, page, folder
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def sealed(data: bytes) -> None:
    """Events with ``END`` between; the first byte of each says what it is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with running() as (gateway, page, folder):
        seal = keyring.edge_seal(NAME, EPOCH, bytes.fromhex(_SECRET))
        try:
            for part in data.split(END)[:_MOST]:
                if len(part) >= 3:
                    happen(part[0] % 9, part[1:], gateway, page, folder, seal)
            gateway._publisher.status_at = 0.0
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            gateway.turn()
        except DtError as error:
            raise AssertionError("a gateway that runs would have ended") from error
        path, lock = folder / FILE, folder / LOCK
        lockable = not lock.is_symlink() and (lock.is_file() or not lock.exists())
        if folder.is_dir() and lockable and not (path.is_dir() and not path.is_symlink()):
            assert Registry(folder).read().secret == _MEMBERS.secret, "the registry is repaired"


def happen(kind: int, body: bytes, gateway: _Gateway, page: _Page, folder: Path, seal: Any) -> None:
    """One event, and the loop's turn."""
    if kind == 0:
        with contextlib.suppress(OSError):
            (folder / FILE).unlink(missing_ok=True)  # it may be a pipe by now, which nobody reads
            (folder / FILE).write_bytes(body)
        gateway.turn()
    elif kind == 1:
        with contextlib.suppress(OSError):
            spoil(folder, body)
        gateway.turn()
    elif kind == 2:
        gateway.turn(Arrived(topics.JOIN.path(ROOT, permission=OPEN), _request(body)))
    elif kind == 3:
        topic, payload = addressed(body.replace(_PLAN, gateway._node.digest.encode()))
        seal.meet(GATEWAY, gateway._epoch)
        gateway.turn(Arrived(topic, seal.seal(topic, payload, [(GATEWAY, gateway._epoch)])))
    elif kind == 4:
        gateway.turn(Arrived(*addressed(body)))
    elif kind == 5:
        verb = VERBS[body[0] % len(VERBS)]
        gateway.turn(Arrived(topics.BRIDGE_REQUEST.path(ROOT, verb=verb), body[1:]))
    elif kind == 6:
        _loop().run_until_complete(page.asked(body, gateway.turn))
    elif kind == 7:
        shown = gateway._watchers._watchers[1]
        assert isinstance(shown, home.HomeAssistant)
        tree, retained = shown._tree, bool(body[0] & 1)
        heard = (f"{tree.base}/roster", tree.set("grid"), tree.set("threshold"), tree.set("model"), shown._birth)
        shown._client.heard.put(Heard(heard[body[0] % len(heard)], body[1:], retained))
        gateway.turn()
    else:
        soft = (100, 600, 2**30)[body[0] % 3]
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        gateway.turn()


def spoil(folder: Path, body: bytes) -> None:
    """One of the files is gone, cut, or something else; or the folder is gone."""
    names = (FILE, LOCK, "ca.pem", "ca.key", "server.pem", "server.key", JOURNAL, "")
    path, how = folder / names[body[0] % len(names)], body[1] % 7
    if path == folder:
        shutil.rmtree(folder)
        return
    if how < 2 and (path.is_symlink() or not path.is_file()):
        return
    if how == 0:
        path.write_bytes(path.read_bytes()[: len(body)])
        return
    if how == 1:
        at = body[2:] or b"\0"
        data = bytearray(path.read_bytes() or b"\0")
        for i in range(0, len(at) - 2, 3):
            data[int.from_bytes(at[i : i + 2], "little") % len(data)] = at[i + 2]
        path.write_bytes(data)
        return
    path.unlink()
    if how == 2:
        path.symlink_to("/dev/zero")
    elif how == 3:
        os.mkfifo(path)
    elif how == 4:
        path.mkdir()
    elif how == 5:
        path.write_bytes(body[2:])


def _request(body: bytes) -> bytes:
    """Somebody who knows the line's secret asks in the name that the bytes are, or they are all that somebody says."""
    name = body[1:].decode("ascii", "replace")
    if body[0] % 2 or not m.is_name(name):
        return body[1:]
    public = keyring.Attempt().public
    proof = keyring.ask_proof(bytes.fromhex(_SECRET), name, EPOCH, OPEN, public)
    return encode(topics.JOIN, m.JoinRequest(node=name, epoch=EPOCH, permission=OPEN, public=public, proof=proof))


def seeds() -> Iterable[bytes]:
    """Every kind of event, and a day of a cluster."""
    from bench.fuzz.seeds import every_message, record

    said = {row: record(row, message) for row, message in every_message().items()}
    file = _MEMBERS.model_dump_json().encode()
    events = [
        *(b"\0" + data for data in (file, file[:-9], b"{}", file.replace(_MEMBERS.secret.encode(), b"ef" * 32))),
        *(bytes((1, which, how)) + b"\0\0{" for which in range(8) for how in range(6)),
        *(b"\2\0" + name for name in (b"e1", b"n", b"gateway", b"e" * 64)), b"\2\1{}",
        *(bytes((kind,)) + data for kind in (3, 4) for data in said.values()),
        *(bytes((5, n)) + b'{"value": %s, "transaction": "7"}' % value for n in range(6)
          for value in (b"true", b'"2x2"', b'"drawn"', b"0.4", b'"n"')),
        *(bytes((6, n)) + rest for n, rest in enumerate((
            b'{"token": "x"}', b'{"verb": "grid", "value": "2x1"}', b"rate=10", b"", b"", b"", b"", b""))),
        b'\6\1{"verb": "threshold", "value": 0.5}',
        *(bytes((7, n)) + rest for n, rest in enumerate((b'{"devices": {}}', b"2x1", b"0.5", b"drawn", b"online"))),
        *(bytes((8, n, 0)) for n in range(3)),
    ]  # fmt: skip
    yield from events
    yield END.join([b"\3" + said[topics.REGISTER], b"\2\0e1", b"\x08\0\0", b"\2\0e2", b"\x08\2\0", b"\0{", b"\2\0e3"])

