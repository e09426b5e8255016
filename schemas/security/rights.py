"""Who may publish what, and for whom it is sealed: a column more to the table of topics.

It knows roles, no keys: the gateway, the enrolled edges, and the node that a topic names. The generated rules of the broker
and the check of every message that arrives come from this one table.
"""

from dataclasses import dataclass
from typing import Literal

from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.topics import Topic

GATEWAY = "gateway"  # the one name that no edge may have


@dataclass(frozen=True)
class Right:
    """``publisher``: the gateway, any edge, the node or source that the topic names, people who look on, programs of people
    that set controls (Home Assistant), or one who wants to join.

    ``reader``: whose keys seal it; ``others`` are all nodes but the publisher. What all may read has no seal: the plan and
    the model are believed by their digests, and what is for people (``people``) only the gateway may publish, says the
    broker. ``shown``: people who look on may read it, too, without a key.
    """

    publisher: Literal["gateway", "edge", "node", "source", "people", "control", "newcomer"]
    reader: Literal["gateway", "node", "others", "all", "people", "control", "newcomer"]
    shown: bool = False


RIGHTS = {
    topics.REGISTER: Right("edge", "gateway", shown=True),
    topics.ECHO: Right("gateway", "node"),
    topics.VICTIM_REQ: Right("edge", "gateway"),
    topics.STEAL: Right("gateway", "node"),
    topics.TILE: Right("edge", "node"),
    topics.RETURN: Right("edge", "node"),
    topics.RESULT: Right("edge", "gateway"),
    topics.ACCEPTED: Right("gateway", "node"),
    topics.OVERLAP: Right("edge", "others"),
    topics.OVERLAP_REQ: Right("edge", "others"),
    topics.PLAN: Right("gateway", "all", shown=True),
    topics.MODEL_REQ: Right("node", "gateway"),
    topics.MODEL: Right("gateway", "all"),
    topics.OUTCOME: Right("gateway", "people"),
    topics.PICTURE: Right("source", "gateway"),
    topics.OUTPUT: Right("gateway", "people"),
    topics.STATUS_REQ: Right("people", "all"),
    topics.STATUS: Right("node", "gateway", shown=True),
    topics.BRIDGE_STATE: Right("gateway", "people"),
    topics.BRIDGE_INFO: Right("gateway", "people"),
    topics.BRIDGE_NODES: Right("gateway", "people"),
    topics.BRIDGE_HEALTH: Right("gateway", "people"),
    topics.BRIDGE_REQUEST: Right("control", "control"),
    topics.BRIDGE_RESPONSE: Right("gateway", "people"),
    topics.KEYS: Right("gateway", "node"),
    topics.JOIN: Right("newcomer", "newcomer"),
    topics.JOINED: Right("gateway", "newcomer"),
}


def is_sealed(topic: Topic) -> bool:
    """Whether messages on this topic carry a seal in a sealed cluster."""
    return RIGHTS[topic].reader in ("gateway", "node", "others")


def objection(topic: Topic, levels: dict[str, str], message: m.Message, sender: str) -> str:
    """Why ``sender``, who has proved its name, may not say this; empty if it may."""
    right = RIGHTS[topic].publisher
    if message.node != sender:
        return f"it names {message.node} as its sender"
    if (sender == GATEWAY) != (right == "gateway") and right != "node":
        return "only the gateway may say this" if right == "gateway" else "the gateway does not say this"
    if right == "node" and levels["node"] != sender:
        return f"the topic is of {levels['node']}"
    if right == "source" and levels["source"] != sender:
        return f"the topic is of {levels['source']}"
    if isinstance(message, m.PictureHeader) and m.frame_source(message.frame)[0] != sender:
        return f"it shows {message.frame}"
    if isinstance(message, m.Register) and any(m.frame_source(frame)[0] != sender for frame in message.frames):
        return "it lists frames of another source"
    if isinstance(message, m.TileHeader) and message.frame and m.frame_source(message.frame)[0] != sender:
        return f"it lends a tile of {message.frame}"
    decides = isinstance(message, m.ResultHeader) and (message.whole or message.error)
    if isinstance(message, m.ResultHeader) and decides and m.frame_source(message.frame)[0] != sender:
        return f"it {'fails' if message.error else 'answers for the whole of'} {message.frame}"
    return ""
