"""Straight connections between edges: one TCP connection for each pair carries the larger tiles and parts past the broker.

It knows who is here and who takes what, and keeps three laws. Nothing that is promised rests on a connection: what a peer has
not acknowledged when its connection fails, or falls silent, goes by the broker. Who is new has little time and little room, and
makes room for who comes after it. And what came is admitted by the same guard as what the broker brings.

One thread owns the sockets. ``send`` may be called from any thread and does not wait.
"""

import contextlib
import errno
import ipaddress
import json
import logging
import os
import queue
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import uniform
from typing import Any

from schemas.contract import topics
from schemas.contract.errors import DecodeError
from schemas.contract.messages import PEERS, Peer
from schemas.contract.topics import Publish
from schemas.security.seal import Opened, Seal
from schemas.wire.codec import TENSOR_BYTES, Payload, encode
from schemas.wire.connection import ACKNOWLEDGE, MESSAGE, STRAIGHT, TAKES, TIMED, Broken, Connection, Identity
from schemas.wire.packing import Pace

STRAIGHT_BYTES = 4096  # of tensors; smaller messages go by the broker
SILENT_S = 0.7  # so long nothing may move of what is under way
HELLO_S = 2.0  # in which a new connection must say who it is
NEW = 32  # connections that have not yet; so many are taken between two ticks, for each costs a key exchange
BACKLOG = 128  # that the system keeps meanwhile
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0
REVERSE_S = 3.0  # so long the node with the later name waits to be dialled
STEADY_S = 10.0  # a connection that has lasted so long was no mistake
BACKLOG_BYTES = 32 * 2**20  # that wait for one peer
CLAIMED_BYTES = 3 * TENSOR_BYTES  # of all frames that are coming in
ELSEWHERE_S = 600.0  # so long parts go by the broker, too, for a node that it alone reaches and that has asked for them
LANES = 4096
_TICK_S = 0.25
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Straight:
    """A message that came on a straight connection, unchecked; ``opened``: by whom, in a sealed cluster."""

    topic: str
    payload: Payload
    opened: Opened | None


@dataclass(frozen=True)
class Undelivered:
    """What a peer may not have got before its connection failed: it goes by the broker."""

    said: tuple[Publish, ...]


