"""All that a gateway decides: who gets whose tile, which results count, when a frame is whole and when it has failed.

It joins the machines of this room and keeps one law: every frame that it has heard of ends exactly once, as a result or
as a failure that says why. It knows no socket, thread or clock; every method takes ``now`` and returns what to do.

How a frame ended is kept (``Keep``) before it is said, so that a gateway that takes up after a killed one says the same.
Which frames the killed one has said, their source knows: it lists a frame until it hears that it has ended.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gateway_agent.assembly import Assembly, Complete, Failed
from gateway_agent.dealer import Dealer
from gateway_agent.early import Early
from gateway_agent.grants import Grants
from gateway_agent.victims import Forward, VictimRing
from models.tiling.tensor import answer_of, check_answer, check_whole, crop, fingerprint
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.kernels import difference
from schemas.contract.plan import Plan, digest
from schemas.contract.results import Result
from schemas.contract.topics import Publish
from schemas.wire.codec import LONG_BYTES, Incoming

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Finish:
    """To merge and finish, those of a higher priority first: a whole frame."""

    complete: Complete[Tensors]
    picture: tuple[int, int] = (0, 0)
    priority: int = 0  # of its source


@dataclass(frozen=True)
class Keep:
    """To be written to where it outlives this process, before what follows is said."""

    outcome: m.Outcome


@dataclass(frozen=True)
class Reconnect:
    """Everybody is silent: the broker may have lost our subscriptions."""


@dataclass(frozen=True)
class Before:
    """What gateways before this one have ended: oldest first, each with its words if they may not have been heard.

    Of ``forgotten`` frames those with lower numbers of the same source and epoch have ended, too.
    """

    ended: Mapping[str, m.Outcome | None] = field(default_factory=dict)
    forgotten: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counted:
    """A result that counts, for who looks on."""

    header: m.ResultHeader


@dataclass(frozen=True)
class Distrusted:
    """A source has found bits of ``node`` wrong, which computed its tiles, and lends it no more of them."""

    node: str
    source: str


Action = Publish | Finish | Keep | Reconnect | Counted | Distrusted
NOTHING_BEFORE = Before()
ALONE_S, LONGEST_ALONE_S = 15.0, 960.0
STATES = 64  # sources whose state the tail of a recurrent model remembers


class GatewayNode:
    """The gateway of one plan. ``ordered``: frames of one source are finished in order, for the tail keeps state."""

    def __init__(
        self,
        name: str,
        epoch: str,
        plan: Plan,
        deadline_s: float = 120.0,
        ordered: bool = False,
        before: Before = NOTHING_BEFORE,
    ) -> None:
        self.name, self.epoch, self.plan, self._ordered = name, epoch, plan, ordered
        self.digest = plan.digest()
        self.ring = VictimRing()
        self.assembly: Assembly[Tensors] = Assembly(plan.answers, deadline_s)
        self.early, self.grants = Early(), Grants()
        self.counts: Counter[str] = Counter()
        self._machines: dict[str, str] = {}  # of the nodes that are here
        self._peers: dict[str, m.Peer] = {}  # where nodes take straight connections
        self._roster: str | None = None  # the name of that list; None: nobody takes any
        self._finishing: dict[str, Finish] = {}
        self._held: dict[str, Finish] = {}  # whole, but an earlier frame of its source is not
        self._pictures: dict[str, tuple[int, int]] = {}
        self._dealer = Dealer(plan.lanes) if plan.schedule == "sharing" else None
        self._speeds: dict[str, float] = {}  # of the living, as they say
        self.paused = False  # sources open no frame
        self.pictures_s = 0.0  # how often a source is to send a picture for people, at most; 0: never
        self.assembly.remember(before.ended, before.forgotten)
        self._unheard = {frame: outcome for frame, outcome in before.ended.items() if outcome is not None}
        self._asking: set[str] = set()  # sources that want their frames' results
        self._streams: dict[tuple[str, str], int] = {}  # sources, and their epochs, that it follows: the last frame they told
        self._alone_s, self._alone_at = ALONE_S, float("inf")  # how long to believe the silence, and until when

    def hear(self, incoming: Incoming, now: float) -> list[Action]:
        """A message of a node.

        Raises:
            DecodeError: a result that is not what the plan says of its tile.
        """
        message = incoming.message
        if isinstance(message, m.Register):
            return self._register(message, now, incoming.stranger)
        if isinstance(message, m.VictimRequest):
            forwards = self.ring.request(message.node, message.epoch, message.request, message.ahead, now)
            return self._steals(forwards)
        if isinstance(message, m.ResultHeader):
            return self._result(message, incoming.tensors, now)
        self.counts["unexpected message"] += 1
        return []

    def finished(
        self, frame: str, digests: Mapping[str, str], now: float, result: Result | None = None
    ) -> list[Action]:
        """The tail is through with ``frame``; ``digests`` are those of the merged cut and of the outputs."""
        finish, latency_s = self._finishing.pop(frame, None), self.assembly.ended(frame, now)
        if finish is None or latency_s is None:  # it has failed in the meantime, or belongs to the plan before
            return []
        complete = finish.complete
        work = [complete.workers[answer] for answer in self.plan.answers]
        outcome = m.Outcome(
            **self._head(), frame=frame, status="ok", latency_s=latency_s,
            computed=complete.computed, stolen=complete.stolen, digests=dict(digests),
            workers=tuple(node for node, _ in work),
            stolen_tiles=tuple(i for i, (_, stolen) in enumerate(work) if stolen),
            picture=finish.picture, result=result, exactness=self.plan.exactness,
        )  # fmt: skip
        if (length := len(outcome.model_dump_json().encode())) > LONG_BYTES:
            reason = f"its result is too long for a message ({length} bytes): see max_detections and labels in the model's card"
            return self._failures([Failed(frame, reason, latency_s)])
        self.counts["frames"] += 1
        return self._end(outcome)

    def failed(self, frame: str, reason: str, now: float) -> list[Action]:
        """``frame`` cannot be finished."""
        failure = self.assembly.fail(frame, reason, now)
        return self._failures([failure] if failure else [])

    def give_up(self, reason: str, now: float) -> list[Action]:
        """Fail every frame that is open; ``reason`` says why."""
        return [action for frame in self.assembly.frames for action in self.failed(frame, reason, now)]

    def connected(self, now: float) -> None:
        """The broker is there and passes on what is said: silence of the nodes is believed anew from now on."""
        if not self.ring.nodes:
            self._alone_at = now + self._alone_s

    def tick(self, now: float) -> list[Action]:
        """The deadline has come: dead nodes, frames that took too long."""
        actions: list[Action] = []
        dead = self.ring.expire(now)
        for node in dead:
            self._speeds.pop(node, None)
            actions += self._failures(self.assembly.source_lost(node, now))
        if (dead and not self.ring.nodes) or now >= self._alone_at:
            self._alone_s = min(2 * self._alone_s, LONGEST_ALONE_S)
            actions.append(Reconnect())
            self._alone_at = now + self._alone_s
        actions += self._failures(self.assembly.expire(now))
        for header in self.early.expire(now):
            self.counts["result of a frame that was not announced"] += 1
            actions += self._released(header)
        for frame in set(self._pictures).difference(self.assembly.frames):  # forgotten without an outcome
            del self._pictures[frame]
        return actions

    def deadline(self) -> float | None:
        """When ``tick`` is due."""
        dues = (self.ring.deadline(), self.assembly.deadline(), self.early.deadline(), self._alone_at)
        return min((d for d in dues if d is not None and d != float("inf")), default=None)

    def _head(self) -> dict[str, Any]:
        return {"node": self.name, "epoch": self.epoch}

    def _register(self, register: m.Register, now: float, stranger: bool = False) -> list[Action]:
        refused = "" if register.leaving else self._refusal(register)[:500]
        self._alone_s, self._alone_at = ALONE_S, float("inf")
        steals: list[Action] = []
        actions: list[Action] = []
        if not refused and not register.leaving and not stranger:
            self._meet(register)
            self._speeds[register.node] = register.flops_s
            actions += self._distrusted(register, now)
            about = (register.camera, register.priority, register.distrusts)
            steals = self._steals(self.ring.register(register.node, register.epoch, register.waiting, now, *about))
        cameras = len(self.ring.cameras)
        echo = m.Echo(
            **self._head(), seq=register.seq, to_epoch=register.epoch, plan=self.digest, refused=refused,
            cameras=cameras, helpers=len(self.ring.nodes) - cameras, paused=self.paused, pictures_s=self.pictures_s,
            roster=self._roster, peers=self._peers if register.roster != self._roster and not stranger else {},
        )  # fmt: skip
        actions += [*steals, Publish(topics.ECHO, echo, {"node": register.node})]
        if refused:
            self.counts["refused"] += 1
        if refused or stranger:
            return actions
        (self._asking.add if register.answers and not register.leaving else self._asking.discard)(register.node)
        if register.leaving:
            if self.ring.leave(register.node, register.epoch):
                if register.frames:  # it may have opened one since
                    actions += self._announced(register, now)
                actions += self._failures(self.assembly.source_lost(register.node, now, "source left"))
            return actions
        self._machines[register.node] = register.machine
        return actions + self._announced(register, now)

    def _meet(self, register: m.Register) -> None:
        """Where nodes that are here take straight connections, and the name of that list."""
        peers = {name: peer for name, peer in self._peers.items() if name in self.ring.nodes and name != register.node}
        if register.address is not None and len(peers) < m.PEERS:
            peers[register.node] = m.Peer(epoch=register.epoch, address=register.address)
        if peers != self._peers:
            self._peers = peers
            told = repr(sorted((name, peer.epoch, peer.address) for name, peer in peers.items()))
            self._roster = digest(told.encode())[:8] if peers else None

    def _distrusted(self, register: m.Register, now: float) -> list[Action]:
        """A source's judgement of those who compute its frames; it is nobody else's."""
        new = set(register.distrusts) - self.ring.distrusts(register.node) - {register.node}
        if not new:
            return []
        failed = self.assembly.distrust(register.node, new, len(self.plan.blocks) > 1, now)
        return [*(Distrusted(node, register.node) for node in sorted(new)), *self._failures(failed)]

    def _announced(self, register: m.Register, now: float) -> list[Action]:
        """A source's list of open frames: what has ended it hears again, and the others, if they never have."""
        source, actions = register.node, list[Action]()
        announced = self.assembly.announce(source, register.epoch, register.frames, now, register.deadline_s)
        for frame in announced.ended:
            if outcome := self._unheard.pop(frame, None):
                again = outcome.model_copy(update=self._head())
                actions.append(Publish(topics.OUTCOME, again, {"source": source}))
            actions.append(self._accepted(source, frame, ended=True))
        for frame in [f for f in self._unheard if _passed(f, register)]:
            del self._unheard[frame]
        actions += self._failures(announced.failed)
        if self._ordered:
            actions += self._follow(register, now)
        for header, tensors in self.early.take(register.frames):
            actions += self._result(header, tensors, now)
        return actions + self._dealt()

    def _dealt(self) -> list[Action]:
        """By the baseline's schedule: the next frame's tiles for everybody."""
        if self._dealer is None:
            return []
        return self._steals(self._dealer.deal(self.assembly.frames, self.ring.epochs))

    def _follow(self, register: m.Register, now: float) -> list[Action]:
        """The first frames of a source whose state this gateway does not have fail, unless they are its very first."""
        stream, actions = (register.node, register.epoch), list[Action]()
        frames = [frame for frame in register.frames if not self.assembly.has_ended(frame)]
        if not frames:
            return []
        if stream not in self._streams and min(m.frame_source(frame)[2] for frame in frames) > 0:
            reason = f"gateway restarted: what the model remembers of {register.node} begins anew with its next frame"
            for frame in frames:
                actions += self.failed(frame, reason, now)
        told = max(m.frame_source(frame)[2] for frame in frames)
        self._streams[stream] = max(told, self._streams.pop(stream, -1))
        for old in list(self._streams)[:-STATES]:
            del self._streams[old]
        return actions + self._release(register.node)

    def _refusal(self, register: m.Register) -> str:
        """Why a node may not be here; one that has restarted on its machine may, at once."""
        rename = f"give one of them another name: dt edge --name, now {register.node}"
        if self.ring.replaced(register.node, register.epoch):
            return f"another process on this machine has the same name: {rename}"
        known = self._machines.get(register.node, "") if register.node in self.ring.nodes else ""
        if known and register.machine and known != register.machine:
            return f"another machine has the same name (was its SD card cloned?): {rename}"
        reason, remedy = difference(register.runtime, self.plan.runtime) if self.plan.runtime else ("", "")
        return reason and f"{reason}; {remedy}"

    def _steals(self, forwards: Sequence[Forward]) -> list[Action]:
        self.grants.add(forwards)
        return [
            Publish(
                topics.STEAL,
                m.Steal(
                    **self._head(), plan=self.digest, thief=f.thief, thief_epoch=f.thief_epoch, request=f.request,
                    ahead=f.ahead, flops_s=self._speeds.get(f.thief, 0.0),
                ),
                {"node": f.victim},
            )
            for f in forwards
        ]  # fmt: skip

    def _result(self, header: m.ResultHeader, tensors: Tensors, now: float) -> list[Action]:
        """A result counts if its frame is open and its sender is the frame's source, or was lent this tile by it."""
        frame, source = header.frame, m.frame_source(header.frame)[0]
        if header.node not in self.ring.nodes:
            self.counts["result of a node that is not here"] += 1  # it registers again and resends
            return []
        tiles = {} if header.error else self._tiles(header, tensors)
        if frame not in self.assembly.frames and not self.assembly.has_ended(frame):
            self.counts["early results that made room"] += self.early.put(header, tensors, now)
            return []
        is_own = header.node == source
        if not is_own and (header.whole or header.error or not self._lent(header)):
            self.counts["result of a tile that was not lent"] += 1
            return self._released(header)
        if header.error:
            return self._fault(header, now)
        verdicts = [
            self.assembly.result(frame, *answer, header.node, not is_own, outputs)
            for answer, outputs in tiles.items()
        ]
        if not verdicts[-1].accepted:
            return []
        ended = verdicts[-1].ended
        answered = self._answered(header)
        actions: list[Action] = [self._accepted(header.node, frame, ended, header.block, answered)]
        if not is_own:
            self.ring.paid(source)
            whose = (header.node, fingerprint(tensors))
            actions.append(self._accepted(source, frame, ended, header.block, answered, *whose))
        if not ended:
            self._pictures[frame] = header.picture
            actions.append(Counted(header))
        for complete in [verdict.complete for verdict in verdicts if verdict.complete]:  # not of the last tile, perhaps
            picture = self._pictures.pop(frame, (0, 0))
            self._held[frame] = Finish(complete, picture, self.ring.priority(source))
            actions += self._release(source)
        return actions

    def _lent(self, header: m.ResultHeader) -> bool:
        if header.node in self.ring.distrusts(m.frame_source(header.frame)[0]):
            return False
        return self.grants.admits(header.node, header.request, (header.frame, header.tile))

    def _answered(self, header: m.ResultHeader) -> tuple[int, ...]:
        """The lanes for which a result stands, its own first: all, once nothing of the frame is awaited any more."""
        is_all = header.whole or self.assembly.is_finishing(header.frame)
        others = (lane for lane in range(self.plan.lanes) if lane != header.tile)
        return (header.tile, *others) if is_all else (header.tile,)

    def _released(self, header: m.ResultHeader) -> list[Action]:
        """Its sender need not send it again, and nobody else hears of it; a frame's source knows better than we."""
        if header.node == m.frame_source(header.frame)[0]:
            return []
        ended = self.assembly.has_ended(header.frame)
        return [self._accepted(header.node, header.frame, ended, header.block, self._answered(header))]

    def _fault(self, header: m.ResultHeader, now: float) -> list[Action]:
        """The source's engine failed, and so does the frame, unless other nodes' results for this lane are here."""
        frame, actions = header.frame, list[Action]()
        answers = [a for a in self.plan.answers if header.whole or a == (header.block, header.tile)]
        if any(self.assembly.lacks(frame, *answer) for answer in answers) or (not answers and self.assembly.is_open(frame)):
            actions += self.failed(frame, f"model error on {header.node}: {header.error}", now)
        ended = self.assembly.has_ended(frame)
        return [*actions, self._accepted(header.node, frame, ended, header.block, self._answered(header))]

    def _tiles(self, header: m.ResultHeader, tensors: Tensors) -> dict[tuple[int, int], Tensors]:
        """The outputs of each task, by block and lane, that a result answers for."""
        if not header.whole:
            check_answer(self.plan, header.block, header.tile, tensors)
            return {(header.block, header.tile): tensors}
        check_whole(self.plan, tensors)
        return {
            answer: {name: crop(tensors[name], box) for name, box in answer_of(self.plan, *answer).items()}
            for answer in self.plan.answers
        }

    def _release(self, source: str) -> list[Action]:
        """Whole frames of ``source`` that may be finished now: all, or as long as none before them is incomplete."""
        released: list[Action] = []
        own = [f for f in self.assembly.frames if m.frame_source(f)[0] == source]
        for frame in sorted(own, key=m.frame_source):
            if frame in self._held:
                self._finishing[frame] = self._held.pop(frame)
                released.append(self._finishing[frame])
            elif self._ordered and frame not in self._finishing:
                break
        return released

    def _accepted(
        self,
        node: str,
        frame: str,
        ended: bool,
        block: int = 0,
        tiles: tuple[int, ...] = (),
        worker: str | None = None,
        fingerprint: str | None = None,
        result: Result | None = None,
    ) -> Publish:
        message = m.Accepted(
            **self._head(), frame=frame, block=block, tiles=tiles, ended=ended, worker=worker, fingerprint=fingerprint,
            result=result,
        )  # fmt: skip
        return Publish(topics.ACCEPTED, message, {"node": node})

    def _failures(self, failures: Iterable[Failed]) -> list[Action]:
        actions: list[Action] = []
        for f in failures:
            self.counts["failed"] += 1
            outcome = m.Outcome(
                **self._head(), frame=f.frame, status="failed", reason=f.reason[:500], latency_s=f.latency_s
            )
            actions += self._end(outcome)
        return actions

    def _end(self, outcome: m.Outcome) -> list[Action]:
        source = m.frame_source(outcome.frame)[0]
        for held in (self._pictures, self._finishing, self._held):
            held.pop(outcome.frame, None)
        return [
            Keep(outcome),
            Publish(topics.OUTCOME, outcome, {"source": source}),
            self._accepted(source, outcome.frame, ended=True, result=outcome.result if source in self._asking else None),
            *self._release(source),
            *self._dealt(),
        ]


def _passed(frame: str, register: m.Register) -> bool:
    """Whether the source has heard that ``frame`` ended: it lists later ones without it. If it has died, it need not."""
    source, epoch, number = m.frame_source(frame)
    later = [m.frame_source(f)[2] > number for f in register.frames]
    return source == register.node and (epoch != register.epoch or any(later))
