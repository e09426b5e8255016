"""`dt doctor`: takes the readings, and prints what ``dt_cli.checks`` make of them. It changes nothing."""

import contextlib
import ctypes
import json as jsonlib
import os
import queue
import shutil
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

import schemas
from dt_cli import checks, looking
from dt_cli.output import console, table
from dt_cli.view import GATEWAY
from edge_agent.entry import enter
from gateway_agent.mosquitto import installed
from schemas.contract import topics
from schemas.contract.config import ROOT, Settings, is_loopback, parse_listen
from schemas.contract.errors import DecodeError, DtError
from schemas.contract.messages import Message, PlanMessage, Status, StatusRequest, new_epoch
from schemas.host.discovery import Found, Search, reachable
from schemas.host.files import cache_folder
from schemas.host.packages import untested
from schemas.security.seal import bare
from schemas.wire.codec import decode
from schemas.wire.link import Address, Arrived, Connected, Disconnected, Link
from schemas.wire.readiness import MARK, Probe, Readiness, kinds

SEARCH_S, PLAN_S, PROOF_S = 2.0, 3.0, 30.0
_ADJTIMEX_ERROR = 5  # TIME_ERROR: the clock is not synchronised (adjtimex(2))


@dataclass
class Visit:
    """What was found at a gateway's broker. ``behind_s``: how far this machine's clock is behind the gateway's; ``readiness``:
    whether the broker carries what the plan needs, if this user may find out."""

    error: str = ""
    plan: PlanMessage | None = None
    behind_s: float | None = None
    readiness: Readiness | None = None
    straight: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of each edge, with whom it has a straight connection

    @property
    def over(self) -> bool:
        """Whether there is no more to hear."""
        proved = self.readiness is None or self.readiness.ready or bool(self.readiness.trouble)
        return self.plan is not None and self.behind_s is not None and proved

    def hear(self, message: Message) -> None:
        if isinstance(message, PlanMessage):
            self.plan = message
        elif isinstance(message, Status) and message.node != GATEWAY:
            self.straight[message.node] = message.straight
        elif isinstance(message, Status) and message.vitals.clock_s is not None:
            self.behind_s = message.vitals.clock_s - time.time()


def doctor(settings: Settings, json: bool) -> int:
    """Exit code 1 if something is broken."""
    findings = list(examine(settings, Path("/")))
    if json:
        print(jsonlib.dumps(checks.as_json(findings), indent=1, ensure_ascii=False))
        return checks.worst(findings)
    shown = table("", "check", "", "finding", "remedy", left=("check", "", "finding", "remedy"))
    style = {"good": "green", "note": "yellow", "bad": "red"}
    for finding in findings:
        shown.add_row(finding.check, Text(finding.level, style[finding.level]), finding.text, finding.remedy)
    console.print(shown)
    return checks.worst(findings)


def examine(settings: Settings, root: Path) -> Iterator[checks.Finding]:
    """Every finding; takes some seconds, for gateways are listened for."""
    yield checks.python(sys.version_info[:3], struct.calcsize("P") * 8)
    found, has_mdns = _gateways()
    address, cluster, refused, member = _entrance(settings, found)
    visit = _visit(address, cluster, member) if address else Visit(refused)
    yield checks.runtime(_kernels(), visit.plan.plan.runtime if visit.plan else None)
    yield checks.packages(untested())
    yield checks.memory(root)
    yield checks.memory_limits(root)
    yield checks.throttling(root)
    yield checks.cameras(root)
    yield checks.clock(_synchronised(), time.time(), Path(schemas.__file__).stat().st_mtime, visit.behind_s)
    yield checks.disk(*_cache(settings.edge.cache or cache_folder()))
    yield checks.mosquitto(installed())
    yield checks.port(settings.gateway.listen, _holder(settings.gateway.listen, found, address if visit.plan else None))
    yield checks.mdns(has_mdns, found)
    yield checks.gateway(str(address) if address else None, visit.error, visit.plan is not None)
    if visit.readiness is not None:
        yield checks.messages(visit.readiness.ready, visit.readiness.finding, visit.readiness.remedy)
    if len(visit.straight) > 1:
        yield checks.straight(visit.straight)
    if address and not visit.error and not is_loopback(address.host):
        yield checks.interface(root, *_way(address))


def _gateways() -> tuple[list[Found], bool]:
    """Those that answer by mDNS, and whether this machine can ask."""
    try:
        import zeroconf  # noqa: F401
    except ImportError:
        return [], False
    with contextlib.suppress(DtError), Search() as heard:
        time.sleep(SEARCH_S)
        return heard.found, True
    return [], True


