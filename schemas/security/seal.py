"""Who said it: a trailer behind the payload with a tag for each receiver, and the window that no repeat passes.

It knows keys and counters, no message: 32-byte keys of ordered pairs, sender -> receiver. It keeps three laws. What
``open`` returns was sealed by the node that it names, on this topic, for this receiver. Nothing is returned twice, and
nothing of an epoch of the sender that a later one has replaced. Unless strangers are allowed, it was sealed by one who
knew this receiver's epoch: what was recorded before a restart is refused after it.

    payload | n x (receiver, tag) | sender's name | its epoch, counter, n, length of the name, "DTs1"

The payload is hashed once (BLAKE2b); a tag is a keyed BLAKE2b over that hash, so that n receivers cost n short hashes: the
authenticator vector of PBFT (Castro and Liskov 1999). The broker need not be trusted with identity. Contents are not hidden
here; TLS hides them on the way.
"""

import hashlib
import hmac
import itertools
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.contract.errors import DecodeError

TAG_BYTES = 16
SECRET_BYTES = 32
WINDOW = 4096  # how far the counters of one sender may be out of order
REPLACED = 4096  # epochs of one sender that are remembered as over

_MAGIC = b"DTs1"
_FOOT = struct.Struct("<8sQBB4s")
_TAG = struct.Struct(f"<4s{TAG_BYTES}s")
_MAX_TAGS = 255


class Unsealed(DecodeError):
    """Not believed; ``kind`` says in one word why: seal or replay."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def derive(secret: bytes, label: str, *parts: str | bytes, size: int = SECRET_BYTES) -> bytes:
    """A key for one purpose (``label``, at most 16 letters) and its ``parts`` from a secret of at most 64 bytes."""
    return hashlib.blake2b(_joined(*parts), digest_size=size, key=secret, person=label.encode()).digest()


@dataclass(frozen=True)
class Opened:
    """What was sealed, and by whom. ``fresh``: the sender knew this receiver's epoch."""

    payload: memoryview
    sender: str
    epoch: str
    fresh: bool


@dataclass
class _Window:
    """The counters that came in one epoch of one sender: the highest, and a bit for each of the ``WINDOW`` up to it."""

    epoch: str = ""
    highest: int = 0
    bits: int = 0

    def has(self, counter: int) -> bool:
        """Whether it came, or is too old to tell."""
        behind = self.highest - counter
        return behind >= WINDOW or (behind >= 0 and bool(self.bits >> behind & 1))

    def add(self, counter: int) -> None:
        ahead = counter - self.highest
        if ahead > 0:
            self.bits = (self.bits << ahead if ahead < WINDOW else 0) & (1 << WINDOW) - 1 | 1
            self.highest = counter
        else:
            self.bits |= 1 << -ahead


@dataclass
class _Peer:
    """Another node: the key for what we send to it and for what it sends to us, and its epochs."""

    send: bytes
    receive: bytes
    window: _Window = field(default_factory=_Window)
    replaced: dict[str, None] = field(default_factory=dict)

    def renew(self, epoch: str) -> None:
        """It has started anew."""
        if self.window.epoch:
            self.replaced[self.window.epoch] = None
            if len(self.replaced) > REPLACED:
                del self.replaced[next(iter(self.replaced))]
        self.window = _Window(epoch)


