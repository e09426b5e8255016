"""The overlap pool: strips that tiles of a block have made for neighbours which run, or will run, on other nodes.

It knows frames, tiles and the names of nodes, no socket and no clock. Laws: what is not here is no error, for its taker
computes it; a taker's strips leave only all together, to one node, without what that node has made; all of a frame goes with
its outcome, and the oldest frame's when there are too many bytes.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from models.strips import Shelf
from models.trade import Tensors, Trade

LIMIT = 32 << 20  # bytes
FRAMES = 64


class Handed(NamedTuple):
    """Strips of tile ``maker`` for tile ``taker``, to be sent to the node ``to``."""

    to: str
    frame: str
    taker: int
    maker: int
    tensors: Tensors


@dataclass
class _Frame:
    to: dict[int, str] = field(default_factory=dict)  # taker -> who will compute it and has not got its strips
    workers: dict[int, str] = field(default_factory=dict)  # maker -> who has computed it


class OverlapPool:
    """The strips of all frames in flight. ``counts`` tells what became of them."""

    def __init__(self, trade: Trade, limit: int = LIMIT) -> None:
        self.counts: Counter[str] = Counter()
        self.trade = trade
        self._shelf = Shelf(limit, FRAMES)
        self._frames: dict[str, _Frame] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all strips."""
        return self._shelf.nbytes

    @property
    def dropped(self) -> int:
        """Frames whose strips had to go before their outcome."""
        return self._shelf.dropped

    def put(self, frame: str, layer: int, taker: int, maker: int, tensors: Tensors) -> list[Handed]:
        """Strips come; returns what is to be sent now.

        Raises:
            DecodeError: they are not what the plan says.
        """
        self.trade.check(taker, maker, tensors)
        held = self._frame(frame)
        if layer or taker in held.workers:
            self.counts["strips too late"] += 1
            return []
        new = self._shelf.put(frame, taker, maker, tensors)
        self.counts["strips" if new else "strips repeated"] += 1
        return self._hand(frame, taker)

    def ask(self, frame: str, taker: int, to: str | None) -> list[Handed]:
        """``to`` will compute ``taker`` and lacks its strips (None: nobody knows yet who will); what to send now."""
        if to is None or taker not in self.trade.strips:
            return []
        self._frame(frame).to[taker] = to
        return self._hand(frame, taker)

    def computed(self, frame: str, tile: int, node: str) -> None:
        """A result of ``node`` for ``tile`` is here: the tile needs no strips any more."""
        if self.trade.strips:
            held = self._frame(frame)
            held.workers.setdefault(tile, node)
            held.to.pop(tile, None)
            self._shelf.remove(frame, tile)

    def end(self, frame: str) -> None:
        """The frame has its outcome."""
        self._frames.pop(frame, None)
        self._shelf.forget(frame)

    def _hand(self, frame: str, taker: int) -> list[Handed]:
        held, here = self._frame(frame), self._shelf.get(frame, taker)
        to = held.to.get(taker)
        if to is None:
            return []
        foreign = [maker for maker in self.trade.makers(taker) if held.workers.get(maker) != to]
        if not here.keys() >= set(foreign):
            return []
        del held.to[taker]
        self.counts["strips passed on"] += len(foreign)
        return [Handed(to, frame, taker, maker, here[maker]) for maker in foreign]

    def _frame(self, frame: str) -> _Frame:
        held = self._frames.setdefault(frame, _Frame())
        for old in list(self._frames)[:-FRAMES]:
            self.end(old)
        return held
