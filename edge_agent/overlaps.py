"""Strips inside a block with reuse, between nodes: which this node makes, publishes, asks for and takes.

Whoever computes a tile that gives keeps its strips. The source knows who has which tile: once all makers of a tile are
through and it has not begun, the source asks for its strips, so that they are at the gateway's pool, or at the node itself,
when its turn comes. Law: nobody waits for a strip, none travels unless that pays (``models.trade``), and none to its maker.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_agent.lanes import Strip
from edge_agent.tiles import Done, Lent, Sent, State, TileQueue, Waiting
from models.strips import Shelf
from models.trade import Tensors, Trade
from schemas import messages as m
from schemas.keys import Key

LIMIT = 16 << 20  # bytes of strips made here, and as many of others'
FRAMES = 6  # whose strips are kept: a thief does not hear when a frame ends
RECORDS = 64  # more than any source has open


class Ask(NamedTuple):
    """To say to all: tile ``taker`` lacks strips; ``to``: the node that will compute it, if that is known."""

    frame: str
    taker: int
    to: str | None


class Rates(NamedTuple):
    """Effort a second of an engine and bytes a second of the link; 0: not known."""

    flops_s: float
    bytes_s: float


@dataclass
class _Frame:
    wanted: frozenset[int] = frozenset()  # takers that may want what this node, a thief, makes
    begun: set[int] = field(default_factory=set)  # takers that need nothing any more, here
    said: set[tuple[int, int]] = field(default_factory=set)  # (taker, maker) that were published
    asked: dict[int, tuple[str | None, float]] = field(default_factory=dict)  # taker -> for whom, and since when
    starts: dict[int, float] = field(default_factory=dict)  # tile that is lent ahead -> when its thief may begin it


class Overlaps:
    """The strips of the frames that this node, ``name``, has to do with."""

    def __init__(self, name: str, trade: Trade) -> None:
        self.counts: Counter[str] = Counter()
        self.trade = trade
        self._name = name
        self._made, self._come = Shelf(LIMIT, FRAMES), Shelf(LIMIT, FRAMES)
        self._frames: dict[str, _Frame] = {}
        self._free: dict[str, float] = {}  # node -> when it may be through with what it has of this node

    # -- the engine's side

    def want(self, frame: str, takers: Collection[int]) -> None:
        """The source of a stolen tile says which of its neighbours may want strips."""
        if takers:
            held = self._frame(frame)
            held.wanted = held.wanted.union(takers)

    def begin(self, frame: str, tile: int, effort: int, rates: Rates, now: float) -> tuple[bool, Mapping[int, Tensors]]:
        """``tile``, of another node's frame or the own, of so much effort, runs now.

        Returns whether strips have to do with it, and those that came for it.
        """
        if not self.trade.strips:
            return False, {}
        held, come = self._frame(frame), self._come.get(frame, tile)
        held.begun.add(tile)
        self._come.remove(frame, tile)
        here = come.keys() | self._made.get(frame, tile).keys()
        whole = bool(here) and here >= self.trade.makers(tile)
        self._free[self._name] = now + _seconds(effort - self.trade.saved[tile] if whole else effort, rates.flops_s)
        if tile in held.asked or come:
            self.counts["strips in time" if whole else "strips late"] += 1
        return bool(here) or not held.wanted.isdisjoint(self.trade.takers(tile)), come

    def made(self, frame: str, maker: int, strips: Mapping[int, Tensors]) -> None:
        """What the engine has made for other tiles, by taker."""
        for taker, tensors in strips.items():
            self._made.put(frame, taker, maker, tensors)

    def hear(self, strip: Strip) -> None:
        """The pool passes on what ``strip.maker`` has made for ``strip.tile``.

        Raises:
            DecodeError: that is not what the plan says.
        """
        self.trade.check(strip.tile, strip.maker, strip.tensors)
        if strip.tile in self._frame(strip.frame).begun:
            self.counts["strip came too late"] += 1
        elif not self._come.put(strip.frame, strip.tile, strip.maker, strip.tensors):
            self.counts["strip repeated"] += 1

    def answer(self, ask: Ask) -> list[Strip]:
        """What this node has made for a tile, once, unless it is to compute that tile itself."""
        if ask.to == self._name:
            return []
        said, made = self._frame(ask.frame).said, self._made.get(ask.frame, ask.taker)
        new = [maker for maker in made if (ask.taker, maker) not in said]
        said.update((ask.taker, maker) for maker in new)
        self.counts["strips published"] += len(new)
        return [Strip(ask.frame, 0, ask.taker, maker, made[maker]) for maker in new]

    # -- the source's side

    def takers(self, tile: int, state: Callable[[int], State | None], rates: Rates) -> tuple[int, ...]:
        """The neighbours that may want strips of ``tile``, which is lent."""
        open_ = (Waiting, Lent)
        return tuple(t for t in self.trade.takers(tile) if isinstance(state(t), open_) and self.trade.pays(t, *rates))

    def keep(self, tiles: TileQueue, frame: str, last: int, rates: Rates) -> set[int]:
        """Tiles to lend last: those that depend on unfinished ones, and where strips do not travel all that take any."""
        return {
            t for t in self.trade.strips
            if not self.trade.pays(t, *rates) or not self._is_ready(t, lambda m: tiles.state((frame, last, m)))
        }  # fmt: skip

    def asks(self, tiles: TileQueue, last: int, rates: Callable[[str | None], Rates], now: float) -> list[Ask]:
        """What to ask for now. ``last`` as in the tiles' keys; ``rates`` of a node by its name (None: nobody known)."""
        found = []
        for frame in tiles.frames if self.trade.strips else ():
            for taker in self.trade.strips:
                state = tiles.state(key := (frame, last, taker))
                thief = state.leases[-1].thief if isinstance(state, Lent) else None
                if not isinstance(state, Waiting | Lent) or not self.trade.pays(taker, *rates(thief)):
                    continue
                if not self._is_ready(taker, lambda m, frame=frame: tiles.state((frame, last, m))):  # type: ignore[misc]
                    continue
                to, asked = self._whose(tiles, key, now, rates), self._frame(frame).asked.get(taker)
                if to == "" or (asked is not None and to in (asked[0], None)):
                    continue
                found.append(self._ask(frame, taker, to, now))
        return found

    def lent(self, key: Key, steal: m.Steal, effort: int, rates: Rates, now: float) -> list[Ask]:
        """A thief gets this tile of so much effort. One that begins at once gets strips if they must be in the pool."""
        (frame, _, tile), thief = key, steal.thief
        if not self.trade.strips:
            return []
        held, start = self._frame(frame), max(now, self._free.get(thief, now) if steal.ahead else now)
        self._free[thief] = start + _seconds(effort, rates.flops_s)
        held.starts[tile] = start
        asked = held.asked.get(tile)
        if steal.ahead or asked is None or asked[0] == thief or not self.trade.pays(tile, *rates):
            return []
        arrived = now >= asked[1] + self.trade.bytes(tile) / rates.bytes_s
        return [self._ask(frame, tile, thief, now)] if arrived else []

    # -- both

    def restart(self) -> None:
        """The gateway restarted, and the pool is empty."""
        for held in self._frames.values():
            held.said.clear()
            held.asked.clear()

    def end(self, frame: str) -> None:
        """The frame has its outcome."""
        self._frames.pop(frame, None)
        self._made.forget(frame)
        self._come.forget(frame)

    def _is_ready(self, taker: int, state: Callable[[int], State | None]) -> bool:
        return all(isinstance(state(maker), Sent | Done) for maker in self.trade.makers(taker))

    def _whose(self, tiles: TileQueue, key: Key, now: float, rates: Callable[[str | None], Rates]) -> str | None:
        """Who will compute a tile: a node, None for whoever asks for it; empty: strips are of no use, or come too late."""
        state, (frame, _, tile) = tiles.state(key), key
        if isinstance(state, Lent):
            to, start = state.leases[-1].thief, self._frame(frame).starts.get(tile, now)
        elif not isinstance(state, Waiting):
            return ""
        elif key != tiles.next:
            return None if tiles.lent else ""
        elif self._made.get(frame, tile).keys() | self._come.get(frame, tile).keys() >= self.trade.makers(tile):
            return ""
        else:
            to, start = self._name, self._free.get(self._name, now)
        return to if now + self._travel_s(frame, tile, rates(to), now) < start else ""

    def _travel_s(self, frame: str, taker: int, rates: Rates, now: float) -> float:
        """Seconds until strips that are asked for now are all there: some may be in the pool, or on the way."""
        hop_s = _seconds(self.trade.bytes(taker), rates.bytes_s)
        asked = self._frame(frame).asked.get(taker)
        return hop_s + (hop_s if asked is None else max(asked[1] + hop_s - now, 0.0))

    def _ask(self, frame: str, taker: int, to: str | None, now: float) -> Ask:
        self._frame(frame).asked[taker] = (to, now)
        self.counts["strips asked for"] += 1
        return Ask(frame, taker, to)

    def _frame(self, frame: str) -> _Frame:
        held = self._frames.setdefault(frame, _Frame())
        for old in list(self._frames)[:-RECORDS]:
            del self._frames[old]
        return held


def _seconds(amount: int, rate: float) -> float:
    """At a rate that is not known it takes none."""
    return amount / rate if rate > 0 else 0.0
