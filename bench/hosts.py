"""Emulated hosts on one Linux machine: network namespaces on a bridge, bandwidth by token bucket, CPU by CFS quota.

Every host has one address, one rate up and down and, where asked for, a share of a core and a limit of memory. It needs
root, iproute2 and control groups (version 1 or 2), and leaves nothing behind: processes, namespaces, links and groups end
with the context. Keep the sum of shares below about 60 % of the machine's cores, or hosts steal each other's time.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.groups import Group, version
from schemas.contract.errors import DtError, PlanError
from schemas.host.settings import without_ours

NAMESPACES = Path("/var/run/netns")
BUCKET_KB = 16
NOBODY = "02:00:00:00:00:01"  # a hardware address that no host has
# Segments that a bucket holds. Of larger ones the kernel makes packets, for which hosts pay with processor time what
# network cards do for nothing: 11 ms a MB of the sender at 1 Gbit/s, 20 of the receiver at 60 Mbit/s, against 1 and 7.
SEGMENT_BYTES = 15_000
ONE_CORE = {"DT_EDGE_THREADS": "1", "DT_GATEWAY_THREADS": "1"}  # a host has a share of one
_CLONE_NEWNET = 0x40000000


def measured(name: str, measure: Callable[[Path], dict[str, Any]], lines: Path | None) -> dict[str, Any]:
    """What ``measure`` tells, given a temporary folder; with ``lines``, appended to that file as a line of JSON.

    Ends the program where hosts cannot be emulated, and with a line and its status where one of our errors ends the run.
    """
    end_once()
    if reason := missing():
        print(f"skipped: {reason}")
        raise SystemExit(0)
    try:
        with tempfile.TemporaryDirectory(prefix="dt-bench-") as folder:
            told = measure(Path(folder))
    except DtError as error:
        print(f"bench.{name}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    if lines:
        with lines.open("a") as file:
            file.write(json.dumps(told) + "\n")
    return told


def missing() -> str:
    """Why emulated hosts cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "it needs root"
    if not shutil.which("ip") or not shutil.which("tc"):
        return "it needs ip and tc (Debian: apt install iproute2)"
    if not version():
        return "it needs control groups with the controllers cpu and memory"
    return ""


def end_once() -> None:
    """SIGTERM or Ctrl-C ends this program with all that it has started; a second one, as ``timeout`` sends, changes nothing."""

    def end(number: int, _: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(143)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)


