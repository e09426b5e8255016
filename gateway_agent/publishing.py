"""What the gateway publishes: plan and status to all, and the chunks of the model to each edge that asks, in turn.

The broker keeps no chunks. Law: a chunk that waits already to be sent to a node is not sent twice for being asked twice.
"""

import logging
import time
from collections.abc import Callable, Sequence

from gateway_agent.access import packet_bytes
from gateway_agent.broker import BrokerProcess
from models.bundle import Bundle
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.chunks import chunk, chunk_digests
from schemas.contract.errors import DtError, PlanError, UnreachableError
from schemas.contract.text import one_line
from schemas.contract.topics import Publish
from schemas.host.process import version
from schemas.host.vitals import Reader
from schemas.security.rights import GATEWAY
from schemas.wire.link import Arrived, Link
from schemas.wire.readiness import MARK, PATIENCE_S, Probe, Readiness, kinds

NODES = 256  # that may wait at once
SENDING_BYTES = 256 * 1024  # of chunks on their way to the broker: all else waits behind them
ENTER_S = 30.0
VITALS_S = 10.0  # without news, so often
_log = logging.getLogger(__name__)


class ModelUpload:
    """The edges' model ``model`` with this digest."""

    def __init__(self, node: str, digest: str, model: bytes) -> None:
        self._node, self.digest, self._model = node, digest, model
        self.chunks = chunk_digests(model)
        self._wanted: dict[str, dict[int, None]] = {}  # by node, in the order of their turns

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._wanted)

    def asked(self, request: m.ChunkRequest) -> None:
        """A node wants chunks. Those of another model, as of a plan before this one, are not here."""
        numbers = [n for n in request.chunks if n < len(self.chunks)]
        if request.digest == self.digest and numbers and (request.node in self._wanted or len(self._wanted) < NODES):
            self._wanted.setdefault(request.node, {}).update(dict.fromkeys(numbers))

    def next(self, epoch: str) -> Publish:
        """The chunk whose turn it is; ``epoch``: the gateway's."""
        node, numbers = next(iter(self._wanted.items()))
        n = next(iter(numbers))
        del self._wanted[node], numbers[n]
        if numbers:
            self._wanted[node] = numbers
        header = m.ChunkHeader(node=self._node, epoch=epoch, digest=self.digest, n=n)
        return Publish(topics.MODEL, header, {"node": node}, {"chunk": chunk(self._model, n)})


