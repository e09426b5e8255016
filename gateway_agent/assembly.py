"""The frames that the gateway has heard of: which tiles are here, which frames are whole, which have ended.

    unheard --announce--> OpenFrame --last tile--> Finishing (the tail runs) --ended or fail--> remembered as ended
                            '--deadline, source lost or restarted, fail--> remembered as ended

Law: only its source opens a frame and so gives it a number; it merges once and whole, and ends exactly once. The first
result for a tile counts; a frame holds a dict of tiles, never a counter, so a repeated result can not stand for a missing
one. What ended is remembered by name, and beyond ``memory`` names by the highest number of its source and epoch: it never
opens again. A frame that its source lists no longer (a gateway before this one ended it) is a leftover: it may complete,
but never fails, it is forgotten.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeAlias, TypeVar

from schemas.contract.messages import frame_source

P = TypeVar("P")


@dataclass(frozen=True)
class Part(Generic[P]):
    """One tile's result."""

    worker: str
    stolen: bool
    payload: P


@dataclass(frozen=True)
class OpenFrame(Generic[P]):
    """Tiles are missing. ``announced``: its source listed it in its last heartbeat; it fails after ``deadline_s``."""

    first_heard: float
    announced: bool
    deadline_s: float
    parts: dict[tuple[int, int], Part[P]] = field(default_factory=dict)


@dataclass(frozen=True)
class Finishing:
    """Every tile was here, computed by these nodes; the tail runs."""

    first_heard: float
    workers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Complete(Generic[P]):
    """A whole frame: payload by (block, tile), and how many tiles each node computed and, of these, stole."""

    frame: str
    tiles: dict[tuple[int, int], P]
    computed: dict[str, int]
    stolen: dict[str, int]
    first_heard: float
    workers: dict[tuple[int, int], tuple[str, bool]] = field(default_factory=dict)  # (block, tile) -> node, stolen


@dataclass(frozen=True)
class Failed:
    """A frame that ended without a result, and why."""

    frame: str
    reason: str
    latency_s: float


@dataclass(frozen=True)
class Verdict(Generic[P]):
    """What to say of a result. ``accepted``: the sender may forget it; ``ended``: and its whole frame."""

    accepted: bool
    ended: bool = False
    complete: Complete[P] | None = None


@dataclass(frozen=True)
class Announced:
    """``ended``: frames that the source lists though they have ended; ``failed``: those of its last epoch."""

    ended: tuple[str, ...] = ()
    failed: tuple[Failed, ...] = ()


State: TypeAlias = OpenFrame[P] | Finishing


