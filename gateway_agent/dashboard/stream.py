"""Server-sent events: what is new for one reader, as long as it takes them.

Each reader has its own place in the lists, so it gets every frame, event and line of the log once, as far as the lists
reach back. One that takes nothing for ``STALLED_S`` is let go; beyond ``READERS`` nobody else is let in.
"""

import asyncio
import json
from collections.abc import Iterable

from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from gateway_agent.dashboard.hub import Hub
from gateway_agent.dashboard.record import Entry, Snapshot

READERS = 16
PING_S = 5.0
STALLED_S = 20.0
RETRY_MS = 2000  # after which a browser that lost us tries again


def stream(hub: Hub) -> Response:
    """An endless answer, or 503 where too many read already."""
    if hub.readers >= READERS:
        return PlainTextResponse("too many readers\n", 503, {"retry-after": "5"})
    return _Stream(hub)


class _Stream(Response):
    media_type = "text/event-stream"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.background = None
        self.status_code = 200
        self.body = b""
        self.raw_headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._hub.readers += 1
        gone = asyncio.ensure_future(_gone(receive))
        told = asyncio.ensure_future(self._tell(send))
        try:
            await asyncio.wait((gone, told), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hub.readers -= 1
            for task in (gone, told):
                task.cancel()
            await asyncio.gather(gone, told, return_exceptions=True)

    async def _tell(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _send(send, f"retry: {RETRY_MS}\n\n")
        reader, number = Reader(), 0
        while not self._hub.closed:
            snapshot = await self._hub.after(number, PING_S)
            lines = self._hub.log.since(reader.line)
            if snapshot is None:
                await _send(send, event("ping", "{}") + reader.log(lines))
                continue
            number = snapshot.number
            await _send(send, reader.news(snapshot) + reader.log(lines))
        await _send(send, event("end", "{}"))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Reader:
    """What one reader has had so far."""

    def __init__(self) -> None:
        self.frame = self.event = self.plan = self.line = 0

    def news(self, snapshot: Snapshot) -> str:
        """What this reader has not seen of ``snapshot``; the plan first, for the rest is drawn on it."""
        said = ""
        if snapshot.plan.number != self.plan:
            self.plan = snapshot.plan.number
            said += event("plan", snapshot.plan.json)
        frames = [e for e in snapshot.frames if e.number > self.frame]
        events = [e for e in snapshot.events if e.number > self.event]
        self.frame, self.event = _last(frames, self.frame), _last(events, self.event)
        state = event("state", json.dumps(snapshot.state, separators=(",", ":")))
        return said + _list("frames", frames) + _list("events", events) + state

    def log(self, lines: list[Entry]) -> str:
        self.line = _last(lines, self.line)
        return _list("log", lines)


def event(name: str, data: str) -> str:
    """One event; ``data`` is JSON on one line."""
    return f"event: {name}\ndata: {data}\n\n"


def _list(name: str, entries: Iterable[Entry]) -> str:
    told = ",".join(entry.json for entry in entries)
    return event(name, f"[{told}]") if told else ""


def _last(entries: list[Entry], before: int) -> int:
    return entries[-1].number if entries else before


async def _send(send: Send, text: str) -> None:
    body = {"type": "http.response.body", "body": text.encode(), "more_body": True}
    await asyncio.wait_for(send(body), STALLED_S)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
