"""What a model says of a picture, in words: small records that go into JSON, onto the wire and under a picture.

Places are pixels of the source image, whatever the model's own size: x to the right, y down, (0, 0) the upper left corner.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from schemas.plan import Count, Record

Task: TypeAlias = Literal["detect", "classify", "segment", "pose", "raw"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Detection(Record):
    """An object: ``box`` is (x0, y0, x1, y1) in pixels of the source image, ``index`` the model's own class number."""

    label: str
    index: Count
    score: Share
    box: tuple[float, float, float, float]


class Classification(Record):
    """What the whole picture shows, and how sure the model is."""

    label: str
    index: Count
    score: Share


class Keypoint(Record):
    """A named point of a body, in pixels of the source image. A low ``score`` means: not seen, guessed."""

    name: str
    x: float
    y: float
    score: Share


class Segment(Record):
    """A class of a segmented picture and the ``share`` of the source image's pixels that have it."""

    label: str
    index: Count
    share: Share


class Result(Record):
    """One frame's answer; the list that belongs to ``task`` is filled, best first. ``raw`` has none: see the tensors."""

    task: Task
    detections: tuple[Detection, ...] = ()
    classes: tuple[Classification, ...] = ()
    keypoints: tuple[Keypoint, ...] = ()
    segments: tuple[Segment, ...] = ()
