"""`dt enroll` and `dt revoke`: who may be in a sealed cluster. They write the gateway's registry; a running gateway notices."""

import datetime
import time
from pathlib import Path

from gateway_agent import certificates
from gateway_agent.access import lan_address
from gateway_agent.joining import fingerprint, join_token
from gateway_agent.registry import Enrolled, Members, Registry
from schemas.contract.errors import PlanError
from schemas.contract.messages import is_name
from schemas.host.state import state_folder
from schemas.security import keyring
from schemas.security.permission import JoinToken
from schemas.wire.link import Address


def enroll(name: str | None, gateway: str | None, root: str, state: Path | None, minutes: float) -> None:
    """Print the line by which ``name``, or with None anybody new, may join within ``minutes``."""
    registry = _registry(state, root, name)
    now = time.time()
    address = _address(gateway, registry.read())
    print(join_token(registry, root, name, address, now + 60 * minutes, now))


def enroll_reader(name: str, gateway: str | None, root: str, state: Path | None) -> None:
    """Print the line by which ``name`` looks on, with `dt nodes` and `dt watch`."""
    registry = _registry(state, root, name)
    address = _guarded(gateway, registry)
    node = registry.enroll(name, time.time(), reads=True)
    print(JoinToken(address, root, name, node.serial, node.secret, fingerprint(registry, address), reads=True))


def enroll_home(name: str, gateway: str | None, root: str, state: Path | None) -> None:
    """Print what Home Assistant, or another program that sets controls, needs to be let in as ``name``."""
    registry = _registry(state, root, name)
    address = _guarded(gateway, registry)
    at, authority = Address.parse(address), registry.folder / certificates.AUTHORITY
    fingerprint(registry, address)  # makes the authority, if the gateway has not yet
    node = registry.enroll(name, time.time(), controls=True)
    print(
        "In Home Assistant: Settings, Devices & services, Add integration, MQTT; then start 'dt gateway' with --ha.\n"
        f"  Broker            {at.host}\n"
        f"  Port              {at.port}\n"
        f"  Username          {name}\n"
        f"  Password          {keyring.password(bytes.fromhex(node.secret))}\n"
        f"  Advanced options  Broker certificate validation: Custom; upload {authority.absolute()}"
    )


def list_members(root: str, state: Path | None) -> None:
    """Print who is enrolled and which permissions are open."""
    registry = _registry(state, root, None)
    members, now = registry.read(), time.time()
    for name, node in sorted(members.nodes.items()):
        print(f"{name}: {_kind(node)}, enrolled {_time(node.since)}")
    for permission in members.permissions.values():
        if now < permission.until and not (permission.used and permission.node):
            print(f"{permission.node or 'anybody new'}: may join until {_time(permission.until)}")
    if not members.nodes and not members.permissions:
        print(f"nobody is enrolled in {registry.folder}: 'dt enroll NAME' prints the line for a node")


def _kind(node: Enrolled) -> str:
    return "looks on and sets controls" if node.controls else "looks on" if node.reads else "node"


def revoke(name: str, root: str, state: Path | None) -> None:
    """Take a node's rights away."""
    _registry(state, root, name).revoke(name)
    print(f"{name} is revoked; a running gateway cuts it off within seconds")


def _registry(state: Path | None, root: str, name: str | None) -> Registry:
    for option, value in (("--root", root), ("NAME", name)):
        if value is not None and not is_name(value):
            raise PlanError(f"{option} {value!r}: use 1 to 64 letters, digits, _ and - only")
    return Registry(state_folder(state, root))


def _address(given: str | None, members: Members) -> str:
    """Where a new node finds the gateway: as given, or where the gateway listened last."""
    if given is not None:
        Address.parse(given)
        return given
    if not members.listen:
        raise PlanError("where will nodes find the gateway? give --gateway HOST:PORT, or start 'dt gateway' first")
    host, _, port = members.listen.rpartition(":")
    return f"{lan_address()}:{port}" if host in ("0.0.0.0", "[::]", "") else members.listen


def _guarded(given: str | None, registry: Registry) -> str:
    """The address for those who have a user of their own, on the gateway's own mosquitto."""
    address = _address(given, registry.read())
    if "://" in address:
        at = Address.parse(address)
        raise PlanError(f"{at} is no mosquitto of the gateway's, so this lets nobody in: see that broker's own users")
    return address


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z")
