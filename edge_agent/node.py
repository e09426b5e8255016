"""All that an edge decides, from what it hears: which tile to compute, to lend, to ask for, to send again.

It joins the three machines of this room and keeps one law: nothing is lost that the gateway has not accepted. It knows
no socket, thread or clock; every method takes ``now`` and returns what to publish and what to compute.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from edge_agent.heartbeat import Heartbeat
from edge_agent.lanes import Lanes, Part, Want, weights
from edge_agent.lending import Lending, Loan
from edge_agent.outbox import Outbox
from edge_agent.proofs import Proofs
from edge_agent.sampling import Sampler
from edge_agent.thief import Thief
from edge_agent.tiles import TileQueue
from models.tiling.reuse import is_first
from models.tiling.tensor import answer_of, check_inputs, crop, fingerprint
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DecodeError
from schemas.contract.keys import WHOLE, LaneKey, TaskKey
from schemas.contract.plan import Plan
from schemas.contract.results import Result
from schemas.contract.topics import Publish
from schemas.wire.codec import Incoming

FIRST_LEASE_S, SHORTEST_LEASE_S, LEASE_TILES = 10.0, 3.0, 10.0  # a lease is ten measured times of a lane

LISTEN_S = 30.0  # a lane that was not begun here for so long is somebody else's

Tensors = Mapping[str, np.ndarray]
NOTHING: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Compute:
    """To run on the engine now: a task's inputs (pixels as uint8). ``whole``: the frame undivided; ``check``: again, to see
    whether who computed it tells the truth.

    ``reuse``: what it makes may serve its neighbours here, or theirs serve it.
    """

    key: TaskKey
    inputs: Tensors
    whole: bool = False
    reuse: bool = False
    check: bool = False


@dataclass(frozen=True)
class Listen:
    """Parts for this lane are wanted from now on, or no longer."""

    tile: int
    wanted: bool = True


@dataclass(frozen=True)
class Meet:
    """To know from now on: who takes straight connections."""

    peers: Mapping[str, m.Peer]


@dataclass(frozen=True)
class Reconnect:
    """The gateway has not echoed for too long: the broker may have lost our subscriptions."""


@dataclass(frozen=True)
class Answer:
    """For whoever asked about a frame, by its ``ticket``: what it shows; None: it has failed."""

    ticket: int
    result: Result | None


Action = Publish | Compute | Listen | Meet | Reconnect | Answer


class EdgeNode:
    """One edge of one plan. ``window`` frames of the own source may be open at once; ``camera``: it has a source.

    What is lent is a lane of a frame: all tasks of it are one node's. Those whose outputs the gateway merges answer for the
    lane; one without such a task has passed once it is through, and is done with its frame.
    """

    def __init__(
        self,
        name: str,
        epoch: str,
        plan: Plan,
        runtime: str,
        window: int = 2,
        camera: bool = False,
    ) -> None:
        self.name, self.epoch, self.plan, self.runtime, self.window = name, epoch, plan, runtime, window
        self.camera = camera
        self.digest = plan.digest()
        self.tiles, self.thief, self.outbox, self.lanes = TileQueue(plan.answers), Thief(), Outbox(), Lanes(plan)
        self.proofs, self.sampler = Proofs(name), Sampler(name, plan)
        self.counts: Counter[str] = Counter()
        self.compute_s = 0.0
        self._frames = 0
        self._images: dict[str, tuple[np.ndarray, tuple[int, int]]] = {}
        self._tickets: dict[str, int] = {}  # of frames about which somebody has asked
        self._stolen: dict[LaneKey, tuple[Tensors, tuple[int, int], str]] = {}  # leased to us, not computed yet; its request
        self._results: dict[TaskKey, tuple[m.ResultHeader, Tensors]] = {}
        self._computing: Compute | None = None
        self._exchanges = self.lanes.is_exchanging  # what one lane lacks another may have to make again
        self._answering = frozenset(plan.answers)
        first = plan.blocks[0]
        self._shares = plan.schedule == "sharing"  # tiles come unasked
        self._takers = frozenset(t.home for t in first.tiles if first.reuse and not is_first(*divmod(t.home, first.cols)))
        self._listening: dict[int, float] = {}  # lanes whose parts are wanted, and when they were begun last
        self._expired: set[str] = set()  # frames of which a lease has ended unanswered
        self.lending = Lending(self.tiles, self._takers, self._exchanges or self._shares, self.sampler.may_lend)
        self._only_camera = self._alone = self._paused = False
        self.address: str | None = None  # where this node takes straight connections
        self._roster: str | None = None  # of the others, as heard last
        self.machine = ""  # which machine this is, whatever it is called
        self.flops_s = self.bytes_s = self.message_speed = 0.0  # of engine and link, as measured; 0: not known
        self.fits_whole = True  # whether this node has memory for a frame undivided
        self.deadline_s: float | None = None  # of the own source's frames; None: the gateway's
        self.priority = 0
        self.answers = False  # somebody waits for what the own frames show
        self.pictures_s = 0.0  # how often the gateway wants a picture for people, at most
        self._tile_s: float | None = None
        self._weights = weights(plan)
        self.heartbeat = Heartbeat(name, epoch)
        self._registered: tuple[int, tuple[str, ...]] = (-1, ())

    @property
    def wants_frame(self) -> bool:
        """Whether the source may add a frame."""
        return not self._paused and len(self.tiles.frames) < self.window

    @property
    def is_alone(self) -> bool:
        """Whether own frames are computed whole, for helpers are too few."""
        return self._alone

    def source_ended(self) -> None:
        """There will be no more frames: this node is a helper now."""
        self.camera = False

    @property
    def frames_opened(self) -> int:
        return self._frames

    def effort(self, key: TaskKey, whole: bool = False) -> int:
        """What a task costs an engine; ``whole``: its undivided frame, or 0 where the plan knows no such effort."""
        if not whole:
            return self.plan.blocks[key[1]].by_home[key[2]].effort
        return sum(block.tiles[0].effort for block in self.plan.blocks) if self.plan.lanes == 1 else 0

    @property
    def tile_s(self) -> float | None:
        """Seconds of a tile in the engine, smoothed; a block that is executed whole counts as the tiles that it amounts to."""
        return self._tile_s

    def frame(self, image: np.ndarray, now: float, picture: tuple[int, int] = (0, 0), ticket: int = 0) -> list[Action]:
        """A frame of the own source: uint8 pixels of the model's size, NHWC; ``picture``: the size that it came in.

        ``ticket``: somebody asks what it shows, and gets one ``Answer``.
        """
        frame = m.frame_id(self.name, self.epoch, self._frames)
        self._frames += 1
        self._images[frame] = (image, picture)
        if ticket:
            self._tickets[frame] = ticket
        if self._exchanges:
            self.proofs.open(frame)
        self.tiles.add(frame, [(frame, lane) for lane in self.plan.order])
        actions = self._deal(now) + self._settle(now)
        return sorted(actions, key=lambda action: not _registers(action))  # the frame's time runs from it

    def hear(self, incoming: Incoming, now: float) -> list[Action]:
        """A message for this node.

        Raises:
            EngineError: the gateway refuses this node.
        """
        message, actions = incoming.message, list[Action]()
        if isinstance(message, m.Echo):
            actions += self._echo(message, now)
        elif isinstance(message, m.Steal):
            actions += self._steal(message, now)
        elif isinstance(message, m.TileHeader):
            self._tile(message, incoming.tensors, now)
        elif isinstance(message, m.OverlapHeader):
            part = Part(message.frame, message.layer, message.tile, message.maker, incoming.tensors)
            self.lanes.check(part)  # before it may wait
            if self.proofs.admit(message, part):
                self.lanes.hear(part)
        elif isinstance(message, m.OverlapRequest):
            if message.node != self.name:
                actions += [self._overlap(s) for s in self.lanes.again(Want(message.frame, message.layer, message.tile))]
        elif isinstance(message, m.Accepted):
            actions += self._accept(message, now)
        elif isinstance(message, m.Return):
            for tile in message.tiles:
                self.tiles.hand_back((message.frame, tile), message.node)
            if message.error:
                self.lending.suspect(message.node, now)
        else:
            self.counts["unexpected message"] += 1
        return actions + self._settle(now)

    def computed(self, key: TaskKey, outputs: Tensors, seconds: float, now: float, error: str = "") -> list[Action]:
        """The engine is through with ``key``; ``error``: it failed, and so will the frame, if it is an own one."""
        whole = self._computing is not None and self._computing.whole
        checks = self._computing is not None and self._computing.check
        self._computing = None
        self.compute_s += seconds
        actions: list[Action] = []
        if checks:
            actions += self._judged(self.sampler.computed(key, outputs, seconds, now, error), now)
        elif whole:
            self._whole_computed(key[0], outputs, seconds, now, error)
        else:
            tile_s = seconds / self._weights[key[1]]
            self._tile_s = tile_s if self._tile_s is None else 0.7 * self._tile_s + 0.3 * tile_s
            actions += self._task_computed(key, outputs, seconds, now, error)
        return actions + self._settle(now)

    def _judged(self, liars: list[str], now: float) -> list[Action]:
        """Bits of these nodes were wrong: the gateway is told at once, which fails what is open and may hold more of them."""
        for liar in liars:
            self.counts["liars"] += 1
            self.lending.parked.pop(liar, None)
        return [self._register(now)] if liars else []

    def _task_computed(self, key: TaskKey, outputs: Tensors, seconds: float, now: float, error: str) -> list[Action]:
        """A task of a lane is through: what it made goes to other lanes and to the gateway, and the lane goes on or ends.

        Whether a frame fails, its source says.
        """
        frame, block, tile = key
        lane = self.lanes.drop(frame, tile) if error else self.lanes.get(frame, tile)
        ends = bool(error) or self.lanes.ends(tile, block)
        actions: list[Action] = [] if error else [self._overlap(p) for p in self.lanes.computed(key, outputs, now, seconds)]
        stolen = m.frame_source(frame)[:2] != (self.name, self.epoch)
        if stolen and error:
            return [self._return(frame, (tile,), error)]
        if ends:
            passed = not error and all(other != tile for _, other in self._answering)
            if not stolen and not self.tiles.computed((frame, tile), passed):
                return actions
            self.counts["stolen" if stolen else "computed"] += 1
        if error or (block, tile) in self._answering:
            picture, spent_s, request = (lane.picture, lane.spent_s, lane.request) if lane else ((0, 0), 0.0, None)
            answer = {} if error else {name: outputs[name] for name in answer_of(self.plan, block, tile)}
            about: dict[str, Any] = {"stolen": stolen, "picture": picture, "request": request}
            self._put(key, answer, now, error, compute_s=spent_s + seconds, **about)
        return actions

    def _whole_computed(self, frame: str, outputs: Tensors, seconds: float, now: float, error: str) -> None:
        if self.tiles.computed_whole(frame):
            self.counts["computed"] += self.plan.lanes
            key, picture = (frame, self.plan.answers[-1][0], WHOLE), self._images[frame][1]
            self._put(key, outputs, now, error, compute_s=seconds, whole=True, picture=picture)

    def _put(self, key: TaskKey, outputs: Tensors, now: float, error: str, **about: Any) -> None:
        """A result into the outbox; ``about``: the other fields of its header."""
        frame, block, tile = key
        header = m.ResultHeader(
            **self._head(), plan=self.digest, frame=frame, block=block, tile=max(tile, 0), error=error[:300], **about
        )
        self._results[key] = (header, {} if error else outputs)
        own = frame in self.tiles.frames and not header.whole and not error
        if self._exchanges and own and self.sampler.wants(frame, now):
            self.sampler.answered(key, self.name, fingerprint(outputs))  # others' parts may have spoilt it
        for dropped in self.outbox.put(key, now):
            if self._results.pop(dropped)[0].whole:
                self.tiles.restart(dropped[0])
            else:
                self.tiles.put_back((dropped[0], dropped[2]))

    def tick(self, now: float) -> list[Action]:
        """The deadline has come."""
        for frame, _ in self.lending.expire(now):
            if self._exchanges and frame in self._expired:  # not the lane alone: what it waited for may be lost
                self.tiles.restart(frame)
            self._expired.add(frame)
        for frame, _ in self.lanes.stuck(now, self._lease_s):
            self.counts["lane stuck"] += 1
            if frame in self.tiles.frames:
                self.tiles.restart(frame)
        actions = self._deal(now) + self._settle(now)
        return [*actions, Reconnect()] if self.heartbeat.missed(now) else actions

    def connected(self, now: float) -> list[Action]:
        """The broker is there (again): what was said before may be lost."""
        self.heartbeat.connected(now)
        self.outbox.requeue(now)
        return sorted(self._settle(now), key=lambda action: not _registers(action))  # who is not there has no results

    def leave(self, now: float) -> list[Action]:
        """Good-bye: what is lent to this node goes back to its sources, and the gateway forgets it at once."""
        lent = self._stolen.keys() | set(self.lanes)
        if self._computing is not None:
            lent.add((self._computing.key[0], self._computing.key[2]))
        back: dict[str, list[int]] = {}
        for frame, tile in sorted(lent):
            if m.frame_source(frame)[0] != self.name:
                back.setdefault(frame, []).append(tile)
        actions = [self._return(frame, tuple(tiles)) for frame, tiles in back.items()]
        return [*actions, self._register(now, leaving=True)]

    def _return(self, frame: str, tiles: tuple[int, ...], error: str = "") -> Publish:
        message = m.Return(**self._head(), plan=self.digest, frame=frame, tiles=tiles, error=error[:300])
        return Publish(topics.RETURN, message, {"node": m.frame_source(frame)[0]})

    def deadline(self) -> float:
        """When ``tick`` is due."""
        machines = (self.lending, self.tiles, self.thief, self.outbox, self.lanes)
        due = (machine.deadline() for machine in machines)
        return min([self.heartbeat.deadline(), *(d for d in due if d is not None)])

    def _head(self) -> dict[str, Any]:
        return {"node": self.name, "epoch": self.epoch}

    def _echo(self, echo: m.Echo, now: float) -> list[Action]:
        restarted = self.heartbeat.echo(echo, now)
        if restarted is None:
            self.counts["echo of another time"] += 1
            return []
        self._only_camera = self.camera and echo.cameras <= 1
        self._alone = self.fits_whole and self.plan.undivided and echo.helpers < echo.cameras
        self._paused, self.pictures_s = echo.paused, echo.pictures_s
        if restarted:  # it has forgotten every tile
            self.tiles.requeue(whole=self._exchanges)
            self.outbox.requeue(now)
            self.thief.repeat(now)
            self.lending.parked.clear()
        if echo.roster == self._roster or not (echo.peers or echo.roster is None):
            return []
        self._roster = echo.roster
        return [Meet(echo.peers)]

    @property
    def _lease_s(self) -> float:
        if self._tile_s is None:
            return FIRST_LEASE_S * len(self.plan.blocks)
        return max(SHORTEST_LEASE_S, LEASE_TILES * self._tile_s * sum(self._weights))

    def _steal(self, steal: m.Steal, now: float) -> list[Action]:
        """Lend at once; the only camera keeps the request of an idle node for its next frame."""
        if steal.epoch != self.heartbeat.gateway:  # the one that we know has not passed this on: it would not take the result
            self.counts["steal of another gateway"] += 1
            return [self._tile_message(steal)]
        self.lending.parked.pop(steal.thief, None)
        loan = self.lending.lend(steal, now, self._lease_s)
        if loan is not None:
            return [self._lent(steal, loan)]
        keeps = self._only_camera and not self._shares and steal.thief not in self.sampler.liars
        return [] if keeps and self.lending.park(steal, now) else [self._tile_message(steal)]

    def _deal(self, now: float) -> list[Action]:
        """Waiting tiles to the nodes that wait for them; one is left for the own engine."""
        if not self.lending.parked:
            return []
        return [self._lent(*dealt) for dealt in self.lending.deal(self._computing is None, now, self._lease_s)]

    def _lent(self, steal: m.Steal, loan: Loan) -> Publish:
        """The message that takes a tile to its thief."""
        frame, tile = loan.key
        self.sampler.lent(frame, steal.thief)
        self.counts.update(["lent", "lent again"] if loan.again else ["lent"])
        where = {"frame": frame, "tile": tile, "lease_s": loan.lease_s, "picture": self._images[frame][1],
                 "token": self.proofs.token(frame)}  # fmt: skip
        return self._tile_message(steal, where, self._inputs(loan.key))

    def _tile_message(self, steal: m.Steal, where: Mapping[str, Any] = NOTHING, tensors: Tensors = NOTHING) -> Publish:
        """A tile with its pixels, or "none"."""
        header = {**self._head(), "plan": self.digest, "to_epoch": steal.thief_epoch, "request": steal.request, **where}
        return Publish(topics.TILE, m.TileHeader.model_validate(header), {"node": steal.thief}, tensors)

    def _overlap(self, part: Part) -> Publish:
        frame, layer, tile, maker, tensors = part
        header = m.OverlapHeader(
            **self._head(), plan=self.digest, frame=frame, layer=layer, tile=tile, maker=maker,
            proof=self.proofs.prove(frame, layer, tile, maker),
        )  # fmt: skip
        return Publish(topics.OVERLAP, header, {"layer": layer, "tile": tile}, tensors)

    def _inputs(self, key: LaneKey) -> Tensors:
        """A lane's part of the image, if it has any."""
        frame, lane = key
        image, task = self._images[frame][0], self.plan.task(0, lane)
        return {name: crop(image, box) for name, box in task.inputs.items()} if task else {}

    def _tile(self, header: m.TileHeader, tensors: Tensors, now: float) -> None:
        if header.to_epoch != self.epoch:
            self.counts["tile for another epoch"] += 1
        elif header.frame is not None and m.frame_source(header.frame)[0] != header.node:
            self.counts["tile of another's frame"] += 1
        elif header.frame is None:
            self.thief.none(header.request, now)
        else:
            try:
                check_inputs(self.plan, header.tile, tensors)
            except DecodeError:
                self.counts["tile of a wrong shape"] += 1
                return
            key = (header.frame, header.tile)
            here = key in self.lanes or any((done[0], done[2]) == key for done in self._results)
            if (self._shares or self.thief.tile(header.request)) and not here:
                self._stolen[key] = (tensors, header.picture, header.request)
                for part in self.proofs.learn(header.frame, header.token):
                    self.lanes.hear(part)

    def _accept(self, accepted: m.Accepted, now: float) -> list[Action]:
        if accepted.epoch != self.heartbeat.gateway:  # what one accepts that has not answered yet, a later one may not know
            self.counts["accepted by another gateway"] += 1
            return []
        actions: list[Action] = []
        self.lending.came_back(accepted, now)
        if accepted.worker and accepted.fingerprint and accepted.worker != self.name:
            for tile in accepted.tiles[:1]:  # whose it is; others may stand behind it
                self.sampler.answered((accepted.frame, accepted.block, tile), accepted.worker, accepted.fingerprint)
        if accepted.ended:
            if ticket := self._tickets.pop(accepted.frame, 0):
                actions.append(Answer(ticket, accepted.result))
            if accepted.frame in self._images:
                self.sampler.ended(accepted.frame, self._images.pop(accepted.frame)[0], now)
            self._expired.discard(accepted.frame)
            self.lanes.end(accepted.frame)
            for key in [k for k in self._stolen if k[0] == accepted.frame]:
                del self._stolen[key]
        answered = accepted.tiles
        if set(answered) >= set(range(self.plan.lanes)):  # and not before: a tile's own result is another's word
            answered = (*answered, WHOLE)
        for done in self.outbox.accept(accepted.frame, accepted.block, answered, accepted.ended):
            del self._results[done]
        if accepted.frame in self.tiles.frames:
            self.tiles.accept(accepted.frame, accepted.block, accepted.tiles, accepted.ended)
        return actions

    def _settle(self, now: float) -> list[Action]:
        """What follows from the new state: compute first, for the engine must not wait for the network."""
        actions: list[Action] = []
        if self._computing is None and not self.outbox.full:
            actions += self._next(now)
        free = not self.tiles.waiting and not self._stolen and not self.outbox.full
        hungry = bool(self.heartbeat.gateway) and free and not (self._alone and self.camera) and not self._shares
        busy = (self._computing is not None and not self._computing.check) or len(self.lanes) > 0
        if ask := self.thief.poll(hungry, busy, now):
            # Before a result that may end the frame: of the next one this node gets its tile in the first round.
            request = m.VictimRequest(**self._head(), plan=self.digest, request=ask.request, ahead=ask.ahead)
            actions.append(Publish(topics.VICTIM_REQ, request))
        for key in self.outbox.due(now):
            header, tensors = self._results[key]
            actions.append(Publish(topics.RESULT, header, {"frame": key[0]}, tensors))
        for want in self.lanes.wants(now):
            lacks = m.OverlapRequest(**self._head(), plan=self.digest, **want._asdict())
            actions.append(Publish(topics.OVERLAP_REQ, lacks))
        was_waiting, was_open = self._registered
        waiting, frames = self.tiles.waiting, self.tiles.frames
        news = waiting > was_waiting or (waiting == 0 and was_waiting != 0) or not set(frames) <= set(was_open)
        if news or now >= self.heartbeat.deadline():
            actions.append(self._register(now))
        else:
            self._registered = (waiting, was_open)
        return actions

    def _next(self, now: float) -> list[Action]:
        """The next tile for the engine: of a lane that is open, or a stolen one, since somebody waits for it under a
        lease; then the own."""
        if (checked := self.sampler.take(False, now)) is not None:
            return [self._checks(checked)]
        actions: list[Action] = []
        work = self.lanes.take()
        if work is None:
            if not self._stolen and self._alone and (frame := self.tiles.take_whole()):
                self._computing = Compute(
                    (frame, 0, 0), {self.plan.pixels.tensor: self._images[frame][0]}, True
                )
                return [self._computing]
            while work is None and (self._stolen or self.tiles.waiting):  # a lane that is here already may lack parts
                actions += self._open(now)
                work = self.lanes.take()
        if work is not None:
            self._computing = Compute(*work, reuse=self._reuses(work[0]))
            actions.insert(0, self._computing)
        elif (checked := self.sampler.take(True, now)) is not None:
            actions.append(self._checks(checked))
        return actions

    def _checks(self, work: tuple[TaskKey, Tensors]) -> Compute:
        self._computing = Compute(*work, check=True)
        return self._computing

    def _reuses(self, key: TaskKey) -> bool:
        """Whether a tile gives or takes overlaps: of the own frames, while there is somebody to give to."""
        frame, block, tile = key
        if not self.plan.blocks[block].reuse or frame not in self.tiles.frames:
            return False
        return tile in self._takers or self.tiles.waiting > 0

    def _open(self, now: float) -> list[Action]:
        """Begin a lane, if there is a tile to begin with."""
        if self._stolen:
            key = next(iter(self._stolen))
            inputs, picture, request = self._stolen.pop(key)
        else:
            own = self.tiles.take(now)
            if own is None:
                return []
            key, inputs, picture, request = own, self._inputs(own), self._images[own[0]][1], None
        self.lanes.start(*key, inputs, now, picture, request)
        return self._listen(key[1], now) if self._exchanges else []

    def _listen(self, begun: int, now: float) -> list[Action]:
        """What the lanes that this node computes need of others; parts for those that others have for good go there alone."""
        actions: list[Action] = [] if begun in self._listening else [Listen(begun)]
        self._listening[begun] = now
        here = {lane for _, lane in self.lanes}
        for lane in [lane for lane, at in self._listening.items() if now > at + LISTEN_S and lane not in here]:
            del self._listening[lane]
            actions.append(Listen(lane, wanted=False))
        return actions

    def _register(self, now: float, leaving: bool = False) -> Publish:
        self._registered = (self.tiles.waiting, self.tiles.frames)
        register = m.Register(
            **self._head(), seq=self.heartbeat.beat(now), runtime=self.runtime, plan=self.digest,
            waiting=self.tiles.waiting, frames=self.tiles.frames, camera=self.camera, leaving=leaving, machine=self.machine,
            flops_s=self.flops_s, bytes_s=self.bytes_s, message_speed=self.message_speed, deadline_s=self.deadline_s,
            priority=self.priority, answers=self.answers, distrusts=tuple(sorted(self.sampler.liars))[:64],
            address=self.address, roster=self._roster,
        )  # fmt: skip
        return Publish(topics.REGISTER, register)


def _registers(action: Action) -> bool:
    return isinstance(action, Publish) and action.topic is topics.REGISTER
