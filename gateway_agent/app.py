"""The gateway's loop: broker, link, tail and the clock around ``GatewayNode``. It decides nothing about tiles."""

import contextlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway_agent.access import arrange, packet_bytes
from gateway_agent.bridge import Bridge
from gateway_agent.broker import BrokerProcess
from gateway_agent.cluster_view import ClusterView
from gateway_agent.controls import AUTO, VERBS, Request, State
from gateway_agent.journal import JOURNAL, KEEP, Journal
from gateway_agent.node import NOTHING_BEFORE, Action, Counted, Distrusted, Finish, GatewayNode, Keep, Reconnect
from gateway_agent.painter import Painted, Painter
from gateway_agent.plan_store import PlanStore
from gateway_agent.publishing import ModelUpload
from gateway_agent.replan import Replanner, better
from gateway_agent.tail import Finished, TailThread
from gateway_agent.watchers import Watcher, Watchers
from models.bundle import Bundle, make_bundle, open_bundle
from models.graph.effort import arithmetic
from models.graph.file import parse
from models.planning.planner import parse_grid
from models.results.card import check_inputs
from models.running.engine import kernels, threads
from models.running.samples import arithmetics
from models.running.speed import measure_speed
from models.trial import try_bundle
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.chunks import chunk_count
from schemas.contract.config import GatewayOptions, Settings, is_loopback, parse_listen
from schemas.contract.errors import DecodeError, DtError, PlanError, UnreachableError
from schemas.contract.text import one_line
from schemas.contract.topics import Publish
from schemas.host.discovery import announced
from schemas.host.packages import install
from schemas.host.process import log_to_stderr, on_end, version
from schemas.host.service import Service
from schemas.host.state import state_folder
from schemas.host.vitals import Reader
from schemas.security.rights import GATEWAY as NAME
from schemas.wire.codec import CONTROL_BYTES, PLAN_BYTES, Incoming, Rejects
from schemas.wire.guard import OpenGuard
from schemas.wire.link import Address, Arrived, Connected, Disconnected, Link
from schemas.wire.pace import measure_messages
from schemas.wire.readiness import MARK, PATIENCE_S, Probe, Readiness, kinds

STATUS_S = 2.0
HEARD_S = 0.02  # so soon the broker has an outcome; until the journal knows, a restart says it once more
SENDING_BYTES = 256 * 1024  # of chunks on their way to the broker: all else waits behind them
SENDING_S = 0.005  # so often it is looked at whether they are there
ENTER_S = 30.0
CHUNK_NAME_BYTES = 40  # that each chunk of a model adds to the plan's message
VITALS_S = 10.0  # without news, so often
LABELS, LONGEST = 200, 200  # that the bridge names, and letters of each
DRAIN_S = 15.0  # frames in flight have so long to end under the plan that they began with
_log = logging.getLogger(__name__)


def _complete(bundle: Bundle) -> Bundle:
    """A model of which all inputs are known.

    Raises:
        PlanError: the card says nothing of one.
    """
    check_inputs(bundle.card, bundle.graph, bundle.path.with_suffix(".toml"))
    return bundle


