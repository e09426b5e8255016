"""The table of topics: pattern, payload, QoS, retained, who publishes and who subscribes. Nothing else names a topic.

The root (``dt``) is a parameter, so that several clusters can share one broker. ``<param>`` stands for one topic level.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.contract import messages as m
from schemas.contract.errors import DecodeError


@dataclass(frozen=True, eq=False)
class Topic:
    """One row. ``tensors`` says whether raw tensors follow the JSON header; ``binds`` ties topic levels to the message.

    A level in ``binds`` equals the payload's field of that name, and ``source`` the source in the frame's name. Levels that
    are not tied (``<node>`` where the gateway or a victim speaks to one) name the receiver, who hears no other.
    """

    pattern: str
    payload: type[m.Message]
    qos: int
    retained: bool
    publisher: str
    subscriber: str
    tensors: bool = False
    binds: tuple[str, ...] = ()

    def path(self, root: str, **levels: str | int) -> str:
        """The topic to publish on, with every ``<param>`` filled in."""
        return root + "/" + self.pattern.replace("<", "{").replace(">", "}").format_map(levels)

    def filter(self, root: str, **levels: str | int) -> str:
        """The filter to subscribe with: ``+`` for every ``<param>`` that is not given."""
        return root + "/" + re.sub(r"<(\w+)>", lambda found: str(levels.get(found[1], "+")), self.pattern)


@dataclass(frozen=True)
class Publish:
    """What a machine wants said: the adapter encodes and sends it."""

    topic: Topic
    message: m.Message
    levels: Mapping[str, str | int] = field(default_factory=dict)
    tensors: Mapping[str, Any] | None = None


REGISTER = Topic("register", m.Register, 1, False, "edge", "gateway")
ECHO = Topic("echo/<node>", m.Echo, 0, False, "gateway", "edge")
VICTIM_REQ = Topic("victim/req", m.VictimRequest, 0, False, "thief", "gateway")
STEAL = Topic("steal/<node>", m.Steal, 1, False, "gateway", "victim")
TILE = Topic("tile/<node>", m.TileHeader, 1, False, "victim", "thief", tensors=True)
RETURN = Topic("return/<node>", m.Return, 1, False, "thief", "victim")
RESULT = Topic("result/<frame>", m.ResultHeader, 1, False, "worker", "gateway", tensors=True, binds=("frame",))
ACCEPTED = Topic("accepted/<node>", m.Accepted, 1, False, "gateway", "edge")
OVERLAP = Topic("overlap/<layer>/<tile>", m.OverlapHeader, 0, False, "worker", "edge", tensors=True, binds=("layer", "tile"))
OVERLAP_REQ = Topic("overlap/req", m.OverlapRequest, 0, False, "worker", "edge")
PLAN = Topic("plan", m.PlanMessage, 1, True, "gateway", "all")
MODEL_REQ = Topic("model/<node>/ask", m.ChunkRequest, 0, False, "edge", "gateway", binds=("node",))
MODEL = Topic("model/<node>/chunk", m.ChunkHeader, 1, False, "gateway", "edge", tensors=True)
OUTCOME = Topic("source/<source>/outcome", m.Outcome, 1, False, "gateway", "all", binds=("source",))
PICTURE = Topic("source/<source>/picture", m.PictureHeader, 0, False, "edge", "gateway", tensors=True, binds=("source",))
OUTPUT = Topic("source/<source>/output", m.OutputHeader, 0, False, "gateway", "all", tensors=True, binds=("source",))
STATUS_REQ = Topic("status/req", m.StatusRequest, 0, False, "all", "node")
STATUS = Topic("node/<node>/status", m.Status, 0, False, "node", "all", binds=("node",))
BRIDGE_STATE = Topic("bridge/state", m.BridgeState, 1, True, "gateway", "all")
BRIDGE_INFO = Topic("bridge/info", m.BridgeInfo, 1, True, "gateway", "all")
BRIDGE_NODES = Topic("bridge/nodes", m.BridgeNodes, 1, True, "gateway", "all")
BRIDGE_HEALTH = Topic("bridge/health", m.BridgeHealth, 1, True, "gateway", "all")
BRIDGE_REQUEST = Topic("bridge/request/<verb>", m.BridgeRequest, 1, False, "anybody", "gateway")
BRIDGE_RESPONSE = Topic("bridge/response/<verb>", m.BridgeResponse, 1, False, "gateway", "all")
KEYS = Topic("keys/<node>", m.Keys, 1, False, "gateway", "edge")
JOIN = Topic("join/<permission>/ask", m.JoinRequest, 1, False, "newcomer", "gateway", binds=("permission",))
JOINED = Topic("join/<permission>/answer", m.JoinAnswer, 1, False, "gateway", "newcomer", binds=("permission",))

TABLE = (
    REGISTER, ECHO, VICTIM_REQ, STEAL, TILE, RETURN, RESULT, ACCEPTED, OVERLAP, OVERLAP_REQ, PLAN, MODEL_REQ, MODEL,
    OUTCOME, PICTURE, OUTPUT, STATUS_REQ, STATUS, BRIDGE_STATE, BRIDGE_INFO, BRIDGE_NODES, BRIDGE_HEALTH, BRIDGE_REQUEST,
    BRIDGE_RESPONSE, KEYS, JOIN, JOINED,
)  # fmt: skip
_MATCHERS: dict[str, list[tuple[Topic, re.Pattern[str]]]] = {}  # by the first level
for _row in TABLE:
    _matcher = re.compile(re.sub(r"<(\w+)>", r"(?P<\1>[^/+#]+)", _row.pattern) + r"\Z")
    _MATCHERS.setdefault(_row.pattern.partition("/")[0], []).append((_row, _matcher))


def find(root: str, topic: str) -> tuple[Topic, dict[str, str]]:
    """The row that ``topic`` belongs to and the values of its levels.

    Raises:
        DecodeError: the topic is not of this cluster or not in the table.
    """
    prefix = root + "/"
    if topic.startswith(prefix):
        levels = topic[len(prefix) :]
        for row, matcher in _MATCHERS.get(levels.partition("/")[0], ()):
            if found := matcher.match(levels):
                return row, found.groupdict()
    raise DecodeError(f"topic {topic[:100]!r} is none of the cluster {root!r}")
