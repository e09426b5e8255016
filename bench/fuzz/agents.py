"""Both agents' machines under fire: whatever messages come, in whatever order, they answer or say ``DecodeError``.

The messages are decoded as on the wire and heard by a gateway and an edge of one plan, whose camera has a frame open; what
the edge is told to compute it computes, as zeros. All that they publish must be fit to be sent.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bench.fuzz.targets import ROOT, addressed
from edge_agent.node import Compute, EdgeNode
from gateway_agent.node import Finish, GatewayNode
from models.tiling.tensor import answer_of
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DecodeError, EngineError
from schemas.contract.plan import Plan
from schemas.contract.topics import Publish
from schemas.wire.codec import decode, encode

END = b"\xff\xfe\xff"  # between two messages
EPOCH, NAME, SECONDS = "01234567", "n", 0.4
_MOST = 40


def _zeros(plan: Plan) -> np.ndarray:
    return np.zeros(plan.pixels.shape, np.uint8)


def agents(data: bytes) -> None:
    """Messages with ``END`` between; each as ``targets.addressed`` reads it."""
    from bench.fuzz.seeds import plan as small

    plan = small()
    gateway, edge = GatewayNode("g", EPOCH, plan), EdgeNode(NAME, EPOCH, plan, "r", camera=True)
    edge.flops_s, edge.bytes_s = 1.0, 1e12
    now, said = 0.0, list(edge.connected(0.0)) + list(edge.frame(_zeros(plan), 0.0))
    _answer(plan, edge, gateway, said, now)
    for part in data.split(END)[:_MOST]:
        now += SECONDS
        if len(part) < 2:
            continue
        try:
            incoming = decode(ROOT, *addressed(part), plan.digest())
        except DecodeError:
            continue
        for node in (edge, gateway):
            try:
                _answer(plan, edge, gateway, node.hear(incoming, now), now)
            except DecodeError:
                pass
            except EngineError:
                return  # the gateway refuses this edge, which ends
        if now >= edge.deadline():
            _answer(plan, edge, gateway, edge.tick(now), now)
        _answer(plan, edge, gateway, gateway.tick(now), now)


def _answer(plan: Plan, edge: EdgeNode, gateway: GatewayNode, actions: Iterable[object], now: float) -> None:
    """Does what a machine says, as its process would."""
    todo = list(actions)
    for action in todo:
        if isinstance(action, Publish):
            payload = encode(action.topic, action.message, action.tensors)
            levels = {name: str(level) for name, level in action.levels.items()}
            again = decode(ROOT, action.topic.path(ROOT, **levels), payload)
            assert again.message == action.message
            if action.topic is topics.REGISTER:
                todo += gateway.hear(again, now)
        elif isinstance(action, Finish):
            todo += gateway.finished(action.complete.frame, {}, now)
        elif isinstance(action, Compute):
            _, block, lane = action.key
            boxes = {s.name: s.box for s in plan.ends} if action.whole else plan.blocks[block].by_home[lane].outputs
            zeros = {s.name: np.zeros(boxes[s.name].shape, s.dtype) for s in plan.ends}
            todo += edge.computed(action.key, zeros, 0.1, now)
        assert len(todo) < 1000, "they talk without end"


def seeds() -> Iterable[bytes]:
    """The messages of a frame that is stolen and answered, and every other kind of message."""
    from bench.fuzz.seeds import every_message, record
    from bench.fuzz.seeds import plan as small

    plan = small()
    digest = plan.digest()
    head: dict[str, Any] = {"node": "t", "epoch": "89abcdef"}
    frame, request = m.frame_id(NAME, EPOCH, 0), "0000000a"
    block, lane = plan.answers[0]
    boxes = answer_of(plan, block, lane)
    made = {s.name: np.zeros(boxes[s.name].shape, s.dtype) for s in plan.ends}
    register = m.Register(**head, seq=1, runtime="r", plan=digest)
    steal = m.Steal(node="g", epoch=EPOCH, plan=digest, thief="t", thief_epoch="89abcdef", request=request)
    result = m.ResultHeader(**head, plan=digest, frame=frame, block=block, tile=lane, stolen=True)
    accepted = m.Accepted(node="g", epoch=EPOCH, frame=frame, tiles=(lane,), block=block)
    told = [
        record(topics.REGISTER, register),
        record(topics.VICTIM_REQ, m.VictimRequest(**head, plan=digest, request=request)),
        record(topics.STEAL, steal),
        record(topics.RESULT, result, made),
        record(topics.ACCEPTED, accepted),
        record(topics.ECHO, m.Echo(node="g", epoch=EPOCH, seq=1, to_epoch=EPOCH, plan=digest)),
    ]
    yield END.join(told)
    yield from told
    for row, message in every_message().items():
        yield END.join([told[0], record(row, message)])
