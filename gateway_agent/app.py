"""The gateway's loop: broker, link, tail and the clock around ``GatewayNode``. It decides nothing about tiles."""

import contextlib
import logging
import queue
import time
from dataclasses import replace
from pathlib import Path

from gateway_agent.broker import BrokerProcess
from gateway_agent.mosquitto import MosquittoProcess, installed
from gateway_agent.node import Finish, GatewayNode
from gateway_agent.tail import Finished, TailThread
from models.bundle import Bundle, open_bundle
from models.engine import kernels
from models.planner import parse_grid
from schemas import messages as m
from schemas import topics
from schemas.codec import Rejects, decode
from schemas.errors import DecodeError, PlanError
from schemas.link import Arrived, Connected, Disconnected, Link
from schemas.parcel import chunk_count, chunks
from schemas.process import log_to_stderr, on_end
from schemas.topics import Publish

NAME = "gateway"
STATUS_S = 2.0
_log = logging.getLogger(__name__)


def main(
    model: Path,
    grid: str | None,
    cut: str,
    listen: str,
    broker: str | None,
    root: str,
    deadline_s: float,
    threads: int,
    outputs: bool,
) -> int:
    """``dt gateway``: runs until SIGTERM or Ctrl-C. Returns the exit code."""
    log_to_stderr()
    if not m.is_name(root):
        raise PlanError(f"--root {root!r}: use letters, digits, _ and - only")
    host, port = parse_listen(listen)
    bundle = bind(open_bundle(model, parse_grid(grid) if grid else None, cut))
    own = own_broker(broker, host, port)
    if own is not None and host not in ("localhost", "::1") and not host.startswith("127."):
        _log.warning("listening on %s: whoever reaches this port may join, send frames and read results", host)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(own).url if own is not None else broker or ""
        app = Gateway(bundle, url, root, deadline_s, threads, own, outputs)
        on_end(app.stop)
        return app.run()


def own_broker(name: str | None, host: str, port: int) -> BrokerProcess | None:
    """The broker to start at ``host:port`` by its ``name``: amqtt, mosquitto or auto; None if that is a URL.

    Without a name it is amqtt on loopback, and mosquitto, where that is installed, beyond.
    """
    if name is None and host != "localhost" and not host.startswith("127."):
        name = "auto"
    if name == "mosquitto" or (name == "auto" and installed()):
        return MosquittoProcess(host, port)
    return BrokerProcess(host, port) if name in (None, "amqtt", "auto") else None


def bind(bundle: Bundle) -> Bundle:
    """The bundle with its plan bound to the kernels of this machine."""
    plan = bundle.plan.model_copy(update={"runtime": kernels()})
    return replace(bundle, plan=plan)


