"""What stands between the line and the decisions: ``OpenGuard`` lets every valid message in, ``Guard`` only whom it knows.

It knows seals and rights, no socket and no clock. Law: a message that comes out of ``Guard.admit`` was said by the node
that it names, in the epoch that it names, and this node may say it; whatever has no seal is believed by its digest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DecodeError
from schemas.contract.topics import Publish, Topic
from schemas.security.rights import GATEWAY, RIGHTS, is_sealed, objection
from schemas.security.seal import Opened, Seal
from schemas.wire.codec import Incoming, Payload, Rejected, check_plan, decode, limit

Levels = Mapping[str, str | int]


class OpenGuard:
    """A cluster that trusts its network: no seals, no keys."""

    sealed = False
    keys: Seal | None = None

    def admit(
        self, root: str, topic: str, payload: Payload, plan: str | None, opened: Opened | None = None
    ) -> Sequence[Incoming]:
        """What came on ``topic``, decoded; messages that name another plan than ``plan`` are refused. ``opened``: by whom, on a
        connection that has proved it.

        Raises:
            DecodeError: what is wrong with it.
        """
        return [decode(root, topic, payload, plan)]

    def seal(self, topic: Topic, path: str, levels: Levels, message: m.Message, payload: bytes) -> bytes | None:
        """The bytes to publish on ``path``; None: nobody could believe them yet, so they need not be sent."""
        return payload

    def restart(self, epoch: str) -> None:
        """This node has begun a new epoch."""

    def tick(self) -> Sequence[Incoming | Publish]:
        """What is to be decided on or said besides what came in."""
        return ()


class Guard(OpenGuard):
    """One end of a sealed cluster, by its keys."""

    sealed = True

    keys: Seal

    def __init__(self, seal: Seal) -> None:
        self.keys = seal

    def admit(
        self, root: str, topic: str, payload: Payload, plan: str | None, opened: Opened | None = None
    ) -> Sequence[Incoming]:
        """As ``OpenGuard.admit``; besides, a seal that does not fit and what its sender may not say are refused."""
        try:
            row, levels = topics.find(root, topic)
        except DecodeError as error:
            raise Rejected("topic", str(error)) from None
        if not is_sealed(row):
            return self.hear(decode(root, topic, payload), plan)
        if len(payload) > limit(row):  # before the hash, which takes a second for a gigabyte
            raise Rejected("size", f"{row.pattern}: {len(payload)} bytes, at most {limit(row)} are accepted")
        if opened is None:
            opened = self.keys.open(topic, payload, strangers=row is topics.REGISTER)
        elif not self.keys.holds(opened.sender, opened.epoch):
            raise Rejected("seal", f"{opened.sender} is not enrolled here any more, or has started anew")
        incoming = decode(root, topic, opened.payload)
        if incoming.message.epoch != opened.epoch:
            raise Rejected("right", f"{row.pattern}: {opened.sender} seals another epoch than it names")
        if reason := objection(row, levels, incoming.message, opened.sender):
            raise Rejected("right", f"{row.pattern}: refused to {opened.sender}: {reason}")
        return self.hear(replace(incoming, stranger=not opened.fresh), plan)

    def hear(self, incoming: Incoming, plan: str | None) -> Sequence[Incoming]:
        """What of an authentic message goes on to the decisions."""
        check_plan(incoming, plan)
        return [incoming]

    def seal(self, topic: Topic, path: str, levels: Levels, message: m.Message, payload: bytes) -> bytes | None:
        if not is_sealed(topic) or (RIGHTS[topic].reader == self.keys.name == GATEWAY):
            return payload  # the gateway's own counters are for people
        receivers = self._receivers(topic, levels, message)
        return self.keys.seal(path, payload, receivers) if receivers else None

    def restart(self, epoch: str) -> None:
        self.keys.restart(epoch)

    def _receivers(self, topic: Topic, levels: Levels, message: m.Message) -> list[tuple[str, str]]:
        """Name and epoch of all who are to believe it: those whose epoch we know, as far as it takes one."""
        reader = RIGHTS[topic].reader
        one = GATEWAY if reader == "gateway" else str(levels.get("node"))
        peers = self.keys.peers
        names = peers if reader == "others" else (one,) if one in peers else ()
        to_epoch = getattr(message, "to_epoch", "")
        receivers = [(name, epoch) for name in names if (epoch := to_epoch or self.keys.epoch_of(name))]
        if topic is topics.REGISTER:
            receivers.append((GATEWAY, ""))  # for a gateway that has restarted: its echo tells its epoch
        return receivers

