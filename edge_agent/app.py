"""The edge's loop: link, model cache, source, engine and clock around ``EdgeNode``. It decides nothing about tiles."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.cache import ModelCache
from edge_agent.capture import Capture, Captured, Ended
from edge_agent.download import ModelDownload
from edge_agent.entry import enter, guard, host_name
from edge_agent.node import Action, Answer, Compute, EdgeNode, Listen, Meet, Reconnect
from edge_agent.sources import open_source
from edge_agent.sources.frame import Asked
from edge_agent.speed import Speed
from edge_agent.worker import Computed, Worker
from models.graph import file as graph
from models.running.engine import kernels, threads
from models.running.runner import TileRunner
from models.trial import Trial, Verdicts
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.chunks import CHUNK_BYTES, check_count
from schemas.contract.config import ROOT, EdgeOptions, Settings
from schemas.contract.errors import CredentialError, DecodeError, EngineError, UnreachableError
from schemas.contract.kernels import difference
from schemas.contract.redact import redact
from schemas.contract.topics import Publish
from schemas.host.cgroup import free_bytes
from schemas.host.files import cache_folder
from schemas.host.identity import machine_id
from schemas.host.process import log_to_stderr, on_end, return_memory, version
from schemas.host.service import Service
from schemas.host.vitals import Reader
from schemas.wire.codec import Incoming, Rejected, Rejects
from schemas.wire.direct import Direct, Straight, Undelivered
from schemas.wire.link import Arrived, Connected, Disconnected, Link
from schemas.wire.readiness import MARK, Readiness, kinds

if TYPE_CHECKING:
    from edge_agent.membership import Membership

STATUS_S = 2.0
VITALS_S = 10.0  # without news, so often
PROGRESS_S = 10.0  # so often the log says how much of the model is here
ANEW = 3  # after so many questions without an answer they are asked on another connection
WARN_S = 30.0
TRIAL_S = 0.05  # how often a trial of the model is looked at
ONCE_S = 10.0
LEAVE_S = 0.05  # so long the next picture waits for nodes that take the last one's tiles
UNKNOWN_S = 10.0  # so long a gateway may take to tell its broker of a node
_log = logging.getLogger(__name__)


def main(settings: Settings) -> int:
    """``dt edge``: runs until SIGTERM or Ctrl-C. Returns the exit code."""
    log_to_stderr(settings.log)
    return_memory()
    service, stopped = Service.found(), threading.Event()
    on_end(stopped.set)
    options: EdgeOptions | None = settings.edge
    membership = enter(settings.edge)
    if membership is not None:
        options = settings.edge.model_copy(update={"name": membership.name, "root": membership.root})
    elif settings.edge.gateway is None:
        from edge_agent.finding import find  # zeroconf is for those who need it

        options = find(settings.edge, service, stopped)
    if options is None or stopped.is_set():
        return 0
    app = Edge(options, options.name or host_name(), service, membership)
    on_end(app.stop)
    return app.run()


class Edge:
    """One edge process. ``stop`` may be called from anywhere."""

    def __init__(
        self, options: EdgeOptions, name: str, service: Service | None = None, membership: "Membership | None" = None
    ) -> None:
        self._options, self._name, self._root = options, name, options.root or ROOT
        self._url = membership.address(options.gateway) if membership else options.gateway or ""
        self._own_user = membership is not None and membership.authority is not None
        self._service = service or Service()
        self._source = open_source(options.source, options.drop) if options.source else None
        self._asked = self._source if isinstance(self._source, Asked) else None  # somebody waits for what its frames show
        self._cache, self._epoch = ModelCache(options.cache or cache_folder()), m.new_epoch()
        self._guard = guard(membership, self._epoch)
        self._inbox: queue.Queue[object] = queue.Queue(256)
        self._node: EdgeNode | None = None
        self._link = Link(self._url, self._root, name, self._inbox, guard=self._guard)
        self._direct = Direct(self._root, name, self._epoch, self._inbox, self._guard.keys) if options.direct == "on" else None
        for topic in (topics.PLAN, topics.OVERLAP_REQ, topics.STATUS_REQ):
            self._link.subscribe(topic)
        own = (topics.ECHO, topics.STEAL, topics.TILE, topics.RETURN, topics.ACCEPTED, topics.MODEL)
        for topic in (*own, topics.KEYS) if self._guard.sealed else own:
            self._link.subscribe(topic, node=name)
        self._rejects = Rejects(self._root)
        self._plan: m.PlanMessage | None = None
        self._strange = ""  # why the plan that is there cannot be ours
        self._model = Path()  # of the plan, once it is here
        self._download: ModelDownload | None = None
        self._progress_at = 0.0
        self._readiness: Readiness | None = None
        self._waiting: TileRunner | None = None  # to begin once the broker has shown that it carries what it needs
        self._trial: Trial | None = None
        self._runner: TileRunner | None = None  # of the plan that is tried
        self._worker: Worker | None = None
        self._capture: Capture | None = None
        self._granted = self._finished = self._stopping = False
        self._captured: Captured | None = None
        self._read_at = float("inf")  # the next picture, at the latest; never until a frame has begun
        self._vitals = Reader()
        self._machine = machine_id()
        self._speed: Speed | None = None
        self._status: m.Status | None = None
        self._status_at = self._status_sent_at = 0.0
        self._warn_at = 0.0
        self._hello_at = self._unknown_at = self._give_up_at = float("inf")

    def stop(self) -> None:
        self._stopping = True
        with contextlib.suppress(queue.Full):
            self._inbox.put_nowait(None)

    def run(self) -> int:
        try:
            if self._options.once:
                self._connect()
                self._give_up_at = time.monotonic() + ONCE_S
            else:
                self._link.start()
            self._service.ready()
            self._service.status(f"looking for the gateway at {self._link.address}")
            self._warn_at = time.monotonic() + 5.0
            while not self._stopping:
                self._step()
        finally:
            self._close()
        return 0

    def _connect(self) -> None:
        try:
            self._link.connect()
        except UnreachableError:
            self._check_known(UNKNOWN_S if self._link.unknown else 0.0)
            raise

    def _check_known(self, unknown_s: float) -> None:
        """End, if the broker has not known us for so long: nothing but a new line helps."""
        if self._own_user and unknown_s >= UNKNOWN_S:
            raise CredentialError(
                f"the gateway at {self._link.address} no longer knows {self._name}: 'dt enroll {self._name}' prints a new line "
                "there; give it here: dt edge --join LINE"
            )

    def _step(self) -> None:
        now = time.monotonic()
        tick_at = self._node.deadline() if self._node is not None else float("inf")
        deadline = min(self._status_at + STATUS_S, tick_at, self._read_at)
        if self._download is not None and self._link.connected:
            deadline = min(deadline, self._download.deadline(now))
        try:
            event = self._inbox.get(timeout=min(max(deadline - now, 0.0), 1.0 if self._trial is None else TRIAL_S))
        except queue.Empty:
            event = None
        now = time.monotonic()
        self._act(self._handle(event, now))
        if self._node is not None:
            if now >= tick_at:
                self._act(self._node.tick(now))
            is_ready = self._worker is not None and (self._worker.ready or self._node.is_alone)
            if self._capture is not None and is_ready and self._node.wants_frame and not self._granted:
                self._granted = True
                self._capture.pictures_s = self._node.pictures_s
                self._capture.more()
            is_due = now >= self._read_at or (self._read_at < float("inf") and not self._node.tiles.waiting)
            if self._capture is not None and is_due:
                self._read_at = float("inf")
                self._capture.ahead()
        else:
            self._await_model(now)
        if now >= self._status_at + STATUS_S:
            self._publish_status(now)
        if self._readiness is not None:
            self._watch_broker(self._readiness, now)
        self._check_known(now - self._unknown_at)
        self._service.feed(now)

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Compute):
                assert self._worker is not None
                self._worker.submit(action)
            elif isinstance(action, Listen):
                (self._link.subscribe if action.wanted else self._link.unsubscribe)(topics.OVERLAP, tile=action.tile)
                if self._direct is not None:
                    self._direct.take(action.tile, action.wanted)
            elif isinstance(action, Meet):
                if self._direct is not None:
                    self._direct.know(action.peers)
            elif isinstance(action, Answer):
                assert self._asked is not None
                self._asked.answer(action.ticket, action.result)
            elif isinstance(action, Reconnect):
                if self._link.connected:  # otherwise it was told already
                    _log.warning("the gateway is silent: reconnecting to %s", self._link.address)
                self._link.renew()
            elif self._direct is None or not self._direct.send(action):
                self._link.send(action)

    def _handle(self, event: object, now: float) -> Sequence[Action]:
        if isinstance(event, Arrived) and event.payload.startswith(MARK):
            if self._readiness is not None:
                self._link.probe(self._readiness.came(event.topic, event.payload, now))
        elif isinstance(event, Arrived | Straight):
            opened = event.opened if isinstance(event, Straight) else None
            try:
                admitted = self._guard.admit(self._root, event.topic, event.payload, self._digest, opened)
                return [action for incoming in admitted for action in self._hear(incoming, now)]
            except DecodeError as error:
                self._rejects.add(event.topic, error, now)
                if isinstance(error, Rejected) and error.kind == "version" and event.topic == topics.PLAN.path(self._root):
                    self._wait(str(error))
        elif isinstance(event, Undelivered):
            for said in event.said:
                self._link.send(said)
        elif isinstance(event, Connected):
            self._open_direct()
            self._warn_at = self._unknown_at = float("inf")
            self._hello_at = now
            if self._download is not None:
                self._download.reconnected()
            if self._readiness is not None:
                self._link.probe(self._readiness.connected(now))
            if self._node is not None:
                return self._node.connected(now)
        elif isinstance(event, Disconnected):
            if self._readiness is not None:
                self._readiness.lost(now)
            if self._readiness is None or not self._readiness.trouble:
                _log.warning("lost the broker at %s: %s; trying again", self._link.address, event.reason)
            self._warn_at = now + WARN_S
            self._unknown_at = now if event.unknown else float("inf")
        elif self._node is not None:
            return self._own(self._node, event, now)
        return []

    def _open_direct(self) -> None:
        """Take straight connections where this machine's way to the broker begins."""
        host, scope = self._link.local
        address = self._direct.open(host, scope) if self._direct is not None and host else None
        if self._node is not None:
            self._node.address = address

    @property
    def _rate(self) -> float:
        """Bytes a second of this node's link, by whichever way they left fastest."""
        return max(self._link.rate, self._direct.rate if self._direct is not None else 0.0)

    @property
    def _digest(self) -> str | None:
        return self._node.digest if self._node is not None else None

    def _own(self, node: EdgeNode, event: object, now: float) -> Sequence[Action]:
        """What this process itself has done: a tile, a frame. Leftovers of an earlier plan come to nothing."""
        if isinstance(event, Computed) and event.worker is self._worker:
            if event.error:
                _log.error("frame %s, tile %d: %s", event.key[0], event.key[2], event.error)
            elif self._speed is not None:
                if not event.reduced:
                    self._speed.saw(node.effort(event.key, event.whole), event.seconds)
                node.flops_s, node.bytes_s = self._speed.flops_s, self._rate
            node.counts["reduced"] += event.reduced
            return node.computed(event.key, event.outputs, event.seconds, now, event.error)
        if isinstance(event, Captured) and event.capture is self._capture:
            self._granted, self._captured, self._read_at = False, event, now + LEAVE_S
            said = node.frame(event.image, now, event.picture, event.ticket)
            return [*said, self._picture(node, event)] if event.jpeg else said
        if isinstance(event, Ended) and event.capture is self._capture:
            if event.error:
                raise event.error
            self._capture, self._read_at = None, float("inf")
            self._finished = True
            node.source_ended()
            self._status_at = 0.0
            _log.info("the source has ended after %d frames", node.frames_opened)
        return []

    def _picture(self, node: EdgeNode, captured: Captured) -> Publish:
        frame = m.frame_id(self._name, self._epoch, node.frames_opened - 1)
        header = m.PictureHeader(node=self._name, epoch=self._epoch, frame=frame, picture=captured.picture)
        data = np.frombuffer(captured.jpeg, np.uint8)
        return Publish(topics.PICTURE, header, {"source": self._name}, {"jpeg": data})

    def _hear(self, incoming: Incoming, now: float) -> Sequence[Action]:
        message = incoming.message
        if isinstance(message, m.StatusRequest):
            self._status_at = self._status_sent_at = 0.0
        elif isinstance(message, m.PlanMessage):
            self._adopt(message, now)
        elif isinstance(message, m.ChunkHeader):
            return self._take(message, incoming, now)
        elif self._node is not None:
            if isinstance(message, m.OverlapRequest) and self._direct is not None:
                self._direct.asked(message.node, message.tile)
            return self._node.hear(incoming, now)
        return []

    def _adopt(self, message: m.PlanMessage, now: float) -> None:
        """A plan: fetch its model unless the disk has it. The plan that we run already is no news."""
        before = self._plan
        if before is not None and before.plan == message.plan and (self._download is None or before.chunks == message.chunks):
            return
        reason, remedy = difference(kernels(), message.plan.runtime) if message.plan.runtime else ("", "")
        if reason:
            raise EngineError(f"this node cannot join: {reason}; {remedy}")
        check_count(len(message.chunks), message.model_bytes)  # first: it may refuse the message
        self._end_plan()
        self._plan, self._strange = message, ""
        needs = kinds(message.plan, self._root, self._name, camera=self._source is not None)
        self._readiness = Readiness(needs, str(self._link.address))
        if self._link.connected:
            self._link.probe(self._readiness.connected(now))
        model = self._cache.load(message.plan.edge_model)
        if model is not None:
            self._model = model
            self._act(self._try(message, now))
            return
        self._download = ModelDownload(self._cache.part(message.plan.edge_model, message.model_bytes), message.chunks)
        self._progress_at = now + PROGRESS_S
        _log.info("fetching model %s, %.1f MB", message.plan.edge_model[:8], message.model_bytes / 1e6)

    def _wait(self, why: str) -> None:
        """A gateway of another version: nothing to do before it has a plan that we know."""
        self._end_plan()
        self._plan, self._strange = None, why
        _log.warning("waiting for a plan that this node knows: %s", why)
        self._service.status(why)

    def _ask(self, download: ModelDownload, now: float) -> Sequence[Action]:
        """Ask for what may be under way; what ends when all is here."""
        before = download.window.silences
        wanted = download.ask(now)
        silences = download.window.silences
        if silences > before and self._link.connected:
            _log.warning(
                "model %s: asked %d times, nothing came of %d chunks of %d: does the gateway run, and does the broker at %s "
                "pass messages of %d kB? 'dt doctor' finds out", download.digest[:8], silences, download.chunks - download.here,
                download.chunks, self._link.address, CHUNK_BYTES // 1000,
            )  # fmt: skip
            if silences % ANEW == 0:  # it may be that nobody hears us on this connection
                self._link.renew()
        if wanted:
            request = m.ChunkRequest(node=self._name, epoch=self._epoch, digest=download.digest, chunks=tuple(wanted))
            self._link.publish(topics.MODEL_REQ, request, node=self._name)
        if now >= self._progress_at:
            self._progress_at = now + PROGRESS_S
            told = f"{download.share:.0%} of model {download.digest[:8]} is here, {download.part.size / 1e6:.1f} MB"
            self._service.status(told)
            _log.info("%s", told)
        return self._fetched(download, now) if download.complete else []

    def _take(self, header: m.ChunkHeader, incoming: Incoming, now: float) -> Sequence[Action]:
        """A chunk of an older plan's model, or one that comes too late, is normal."""
        download = self._download
        if download is None or header.digest != download.digest or "chunk" not in incoming.tensors:
            return []
        download.take(header.n, incoming.tensors["chunk"], now)
        return []

    def _fetched(self, download: ModelDownload, now: float) -> Sequence[Action]:
        model, plan = download.part.finish(), self._plan
        if model is None:
            _log.error("model %s: its chunks match their digests, the whole does not: starting again", download.digest[:8])
            download.begin_again()
            return []
        size, came = download.part.size / 1e6, download.came_bytes / 1e6
        _log.info("model %s is complete: %.1f MB, %.1f MB received now", download.digest[:8], size, came)
        self._end_download()
        self._model = model
        return self._try(plan, now) if plan is not None else []

    def _end_download(self) -> None:
        if self._download is not None:
            self._download.part.close()
        self._download = None

    def _await_model(self, now: float) -> None:
        if self._trial is not None and self._plan is not None:
            self._act(self._tried(self._trial, self._plan, now))
        if self._download is not None and self._link.connected:
            self._act(self._ask(self._download, now))
        if self._guard.sealed and now >= self._hello_at and self._link.connected:
            self._hello_at = now + STATUS_S
            hello = m.Register(node=self._name, epoch=self._epoch, seq=0, runtime=kernels())  # its echo names the plan
            self._link.publish(topics.REGISTER, hello)
        if now >= self._warn_at:
            self._warn_at = now + WARN_S
            _log.warning("cannot reach the gateway at %s: is it running? trying again", self._link.address)
        if self._plan is None and now >= self._give_up_at:
            missing = f"the broker at {self._link.address} has no plan: is 'dt gateway' running there?"
            raise UnreachableError(self._strange or missing)

    def _try(self, message: m.PlanMessage, now: float) -> Sequence[Action]:
        """The model is here: a child process tries it before this one does, unless one has done so before."""
        plan, verdicts = message.plan, Verdicts(self._cache.folder)
        room, own, keep = self._weights(), threads(self._options.threads), self._options.keep
        runner = TileRunner(plan, graph.load(self._model), room, own, keep, free=free_bytes)
        knows = verdicts.knows(plan.edge_model)
        if knows and verdicts.knows(runner.kinds):
            return self._begin(runner, now)
        self._trial, self._runner = Trial(self._model, plan, own, room, knows=knows), runner
        return []

    def _tried(self, trial: Trial, message: m.PlanMessage, now: float) -> Sequence[Action]:
        verdict = trial.verdict()
        if verdict is None:
            return []
        runner = self._runner
        assert runner is not None
        self._end_trial()
        if verdict:
            raise EngineError(f"the model of plan {message.plan.digest()[:8]}: {verdict}")
        for good in (message.plan.edge_model, runner.kinds):
            Verdicts(self._cache.folder).add(good)
        return self._begin(runner, now)

    def _weights(self) -> Path:
        """This node's folder for packed weights."""
        return self._cache.room(self._name)

    def _end_trial(self) -> None:
        if self._trial is not None:
            self._trial.close()
        self._trial = self._runner = None

    def _watch_broker(self, readiness: Readiness, now: float) -> None:
        """Whether it carries what the plan needs. What does not come back is said once, and tried again now and then."""
        self._link.probe(readiness.tick(now))
        if complaint := readiness.complaint():
            if self._options.once:
                raise UnreachableError(complaint)
            _log.error("%s", complaint)
            self._service.status(complaint)
        if self._waiting is not None and readiness.ready:
            runner, self._waiting = self._waiting, None
            self._act(self._begin(runner, now))

    def _begin(self, runner: TileRunner, now: float) -> Sequence[Action]:
        """Plan and model are here, and good: engine, source and node start, once the broker is known to carry what they say."""
        if self._readiness is not None and not self._readiness.ready:
            self._waiting = runner
            return []
        plan, is_source = runner.plan, self._source is not None
        self._speed = self._speed or Speed(self._weights(), threads(self._options.threads))
        self._node = EdgeNode(self._name, self._epoch, plan, kernels(), self._options.window, is_source)
        self._node.address = self._direct.address if self._direct is not None else None
        self._node.machine, self._node.fits_whole = self._machine, not plan.undivided or runner.fits_whole
        self._node.deadline_s, self._node.priority = self._options.deadline, self._options.priority
        if self._asked is not None:
            self._node.answers, self._node.deadline_s = True, self._asked.timeout_s
        self._node.flops_s, self._node.bytes_s = self._speed.flops_s, self._rate
        self._node.message_speed = self._speed.message_speed
        self._worker = Worker(runner, self._inbox, ahead=not is_source)
        if self._source is not None:
            drops = self._options.drop != "all"
            self._capture = Capture(self._source, plan.pixels, self._options.frames, self._inbox, drops)
            self._granted = False
        if self._asked is not None and self._plan is not None:
            self._asked.runs(self._plan.name)
        self._publish_status(now)
        self._service.status(f"{self._name} in the cluster at {self._link.address}")
        _log.info("%s joined the cluster at %s: plan %s", self._name, self._link.address, self._node.digest[:8])
        return self._node.connected(now)

    def _end_plan(self) -> None:
        if self._capture is not None:
            self._capture.close()
        if self._worker is not None:
            self._worker.close()
        if self._node is not None:
            self._epoch = m.new_epoch()  # frames of the old plan are given up under their epoch
            self._guard.restart(self._epoch)
            if self._direct is not None:
                self._direct.restart(self._epoch)
            self._hello_at = 0.0
        if self._asked is not None:
            self._asked.runs("")
        self._node = self._worker = self._capture = None
        self._read_at = float("inf")
        self._end_trial()
        self._end_download()
        self._waiting = None

    def _publish_status(self, now: float) -> None:
        """Counters, when what people look at has changed."""
        self._status_at = now
        node, last, download = self._node, self._captured, self._download
        status = m.Status(
            node=self._name, epoch=self._epoch, bytes_in=self._link.bytes_in, bytes_out=self._link.bytes_out,
            messages_in=self._link.messages_in, messages_out=self._link.messages_out, dropped=self._rejects.by_kind,
            finished=self._finished, version=version(), source=redact(self._options.source or "")[:300],
            missed=self._asked.unanswered if self._asked is not None else last.dropped if last else 0,
            still=last.skipped if last else 0,
            fetched=download.share if download is not None else None,
        )  # fmt: skip
        if node is not None:
            status = status.model_copy(update={
                "computed": node.counts["computed"], "stolen": node.counts["stolen"], "lent": node.counts["lent"],
                "compute_s": node.compute_s, "frames": node.frames_opened, "waiting": node.tiles.waiting, "tile_s": node.tile_s,
            })  # fmt: skip
        elif download is None and not self._strange:
            return
        if self._direct is not None:
            status = status.model_copy(update={
                "straight": self._direct.peers, "straight_out": self._direct.bytes_out, "straight_in": self._direct.bytes_in,
            })  # fmt: skip
        seen = {"straight", "compute_s", "frames", "finished", "lent", "dropped", "fetched"}
        news = self._status is None or status.model_dump(include=seen) != self._status.model_dump(include=seen)
        if news or now >= self._status_sent_at + VITALS_S:
            self._status, self._status_sent_at = status, now
            told = status.model_copy(update={"vitals": self._vitals.read()})
            self._link.publish(topics.STATUS, told, node=self._name)

    def _close(self) -> None:
        """Say good-bye and leave nothing running."""
        self._service.stopping()
        if self._source is not None:
            self._source.close()
        if self._node is not None and self._link.connected:
            self._act(self._node.leave(time.monotonic()))
            self._status_at = 0.0
            self._publish_status(time.monotonic())
        self._end_plan()
        if self._speed is not None:
            self._speed.keep()
        if self._direct is not None:
            self._direct.close()
        self._link.close()
