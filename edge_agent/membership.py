"""What an enrolled edge keeps: its secret, where its gateway is, and the guard that follows from them.

It keeps two laws. A plan is believed when the gateway's echo, which is sealed, has named it; the broker alone can name none.
And whom the gateway's last ring does not hold, this node does not hear.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import CredentialError
from schemas.contract.messages import Hex32, Name, RequestId
from schemas.contract.plan import Record
from schemas.host import state
from schemas.security import keyring
from schemas.wire.codec import Incoming, Rejected, check_plan
from schemas.wire.guard import Guard
from schemas.wire.link import Address


class Membership(Record):
    """One node's place in one cluster. ``gateway`` is an address; ``authority`` PEM, if the cluster has its own;
    ``permission``: by which it joined."""

    name: Name
    root: Name
    gateway: str
    secret: Hex32
    permission: RequestId
    authority: str | None = None

    def address(self, gateway: str | None = None) -> Address:
        """Where to connect, and how to enter; ``gateway``: it has moved there."""
        at = Address.parse(gateway or self.gateway)
        if self.authority is None:
            return at
        return Address(at.host, at.port, True, self.name, keyring.password(bytes.fromhex(self.secret)), self.authority)


def save(folder: Path, membership: Membership) -> None:
    """Keep it on disk (0600)."""
    state.write(_path(folder, membership.name), membership.model_dump_json(indent=1).encode())


def load(folder: Path, name: str) -> Membership | None:
    """What ``save`` kept for this name.

    Raises:
        CredentialError: the file is damaged.
    """
    data = state.read(_path(folder, name))
    if data is None:
        return None
    try:
        return Membership.model_validate_json(data)
    except ValidationError:
        raise CredentialError(
            f"{_path(folder, name)} is damaged: restore it, or enroll {name} anew: 'dt revoke {name}', 'dt enroll {name}'"
        ) from None


def only_name(folder: Path) -> str | None:
    """The name of the one node that has joined from here; None: there is none, or there are several."""
    names = [path.stem.removeprefix("edge-") for path in folder.glob("edge-*.json")]
    return names[0] if len(names) == 1 else None


def _path(folder: Path, name: str) -> Path:
    return folder / f"edge-{name}.json"


OFFERS = 4  # plans that wait for the gateway's word; a broker that invents more pushes them out


class EdgeGuard(Guard):
    """An edge's end of a sealed cluster."""

    def __init__(self, membership: Membership, epoch: str) -> None:
        self._secret = bytes.fromhex(membership.secret)
        super().__init__(keyring.edge_seal(membership.name, epoch, self._secret))
        self._plan = ""
        self._offered: dict[str, Incoming] = {}  # by digest; the newest ones
        self._ring = ("", -1)

    def hear(self, incoming: Incoming, plan: str | None) -> Sequence[Incoming]:
        """A ring is taken; a plan waits until an echo names it; the rest goes on."""
        message = incoming.message
        if isinstance(message, m.Keys):
            self._take(message)
            return []
        if isinstance(message, m.PlanMessage):
            self._offered[message.plan.digest()] = incoming
            for old in list(self._offered)[:-OFFERS]:
                del self._offered[old]
            return self._believed()
        if isinstance(message, m.Echo):
            self._plan = message.plan
            return [*([incoming] if plan in (None, message.plan) else []), *self._believed()]
        check_plan(incoming, plan)
        return [incoming]

    def restart(self, epoch: str) -> None:
        super().restart(epoch)
        self._ring = ("", -1)

    def _believed(self) -> list[Incoming]:
        """The plan that the gateway names, once it is there, once."""
        offered = self._offered.pop(self._plan, None)
        return [offered] if offered else []

    def _take(self, keys: m.Keys) -> None:
        if keys.to_epoch != self.keys.epoch or (keys.epoch == self._ring[0] and keys.edition <= self._ring[1]):
            raise Rejected("replay", f"{topics.KEYS.pattern}: edition {keys.edition} for {keys.to_epoch}, an old one")
        keyring.apply(keyring.open_ring(keys.box, self._secret, keys.to_epoch), self._secret, self.keys)
        self._ring = (keys.epoch, keys.edition)
