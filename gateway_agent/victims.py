"""Who has waiting tiles and who wants one: the victim ring of the paper (section IV.B.2), and the requests that wait.

The paper's idle nodes poll; here a request that nobody can serve is parked and answered when somebody registers. Law: a
request goes to one victim, never to its own sender, and each node has at most one. How many tiles a victim has waiting is an
assumption: every forward lowers it by one, the next ``dt/register`` corrects it. Who says that tiles are waiting and lends
none of them is not believed for ``DOUBT_S``. Where one node alone has a camera, an idle node's request need not wait here: it
goes to that node, which answers with its next frame.
"""

import itertools
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

DEAD_S = 6.0  # three missed heartbeats
FORWARD_S = 2.0
DOUBT_S = 30.0
OWING = 1024  # names that are remembered, whatever became of their nodes


@dataclass(frozen=True)
class Forward:
    """To publish on ``dt/steal/<victim>``: lend a tile to this thief. ``ahead``: it still computes another."""

    victim: str
    victim_epoch: str
    thief: str
    thief_epoch: str
    request: str
    ahead: bool


@dataclass(frozen=True)
class Parked:
    """A request without a victim; ``order`` counts up, for first come, first served."""

    request: str
    ahead: bool
    order: int


@dataclass(frozen=True)
class Forwarded:
    """A request that went to a victim at this time (monotonic seconds)."""

    request: str
    at: float


@dataclass(frozen=True)
class Member:
    """A node that is alive. ``before``: the epoch that this one replaced, whose late messages are stale; ``distrusts``:
    nodes that get none of its tiles."""

    epoch: str
    waiting: int
    seen: float
    before: str = ""
    camera: bool = False
    request: Parked | Forwarded | None = None
    priority: int = 0
    distrusts: frozenset[str] = frozenset()


