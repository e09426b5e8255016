"""The HTTP side: which paths there are, what stands before all of them, and the thread that serves them.

Every answer is made of the hub's newest snapshot. A path that would wait for the gateway waits for a limited time.
"""

import asyncio
import contextlib
import errno
import json
import logging
import mimetypes
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from h11 import LocalProtocolError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway_agent.controls import VERBS
from gateway_agent.controls import Request as Control
from gateway_agent.dashboard import metrics
from gateway_agent.dashboard.access import COOKIE, HEADERS, Access, is_ours
from gateway_agent.dashboard.door import Door
from gateway_agent.dashboard.expected import expected, parse_rate
from gateway_agent.dashboard.hub import Hub
from gateway_agent.dashboard.stream import stream
from schemas.contract.errors import PlanError

STATIC = Path(__file__).parent / "static"
BODY_BYTES = 4096
ANSWER_S = 60.0  # a plan for another grid takes long on a Pi
SILENT_S = 10.0  # a gateway's loop that has not turned for so long is stuck
BODY_S = 10.0
BACKLOG = 64
TOLD_S = 60.0  # between two words of the same trouble
LOOK_S = 1  # so often the door looks for those whose time is over
SEND_BYTES = 65536  # that wait in the system for one browser: a stalled one is noticed soon
_OPEN = ("/healthz", "/login")  # whoever reaches the port may have these, and what the login page is made of
_LOGIN_FILES = ("/static/login.js", "/static/style.css", "/static/icon.svg")
_AT_ONCE = ("/healthz", "/metrics")  # answered without waiting for anything, however many others are served

_log = logging.getLogger(__name__)

Ask = Callable[[Control], None]


