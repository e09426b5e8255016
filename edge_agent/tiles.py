"""This edge's own tiles: who has each of them, from the camera's frame until the frame's outcome.

    Waiting --take--> Computing --computed--> Sent --accept--> Done --accept(ended)--> gone
       |                  '--computed(passed)-> Passed --accept--^
       |  ^--put_back--'  ^------put_back------'                 |
       |  ^------------requeue (gateway restarted), restart------'   (restart from Passed, too)
       +--lend--> Lent --expire, hand_back of the last lease, requeue, restart--> Waiting
                 |    ^--expire, hand_back of one of two--.
                 '--lend_again, once, when overdue--> Lent twice --requeue, restart--> Waiting

``computed`` leads to Sent from Waiting and Lent, too, when a lane outlives the restart of its frame.
A tile that has passed is in the hands of the lane that computes the rest of the frame whole. ``accept`` leads from
every state to Done, ``accept(ended)`` from every state out. Law: a tile is in exactly one state and leaves only with its
whole frame, when the gateway has named its outcome; so everything can be computed again.
The own engine takes from the front of the oldest frame, thieves from its back: they meet as late as possible. A tile that
is lent twice has two leases, each of which ends by itself; the first result counts, and the gateway passes over the other.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

from schemas.contract.keys import LaneKey


@dataclass(frozen=True)
class Waiting:
    """Nobody has it."""


@dataclass(frozen=True)
class Computing:
    """In the own engine."""


NEVER = float("inf")


@dataclass(frozen=True)
class Lease:
    """A thief has a tile under its request, ``until`` this time (monotonic seconds); after ``overdue`` it is late."""

    thief: str
    request: str
    until: float
    overdue: float = NEVER


@dataclass(frozen=True)
class Lent:
    """One thief has it, or two; ``again``: a second one has got it, which happens once."""

    leases: tuple[Lease, ...]
    again: bool = False


@dataclass(frozen=True)
class Sent:
    """Computed here; the result is in the outbox and not accepted yet."""


@dataclass(frozen=True)
class Passed:
    """Computed here, and what it made is for the lane that goes on; that lane's result answers for this tile."""


@dataclass(frozen=True)
class Done:
    """The gateway has accepted a result for it; the frame has not ended yet."""


State: TypeAlias = Waiting | Computing | Lent | Sent | Passed | Done


