"""How an edge gets in: by an address alone where the cluster trusts its network, otherwise as the node that has joined."""

import logging
import socket
from typing import TYPE_CHECKING

from schemas.contract.config import ROOT, EdgeOptions
from schemas.contract.errors import CredentialError
from schemas.contract.messages import as_name
from schemas.host.state import state_folder, told
from schemas.wire.guard import OpenGuard

if TYPE_CHECKING:  # an edge of a cluster without seals loads no cryptography
    from edge_agent.membership import Membership

_log = logging.getLogger(__name__)


def guard(membership: "Membership | None", epoch: str) -> OpenGuard:
    """What a node hears and says through, in ``epoch``."""
    if membership is None:
        return OpenGuard()
    from edge_agent.membership import EdgeGuard

    return EdgeGuard(membership, epoch)


def enter(options: EdgeOptions) -> "Membership | None":
    """Our place in a sealed cluster, by the options of `dt edge`; joins first if there is a line for that. None: we have none.

    Raises:
        CredentialError, UnreachableError: joining failed.
        DtError: the folder cannot be read.
    """
    if options.join is not None:
        return _join(options.join, options)
    folder = state_folder(options.state, options.root or ROOT, make=False)
    with told(folder):
        if not any(folder.glob("edge-*.json")):
            return None
    from edge_agent.membership import load, only_name

    found = load(folder, options.name or host_name())
    if found is None and options.name is None and (name := only_name(folder)):
        found = load(folder, name)
    return found


def _join(text: str, options: EdgeOptions) -> "Membership":
    """Join, unless this very line was used here before: a service starts with it again and again."""
    from edge_agent.joining import join
    from edge_agent.membership import load, save
    from schemas.security.permission import JoinToken

    line = JoinToken.parse(text)
    if line.reads:
        raise CredentialError("--join: this line is for 'dt nodes' and 'dt watch'; 'dt enroll NAME' prints one for a node")
    name = options.name or line.node or host_name()
    folder = state_folder(options.state, line.root)
    membership = load(folder, name)
    if membership is None or membership.permission != line.permission:
        membership = join(line, name)
        save(folder, membership)
        _log.info("joined the cluster at %s as %s", membership.address(), name)
    return membership


def host_name() -> str:
    """This host's name, in letters that a node's may have."""
    return as_name(socket.gethostname())
