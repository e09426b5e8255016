"""The join tokens, from the registry and the cluster's authority."""

import datetime

from gateway_agent import certificates
from gateway_agent.registry import Registry
from schemas.security.permission import JoinToken


def join_token(registry: Registry, root: str, name: str | None, address: str, until: float, now: float) -> JoinToken:
    """The token by which ``name``, or with None anybody new, may join at ``address`` before ``until``.

    ``until`` and ``now`` are seconds since 1970.

    Raises:
        PlanError: the name is enrolled already, or there are as many members or lines as may be.
    """
    permission, granted = registry.permit(name, until, now)
    return JoinToken(address, root, name or "", permission, granted.secret, fingerprint(registry, address))


def fingerprint(registry: Registry, address: str) -> str:
    """Of the cluster's authority, which is made if there is none; a broker that is not ours is vouched for by the system's."""
    if "://" in address:
        return ""
    with registry.alone():
        now = datetime.datetime.now(datetime.timezone.utc)
        return certificates.fingerprint(certificates.authority(registry.folder, now))