def main(settings: Settings) -> int:
    """``dt gateway``: runs until SIGTERM or Ctrl-C. Returns the exit code."""
    log_to_stderr(settings.log)
    options, service = settings.gateway, Service.found()
    if options.model is None:
        raise PlanError("dt gateway needs a model: --model FILE, or gateway.model in a configuration file")
    models = find_models(options.models) if options.models else {}
    folder = state_folder(options.state, options.root)
    memory = PlanStore(folder, options)
    bundle, automatic = first_bundle(options, memory, models.values())
    access = arrange(options, packet_bytes(bundle.plan))
    if options.ha and not options.ha_broker and access.home is None:
        raise PlanError(
            "--ha in a sealed cluster takes mosquitto, for the embedded broker lets everybody command: apt install mosquitto, "
            "or name Home Assistant's own broker: --ha-broker mqtt://USER:PASSWORD@HOST"
        )
    journal = Journal(folder / JOURNAL)
    with contextlib.ExitStack() as stack:
        stack.callback(journal.close)
        if access.broker is not None:
            stack.enter_context(access.broker)
        address = access.address()
        if options.announce:
            _announce(stack, options.root, access.broker.host if access.broker is not None else "", address)
        app = Gateway(options, bundle, address, access.broker, service, journal, access.guard)
        given = options.grid is not None or options.cut != "auto" or options.model.is_dir()
        objective = options.objective or ("fixed" if given else "latency")
        if objective != "fixed" if automatic is None else automatic:
            app.replan("latency" if objective == "fixed" else objective)
        app.models, app.keep = models, memory.keep
        if options.ha or options.ha_broker:
            from gateway_agent.homeassistant.watcher import PICTURES_S, HomeAssistant, settings_of

            own = access.home() if access.home is not None else ""
            app.watch(HomeAssistant(app, settings_of(options, own)), PICTURES_S)
        on_end(app.stop)
        if options.http is not None:
            serve_dashboard(app, options.http, options.root, options.state)
        return app.run()


def first_bundle(options: GatewayOptions, memory: PlanStore, models: Collection[Path]) -> tuple[Bundle, bool | None]:
    """Model and plan to begin with, tried, and whether they are planned again (None: as ``options`` say): what was chosen
    before this process, or, if nothing was or that fails, what is configured.

    Raises:
        DtError: what is configured fails.
    """
    before = memory.take_up(models)
    if before is not None:
        bundle, automatic = bind(before[0]), before[1]
        try:
            try_bundle(bundle, threads(options.threads))
        except DtError as error:
            _log.error("the saved plan failed; running the configured one instead: %s", error)
        else:
            _log.info("resuming the saved plan; pass --grid, --cut, --model or --objective to replace it")
            return bundle, automatic
    assert options.model is not None
    bundle = bind(_complete(open_bundle(options.model, parse_grid(options.grid) if options.grid else None, options.cut)))
    try_bundle(bundle, threads(options.threads))
    return bundle, None


def _announce(stack: contextlib.ExitStack, root: str, listens: str, address: Address) -> None:
    """Let edges find the broker at ``address`` as long as ``stack`` is open, unless it is for this machine alone.

    ``listens``: the host on which our own broker does; empty for somebody else's. Who cannot be found still works.
    """
    host = listens or address.host
    if is_loopback(host):
        return
    try:
        stack.enter_context(announced(root, host, address.port, address.tls))
    except DtError as error:
        _log.warning("edges have to name this gateway's address: %s", error)


def serve_dashboard(app: "Gateway", http: str, root: str, state: Path | None = None) -> None:
    """Show ``app`` on ``http`` (HOST:PORT) as long as it runs; ``state``: the folder of its token, as in the options.

    Raises:
        PlanError: the port cannot be had, or the extra is not installed.
    """
    try:
        from gateway_agent.dashboard.watcher import PICTURES_S, Dashboard
    except ModuleNotFoundError as error:
        raise PlanError(f"--http needs {error.name}: {install('dashboard')}") from None
    dashboard = Dashboard(app, *parse_listen(http), root, state)
    app.watch(dashboard, PICTURES_S)
    print(f"dashboard at {dashboard.told(sys.stdout.isatty())}", flush=True)


def find_models(folder: Path) -> dict[str, Path]:
    """The models of a folder, by their files' stems.

    Raises:
        PlanError: there is none.
    """
    found = {one_line(path.stem): path for path in sorted(folder.glob("*.tflite"))}
    if not found:
        raise PlanError(f"--models {folder}: there is no .tflite file in it")
    return found


