"""What the broker itself is told of a sealed cluster: who may connect, and which topics each may read and write.

It knows mosquitto's two file formats and takes the rules from ``schemas.rights``. The seals do not rest on them: they keep
strangers out early, and a node's pictures from the others' eyes.
"""

import base64
import hashlib
import secrets
from collections.abc import Iterator

from gateway_agent.registry import Members
from schemas import keyring, topics
from schemas.permission import joiner, joiner_password
from schemas.rights import GATEWAY, RIGHTS

ROUNDS = 101  # of PBKDF2; the passwords are 192 random bits


def gateway_password(members: Members) -> str:
    """The gateway's own."""
    return keyring.password(bytes.fromhex(members.secret))


def users(members: Members) -> dict[str, str]:
    """User names and passwords of all who may connect."""
    nodes = {name: keyring.password(bytes.fromhex(node.secret)) for name, node in members.nodes.items()}
    joiners = {joiner(key): joiner_password(p.secret) for key, p in members.permissions.items()}
    return {GATEWAY: gateway_password(members), **nodes, **joiners}


def password_file(members: Members) -> str:
    """As ``mosquitto_passwd`` writes it."""
    return "".join(f"{user}:{_hashed(password)}\n" for user, password in users(members).items())


def access_file(root: str, members: Members) -> str:
    """mosquitto's access control list: what is not named is refused."""
    lines = [f"user {GATEWAY}", "topic readwrite #"]
    for name, node in members.nodes.items():
        lines += [f"user {name}", *(_reader(root) if node.reads else _edge(root, name))]
    for permission in members.permissions:
        lines += [
            f"user {joiner(permission)}",
            f"topic write {topics.JOIN.path(root, permission=permission)}",
            f"topic read {topics.JOINED.path(root, permission=permission)}",
        ]
    return "\n".join(lines) + "\n"


def _edge(root: str, name: str) -> Iterator[str]:
    for row, right in RIGHTS.items():
        if right.publisher == "edge":
            yield f"topic write {row.filter(root)}"
        elif right.publisher in ("node", "source"):
            yield f"topic write {row.filter(root, node=name, source=name)}"
        if right.reader == "node":
            yield f"topic read {row.filter(root, node=name)}"
        elif right.reader in ("edges", "all"):
            yield f"topic read {row.filter(root)}"


def _reader(root: str) -> Iterator[str]:
    """For Home Assistant: what is published for people, and its own requests."""
    for branch in ("source", "node", "bridge"):
        yield f"topic read {root}/{branch}/#"
    for row, right in RIGHTS.items():
        if right.publisher == "people":
            yield f"topic write {row.filter(root)}"
    yield "topic read homeassistant/#"
    yield "topic write homeassistant/status"


def _hashed(password: str) -> str:
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ROUNDS)
    return f"$7${ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
