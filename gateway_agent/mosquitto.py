"""The installed MQTT broker: the system's mosquitto, run by the gateway with a configuration of its own.

It knows what mosquitto must be told to keep what a cluster publishes. It keeps the law of ``gateway_agent.broker``: the
child never outlives its parent. mosquitto watches no pipe, so ``gateway_agent.tether`` has the kernel kill it when its
parent ends and then becomes mosquitto: no watcher stays, and no code of ours runs between fork and exec of a parent with
threads. The configuration lives in memory only; there is no file to leave behind.
"""

import errno
import logging
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from typing import IO

from gateway_agent import tether
from gateway_agent.broker import START_S, BrokerProcess, explain
from schemas.codec import TENSOR_BYTES
from schemas.errors import DtError

TRIES = 5  # a free port may be taken by another program before mosquitto has it
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # where packages put it, on few users' PATH
PACKET_BYTES = TENSOR_BYTES + 1024 * 1024  # header and topic included; the sender of a larger one is disconnected
QUEUE_BYTES = 1024 * 1024 * 1024
_TAKEN = "Address already in use"
_log = logging.getLogger(__name__)

# Retained messages count in a new subscriber's queue, and what exceeds it is dropped after its acknowledgement: the limits
# hold a model of 1 GiB in chunks of 512 KiB. All copies of one message share its bytes.
_CONFIGURATION = f"""\
listener {{port}} {{host}}
allow_anonymous true
persistence false
max_inflight_messages 64
max_queued_messages 8192
max_queued_bytes {QUEUE_BYTES}
max_packet_size {PACKET_BYTES}
set_tcp_nodelay true
sys_interval 0
connection_messages false
log_dest stderr
log_timestamp false
log_type error
log_type warning
log_type notice
log_type information
"""


def installed() -> str | None:
    """Path of the mosquitto program, from PATH or where packages put it; None where it is missing."""
    return shutil.which("mosquitto", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN)))


def configuration(host: str, port: int, root: bool) -> str:
    """What mosquitto is told. ``root``: whether it runs as root; it must stay so, since a change of user ends the law."""
    return _CONFIGURATION.format(host=host, port=port) + ("user root\n" if root else "")


class MosquittoProcess(BrokerProcess):
    """The parent's handle on one mosquitto at ``host:port``; port 0 takes a free one. A context manager.

    Linux only. The kernel ends the child with the *thread* that called ``start``: call it from the main thread.
    """

    def start(self) -> None:
        """Start mosquitto; ``port`` is the one it listens on when this returns. After its death: at the same port.

        Raises:
            DtError: it does not listen: the port is taken, the address is not ours, mosquitto is missing or too old.
        """
        program = installed()
        if program is None:
            raise DtError("mosquitto is not installed: apt install mosquitto, or use the embedded one: --broker amqtt")
        self.stop()
        for left in reversed(range(TRIES if self.port == 0 else 1)):
            port = _bindable(self.host, self.port)
            trouble = self._try(program, port)
            if not trouble:
                self.port = port
                return
            if not left or _TAKEN not in trouble:
                break
        if _TAKEN in trouble:
            raise DtError(explain(_bind(self.host, port), OSError(errno.EADDRINUSE, _TAKEN)))
        raise DtError(
            f"mosquitto on {_bind(self.host, port)} did not start: {trouble}: see --listen, or --broker amqtt"
        )

    def stop(self) -> None:
        """End the child, which has nothing to save, and wait for it. Harmless when it is gone already."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()  # mosquitto forgets a SIGTERM that comes just before its loop
            child.wait()

    def _try(self, program: str, port: int) -> str:
        """Start it once on ``port``: empty if it listens, otherwise what it complained of."""
        memory = os.memfd_create("mosquitto.conf")
        try:
            os.write(memory, configuration(self.host, port, os.geteuid() == 0).encode())
            tethered = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid())]
            self._child = subprocess.Popen(
                [*tethered, program, "-c", f"/proc/self/fd/{memory}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[memory],
                start_new_session=True,
            )
        finally:
            os.close(memory)
        assert self._child.stderr is not None
        said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_listen, args=(self._child.stderr, said), daemon=True).start()
        trouble = _first_trouble(said)
        if trouble:
            self.stop()
        return trouble


def _bindable(host: str, port: int) -> int:
    """The port, or a free one for 0, after a trial that tells what is wrong better than mosquitto does."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen()  # with SO_REUSEADDR, two may bind and one may listen
            return int(trial.getsockname()[1])
    except OSError as error:
        raise DtError(explain(_bind(host, port), error)) from None


def _bind(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(stderr: IO[bytes], said: "queue.Queue[str]") -> None:
    """mosquitto's words, for whoever starts it and, if they are warnings, for the log. Ends with the child."""
    running = False
    with stderr:
        for raw in stderr:
            line = raw.decode(errors="replace").strip()
            if not running:
                said.put(line)
                running = line.endswith(" running")
            elif line.startswith(("Error", "Warning")) or "being dropped" in line:
                _log.warning("mosquitto: %s", line)
    said.put("")


def _first_trouble(said: "queue.Queue[str]") -> str:
    """Empty once it says that it runs; otherwise its last error."""
    trouble, deadline = "", time.monotonic() + START_S
    while True:
        try:
            line = said.get(timeout=max(deadline - time.monotonic(), 0.0))
        except queue.Empty:
            return trouble or f"it was silent for {START_S:g} s"
        if line.endswith(" running"):
            return ""
        if not line:
            return trouble or "it died without a word"
        if "Error" in line:
            trouble = line.removeprefix("Error: ")
