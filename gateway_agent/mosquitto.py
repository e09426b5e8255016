"""The installed MQTT broker: the system's mosquitto, run by the gateway with a configuration of its own.

It knows what mosquitto must be told to keep what a cluster publishes. It keeps the law of ``gateway_agent.broker``: the
child never outlives its parent. mosquitto watches no pipe, so ``gateway_agent.tether`` has the kernel kill it when its
parent ends and then becomes mosquitto: no watcher stays, and no code of ours runs between fork and exec of a parent with
threads. The configuration lives in memory only, and so do passwords, rules and keys; there is no file to leave behind.
Under root it runs as the user ``mosquitto`` or ``nobody``, unless it is to listen below port 1024, which takes root.
"""

import contextlib
import errno
import logging
import os
import pwd
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from gateway_agent import tether
from gateway_agent.broker import START_S, BrokerProcess, explain
from schemas.contract.errors import DtError
from schemas.wire.codec import TENSOR_BYTES

TRIES = 5  # a free port may be taken by another program before mosquitto has it
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # where packages put it, on few users' PATH
PACKET_BYTES = TENSOR_BYTES + 1024 * 1024  # header and topic included; the sender of a larger one is disconnected
QUEUE_BYTES = 256 * 1024 * 1024
TURNS = 8  # so many times mosquitto may be told to read anew before it has read once
_CONF, _IN_TURNS = "configuration", ("passwords", "rules")
_TAKEN = "Address already in use"
_log = logging.getLogger(__name__)

# Retained messages count in a new subscriber's queue, and what exceeds it is dropped after its acknowledgement: the limits
# hold Home Assistant's entities of many nodes, and tensors of a frame. All copies of one message share its bytes.
_CONFIGURATION = f"""\
persistence false
max_inflight_messages 64
max_queued_messages 8192
max_queued_bytes {QUEUE_BYTES}
max_packet_size {{packet_bytes}}
set_tcp_nodelay true
sys_interval 0
log_dest stderr
log_timestamp false
log_type error
log_type warning
log_type notice
log_type information
listener {{port}} {{host}}
"""
_OPEN = "allow_anonymous true\nconnection_messages false\n"
# The server's order decides. Without AES instructions (Pi 3 and 4) ChaCha20 is four times as fast as AES-GCM (836 against 184
# MB/s on x86-64 with those masked), with them about as fast; and of a cluster the slowest must keep up.
# With connection_messages false, 2.0.11 leaves a failed handshake's error in OpenSSL's queue, where the next client's reading
# finds it: whoever sends garbage would end another's connection. Nobody takes another's over, for client ids are random.
_PROTECTED = """\
allow_anonymous false
connection_messages true
password_file {passwords}
acl_file {rules}
certfile {chain}
keyfile {key}
ciphers_tls1.3 TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384
"""


@dataclass(frozen=True)
class Protection:
    """What a sealed cluster's broker needs besides: users, rules, and its certificate; files' contents, all."""

    passwords: bytes
    rules: bytes
    chain: bytes
    key: bytes

    @property
    def files(self) -> Mapping[str, bytes]:
        return {"passwords": self.passwords, "rules": self.rules, "chain": self.chain, "key": self.key}


def installed() -> str | None:
    """Path of the mosquitto program, from PATH or where packages put it; None where it is missing."""
    return shutil.which("mosquitto", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN)))


def configuration(
    host: str, port: int, root: bool, packet_bytes: int = PACKET_BYTES, files: Mapping[str, str] | None = None
) -> str:
    """What mosquitto is told. ``root``: it is to stay root; ``files``: the paths of its ``Protection``, if it has one."""
    settings = _CONFIGURATION.format(host=host, port=port, packet_bytes=packet_bytes)
    return settings + (_PROTECTED.format(**files) if files else _OPEN) + ("user root\n" if root else "")


class MosquittoProcess(BrokerProcess):
    """The parent's handle on one mosquitto at ``host:port``; port 0 takes a free one. A context manager.

    Linux only. The kernel ends the child with the *thread* that called ``start``: call it from the main thread.
    With ``protection`` only its users get in, by TLS. A packet of more than ``packet_bytes`` ends its sender's connection.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        protection: Protection | None = None,
        packet_bytes: int = PACKET_BYTES,
    ) -> None:
        super().__init__(host, port)
        self._protection, self._packet_bytes = protection, packet_bytes
        self._files: dict[str, int] = {}
        self._turn = 0

    @property
    def url(self) -> str:
        return super().url.replace("mqtt:", "mqtts:") if self._protection else super().url

    def protect(self, protection: Protection) -> None:
        """Other users, rules or certificates from now on; who is no longer a user is disconnected."""
        self._protection = protection
        self._reload()

    def allow(self, packet_bytes: int) -> None:
        if packet_bytes != self._packet_bytes:
            self._packet_bytes = packet_bytes
            self._reload()

    def _reload(self) -> None:
        """Have the child read everything anew. It may still be reading what it was given before: that stays as it is."""
        if self._child is not None:
            self._turn += 1
            self._fill(self.port)
            self._child.send_signal(signal.SIGHUP)

    def _fill(self, port: int) -> None:
        """Users and rules into the oldest files, then a configuration that names them; certificates if they are new."""
        held = self._protection.files if self._protection else {}
        names = {name: f"{name}-{self._turn % TURNS}" if name in _IN_TURNS else name for name in held}
        paths = {name: f"/proc/self/fd/{self._files[names[name]]}" for name in held}
        stays_root = os.geteuid() == 0 and _lesser_user(port) is None
        told = configuration(self.host, port, stays_root, self._packet_bytes, paths)
        contents = {names[name]: data for name, data in held.items()}
        contents[_CONF] = told.ljust(4096, "\n").encode()  # as one page, at once
        for name, data in contents.items():
            handle = self._files[name]
            if os.pread(handle, len(data) + 1, 0) != data:
                os.pwrite(handle, data, 0)
                os.ftruncate(handle, len(data))

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
        for handle in self._files.values():
            os.close(handle)
        self._files = {}

    def _try(self, program: str, port: int) -> str:
        """Start it once on ``port``: empty if it listens, otherwise what it complained of."""
        user = _lesser_user(port)
        held = self._protection.files if self._protection else {}
        turns = [f"{name}-{turn}" for name in _IN_TURNS for turn in range(TURNS)]
        self._files = {name: _memory(user) for name in (_CONF, *held, *turns)}
        self._fill(port)
        who = f"{user.pw_uid}:{user.pw_gid}" if user else "-"
        tethered = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), who]
        self._child = subprocess.Popen(
            [*tethered, program, "-c", f"/proc/self/fd/{self._files[_CONF]}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=list(self._files.values()),
            start_new_session=True,
        )
        assert self._child.stderr is not None
        said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_listen, args=(self._child.stderr, said), daemon=True).start()
        trouble = _first_trouble(said)
        if trouble:
            self.stop()
        return trouble


def _lesser_user(port: int) -> pwd.struct_passwd | None:
    """Whom root lets mosquitto be; None: ourselves."""
    if os.geteuid() != 0 or 0 < port < 1024:
        return None
    for name in ("mosquitto", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def _memory(user: pwd.struct_passwd | None) -> int:
    """A file without a name, which only ``user`` can open."""
    handle = os.memfd_create("mosquitto")
    os.fchmod(handle, 0o600)
    if user is not None:
        os.fchown(handle, user.pw_uid, user.pw_gid)
    return handle


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