def _entrance(settings: Settings, found: list[Found]) -> tuple[Address | None, str, str, bool]:
    """The gateway's broker, with what lets in the edge that joined from here, or this user; its cluster; or why nobody is; and
    whether it is an edge."""
    try:
        member = enter(settings.edge.model_copy(update={"join": None}))
        if member is not None:
            return member.address(settings.edge.gateway), member.root, "", True
        url, root = _address(settings, found)
        if url is None:
            return *(looking.login(settings) or (None, root)), "", False
        edge = settings.edge.model_copy(update={"gateway": url, "root": root})
        return *looking.enter(settings.model_copy(update={"edge": edge})), "", False
    except DtError as error:
        return None, ROOT, str(error), False


def _address(settings: Settings, found: list[Found]) -> tuple[str | None, str]:
    """The gateway that an edge here would join."""
    root = settings.edge.root
    if settings.edge.gateway:
        return settings.edge.gateway, root or ROOT
    heard = [f for f in found if root in (None, f.root)]
    if heard:
        return reachable(heard[0]), heard[0].root
    port = parse_listen(settings.gateway.listen)[1]
    if _answers("127.0.0.1", port):
        return f"mqtt://127.0.0.1:{port}", root or settings.gateway.root
    return None, root or ROOT


def _proved(readiness: Readiness, event: object) -> Sequence[Probe]:
    now = time.monotonic()
    if isinstance(event, Arrived):
        return readiness.came(event.topic, event.payload, now)
    if isinstance(event, Disconnected):
        readiness.lost(now)
    return readiness.connected(now) if isinstance(event, Connected) else []


def _visit(address: Address, root: str, member: bool = False) -> Visit:
    """Look at the gateway's broker: the plan that it keeps there, what it says of its machine when asked, and whether the
    messages of that plan come through. In a sealed cluster only a ``member`` may try that, under its name."""
    inbox: queue.Queue[object] = queue.Queue(64)
    visit, name = Visit(), f"doctor-{new_epoch()}"
    prover = (address.user if member else "") if address.authority else name
    try:
        with Link(address, root, name, inbox) as link:
            link.subscribe(topics.PLAN)
            link.subscribe(topics.STATUS, **({"node": GATEWAY} if member else {}))  # an edge may not read what others say
            link.connect(PLAN_S)
            link.publish(topics.STATUS_REQ, StatusRequest(node=name, epoch=new_epoch()))
            deadline = time.monotonic() + PLAN_S
            while not visit.over and (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty, DecodeError):
                    event = inbox.get(timeout=min(left, 0.5))
                    if isinstance(event, Arrived) and not event.payload.startswith(MARK):
                        visit.hear(decode(root, event.topic, bare(event.payload)).message)
                    elif visit.readiness is not None:
                        link.probe(_proved(visit.readiness, event))
                if visit.readiness is not None:
                    link.probe(visit.readiness.tick(time.monotonic()))
                elif visit.plan is not None and prover:
                    visit.readiness = Readiness(kinds(visit.plan.plan, root, prover), str(address))
                    link.probe(visit.readiness.connected(time.monotonic()))
                    deadline += PROOF_S
    except DtError as error:
        visit.error = str(error)
    return visit


def _kernels() -> str | None:
    try:
        from models.running.engine import kernels

        return kernels()
    except (DtError, ImportError):
        return None


def _synchronised() -> bool | None:
    """What the kernel says of its clock; asking changes nothing (modes = 0)."""
    with contextlib.suppress(OSError, AttributeError):
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
        return None if state < 0 else bool(state != _ADJTIMEX_ERROR)
    return None


def _cache(folder: Path) -> tuple[Path, int | None, bool]:
    there = next((p for p in (folder, *folder.parents) if os.path.exists(p)), folder)  # noqa: PTH110 - or is not ours to see
    try:
        return folder, shutil.disk_usage(there).free, os.access(there, os.W_OK)
    except OSError:
        return folder, None, False


def _holder(listen: str, found: list[Found], ours: Address | None) -> checks.Holder:
    """``ours``: a gateway that was visited."""
    host, port = parse_listen(listen)
    if ours and ours.port == port and is_loopback(ours.host):
        return "gateway"
    if not port or not _answers("127.0.0.1" if host in ("0.0.0.0", "::", "") else host, port):
        return "nobody"
    visit = _visit(Address("127.0.0.1", port), next((f.root for f in found if f.port == port), ROOT))
    return "gateway" if visit.plan else "other"


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 0.5):
        return True
    return False


def _way(address: Address) -> tuple[str | None, str | None]:
    """The interface by which packets to ``address`` leave, and its address. Nothing is sent."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as line:
            line.connect(target)
            own = str(line.getsockname()[0])
    except OSError:
        return None, None
    with contextlib.suppress(ImportError):
        import ifaddr

        for adapter in ifaddr.get_adapters():
            if any(own in (ip.ip, ip.ip[0]) for ip in adapter.ips):
                return adapter.nice_name, own
    return "the network", own
