"""Whether a broker carries what a plan needs: each kind of message goes there and back once, in its size.

It decides what to say and what the answer means; it knows no socket and no clock. Law: ready is only who has had every kind
back on this very connection, and what does not come back is named in one line with its size, what did, and a remedy.

One after another, the smallest first, so that a broker that ends the connection is known to have done so for this one.
"""

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from schemas.contract import topics
from schemas.contract.chunks import CHUNK_BYTES
from schemas.contract.messages import frame_id
from schemas.contract.plan import Box, Plan, TensorSpec
from schemas.contract.topics import Topic
from schemas.wire.codec import DTYPES

MARK = b"DTprobe:"  # no message begins so
HEAD_BYTES = 1024  # header and seal of a message
PICTURE_BYTES = 256 * 1024  # of a JPEG for people
PATIENCE_S, SLOWEST = 10.0, 50_000  # bytes a second
SLOW_S = 15.0  # a ping that waits behind so much comes too late
AGAIN_S = 60.0  # a broker that failed is tried again


@dataclass(frozen=True)
class Kind:
    """One kind of message: what it is to people, where it goes, at which QoS, and its bytes.

    A large one that may end the connection goes at QoS 0: at QoS 1 the client would send it again on the next, and for ever.
    """

    what: str
    path: str
    qos: int
    size: int


@dataclass(frozen=True)
class Probe:
    """To publish on ``path``, after a subscription to it."""

    path: str
    qos: int
    payload: bytes


def kinds(
    plan: Plan,
    root: str,
    node: str,
    gateway: bool = False,
    outputs: bool = False,
    pictures: bool = False,
    camera: bool = True,
) -> list[Kind]:
    """What ``node`` can send to itself and nobody else hears, in the sizes of this plan; ``gateway``: it is the gateway,
    which may use every topic; ``outputs``: it publishes those of the model; ``pictures``: people look at what cameras see;
    ``camera``: it may compute frames undivided."""
    tile = max(_bytes(plan, plan.blocks[0].inputs, tile.inputs) for tile in plan.blocks[0].tiles)
    made = [max(_bytes(plan, block.cut, tile.outputs) for tile in block.tiles) for block in plan.blocks]
    result = max(made[plan.answers[-1][0]], sum(map(_whole, plan.ends)) if plan.undivided and camera else 0)
    frame = frame_id(node, "0" * 8, 0)

    def kind(what: str, topic: Topic, size: int, **levels: str | int) -> Iterator[Kind]:
        """One that is small, which tells rules from limits, and one of its size."""
        path = topic.path(root, **levels)
        yield Kind(what, path, topic.qos, HEAD_BYTES)
        if size:
            yield Kind(what, path, 0, size + HEAD_BYTES)

    def all_kinds() -> Iterator[Kind]:
        yield from kind("a tile", topics.TILE, tile, node=node)
        if not gateway:
            yield from kind("a result", topics.TILE, result, node=node)
            return
        yield from kind("an echo", topics.ECHO, 0, node=node)
        yield from kind("a word of acceptance", topics.ACCEPTED, 0, node=node)
        yield from kind("a tile's result", topics.RESULT, result, frame=frame)
        yield from kind("a part of a model", topics.MODEL, CHUNK_BYTES, node=node)
        if len(plan.blocks) > 1:
            yield from kind("a part of a tile", topics.OVERLAP, max(made), layer=0, tile=1 << 30)
        if pictures:
            yield from kind("a picture", topics.PICTURE, PICTURE_BYTES, source=node)
        if outputs:
            yield from kind("a model's outputs", topics.OUTPUT, sum(map(_whole, plan.outputs)), source=node)

    return sorted(all_kinds(), key=lambda found: found.size)


def _bytes(plan: Plan, specs: Sequence[TensorSpec], boxes: Mapping[str, Box]) -> int:
    """Of these parts of tensors; those of the image travel as uint8."""
    items = {spec.name: 1 if spec.name == plan.pixels.tensor else DTYPES[spec.dtype].itemsize for spec in specs}
    return sum(math.prod(box.shape) * items[name] for name, box in boxes.items())


