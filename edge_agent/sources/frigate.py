"""A source whose frames Frigate sends, and waits for what they show: a ROUTER socket of ZeroMQ, where its detector's REQ ends.

The law: who asks is told what the model says, within its time, or nothing. Nobody is known here, so this listens on loopback
or on a file of this machine, unless it is told that its network may be trusted. ``requests`` has the wire and the decisions.
"""

import contextlib
import json
import logging
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from edge_agent.sources.frame import Image, Shot
from edge_agent.sources.requests import WAITING, Colours, Desk, HasModel, Look, TakeModel, parse
from edge_agent.sources.uri import Uri
from schemas.contract.config import is_loopback, parse_listen
from schemas.contract.errors import DecodeError, DtError, PlanError
from schemas.contract.results import Result
from schemas.contract.text import one_line
from schemas.host.files import write_files
from schemas.host.packages import install

TIMEOUT_MS = 200  # Frigate's own default
MOST_BYTES = 64 * 1024 * 1024  # of a message; a larger one ends its client's connection
MODELS = 32  # in a folder to which clients may add
LOADING_S = 25.0  # that a client waits for the model that it has sent; Frigate waits 30
CHOSEN = "model "  # a line on stdout: the gateway that has started this process is to run this file
TELL_S, LOOK_S = 60.0, 0.25
_log = logging.getLogger(__name__)


def open_frigate(where: Uri) -> "Frigate":
    """``frigate://127.0.0.1:5555``, or ``frigate:///tmp/cache/zmq_detector`` for a file (Frigate's ``ipc://``).

    ``timeout=200``: the client's request_timeout_ms. ``colour=bgr``: as its input_pixel_format. ``insecure=1``: listen beyond
    loopback. ``models=DIR``, of an edge that a gateway has started: models that clients send go there, and are run.

    Raises:
        PlanError: no pyzmq, an address that is none, is taken, or is not this machine's alone.
    """
    timeout_ms, colour = where.number("timeout", TIMEOUT_MS, 10, 60000), where.word("colour", "rgb")
    insecure = where.flag("insecure")
    where.refuse_others("timeout", "colour", "insecure", "models")
    if "motion" in where.query:
        raise PlanError(f"source {where.text!r}: Frigate looks for motion itself; leave motion= out")
    if colour not in ("rgb", "bgr"):
        raise PlanError(f"source {where.text!r}: colour={colour!r} must be rgb or bgr, as Frigate's input_pixel_format")
    endpoint = f"ipc://{where.path}"
    if not where.path.is_absolute():
        try:
            host, _ = parse_listen(str(where.path))
        except ValueError as error:
            raise PlanError(f"source {where.text!r}: {error}") from None
        if not (insecure or is_loopback(host)):
            raise PlanError(
                f"source {where.text!r} would take pictures from whoever reaches {host}, for Frigate's detector has no keys: "
                "run 'dt edge' with it on Frigate's machine, or say insecure=1 on a network that you trust"
            )
        endpoint = f"tcp://{where.path}"
    models = Path(where.query["models"]) if "models" in where.query else None
    return Frigate(endpoint, where.text, timeout_ms / 1000, colour == "bgr", models)


def keep_model(folder: Path | None, sent: TakeModel) -> Path:
    """The file in ``folder`` (None: there is none) that holds a model which a client has sent; a file of ours stays as it is.

    Raises:
        PlanError: why it is not taken.
    """
    if folder is None:
        raise PlanError("only 'dt gateway --frigate --models DIR' takes models")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.tflite", sent.name):
        raise PlanError("give it a name of letters, digits, _, . and - that ends in .tflite")
    path = folder / sent.name
    try:
        if path.exists():
            if path.read_bytes() != sent.data:
                raise PlanError(f"{path} is another model: rename one of them")
            return path
        if len(list(folder.glob("*.tflite"))) >= MODELS:
            raise PlanError(f"{folder} has {MODELS} models, the most to which one is added: remove some")
        write_files({path: [sent.data]})
    except OSError as error:
        raise PlanError(f"{folder} cannot keep it: {error.strerror}") from None
    except DtError as error:
        raise PlanError(f"{folder} cannot keep it: {error}") from None
    return path