def bind(bundle: Bundle) -> Bundle:
    """The bundle with its plan bound to this machine's kernels of the arithmetics that the edges use.

    Raises:
        PlanError: the plan is longer than the message that tells edges of it may be.
    """
    plan = bundle.plan.model_copy(update={"runtime": kernels(arithmetics(parse(bundle.edge_model)))})
    most = PLAN_BYTES - CONTROL_BYTES - CHUNK_NAME_BYTES * chunk_count(len(bundle.edge_model))
    if (length := len(plan.model_dump_json())) > most:
        raise PlanError(f"a plan of {length} bytes, its message carries {most}: choose a coarser grid")
    return replace(bundle, plan=plan)


@dataclass(frozen=True)
class Planned:
    """A plan that was asked for, or none: with ``error``, or because the present one is good enough."""

    request: Request | None
    bundle: Bundle | None
    error: str = ""


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
        self._bundle, self._broker, self._guard = bundle, broker, guard or OpenGuard()
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
        self._upload = ModelUpload(NAME, bundle.plan.edge_model, bundle.edge_model)
        self._has_plan = self._said_ready = False
        self._kept_by = float("inf")  # a plan that the broker keeps has come back by then
        self.board = ClusterView()
        self.models: dict[str, Path] = {}  # what ``model`` chooses from
        self.keep: Callable[[Bundle, bool], None] = lambda bundle, automatic: None  # of each plan that is chosen from now on
        self._watchers = Watchers()
        self._painter: Painter | None = None
        self._readiness = self._new_readiness()
        self._wanted_s: dict[int, float] = {}  # how often each watcher wants pictures
        self._detection, self._planning = True, False
        self._planning_for: Request | None = None
        self._wanted: tuple[Callable[[], Bundle | None], Request] | None = None
        self._replanner: Replanner | None = None
        self._objective = "latency"
        self._next: Bundle | None = None  # to run as soon as no frame is in flight, or at _swap_at
        self._swap_at = float("inf")
        self._rejects = Rejects(options.root)
        self._stopping = False
        self._unfit: set[topics.Topic] = set()  # whose messages were too long
        self._broker_trouble = ""  # why it does not start
        self._published_bytes = self._published_messages = 0
        self._vitals = Reader()
        self._status: m.Status | None = None
        self._status_at = self._status_sent_at = 0.0

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
        self.want_pictures(watcher, pictures_s)

    def want_pictures(self, watcher: Watcher, pictures_s: float) -> None:
        """In the gateway's thread: from now on ``watcher`` wants pictures so often; 0: none. Sources hear of it in 2 s."""
        self._wanted_s[id(watcher)] = pictures_s
        self._node.pictures_s = min((every for every in self._wanted_s.values() if every), default=0.0)

    def replan(self, objective: str, replanner: Replanner | None = None) -> None:
        """From now on: plan again by ``objective`` when nodes join, leave or turn out slower."""
        self._replanner, self._objective = replanner or Replanner(), objective

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
        automatic = self._replanner is not None
        return State(self._detection, threshold if has_threshold else None, grid, self._bundle.name, automatic)

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
        self._readiness = self._new_readiness()
        try:
            self._enter()
            while not self._stopping and not self._readiness.ready:
                self._step()
                if self._readiness.trouble:
                    raise UnreachableError(self._readiness.trouble)
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

    def _enter(self) -> None:
        """Connect; a broker of our own that has died since it was started is started again."""
        if self._broker is None:
            return self._link.connect()
        self._link.start()
        until = time.monotonic() + ENTER_S
        while not self._link.connected and not self._stopping:
            if time.monotonic() > until:
                why = self._broker_trouble or "it was started, but does not answer: try again"
                raise UnreachableError(f"no broker at {self._link.address}: {why}")
            self._revive_broker()
            time.sleep(0.02)

    def _step(self) -> None:
        now = time.monotonic()
        deadline = min(self._status_at + STATUS_S, self._node.deadline() or float("inf"))
        patience_s = SENDING_S if self._upload else HEARD_S if self._saying else 1.0
        patience_s = patience_s if self._link.connected else 1.0
        try:
            event = self._inbox.get(timeout=min(max(deadline - now, 0.0), patience_s))
        except queue.Empty:
            event = None
        now = time.monotonic()
        heard = self._handle(event, now)
        self._act([*self._settle(now), *heard, *self._node.tick(now)], now)
        self._watch_broker(now)
        while self._upload and self._link.connected and self._link.outstanding < SENDING_BYTES:
            self._distribute(self._upload.next(self._node.epoch))
        if self._saying and self._journal is not None and self._link.flush(0.0):
            self._journal.heard(tuple(self._saying))
            self._saying.clear()
        if self._next is not None and (not self._node.assembly.frames or now >= self._swap_at):
            self._swap(self._next, now)
        self._replan(now)
        self.board.alive(self._node.ring.nodes, now)
        for said in self._bridge.tick(self.board, self._about, now):
            self._send(said)
        self._watchers.tick(now)
        if now >= self._status_at + STATUS_S:
            self._status_at = now
            self._revive_broker()
            self._publish_status()
        self._service.feed(now)

    def _send(self, said: Publish) -> None:
        """What the wire does not carry, whoever made it so long, is left out and told of once."""
        try:
            self._link.send(said)
        except PlanError as error:
            if said.topic not in self._unfit:
                self._unfit.add(said.topic)
                _log.error("left out: %s", error)

    def _distribute(self, said: Publish) -> None:
        """Send what is counted apart from the cluster's work: plan and model."""
        before, messages = self._link.bytes_out, self._link.messages_out
        self._send(said)
        self._published_bytes += self._link.bytes_out - before
        self._published_messages += self._link.messages_out - messages

    def _replan(self, now: float) -> None:
        """A new plan, if the cluster has changed so much that it needs one."""
        if self._replanner is None or self._planning or self._next is not None:
            return
        members = self._replanner.due(self._node.ring.nodes, now)
        if members is not None:
            self._replanner.planned(members, now)
            bundle, objective, own = self._bundle, self._objective, threads(self._options.threads)

            def plan() -> Bundle | None:
                speed = measure_speed(arithmetic(bundle.graph), own)
                return better(bundle, members, objective, speed, measure_messages())

            self.plan_anew(plan)

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
                self._send(action)
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
            if event.payload.startswith(MARK):
                self._prove(self._readiness.came(event.topic, event.payload, now))
                return []
            if event.topic == topics.PLAN.path(self._root):  # our own, which the broker keeps
                self._link.unhear([(event.topic, topics.PLAN.qos)])
                self._kept_by = float("inf")
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
                self._send(Publish(topics.OUTPUT, header, {"source": m.frame_source(event.frame)[0]}, event.outputs or {}))
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
            self._prove(self._readiness.connected(now))
            self._bridge.connected()
        elif isinstance(event, Disconnected):
            self._readiness.lost(now)
            self._has_plan = False
            if not self._readiness.trouble:
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
            self._status_at = self._status_sent_at = 0.0
            return []
        if isinstance(message, m.ChunkRequest):
            self._upload.asked(message)
            return []
        if isinstance(message, m.BridgeRequest):
            request = self._bridge.asked(incoming.levels["verb"], message, self._send)
            if request is not None:
                self._control(request, now)
            return []
        said = self._node.hear(incoming, now)
        if isinstance(message, m.Register):
            if self._replanner is not None:
                self._replanner.hear(message)
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
            self._node.paused = not value or self._next is not None
        elif verb == "threshold" and isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            if self.controls.threshold is None:
                return f"{self._bundle.name} has no threshold: its task is {self._bundle.card.task}"
            self._tail.threshold = float(value)
        elif verb == "grid" and value == AUTO:
            self.replan(self._objective)
            self._keep()
        elif verb == "grid" and isinstance(value, str):
            path, card = self._bundle.path, self._bundle.card
            return self.plan_anew(lambda: make_bundle(path, parse_grid(value), card=card), request)
        elif verb == "model" and isinstance(value, str):
            if value not in self.models:
                return f"there is no model {value[:100]!r}; there are: {', '.join(self.models) or 'none'} (--models DIR)"
            chosen, now_grid = self.models[value], parse_grid(self.controls.grid)
            return self.plan_anew(lambda: _complete(make_bundle(chosen, now_grid)), request)
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
        }  # fmt: skip

    def _remove(self, node: str) -> str:
        if node in self._node.ring.nodes:
            return f"{node} is here: stop it first"
        if node not in self.board.nodes:
            return f"there is no node {node[:100]!r}"
        self.board.forget(node)
        return ""

    def plan_anew(self, make: Callable[[], Bundle | None], request: Request | None = None) -> str | None:
        """Run what ``make`` returns (None: the same as before) as soon as the frames in flight have ended.

        Sources open no frame until then. ``make`` runs in a thread of its own, and what it returns is tried there in a
        child before anybody hears of it. Why not, or None: it is under way. A plan that somebody asks for comes instead of
        one that nobody did.
        """
        if self._planning and request is not None and self._planning_for is None and self._wanted is None:
            self._wanted = (make, request)
            return None
        if self._planning:
            return "another plan is being made: try again"
        self._planning, self._planning_for = True, request

        def work() -> None:
            try:
                made = make()
                if made is not None:
                    made = bind(made)
                    try_bundle(made, threads(self._options.threads))
                self._inbox.put(Planned(request, made))
            except DtError as error:
                self._inbox.put(Planned(request, None, str(error)))
            except (OSError, MemoryError, ValueError, ArithmeticError) as error:  # the asker must hear, and others ask
                self._inbox.put(Planned(request, None, f"it cannot be planned: {type(error).__name__} {error}".strip()))

        threading.Thread(target=work, name="planner", daemon=True).start()
        return None

    def _planned(self, planned: "Planned", now: float) -> None:
        self._planning = False
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self.plan_anew(*wanted)
            return
        if planned.bundle is not None:
            self._next, self._swap_at = planned.bundle, now + DRAIN_S
            self._node.paused = True
        elif planned.error and planned.request is None:
            _log.error("no new plan: %s", planned.error)
        if planned.request is not None:
            if planned.request.verb == "grid" and not planned.error:
                self._replanner = None  # whoever chooses by hand wants that
            self._answer(planned.request, planned.error, now)

    def _swap(self, bundle: Bundle, now: float) -> None:
        self._next, self._swap_at = None, float("inf")
        try:
            tail = TailThread(bundle, self._inbox, threads(self._options.threads))
        except (DtError, MemoryError) as error:
            _log.error("the new plan failed; keeping the current one: %s", str(error) or "there is not enough memory")
            self._node.paused = not self._detection
            return
        self._act(self._node.give_up("the plan has changed", now), now)
        threshold, pictures_s, ring = self._tail.threshold, self._node.pictures_s, self._node.ring
        self._tail.close()
        self._bundle = bundle
        if self._broker is not None:
            self._broker.allow(packet_bytes(bundle.plan))
        self._node = self._new_node()
        self._node.ring, self._node.pictures_s, self._node.paused = ring, pictures_s, not self._detection
        self._node.ring.reset()
        self._tail = tail
        self._tail.threshold = threshold
        self._upload = ModelUpload(NAME, bundle.plan.edge_model, bundle.edge_model)
        self._keep()
        self._readiness, self._has_plan = self._new_readiness(), False
        if self._link.connected:
            self._prove(self._readiness.connected(now))
        _log.info("plan %s replaces the one before", self._node.digest[:8])

    def _keep(self) -> None:
        try:
            self.keep(self._bundle, self._replanner is not None)
        except DtError as error:
            _log.warning("cannot save the plan; a restarted gateway will not resume it: %s", error)

    def _settle(self, now: float) -> list[Action]:
        """What the guard wants: rings before anything is said with their keys, and the end of who was revoked."""
        said: list[Action] = []
        for item in self._guard.tick():
            said += [item] if isinstance(item, Publish) else self._node.hear(item, now)
        return said

    def _publish_plan(self) -> None:
        """The plan, retained; again after each reconnect, since a broker may have lost what it kept."""
        plan = m.PlanMessage(
            node=NAME, epoch=self._node.epoch, plan=self._bundle.plan, chunks=self._upload.chunks,
            model_bytes=len(self._bundle.edge_model),
        )  # fmt: skip
        self._distribute(Publish(topics.PLAN, plan))
        self._link.hear([(topics.PLAN.path(self._root), topics.PLAN.qos)])
        self._kept_by = time.monotonic() + PATIENCE_S

    def _new_readiness(self) -> Readiness:
        pictures, outputs = self._painter is not None, self._options.outputs
        needs = kinds(self._bundle.plan, self._root, NAME, gateway=True, outputs=outputs, pictures=pictures)
        return Readiness(needs, str(self._link.address))

    def _prove(self, probes: Sequence[Probe]) -> None:
        """The broker shows that it carries what the plan needs; then it gets the plan."""
        readiness = self._readiness
        self._link.probe(probes)
        if readiness.ready and not self._has_plan:
            self._has_plan = True
            self._link.unhear(readiness.paths)
            self._publish_plan()

    def _watch_broker(self, now: float) -> None:
        """What does not come back is said once; it is tried again now and then."""
        self._prove(self._readiness.tick(now))
        trouble = self._readiness.complaint()
        if trouble and self._said_ready:
            _log.error("%s", trouble)
            self._service.status(trouble)
        if now >= self._kept_by:
            self._kept_by = float("inf")
            _log.error("the broker at %s keeps no retained messages: nodes that come later get no plan", self._link.address)

    def _revive_broker(self) -> None:
        """A broker that has died is started again, and again as long as it does not start, which is told once."""
        if self._broker is None or self._broker.alive:
            return
        if not self._broker_trouble:
            _log.error("the broker died: starting it again on port %d", self._broker.port)
        try:
            self._broker.start()
            self._broker_trouble = ""
        except (DtError, OSError) as error:
            if str(error) != self._broker_trouble:
                self._broker_trouble = str(error)
                _log.error("%s; trying again", error)

    def _publish_status(self) -> None:
        """Counters, when they have changed: bytes without the model's own distribution."""
        counts = self._node.counts
        now = time.monotonic()
        status = m.Status(
            node=NAME, epoch=self._node.epoch, frames=counts["frames"], bytes_in=self._link.bytes_in,
            bytes_out=self._link.bytes_out - self._published_bytes, messages_in=self._link.messages_in,
            messages_out=self._link.messages_out - self._published_messages, dropped=self._rejects.by_kind,
            version=version(),
        )  # fmt: skip
        news = self._status is None or status.frames != self._status.frames or status.dropped != self._status.dropped
        if news or now >= self._status_sent_at + VITALS_S:
            self._status, self._status_sent_at = status, now
            told = status.model_copy(update={"vitals": self._vitals.read()})
            self.board.hear(told, now)
            self._link.publish(topics.STATUS, told, node=NAME)

    def _close(self) -> None:
        """Nothing stays retained for a gateway that is gone but the word that it is."""
        self._service.stopping()
        self._watchers.close()
        for topic in (topics.PLAN, topics.BRIDGE_INFO, topics.BRIDGE_NODES, topics.BRIDGE_HEALTH):
            self._link.clear(topic)
        self._link.send(self._bridge.state("offline"))
        self._publish_status()
        self._link.close()
        self._tail.close()
        if self._painter is not None:
            self._painter.close()
