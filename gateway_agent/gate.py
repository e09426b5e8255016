"""The gateway's guard of a sealed cluster: the keys of all enrolled nodes, their rings, and who may join.

It joins the registry to the seals, and keeps four laws. A node that was revoked is out as soon as the file says so: its keys
are gone here, and the others' next rings have it no longer. A ring is sent to everybody whenever a node comes, goes or starts
anew, before anybody is told to speak to it. A permission is used up on the disk before its answer is sent. And nothing that
becomes of the disk ends a gateway that runs: it goes on with what it knows, and refuses newcomers as long as it must.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway_agent.registry import Enrolled, Members, Registry
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DtError
from schemas.contract.topics import Publish
from schemas.security import keyring
from schemas.security.keyring import MEMBERS, Attempt, NodeKey, Ring, speaking
from schemas.security.rights import GATEWAY
from schemas.security.seal import Seal
from schemas.wire.codec import Incoming, Rejected, check_plan
from schemas.wire.guard import Guard

DAY_S = 86400.0
AGAIN_S = 10.0  # what could not be told of the members is tried again so soon
REMEMBERED = 64  # answers, for newcomers that did not hear theirs
_log = logging.getLogger(__name__)


class GatewayGuard(Guard):
    """``clock``: seconds since 1970; ``on_change`` is called with the members whenever these or the permissions change,
    and once a day, for certificates end."""

    def __init__(
        self, registry: Registry, clock: Callable[[], float], on_change: Callable[[Members], None]
    ) -> None:
        super().__init__(Seal(GATEWAY, m.new_epoch()))
        self._registry, self._clock, self._on_change = registry, clock, on_change
        self._members = Members(secret="0" * 64)
        self._rung: dict[str, str] = {}  # the epochs of all nodes, when they last got rings
        self._edition = 0
        self._answers: dict[str, m.JoinAnswer] = {}  # by the newcomer's public key
        self._due: list[Publish] = []
        self._told_at, self._every_s, self._trouble = 0.0, DAY_S, ""
        self._load(registry.read())
        on_change(self._members)

    def hear(self, incoming: Incoming, plan: str | None) -> Sequence[Incoming]:
        """Newcomers get their answer from here; who has no plan yet, or another, gets an echo that names ours."""
        message = incoming.message
        if isinstance(message, m.JoinRequest):
            self._answer(message)
            return []
        if isinstance(message, m.Register) and message.plan != plan:
            return [replace(incoming, stranger=True)]
        check_plan(incoming, plan)
        return [incoming]

    def tick(self) -> list[Incoming | Publish]:
        """What follows from the file and from what was heard: the last words of those who were revoked, answers, rings."""
        said: list[Incoming | Publish] = []
        members = self._registry.current()
        if members is not self._members or not 0 <= self._clock() - self._told_at < self._every_s:  # clocks go back, too
            said += self._load(members)
            self._change()
        said += self._due
        self._due = []
        here = {name: self.keys.epoch_of(name) for name in self.keys.peers}
        news = any(epoch and epoch != self._rung.get(name) for name, epoch in here.items())  # who has not come yet is none
        before, self._rung = self._rung, here
        if news or not before.keys() <= here.keys():
            self._edition += 1
            said += [self._ring(name, epoch) for name, epoch in here.items() if epoch]
        return said

    def _load(self, members: Members) -> list[Incoming | Publish]:
        before, self._members = self._members, members
        gone: list[Incoming | Publish] = []
        for name, node in before.nodes.items():
            if self._members.nodes.get(name) != node:
                _log.info("%s was revoked", name)
                if epoch := self.keys.epoch_of(name):
                    gone.append(_farewell(name, epoch))
                self.keys.dismiss(name)
        for name, node in self._edges().items():
            secret = bytes.fromhex(node.secret)
            self.keys.admit(name, speaking(GATEWAY, "", secret), keyring.reporting(secret))
        self._told_at = self._clock()
        return gone

    def _change(self) -> None:
        """Tell of the members; if that fails, soon again."""
        try:
            self._on_change(self._members)
            self._every_s, self._trouble = DAY_S, ""
        except (DtError, OSError) as error:
            self._every_s = AGAIN_S
            if str(error) != self._trouble:
                self._trouble = str(error)
                _log.error("the broker does not know all members yet: %s", error)

    def _edges(self) -> dict[str, Enrolled]:
        return {name: node for name, node in self._members.nodes.items() if not node.reads}

    def _ring(self, to: str, epoch: str) -> Publish:
        edges = self._edges()
        others = sorted((name for name in edges if name != to), key=lambda name: not self.keys.epoch_of(name))
        nodes = {
            name: NodeKey(
                send=speaking(to, edges[to].serial, bytes.fromhex(node.secret)).hex(),
                serial=node.serial,
                epoch=self.keys.epoch_of(name) or None,
            )
            for name, node in ((name, edges[name]) for name in others[:MEMBERS])
        }
        box = keyring.close_ring(Ring(nodes=nodes), bytes.fromhex(edges[to].secret), epoch)
        keys = m.Keys(node=GATEWAY, epoch=self.keys.epoch, to_epoch=epoch, edition=self._edition, box=box)
        return Publish(topics.KEYS, keys, {"node": to})

    def _answer(self, request: m.JoinRequest) -> None:
        permission = self._members.permissions.get(request.permission)
        if permission is None or not keyring.asks_rightly(request, bytes.fromhex(permission.secret)):
            raise Rejected("join", f"somebody wants to join as {request.node} without a permission that is known here")
        answer = self._answers.get(request.public)
        if answer is None:
            answer = self._decide(request, bytes.fromhex(permission.secret))
            if answer.box:
                self._answers[request.public] = answer
            for old in list(self._answers)[:-REMEMBERED]:
                del self._answers[old]
        self._due.append(Publish(topics.JOINED, answer, {"permission": request.permission}))

    def _decide(self, request: m.JoinRequest, secret: bytes) -> m.JoinAnswer:
        attempt = Attempt()
        key = attempt.shared(request.public, secret)
        refused, node = self._join(request)
        box = ""
        if node is None:
            _log.warning("refused a request to join as %s: %s", request.node, refused)
        else:
            _log.info("%s has joined", request.node)
            box = keyring.close_box(key, bytes.fromhex(node.secret), request.node)
        proof = keyring.answer_proof(secret, request.public, attempt.public, box, refused)
        return m.JoinAnswer(
            node=GATEWAY, epoch=self.keys.epoch, permission=request.permission, to=request.public, public=attempt.public,
            box=box, refused=refused, proof=proof,
        )  # fmt: skip

    def _join(self, request: m.JoinRequest) -> tuple[str, Enrolled | None]:
        """Enter who asks, or say why not; a gateway that cannot write lets nobody in."""
        try:
            return self._registry.join(request.permission, request.node, self._clock())
        except DtError as error:
            _log.error("%s cannot be enrolled: %s", request.node, error)
            return "the gateway cannot write down who joins (its log says why): mend that, and use this line again", None


def _farewell(name: str, epoch: str) -> Incoming:
    """What the node would have said if it had left by itself."""
    register = m.Register(node=name, epoch=epoch, seq=0, runtime="", leaving=True)
    return Incoming(topics.REGISTER, {}, register, {})
