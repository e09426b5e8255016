"""The way of a tile through the blocks of a plan: a lane is one tile of a frame, computed block after block on one node.

    start --block 0--> computed --parts for the neighbours' lanes--> waits for theirs --block 1--> ... --last block--> done

A tile of block k+1 needs its own part of block k, which stays here, and the parts that the neighbours' lanes made. Where a
block is executed whole, lane 0 needs all parts and the other lanes end: their frame is in lane 0's hands. What
this node has made or heard for any lane is kept until newer frames push it out, so that it can be published again for a
node that takes a lane over, or missed it. Law: a lane's tile is computed once all its parts are here, and never with
others' parts than the plan's; a lane that waits too long is told as stuck, for a part can be lost with its maker.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from models.tensor import assemble, crop, part_shape, parts
from schemas.errors import DecodeError
from schemas.keys import Key
from schemas.plan import Plan, Region

FRAMES = 8  # frames whose parts are remembered
FIRST_WANT_S, LAST_WANT_S = 0.5, 4.0

Tensors = Mapping[str, np.ndarray]


class Strip(NamedTuple):
    """Parts that tile ``maker`` of block ``layer`` has made for tile ``tile`` of the next block."""

    frame: str
    layer: int
    tile: int
    maker: int
    tensors: Tensors


class Want(NamedTuple):
    """A lane lacks parts of the blocks from ``layer`` on."""

    frame: str
    layer: int
    tile: int


@dataclass(frozen=True)
class Lane:
    """A lane here: ``block`` is the one to be computed next, since when it waits, and when to ask for its parts.

    ``inputs`` are block 0's, until that is computed; ``picture`` is the size of the source's image; ``spent_s`` are the
    seconds that the engine has had for the blocks before; ``request``: under which it was lent to this node.
    """

    picture: tuple[int, int]
    inputs: Tensors
    since: float
    want_at: float
    block: int = 0
    running: bool = False
    backoff_s: float = FIRST_WANT_S
    spent_s: float = 0.0
    request: str | None = None


def weights(plan: Plan) -> list[float]:
    """How many tiles a tile of each block amounts to: one of a block that is executed whole to several, by its effort."""
    tiles = [tile.effort for block in plan.blocks[: plan.spread] for tile in block.tiles]
    mean = max(sum(tiles) / len(tiles), 1.0)
    return [max(b.tiles[0].effort / mean, 1.0) if b.mode == "whole" else 1.0 for b in plan.blocks]


class Lanes:
    """The lanes of this node, oldest first, and the parts of all frames that it knows."""

    def __init__(self, plan: Plan) -> None:
        self.ignored: Counter[str] = Counter()
        self._plan = plan
        self._last = len(plan.blocks) - 1
        self._spread = plan.spread
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._parts: dict[str, dict[tuple[int, int], dict[int, Tensors]]] = {}  # by frame, (layer, tile) and maker
        self._cuts: dict[tuple[int, int], dict[int, dict[str, Region]]] = {}  # (layer, maker) -> tile -> its regions
        self._makers: dict[tuple[int, int], set[int]] = {}
        for layer in range(self._last):
            for maker in range(len(plan.blocks[layer].tiles)):
                for part in parts(plan, layer, maker):
                    self._cuts.setdefault((layer, maker), {}).setdefault(part.tile, {})[part.tensor] = part.region
                    self._makers.setdefault((layer, part.tile), set()).add(maker)

    def __contains__(self, lane: object) -> bool:
        return lane in self._lanes

    def __len__(self) -> int:
        return len(self._lanes)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._lanes)

    def start(
        self,
        frame: str,
        tile: int,
        inputs: Tensors,
        now: float,
        picture: tuple[int, int] = (0, 0),
        request: str | None = None,
    ) -> None:
        """Begin a lane with its crop of the image; ``picture``: the size that the image came in; ``request``: if lent."""
        if (frame, tile) in self._lanes:
            self.ignored["lane started twice"] += 1
            return
        self._lanes[frame, tile] = Lane(picture, inputs, now, now, request=request)
        self._remember(frame)

    def take(self) -> tuple[Key, Tensors] | None:
        """A tile whose inputs are all here, marked as running: what is furthest in the oldest frame first."""
        ready = [(frame, tile) for frame, tile in self._lanes if self._is_ready(frame, tile)]
        if not ready:
            return None
        oldest = ready[0][0]
        frame, tile = max((lane for lane in ready if lane[0] == oldest), key=lambda lane: self._lanes[lane].block)
        lane = self._lanes[frame, tile]
        self._lanes[frame, tile] = replace(lane, running=True)
        return (frame, lane.block, tile), self._gather(frame, lane.block, tile)

    def computed(self, key: Key, outputs: Tensors, now: float, seconds: float = 0.0) -> list[Strip]:
        """A tile of any block but the last is through, in so many seconds: what other nodes' lanes need of it.

        The lane goes on, or ends where the next block is executed whole in another.
        """
        frame, layer, tile = key
        lane = self._lanes.get((frame, tile))
        if lane is None:
            self.ignored["computed for a lane that is gone"] += 1
            return []
        if self.ends(tile, layer):
            del self._lanes[frame, tile]
        else:
            spent_s = lane.spent_s + seconds
            self._lanes[frame, tile] = Lane(
                lane.picture, {}, now, now + FIRST_WANT_S, layer + 1, spent_s=spent_s, request=lane.request
            )
        self._remember(frame)
        self._parts[frame].pop((layer - 1, tile), None)  # used; whoever takes this lane over asks their makers
        made = [Strip(frame, layer, to, tile, self._cut(layer, tile, to, outputs)) for to in self._cuts[layer, tile]]
        for strip in made:
            self._keep(strip)
        return [strip for strip in made if (frame, strip.tile) not in self._lanes]

    def ends(self, tile: int, layer: int) -> bool:
        """Whether this block is the last that a lane has a tile of."""
        return layer == (self._spread - 1 if tile else self._last)

    def check(self, strip: Strip) -> None:
        """Refuse what is no part of this plan.

        Raises:
            DecodeError: it is not what the plan says.
        """
        wanted = self._cuts.get((strip.layer, strip.maker), {}).get(strip.tile)
        if wanted is None:
            raise DecodeError(f"tile {strip.maker} of block {strip.layer} makes nothing for tile {strip.tile}")
        specs = {spec.name: spec for spec in self._plan.blocks[strip.layer].cut}
        shapes = {name: (part_shape(specs[name], region), specs[name].dtype) for name, region in wanted.items()}
        given = {name: (array.shape, str(array.dtype)) for name, array in strip.tensors.items()}
        if given != shapes:
            raise DecodeError(f"parts of tile {strip.maker} for tile {strip.tile} are {given}, not {shapes}"[:300])

    def hear(self, strip: Strip) -> None:
        """Parts from another node, which ``check`` has let pass."""
        self._remember(strip.frame)
        self._keep(strip)

    def again(self, want: Want) -> list[Strip]:
        """What this node knows of what another lacks."""
        known = self._parts.get(want.frame, {})
        return [
            Strip(want.frame, layer, tile, maker, tensors)
            for (layer, tile), made in known.items()
            if tile == want.tile and layer >= want.layer
            for maker, tensors in made.items()
            if maker != tile
        ]

    def wants(self, now: float) -> list[Want]:
        """What to ask for now: lanes that have waited for parts, ever less often."""
        asked = []
        for (frame, tile), lane in self._lanes.items():
            if self._waits(frame, tile) and now >= lane.want_at:
                asked.append(Want(frame, lane.block - 1, tile))
                backoff_s = min(2 * lane.backoff_s, LAST_WANT_S)
                self._lanes[frame, tile] = replace(lane, want_at=now + lane.backoff_s, backoff_s=backoff_s)
        return asked

    def stuck(self, now: float, patience_s: float) -> list[tuple[str, int]]:
        """Lanes that wait for parts longer than ``patience_s``; they are dropped."""
        lost = [at for at, lane in self._lanes.items() if self._waits(*at) and now >= lane.since + patience_s]
        for frame, tile in lost:
            self.drop(frame, tile)
        return lost

    def deadline(self) -> float | None:
        """When a lane that waits wants to ask."""
        return min((lane.want_at for at, lane in self._lanes.items() if self._waits(*at)), default=None)

    def drop(self, frame: str, tile: int) -> Lane | None:
        """The lane has ended, or is not ours any more; what it made for others stays. Returns it if it was here."""
        lane = self._lanes.pop((frame, tile), None)
        if lane is not None:
            self._parts.get(frame, {}).pop((lane.block - 1, tile), None)
        return lane

    def end(self, frame: str) -> None:
        """The frame has its outcome."""
        for lane in [lane for lane in self._lanes if lane[0] == frame]:
            self.drop(*lane)
        self._parts.pop(frame, None)

    def _waits(self, frame: str, tile: int) -> bool:
        return not self._lanes[frame, tile].running and not self._is_ready(frame, tile)

    def _is_ready(self, frame: str, tile: int) -> bool:
        lane = self._lanes[frame, tile]
        if lane.running or lane.block == 0:
            return not lane.running
        made = self._parts.get(frame, {}).get((lane.block - 1, tile), {})
        return made.keys() >= self._makers[lane.block - 1, tile]

    def _gather(self, frame: str, block: int, tile: int) -> Tensors:
        if block == 0:
            return self._lanes[frame, tile].inputs
        made = self._parts[frame][block - 1, tile]
        return assemble(self._plan, block, tile, self._named(block - 1, tile, made))

    def _named(self, layer: int, tile: int, made: Mapping[int, Tensors]) -> Iterator[tuple[str, Region, np.ndarray]]:
        for maker, tensors in made.items():
            for name, array in tensors.items():
                yield name, self._cuts[layer, maker][tile][name], array

    def _cut(self, layer: int, maker: int, tile: int, outputs: Tensors) -> Tensors:
        """Copies, so that a small part does not keep a large map alive; but the own part stays as it is."""
        regions, whole = self._cuts[layer, maker][tile], self._plan.blocks[layer].tiles[maker].outputs
        inner = {name: region.within(whole[name]) for name, region in regions.items()}
        views = {name: crop(outputs[name], region) for name, region in inner.items()}
        return views if tile == maker else {name: view.copy() for name, view in views.items()}

    def _keep(self, strip: Strip) -> None:
        made = self._parts[strip.frame].setdefault((strip.layer, strip.tile), {})
        if strip.maker in made:
            self.ignored["parts repeated"] += 1
        else:
            made[strip.maker] = strip.tensors

    def _remember(self, frame: str) -> None:
        self._parts.setdefault(frame, {})
        busy = {lane[0] for lane in self._lanes}
        for old in [f for f in self._parts if f not in busy and f != frame][: max(len(self._parts) - FRAMES, 0)]:
            del self._parts[old]