class VictimRing:
    """Nodes by name. The dict's order is the ring: the first with a waiting tile is the next victim, and goes last."""

    def __init__(self, dead_s: float = DEAD_S, forward_s: float = FORWARD_S) -> None:
        self.ignored: Counter[str] = Counter()
        self._dead_s = dead_s
        self._forward_s = forward_s
        self._nodes: dict[str, Member] = {}
        self._order = itertools.count()
        self._owes: dict[str, tuple[int, float]] = {}  # by name: forwards since its last result, and the time of the newest
        self._paid: dict[str, None] = {}  # names of whose tiles results have come

    def register(
        self,
        node: str,
        epoch: str,
        waiting: int,
        now: float,
        camera: bool = False,
        priority: int = 0,
        distrusts: Collection[str] = (),
    ) -> list[Forward]:
        """A heartbeat: ``node`` lives and has ``waiting`` tiles. A node with own tiles waiting wants no other: its
        parked request ends, as does that of an epoch before.
        """
        member = self._nodes.get(node)
        if member and epoch == member.before:
            self.ignored["register: stale epoch"] += 1
            return []
        if member is None or member.epoch != epoch:
            member = Member(epoch, waiting, now, member.epoch if member else "")
        request = None if waiting and isinstance(member.request, Parked) else member.request
        self._nodes[node] = replace(
            member, waiting=waiting, seen=now, camera=camera, request=request, priority=priority,
            distrusts=frozenset(distrusts),
        )  # fmt: skip
        return self._match(now)

    def request(self, node: str, epoch: str, request: str, ahead: bool, now: float) -> list[Forward]:
        """``node`` can take a tile. A repeated request is ignored while its forward is young; later that seems lost."""
        member = self._nodes.get(node)
        if member is None or member.epoch != epoch:
            self.ignored["request: unknown node" if member is None else "request: stale epoch"] += 1
            return []
        had = member.request
        if isinstance(had, Forwarded) and had.request == request and now < had.at + self._forward_s:
            self.ignored["request: repeated"] += 1
            return []
        again = isinstance(had, Parked) and had.request == request
        order = had.order if again and isinstance(had, Parked) else next(self._order)
        self._nodes[node] = replace(member, request=Parked(request, ahead, order))
        return self._match(now)

    def paid(self, victim: str) -> None:
        """A result of one of its tiles has come."""
        self._owes.pop(victim, None)
        self._paid[victim] = None
        for old in list(self._paid)[:-OWING]:
            del self._paid[old]

    def _gives(self, node: str, now: float) -> bool:
        """Whether to believe that it lends what it says is waiting. So many forwards may be under way: two for each node; as
        long as it has never lent any one for each, or one where others have, for the thief that gets nothing waits."""
        owes, since = self._owes.get(node, (0, now))
        most = 2 * len(self._nodes) if node in self._paid else 1 if self._paid else len(self._nodes)
        return owes < most or now >= since + DOUBT_S

    def replaced(self, node: str, epoch: str) -> bool:
        """Whether ``epoch`` is one that another has taken the place of: two live under one name, or it is late."""
        member = self._nodes.get(node)
        return member is not None and epoch == member.before != ""

    def reset(self) -> None:
        """A new plan: nobody has tiles or wants one."""
        self._nodes = {node: replace(member, waiting=0, request=None) for node, member in self._nodes.items()}

    def leave(self, node: str, epoch: str) -> bool:
        """``node`` says good-bye. False: it was of another epoch or unknown."""
        member = self._nodes.get(node)
        if member is None or member.epoch != epoch:
            self.ignored["leave: not here"] += 1
            return False
        del self._nodes[node]
        return True

    def expire(self, now: float) -> list[str]:
        """Nodes that have missed their heartbeats; they are gone, with their requests."""
        dead = [node for node, member in self._nodes.items() if member.seen + self._dead_s <= now]
        for node in dead:
            del self._nodes[node]
        return dead

    def deadline(self) -> float | None:
        """When the next node is dead unless it registers."""
        return min((member.seen + self._dead_s for member in self._nodes.values()), default=None)

    @property
    def nodes(self) -> dict[str, int]:
        """The living and how many waiting tiles they are assumed to have, in the order of the ring."""
        return {node: member.waiting for node, member in self._nodes.items()}

    @property
    def epochs(self) -> dict[str, str]:
        """The living and their epochs, in the order of the ring."""
        return {node: member.epoch for node, member in self._nodes.items()}

    def priority(self, node: str) -> int:
        """As it said last; 0 of one that is not here."""
        member = self._nodes.get(node)
        return member.priority if member else 0

    def distrusts(self, node: str) -> frozenset[str]:
        """Whom it lends nothing, as it said last."""
        member = self._nodes.get(node)
        return member.distrusts if member else frozenset()

    @property
    def cameras(self) -> tuple[str, ...]:
        """The living that have a source."""
        return tuple(sorted(node for node, member in self._nodes.items() if member.camera))

    @property
    def parked(self) -> tuple[str, ...]:
        """Nodes whose request waits, first served first."""
        parked = {node: m.request for node, m in self._nodes.items() if isinstance(m.request, Parked)}
        return tuple(sorted(parked, key=lambda node: (parked[node].ahead, parked[node].order)))

    def _match(self, now: float) -> list[Forward]:
        return [forward for thief in self.parked if (forward := self._forward(thief, now))]

    def _forward(self, thief: str, now: float) -> Forward | None:
        taker = self._nodes[thief]
        assert isinstance(taker.request, Parked)
        request, ahead = taker.request.request, taker.request.ahead
        enough = 2 if ahead else 1  # the last tile is for a node that is idle
        trusting = {n: m for n, m in self._nodes.items() if n != thief and thief not in m.distrusts}
        having = [n for n, m in trusting.items() if m.waiting >= enough and self._gives(n, now)]
        rank = {n: (n in self._paid, self._nodes[n].priority) for n in having}
        victim = max(having, key=lambda n: rank[n], default=None)  # of equals the first in the ring
        if victim is None and not ahead and len(self.cameras) == 1 and self.cameras[0] in trusting:
            victim = self.cameras[0]
        if victim is None:
            return None
        giver = self._nodes.pop(victim)
        if giver.waiting:
            self._owes[victim] = (self._owes.pop(victim, (0, now))[0] + 1, now)
            for old in list(self._owes)[:-OWING]:
                del self._owes[old]
        self._nodes[victim] = replace(giver, waiting=max(giver.waiting - 1, 0))
        self._nodes[thief] = replace(taker, request=Forwarded(request, now))
        return Forward(victim, giver.epoch, thief, taker.epoch, request, ahead)
