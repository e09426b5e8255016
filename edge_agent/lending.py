"""To whom an edge lends its tiles, and for how long: idle nodes that wait, nodes that let a lease expire, late tiles.

Law: a tile is lent under a lease that ends by itself, and never to a node that is suspected of being dead or of lying.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass

from edge_agent.thief import RETRY_S
from edge_agent.tiles import NEVER, TileQueue
from schemas.contract import messages as m
from schemas.contract.keys import LaneKey

HAND_S = 1.5 * RETRY_S  # an idle node that lives has repeated its request by then
LATE, LATE_S = 1.5, 0.5  # a lent tile is late after so many times what others took, and never before so many seconds
FADES = 0.95  # what the slowest took counts so much less with each tile that comes back
SUSPECT_S = 8.0  # the gateway knows by then whether a thief is dead


@dataclass(frozen=True)
class Loan:
    """A tile that is lent now, for so many seconds; ``again``: somebody else has it, too, and is late."""

    key: LaneKey
    lease_s: float
    again: bool


class Lending:
    """Lends from ``tiles``. ``takers``: tiles that take overlaps from neighbours, lent last; ``always_in_time``: no tile
    is late, for tiles of several blocks wait for each other, or the schedule knows no stealing.
    """

    def __init__(
        self, tiles: TileQueue, takers: Container[int], always_in_time: bool, may_lend: Callable[[str], bool]
    ) -> None:
        self._tiles, self._takers, self._always_in_time, self._may_lend = tiles, takers, always_in_time, may_lend
        self._lent_at: dict[LaneKey, float] = {}  # tiles that were lent once, since when
        self._turn_s = 0.0  # how long the slowest of them took lately, from lending to acceptance; 0: not known
        self._suspects: dict[str, float] = {}  # thieves that let a lease expire, and until when they get no other
        self._knows: dict[str, int] = {}  # the tile that each thief had last: its class is loaded there
        self.parked: dict[str, tuple[m.Steal, float]] = {}  # idle nodes that wait for our next frame, and since when

    def lend(self, steal: m.Steal, now: float, lease_s: float) -> Loan | None:
        """The tile for a thief; None: nothing is waiting, or not for this one."""
        if now < self._suspects.get(steal.thief, now) or not self._may_lend(steal.thief):
            return None
        prefer, overdue_s = self._knows.get(steal.thief), self._overdue_s()
        key = self._tiles.lend(steal.thief, steal.request, steal.ahead, now, lease_s, prefer, self._takers, overdue_s)
        again = False
        if key is not None:
            self._lent_at[key] = now
        elif not steal.ahead and not self._tiles.waiting:
            key = self._tiles.lend_again(steal.thief, steal.request, now, lease_s)
            if key is not None:
                self._lent_at.pop(key, None)
                again = True
        if key is None:
            return None
        self._knows[steal.thief] = key[1]
        return Loan(key, lease_s, again)

    def park(self, steal: m.Steal, now: float) -> bool:
        """Keeps the request of an idle node for the next frame, if it may be lent one."""
        if steal.ahead or steal.thief in self._suspects:
            return False
        self.parked[steal.thief] = (steal, now)
        return True

    def deal(self, keep: bool, now: float, lease_s: float) -> list[tuple[m.Steal, Loan]]:
        """Waiting tiles to the nodes that wait for them, the largest to the fastest. ``keep``: one is left for us.

        Where none waits, those get them that are late elsewhere.
        """
        dealt = []
        for thief in sorted(self.parked, key=lambda name: (-self.parked[name][0].flops_s, name)):
            steal, since = self.parked[thief]
            waiting = self._tiles.waiting
            if now >= since + HAND_S:
                del self.parked[thief]
            elif (not waiting or waiting > keep) and (loan := self.lend(steal, now, lease_s)):
                del self.parked[thief]
                dealt.append((steal, loan))
        return dealt

    def suspect(self, thief: str, now: float) -> None:
        """It let a lease expire, or failed: it gets no tile for a while."""
        self._suspects[thief] = now + SUSPECT_S

    def expire(self, now: float) -> list[LaneKey]:
        """Tiles whose lease has ended unanswered; suspicions end, too."""
        expired = self._tiles.expire(now)
        for key, thief in expired:
            self._lent_at.pop(key, None)
            self.suspect(thief, now)
        self._suspects = {thief: until for thief, until in self._suspects.items() if now < until}
        return [key for key, _ in expired]

    def came_back(self, accepted: m.Accepted, now: float) -> None:
        """How long tiles took that were lent."""
        for tile in accepted.tiles:
            since = self._lent_at.pop((accepted.frame, tile), None)
            if since is not None:
                self._turn_s = max(now - since, FADES * self._turn_s)
        if accepted.ended:
            self._lent_at = {key: since for key, since in self._lent_at.items() if key[0] != accepted.frame}

    def deadline(self) -> float | None:
        """When a tile is late that a node which waits could compute again."""
        if self._tiles.waiting:
            return None
        waits = {thief: since for thief, (_, since) in self.parked.items() if thief not in self._suspects}
        return min((at for t, since in waits.items() if (at := self._tiles.overdue_at(t)) < since + HAND_S), default=None)

    def _overdue_s(self) -> float:
        """When a tile that is lent now is late: half as long again as the slowest took lately, whatever that was spent on."""
        if not self._turn_s or self._always_in_time:
            return NEVER
        return max(LATE_S, LATE * self._turn_s)