class Publisher:
    """The gateway's side of the line: the broker proves that it carries the plan, then it gets plan, model and status.

    ``broker``: the one that this process hosts, if it does; it is started again when it has died.
    """

    def __init__(self, link: Link, broker: BrokerProcess | None, epoch: str) -> None:
        self._link, self._broker, self._epoch = link, broker, epoch
        self._has_plan = False
        self._kept_by = float("inf")  # a plan that the broker keeps has come back by then
        self._unfit: set[topics.Topic] = set()  # whose messages were too long
        self._broker_trouble = ""  # why it does not start
        self._bytes = self._messages = 0  # of plan and model
        self._vitals = Reader()
        self._status: m.Status | None = None
        self._status_sent_at = 0.0
        self.status_at = 0.0  # it was looked at last

    def serve(self, bundle: Bundle) -> None:
        """From now on publish this bundle, as soon as the broker has shown that it carries what ``prove`` asks for."""
        self._bundle = bundle
        self._upload = ModelUpload(GATEWAY, bundle.plan.edge_model, bundle.edge_model)
        if self._broker is not None:
            self._broker.allow(packet_bytes(bundle.plan))

    def prove(self, outputs: bool, pictures: bool, now: float) -> None:
        """The broker is to show that it carries what the plan needs; ``outputs`` and ``pictures``: and these."""
        self._has_plan = False
        needs = kinds(self._bundle.plan, self._link.root, GATEWAY, gateway=True, outputs=outputs, pictures=pictures)
        self._readiness = Readiness(needs, str(self._link.address))
        if self._link.connected:
            self._prove(self._readiness.connected(now))

    @property
    def ready(self) -> bool:
        """Whether the broker carries what the plan needs."""
        return self._readiness.ready

    @property
    def trouble(self) -> str:
        """Why it does not, in a line with the remedy; empty: it does, or it is not known yet."""
        return self._readiness.trouble

    @property
    def uploading(self) -> bool:
        """Whether nodes wait for chunks of the model."""
        return bool(self._upload)

    def asked(self, request: m.ChunkRequest) -> None:
        """A node wants chunks of the model."""
        self._upload.asked(request)

    def enter(self, stopping: Callable[[], bool]) -> None:
        """Connect; a broker of our own that has died since it was started is started again.

        Raises:
            UnreachableError: there is no broker.
        """
        if self._broker is None:
            return self._link.connect()
        self._link.start()
        until = time.monotonic() + ENTER_S
        while not self._link.connected and not stopping():
            if time.monotonic() > until:
                why = self._broker_trouble or "it was started, but does not answer: try again"
                raise UnreachableError(f"no broker at {self._link.address}: {why}")
            self.revive_broker()
            time.sleep(0.02)

    def send(self, said: Publish) -> None:
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
        self.send(said)
        self._bytes += self._link.bytes_out - before
        self._messages += self._link.messages_out - messages

    def connected(self, now: float) -> None:
        """The broker is there, perhaps another one."""
        self._prove(self._readiness.connected(now))

    def lost(self, now: float) -> None:
        """The broker is gone, and what it kept with it."""
        self._readiness.lost(now)
        self._has_plan = False

    def came(self, arrived: Arrived, now: float) -> bool:
        """Whether this was a probe, or the plan that the broker keeps: of no concern to anybody else."""
        if arrived.payload.startswith(MARK):
            self._prove(self._readiness.came(arrived.topic, arrived.payload, now))
            return True
        if arrived.topic == topics.PLAN.path(self._link.root):
            self._link.unhear([(arrived.topic, topics.PLAN.qos)])
            self._kept_by = float("inf")
            return True
        return False

    def tick(self, now: float) -> str:
        """The next chunks of the model, and what the broker owes. Returns what it fails at, once."""
        self._prove(self._readiness.tick(now))
        while self._upload and self._link.connected and self._link.outstanding < SENDING_BYTES:
            self._distribute(self._upload.next(self._epoch))
        if now >= self._kept_by:
            self._kept_by = float("inf")
            _log.error("the broker at %s keeps no retained messages: nodes that come later get no plan", self._link.address)
        return self._readiness.complaint()

    def _prove(self, probes: Sequence[Probe]) -> None:
        """The broker shows that it carries what the plan needs; then it gets the plan, again after each reconnect."""
        self._link.probe(probes)
        if self._readiness.ready and not self._has_plan:
            self._has_plan = True
            self._link.unhear(self._readiness.paths)
            plan = m.PlanMessage(
                node=GATEWAY, epoch=self._epoch, plan=self._bundle.plan, chunks=self._upload.chunks,
                model_bytes=len(self._bundle.edge_model), name=one_line(self._bundle.name)[:200],
            )  # fmt: skip
            self._distribute(Publish(topics.PLAN, plan))
            self._link.hear([(topics.PLAN.path(self._link.root), topics.PLAN.qos)])
            self._kept_by = time.monotonic() + PATIENCE_S

    def revive_broker(self) -> None:
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

    def status(self, frames: int, dropped: dict[str, int]) -> m.Status | None:
        """Counters, published when they have changed and now and then: bytes without the model's own distribution."""
        now = time.monotonic()
        status = m.Status(
            node=GATEWAY, epoch=self._epoch, frames=frames, bytes_in=self._link.bytes_in,
            bytes_out=self._link.bytes_out - self._bytes, messages_in=self._link.messages_in,
            messages_out=self._link.messages_out - self._messages, dropped=dropped, version=version(),
        )  # fmt: skip
        news = self._status is None or status.frames != self._status.frames or status.dropped != self._status.dropped
        if not news and now < self._status_sent_at + VITALS_S:
            return None
        self._status, self._status_sent_at = status, now
        told = status.model_copy(update={"vitals": self._vitals.read()})
        self._link.publish(topics.STATUS, told, node=GATEWAY)
        return told

    def status_wanted(self) -> None:
        """Somebody asks for it: the next one is published."""
        self.status_at = self._status_sent_at = 0.0
