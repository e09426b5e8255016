"""The way of a lane through the blocks of a plan: its tasks, one after another, on one node.

    start --task--> computed --parts for other lanes--> waits for theirs --task--> ... --last task--> done

A task needs what earlier tasks made: its own lane's, which stays here, and parts that other lanes made, which come by
message. What this node has made or heard for any lane is kept until newer frames push it out, so that it can be published
again for a node that takes a lane over, or missed it. Law: a task is computed once all its parts are here, and never with
others' parts than the plan's; a lane that waits too long is told as stuck, for a part can be lost with its maker.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from models.tiling.tensor import assemble, crop, exchange
from schemas.contract.errors import DecodeError
from schemas.contract.keys import LaneKey, TaskKey
from schemas.contract.plan import Box, Plan

FRAMES = 8  # frames whose parts are remembered
FIRST_WANT_S, LAST_WANT_S = 0.5, 4.0

Tensors = Mapping[str, np.ndarray]
Maker = tuple[int, int]  # block and lane of a task that has made something


class Part(NamedTuple):
    """What the task of block ``layer`` in lane ``maker`` has made for the lane ``tile``."""

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
    """A lane here: ``step`` counts its tasks that are through, since when it waits, and when to ask for its parts.

    ``inputs`` are its part of the image, until that is used; ``picture`` is the size of the source's image; ``spent_s`` are
    the seconds that the engine has had for the tasks before; ``request``: under which it was lent to this node.
    """

    picture: tuple[int, int]
    inputs: Tensors
    since: float
    want_at: float
    step: int = 0
    running: bool = False
    backoff_s: float = FIRST_WANT_S
    spent_s: float = 0.0
    request: str | None = None


def weights(plan: Plan) -> list[float]:
    """How many tiles a task of each block amounts to, by its effort: one of a block of tiles is one."""
    tiles = [tile.effort for block in plan.blocks if block.split == "tiles" for tile in block.tiles]
    tiles = tiles or [tile.effort for block in plan.blocks for tile in block.tiles]
    mean = max(sum(tiles) / len(tiles), 1.0)
    return [1.0 if b.split == "tiles" else max(max(t.effort for t in b.tiles) / mean, 1.0) for b in plan.blocks]


class Lanes:
    """The lanes of this node, oldest first, and the parts of all frames that it knows."""

    def __init__(self, plan: Plan) -> None:
        self.ignored: Counter[str] = Counter()
        self._plan = plan
        self._lanes: dict[LaneKey, Lane] = {}
        self._parts: dict[str, dict[int, dict[Maker, Tensors]]] = {}  # by frame, lane and maker
        between = exchange(plan.blocks)
        self._gives, self._needs = between.gives, between.needs
        self._dtypes = {spec.name: spec.dtype for block in plan.blocks for spec in block.cut}
        self._last_use: dict[int, dict[Maker, int]] = {lane: {} for lane in range(plan.lanes)}  # the last block that needs it
        for (block, lane), makers in sorted(self._needs.items()):
            self._last_use[lane].update(dict.fromkeys(makers, block))

    def __contains__(self, lane: object) -> bool:
        return lane in self._lanes

    def __len__(self) -> int:
        return len(self._lanes)

    def __iter__(self) -> Iterator[LaneKey]:
        return iter(self._lanes)

    def get(self, frame: str, tile: int) -> Lane | None:
        """A lane that is here."""
        return self._lanes.get((frame, tile))

    @property
    def is_exchanging(self) -> bool:
        """Whether lanes of this plan give each other anything."""
        return any(to != lane for (_, lane), takers in self._gives.items() for to in takers)

    def start(
        self,
        frame: str,
        tile: int,
        inputs: Tensors,
        now: float,
        picture: tuple[int, int] = (0, 0),
        request: str | None = None,
    ) -> None:
        """Begin a lane with its crop of the image, if it has any; ``picture``: the size that the image came in;
        ``request``: if lent."""
        if (frame, tile) in self._lanes:
            self.ignored["lane started twice"] += 1
            return
        self._lanes[frame, tile] = Lane(picture, inputs, now, now, request=request)
        self._remember(frame)

    def take(self) -> tuple[TaskKey, Tensors] | None:
        """A task whose inputs are all here, marked as running: what is furthest in the oldest frame first."""
        ready = [at for at in self._lanes if self._is_ready(*at)]
        if not ready:
            return None
        oldest = ready[0][0]
        frame, tile = max((at for at in ready if at[0] == oldest), key=lambda at: self._block(*at))
        lane = self._lanes[frame, tile]
        self._lanes[frame, tile] = replace(lane, running=True)
        return (frame, self._block(frame, tile), tile), self._gather(frame, tile)

    def computed(self, key: TaskKey, outputs: Tensors, now: float, seconds: float = 0.0) -> list[Part]:
        """A task is through, in so many seconds: what other nodes' lanes need of it. The lane goes on, or ends."""
        frame, layer, tile = key
        lane = self._lanes.get((frame, tile))
        if lane is None:
            self.ignored["computed for a lane that is gone"] += 1
            return []
        if self.ends(tile, layer):
            del self._lanes[frame, tile]
        else:
            self._lanes[frame, tile] = Lane(
                lane.picture, {}, now, now + FIRST_WANT_S, lane.step + 1, spent_s=lane.spent_s + seconds, request=lane.request
            )
        self._remember(frame)
        copies: dict[tuple[str, Box], np.ndarray] = {}
        made = [Part(frame, layer, to, tile, self._cut(layer, tile, to, outputs, copies)) for to in self._gives[layer, tile]]
        for part in made:
            self._keep(part)
        return [part for part in made if (frame, part.tile) not in self._lanes and part.tile != tile]

    def ends(self, tile: int, layer: int) -> bool:
        """Whether this block is the last that a lane has a task of."""
        return layer == self._plan.steps[tile][-1]

    def check(self, part: Part) -> None:
        """Refuse what is no part of this plan.

        Raises:
            DecodeError: it is not what the plan says.
        """
        wanted = self._gives.get((part.layer, part.maker), {}).get(part.tile)
        if wanted is None:
            raise DecodeError(f"lane {part.maker} makes nothing for lane {part.tile} in block {part.layer}")
        shapes = {name: (box.shape, self._dtypes[name]) for name, box in wanted.items()}
        given = {name: (array.shape, str(array.dtype)) for name, array in part.tensors.items()}
        if given != shapes:
            raise DecodeError(f"parts of lane {part.maker} for lane {part.tile} are {given}, not {shapes}"[:300])

    def hear(self, part: Part) -> None:
        """Parts from another node, which ``check`` has let pass."""
        self._remember(part.frame)
        self._keep(part)

    def again(self, want: Want) -> list[Part]:
        """What this node knows of what another lacks."""
        known = self._parts.get(want.frame, {}).get(want.tile, {})
        return [
            Part(want.frame, layer, want.tile, maker, tensors)
            for (layer, maker), tensors in known.items()
            if layer >= want.layer and maker != want.tile
        ]

    def wants(self, now: float) -> list[Want]:
        """What to ask for now: lanes that have waited for parts, ever less often."""
        asked = []
        for (frame, tile), lane in self._lanes.items():
            if self._waits(frame, tile) and now >= lane.want_at:
                asked.append(Want(frame, min(layer for layer, _ in self._lacks(frame, tile)), tile))
                backoff_s = min(2 * lane.backoff_s, LAST_WANT_S)
                self._lanes[frame, tile] = replace(lane, want_at=now + lane.backoff_s, backoff_s=backoff_s)
        return asked

    def stuck(self, now: float, patience_s: float) -> list[LaneKey]:
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
            self._parts.get(frame, {}).pop(tile, None)
        return lane

    def end(self, frame: str) -> None:
        """The frame has its outcome."""
        for lane in [lane for lane in self._lanes if lane[0] == frame]:
            self.drop(*lane)
        self._parts.pop(frame, None)

    def _block(self, frame: str, tile: int) -> int:
        """The block of a lane's next task."""
        return self._plan.steps[tile][self._lanes[frame, tile].step]

    def _waits(self, frame: str, tile: int) -> bool:
        return not self._lanes[frame, tile].running and not self._is_ready(frame, tile)

    def _is_ready(self, frame: str, tile: int) -> bool:
        return not self._lanes[frame, tile].running and not self._lacks(frame, tile)

    def _lacks(self, frame: str, tile: int) -> set[Maker]:
        """The tasks whose parts a lane's next task needs and that are not here."""
        here = self._parts.get(frame, {}).get(tile, {})
        return {maker for maker in self._needs[self._block(frame, tile), tile] if maker not in here}

    def _gather(self, frame: str, tile: int) -> Tensors:
        block = self._block(frame, tile)
        task = self._plan.blocks[block].by_home[tile]
        if block == 0:
            return self._lanes[frame, tile].inputs
        here = self._parts[frame].get(tile, {})
        makers = self._needs[block, tile]
        given = [
            (name, self._gives[maker][tile][name], array)
            for maker, tensors in here.items() if maker in makers
            for name, array in tensors.items()
        ]  # fmt: skip
        for maker in [m for m in here if self._last_use[tile].get(m, -1) <= block]:
            del here[maker]  # used; whoever takes this lane over asks their makers
        return assemble(self._plan.blocks[block].inputs, task.inputs, given)

    def _cut(
        self, layer: int, maker: int, tile: int, outputs: Tensors, copies: dict[tuple[str, Box], np.ndarray]
    ) -> Tensors:
        """Copies, so that a small part does not keep a large map alive; but what is all of it stays as it is, and lanes that
        need the same have it once.
        """
        boxes, whole = self._gives[layer, maker][tile], self._plan.blocks[layer].by_home[maker].outputs
        for name, box in boxes.items():
            if (name, box) not in copies:
                view = crop(outputs[name], box.within(whole[name]))
                copies[name, box] = view if tile == maker or box == whole[name] else view.copy()
        return {name: copies[name, box] for name, box in boxes.items()}

    def _keep(self, part: Part) -> None:
        made = self._parts[part.frame].setdefault(part.tile, {})
        if (part.layer, part.maker) in made:
            self.ignored["parts repeated"] += 1
        else:
            made[part.layer, part.maker] = part.tensors

    def _remember(self, frame: str) -> None:
        self._parts.setdefault(frame, {})
        busy = {lane[0] for lane in self._lanes}
        for old in [f for f in self._parts if f not in busy and f != frame][: max(len(self._parts) - FRAMES, 0)]:
            del self._parts[old]
