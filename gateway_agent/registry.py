"""Who belongs to the cluster: enrolled nodes and permissions to join, in one file of the gateway's state folder.

It knows the file and its lock, and keeps three laws. Whoever changes it (`dt enroll`, `dt revoke`, the running gateway) reads,
changes and writes it under one lock, so that nothing is lost between them; a reader finds it whole. What does not fit is
refused to whoever asks for it, and never written: everybody can read what is there. And a gateway that runs goes on with what
it read last, whatever becomes of the file. It holds secrets: only the owner of the folder reads it.
"""

import contextlib
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from schemas.contract.errors import CredentialError, DtError, PlanError
from schemas.contract.messages import Hex32, Name, RequestId, new_epoch
from schemas.contract.plan import Record
from schemas.host import state
from schemas.security.keyring import MEMBERS
from schemas.security.rights import GATEWAY

FILE, LOCK, DAMAGED = "cluster.json", ".cluster.lock", ".damaged"
MOST_BYTES = 16 * 2**20  # of the file: more than all limits of what is written make
PERMISSIONS, USES = 256, 256  # that are known at a time; of one that anybody may use
KEPT_S = 7 * 86400.0  # a permission that is over stays known for so long, to refuse it by name
RETRY_S = 1.0  # a file that cannot be read or written is tried again so often
_log = logging.getLogger(__name__)


def _not_ours(name: str) -> str:
    if name == GATEWAY:
        raise ValueError(f"{GATEWAY!r} is the gateway's own name")
    return name


Moment = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]  # seconds since 1970
Member = Annotated[Name, AfterValidator(_not_ours)]


class Enrolled(Record):
    """A node's secret, the serial of its enrolment, and when (seconds since 1970). ``reads``: no edge, it only looks on;
    ``controls``: or sets controls, too, as Home Assistant does."""

    secret: Hex32
    serial: RequestId
    since: Moment
    reads: bool = False
    controls: bool = False


class Permission(Record):
    """To join until then (seconds since 1970): as ``node``, once, or anybody whose name is new. ``used``: by whom."""

    secret: Hex32
    node: Member | None
    until: Moment
    used: tuple[Member, ...] = ()


class Members(Record):
    """The whole file. ``secret`` is the gateway's own; ``port``: where it listened last."""

    secret: Hex32
    nodes: dict[Member, Enrolled] = {}
    permissions: dict[RequestId, Permission] = {}
    listen: Annotated[str, Field(max_length=300)] = ""


