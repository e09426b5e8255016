"""The gateway's loop: broker, link, tail and the clock around ``GatewayNode``. It decides nothing about tiles."""

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gateway_agent.bridge import Bridge
from gateway_agent.broker import BrokerProcess
from gateway_agent.cluster_view import ClusterView
from gateway_agent.controls import AUTO, VERBS, Request, State
from gateway_agent.journal import KEEP, Journal
from gateway_agent.node import NOTHING_BEFORE, Action, Counted, Distrusted, Finish, GatewayNode, Keep, Reconnect
from gateway_agent.painter import Painted, Painter
from gateway_agent.plans import Planned, Plans, complete
from gateway_agent.publishing import Publisher
from gateway_agent.tail import Finished, TailThread
from gateway_agent.watchers import Watcher, Watchers
from models.bundle import Bundle, make_bundle
from models.planning.planner import parse_grid
from models.running.engine import threads
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.config import GatewayOptions
from schemas.contract.errors import DecodeError, DtError, UnreachableError
from schemas.contract.text import one_line
from schemas.contract.topics import Publish
from schemas.host.process import version
from schemas.host.service import Service
from schemas.security.rights import GATEWAY as NAME
from schemas.wire.codec import Incoming, Rejects
from schemas.wire.guard import OpenGuard
from schemas.wire.link import Address, Arrived, Connected, Disconnected, Link

STATUS_S = 2.0
HEARD_S = 0.02  # so soon the broker has an outcome; until the journal knows, a restart says it once more
SENDING_S = 0.005  # so often it is looked at whether they are there
LABELS, LONGEST = 200, 200  # that the bridge names, and letters of each
_log = logging.getLogger(__name__)


