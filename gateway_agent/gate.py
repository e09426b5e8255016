"""The gateway's guard of a sealed cluster: the keys of all enrolled nodes, their rings, and who may join.

It joins the registry to the seals, and keeps four laws. A node that was revoked is out as soon as the file says so: its keys
are gone here, and the others' next rings have it no longer. A ring is sent to everybody whenever a node comes, goes or starts
anew, before anybody is told to speak to it. A permission is used up on the disk before its answer is sent. And nothing that
becomes of the disk ends a gateway that runs: it goes on with what it knows, and refuses newcomers as long as it must.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
NEWS_S = 1.0  # newcomers are let in so often at most: one write for all, and the broker reads all members anew
ROUND = 32  # so many at a time
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
        self._asked: dict[str, _Asked] = {}  # by the newcomer's public key
        self._seen = 0  # of the keys' news
        self._told_at, self._every_s, self._trouble = clock() - NEWS_S, DAY_S, ""
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
        if self._asked and not 0 <= self._clock() - self._told_at < NEWS_S:  # clocks go back, too
            self._decide()
        members = self._registry.current()
        if members is not self._members:
            before = self._members
            said += self._load(members)
            stay = before.nodes.items() <= members.nodes.items() and before.permissions.keys() <= members.permissions.keys()
            self._every_s = min(self._every_s, NEWS_S) if stay else 0.0
        if not 0 <= self._clock() - self._told_at < self._every_s:
            self._change()
        said += self._due
        self._due = []
        if self.keys.news != self._seen:
            self._seen = self.keys.news
            said += self._rings()
        return said

    def _rings(self) -> list[Publish]:
        here = {name: self.keys.epoch_of(name) for name in self.keys.peers}
        news = any(epoch and epoch != self._rung.get(name) for name, epoch in here.items())  # who has not come yet is none
        before, self._rung = self._rung, here
        if not news and before.keys() <= here.keys():
            return []
        self._edition += 1
        return [self._ring(name, epoch) for name, epoch in here.items() if epoch]

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
            if before.nodes.get(name) != node:
                self.keys.admit(name, speaking(GATEWAY, "", secret), keyring.reporting(secret))
        return gone

    def _change(self) -> None:
        """Tell of the members; if that fails, soon again."""
        self._told_at = self._clock()
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
        if answer is not None:
            self._due.append(Publish(topics.JOINED, answer, {"permission": request.permission}))
        elif len(self._asked) < ROUND:
            attempt, secret = Attempt(), bytes.fromhex(permission.secret)
            self._asked[request.public] = _Asked(request, secret, attempt, attempt.shared(request.public, secret))
        else:
            raise Rejected("join", f"more than {ROUND} want to join in {NEWS_S:g} s")

    def _decide(self) -> None:
        """Enter those who ask, or say why not; a gateway that cannot write lets nobody in."""
        asked, self._asked = list(self._asked.values()), {}
        try:
            decided = self._registry.join([(a.request.permission, a.request.node) for a in asked], self._clock())
        except DtError as error:
            _log.error("%s cannot be enrolled: %s", ", ".join(a.request.node for a in asked), error)
            decided = [("the gateway cannot write down who joins (its log says why): mend that, and use this line again", None)]
            decided *= len(asked)
        for a, (refused, node) in zip(asked, decided):
            box = ""
            if node is None:
                _log.warning("refused a request to join as %s: %s", a.request.node, refused)
            else:
                _log.info("%s has joined", a.request.node)
                box = keyring.close_box(a.key, bytes.fromhex(node.secret), a.request.node)
            proof = keyring.answer_proof(a.secret, a.request.public, a.attempt.public, box, refused)
            answer = m.JoinAnswer(
                node=GATEWAY, epoch=self.keys.epoch, permission=a.request.permission, to=a.request.public,
                public=a.attempt.public, box=box, refused=refused, proof=proof,
            )  # fmt: skip
            if box:
                self._answers[a.request.public] = answer
            self._due.append(Publish(topics.JOINED, answer, {"permission": a.request.permission}))
        for old in list(self._answers)[:-REMEMBERED]:
            del self._answers[old]


@dataclass(frozen=True)
class _Asked:
    """Somebody who knows a permission's ``secret`` wants to join; ``key``: of this attempt."""

    request: m.JoinRequest
    secret: bytes
    attempt: Attempt
    key: bytes


def _farewell(name: str, epoch: str) -> Incoming:
    """What the node would have said if it had left by itself."""
    register = m.Register(node=name, epoch=epoch, seq=0, runtime="", leaving=True)
    return Incoming(topics.REGISTER, {}, register, {})