def parse_listen(text: str) -> tuple[str, int]:
    """``HOST:PORT``.

    Raises:
        PlanError: it is not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise PlanError(f"--listen {text!r}: give HOST:PORT, such as 127.0.0.1:1883 (port 0 takes a free one)")
    return host.strip("[]"), int(port)


class Gateway:
    """One gateway process. ``stop`` may be called from anywhere."""

    def __init__(
        self,
        bundle: Bundle,
        url: str,
        root: str,
        deadline_s: float,
        threads: int,
        broker: BrokerProcess | None,
        outputs: bool = False,
    ) -> None:
        self._bundle, self._root, self._broker, self._outputs = bundle, root, broker, outputs
        self._inbox: queue.Queue[object] = queue.Queue(512)
        self._node = GatewayNode(NAME, m.new_epoch(), bundle.plan, deadline_s, ordered=bool(bundle.card.state))
        self._link = Link(url, root, NAME, self._inbox)
        self._tail = TailThread(bundle, self._inbox, threads)
        self._rejects = Rejects(root)
        self._stopping = False
        self._published_bytes = self._published_messages = 0
        self._status: m.Status | None = None
        self._status_at = 0.0

    def stop(self) -> None:
        self._stopping = True
        with contextlib.suppress(queue.Full):
            self._inbox.put_nowait(None)

    def run(self) -> int:
        for topic in (topics.REGISTER, topics.VICTIM_REQ, topics.RESULT):
            self._link.subscribe(topic)
        self._link.connect()
        plan = self._bundle.plan
        block = plan.blocks[0]
        print(
            f"gateway ready at mqtt://{self._link.address}: {self._bundle.path.name}, {block.rows}x{block.cols} tiles, "
            f"plan {plan.digest()[:8]}; join with: dt edge --gateway {self._link.address}",
            flush=True,
        )
        try:
            while not self._stopping:
                self._step()
        finally:
            self._close()
        return 0

    def _step(self) -> None:
        now = time.monotonic()
        deadline = min(self._status_at + STATUS_S, self._node.deadline() or float("inf"))
        try:
            event = self._inbox.get(timeout=min(max(deadline - now, 0.0), 1.0))
        except queue.Empty:
            event = None
        now = time.monotonic()
        for action in self._handle(event, now) + self._node.tick(now):
            if isinstance(action, Finish):
                self._tail.submit(action)
            else:
                self._link.send(action)
                if isinstance(action.message, m.Outcome):
                    _tell(action.message)
        if now >= self._status_at + STATUS_S:
            self._status_at = now
            self._revive_broker()
            self._publish_status()

    def _handle(self, event: object, now: float) -> list[Publish | Finish]:
        if isinstance(event, Arrived):
            try:
                return self._node.hear(decode(self._root, event.topic, event.payload, self._node.digest), now)
            except DecodeError as error:
                self._rejects.add(event.topic, error, now)
        elif isinstance(event, Finished):
            if event.error:
                return self._node.failed(event.frame, event.error, now)
            if self._outputs:
                header = m.OutputHeader(node=NAME, epoch=self._node.epoch, frame=event.frame)
                self._link.publish(topics.OUTPUT, header, event.outputs, source=m.frame_source(event.frame)[0])
            return self._node.finished(event.frame, event.digests, now, event.result)
        elif isinstance(event, Connected):
            self._publish_model()
        elif isinstance(event, Disconnected):
            _log.warning("lost the broker at %s: %s; trying again", self._link.address, event.reason)
        return []

    def _publish_model(self) -> None:
        """Plan and model, retained; again after each reconnect, since a broker may have lost what it kept."""
        before, messages = self._link.bytes_out, self._link.messages_out
        model = self._bundle.edge_model
        for n, data in chunks(model):
            digest = self._bundle.plan.edge_model
            header = m.ChunkHeader(node=NAME, epoch=self._node.epoch, digest=digest, n=n)
            while not self._link.publish(topics.MODEL, header, {"chunk": data}, digest=digest, n=n):
                if not self._link.connected:
                    return  # the next connection brings us here again
                self._link.flush(0.1)
        plan = m.PlanMessage(
            node=NAME, epoch=self._node.epoch, plan=self._bundle.plan, chunks=chunk_count(len(model)),
            model_bytes=len(model),
        )  # fmt: skip
        self._link.publish(topics.PLAN, plan)
        self._published_bytes += self._link.bytes_out - before
        self._published_messages += self._link.messages_out - messages

    def _revive_broker(self) -> None:
        if self._broker is not None and not self._broker.alive:
            _log.error("the broker died: starting it again on port %d", self._broker.port)
            self._broker.start()

    def _publish_status(self) -> None:
        """Counters, when they have changed: bytes without the model's own distribution."""
        counts = self._node.counts
        status = m.Status(
            node=NAME, epoch=self._node.epoch, frames=counts["frames"], bytes_in=self._link.bytes_in,
            bytes_out=self._link.bytes_out - self._published_bytes, messages_in=self._link.messages_in,
            messages_out=self._link.messages_out - self._published_messages, dropped=self._rejects.by_kind,
        )  # fmt: skip
        if self._status is None or status.frames != self._status.frames or status.dropped != self._status.dropped:
            self._status = status
            self._link.publish(topics.STATUS, status, node=NAME)

    def _close(self) -> None:
        """Nothing stays retained for a gateway that is gone."""
        digest = self._bundle.plan.edge_model
        self._link.clear(topics.PLAN)
        for n in range(chunk_count(len(self._bundle.edge_model))):
            self._link.clear(topics.MODEL, digest=digest, n=n)
        self._publish_status()
        self._link.close()
        self._tail.close()


def _tell(outcome: m.Outcome) -> None:
    if outcome.status == "failed":
        _log.warning("frame %s failed after %.1f s: %s", outcome.frame, outcome.latency_s, outcome.reason)
    else:
        _log.debug("frame %s in %.3f s", outcome.frame, outcome.latency_s)