class Gateway:
    """One gateway process. ``stop`` and ``ask`` may be called from anywhere."""

    def __init__(
        self,
        options: GatewayOptions,
        bundle: Bundle,
        url: str | Address,
        broker: BrokerProcess | None,
        service: Service | None = None,
        journal: Journal | None = None,
        guard: OpenGuard | None = None,
    ) -> None:
        self._options, self._root, self._service = options, options.root, service or Service()
        self._bundle, self._guard = bundle, guard or OpenGuard()
        self._journal = journal
        self._saying: list[str] = []  # frames whose outcome the broker has not acknowledged
        self._inbox: queue.Queue[object] = queue.Queue(512)
        self._epoch = m.new_epoch()
        self._node = self._new_node()
        self._bridge = Bridge(NAME, self._epoch)
        self._guard.restart(self._epoch)
        self._link = Link(url, options.root, NAME, self._inbox, guard=self._guard)
        self._link.set_will(self._bridge.state("offline"))
        self._tail = TailThread(bundle, self._inbox, threads(options.threads))
        self._publisher = Publisher(self._link, broker, self._epoch)
        self._said_ready = False
        self.board = ClusterView()
        self.models: dict[str, Path] = {}  # what ``model`` chooses from
        self.keep: Callable[[Bundle, bool], None] = lambda bundle, automatic: None  # of each plan that is chosen from now on
        self._watchers = Watchers()
        self._painter: Painter | None = None
        self._wanted_s: dict[int, float] = {}  # how often each watcher wants pictures
        self._detection = True
        self.plans = Plans(self._inbox, options.threads)
        self._rejects = Rejects(options.root)
        self._serve(time.monotonic())
        self._stopping = False

    def _new_node(self) -> GatewayNode:
        ordered = bool(self._bundle.card.state)
        before = self._journal.before if self._journal is not None else NOTHING_BEFORE
        return GatewayNode(NAME, self._epoch, self._bundle.plan, self._options.deadline, ordered, before)

    def watch(self, watcher: Watcher, pictures_s: float = 0.0) -> None:
        """Before ``run``: ``watcher`` sees everything from now on; ``pictures_s``: and wants pictures so often."""
        self._watchers.add(watcher)
        if pictures_s and self._painter is None:
            self._painter = Painter(self._inbox)
            self._link.subscribe(topics.PICTURE)
            self._prove(time.monotonic())
        self.want_pictures(watcher, pictures_s)

    def want_pictures(self, watcher: Watcher, pictures_s: float) -> None:
        """In the gateway's thread: from now on ``watcher`` wants pictures so often; 0: none. Sources hear of it in 2 s."""
        self._wanted_s[id(watcher)] = pictures_s
        self._node.pictures_s = min((every for every in self._wanted_s.values() if every), default=0.0)

    def ask(self, request: Request) -> None:
        """From any thread; the answer comes in the gateway's."""
        try:
            self._inbox.put_nowait(request)
        except queue.Full:
            request.answer("the gateway is overloaded: try again")

    @property
    def controls(self) -> State:
        """What the controls are set to."""
        block, card = self._bundle.plan.blocks[0], self._bundle.card
        has_threshold = card.task == "detect"
        threshold = self._tail.threshold if self._tail.threshold is not None else card.threshold
        grid = f"{block.rows}x{block.cols}"
        least = threshold if has_threshold else None
        exactness = self._bundle.plan.exactness
        return State(self._detection, least, grid, self._bundle.name, self.plans.automatic, exactness)

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._link.connected

    @property
    def address(self) -> str:
        """The broker's, without user and password."""
        return str(self._link.address)

    @property
    def bundle(self) -> Bundle:
        """Model and plan that run."""
        return self._bundle

    def stop(self) -> None:
        self._stopping = True
        with contextlib.suppress(queue.Full):
            self._inbox.put_nowait(None)

    def run(self) -> int:
        heard = (topics.REGISTER, topics.VICTIM_REQ, topics.RESULT, topics.STATUS, topics.STATUS_REQ, topics.BRIDGE_REQUEST)
        for topic in (*heard, topics.MODEL_REQ):
            self._link.subscribe(topic)
        if self._guard.sealed:
            self._link.subscribe(topics.JOIN)
        try:
            self._publisher.enter(lambda: self._stopping)
            while not self._stopping and not self._publisher.ready:
                self._step()
                if self._publisher.trouble:
                    raise UnreachableError(self._publisher.trouble)
            if not self._stopping:
                self._say_ready()
            while not self._stopping:
                self._step()
        finally:
            self._close()
        return 0

    def _say_ready(self) -> None:
        self._said_ready = True
        plan = self._bundle.plan
        block = plan.blocks[0]
        scheme = "mqtts" if self._link.address.tls else "mqtt"
        joining = "dt enroll NAME" if self._guard.sealed else f"dt edge --gateway {self._link.address}"
        print(
            f"gateway ready at {scheme}://{self._link.address}: {one_line(self._bundle.path.name)}, "
            f"{block.rows}x{block.cols} tiles, plan {plan.digest()[:8]}; join with: {joining}",
            flush=True,
        )
        self._service.ready()
        self._service.status(f"{self._bundle.name} at {self._link.address}")

    def _step(self) -> None:
        now = time.monotonic()
        deadline = min(self._publisher.status_at + STATUS_S, self._node.deadline() or float("inf"))
        patience_s = SENDING_S if self._publisher.uploading else HEARD_S if self._saying else 1.0
        patience_s = patience_s if self._link.connected else 1.0
        try:
            event = self._inbox.get(timeout=min(max(deadline - now, 0.0), patience_s))
        except queue.Empty:
            event = None
        now = time.monotonic()
        heard = self._handle(event, now)
        self._act([*self._settle(now), *heard, *self._node.tick(now)], now)
        trouble = self._publisher.tick(now)
        if trouble and self._said_ready:
            _log.error("%s", trouble)
            self._service.status(trouble)
        if self._saying and self._journal is not None and self._link.flush(0.0):
            self._journal.heard(tuple(self._saying))
            self._saying.clear()
        if (bundle := self.plans.due(bool(self._node.assembly.frames), now)) is not None:
            self._swap(bundle, now)
        self.plans.tick(self._bundle, self._node.ring.nodes, now)
        self.board.alive(self._node.ring.nodes, now)
        for said in self._bridge.tick(self.board, self._about, now):
            self._publisher.send(said)
        self._watchers.tick(now)
        if now >= self._publisher.status_at + STATUS_S:
            self._publisher.status_at = now
            self._publisher.revive_broker()
            self._publish_status(now)
        self._service.feed(now)

    def _act(self, actions: Sequence[Action], now: float) -> None:
        for action in actions:
            if isinstance(action, Finish):
                if dropped := self._tail.submit(action):
                    self._act(self._node.failed(dropped, "too many frames wait for the gateway's tail", now), now)
            elif isinstance(action, Counted):
                self.board.hear(action.header, now)
            elif isinstance(action, Distrusted):
                text = f"gave wrong bits: {action.source}, which has checked them, lends it no more tiles"
                _log.warning("%s %s; take it out (dt revoke), or mend it and restart %s", action.node, text, action.source)
                self.board.tell("refused", action.node, text, now)
            elif isinstance(action, Keep):
                if self._journal is not None:
                    self._journal.keep(action.outcome)
            elif isinstance(action, Reconnect):
                _log.warning("nothing heard for too long: reconnecting to %s", self._link.address)
                self._link.renew()
            else:
                self._publisher.send(action)
                if isinstance(action.message, m.Outcome):
                    if self._journal is not None:
                        self._saying = [*self._saying[1 - KEEP :], action.message.frame]  # the journal knows no more, either
                    self._tell(action.message, now)

    def _tell(self, outcome: m.Outcome, now: float) -> None:
        if outcome.status == "failed":
            _log.warning("frame %s failed after %.1f s: %s", outcome.frame, outcome.latency_s, outcome.reason)
        else:
            _log.debug("frame %s in %.3f s", outcome.frame, outcome.latency_s)
        self.board.outcome(outcome, now)
        if self._painter is not None:
            self._painter.outcome(outcome)
        self._watchers.outcome(outcome, now)

    def _handle(self, event: object, now: float) -> list[Action]:
        if isinstance(event, Arrived):
            if event.topic == topics.STATUS.path(self._root, node=NAME):  # our own words: the subscriptions live
                self._node.connected(now)
                return []
            if self._publisher.came(event, now):
                return []
            try:
                admitted = self._guard.admit(self._root, event.topic, event.payload, self._node.digest)
                return [action for incoming in admitted for action in self._hear(incoming, now)]
            except DecodeError as error:
                self._rejects.add(event.topic, error, now)
        elif isinstance(event, Finished):
            if event.error:
                return self._node.failed(event.frame, event.error, now)
            if self._options.outputs:
                header = m.OutputHeader(node=NAME, epoch=self._node.epoch, frame=event.frame)
                levels = {"source": m.frame_source(event.frame)[0]}
                self._publisher.send(Publish(topics.OUTPUT, header, levels, event.outputs or {}))
            return self._node.finished(event.frame, event.digests, now, event.result)
        elif isinstance(event, Request):
            self._control(event, now)
        elif isinstance(event, Planned):
            self._planned(event, now)
        elif isinstance(event, Painted):
            self.board.pictured(event.frame, event.plain, event.annotated)
            self._watchers.pictured(event.frame, now)
        elif isinstance(event, Connected):
            self._node.connected(now)
            self._publisher.connected(now)
            self._bridge.connected()
        elif isinstance(event, Disconnected):
            self._publisher.lost(now)
            if not self._publisher.trouble:
                _log.warning("lost the broker at %s: %s; trying again", self._link.address, event.reason)
        return []

    def _hear(self, incoming: Incoming, now: float) -> list[Action]:
        message = incoming.message
        if incoming.stranger:
            return self._node.hear(incoming, now)
        if isinstance(message, m.PictureHeader):
            own = m.frame_source(message.frame)[0] == message.node == incoming.levels["source"]
            if self._painter is not None and own and "jpeg" in incoming.tensors:
                self._painter.picture(message.frame, incoming.tensors["jpeg"].tobytes())
            return []
        if isinstance(message, m.Status):
            self.board.hear(message, now)
            return []
        if isinstance(message, m.StatusRequest):
            self._publisher.status_wanted()
            return []
        if isinstance(message, m.ChunkRequest):
            self._publisher.asked(message)
            return []
        if isinstance(message, m.BridgeRequest):
            request = self._bridge.asked(incoming.levels["verb"], message, self._publisher.send)
            if request is not None:
                self._control(request, now)
            return []
        said = self._node.hear(incoming, now)
        if isinstance(message, m.Register):
            self.plans.hear(message)
            self.board.hear(message, now)
        return said

    def _control(self, request: Request, now: float) -> None:
        """Do what is asked, and answer; a plan is answered when it is there."""
        refused = self._obey(request)
        if refused is not None:
            self._answer(request, refused, now)

    def _answer(self, request: Request, refused: str, now: float) -> None:
        if not refused:
            self.board.tell("control", request.verb, f"set to {request.value}", now)
        request.answer(refused)

    def _obey(self, request: Request) -> str | None:
        """Why not; empty if it is done, None if it is under way."""
        verb, value = request.verb, request.value
        if verb == "detection" and isinstance(value, bool):
            self._detection = value
            self._pause()
        elif verb == "threshold" and isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            if self.controls.threshold is None:
                return f"{self._bundle.name} has no threshold: its task is {self._bundle.card.task}"
            self._tail.threshold = float(value)
        elif verb == "grid" and value == AUTO:
            self.plans.replan()
            self._keep()
        elif verb == "grid" and isinstance(value, str):
            path, card = self._bundle.path, self._bundle.card
            return self.plans.make(lambda: make_bundle(path, parse_grid(value), card=card), request)
        elif verb == "model" and isinstance(value, str):
            if value not in self.models:
                return f"there is no model {value[:100]!r}; there are: {', '.join(self.models) or 'none'} (--models DIR)"
            chosen, now_grid = self.models[value], parse_grid(self.controls.grid)
            return self.plans.make(lambda: complete(make_bundle(chosen, now_grid)), request)
        elif verb == "remove" and isinstance(value, str):
            return self._remove(value)
        elif verb == "restart":
            self.stop()
        else:
            return f"{verb} cannot be {value!r}"
        return ""

    def _about(self) -> dict[str, Any]:
        """The configuration that may be known."""
        now = self.controls
        return {
            "version": version(), "broker": self.address, "plan": self._node.digest, "deadline_s": self._options.deadline,
            "models": tuple(self.models)[:LABELS], "verbs": VERBS,
            "labels": tuple(label[:LONGEST] for label in self._bundle.card.labels[:LABELS]),
            "model": now.model, "grid": now.grid, "detection": now.detection, "threshold": now.threshold,
            "exactness": now.exactness,
        }  # fmt: skip

    def _remove(self, node: str) -> str:
        if node in self._node.ring.nodes:
            return f"{node} is here: stop it first"
        if node not in self.board.nodes:
            return f"there is no node {node[:100]!r}"
        self.board.forget(node)
        return ""

    def _planned(self, planned: Planned, now: float) -> None:
        if self.plans.made(planned, now):
            self._pause()
            if planned.request is not None:
                self._answer(planned.request, planned.error, now)

    def _pause(self) -> None:
        self._node.paused = not self._detection or self.plans.draining

    def _swap(self, bundle: Bundle, now: float) -> None:
        try:
            tail = TailThread(bundle, self._inbox, threads(self._options.threads))
        except (DtError, MemoryError) as error:
            _log.error("the new plan failed; keeping the current one: %s", str(error) or "there is not enough memory")
            self._pause()
            return
        self._act(self._node.give_up("the plan has changed", now), now)
        threshold, pictures_s, ring = self._tail.threshold, self._node.pictures_s, self._node.ring
        self._tail.close()
        self._bundle = bundle
        self._node = self._new_node()
        self._node.ring, self._node.pictures_s = ring, pictures_s
        self._pause()
        self._node.ring.reset()
        self._tail = tail
        self._tail.threshold = threshold
        self._keep()
        self._serve(now)
        _log.info("plan %s replaces the one before", self._node.digest[:8])

    def _serve(self, now: float) -> None:
        self._publisher.serve(self._bundle)
        self._prove(now)

    def _prove(self, now: float) -> None:
        self._publisher.prove(self._options.outputs, self._painter is not None, now)

    def _publish_status(self, now: float) -> None:
        told = self._publisher.status(self._node.counts["frames"], self._rejects.by_kind)
        if told is not None:
            self.board.hear(told, now)

    def _keep(self) -> None:
        try:
            self.keep(self._bundle, self.plans.automatic)
        except DtError as error:
            _log.warning("cannot save the plan; a restarted gateway will not resume it: %s", error)

    def _settle(self, now: float) -> list[Action]:
        """What the guard wants: rings before anything is said with their keys, and the end of who was revoked."""
        said: list[Action] = []
        for item in self._guard.tick():
            said += [item] if isinstance(item, Publish) else self._node.hear(item, now)
        return said

    def _close(self) -> None:
        """Nothing stays retained for a gateway that is gone but the word that it is."""
        self._service.stopping()
        self._watchers.close()
        for topic in (topics.PLAN, topics.BRIDGE_INFO, topics.BRIDGE_NODES, topics.BRIDGE_HEALTH):
            self._link.clear(topic)
        self._link.send(self._bridge.state("offline"))
        self._publish_status(time.monotonic())
        self._link.close()
        self._tail.close()
        if self._painter is not None:
            self._painter.close()