class Registry:
    """The file in ``folder``, read anew when somebody has changed it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / FILE
        self._stamp: tuple[int, ...] = ()
        self._members: Members | None = None
        self._trouble, self._retry_at = "", 0.0

    def exists(self) -> bool:
        return bool(self._look())

    def read(self) -> Members:
        """What it says now.

        Raises:
            CredentialError: the file is damaged, or gone since it was read.
            DtError: it cannot be read.
        """
        stamp = self._look()
        if self._members is None or stamp != self._stamp:
            self._members, self._stamp = self._load(), stamp
        return self._members

    def current(self) -> Members:
        """As ``read``, for a process that has read it before: what it said last while it cannot be read, which is told once.

        A file that is damaged or gone is written anew, the damaged one is put aside; and the gateway's own secret stays, for
        its line to the broker has that already.
        """
        last = self._members
        if last is None:
            return self.read()
        if time.monotonic() < self._retry_at:
            return last
        damage = ""
        try:
            try:
                found = self.read()
            except CredentialError as error:
                found, damage = None, str(error)
            if found is None or found.secret != last.secret:
                damage = damage or f"{self._path} is of another gateway"
                self._members = _merged(found, last)
                self._repair(last)
                _log.error("%s: rewriting it with this gateway's own secret and the members it knows", damage)
            self._trouble = ""
        except DtError as error:
            self._tell(f"{damage}; {error}" if damage else str(error))
        return self._members or last

    def _repair(self, last: Members) -> None:
        """Write the file anew: what it holds if that can be read, otherwise ``last``."""
        with self.alone():
            try:
                self._members = _merged(self._load_whole(), last)
            except CredentialError:
                state.keep_aside(self._path, DAMAGED)
            self._save(self._members or last)

    def _tell(self, trouble: str) -> None:
        """Once, until it can be read again."""
        self._retry_at = time.monotonic() + RETRY_S
        if trouble != self._trouble:
            self._trouble = trouble
            _log.error("%s; this gateway keeps the members it knows", trouble)

    def enroll(self, name: str, now: float, reads: bool = False, controls: bool = False) -> Enrolled:
        """Enter a node, or one who ``reads`` or ``controls``, with a new secret and serial.

        Raises:
            PlanError: the name is enrolled already, or is the gateway's; or there are as many as there may be.
        """
        new = Enrolled(secret=secrets.token_hex(32), serial=new_epoch(), since=now, reads=reads or controls, controls=controls)
        with self._changing() as members:
            _require_new(name, members)
            self._save(members.model_copy(update={"nodes": {**members.nodes, name: new}}))
        return new

    def permit(self, node: str | None, until: float, now: float) -> tuple[str, Permission]:
        """A permission to join, under a new id. The earlier ones for the same name end.

        Raises:
            PlanError: the name is enrolled already, or is no edge's; or there are as many members or lines as may be.
        """
        with self._changing() as members:
            _require_new(node, members)
            new = Permission(secret=secrets.token_hex(32), node=node, until=until)
            kept = {
                key: p for key, p in members.permissions.items()
                if p.until + KEPT_S > now and (node is None or p.node != node)
            }  # fmt: skip
            over = [key for key, p in kept.items() if now >= p.until or (p.node is not None and p.used)]
            for key in over[: max(len(kept) + 1 - PERMISSIONS, 0)]:
                del kept[key]
            if len(kept) >= PERMISSIONS:
                raise PlanError(f"{PERMISSIONS} join lines are open, the most allowed: 'dt revoke' some, or let them expire")
            permission = new_epoch()
            self._save(members.model_copy(update={"permissions": {**kept, permission: new}}))
        return permission, new

    def join(self, asked: Sequence[tuple[str, str]], now: float) -> list[tuple[str, Enrolled | None]]:
        """Use permissions, each for a name: the node is enrolled, or the reason why not. One lock and one write for all, and
        none where nobody is let in."""
        if self._members is not None:
            refused = _entered(self.current(), asked, now)[1]
            if not any(node for _, node in refused):
                return refused
        with self._changing() as members:
            members, answers = _entered(members, asked, now)
            self._save(members)
        return answers

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
        with state.told(self.folder), contextlib.suppress(FileNotFoundError):
            found = self._path.lstat()
            return found.st_mtime_ns, found.st_ino, found.st_size
        return ()

    def _load(self) -> Members:
        if self._members is None and not self.exists():
            with self._changing() as members:  # of two who come first, one makes it
                return members
        return self._load_whole()

    def _load_whole(self) -> Members:
        data = state.read(self._path, MOST_BYTES)
        if data is None:
            raise CredentialError(f"{self._path} is gone: restore it, or enroll every node anew")
        try:
            return Members.model_validate_json(data)
        except (ValidationError, RecursionError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "nested too deep"
            raise CredentialError(
                f"{self._path} is damaged ({why}): restore it, or remove it and enroll every node anew"
            ) from None

    def _save(self, members: Members) -> None:
        state.write(self._path, members.model_dump_json(indent=1).encode())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other process changes anything in the folder meanwhile."""
        with state.locked(self.folder / LOCK):  # the folder's own lock is the journal's
            yield

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Members]:
        """The file as it is, and nobody else's until the end."""
        with self.alone():
            if self._members is None and not self.exists():
                self._save(Members(secret=secrets.token_hex(32)))
            yield self._load_whole()


def _merged(found: Members | None, last: Members) -> Members:
    """The members of a file that was ``found`` in place of the ``last`` one, under the secret of that."""
    return last if found is None else found.model_copy(update={"secret": last.secret})


def _require_new(name: str | None, members: Members) -> None:
    if name == GATEWAY:
        raise PlanError(f"{GATEWAY!r} is the gateway's own name: choose another")
    if name in members.nodes:
        raise PlanError(f"{name} is enrolled already: 'dt revoke {name}' first, or choose another name")
    if len(members.nodes) >= MEMBERS:
        raise PlanError(_FULL)


_FULL = f"{MEMBERS} members are enrolled, which is the most: 'dt revoke' one of them on the gateway first"


def _entered(
    members: Members, asked: Sequence[tuple[str, str]], now: float
) -> tuple[Members, list[tuple[str, Enrolled | None]]]:
    """The members with those who may join, and an answer for each."""
    answers: list[tuple[str, Enrolled | None]] = []
    for permission, node in asked:
        reason, new = _objection(members.permissions.get(permission), members, node, now), None
        if not reason:
            used = members.permissions[permission]
            used = used.model_copy(update={"used": (*used.used, node)})
            new = Enrolled(secret=secrets.token_hex(32), serial=new_epoch(), since=now)
            nodes, permissions = {**members.nodes, node: new}, {**members.permissions, permission: used}
            members = members.model_copy(update={"nodes": nodes, "permissions": permissions})
        answers.append((reason, new))
    return members, answers


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
    if len(members.nodes) >= MEMBERS:
        return _FULL
    if len(permission.used) >= USES:
        return f"this line was used {USES} times, which is the most: {again}"
    return ""
