"""All that an edge decides, from what it hears: which tile to compute, to lend, to ask for, to send again.

It joins the three machines of this room and keeps one law: nothing is lost that the gateway has not accepted. It knows
no socket, thread or clock; every method takes ``now`` and returns what to publish and what to compute.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_agent.outbox import Outbox
from edge_agent.thief import Thief
from edge_agent.tiles import TileQueue
from models.tensor import check, crop
from schemas import messages as m
from schemas import topics
from schemas.codec import Incoming
from schemas.errors import DecodeError, EngineError
from schemas.keys import Key
from schemas.plan import Plan
from schemas.topics import Publish

HEARTBEAT_S = 2.0
MISSED_ECHOES = 3
FIRST_LEASE_S, SHORTEST_LEASE_S, LEASE_TILES = 10.0, 3.0, 10.0  # a lease is ten measured tile times

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Compute:
    """To run on the engine now: one tile's inputs (pixels as uint8)."""

    key: Key
    inputs: Tensors


@dataclass(frozen=True)
class Reconnect:
    """The gateway has not echoed for too long: the broker may have lost our subscriptions."""


Action = Publish | Compute | Reconnect


class EdgeNode:
    """One edge of one plan. ``window`` frames of the own source may be open at once."""

    def __init__(self, name: str, epoch: str, plan: Plan, runtime: str, window: int = 2) -> None:
        self.name, self.epoch, self.plan, self.runtime, self.window = name, epoch, plan, runtime, window
        self.digest = plan.digest()
        self.tiles, self.thief, self.outbox = TileQueue(), Thief(), Outbox()
        self.counts: Counter[str] = Counter()
        self.compute_s = 0.0
        self._frames = 0
        self._images: dict[str, tuple[np.ndarray, tuple[int, int]]] = {}
        self._stolen: dict[Key, tuple[Tensors, tuple[int, int]]] = {}  # leased to us, not computed yet
        self._results: dict[Key, tuple[m.ResultHeader, Tensors]] = {}
        self._computing: Key | None = None
        self._picture = (0, 0)  # of the frame that is being computed
        self._tile_s: float | None = None
        self._gateway = ""
        self._seq = self._echoed_seq = 0
        self._registered: tuple[int, tuple[str, ...]] = (-1, ())
        self._heartbeat_at = float("-inf")
        self._echoed_at = float("inf")  # no echo is awaited before the broker is there

    @property
    def wants_frame(self) -> bool:
        """Whether the source may add a frame."""
        return len(self.tiles.frames) < self.window

    @property
    def frames_opened(self) -> int:
        return self._frames

    def frame(self, image: np.ndarray, now: float, picture: tuple[int, int] = (0, 0)) -> list[Action]:
        """A frame of the own source: uint8 pixels of the model's size, NHWC; ``picture``: the size that it came in."""
        frame = m.frame_id(self.name, self.epoch, self._frames)
        self._frames += 1
        self._images[frame] = (image, picture)
        self.tiles.add(frame, [(frame, 0, tile) for tile in self.plan.blocks[0].order])
        return self._settle(now)

    def hear(self, incoming: Incoming, now: float) -> list[Action]:
        """A message for this node.

        Raises:
            EngineError: the gateway refuses this node.
        """
        message, said = incoming.message, list[Action]()
        if isinstance(message, m.Echo):
            self._echo(message, now)
        elif isinstance(message, m.Steal):
            said.append(self._lend(message, now))
        elif isinstance(message, m.TileHeader):
            self._tile(message, incoming.tensors, now)
        elif isinstance(message, m.Accepted):
            self._accept(message)
        else:
            self.counts["unexpected message"] += 1
        return said + self._settle(now)

    def computed(self, key: Key, outputs: Tensors, seconds: float, now: float, error: str = "") -> list[Action]:
        """The engine is through with ``key``; ``error``: it failed, and so will the frame."""
        self._computing = None
        self.compute_s += seconds
        self._tile_s = seconds if self._tile_s is None else 0.7 * self._tile_s + 0.3 * seconds
        stolen = m.frame_source(key[0])[:2] != (self.name, self.epoch)
        if stolen or self.tiles.computed(key):
            self.counts["stolen" if stolen else "computed"] += 1
            header = m.ResultHeader(
                **self._head(), plan=self.digest, frame=key[0], block=key[1], tile=key[2],
                compute_s=seconds, stolen=stolen, picture=self._picture, error=error[:300],
            )  # fmt: skip
            self._results[key] = (header, {} if error else outputs)
            for dropped in self.outbox.put(key, now):
                del self._results[dropped]
                self.tiles.put_back(dropped)
        return self._settle(now)

    def tick(self, now: float) -> list[Action]:
        """The deadline has come."""
        self.tiles.expire(now)
        said = self._settle(now)
        if now >= self._echoed_at + (MISSED_ECHOES + 1) * HEARTBEAT_S:
            self._echoed_at = now
            said.append(Reconnect())
        return said

    def connected(self, now: float) -> list[Action]:
        """The broker is there (again): what was said before may be lost."""
        self._heartbeat_at = float("-inf")
        self._echoed_at = now
        self.outbox.requeue(now)
        return self._settle(now)

    def leave(self, now: float) -> list[Action]:
        """Good-bye: the gateway forgets this node at once."""
        return [self._register(now, leaving=True)]

    def deadline(self) -> float:
        """When ``tick`` is due."""
        others = (self.tiles.deadline(), self.thief.deadline(), self.outbox.deadline())
        return min([self._heartbeat_at + HEARTBEAT_S, *(d for d in others if d is not None)])

    def _head(self) -> dict[str, Any]:
        return {"node": self.name, "epoch": self.epoch}

    def _echo(self, echo: m.Echo, now: float) -> None:
        if echo.to_epoch != self.epoch or echo.seq <= self._echoed_seq:
            self.counts["echo of another time"] += 1
            return
        self._echoed_seq = echo.seq
        if echo.refused:
            raise EngineError(f"the gateway refuses {self.name}: {echo.refused}")
        self._echoed_at = now
        if self._gateway and self._gateway != echo.epoch:  # it restarted and has forgotten every tile
            self.tiles.requeue()
            self.outbox.requeue(now)
        self._gateway = echo.epoch

    def _lend(self, steal: m.Steal, now: float) -> Publish:
        lease_s = FIRST_LEASE_S if self._tile_s is None else max(SHORTEST_LEASE_S, LEASE_TILES * self._tile_s)
        key = self.tiles.lend(steal.thief, steal.request, steal.ahead, now, lease_s)
        header = {**self._head(), "plan": self.digest, "to_epoch": steal.thief_epoch, "request": steal.request}
        if key is None:
            return Publish(topics.TILE, m.TileHeader.model_validate(header), {"node": steal.thief}, {})
        self.counts["lent"] += 1
        picture = self._images[key[0]][1]
        where = {"frame": key[0], "block": key[1], "tile": key[2], "lease_s": lease_s, "picture": picture}
        message = m.TileHeader.model_validate(header | where)
        return Publish(topics.TILE, message, {"node": steal.thief}, self._inputs(key))

    def _inputs(self, key: Key) -> Tensors:
        frame, block, tile = key
        image, _ = self._images[frame]
        return {name: crop(image, region) for name, region in self.plan.blocks[block].tiles[tile].inputs.items()}

    def _tile(self, header: m.TileHeader, tensors: Tensors, now: float) -> None:
        if header.to_epoch != self.epoch:
            self.counts["tile for another epoch"] += 1
        elif header.frame is None:
            self.thief.none(header.request, now)
        else:
            try:
                check(self.plan, header.block, header.tile, tensors, inputs=True)
            except DecodeError:
                self.counts["tile of a wrong shape"] += 1
                return
            key = (header.frame, header.block, header.tile)
            if self.thief.tile(header.request) and key not in self._results and key != self._computing:
                self._stolen[key] = (tensors, header.picture)

    def _accept(self, accepted: m.Accepted) -> None:
        if self._gateway and accepted.epoch != self._gateway:
            self.counts["accepted by a gateway that is gone"] += 1
            return
        if accepted.ended:
            self._images.pop(accepted.frame, None)
            for key in [k for k in self._stolen if k[0] == accepted.frame]:
                del self._stolen[key]
        for key in self.outbox.accept(accepted.frame, accepted.block, accepted.tiles, accepted.ended):
            del self._results[key]
        if accepted.frame in self.tiles.frames:
            self.tiles.accept(accepted.frame, accepted.block, accepted.tiles, accepted.ended)

    def _settle(self, now: float) -> list[Action]:
        """What follows from the new state: compute first, for the engine must not wait for the network."""
        said: list[Action] = []
        if self._computing is None and not self.outbox.full:
            said += self._next(now)
        hungry = bool(self._gateway) and not self.tiles.waiting and not self._stolen and not self.outbox.full
        ask = self.thief.poll(hungry, self._computing is not None, now)
        for key in self.outbox.due(now):
            header, tensors = self._results[key]
            said.append(Publish(topics.RESULT, header, {"frame": key[0]}, tensors))
        was_waiting, was_open = self._registered
        waiting, frames = self.tiles.waiting, self.tiles.frames
        news = waiting > was_waiting or (waiting == 0 and was_waiting != 0) or not set(frames) <= set(was_open)
        if news or now >= self._heartbeat_at + HEARTBEAT_S:
            said.append(self._register(now))
        else:
            self._registered = (waiting, was_open)
        if ask:
            request = m.VictimRequest(**self._head(), plan=self.digest, request=ask.request, ahead=ask.ahead)
            said.append(Publish(topics.VICTIM_REQ, request))
        return said

    def _next(self, now: float) -> list[Compute]:
        """The next tile for the engine: a stolen one first, since somebody waits for it under a lease."""
        if self._stolen:
            key = next(iter(self._stolen))
            tensors, self._picture = self._stolen.pop(key)
            self._computing = key
            return [Compute(key, tensors)]
        own = self.tiles.take(now)
        if own is None:
            return []
        self._computing, self._picture = own, self._images[own[0]][1]
        return [Compute(own, self._inputs(own))]

    def _register(self, now: float, leaving: bool = False) -> Publish:
        self._seq += 1
        self._heartbeat_at = now
        self._registered = (self.tiles.waiting, self.tiles.frames)
        register = m.Register(
            **self._head(), seq=self._seq, runtime=self.runtime, plan=self.digest,
            waiting=self.tiles.waiting, frames=self.tiles.frames, leaving=leaving,
        )  # fmt: skip
        return Publish(topics.REGISTER, register)