class Pages:
    """What each path gives. ``ask`` hands a request to the gateway's thread."""

    def __init__(self, hub: Hub, access: Access, ask: Ask, door: "Door[HttpConnection]") -> None:
        self._hub, self._access, self._ask, self._door = hub, access, ask, door
        self._predicting = asyncio.Lock()

    def app(self) -> ASGIApp:
        routes = [
            Route("/", self.index),
            Route("/login", self.login, methods=["POST"]),
            Route("/healthz", self.healthz),
            Route("/metrics", self.metrics),
            Route("/api/state", self.state),
            Route("/api/plan", self.plan),
            Route("/api/frames", self.frames),
            Route("/api/expected", self.expected),
            Route("/api/control", self.control, methods=["POST"]),
            Route("/picture/{source}", self.picture),
            Route("/events", self.events),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        mimetypes.add_type("text/javascript", ".js")  # some systems' tables say otherwise, and browsers refuse it then
        return guarded(Starlette(routes=routes, exception_handlers={PlanError: _refused}), self._access, self._door)

    async def index(self, _: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def login(self, request: Request) -> Response:
        """A token for a cookie."""
        token = (await _body(request)).get("token")
        if not isinstance(token, str) or not self._access.is_token(token):
            return JSONResponse({"error": "this token is not the gateway's"}, 403)
        response = JSONResponse({"ok": True})
        response.set_cookie(COOKIE, self._access.session, max_age=365 * 86400, httponly=True, samesite="strict")
        return response

    async def healthz(self, _: Request) -> Response:
        """200 while the gateway's loop turns and has its broker; 503 with the reasons otherwise."""
        silent_s, reasons = self._hub.silent_s(), []
        if silent_s > SILENT_S:
            reasons.append(f"the gateway's loop has not turned for {silent_s:.0f} s")
        if not self._hub.connected:
            reasons.append("the gateway is not connected to its broker")
        body = {
            "ok": not reasons,
            "reasons": reasons,
            "loop_silent_s": round(silent_s, 1),
            "broker": self._hub.connected,
        }
        return JSONResponse(body, 503 if reasons else 200)

    async def metrics(self, _: Request) -> Response:
        latest = self._hub.latest
        if latest is None:
            return PlainTextResponse("not yet\n", 503)
        text = metrics.exposition(latest, self._hub.silent_s(), self._hub.connected)
        return Response(text, media_type=metrics.CONTENT_TYPE)

    async def state(self, _: Request) -> Response:
        self._hub.look()
        latest = self._hub.latest
        return JSONResponse(None if latest is None else latest.state)

    async def plan(self, _: Request) -> Response:
        latest = self._hub.latest
        return Response("null" if latest is None else latest.plan.json, media_type="application/json")

    async def frames(self, _: Request) -> Response:
        latest = self._hub.latest
        lines = [] if latest is None else [frame.json for frame in latest.frames]
        return Response(f"[{','.join(lines)}]", media_type="application/json")

    async def expected(self, request: Request) -> Response:
        """What the planner expects of the nodes that are here, at ``?rate=`` Mbit/s or as measured."""
        rate, latest = parse_rate(request.query_params.get("rate", "")), self._hub.latest
        if latest is None:
            return JSONResponse({"latency_s": None, "nodes": 0, "rate_mbit": rate})
        async with self._predicting:  # one at a time: it computes
            return JSONResponse(await asyncio.to_thread(expected, latest, rate))

    async def control(self, request: Request) -> Response:
        """One of ``controls.VERBS``; answered when the gateway has done it."""
        asked = await _body(request)
        verb, value = asked.get("verb"), asked.get("value")
        if verb not in VERBS or not isinstance(value, bool | int | float | str | None):
            return JSONResponse({"error": f"there is no control {str(verb)[:40]!r}"}, 400)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[str] = loop.create_future()

        def settle(refused: str) -> None:
            if not answered.done():
                answered.set_result(refused)

        def answer(refused: str) -> None:  # in the gateway's thread
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(settle, refused)

        self._ask(Control(verb, value, answer))
        try:
            refused = await asyncio.wait_for(answered, ANSWER_S)
        except asyncio.TimeoutError:
            return JSONResponse({"error": f"the gateway has not answered for {ANSWER_S:.0f} s"}, 504)
        return JSONResponse({"error": refused}, 409) if refused else JSONResponse({"ok": True})

    async def picture(self, request: Request) -> Response:
        """The newest picture of a source that has its frame's outcome, without boxes."""
        self._hub.look()
        latest = self._hub.latest
        shown = None if latest is None else latest.pictures.get(request.path_params["source"])
        if shown is None:
            return PlainTextResponse("no picture\n", 404)
        return Response(shown.jpeg, media_type="image/jpeg", headers={"x-frame": shown.outcome.frame})

    async def events(self, _: Request) -> Response:
        return stream(self._hub)


async def _body(request: Request) -> dict[str, Any]:
    """What a request says; nothing if that is too long, too late or no JSON object."""
    try:
        found = json.loads(await asyncio.wait_for(_read(request), BODY_S))
    except (ValueError, RecursionError, asyncio.TimeoutError, ClientDisconnect):
        return {}
    return found if isinstance(found, dict) else {}


async def _read(request: Request) -> bytes:
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > BODY_BYTES:
            return b""
    return data


async def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


class HttpConnection(H11Protocol):
    """One connection, in the door's book as long as it is open."""

    door: "Door[HttpConnection]"

    @property
    def key(self) -> tuple[str, int]:
        return self.client or ("", 0)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        for line in self.door.opened(self.key, self, time.monotonic()):
            line.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.door.closed(self.key, self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self.door.stalled(self.key, time.monotonic())
        super().pause_writing()

    def resume_writing(self) -> None:
        self.door.stalled(self.key, None)
        super().resume_writing()


def guarded(app: ASGIApp, access: Access, door: Door[HttpConnection]) -> ASGIApp:
    """``app`` behind what ``access`` says of every request; who is not let in gets one short answer a connection."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
            return
        headers, path, client = Headers(scope=scope), scope["path"], tuple(scope["client"] or ("", 0))
        admitted = access.admits(headers, cookie_parser(headers.get("cookie", "")))
        refusal = _refusal(access, scope["method"], path, headers, admitted)
        served = admitted and refusal is None and door.serve(client)
        if admitted and refusal is None and not served and path not in _AT_ONCE:
            refusal = PlainTextResponse("too many requests are being answered\n", 503, {"retry-after": "5"})

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = {"cache-control": "no-cache" if path.startswith("/static/") else "no-store", **HEADERS}
                added |= {} if admitted else {"connection": "close"}
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in added.items())]
            await send(message)

        try:
            await (refusal or app)(scope, receive, secured)
        finally:
            if served:
                door.done(client, time.monotonic())

    return guard


def _refusal(access: Access, method: str, path: str, headers: Headers, admitted: bool) -> Response | None:
    """The answer to a request that goes no further."""
    if not access.knows(headers.get("host", "")):
        return PlainTextResponse("this machine is not called that: use its address or its host name\n", 421)
    if method not in ("GET", "HEAD") and not is_ours(headers):
        return JSONResponse({"error": "only the dashboard's own page may set something"}, 403)
    if admitted or path in _OPEN or path in _LOGIN_FILES:
        return None
    if path == "/":
        return FileResponse(STATIC / "login.html", 401)
    return JSONResponse({"error": "log in first"}, 401)


class Server:
    """Serves from a thread of its own between ``start`` and ``close``. ``address``: what it really listens on."""

    def __init__(self, hub: Hub, access: Access, ask: Ask, host: str, port: int) -> None:
        """Raises PlanError if ``host:port`` cannot be had."""
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise PlanError(
                f"--http {host}:{port}: {error.strerror or error}; choose another port, or 0 for a free one"
            ) from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # for each reader, who inherits it
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._hub = hub
        door: Door[HttpConnection] = Door()
        self.door = door

        async def look() -> None:
            for line in door.overdue(time.monotonic()):
                line.transport.abort()

        config = uvicorn.Config(
            _bound(hub, Pages(hub, access, ask, door)), log_config=None, access_log=False, server_header=False, lifespan="on",
            http=type("DoorLine", (HttpConnection,), {"door": door}), callback_notify=look, timeout_notify=LOOK_S,
            backlog=BACKLOG, timeout_graceful_shutdown=1, ws="none", proxy_headers=False,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; readers of events are told."""
        self._hub.close()
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(4.0)
        self._socket.close()

    def _run(self) -> None:
        told = logging.getLogger("uvicorn.error")  # of every malformed request, with which anybody could fill the log
        told.setLevel(logging.ERROR)
        told.addFilter(_is_ours)
        asyncio.run(self._server.serve(sockets=[self._socket]))


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether an error is not that a client spoilt its request after the head, so that it can have no answer."""
    return not (record.exc_info and isinstance(record.exc_info[1], LocalProtocolError))


def _bound(hub: Hub, pages: Pages) -> ASGIApp:
    """The pages; when they come up, the running loop is the hub's."""
    inner = pages.app()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            hub.bind()
            asyncio.get_running_loop().set_exception_handler(_Trouble())
        await inner(scope, receive, send)

    return app


class _Trouble:
    """What the loop tells of: that no file is left for one more connection comes dozens of times a second, and is said once
    a minute."""

    def __init__(self) -> None:
        self._said_at = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() > self._said_at + TOLD_S:
            self._said_at = loop.time()
            _log.error("the dashboard accepts no connections: %s; raise the limit (ulimit -n, LimitNOFILE=)", error.strerror)
