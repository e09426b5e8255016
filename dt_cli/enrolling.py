"""`dt enroll` and `dt revoke`: who may be in a sealed cluster. They write the gateway's registry; a running gateway notices."""

import datetime
import time
from pathlib import Path

from gateway_agent import certificates
from gateway_agent.access import lan_address
from gateway_agent.registry import Members, Registry
from schemas import keyring
from schemas.errors import PlanError
from schemas.link import Address
from schemas.messages import is_name
from schemas.permission import Line
from schemas.state import state_folder

MAX_MINUTES = 7 * 24 * 60


def enroll(name: str | None, gateway: str | None, root: str, state: Path | None, minutes: float) -> None:
    """Print the line by which ``name``, or with None anybody new, may join within ``minutes``."""
    registry = _registry(state, root, name)
    now = time.time()
    address = _address(gateway, registry.read())
    permission, granted = registry.permit(name, now + 60 * minutes, now)
    print(Line(address, root, name or "", permission, granted.secret, _fingerprint(registry, address)))


def enroll_reader(name: str, root: str, state: Path | None) -> None:
    """Print user and password for a client that reads what the cluster says for people."""
    registry = _registry(state, root, name)
    if name in registry.read().nodes:
        raise PlanError(f"{name} is enrolled already: 'dt revoke {name}' first, or choose another name")
    node = registry.enroll(name, time.time(), reads=True)
    print(f"user {name}, password {keyring.password(bytes.fromhex(node.secret))}")


def list_members(root: str, state: Path | None) -> None:
    """Print who is enrolled and which permissions are open."""
    registry = _registry(state, root, None)
    members, now = registry.read(), time.time()
    for name, node in sorted(members.nodes.items()):
        print(f"{name}: {'reader' if node.reads else 'node'}, enrolled {_time(node.since)}")
    for permission in members.permissions.values():
        if now < permission.until and not (permission.used and permission.node):
            print(f"{permission.node or 'anybody new'}: may join until {_time(permission.until)}")
    if not members.nodes and not members.permissions:
        print(f"nobody is enrolled in {registry.folder}: 'dt enroll NAME' prints the line for a node")


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


def _fingerprint(registry: Registry, address: str) -> str:
    """Of the cluster's authority; a broker that is not ours is vouched for by the system's."""
    if "://" in address:
        return ""
    with registry.alone():
        now = datetime.datetime.now(datetime.timezone.utc)
        return certificates.fingerprint(certificates.authority(registry.folder, now))


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z")
