"""Which objects are in a source's picture, and when one appeared, moved or left.

An object is the same as one of the frame before if it has its label and the most of its place. A flicker tells nothing:
it takes ``APPEAR`` frames in a row to be there and ``LEAVE`` to be gone. Frames without a result are not shown to it, so
that a failure makes nobody leave. It knows no socket, thread or clock.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.contract.messages import frame_source
from schemas.contract.results import Result

APPEAR = 2  # frames
LEAVE = 3
UPDATE_S = 5.0  # between two updates of one object
MOST = 64  # objects of a frame, best first: matching takes their square
NEAR = 0.2  # least IoU to be the same object; below it, centres closer than the larger box
MOVED = 0.5  # IoU with the place told last, below which it has moved
_SURE = 0.3  # a keypoint that is seen

Box = tuple[float, float, float, float]
EventType = Literal["appeared", "updated", "left"]
EVENT_TYPES: tuple[EventType, ...] = ("appeared", "updated", "left")


@dataclass(frozen=True)
class Sight:
    """An object in one frame; ``box`` x0, y0, x1, y1 in pixels, None if it is the whole picture's."""

    label: str
    score: float
    box: Box | None = None


@dataclass(frozen=True)
class Change:
    """What is worth telling of an object. ``number`` is its own, counted up from 1 for each source."""

    type: EventType
    number: int
    sight: Sight


@dataclass
class _Object:
    number: int
    sight: Sight
    hits: int = 1
    missed: int = 0
    told: Box | None = None
    told_at: float = 0.0

    @property
    def present(self) -> bool:
        return self.number > 0


def sights(result: Result, threshold: float) -> list[Sight]:
    """The objects of a result, whatever its task; ``threshold``: least score of a whole picture's label."""
    if result.task == "detect":
        return [Sight(d.label, d.score, d.box) for d in result.detections]
    if result.task == "classify":
        return [Sight(c.label, c.score) for c in result.classes[:1] if c.score >= threshold]
    if result.task == "segment":
        return [Sight(s.label, s.share) for s in result.segments if s.share >= 0.01]
    seen = [k for k in result.keypoints if k.score >= _SURE]
    if not seen or 3 * len(seen) < len(result.keypoints):
        return []
    xs, ys = [k.x for k in seen], [k.y for k in seen]
    return [Sight("person", sum(k.score for k in seen) / len(seen), (min(xs), min(ys), max(xs), max(ys)))]


class Tracker:
    """The objects of one source."""

    def __init__(self) -> None:
        self._objects: list[_Object] = []
        self._numbers = itertools.count(1)
        self._frame = ("", -1)

    def see(self, frame: str, seen: Sequence[Sight], now: float) -> list[Change]:
        """A frame with a result. A frame older than the newest says nothing any more."""
        _, epoch, number = frame_source(frame)
        if epoch == self._frame[0] and number <= self._frame[1]:
            return []
        self._frame = (epoch, number)
        new = list(seen[:MOST])
        changes: list[Change] = []
        for one, sight in self._pairs(new):
            new.remove(sight)
            changes += self._hit(one, sight, now)
        for one in [o for o in self._objects if o.missed]:
            if one.missed >= LEAVE or not one.present:
                self._objects.remove(one)
                changes += [Change("left", one.number, one.sight)] if one.present else []
        self._objects += [_Object(0, sight) for sight in new]
        return changes

    @property
    def counts(self) -> "Counter[str]":
        """How many objects of each label are there."""
        return Counter(o.sight.label for o in self._objects if o.present)

    def _pairs(self, seen: Sequence[Sight]) -> list[tuple[_Object, Sight]]:
        """Objects and what they are now, the closest first; counts the misses of the others."""
        near = [(c, i, j) for i, o in enumerate(self._objects) for j, s in enumerate(seen) if (c := _closeness(o.sight, s)) > 0]
        pairs: dict[int, int] = {}
        for _, i, j in sorted(near, key=lambda n: (-n[0], n[1], n[2])):
            if i not in pairs and j not in pairs.values():
                pairs[i] = j
        for i, one in enumerate(self._objects):
            one.missed = 0 if i in pairs else one.missed + 1
        return [(self._objects[i], seen[j]) for i, j in pairs.items()]

    def _hit(self, one: _Object, sight: Sight, now: float) -> list[Change]:
        one.sight, one.hits = sight, one.hits + 1
        if not one.present and one.hits >= APPEAR:
            one.number = next(self._numbers)
            type_: EventType = "appeared"
        elif one.present and one.told and sight.box and _iou(one.told, sight.box) < MOVED and now >= one.told_at + UPDATE_S:
            type_ = "updated"
        else:
            return []
        one.told, one.told_at = sight.box, now
        return [Change(type_, one.number, sight)]


def _closeness(before: Sight, after: Sight) -> float:
    """Above 0: they may be one object."""
    if before.label != after.label or (before.box is None) != (after.box is None):
        return 0.0
    if before.box is None or after.box is None:
        return 2.0
    a, b = before.box, after.box
    iou = _iou(a, b)
    if iou >= NEAR:
        return 1.0 + iou
    away = max(abs(a[0] + a[2] - b[0] - b[2]), abs(a[1] + a[3] - b[1] - b[3])) / 2
    size = max(a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1])
    return max(1.0 - away / size, 0.0) if size > 0 else 0.0


def _iou(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)