def _whole(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * DTYPES[spec.dtype].itemsize


class Readiness:
    """The proof, for one connection after another. ``broker`` is its name for people."""

    def __init__(self, kinds: Sequence[Kind], broker: str) -> None:
        self._kinds, self._broker = kinds, broker
        self._nonce = secrets.token_hex(8).encode()
        self._at = 0  # the kind that is under way, or would be
        self._said_at = self._again_at = float("inf")
        self._repeated = self._connected = False
        self._cuts = [0] * len(kinds)
        self._told = ""
        self.finding = self.remedy = ""  # what has failed, and what helps, until it is tried again

    @property
    def ready(self) -> bool:
        return self._connected and self._at == len(self._kinds)

    @property
    def paths(self) -> set[tuple[str, int]]:
        """What was subscribed to for it, with the QoS; not needed any more once it is ready."""
        return {(kind.path, kind.qos) for kind in self._kinds}

    def connected(self, now: float) -> list[Probe]:
        """There is a connection, maybe another one: all is to be proved on it. What failed a moment ago would again."""
        self._connected, self._at = True, 0
        return [] if now < self._again_at < float("inf") else self._begin(now)

    def came(self, path: str, payload: bytes, now: float) -> list[Probe]:
        """Something that begins with ``MARK`` has come."""
        if self.ready or self._said_at == float("inf") or (path, payload) != self._sent():
            return []
        self._cuts[self._at] = 0
        self._at += 1
        if self.ready:
            self._told = ""
        return self._say(now)

    def lost(self, now: float) -> None:
        """The connection has ended. Once may be chance."""
        self._connected = False
        if self._said_at < float("inf"):
            self._cuts[self._at] += 1
            if self._cuts[self._at] >= 2:
                self._fail("ends the connection at", now, now - self._said_at >= SLOW_S)
        self._said_at = float("inf")

    @property
    def trouble(self) -> str:
        """What has failed and what helps, in one line; or nothing."""
        return f"{self.finding}: {self.remedy}" if self.finding else ""

    def deadline(self) -> float:
        """When ``tick`` has something to do."""
        if not self._connected or self.ready:
            return float("inf")
        return min(self._said_at + self._patience_s(), self._again_at)

    def tick(self, now: float) -> list[Probe]:
        """What was silent for half of the patience is said once more: a subscription may have taken its time."""
        if now < self.deadline():
            return []
        if now >= self._again_at:
            return self._begin(now)
        if not self._repeated:
            self._said_at, self._repeated = now, True
            return [self._probe()]
        self._fail("does not pass on", now)
        return []

    def complaint(self) -> str:
        """``trouble``, once, however often it fails in this way; or nothing."""
        if not self.trouble or self.trouble == self._told:
            return ""
        self._told = self.trouble
        return self.trouble

    def _begin(self, now: float) -> list[Probe]:
        self._at, self._again_at, self.finding = 0, float("inf"), ""
        return self._say(now)

    def _fail(self, what: str, now: float, slow: bool = False) -> None:
        self.finding, self._said_at, self._again_at = self._named(what), float("inf"), now + AGAIN_S
        if slow:
            self.finding += f", after more than {SLOW_S:g} s"
            self.remedy = "the link is too slow for it: plan smaller tiles (dt plan --rate), or use a faster one"

    def _patience_s(self) -> float:
        return (PATIENCE_S + self._kinds[self._at].size / SLOWEST) / 2

    def _say(self, now: float) -> list[Probe]:
        self._said_at, self._repeated = (float("inf") if self.ready else now), False
        return [] if self.ready else [self._probe()]

    def _probe(self) -> Probe:
        kind = self._kinds[self._at]
        return Probe(kind.path, kind.qos, self._sent()[1])

    def _sent(self) -> tuple[str, bytes]:
        kind = self._kinds[self._at]
        return kind.path, (MARK + self._nonce + b"%d " % self._at).ljust(kind.size, b"\0")

    def _named(self, what: str) -> str:
        kind = self._kinds[self._at]
        passed = [before.size for before in self._kinds[: self._at] if before.path == kind.path and before.size < kind.size]
        told = f"the broker at {self._broker} {what} {kind.what} of {kind.size} bytes on {kind.path}"
        if passed:
            self.remedy = (
                f"raise its limit of a message to {self._kinds[-1].size} bytes (mosquitto: max_packet_size, NATS: max_payload, "
                "RabbitMQ: max_message_size), or plan smaller tiles"
            )
            return f"{told}, but passes {passed[-1]}"
        self.remedy = f"its rules must let this user read and write {kind.path.partition('/')[0]}/#"
        return told
