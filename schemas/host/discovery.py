"""How an edge finds a gateway that nobody named: by mDNS, as ``_deepthings._tcp`` (RFC 6763).

The gateway announces its cluster's root, its broker's port and whether that wants TLS. One law: what is heard is a hint.
It joins no cluster by itself when there are several, and an address that the user gives always wins. zeroconf is an
extra, imported when it is needed.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.contract.errors import DtError, PlanError
from schemas.contract.messages import as_name, is_name
from schemas.host.packages import install

SERVICE = "_deepthings._tcp.local."
SEARCH_S = 5.0
SETTLE_S = 1.0  # after the first answer, for others to be heard
PROBE_S = 1.0


@dataclass(frozen=True)
class Found:
    """A gateway that was heard: its cluster's root and the addresses of its broker, the likeliest first."""

    root: str
    hosts: tuple[str, ...]
    port: int
    tls: bool = False

    @property
    def urls(self) -> tuple[str, ...]:
        scheme = "mqtts" if self.tls else "mqtt"
        return tuple(f"{scheme}://[{h}]:{self.port}" if ":" in h else f"{scheme}://{h}:{self.port}" for h in self.hosts)


def choose(found: Sequence[Found], root: str | None) -> Found | None:
    """The gateway to join: the one of cluster ``root``, or the only one; None if it was not heard.

    Raises:
        PlanError: there are several to choose from.
    """
    wanted = sorted((f for f in found if root in (None, f.root)), key=lambda f: (f.root, f.urls))
    if len(wanted) > 1:
        roots = {f.root for f in wanted}
        heard = ", ".join(f"{f.root} at {f.urls[0]}" for f in wanted)
        how = f"choose one with --root ({', '.join(sorted(roots))})" if len(roots) == len(wanted) else "name its address"
        raise PlanError(f"several gateways answer: {heard}: {how} or with --gateway HOST:PORT")
    return wanted[0] if wanted else None


def reachable(found: Found, timeout_s: float = PROBE_S) -> str:
    """The first of its addresses that takes a connection; its first one if none does."""
    for url, host in zip(found.urls, found.hosts):
        with contextlib.suppress(OSError), socket.create_connection((host, found.port), timeout_s):
            return url
    return found.urls[0]


class Search:
    """Listens for gateways until it is closed. A context manager."""

    def __init__(self, interfaces: Sequence[str] | None = None) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, Found] = {}
        self._zeroconf = _zeroconf(interfaces)

    @property
    def found(self) -> list[Found]:
        """Everyone heard so far who is still there."""
        with self._lock:
            return list(self._found.values())

    def __enter__(self) -> "Search":
        from zeroconf import ServiceBrowser

        ServiceBrowser(self._zeroconf, SERVICE, listener=self)  # type: ignore[arg-type]
        return self

    def __exit__(self, *_: object) -> None:
        self._zeroconf.close()

    # What follows runs on zeroconf's thread.

    def add_service(self, zeroconf: Any, kind: str, name: str) -> None:
        from zeroconf import IPVersion

        info = zeroconf.get_service_info(kind, name, 3000)
        if info is None or not info.port:
            return
        told = {k.decode(errors="replace"): (v or b"").decode(errors="replace") for k, v in info.properties.items()}
        hosts = tuple(info.parsed_addresses(IPVersion.V4Only) + info.parsed_scoped_addresses(IPVersion.V6Only))
        if hosts and is_name(told.get("root", "")):
            with self._lock:
                self._found[name] = Found(told["root"], hosts, info.port, told.get("tls") == "1")

    update_service = add_service

    def remove_service(self, zeroconf: Any, kind: str, name: str) -> None:
        with self._lock:
            self._found.pop(name, None)


def search(root: str | None, timeout_s: float = SEARCH_S, go_on: Callable[[], bool] = lambda: True) -> Found | None:
    """The gateway to join, after at most ``timeout_s``; ``go_on`` is asked ten times a second whether to look on.

    Raises:
        DtError: this machine has no network.
        PlanError: zeroconf is missing, or several gateways answer.
    """
    with Search() as heard:
        start, since = time.monotonic(), None
        while go_on() and time.monotonic() < start + timeout_s:
            if since is None and any(root in (None, found.root) for found in heard.found):
                since = time.monotonic()
            if since is not None and time.monotonic() >= since + SETTLE_S:
                break
            time.sleep(0.1)
        return choose(heard.found, root)


@contextlib.contextmanager
def announced(
    root: str, host: str, port: int, tls: bool = False, interfaces: Sequence[str] | None = None
) -> Iterator[None]:
    """This gateway can be found while the context is open; ``host``: where the broker listens, a wildcard is any.

    Raises:
        DtError: zeroconf is missing, or this machine has no network.
    """
    zeroconf = _zeroconf(interfaces)
    try:
        from zeroconf import ServiceInfo

        machine = as_name(socket.gethostname())
        info = ServiceInfo(
            SERVICE, f"{root} on {machine}.{SERVICE}", port=port, server=f"{machine}.local.",
            parsed_addresses=addresses(host), properties={"root": root, "tls": "1" if tls else "0"},
        )  # fmt: skip
        zeroconf.register_service(info, allow_name_change=True)
        yield
    finally:
        zeroconf.close()  # says good-bye


def addresses(host: str) -> list[str]:
    """What others may dial to reach a broker that listens on ``host``: never loopback."""
    import ifaddr

    if host not in ("0.0.0.0", "::", ""):
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    own = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
    return [str(ip) for ip in own if not str(ip).startswith("127.")]


def _zeroconf(interfaces: Sequence[str] | None) -> Any:
    try:
        from zeroconf import InterfaceChoice, Zeroconf
    except ImportError:
        raise PlanError(f"mDNS needs zeroconf: {install('mdns')}, or name the address") from None
    try:
        return Zeroconf(interfaces=list(interfaces) if interfaces else InterfaceChoice.All)
    except OSError as error:
        raise DtError(f"mDNS: this machine has no network to ask: {error.strerror or error}") from error
