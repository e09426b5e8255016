"""The embedded MQTT broker: amqtt, in a process of its own, because a busy Python thread beside it slows it eightfold.

It knows amqtt's private parts that must be bent, and keeps one law: the child never outlives its parent. Its stdin is a
pipe that only the parent holds; when that ends, however the parent died, the child ends. It trusts its network: anybody
may connect. An installed cluster uses mosquitto instead.
"""

import argparse
import asyncio
import errno
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from schemas.contract.errors import DtError
from schemas.host.packages import install

START_S = 10.0
STOP_S = 3.0
STREAM_BYTES = 1024 * 1024  # asyncio's default of 64 KiB stops and starts a reading socket 32 times for a 2 MB message


class BrokerProcess:
    """The parent's handle on one broker at ``host:port``; port 0 takes a free one. A context manager."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"mqtt://[{host}]:{self.port}" if ":" in host else f"mqtt://{host}:{self.port}"

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start the child; ``port`` is the one it listens on when this returns.

        Raises:
            DtError: it does not listen: the port is taken, the address is not ours, amqtt is missing.
        """
        room = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(p for p in (room, os.environ.get("PYTHONPATH", "")) if p)
        bind = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        self._child = subprocess.Popen(
            [sys.executable, "-m", "gateway_agent.broker", "--bind", bind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            said = json.loads(self._first_line() or b'{"error": "the broker process died at its start"}')
        except BaseException:
            self.stop()
            raise
        if "error" in said:
            self.stop()
            raise DtError(said["error"])
        self.port = said["port"]

    def allow(self, packet_bytes: int) -> None:
        """From now on so large packets may come; amqtt knows no limit."""

    def stop(self) -> None:
        """End the child and wait for it. Harmless when it is gone already."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None and child.stdout is not None
        child.stdin.close()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()

    def __enter__(self) -> "BrokerProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _first_line(self) -> bytes:
        """What the child says when it listens or gives up; empty if it died mute."""
        assert self._child is not None and self._child.stdout is not None
        said = b""
        deadline = time.monotonic() + START_S
        while not said.endswith(b"\n"):
            if not select.select([self._child.stdout], [], [], max(deadline - time.monotonic(), 0.0))[0]:
                raise DtError(f"the broker on {self.host}:{self.port} did not start within {START_S:g} s")
            more = os.read(self._child.stdout.fileno(), 4096)
            if not more:
                return b""
            said += more
        return said


# What follows runs in the child.


class _Quiet(bytes):
    """A payload that amqtt may print: it formats whole messages into debug lines, at any log level."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    __str__ = __repr__


def _embedded(config: dict[str, Any]) -> Any:
    """An amqtt broker without its three traps for us. Imports amqtt, which only a gateway has."""
    from amqtt.broker import Broker

    class EmbeddedBroker(Broker):  # type: ignore[misc]
        _sending: set[asyncio.Task[None]] = set()

        async def _create_server_instance(self, name: str, kind: Any, host: str, port: int, tls: Any) -> asyncio.Server:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self.stream_connected(reader, writer, listener_name=name)

            bare = (host or "").strip("[]") or None
            return await asyncio.start_server(serve, bare, port, limit=STREAM_BYTES, ssl=tls)

        async def _broadcast_message(self, session: Any, topic: Any, data: Any, force_qos: int | None = None) -> None:
            await super()._broadcast_message(session, topic, _Quiet(data or b""), force_qos)

        async def _publish_retained_messages_for_subscription(self, subscription: Any, session: Any) -> None:
            """Send retained messages beside the client's loop, and only to those who subscribed.

            amqtt sends every new client what *others* subscribed to (here: the model, for each filter), and does not
            read a client's messages until it has acknowledged the last retained one.
            """
            if any(subscriber is session for subscriber, _ in self._subscriptions.get(subscription[0], [])):
                task = asyncio.create_task(super()._publish_retained_messages_for_subscription(subscription, session))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)

    return EmbeddedBroker(config)


async def _serve(bind: str) -> int:
    """Listen on ``bind`` until stdin ends or SIGTERM comes. Says the port, or what is wrong, in one line of JSON."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    try:
        broker = _embedded(
            {
                "listeners": {"default": {"type": "tcp", "bind": bind}},
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
                # amqtt cancels a half-read packet when a client's keepalive passes: never let it be that punctual
                "timeout_disconnect_delay": 3600,
            }
        )
        await broker.start()
    except ImportError as error:
        return _say({"error": f"the embedded broker needs amqtt ({error}): {install('gateway')}"}, 1)
    except Exception as error:  # amqtt wraps the OSError; the parent gets one line whatever it was
        return _say({"error": explain(bind, error)}, 1)
    _say({"port": broker._servers["default"].instance.sockets[0].getsockname()[1]}, 0)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    await stop.wait()
    try:
        await asyncio.wait_for(broker.shutdown(), STOP_S / 2)
    except (Exception, asyncio.CancelledError):  # wait_closed() of Python 3.12 waits for clients; nothing to save here
        return 0
    return 0


def explain(bind: str, error: BaseException) -> str:
    """One line for a user: why nothing can listen on ``bind`` (HOST:PORT), and the remedy."""
    cause = error if isinstance(error, OSError) else error.__cause__
    code = getattr(cause, "errno", None)
    if code == errno.EADDRINUSE:
        return f"{bind} is taken by another program: choose another with --listen HOST:PORT (port 0 takes a free one)"
    why = os.strerror(code) if code and code > 0 else str(cause or error)
    return f"cannot listen on {bind}: {why}: choose another with --listen HOST:PORT"


def _end_with_stdin() -> None:
    """The parent is gone: free the port at once, for it may be restarting. Nothing here needs saving."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def _say(words: dict[str, Any], code: int) -> int:
    print(json.dumps(words), flush=True)
    return code


def main() -> None:
    """``python -m gateway_agent.broker --bind HOST:PORT``."""
    parser = argparse.ArgumentParser(prog="gateway_agent.broker", description="MQTT broker that ends with its stdin")
    parser.add_argument("--bind", required=True, metavar="HOST:PORT")
    bind = parser.parse_args().bind
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who closes our stdin
    logging.disable(logging.CRITICAL)
    code = asyncio.run(_serve(bind))
    sys.stdout.flush()
    os._exit(code)  # amqtt's client tasks swallow their cancellation


if __name__ == "__main__":
    main()
