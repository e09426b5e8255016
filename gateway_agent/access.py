"""Who reaches the cluster, and how: from the user's words to a broker, an address, and a guard.

It knows one rule: loopback needs nothing; every other address needs seals, passwords and TLS, or an explicit ``--insecure``.
"""

import datetime
import logging
import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from gateway_agent.broker import BrokerProcess
from gateway_agent.mosquitto import PACKET_BYTES, MosquittoProcess, Protection, installed
from schemas.contract.config import GatewayOptions, is_loopback, parse_listen
from schemas.contract.errors import CredentialError, DtError, PlanError
from schemas.contract.plan import Plan
from schemas.host.state import state_folder
from schemas.security.rights import GATEWAY
from schemas.wire.guard import OpenGuard
from schemas.wire.link import Address

if TYPE_CHECKING:  # a cluster that trusts its network needs no cryptography
    from gateway_agent.registry import Members, Registry

OTHERS_BYTES = 4 * 1024 * 1024  # chunks, headers, JPEGs
OWN = (None, "amqtt", "mosquitto", "auto")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """``broker``: to be started, if it is ours; ``address`` tells the link where it is then, and how to enter; ``home``
    tells it the line for Home Assistant, if that may be there, too."""

    broker: BrokerProcess | None
    address: Callable[[], Address]
    guard: OpenGuard = field(default_factory=OpenGuard)
    home: Callable[[], Address] | None = None


def packet_bytes(plan: Plan) -> int:
    """More than the largest message of a cluster with this plan: whole maps, outputs, or a picture for people."""
    groups = [block.cut for block in plan.blocks] + [block.inputs for block in plan.blocks] + [plan.outputs]
    largest = max(sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in group) for group in groups)
    return min(OTHERS_BYTES + len(plan.model_dump_json()) + largest, PACKET_BYTES)


def own_broker(name: str | None, host: str, port: int) -> BrokerProcess | None:
    """The broker to start at ``host:port`` by its ``name``: amqtt, mosquitto or auto; None if that is a URL.

    Without a name it is amqtt on loopback, and mosquitto, where that is installed, beyond.
    """
    if name is None and not is_loopback(host):
        name = "auto"
    if name == "mosquitto" or (name == "auto" and installed()):
        return MosquittoProcess(host, port)
    return BrokerProcess(host, port) if name in OWN else None


def arrange(options: GatewayOptions, largest: int = PACKET_BYTES) -> Access:
    """A cluster as the options say; its broker takes packets of ``largest`` bytes.

    Raises:
        PlanError: it would be open to a network, and nobody has said that it may.
    """
    host, port = parse_listen(options.listen)
    if options.sealed and options.insecure:
        raise PlanError("choose either --sealed or --insecure, not both")
    if options.broker not in OWN:
        return _foreign(options)
    if options.sealed or not (is_loopback(host) or options.insecure):
        return _sealed(options, host, port, largest)
    broker = own_broker(options.broker, host, port)
    assert broker is not None
    address = _plain(broker)
    if not is_loopback(host):
        _log.warning(
            "--insecure: whoever reaches %s may join, send frames, see every picture and result, and change the plan", host
        )
    return Access(broker, address, home=address)


def _plain(broker: BrokerProcess) -> Callable[[], Address]:
    return lambda: Address.parse(broker.url)


def _sealed(options: GatewayOptions, host: str, port: int, largest: int) -> Access:
    """Seals, and mosquitto with TLS, passwords and rules; on loopback amqtt will do, which has none of the three."""
    has_mosquitto = options.broker != "amqtt" and installed() is not None
    if not has_mosquitto and not is_loopback(host):
        raise PlanError(
            f"--listen {options.listen}: beyond loopback this takes mosquitto, for the embedded broker keeps nobody out: "
            "apt install mosquitto and leave --broker away, or say --insecure on a network that you trust"
        )
    from gateway_agent.gate import GatewayGuard
    from gateway_agent.registry import Registry

    registry = Registry(state_folder(options.state, options.root))
    if not has_mosquitto:
        broker = BrokerProcess(host, port)
        gate = GatewayGuard(registry, time.time, lambda _: None)
        return Access(broker, lambda: _listening(registry, broker, Address.parse(broker.url)), gate)
    return _protected(options, MosquittoProcess(host, port, packet_bytes=largest), registry)


def _protected(options: GatewayOptions, mosquitto: MosquittoProcess, registry: "Registry") -> Access:
    from gateway_agent import certificates, rules
    from gateway_agent.gate import GatewayGuard

    held: certificates.Certificates | None = None
    trouble = ""

    def certify() -> certificates.Certificates:
        """Those on the disk; once we have some, nothing that becomes of the disk takes them away, or the authority."""
        nonlocal held, trouble
        now = datetime.datetime.now(datetime.timezone.utc)
        try:
            with registry.alone():
                found = certificates.certificates(registry.folder, names(mosquitto.host), now)
            if held is not None and found.authority != held.authority:
                raise CredentialError(f"{registry.folder} holds another authority than the one nodes joined under: restore it")
            held, trouble = found, ""
        except (DtError, OSError) as error:
            if held is None:
                raise
            if str(error) != trouble:
                trouble = str(error)
                _log.error("%s; the broker keeps the certificate that it has", error)
        return held

    def protect(members: "Members") -> None:
        held = certify()
        passwords, access = rules.password_file(members), rules.access_file(options.root, members, options.ha_prefix)
        mosquitto.protect(Protection(passwords.encode(), access.encode(), held.chain, held.key))

    def enter(user: str) -> Address:
        password = rules.own_password(registry.read(), user)
        return replace(Address.parse(mosquitto.url), user=user, password=password, authority=certify().authority)

    return Access(
        mosquitto,
        lambda: _listening(registry, mosquitto, enter(GATEWAY)),
        GatewayGuard(registry, time.time, protect),
        lambda: enter(rules.HOME),
    )


def _foreign(options: GatewayOptions) -> Access:
    """A broker that is not ours: its own users and rules hold, and our seals if asked for, or if somebody is enrolled."""
    address = Address.parse(options.broker or "")
    if not options.insecure:
        from gateway_agent.registry import Registry

        folder = state_folder(options.state, options.root, make=options.sealed)
        registry = Registry(folder)
        if options.sealed or (registry.exists() and registry.read().nodes):
            from gateway_agent.gate import GatewayGuard

            return Access(None, lambda: address, GatewayGuard(registry, time.time, lambda _: None), lambda: address)
    return Access(None, lambda: address, home=lambda: address)


def _listening(registry: "Registry", broker: BrokerProcess, address: Address) -> Address:
    """Keep for 'dt enroll' where the broker listens."""
    at = f"[{broker.host}]:{broker.port}" if ":" in broker.host else f"{broker.host}:{broker.port}"
    registry.listens(at if address.tls else f"mqtt://{at}")
    return address


def names(host: str) -> list[str]:
    """What clients may call this machine when it listens on ``host``: names and addresses."""
    own = socket.gethostname()
    found = ["localhost", "127.0.0.1", *((own, f"{own}.local") if own.isascii() and own else ())]
    found.append(lan_address() if host in ("0.0.0.0", "::", "") else host)
    return sorted(set(found))


def lan_address() -> str:
    """This machine's address on the way to the network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        try:
            line.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(line.getsockname()[0])
