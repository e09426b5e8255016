"""Who belongs to the cluster: enrolled nodes and permissions to join, in one file of the gateway's state folder.

It knows the file and its lock. Law: whoever changes it (`dt enroll`, `dt revoke`, the running gateway) reads, changes and
writes it under one lock, so that nothing is lost between them; a reader finds it whole. It holds secrets: only the owner of
the folder reads it.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from schemas import state
from schemas.errors import CredentialError, PlanError
from schemas.messages import Hex32, Name, RequestId, new_epoch
from schemas.plan import Record
from schemas.rights import GATEWAY

FILE, LOCK = "cluster.json", ".cluster.lock"
KEPT_S = 7 * 86400.0  # a permission that is over stays known for so long, to refuse it by name


class Enrolled(Record):
    """A node's secret, the serial of its enrolment, and when (seconds since 1970). ``reads``: no edge, it only looks on;
    ``controls``: or sets controls, too, as Home Assistant does."""

    secret: Hex32
    serial: RequestId
    since: float
    reads: bool = False
    controls: bool = False


class Permission(Record):
    """To join until then (seconds since 1970): as ``node``, once, or anybody whose name is new. ``used``: by whom."""

    secret: Hex32
    node: Name | None
    until: float
    used: Annotated[tuple[Name, ...], Field(max_length=256)] = ()


class Members(Record):
    """The whole file. ``secret`` is the gateway's own; ``port``: where it listened last."""

    secret: Hex32
    nodes: Annotated[dict[Name, Enrolled], Field(max_length=256)] = {}
    permissions: dict[RequestId, Permission] = {}
    listen: str = ""


class Registry:
    """The file in ``folder``, read anew when somebody has changed it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / FILE
        self._stamp: tuple[int, ...] = ()
        self._members: Members | None = None

    def exists(self) -> bool:
        return self._path.exists()

    def read(self) -> Members:
        """What it says now.

        Raises:
            CredentialError: the file is damaged.
        """
        stamp = self._look()
        if self._members is None or stamp != self._stamp:
            self._members, self._stamp = self._load(), stamp
        return self._members

    def enroll(self, name: str, now: float, reads: bool = False, controls: bool = False) -> Enrolled:
        """Enter a node, or one who ``reads`` or ``controls``, with a new secret and serial.

        Raises:
            PlanError: the name is enrolled already, or is the gateway's.
        """
        new = Enrolled(secret=secrets.token_hex(32), serial=new_epoch(), since=now, reads=reads or controls, controls=controls)
        with self._changing() as members:
            _require_new(name, members)
            self._save(members.model_copy(update={"nodes": {**members.nodes, name: new}}))
        return new

    def permit(self, node: str | None, until: float, now: float) -> tuple[str, Permission]:
        """A permission to join, under a new id. The earlier ones for the same name end.

        Raises:
            PlanError: the name is enrolled already, or is no edge's.
        """
        new = Permission(secret=secrets.token_hex(32), node=node, until=until)
        with self._changing() as members:
            _require_new(node, members)
            kept = {
                key: p for key, p in members.permissions.items()
                if p.until + KEPT_S > now and (node is None or p.node != node)
            }  # fmt: skip
            permission = new_epoch()
            self._save(members.model_copy(update={"permissions": {**kept, permission: new}}))
        return permission, new

    def join(self, permission: str, node: str, now: float) -> tuple[str, Enrolled | None]:
        """Use a permission: the node is enrolled, or the reason why not."""
        with self._changing() as members:
            reason = _objection(members.permissions.get(permission), members, node, now)
            if reason:
                return reason, None
            used = members.permissions[permission]
            used = used.model_copy(update={"used": (*used.used, node)})
            new = Enrolled(secret=secrets.token_hex(32), serial=new_epoch(), since=now)
            nodes, permissions = {**members.nodes, node: new}, {**members.permissions, permission: used}
            self._save(members.model_copy(update={"nodes": nodes, "permissions": permissions}))
        return "", new

    def revoke(self, name: str) -> None:
        """The node is out, and so is who has a permission for its name.

        Raises:
            PlanError: there is no such node.
        """
        with self._changing() as members:
            pending = {key: p for key, p in members.permissions.items() if p.node == name and not p.used}
            if name not in members.nodes and not pending:
                raise PlanError(f"no node {name!r} is enrolled here: see 'dt enroll --list'")
            nodes = {node: known for node, known in members.nodes.items() if node != name}
            permissions = {key: p for key, p in members.permissions.items() if key not in pending}
            self._save(members.model_copy(update={"nodes": nodes, "permissions": permissions}))

    def listens(self, address: str) -> None:
        """Remember where the gateway listens, for 'dt enroll'."""
        with self._changing() as members:
            if members.listen != address:
                self._save(members.model_copy(update={"listen": address}))

    def _look(self) -> tuple[int, ...]:
        with contextlib.suppress(FileNotFoundError):
            found = self._path.stat()
            return found.st_mtime_ns, found.st_ino, found.st_size
        return ()

    def _load(self) -> Members:
        data = state.read(self._path)
        if data is None:
            with self._changing() as members:  # of two who come first, one makes it
                return members
        try:
            return Members.model_validate_json(data)
        except ValidationError as error:
            raise CredentialError(
                f"{self._path} is damaged ({error.errors()[0]['msg']}): restore it, or remove it and enroll every node anew"
            ) from None

    def _save(self, members: Members) -> None:
        state.write(self._path, members.model_dump_json(indent=1).encode())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other process changes anything in the folder meanwhile."""
        with state.told(self.folder):
            handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)  # the folder's own lock is the journal's
            if os.geteuid() == 0:  # 'sudo dt enroll' beside a gateway that runs as another user
                owner = self.folder.stat()
                os.fchown(handle, owner.st_uid, owner.st_gid)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Members]:
        """The file as it is, and nobody else's until the end."""
        with self.alone():
            if not self._path.exists():
                self._save(Members(secret=secrets.token_hex(32)))
            yield self._load()


def _require_new(name: str | None, members: Members) -> None:
    if name == GATEWAY:
        raise PlanError(f"{GATEWAY!r} is the gateway's own name: choose another")
    if name in members.nodes:
        raise PlanError(f"{name} is enrolled already: 'dt revoke {name}' first, or choose another name")


def _objection(permission: Permission | None, members: Members, node: str, now: float) -> str:
    """Why nobody may join as ``node`` by this permission; empty if somebody may."""
    again = "'dt enroll' on the gateway prints a new one"
    if permission is None:
        return f"no such permission: {again}"
    if permission.node is not None and permission.used:
        return f"this line was used by {permission.used[0]} already: {again}"
    if now >= permission.until:
        return f"this line is no longer valid: {again}"
    if permission.node not in (None, node):
        return f"this line is for {permission.node}, not {node}"
    if node == GATEWAY or node in members.nodes:
        return f"{node} is enrolled already: choose another --name, or 'dt revoke {node}' first"
    return ""