class TileQueue:
    """The open frames of this edge, oldest first, each a dict of its tiles in the plan's order."""

    def __init__(self, answers: Iterable[tuple[int, int]] = ()) -> None:
        """``answers``: block and lane of each task whose result the gateway gets; without any the first counts."""
        self.ignored: Counter[str] = Counter()
        self._frames: dict[str, dict[LaneKey, State]] = {}
        self._answers: dict[int, set[int]] = {}
        for block, lane in answers:
            self._answers.setdefault(lane, set()).add(block)
        self._lacks: dict[LaneKey, set[int]] = {}  # blocks whose answers have not been accepted, of lanes that have some

    def add(self, frame: str, keys: Sequence[LaneKey]) -> None:
        """Queue tiles of ``frame`` in the plan's order; a frame that is new is the newest."""
        tiles = self._frames.setdefault(frame, {})
        for key in keys:
            if key in tiles:
                self.ignored["tile added twice"] += 1
            else:
                tiles[key] = Waiting()

    def take(self, now: float) -> LaneKey | None:
        """The next tile for the own engine."""
        key = next(self._waiting(), None)
        if key:
            self._set(key, Computing())
        return key

    def take_whole(self) -> str | None:
        """The oldest frame with waiting tiles, all of it for the own engine, if nobody has had any tile of it."""
        key = next(self._waiting(), None)
        if key is None or any(not isinstance(state, Waiting) for state in self._frames[key[0]].values()):
            return None
        self._frames[key[0]] = dict.fromkeys(self._frames[key[0]], Computing())
        return key[0]

    def lend(
        self,
        thief: str,
        request: str,
        ahead: bool,
        now: float,
        lease_s: float,
        prefer: int | None = None,
        keep: Container[int] = (),
        overdue_s: float = NEVER,
    ) -> LaneKey | None:
        """The tile that ``thief`` gets under ``request``; None: nothing to lend. It is late after ``overdue_s``.

        A request that holds a lease already gets the same tile again, the lease unchanged. A thief that asks ``ahead``,
        while it still computes, never gets the last waiting tile. ``prefer``: the tile that it knows how to
        compute; ``keep``: tiles that are lent last, for here they are cheaper.
        """
        for key, lease in self._leases():
            if (lease.thief, lease.request) == (thief, request):
                self.ignored["steal repeated"] += 1
                return key
        waiting = list(self._waiting())
        if len(waiting) < (2 if ahead else 1):
            return None
        oldest = [key for key in waiting if key[0] == waiting[0][0]]
        others = [key for key in oldest[1:] if key[1] not in keep] or oldest[-1:]
        key = next((key for key in oldest[1:] if key[1] == prefer), others[-1])
        self._set(key, Lent((Lease(thief, request, now + lease_s, now + overdue_s),)))
        return key

    def lend_again(self, thief: str, request: str, now: float, lease_s: float) -> LaneKey | None:
        """The tile of the oldest frame that has been late for longest, for a second thief; None: nothing is late."""
        late = self._overdue(thief)
        if not late or late[0][0] > now:
            return None
        _, key, lent = late[0]
        self._set(key, Lent((*lent.leases, Lease(thief, request, now + lease_s)), again=True))
        return key

    def overdue_at(self, thief: str) -> float:
        """When there is a tile for ``lend_again``, if nothing happens before."""
        return min((at for at, _, _ in self._overdue(thief)), default=NEVER)

    def computed(self, key: LaneKey, passed: bool = False) -> bool:
        """The own engine is through with ``key``. False: nobody needs the result, a thief was first.

        ``passed``: it has no result, the rest of its frame is with another lane.
        """
        if not isinstance(self.state(key), Computing | Waiting | Lent):  # the latter two: its frame was restarted meanwhile
            self.ignored["computed too late"] += 1
            return False
        self._set(key, Passed() if passed else Sent())
        return True

    def computed_whole(self, frame: str) -> bool:
        """The own engine is through with all of a frame that ``take_whole`` gave. False: it has ended meanwhile."""
        return sum([self.computed(key) for key in self._frames.get(frame, {})]) > 0

    def restart(self, frame: str) -> None:
        """Every tile of the frame waits again: what one of them made for its neighbours is lost."""
        self._frames[frame].update(dict.fromkeys(self._frames[frame], Waiting()))

    def put_back(self, key: LaneKey) -> None:
        """The own engine failed, or the outbox dropped the result: the tile waits again."""
        if isinstance(self.state(key), Computing | Sent):
            self._set(key, Waiting())
        else:
            self.ignored["put back too late"] += 1

    def accept(self, frame: str, block: int, tiles: Sequence[int], ended: bool) -> None:
        """The gateway has the results of this block of these lanes; ``ended``: the frame has its outcome."""
        mine = self._frames.get(frame)
        if mine is None:
            self.ignored["accepted: unknown frame"] += 1
            return
        for tile in tiles:
            if (frame, tile) not in mine:
                self.ignored["accepted: unknown tile"] += 1
                continue
            lacks = self._lacks.setdefault((frame, tile), set(self._answers.get(tile, ())))
            lacks.discard(block)
            if not lacks:
                mine[frame, tile] = Done()
        if ended:
            del self._frames[frame]
            self._lacks = {key: lacks for key, lacks in self._lacks.items() if key[0] != frame}

    def expire(self, now: float) -> list[tuple[LaneKey, str]]:
        """Tiles of which a lease has ended unanswered, and who had it; a tile that nobody else has waits again."""
        expired = [(key, lease) for key, lease in self._leases() if lease.until <= now]
        for key, lease in expired:
            self._end(key, lease)
        return [(key, lease.thief) for key, lease in expired]

    def hand_back(self, key: LaneKey, thief: str) -> None:
        """The thief leaves and will not compute ``key``: it waits again, unless somebody else has it, too."""
        lease = next((lease for lent, lease in self._leases() if (lent, lease.thief) == (key, thief)), None)
        if lease:
            self._end(key, lease)
        else:
            self.ignored["handed back: not lent"] += 1

    def requeue(self, whole: bool = False) -> None:
        """The gateway restarted and has forgotten every result: only what this edge still holds need not wait again.

        ``whole``: what the tiles of a frame made for each other is used up, so that one of them needs them all again.
        """
        self._lacks.clear()
        for frame, tiles in self._frames.items():
            if whole and any(isinstance(state, Done) for state in tiles.values()):
                self.restart(frame)
            for key, state in tiles.items():
                if isinstance(state, Lent | Done):
                    self._set(key, Waiting())

    def deadline(self) -> float | None:
        """When the earliest lease ends."""
        return min((lease.until for _, lease in self._leases()), default=None)

    def state(self, key: LaneKey) -> State | None:
        """Who has ``key``; None: not a tile of an open frame."""
        return self._frames.get(key[0], {}).get(key)

    @property
    def next(self) -> LaneKey | None:
        """The tile that the own engine takes next."""
        return next(self._waiting(), None)

    @property
    def frames(self) -> tuple[str, ...]:
        """Frames without an outcome, oldest first."""
        return tuple(self._frames)

    @property
    def waiting(self) -> int:
        """Tiles that nobody has."""
        return sum(1 for _ in self._waiting())

    @property
    def lent(self) -> int:
        """Tiles under a lease."""
        return sum(isinstance(state, Lent) for _, state in self._all())

    @property
    def tiles(self) -> Mapping[LaneKey, State]:
        """A copy of every tile's state, for people and tests."""
        return MappingProxyType(dict(self._all()))

    def _all(self) -> Iterator[tuple[LaneKey, State]]:
        return (item for tiles in self._frames.values() for item in tiles.items())

    def _leases(self) -> list[tuple[LaneKey, Lease]]:
        return [(key, lease) for key, state in self._all() if isinstance(state, Lent) for lease in state.leases]

    def _end(self, key: LaneKey, lease: Lease) -> None:
        """One lease of a lent tile is over."""
        state = self.state(key)
        assert isinstance(state, Lent)
        left = tuple(other for other in state.leases if other != lease)
        self._set(key, replace(state, leases=left) if left else Waiting())

    def _overdue(self, thief: str) -> list[tuple[float, LaneKey, Lent]]:
        """When each tile of the oldest frame is late that ``thief`` may get besides another, earliest first."""
        oldest = next(iter(self._frames.values()), {})
        lent = [(key, state) for key, state in oldest.items() if isinstance(state, Lent) and not state.again]
        found = [(state.leases[0].overdue, key, state) for key, state in lent if state.leases[0].thief != thief]
        return sorted((late for late in found if late[0] < NEVER), key=lambda late: late[:2])

    def _waiting(self) -> Iterator[LaneKey]:
        return (key for key, state in self._all() if isinstance(state, Waiting))

    def _set(self, key: LaneKey, state: State) -> None:
        self._frames[key[0]][key] = state
