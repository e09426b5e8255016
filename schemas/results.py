"""What a model says of a picture, in words: small records that go into JSON, onto the wire and under a picture.

Places are pixels of the source image, whatever the model's own size: x to the right, y down, (0, 0) the upper left corner.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from schemas.plan import Count, Record
from schemas.text import Line

SHOWN = 4  # detections or keypoints in a sentence

Task: TypeAlias = Literal["detect", "classify", "segment", "pose", "raw"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Detection(Record):
    """An object: ``box`` is (x0, y0, x1, y1) in pixels of the source image, ``index`` the model's own class number."""

    label: Line
    index: Count
    score: Share
    box: tuple[float, float, float, float]


class Classification(Record):
    """What the whole picture shows, and how sure the model is."""

    label: Line
    index: Count
    score: Share


class Keypoint(Record):
    """A named point of a body, in pixels of the source image. A low ``score`` means: not seen, guessed."""

    name: Line
    x: float
    y: float
    score: Share


class Segment(Record):
    """A class of a segmented picture and the ``share`` of the source image's pixels that have it."""

    label: Line
    index: Count
    share: Share


class Result(Record):
    """One frame's answer; the list that belongs to ``task`` is filled, best first. ``raw`` has none: see the tensors."""

    task: Task
    detections: tuple[Detection, ...] = ()
    classes: tuple[Classification, ...] = ()
    keypoints: tuple[Keypoint, ...] = ()
    segments: tuple[Segment, ...] = ()


def sentence(result: Result) -> str:
    """What a result says, in one line."""
    if result.task == "classify":
        return ", ".join(f"{c.label} {c.score:.0%}" for c in result.classes)
    if result.task == "segment":
        return ", ".join(f"{s.label} {s.share:.1%}" for s in result.segments)
    if result.task == "pose":
        seen = [k for k in result.keypoints if k.score >= 0.3]
        return f"{len(seen)} of {len(result.keypoints)} keypoints: " + ", ".join(k.name for k in seen[:SHOWN])
    if result.task == "raw":
        return "raw outputs: see --json for digests, or give the model a card"
    shown = [f"{d.label} {d.score:.0%} at {','.join(f'{v:.0f}' for v in d.box)}" for d in result.detections[:SHOWN]]
    more = len(result.detections) - len(shown)
    return "; ".join(shown) + (f"; {more} more" if more > 0 else "") or "nothing"
