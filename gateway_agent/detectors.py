"""Edges that the gateway starts beside itself, each with a socket for Frigate's detectors as its source.

The law: such an edge is one like any other, with leases, seals and a window; this file only starts it, and again if it ends,
and ends it with the gateway.
"""

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlencode

from gateway_agent.access import Access
from schemas.contract.address import Address
from schemas.contract.config import GatewayOptions, is_loopback, parse_detectors, parse_listen
from schemas.contract.errors import DtError, PlanError
from schemas.host.packages import install
from schemas.host.process import STDIN_ENDS
from schemas.host.settings import without_ours
from schemas.host.state import state_folder

LOOK_S = 0.5
AGAIN_S, LONGEST_AGAIN_S = 2.0, 60.0  # after an end it starts again, ever later if it ends soon
TOKEN_S = 600.0
STOP_S = 8.0
WINDOW = 8  # clients whose frames are in flight at once; each has one
_log = logging.getLogger(__name__)


def sources(options: GatewayOptions) -> dict[str, str]:
    """The edges' names and the sources that ``--frigate`` asks for.

    Raises:
        PlanError: no pyzmq, or an endpoint that others than this machine reach.
    """
    if options.frigate is None:
        return {}
    if importlib.util.find_spec("zmq") is None:
        raise PlanError(f"--frigate needs pyzmq: {install('frigate')}")
    asked: dict[str, str | int] = {"timeout": round(options.frigate_timeout * 1000), "colour": options.frigate_colour}
    if options.models is not None:
        asked["models"] = str(options.models.absolute())
    found = {}
    for name, endpoint in parse_detectors(options.frigate).items():
        scheme, _, where = endpoint.partition("://")
        if scheme == "tcp" and not is_loopback(parse_listen(where)[0]):
            if not options.insecure:
                raise PlanError(
                    f"--frigate {endpoint}: beyond loopback it takes pictures from everybody, for Frigate's detector has no "
                    "keys: run 'dt edge --source frigate://127.0.0.1:5555' on Frigate's machine, or say --insecure"
                )
            asked["insecure"] = 1
        found[name] = f"frigate://{quote(where, safe='/:[]')}?{urlencode(asked)}"
    return found


class Detectors:
    """The processes, from ``with`` to its end; in a sealed cluster each joins by a join token. ``address`` is the broker's.

    ``choose`` is called, in a thread of its own, with a model that a client has sent and wants to run.
    """

    def __init__(
        self, options: GatewayOptions, sources: dict[str, str], address: Address, access: Access, choose: Callable[[Path], None]
    ) -> None:
        own = str(address) if address.tls else f"mqtt://{address}"
        self._options, self._sources, self._choose = options, sources, choose
        self._address = own if access.broker is not None else options.broker or own
        self._is_sealed, self._folder = access.guard.sealed, state_folder(options.state, options.root)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._again: dict[str, tuple[float, float]] = {}  # when to start it, and how long it waits the next time
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="detectors", daemon=True)

    def __enter__(self) -> "Detectors":
        if self._sources:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._sources:
            self._thread.join()
        for process in self._running.values():
            process.terminate()
        until = time.monotonic() + STOP_S
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(until - time.monotonic(), 0.1))
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            for name in self._sources:
                self._look(name, time.monotonic())
            self._stopped.wait(LOOK_S)

    def _look(self, name: str, now: float) -> None:
        process, (at, wait_s) = self._running.get(name), self._again.get(name, (now, AGAIN_S))
        if process is not None:
            code = process.poll()
            if code is None:
                return
            del self._running[name]
            at = now + wait_s
            self._again[name] = at, min(2 * wait_s, LONGEST_AGAIN_S)
            _log.error("%s ended with exit code %d: starting it again in %.0f s", name, code, wait_s)
        if now < at:
            return
        try:
            self._running[name] = self._start(name)
        except (DtError, OSError) as error:
            _log.error("%s does not start: %s", name, error)
            self._again[name] = now + wait_s, min(2 * wait_s, LONGEST_AGAIN_S)

    def _start(self, name: str) -> "subprocess.Popen[bytes]":
        folder = self._folder / name
        argv = ["edge", "--name", name, "--source", self._sources[name], "--root", self._options.root, "--state", str(folder)]
        argv += ["--window", str(WINDOW)]
        argv += ["--threads", str(self._options.threads)] if self._options.threads else []
        secrets = {"DT_EDGE_GATEWAY": self._address, **(self._join(name, folder) if self._is_sealed else {})}
        environment = {**without_ours(os.environ), **secrets, STDIN_ENDS: "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "dt_cli.main", *argv],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=environment,
        )  # fmt: skip
        threading.Thread(target=self._hear, args=(process,), name=name, daemon=True).start()
        return process

    def _hear(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout as said:
            for line in said:
                word, _, path = line.decode(errors="replace").rstrip("\n").partition(" ")
                if word == "model" and self._options.models and Path(path).parent == self._options.models.absolute():
                    self._choose(Path(path))

    def _join(self, name: str, folder: Path) -> dict[str, str]:
        """The token by which it joins, unless it has."""
        from gateway_agent.joining import join_token
        from gateway_agent.registry import Registry

        registry, now = Registry(self._folder), time.time()
        if name in registry.read().nodes:
            if (folder / f"edge-{name}.json").exists():
                return {}
            registry.revoke(name)  # whoever it was, its keys are lost
        return {"DT_EDGE_JOIN": str(join_token(registry, self._options.root, name, self._address, now + TOKEN_S, now))}


