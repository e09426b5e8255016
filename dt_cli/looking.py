"""Where a cluster is for those who only look on, and how they get in: `dt nodes`, `dt watch`, `dt doctor`.

A sealed cluster on the gateway's own mosquitto lets in who has a line of 'dt enroll NAME --reader', given once and then
kept, and who can read the gateway's state folder. Law: no password is said to a broker under another authority.
"""

import contextlib
import socket
import ssl
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from schemas.contract.config import ROOT, Settings, parse_listen
from schemas.contract.errors import CredentialError, UnreachableError
from schemas.host import state
from schemas.host.discovery import reachable, search
from schemas.security.permission import JoinToken
from schemas.wire.link import Address

KEPT = "looker.json"
PROBE_S = 3.0
_NEAR = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # where to find on this machine what listens everywhere
_HOW = (
    "on the gateway's machine name its state folder, as its user: --state DIR; elsewhere give once the line that "
    "'dt enroll NAME --reader' prints there: --join LINE"
)


def enter(settings: Settings) -> tuple[Address, str]:
    """The broker's address, with what lets this user in, and the cluster's root: as configured, of this machine, or found
    by mDNS.

    Raises:
        UnreachableError: there is none.
        CredentialError: it is sealed, and nothing here lets this user in.
    """
    given = settings.edge.gateway
    if given and Address.parse(given).user is not None:
        return Address.parse(given), settings.edge.root or ROOT
    own = login(settings)
    if own is not None and speaks_tls(own[0]):
        return own
    url, root = (given, settings.edge.root or ROOT) if given else _here(settings)
    if not url and own is not None:
        return own  # nobody is there: whoever connects says so
    if not url:
        url, root = _found(settings.edge.root)
    at = Address.parse(url)
    if not (given and at.tls) and speaks_tls(at):
        if own is None:
            raise CredentialError(f"the cluster at {at} is sealed: {_HOW}")
        return replace(own[0], host=at.host, port=at.port), own[1]
    return at, root


def speaks_tls(address: Address) -> bool:
    """Whether who listens there speaks TLS; nothing is said on this connection."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.suppress(OSError),
        socket.create_connection((address.host, address.port), PROBE_S) as raw,
        context.wrap_socket(raw),
    ):
        return True
    return False


def _here(settings: Settings) -> tuple[str, str]:
    """The broker that a gateway of this machine hosts; no address if there is none."""
    port = parse_listen(settings.gateway.listen)[1]
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return f"mqtt://127.0.0.1:{port}", settings.edge.root or settings.gateway.root
    return "", ""


def _found(root: str | None) -> tuple[str, str]:
    found = search(root)
    if found is None:
        raise UnreachableError("no gateway here and none answers by mDNS: name its address: --gateway HOST[:PORT]")
    return reachable(found), found.root


def login(settings: Settings) -> tuple[Address, str] | None:
    """What lets this user in: a line, one that was given before, or the state folder of a gateway."""
    edge = settings.edge
    line = JoinToken.parse(edge.join) if edge.join else None
    if line is not None and line.reads:
        return _keep(line, edge.gateway, state.state_folder(edge.state, line.root)), line.root
    root = edge.root or settings.gateway.root
    folder = state.state_folder(edge.state or settings.gateway.state, root, make=False)
    with contextlib.suppress(PermissionError):  # another user's
        if (folder / KEPT).exists():
            return _kept(folder, edge.gateway)
        own = _own(folder, edge.gateway)
        return None if own is None else (own, root)
    return None


def _keep(line: JoinToken, gateway: str | None, folder: Path) -> Address:
    """The way in by this line, from now on without it."""
    from edge_agent.joining import authority_of
    from edge_agent.membership import Membership

    line = replace(line, gateway=gateway or line.gateway)
    kept = Membership(
        name=line.node, root=line.root, gateway=line.gateway, secret=line.secret, permission=line.permission,
        authority=authority_of(line),
    )  # fmt: skip
    state.write(folder / KEPT, kept.model_dump_json(indent=1).encode())
    return kept.address()


def _kept(folder: Path, gateway: str | None) -> tuple[Address, str]:
    from edge_agent.membership import Membership

    try:
        kept = Membership.model_validate_json(state.read(folder / KEPT) or b"")
        return kept.address(gateway), kept.root
    except ValidationError:
        raise CredentialError(f"{folder / KEPT} is damaged: give the line again: --join LINE") from None


def _own(folder: Path, gateway: str | None) -> Address | None:
    """With a gateway's own secrets, where it listened last; None if no sealed gateway with users was here."""
    if not (folder / "cluster.json").exists():
        return None
    from gateway_agent import certificates, rules
    from gateway_agent.registry import Registry

    members, authority = Registry(folder).read(), state.read(folder / certificates.AUTHORITY)
    if authority is None or not members.listen or "://" in members.listen:
        return None
    host, _, port = members.listen.rpartition(":")
    at = Address.parse(gateway or f"{_NEAR.get(host, host)}:{port}")
    password = rules.own_password(members, rules.LOOKER)
    return replace(at, tls=True, user=rules.LOOKER, password=password, authority=authority.decode())
