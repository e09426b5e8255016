"""A node that is enrolled and lies: it has valid keys and says everything about everybody, all but what its seal forbids.

What it says passes the wire's checks and the rights as at any guard; what those refuse is counted and goes nowhere.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.tiling.tensor import crop
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DecodeError
from schemas.contract.plan import Box
from schemas.contract.topics import Publish
from schemas.security.rights import objection
from schemas.wire.codec import decode, encode
from tests.simulation.cluster import Cluster
from tests.simulation.processes import GATEWAY

MOLE, EPOCH = "mole", "0000dead"
KINDS = ("register", "victim", "steal", "tile", "return", "result", "accepted", "overlap", "overlap_req", "echo", "status",
         "picture", "outcome")  # fmt: skip
HUGE = 10**12 - 1


@dataclass
class Lie:
    """One message: ``about`` picks the node that it names as sender or in its topic, ``frame`` which frame, real or not."""

    kind: str
    honest: bool  # names itself as the sender
    about: int
    frame: int
    tile: int
    block: int
    flag: bool
    request: str


class Mole:
    """``say`` lies in ``cluster``; ``passed`` and ``refused`` count them by kind."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.plan = cluster, cluster.pictures.plan
        self.passed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._seq = 0

    def say(self, lie: Lie) -> None:
        """As what comes out of a guard: what the wire carries and the mole may say."""
        topic, message, levels, tensors = self._made(lie)
        try:
            path = topic.path("dt", **levels)
            incoming = decode("dt", path, encode(topic, message, tensors))
        except DecodeError:
            self.refused[lie.kind] += 1
            return
        if objection(topic, incoming.levels, message, MOLE):
            self.refused[lie.kind] += 1
            return
        self.passed[lie.kind] += 1
        if topic in (topics.STATUS, topics.PICTURE):  # for people: no machine hears it
            return
        self.cluster.network.route(Publish(topic, message, levels, tensors))

    def _frames(self) -> list[str]:
        """Real ones that are open, one that ended, and some that nobody has opened."""
        found = list(self.cluster.gateway.node.assembly.frames) + list(self.cluster.truth.outcomes)[-1:]
        for edge in self.cluster.edges.values():
            found += [m.frame_id(edge.name, edge.epoch, number) for number in (edge.node.frames_opened, HUGE)]
        return [*found, m.frame_id(MOLE, EPOCH, self._seq), m.frame_id(MOLE, EPOCH, HUGE), m.frame_id("nobody", EPOCH, 0)]

    def _made(self, lie: Lie) -> tuple[topics.Topic, m.Message, dict[str, Any], dict[str, np.ndarray]]:
        """Topic, message, levels and tensors of a lie."""
        self._seq += 1
        names = [*self.cluster.names, GATEWAY, MOLE]
        name, frames = names[lie.about % len(names)], self._frames()
        other = self.cluster.edges.get(name)
        frame = frames[lie.frame % len(frames)]
        block = self.plan.blocks[lie.block % len(self.plan.blocks)]
        index, tile = lie.block % len(self.plan.blocks), lie.tile % len(block.tiles)
        head: dict[str, Any] = {"node": MOLE if lie.honest else name, "epoch": EPOCH}
        plan: dict[str, Any] = {"plan": self.plan.digest()}
        task = block.tiles[tile]
        outputs = self._spoilt(frame, task.outputs)
        epoch, to, source = other.epoch if other else EPOCH, {"node": name}, {"source": m.frame_source(frame)[0]}
        if lie.kind == "register":
            own: dict[str, Any] = {"frames": (frame,), "waiting": 999 * lie.flag, "camera": lie.flag, "priority": 100,
                                   "flops_s": 1e15, "leaving": lie.tile == 3, "deadline_s": 0.1}  # fmt: skip
            return topics.REGISTER, m.Register(**head, **plan, **own, seq=self._seq, runtime=self.plan.runtime), {}, {}
        if lie.kind == "victim":
            return topics.VICTIM_REQ, m.VictimRequest(**head, **plan, request=lie.request, ahead=lie.flag), {}, {}
        if lie.kind == "steal":
            thief: dict[str, Any] = {"thief": MOLE, "thief_epoch": EPOCH, "request": lie.request}
            return topics.STEAL, m.Steal(**head, **plan, **thief), to, {}
        if lie.kind == "tile":
            first = self.plan.blocks[0].tiles[lie.tile % len(self.plan.blocks[0].tiles)]
            image = self.cluster.pictures.image(frame)
            pixels = {n: crop(image, box) for n, box in first.inputs.items()}
            lent = m.TileHeader(**head, **plan, to_epoch=epoch, request=self._asked(name, lie.request), lease_s=9.0,
                                frame=None if lie.flag else frame, tile=first.home)  # fmt: skip
            return topics.TILE, lent, to, {} if lie.flag else pixels
        if lie.kind == "return":
            return topics.RETURN, m.Return(**head, **plan, frame=frame, tiles=tuple(range(4)), error="x" * lie.flag), to, {}
        if lie.kind == "result":
            about: dict[str, Any] = {"whole": lie.flag and lie.honest, "error": "" if lie.tile else "any text"}
            request = f"beef{lie.request[4:]}"  # it has not asked under this one
            where: dict[str, Any] = {"frame": frame, "block": index, "tile": task.home}
            header = m.ResultHeader(**head, **plan, **about, **where, request=request, stolen=True)
            return topics.RESULT, header, {"frame": frame}, {} if header.error else outputs
        if lie.kind == "accepted":
            return topics.ACCEPTED, m.Accepted(**head, frame=frame, tiles=(0, 1, 2, 3), ended=lie.flag), to, {}
        if lie.kind == "overlap":
            layer, taker = index, task.home
            strips = m.OverlapHeader(**head, **plan, frame=frame, layer=layer, tile=taker, maker=lie.block % 4, proof="")
            return topics.OVERLAP, strips, {"layer": layer, "tile": taker}, self._parts(frame, layer, taker, lie.block % 4)
        if lie.kind == "overlap_req":
            return topics.OVERLAP_REQ, m.OverlapRequest(**head, **plan, frame=frame, layer=0, tile=tile), {}, {}
        if lie.kind == "echo":
            return topics.ECHO, m.Echo(**head, **plan, seq=HUGE, to_epoch=epoch, refused="x"), to, {}
        if lie.kind == "status":
            return topics.STATUS, m.Status(**head), to, {}
        if lie.kind == "picture":
            jpeg = {"jpeg": np.zeros(9, np.uint8)}
            return topics.PICTURE, m.PictureHeader(**head, frame=frame, picture=(1, 1)), source, jpeg
        return topics.OUTCOME, m.Outcome(**head, frame=frame, status="failed", latency_s=1.0), source, {}

    def _asked(self, name: str, otherwise: str) -> str:
        """The request that a node has open: the gateway may have passed it on to the mole."""
        edge = self.cluster.edges.get(name)
        return next(iter(edge.node.thief._requests), otherwise) if edge else otherwise

    def _parts(self, frame: str, layer: int, taker: int, maker: int) -> dict[str, np.ndarray]:
        """Of the right shape, with wrong values; or none, where the plan knows no such part."""
        lanes = next(iter(self.cluster.edges.values())).node.lanes
        return self._spoilt(frame, lanes._gives.get((layer, maker), {}).get(taker, {}))

    def _spoilt(self, frame: str, boxes: Mapping[str, Box]) -> dict[str, np.ndarray]:
        return {n: np.full_like(crop(self.cluster.pictures.whole(frame, n), r), 77) for n, r in boxes.items()}
