"""The same as ``bench.hosts`` for those who may not make hosts: all processes on this machine's loopback, no limits."""

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from schemas.host.settings import without_ours


class Loopback:
    """A context manager. Links and cores cannot be touched here."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Loopback":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def address(self, name: str) -> str:
        return "127.0.0.1"

    def port(self, wanted: int) -> int:
        """One that is free."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            return int(probe.getsockname()[1])

    def spawn(self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Start a process; what it prints goes to ``log``."""
        with log.open("wb") as sink:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                env={**without_ours(os.environ), **env}, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def plug(self, name: str, up: bool) -> None:
        raise NotImplementedError

    def part(self, name: str, other: str, apart: bool) -> None:
        raise NotImplementedError

    def rate(self, name: str, mbit: float) -> None:
        raise NotImplementedError

    def share(self, name: str, cores: float | None) -> None:
        raise NotImplementedError