class Direct:
    """The straight connections of ``node``; what comes goes into ``inbox``. ``keys``: in a sealed cluster.

    Counters, for people: ``bytes_out``, ``bytes_in`` (all that is on the connections), ``messages_out``, ``messages_in``,
    ``dropped`` (a full inbox), ``refused`` (connections that were not let in), ``failed`` (that ended in use).
    """

    def __init__(
        self,
        root: str,
        node: str,
        epoch: str,
        inbox: "queue.Queue[Any]",
        keys: Seal | None = None,
        least_bytes: int = STRAIGHT_BYTES,
    ) -> None:
        self.root, self._own, self._least_bytes = root, Identity(node, epoch, keys), least_bytes
        self.address: str | None = None
        self.messages_out = self.messages_in = self.dropped = self.refused = self.failed = 0
        self._inbox = inbox
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._here: tuple[str, int] = ("", 0)
        self._all: set[Connection] = set()
        self._open: dict[str, Connection] = {}
        self._taken = 0  # connections since the last tick
        self._gone_in = self._gone_out = 0  # bytes on connections that have ended
        self._roster: dict[str, Peer] = {}
        self._due: dict[str, tuple[float, float]] = {}  # when to dial a peer, and how long to wait after that
        self._lanes: set[int] = set()
        self._elsewhere: dict[str, dict[int, float]] = {}  # lanes of peers that only the broker reaches, and when they said so
        self._troubles: dict[str, str] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="direct", daemon=True)

    @property
    def peers(self) -> tuple[str, ...]:
        """Nodes with a straight connection."""
        with self._lock:
            return tuple(sorted(self._open)[:PEERS])

    @property
    def bytes_out(self) -> int:
        with self._lock:
            return self._gone_out + sum(one.bytes_out for one in self._all)

    @property
    def bytes_in(self) -> int:
        with self._lock:
            return self._gone_in + sum(one.bytes_in for one in self._all)

    @property
    def rate(self) -> float:
        """Bytes a second that can leave here, at least, as measured; 0: not known."""
        with self._lock:
            return max((rate for one in self._open.values() for rate in one.pace.recent), default=0.0)

    def open(self, host: str, scope: int = 0) -> str | None:
        """Take connections on this address of this machine; where that is, for others, or None: it cannot be had."""
        with self._lock:
            if (host, scope) == self._here and self._listener is not None:
                return self.address
            self._close_listener()
            self._here, self.address = (host, scope), None
            try:
                self._listener = _bound(host, scope)
            except (OSError, ValueError) as error:
                _log.warning("no straight connections on %s: %s; tensors go by the broker", host, error)
                return None
            self._selector.register(self._listener, selectors.EVENT_READ)
            port = self._listener.getsockname()[1]
            self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            if not self._thread.ident:
                self._thread.start()
            return self.address

    def know(self, peers: Mapping[str, Peer]) -> None:
        """Who is here, and where; connections with others, and with other epochs of these, end."""
        with self._lock:
            before, self._roster = self._roster, {name: peer for name, peer in peers.items() if name != self._own.node}
            for told in (self._elsewhere, self._troubles):
                for name in told.keys() - self._roster.keys():
                    del told[name]
            for one in [one for one in self._open.values() if not self._is_here(one.peer, one.epoch)]:
                self._end(one, "it is gone, or has started anew")
            now = time.monotonic()
            known = {name: due for name, due in self._due.items() if before.get(name) == self._roster.get(name)}
            new = {name: (now + self._patience_s(name), FIRST_RETRY_S) for name in self._roster}
            self._due = {**new, **known}
            self._dial_all(now)

    def restart(self, epoch: str) -> None:
        """This node begins a new epoch: its connections end, and what is under way on them is of no use any more."""
        with self._lock:
            self._own = Identity(self._own.node, epoch, self._own.keys)
            self._end_all("this node starts anew")
            self._roster, self._due, self._elsewhere = {}, {}, {}
            self._lanes.clear()

    def take(self, lane: int, wanted: bool = True) -> None:
        """From now on parts for this lane are wanted here, or no longer."""
        with self._lock:
            (self._lanes.add if wanted else self._lanes.discard)(lane)
            for one in list(self._open.values()):
                self._guarded(one, self._tell_lanes, one)

    def asked(self, node: str, lane: int) -> None:
        """By the broker, ``node`` has asked for parts for this lane."""
        with self._lock:
            if node in self._roster and node not in self._open and lane < LANES:
                self._elsewhere.setdefault(node, {})[lane] = time.monotonic()

    def send(self, said: Publish) -> bool:
        """Send it straight to all who take it; False: it has (also) to go by the broker."""
        size = sum(array.nbytes for array in (said.tensors or {}).values())
        if said.topic not in STRAIGHT or size < self._least_bytes:
            return False
        with self._lock:
            takers, is_all = self._takers(said)
        if not takers:
            return False
        payload = _encoded(takers[0].pace, said, size)
        path = said.topic.path(self.root, **said.levels)
        with self._lock:
            for one in takers:
                if one.state != "open" or one.waiting_bytes + len(payload) > BACKLOG_BYTES:
                    is_all = False
                else:
                    self.messages_out += 1
                    self._guarded(one, one.send, said, path, payload, time.monotonic())
        return is_all

    def close(self) -> None:
        """End all connections and the thread."""
        with self._lock:
            self._closed = True
            self._end_all("this node ends")
            self._close_listener()
        if self._thread.ident:
            self._thread.join()
        self._selector.close()

    # What follows runs with the lock held.

    def _takers(self, said: Publish) -> tuple[list[Connection], bool]:
        """Connections with those who take a message, and whether they are all who do, as far as they have said."""
        if said.topic is topics.TILE:
            one = self._open.get(str(said.levels["node"]))
            return ([one] if one else []), True
        lane = int(said.levels["tile"])
        takers = [one for one in self._open.values() if lane in one.lanes]
        since = time.monotonic() - ELSEWHERE_S
        return takers, not any(lanes.get(lane, since) > since for lanes in self._elsewhere.values())

    def _is_here(self, node: str, epoch: str) -> bool:
        """Whether it may speak to us: by its keys, or, where there are none, unless the roster knows better."""
        if self._own.keys is not None:
            return self._own.keys.holds(node, epoch)
        known = self._roster.get(node)
        return known is None or known.epoch == epoch

    def _patience_s(self, peer: str) -> float:
        """Of two nodes the one with the earlier name dials; the other one, too, if that comes to nothing."""
        return 0.0 if self._own.node < peer else REVERSE_S

    def _run(self) -> None:
        tick_at = 0.0
        while True:
            events = self._selector.select(_TICK_S if self._all else 4 * _TICK_S)
            with self._lock:
                if self._closed:
                    return
                now = time.monotonic()
                for key, mask in events:
                    if key.data is None:
                        self._accept(now)
                    elif key.data in self._all:
                        self._guarded(key.data, self._turn, key.data, mask, now)
                if now >= tick_at:
                    tick_at = now + _TICK_S
                    self._tick(now)

    def _guarded(self, one: Connection, act: Callable[..., None], *about: Any) -> None:
        """Whatever a connection does ends that connection at most."""
        try:
            act(*about)
            if one in self._all:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if one.has_more else 0)
                if one.state != "connecting" and self._selector.get_key(one.sock).events != events:
                    self._selector.modify(one.sock, events, one)
        except (DecodeError, OSError) as error:
            self._end(one, getattr(error, "strerror", None) or str(error))

    def _turn(self, one: Connection, mask: int, now: float) -> None:
        if one.state == "connecting":
            return one.greet(self._own)
        if mask & selectors.EVENT_WRITE:
            one.flush()
        if mask & selectors.EVENT_READ:
            for frame in one.frames(self._room):
                self._hear(one, frame, now)
                if one not in self._all:
                    return

    def _room(self) -> int:
        return CLAIMED_BYTES - sum(one.claim for one in self._all)

    def _hear(self, one: Connection, frame: Payload, now: float) -> None:
        if one.state == "greeting":
            one.meet(frame, self._own, self._is_here)
            return self._opened(one) if one.dialled else None
        if one.state == "answered":
            self._opened(one)
        if not len(frame):
            raise Broken("an empty frame")
        kind, rest = frame[0], memoryview(frame)[1:]
        if kind in (MESSAGE, TIMED):
            self._message(one, rest, kind == TIMED)
        elif kind == ACKNOWLEDGE:
            one.heard(rest, now)
        elif kind == TAKES:
            one.lanes = _lanes(bytes(rest))
        else:
            raise Broken(f"a frame of kind {kind}")

    def _opened(self, one: Connection) -> None:
        """Both sides have said and, where there are keys, proved who they are."""
        one.state, one.since = "open", time.monotonic()
        if (before := self._open.get(one.peer)) is not None:
            self._end(before, "it has connected anew")
        self._open[one.peer] = one
        self._elsewhere.pop(one.peer, None)
        self._troubles.pop(one.peer, None)
        _log.debug("straight connection with %s at %s", one.peer, one.host)
        self._tell_lanes(one)

    def _tell_lanes(self, one: Connection) -> None:
        one.put(TAKES, json.dumps(sorted(self._lanes)).encode())

    def _message(self, one: Connection, rest: memoryview, is_timed: bool) -> None:
        start = 1 + (rest[0] if len(rest) else 0)
        topic, payload = bytes(rest[1:start]).decode("ascii", "replace"), rest[start:]
        row, levels = topics.find(self.root, topic)
        if row not in STRAIGHT or levels.get("node", self._own.node) != self._own.node:
            raise Broken(f"{topic[:100]!r} does not come this way")
        self.messages_in += 1
        opened = Opened(payload, one.peer, one.epoch, True) if self._own.keys is not None else None
        self._tell(Straight(topic, payload, opened), 1)
        one.took(len(payload), is_timed)

    def _tell(self, event: Straight | Undelivered, count: int) -> None:
        try:
            self._inbox.put_nowait(event)
        except queue.Full:
            self.dropped += count

    def _accept(self, now: float) -> None:
        if self._listener is None:
            return
        while self._taken < NEW:
            try:
                sock, name = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no file to spare
                if self._shed():
                    continue
                break
            sock.setblocking(False)
            self._taken += 1
            self._add(Connection(sock, name[0], now), selectors.EVENT_READ)
            if len(self._new()) > NEW:
                self._shed()
        with contextlib.suppress(KeyError):  # it was replaced meanwhile
            self._selector.unregister(self._listener)  # until the next tick

    def _new(self) -> list[Connection]:
        """Connections that others have opened and not yet proved."""
        return [one for one in self._all if one.state in ("greeting", "answered") and not one.dialled]

    def _shed(self) -> bool:
        """Of the host that has the most new connections the oldest goes."""
        new = self._new()
        if new:
            most = Counter(one.host for one in new).most_common(1)[0][0]
            self._end(min((one for one in new if one.host == most), key=lambda one: one.since), "too many connections")
        return bool(new)

    def _add(self, one: Connection, events: int) -> None:
        self._all.add(one)
        self._selector.register(one.sock, events, one)

    def _dial_all(self, now: float) -> None:
        busy = {one.peer for one in self._all}
        for name, (at, wait_s) in self._due.items():
            if now >= at and name not in busy and self._listener is not None:
                self._due[name] = (now + wait_s * uniform(0.8, 1.2), min(2 * wait_s, LAST_RETRY_S))
                try:
                    self._dial(name, self._roster[name], now)
                except (OSError, ValueError, OverflowError) as error:
                    self._trouble(name, getattr(error, "strerror", None) or str(error))

    def _dial(self, name: str, peer: Peer, now: float) -> None:
        host, _, port = peer.address.rpartition(":")
        at = ipaddress.ip_address(host.strip("[]"))
        if at.is_loopback and not ipaddress.ip_address(self._here[0]).is_loopback:
            raise ValueError("it takes connections of its own machine alone")
        sock = socket.socket(_family(at))
        try:
            sock.setblocking(False)
            code = sock.connect_ex(_where(at, int(port), self._here[1]))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        except BaseException:
            sock.close()
            raise
        self._add(Connection(sock, str(at), now, name, peer.epoch), selectors.EVENT_WRITE)

    def _tick(self, now: float) -> None:
        self._taken = 0
        if self._listener is not None and self._listener not in self._selector.get_map():
            self._selector.register(self._listener, selectors.EVENT_READ)
        for one in list(self._all):
            if one.state != "open":
                if now > one.since + HELLO_S:
                    self._end(one, "it did not say in time who it is" if one.state != "connecting" else "no answer")
            elif not self._is_here(one.peer, one.epoch):
                one.waiting.clear()
                self._end(one, "it is not enrolled any more, or has started anew")
            else:
                self._guarded(one, one.acknowledge)
                if (silent_s := one.silent_s(now) if one in self._all else 0.0) > SILENT_S:
                    self._end(one, f"it was silent for {silent_s:.1f} s")
        self._dial_all(now)

    def _end(self, one: Connection, why: str) -> None:
        """A connection is over. What it may not have delivered goes by the broker."""
        if one not in self._all:
            return
        self._all.discard(one)
        self._selector.unregister(one.sock)
        one.sock.close()
        self._gone_in, self._gone_out = self._gone_in + one.bytes_in, self._gone_out + one.bytes_out
        state, one.state = one.state, "ended"
        if state != "open":
            self.refused += not one.dialled
        elif self._open.get(one.peer) is one:
            self.failed += 1
            del self._open[one.peer]
            self._dial_later(one, time.monotonic())
        if one.dialled or state == "open":
            self._trouble(one.peer, why)
        if one.waiting:
            self._tell(Undelivered(tuple(said for said, _ in one.waiting)), len(one.waiting))

    def _dial_later(self, lost: Connection, now: float) -> None:
        name = lost.peer
        if name in self._roster:
            self._elsewhere[name] = dict.fromkeys(lost.lanes, now)
            wait_s = FIRST_RETRY_S if now > lost.since + STEADY_S else self._due[name][1]
            self._due[name] = (now + self._patience_s(name) + wait_s * uniform(0.5, 1.0), min(2 * wait_s, LAST_RETRY_S))

    def _end_all(self, why: str) -> None:
        for one in list(self._all):
            one.waiting.clear()
            self._end(one, why)

    def _trouble(self, name: str, why: str) -> None:
        """Said once for each peer until there is a connection again."""
        if name in self._roster and self._troubles.get(name) != why:
            self._troubles[name] = why
            at = self._roster[name].address
            _log.info("no straight connection with %s at %s: %s; tensors go by the broker", name, at, why)

    def _close_listener(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(self._listener)
            self._listener.close()
        self._listener = None


_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def _family(at: _IP) -> socket.AddressFamily:
    return socket.AF_INET6 if at.version == 6 else socket.AF_INET


def _where(at: _IP, port: int, scope: int) -> tuple[Any, ...]:
    """As sockets want it; ``scope``: the interface of a link-local address."""
    return (str(at), port, 0, scope if at.is_link_local else 0) if at.version == 6 else (str(at), port)


def _bound(host: str, scope: int) -> socket.socket:
    at = ipaddress.ip_address(host)
    listener = socket.socket(_family(at))
    try:
        listener.setblocking(False)
        listener.bind(_where(at, 0, scope))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _encoded(pace: Pace, said: Publish, size: int) -> bytes:
    """Packed where the peer's link is slow enough for that."""
    if not pace.pays():
        return encode(said.topic, said.message, said.tensors)
    start = time.thread_time()
    payload = encode(said.topic, said.message, said.tensors, packed=True)
    pace.packed(size, len(payload), time.thread_time() - start)
    return payload


def _lanes(text: bytes) -> frozenset[int]:
    """
    Raises:
        Broken: it is no list of lanes.
    """
    try:
        lanes = json.loads(text) if len(text) < 8 * LANES else None
    except (ValueError, RecursionError):
        lanes = None
    if not isinstance(lanes, list) or not all(type(lane) is int and 0 <= lane < LANES for lane in lanes):
        raise Broken("no list of lanes")
    return frozenset(lanes)
