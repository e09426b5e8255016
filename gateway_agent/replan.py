"""When a cluster deserves another plan: nodes have come or gone, or compute slower or faster than the plan assumes.

It keeps the law that a plan is not changed for nothing: a change must last ``SETTLE_S``, plans are ``AGAIN_S`` apart, and
the new one must be expected to be better by a tenth. It knows no socket, thread or clock.
"""

from collections.abc import Collection
from dataclasses import dataclass
from statistics import median

from models.bundle import Bundle, make_bundle
from models.planning.cluster import Cluster
from models.planning.cost import predict
from models.planning.search import Choice, best_plan, judged_by
from schemas.contract.messages import Register

SETTLE_S = 10.0
AGAIN_S = 60.0
DRIFT = 1.5  # a speed that has changed by less is the same
GAIN = 0.9  # of the present plan's price
FLOPS_S, BYTES_S, MESSAGE_SPEEDS = (1e6, 1e14), (1e3, 1e12), (1e-4, 1e2)  # what a node may claim; what is beyond counts as that
RATE_MBIT = 100.0  # of links that nobody has measured yet


@dataclass(frozen=True)
class Member:
    """A node as the planner sees it: operations a second, bytes a second of its link, and how fast it handles messages;
    0: not known. ``straight``: it takes straight connections.
    """

    name: str
    camera: bool
    flops_s: float
    bytes_s: float
    message_speed: float = 0.0
    straight: bool = False


class Replanner:
    """``hear`` every Register; ``due`` says for whom to plan now."""

    def __init__(self, settle_s: float = SETTLE_S, again_s: float = AGAIN_S) -> None:
        self._settle_s, self._again_s = settle_s, again_s
        self._members: dict[str, Member] = {}
        self._planned: tuple[Member, ...] = ()
        self._wanted: tuple[Member, ...] = ()
        self._since = 0.0
        self._earliest = 0.0

    def hear(self, register: Register) -> None:
        """A node's heartbeat."""
        known = self._members.get(register.node)
        bytes_s = _within(register.bytes_s, BYTES_S) or (known.bytes_s if known else 0.0)
        flops_s, message_speed = _within(register.flops_s, FLOPS_S), _within(register.message_speed, MESSAGE_SPEEDS)
        self._members[register.node] = Member(
            register.node, register.camera, flops_s, bytes_s, message_speed, register.address is not None
        )

    def due(self, nodes: Collection[str], now: float) -> tuple[Member, ...] | None:
        """The members to plan for, cameras first; None: the plan fits, or it is too early. ``nodes``: who is here."""
        self._members = {name: member for name, member in self._members.items() if name in nodes}
        present = tuple(sorted(self._members.values(), key=lambda member: (not member.camera, member.name)))
        if not any(m.camera for m in present) or not all(m.flops_s for m in present) or _alike(present, self._planned):
            self._wanted = ()
            return None
        if not _alike(present, self._wanted):
            self._wanted, self._since = present, now
        if now < max(self._since + self._settle_s, self._earliest):
            return None
        return present

    def planned(self, members: tuple[Member, ...], now: float) -> None:
        """A plan was made for these members, or the present one found to be good enough."""
        self._planned, self._wanted, self._earliest = members, (), now + self._again_s


def _within(claimed: float, limits: tuple[float, float]) -> float:
    """0 stays: it is not known."""
    return min(max(claimed, limits[0]), limits[1]) if claimed else 0.0


def _alike(some: tuple[Member, ...], others: tuple[Member, ...]) -> bool:
    """Whether a plan for the one does for the other."""
    if [(m.name, m.camera, m.straight) for m in some] != [(m.name, m.camera, m.straight) for m in others]:
        return False
    speeds = [(a.flops_s, b.flops_s) for a, b in zip(some, others)]
    speeds += [(a.message_speed, b.message_speed) for a, b in zip(some, others)]
    return all(a == b or 1 / DRIFT < a / max(b, 1e-9) < DRIFT for a, b in speeds)


def cluster_of(members: tuple[Member, ...], gateway_flops_s: float, gateway_message_speed: float = 0.0) -> Cluster:
    """What the planner needs to know of them, and of the gateway."""
    rates = [member.bytes_s * 8 / 1e6 for member in members if member.bytes_s]
    return Cluster(
        speeds=tuple(member.flops_s for member in members),
        rate_mbit=median(rates) if rates else RATE_MBIT,
        gateway_flops_s=gateway_flops_s,
        message_speeds=tuple(member.message_speed for member in members),
        gateway_message_speed=gateway_message_speed,
        sources=sum(member.camera for member in members),
        window=2,
        direct=all(member.straight for member in members),
        slice_s=0.0 if all(member.message_speed for member in members) else Cluster.slice_s,
    )


def better(
    bundle: Bundle,
    members: tuple[Member, ...],
    objective: str,
    gateway_flops_s: float,
    gateway_message_speed: float = 0.0,
) -> Bundle | None:
    """Another plan of the same model for ``members``, if it is expected to be clearly better than the present one.

    Takes seconds.
    """
    cluster = cluster_of(members, gateway_flops_s, gateway_message_speed)
    objective = judged_by(objective, cluster)
    found = best_plan(bundle.partition, cluster, objective).best
    present = predict(bundle.partition, bundle.plan, cluster)
    gains = found.prediction.price(objective) < GAIN * present.price(objective)
    return _bundle(bundle, found) if gains else None


def _bundle(bundle: Bundle, choice: Choice) -> Bundle:
    return make_bundle(
        bundle.path, blocks=choice.pieces, partition=bundle.partition, shares=choice.shares, card=bundle.card
    )