class Frigate:
    """Pictures from the clients of ``endpoint``; ``answer`` each by its ticket. Any thread may call any method."""

    live = True

    def __init__(self, endpoint: str, name: str, timeout_s: float, bgr: bool = False, models: Path | None = None) -> None:
        try:
            import zmq
        except ImportError as error:
            raise PlanError(f"source {name!r} needs pyzmq ({one_line(str(error))}): {install('frigate')}") from None
        self.timeout_s = timeout_s
        self._zmq, self._name = zmq, name
        self._desk, self._colours = Desk(timeout_s), Colours(bgr)
        self._model = ""  # that the cluster runs; empty: it is not known yet
        self._asking: dict[bytes, str] = {}  # clients that wait until it is
        self._models = models
        self._loading: dict[bytes, tuple[Path, float]] = {}  # clients whose model is to run, and until when they wait
        self._changed = threading.Condition()
        self._outbox: queue.SimpleQueue[Sequence[bytes]] = queue.SimpleQueue()
        self._closed = self._is_unfit = False
        self._tell_at, self._told = time.monotonic() + TELL_S, 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MOST_BYTES)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # say so if nobody is there any more
        self._socket.setsockopt(zmq.IPV6, 1)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(0)
            raise PlanError(f"source {name!r} cannot listen on {endpoint}: {error}; choose another, here and there") from None
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="frigate", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Where it listens, with the port that it has got."""
        return self._socket.getsockopt_string(self._zmq.LAST_ENDPOINT)

    @property
    def unanswered(self) -> int:
        """Requests that got no answer in time."""
        with self._changed:
            return self._desk.unanswered

    def runs(self, model: str) -> None:
        """The cluster runs this model: who has asked hears whether it is his."""
        with self._changed:
            self._model, self._is_unfit = model, False
            for client, name in self._asking.items() if model else ():
                self._say_model(client, name)
            self._asking = {} if model else self._asking
            for client, (path, _) in list(self._loading.items()):
                if path.stem == model:
                    del self._loading[client]
                    self._say_json(client, {"model_saved": True, "model_loaded": True})

    def shots(self, stopped: Callable[[], bool]) -> Iterator[Shot]:
        """Requests, each when it is asked for."""
        while True:
            with self._changed:
                asked = None
                while asked is None and not (self._closed or stopped()):
                    asked = self._desk.take(time.monotonic())
                    if asked is None:
                        self._changed.wait(LOOK_S)
                if asked is None:
                    return
                dropped = self._desk.unanswered
            yield Shot(asked.image, time.monotonic(), time.time(), dropped, ticket=asked.ticket)

    def frames(self) -> Iterator[Image]:
        """RGB images; see ``Source``."""
        return (shot.image for shot in self.shots(lambda: False))

    def answer(self, ticket: int, result: Result | None) -> None:
        """What the model says of a shot; None: there is no result, and its client hears nothing."""
        with self._changed:
            if message := self._desk.answer(ticket, result, time.monotonic()):
                self._say(message)
        if result is not None and result.task != "detect" and not self._is_unfit:
            self._is_unfit = True
            _log.error("source %s: the model's task is %s, not detect: Frigate gets no answer", self._name, result.task)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._ring()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def _say(self, message: Sequence[bytes]) -> None:
        self._outbox.put(message)
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # it rings already, or the thread has ended
            self._bell.send(b"!")

    def _run(self) -> None:
        poller = self._zmq.Poller()
        poller.register(self._socket, self._zmq.POLLIN)
        poller.register(self._ear.fileno(), self._zmq.POLLIN)
        try:
            while not self._closed:
                ready = dict(poller.poll(1000))
                if self._ear.fileno() in ready:
                    self._ear.recv(4096)
                while not self._outbox.empty():
                    self._send(self._outbox.get())
                if self._socket in ready:
                    self._hear(self._socket.recv_multipart())
                self._give_up_models(time.monotonic())
                self._tell(time.monotonic())
        finally:
            endpoint = self.endpoint
            self._context.destroy(0)
            if endpoint.startswith("ipc://"):
                Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
            self._bell.close()
            self._ear.close()

    def _send(self, message: Sequence[bytes]) -> None:
        try:
            self._socket.send_multipart(message, self._zmq.NOBLOCK)
        except self._zmq.ZMQError as error:
            if error.errno not in (self._zmq.EHOSTUNREACH, self._zmq.EAGAIN):
                raise
            with self._changed:  # it has given up, and counts this as no answer
                self._desk.counts["late"] += 1

    def _hear(self, parts: list[bytes]) -> None:
        client, rest = parts[0], parts[2:]
        try:
            if len(parts) < 3 or parts[1]:
                raise DecodeError("no request of a REQ socket")
            asked = parse(rest)
            if isinstance(asked, Look):
                picture = self._colours.picture(asked.values)
                with self._changed:
                    self._desk.ask(client, picture, time.monotonic())
                    self._changed.notify()
            elif isinstance(asked, HasModel):
                self._has_model(client, asked.name)
            else:
                self._take_model(client, asked)
        except DecodeError as error:
            with self._changed:
                self._desk.counts["refused"] += 1
                is_first = self._desk.counts["refused"] == 1
            _log.log(logging.WARNING if is_first else logging.DEBUG, "source %s: left without an answer: %s", self._name, error)

    def _has_model(self, client: bytes, name: str) -> None:
        with self._changed:
            if self._model:
                self._say_model(client, name)
            else:
                self._asking[client] = name
                while len(self._asking) > WAITING:
                    del self._asking[next(iter(self._asking))]

    def _say_model(self, client: bytes, name: str) -> None:
        is_ours = self._model in (name, PurePath(name).stem)
        if not is_ours:
            _log.warning(
                "source %s: Frigate's model is %s, the cluster's %s: give both the same, or Frigate sees nothing",
                self._name, one_line(name), self._model,
            )  # fmt: skip
        self._say_json(client, {"model_available": is_ours, "model_loaded": is_ours})

    def _take_model(self, client: bytes, asked: TakeModel) -> None:
        try:
            path = keep_model(self._models, asked)
        except PlanError as error:
            _log.warning("source %s: the model %s that Frigate sent is refused: %s", self._name, one_line(asked.name), error)
            self._say_json(client, {"model_saved": False, "model_loaded": False})
            return
        with self._changed:
            if path.stem == self._model:
                self._say_json(client, {"model_saved": True, "model_loaded": True})
                return
            self._loading[client] = path, time.monotonic() + LOADING_S
        print(f"{CHOSEN}{path}", flush=True)

    def _give_up_models(self, now: float) -> None:
        """The gateway has not begun to run what was sent; it removes what is no model."""
        with self._changed:
            for client, (path, until) in list(self._loading.items()):
                if until <= now or not path.exists():
                    del self._loading[client]
                    self._say_json(client, {"model_saved": path.exists(), "model_loaded": False})

    def _say_json(self, client: bytes, words: dict[str, Any]) -> None:
        self._say([client, b"", json.dumps(words).encode()])

    def _tell(self, now: float) -> None:
        """That requests are left without an answer, once a minute."""
        if now < self._tell_at:
            return
        with self._changed:
            self._desk.expire(now)
            unanswered, counts = self._desk.unanswered, dict(self._desk.counts)
        if unanswered > self._told:
            _log.warning(
                "source %s: %d more requests had no answer within %.0f ms, so Frigate took them for empty; of %d so far: %s",
                self._name, unanswered - self._told, 1000 * self.timeout_s, counts["asked"],
                ", ".join(f"{number} {why}" for why, number in sorted(counts.items()) if why != "asked"),
            )  # fmt: skip
        self._tell_at, self._told = now + TELL_S, unanswered