class Assembly(Generic[P]):
    """Frames by id. ``answers``: block and lane of each task whose result is awaited; with all of them a frame is whole."""

    def __init__(self, answers: Iterable[tuple[int, int]], deadline_s: float = 120.0, memory: int = 1024) -> None:
        self.ignored: Counter[str] = Counter()
        self._answers = frozenset(answers)
        self._deadline_s = deadline_s
        self._memory = memory
        self._frames: dict[str, State[P]] = {}
        self._ended: dict[str, None] = {}  # apart from the living, which every message scans
        self._forgotten: dict[tuple[str, str], int] = {}  # (source, epoch): the highest ended number not in _ended
        self._sources: dict[str, tuple[str, str]] = {}  # the epoch of each, and the one before it, which is stale

    def announce(
        self, source: str, epoch: str, frames: Sequence[str], now: float, deadline_s: float | None = None
    ) -> Announced:
        """A source's heartbeat: all frames that it has open. Those of an epoch before this one fail.

        ``deadline_s``: what the source wants instead of the default.
        """
        current, before = self._sources.get(source, (epoch, ""))
        if epoch == before:
            self.ignored["announced: stale epoch"] += 1
            return Announced()
        failed = [] if epoch == current else self._retire(source, current, now)
        self._sources[source] = (epoch, before if epoch == current else current)
        for frame, state in self._frames.items():
            if isinstance(state, OpenFrame) and state.announced and frame_source(frame)[:2] == (source, epoch):
                self._frames[frame] = replace(state, announced=frame in frames)
        ended = [frame for frame in frames if not self._hear(source, epoch, frame, now, deadline_s)]
        return Announced(tuple(ended), tuple(failed))

    def result(
        self, frame: str, block: int, tile: int, worker: str, stolen: bool, payload: P
    ) -> Verdict[P]:
        """A tile's result. ``Complete`` comes with the one that makes the frame whole, once."""
        if (block, tile) not in self._answers:
            self.ignored["result: no such tile"] += 1
            return Verdict(accepted=False)
        if self.has_ended(frame):
            self.ignored["result: frame has ended"] += 1
            return Verdict(accepted=True, ended=True)
        state = self._frames.get(frame)
        if state is None:
            self.ignored["result: not announced"] += 1
            return Verdict(accepted=False)
        if isinstance(state, Finishing) or (block, tile) in state.parts:
            self.ignored["result: repeated"] += 1
            return Verdict(accepted=True)
        state.parts[block, tile] = Part(worker, stolen, payload)
        if self._answers - state.parts.keys():
            return Verdict(accepted=True)
        self._frames[frame] = Finishing(state.first_heard, frozenset(part.worker for part in state.parts.values()))
        return Verdict(accepted=True, complete=_merge(frame, state))

    def ended(self, frame: str, now: float) -> float | None:
        """The tail is through. Returns the latency in seconds; None: publish nothing, the frame has its outcome."""
        state = self._frames.get(frame)
        if not isinstance(state, Finishing):
            self.ignored["ended: not finishing"] += 1
            return None
        self._end(frame)
        return now - state.first_heard

    def fail(self, frame: str, reason: str, now: float) -> Failed | None:
        """The frame can not be finished. None: it has its outcome already, or was never heard of."""
        state = self._frames.get(frame)
        if state is None:
            self.ignored["failed: not open"] += 1
            return None
        self._end(frame)
        return Failed(frame, reason, now - state.first_heard)

    def expire(self, now: float) -> list[Failed]:
        """Frames that are not whole in time after the first word of them."""
        late = {s.deadline_s for s in self._frames.values() if isinstance(s, OpenFrame) and s.first_heard + s.deadline_s <= now}
        return [
            failed
            for wanted_s in sorted(late)
            for failed in self._give_up(
                now,
                f"deadline of {wanted_s:.1f} s passed",
                lambda _, s: s.deadline_s == wanted_s and s.first_heard + s.deadline_s <= now,  # noqa: B023
            )
        ]

    def source_lost(self, source: str, now: float, reason: str = "source lost") -> list[Failed]:
        """The source is dead or has left: its frames that are not whole fail. Which epoch comes next is open again."""
        self._sources.pop(source, None)
        return self._give_up(now, reason, lambda f, state: state.announced and frame_source(f)[0] == source)

    def distrust(self, source: str, workers: Collection[str], all_of_it: bool, now: float) -> list[Failed]:
        """The source has found bits of ``workers`` wrong: its frames that hold a tile of theirs fail, for who knows.

        ``all_of_it``: all that have not ended, for their tiles give each other parts.
        """
        reason, failed = f"bits of {', '.join(sorted(workers))} were wrong", []
        for frame, state in [(f, s) for f, s in self._frames.items() if frame_source(f)[0] == source]:
            theirs = state.workers if isinstance(state, Finishing) else {part.worker for part in state.parts.values()}
            if all_of_it or not theirs.isdisjoint(workers):
                failed.append(self.fail(frame, reason, now))
        return [failure for failure in failed if failure is not None]

    def deadline(self) -> float | None:
        """When the next frame fails."""
        return min((s.first_heard + s.deadline_s for s in self._frames.values() if isinstance(s, OpenFrame)), default=None)

    def has_ended(self, frame: str) -> bool:
        """Whether it has its outcome, as far as is remembered."""
        source, epoch, number = frame_source(frame)
        known = frame in self._ended or number <= self._forgotten.get((source, epoch), -1)
        return known and frame not in self._frames

    def is_open(self, frame: str) -> bool:
        """Whether it has been heard of and is not whole yet."""
        return isinstance(self._frames.get(frame), OpenFrame)

    def is_finishing(self, frame: str) -> bool:
        """Whether it is whole and its tail runs."""
        return isinstance(self._frames.get(frame), Finishing)

    def lacks(self, frame: str, block: int, tile: int) -> bool:
        """Whether the frame is open and nobody's result for this tile is here."""
        state = self._frames.get(frame)
        return isinstance(state, OpenFrame) and (block, tile) not in state.parts

    def remember(self, ended: Iterable[str], forgotten: Iterable[str] = ()) -> None:
        """Frames that ended under a gateway before this one; of ``forgotten`` ones those before them in their epoch, too."""
        for frame in forgotten:
            source, epoch, number = frame_source(frame)
            self._forget((source, epoch), number)
        for frame in ended:
            self._end(frame)

    @property
    def frames(self) -> tuple[str, ...]:
        """Frames heard of that have not ended."""
        return tuple(self._frames)

    def _hear(self, source: str, epoch: str, frame: str, now: float, deadline_s: float | None) -> bool:
        """OpenFrame an announced frame. False: it has ended."""
        if frame_source(frame)[:2] != (source, epoch):
            self.ignored["announced: not its frame"] += 1
            return True
        if self.has_ended(frame):
            return False
        wanted_s = self._deadline_s if deadline_s is None else deadline_s
        state = self._frames.setdefault(frame, OpenFrame(now, True, wanted_s))
        if isinstance(state, OpenFrame) and not state.announced:
            self._frames[frame] = replace(state, announced=True)
        return True

    def _retire(self, source: str, epoch: str, now: float) -> list[Failed]:
        """Fail what is not whole of an epoch that is over; a frame on which the tail runs goes on."""
        whose = (source, epoch)
        return self._give_up(now, "source restarted", lambda f, s: s.announced and frame_source(f)[:2] == whose)

    def _give_up(self, now: float, reason: str, which: Callable[[str, OpenFrame[P]], bool]) -> list[Failed]:
        given_up = [(f, s) for f, s in self._frames.items() if isinstance(s, OpenFrame) and which(f, s)]
        failed = []
        for frame, state in given_up:
            if state.announced:
                have = f"{reason} with {len(state.parts)} of {len(self._answers)} tiles"
                failed.append(Failed(frame, have, now - state.first_heard))
                self._end(frame)
            else:
                self.ignored["leftover of a frame that its source lists no more"] += len(state.parts)
                del self._frames[frame]
        return failed

    def _end(self, frame: str) -> None:
        self._frames.pop(frame, None)
        self._ended[frame] = None
        while len(self._ended) > self._memory:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            source, epoch, number = frame_source(oldest)
            self._forget((source, epoch), number)

    def _forget(self, whose: tuple[str, str], number: int) -> None:
        self._forgotten[whose] = max(number, self._forgotten.pop(whose, -1))
        while len(self._forgotten) > self._memory:
            del self._forgotten[next(iter(self._forgotten))]


def _merge(frame: str, state: OpenFrame[P]) -> Complete[P]:
    computed = Counter(part.worker for part in state.parts.values())
    stolen = Counter(part.worker for part in state.parts.values() if part.stolen)
    tiles = {where: part.payload for where, part in state.parts.items()}
    workers = {where: (part.worker, part.stolen) for where, part in state.parts.items()}
    return Complete(frame, tiles, dict(computed), dict(stolen), state.first_heard, workers)