class Seal:
    """What the node ``name`` in its ``epoch`` (8 hexadecimal digits) seals and opens; ``peers`` come and go by name."""

    def __init__(self, name: str, epoch: str) -> None:
        self.name = name
        self.news = 0  # grows when a peer comes or goes or has another epoch
        self.restart(epoch)
        self._peers: dict[str, _Peer] = {}

    def restart(self, epoch: str) -> None:
        """This node begins a new epoch; what was sealed for the one before is refused from now on."""
        self.epoch = epoch
        self._counter = itertools.count(1)

    def admit(self, name: str, send: bytes, receive: bytes) -> None:
        """A peer and its keys. Its epochs stay known if the keys are those that it had."""
        known = self._peers.get(name)
        if known is None or (known.send, known.receive) != (send, receive):
            self._peers[name] = _Peer(send, receive)
            self.news += 1

    def dismiss(self, name: str) -> None:
        """Nothing of this peer is believed any more, and nothing is sealed for it."""
        self.news += self._peers.pop(name, None) is not None

    @property
    def peers(self) -> tuple[str, ...]:
        return tuple(self._peers)

    def epoch_of(self, name: str) -> str:
        """The peer's epoch as we know it; empty: not heard of."""
        peer = self._peers.get(name)
        return peer.window.epoch if peer else ""

    def holds(self, name: str, epoch: str) -> bool:
        """Whether the peer is enrolled here, and this is its epoch."""
        return bool(epoch) and self.epoch_of(name) == epoch

    def pair(self, name: str) -> tuple[bytes, bytes]:
        """The keys for what we send to a peer and for what it sends to us.

        Raises:
            Unsealed: it is not enrolled here.
        """
        peer = self._peers.get(name)
        if peer is None:
            raise Unsealed("seal", f"{name!r} is not enrolled here")
        return peer.send, peer.receive

    def meet(self, name: str, epoch: str) -> bool:
        """Somebody who knows says that the peer is in this epoch. Whether that is news."""
        peer = self._peers.get(name)
        if peer is None or not epoch or epoch == peer.window.epoch or epoch in peer.replaced:
            return False
        peer.renew(epoch)
        self.news += 1
        return True

    def seal(self, topic: str, payload: bytes, receivers: Iterable[tuple[str, str]]) -> bytes:
        """``payload`` and its trailer, for receivers by name and epoch (empty: any). Names without a key are left out."""
        counter = next(self._counter)
        digest = hashlib.blake2b(payload, digest_size=32).digest()
        tags = [
            _TAG.pack(_short(name), _tag(peer.send, topic, self.name, self.epoch, counter, context, digest))
            for name, context in receivers
            if (peer := self._peers.get(name)) is not None
        ][:_MAX_TAGS]
        sender = self.name.encode()
        foot = _FOOT.pack(self.epoch.encode(), counter, len(tags), len(sender), _MAGIC)
        return b"".join([payload, *tags, sender, foot])

    def open(self, topic: str, sealed: bytes | bytearray | memoryview, strangers: bool = False) -> Opened:
        """What was sealed for us. ``strangers``: also what was sealed for any epoch of ours, which is not ``fresh``.

        Raises:
            Unsealed: no trailer, a sender without a key here, no tag that fits, a repeat, or an epoch that is over.
        """
        payload, tags, sender, epoch, counter = _parse(sealed)
        peer = self._peers.get(sender)
        if peer is None:
            raise Unsealed("seal", f"{sender!r} is not enrolled here")
        if epoch in peer.replaced:
            raise Unsealed("replay", f"{sender} speaks of its epoch {epoch}, which is over")
        if epoch == peer.window.epoch and peer.window.has(counter):
            raise Unsealed("replay", f"number {counter} of {sender} came before")
        digest = hashlib.blake2b(payload, digest_size=32).digest()
        mine = _short(self.name)
        for context in (self.epoch, "") if strangers else (self.epoch,):
            wanted = _tag(peer.receive, topic, sender, epoch, counter, context, digest)
            if any(hmac.compare_digest(wanted, tag) for name, tag in tags if name == mine):
                if context:
                    self._note(peer, epoch, counter)
                return Opened(payload, sender, epoch, bool(context))
        raise Unsealed("seal", f"the seal of {sender!r} does not fit: altered, for another node, or of another time")

    def _note(self, peer: _Peer, epoch: str, counter: int) -> None:
        if epoch != peer.window.epoch:
            peer.renew(epoch)
            self.news += 1
        peer.window.add(counter)


def bare(payload: bytes | bytearray) -> bytes:
    """A payload without the trailer that it may have, unproved: for readers who have no keys."""
    try:
        return bytes(_parse(payload)[0])
    except Unsealed:
        return bytes(payload)


def _parse(sealed: bytes | bytearray | memoryview) -> tuple[memoryview, list[tuple[bytes, bytes]], str, str, int]:
    """Payload, (receiver, tag) pairs, sender, its epoch and its counter, as the trailer claims them."""
    end = len(sealed) - _FOOT.size
    if end < 0:
        raise Unsealed("seal", f"{len(sealed)} bytes without a seal; this cluster is sealed")
    epoch, counter, count, length, magic = _FOOT.unpack_from(sealed, end)
    start = end - length - count * _TAG.size
    if magic != _MAGIC or start < 0:
        raise Unsealed("seal", "a message without a seal; this cluster is sealed")
    tags = [_TAG.unpack_from(sealed, start + i * _TAG.size) for i in range(count)]
    sender = bytes(sealed[end - length : end]).decode("ascii", "replace")
    return memoryview(sealed)[:start], tags, sender, epoch.decode("ascii", "replace"), counter


def _tag(key: bytes, topic: str, sender: str, epoch: str, counter: int, context: str, digest: bytes) -> bytes:
    said = _joined(topic, sender, epoch, counter.to_bytes(8, "little"), context, digest)
    return hashlib.blake2b(said, digest_size=TAG_BYTES, key=key, person=b"dt tag").digest()


def _short(name: str) -> bytes:
    """By what a receiver finds its tag; that two names may share it does no harm."""
    return hashlib.blake2b(name.encode(), digest_size=4).digest()


def _joined(*parts: str | bytes) -> bytes:
    """The parts so that no two lists of parts give the same bytes."""
    raw = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(len(part).to_bytes(4, "little") + part for part in raw)
