"""What the broker itself is told of a sealed cluster: who may connect, and which topics each may read and write.

It knows mosquitto's two file formats and takes the rules from ``schemas.security.rights``. The seals do not rest on
them: they keep strangers out early, and a node's pictures from the others' eyes. But Home Assistant has no keys, and what
it says no seal: who may speak as Home Assistant, and of what, rests on these rules alone.
"""

import base64
import hashlib
import secrets
from collections.abc import Iterator
from functools import lru_cache

from gateway_agent.homeassistant.cluster import COMMANDS
from gateway_agent.homeassistant.discovery import PREFIX, Tree, cluster_id
from gateway_agent.registry import Members
from schemas.contract import topics
from schemas.security import keyring
from schemas.security.keyring import MEMBERS
from schemas.security.permission import joiner, joiner_password
from schemas.security.rights import GATEWAY, RIGHTS
from schemas.security.seal import derive

ROUNDS = 101  # of PBKDF2; the passwords are 192 random bits
HOME, LOOKER = f"{GATEWAY}.home", f"{GATEWAY}.looker"  # no node can have these names
OWN = (GATEWAY, HOME, LOOKER)


def own_password(members: Members, user: str) -> str:
    """Of a user who knows the gateway's secret: the gateway, its line for Home Assistant, people with its state folder."""
    secret = bytes.fromhex(members.secret)
    return keyring.password(secret if user == GATEWAY else derive(secret, "dt own user", user))


def users(members: Members) -> dict[str, str]:
    """User names and passwords of all who may connect."""
    nodes = {name: keyring.password(bytes.fromhex(node.secret)) for name, node in members.nodes.items()}
    joiners = {joiner(key): joiner_password(p.secret) for key, p in members.permissions.items()}
    return {**{user: own_password(members, user) for user in OWN}, **nodes, **joiners}


def password_file(members: Members) -> str:
    """As ``mosquitto_passwd`` writes it."""
    return "".join(f"{user}:{_hashed(password)}\n" for user, password in users(members).items())


def access_file(root: str, members: Members, prefix: str = PREFIX) -> str:
    """mosquitto's access control list: what is not named is refused. ``prefix``: Home Assistant's discovery prefix."""
    tree = Tree(cluster_id(root))
    lines = [f"user {GATEWAY}", "topic readwrite #", f"user {HOME}", *_own_home(tree, prefix)]
    lines += [f"user {LOOKER}", *_reader(root)]
    for name, node in members.nodes.items():
        lines += _enrolled(name, node.reads, node.controls, root, tree, prefix)
    for permission in members.permissions:
        lines += [
            f"user {joiner(permission)}",
            f"topic write {topics.JOIN.path(root, permission=permission)}",
            f"topic read {topics.JOINED.path(root, permission=permission)}",
        ]
    return "\n".join(lines) + "\n"


@lru_cache(MEMBERS)
def _enrolled(name: str, reads: bool, controls: bool, root: str, tree: Tree, prefix: str) -> tuple[str, ...]:
    home = _home(root, tree, prefix) if controls else ()
    return (f"user {name}", *home, *(_reader(root) if reads else _edge(root, name)))


def _edge(root: str, name: str) -> Iterator[str]:
    for row, right in RIGHTS.items():
        if right.publisher == "edge":
            yield f"topic write {row.filter(root)}"
        elif right.publisher in ("node", "source"):
            yield f"topic write {row.filter(root, node=name, source=name)}"
        if right.reader == "node":
            yield f"topic read {row.filter(root, node=name)}"
        elif right.reader in ("others", "all"):
            yield f"topic read {row.filter(root)}"


def _reader(root: str) -> Iterator[str]:
    """People who look on: what is for them, and the question who is there."""
    for row, right in RIGHTS.items():
        if right.shown or right.reader == "people":
            yield f"topic read {row.filter(root)}"
        if right.publisher == "people":
            yield f"topic write {row.filter(root)}"


def _home(root: str, tree: Tree, prefix: str) -> Iterator[str]:
    """Home Assistant: devices and states as they are published for it, its birth, and the controls, but no state."""
    yield f"topic read {prefix}/#"
    yield f"topic write {prefix}/status"
    yield f"topic read {tree.base}/#"
    for verb in COMMANDS:
        yield f"topic write {tree.set(verb)}"
    for row, right in RIGHTS.items():
        if right.publisher == "control":
            yield f"topic write {row.filter(root)}"


def _own_home(tree: Tree, prefix: str) -> Iterator[str]:
    """The gateway's own line for Home Assistant: the other way round."""
    yield f"topic write {prefix}/#"
    yield f"topic read {prefix}/status"
    yield f"topic readwrite {tree.base}/#"


@lru_cache(2 * MEMBERS)
def _hashed(password: str) -> str:
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ROUNDS)
    return f"$7${ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