class Hosts:
    """A context manager; ``cores`` maps each host's name to its share of a core (None: no limit), ``memory`` to its bytes.

    ``radio``: one channel of ``rate_mbit`` for all, which each packet crosses twice, to the access point and from it. See
    ``end_once``.
    """

    def __init__(
        self, cores: Mapping[str, float | None], rate_mbit: float, memory: Mapping[str, int] | None = None, radio: bool = False
    ) -> None:
        self._cores, self._rate, self._memory, self._is_radio = cores, rate_mbit, memory or {}, radio
        self._prefix = f"dt{os.getpid() % 100_000}"
        self._names = list(cores)
        self._groups = {name: Group(self._namespace(name)) for name in cores}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self) -> "Hosts":
        reason = missing()
        if reason:
            raise PlanError(f"emulated hosts cannot be made: {reason}")
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for name in self._names:
            self._groups[name].remove()
            _run("ip", "link", "del", self._veth(name), check=False)
            _run("ip", "netns", "del", self._namespace(name), check=False)
        for link in (self._bridge, self._air):
            _run("ip", "link", "del", link, check=False)

    @property
    def _bridge(self) -> str:
        return self._prefix + "br"

    @property
    def _air(self) -> str:
        return self._prefix + "air"

    def address(self, name: str) -> str:
        return f"10.77.0.{1 + self._names.index(name)}"

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}_{name}"

    def _veth(self, name: str) -> str:
        return f"{self._prefix}{name}"[:15]

    def _make(self) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge", "forward_delay", "0")
        _run("ip", "link", "set", self._bridge, "up")
        if self._is_radio:
            _run("ip", "link", "add", self._air, "type", "ifb")
            _run("ip", "link", "set", self._air, "up")
            _run("tc", "qdisc", "add", "dev", self._air, *_bucket(self._rate / 2))
        for name in self._names:
            space, veth = self._namespace(name), self._veth(name)
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "link", "set", veth, "master", self._bridge, "up")
            _run("ip", "-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            _run("ip", "-n", space, "link", "set", "eth0", "gso_max_size", str(SEGMENT_BYTES))
            for device in ("eth0", "lo"):
                _run("ip", "-n", space, "link", "set", device, "up")
            if self._cores[name] is not None:  # an unlimited host only watches
                bucket = _bucket(self._rate)
                _run("tc", "-n", space, "qdisc", "add", "dev", "eth0", *bucket)
                _run("tc", "qdisc", "add", "dev", veth, *bucket)
                if self._is_radio:
                    _run("tc", "qdisc", "add", "dev", veth, "clsact")
                    _run("tc", "filter", "add", "dev", veth, "ingress", "protocol", "all", "u32", "match", "u32",
                         "0", "0", "action", "mirred", "egress", "redirect", "dev", self._air)  # fmt: skip
            self._groups[name].make()
            if name in self._memory:
                self._groups[name].hold(self._memory[name])

    def limit(self, names: Iterable[str]) -> None:
        """Put the CPU shares of these in force; processes start without."""
        for name in names:
            if (cores := self._cores[name]) is not None:
                self.share(name, cores)

    def port(self, wanted: int) -> int:
        """Every host has all ports."""
        return wanted

    def plug(self, name: str, up: bool) -> None:
        """The host's cable in or out."""
        _run("ip", "link", "set", self._veth(name), "up" if up else "down")

    def part(self, name: str, other: str, apart: bool) -> None:
        """What a host sends another is lost from now on, or no longer; both hear everybody else."""
        near = ("ip", "-n", self._namespace(name), "neigh")
        if apart:
            _run(*near, "replace", self.address(other), "lladdr", NOBODY, "nud", "permanent", "dev", "eth0")
        else:
            _run(*near, "del", self.address(other), "dev", "eth0", check=False)

    def rate(self, name: str, mbit: float) -> None:
        """Another bandwidth, up and down."""
        bucket = _bucket(mbit)
        _run("tc", "-n", self._namespace(name), "qdisc", "replace", "dev", "eth0", *bucket)
        _run("tc", "qdisc", "replace", "dev", self._veth(name), *bucket)

    def share(self, name: str, cores: float | None) -> None:
        """Another share of a core; None: no limit."""
        self._groups[name].share(cores)

    def spawn(self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Start a process on a host; what it prints goes to ``log``."""
        space = os.open(NAMESPACES / self._namespace(name), os.O_RDONLY)
        groups = self._groups[name].entries

        def enter() -> None:
            if self._libc.setns(space, _CLONE_NEWNET):
                os._exit(111)
            for group in groups:
                group.write_text(str(os.getpid()))

        with log.open("wb") as sink:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**without_ours(os.environ), **env},
                start_new_session=True,
                preexec_fn=enter,
            )
        os.close(space)
        self._processes.append(process)
        return process

    def end(self, process: "subprocess.Popen[bytes]", timeout_s: float = 10.0) -> None:
        """Ask one process to end, and see that it does."""
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
        process.kill()
        process.wait()

    def sent_bytes(self) -> dict[str, int]:
        """Bytes that each host has put on the wire, packet headers included."""
        return {n: _number(Path(f"/sys/class/net/{self._veth(n)}/statistics/rx_bytes")) for n in self._names}

    def cpu_s(self) -> dict[str, float]:
        return {name: group.cpu_s() for name, group in self._groups.items()}

    def peak_bytes(self) -> dict[str, int]:
        """Peak memory of each host, page cache included."""
        return {name: group.peak_bytes() for name, group in self._groups.items()}


def _bucket(mbit: float) -> tuple[str, ...]:
    return ("root", "tbf", "rate", f"{mbit:g}mbit", "burst", f"{BUCKET_KB}kb", "latency", "100ms")


def _number(path: Path) -> int:
    return int(path.read_text())


def _run(*argv: str, check: bool = True) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if check and done.returncode:
        raise PlanError(f"{' '.join(argv)}: {done.stdout.strip()}")
