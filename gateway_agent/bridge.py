"""The gateway for programs, on the cluster's own broker, in the manner of Zigbee2MQTT: ``dt/bridge/...``.

What it says is retained, so that who comes later knows at once; what is asked on ``request/<verb>`` is answered once on
``response/<verb>``, with the asker's transaction. No secret is in it. It knows no socket, thread or clock.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from gateway_agent.cluster_view import ClusterView
from gateway_agent.controls import VERBS, Request
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.topics import Publish, Topic

LOOK_S = 1.0
HEALTH_S = 10.0
MOST_NODES = 100
Answer = Callable[[Publish], object]


class Bridge:
    """``name`` and ``epoch`` are the gateway's."""

    def __init__(self, name: str, epoch: str) -> None:
        self._head: dict[str, Any] = {"node": name, "epoch": epoch}
        self._said: dict[Topic, m.Message] = {}
        self._look_at = self._health_at = 0.0

    def state(self, state: Literal["online", "offline"]) -> Publish:
        """Also the last will, as offline."""
        return Publish(topics.BRIDGE_STATE, m.BridgeState(**self._head, state=state))

    def connected(self) -> None:
        """The broker is there, perhaps without what it had retained."""
        self._said.clear()
        self._look_at = self._health_at = 0.0

    def tick(self, board: ClusterView, about: Callable[[], Mapping[str, Any]], now: float) -> list[Publish]:
        """What is news. ``about``: the fields of ``BridgeInfo``, asked for when they are needed."""
        if now < self._look_at:
            return []
        self._look_at = now + LOOK_S
        said = [self.state("online"), Publish(topics.BRIDGE_INFO, m.BridgeInfo(**self._head, **about()))]
        said.append(Publish(topics.BRIDGE_NODES, m.BridgeNodes(**self._head, nodes=_nodes(board))))
        if now >= self._health_at:
            self._health_at = now + HEALTH_S
            said.append(Publish(topics.BRIDGE_HEALTH, self._health(board, now)))
        news = [one for one in said if self._said.get(one.topic) != one.message]
        self._said |= {one.topic: one.message for one in news}
        return news

    def asked(self, verb: str, message: m.BridgeRequest, say: Answer) -> Request | None:
        """What to ask of the gateway; its answer goes to ``say``, and so does that there is no such verb."""

        def answer(refused: str) -> None:
            status: Literal["ok", "error"] = "error" if refused else "ok"
            response = m.BridgeResponse(
                **self._head, status=status, error=refused, value=message.value, transaction=message.transaction
            )
            say(Publish(topics.BRIDGE_RESPONSE, response, {"verb": verb}))

        known = next((one for one in VERBS if one == verb), None)
        if known is None:
            answer(f"there is no verb {verb[:100]!r}; there are: {', '.join(VERBS)}")
            return None
        return Request(known, message.value, answer)

    def _health(self, board: ClusterView, now: float) -> m.BridgeHealth:
        return m.BridgeHealth(
            **self._head, frames=board.frames, failed=board.failed, latency_s=board.latency_s(),
            frames_per_second=round(board.rate.per_second(now), 3), nodes_online=len(board.online),
            degraded=dict([(name, view.degraded) for name, view in board.sources.items() if view.degraded][:MOST_NODES]),
        )  # fmt: skip


def _nodes(board: ClusterView) -> tuple[m.BridgeNode, ...]:
    views = sorted(board.nodes.values(), key=lambda view: (not view.online, view.name))[:MOST_NODES]
    return tuple(
        m.BridgeNode(
            name=view.name, online=view.online, camera=view.camera, runtime=view.runtime,
            version=view.status.version if view.status else "", source=view.status.source if view.status else "",
        )
        for view in views
    )  # fmt: skip
