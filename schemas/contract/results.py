"""What a model says of a picture, in words: small records that go into JSON, onto the wire and under a picture.

Places are pixels of the source image, whatever the model's own size: x to the right, y down, (0, 0) the upper left corner.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from schemas.contract.plan import Count, Digest, Record
from schemas.contract.text import OneLine, one_line

SHOWN = 4  # detections or keypoints in a sentence

Task: TypeAlias = Literal["detect", "classify", "segment", "pose", "raw"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Keypoint(Record):
    """A named point of a body, in pixels of the source image. A low ``score`` means: not seen, guessed."""

    name: OneLine
    x: float
    y: float
    score: Share


class Detection(Record):
    """An object: ``box`` is (x0, y0, x1, y1) in pixels of the source image, ``index`` the model's own class number.

    ``keypoints`` are its own: of a face, a palm, a body.
    """

    label: OneLine
    index: Count
    score: Share
    box: tuple[float, float, float, float]
    keypoints: tuple[Keypoint, ...] = ()


class Classification(Record):
    """What the whole picture shows, and how sure the model is."""

    label: OneLine
    index: Count
    score: Share


class Segment(Record):
    """A class of a segmented picture and the ``share`` of the source image's pixels that have it."""

    label: OneLine
    index: Count
    share: Share


class Output(Record):
    """A tensor that no decoder reads: its least, greatest and mean value, dequantized, and a digest of its bytes."""

    name: str
    shape: tuple[Count, ...]
    dtype: str
    low: float
    high: float
    mean: float
    digest: Digest


class Result(Record):
    """One frame's answer; the list that belongs to ``task`` is filled, best first."""

    task: Task
    detections: tuple[Detection, ...] = ()
    classes: tuple[Classification, ...] = ()
    keypoints: tuple[Keypoint, ...] = ()
    segments: tuple[Segment, ...] = ()
    outputs: tuple[Output, ...] = ()


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
        more = len(result.outputs) - SHOWN
        told = "; ".join(_statistics(output) for output in result.outputs[:SHOWN])
        return f"raw outputs: {told}" + (f"; {more} more" if more > 0 else "")
    shown = [f"{d.label} {d.score:.0%} at {','.join(f'{v:.0f}' for v in d.box)}" for d in result.detections[:SHOWN]]
    more = len(result.detections) - len(shown)
    return "; ".join(shown) + (f"; {more} more" if more > 0 else "") or "nothing"


def _statistics(output: Output) -> str:
    kind = f"{output.dtype} {'x'.join(map(str, output.shape))}"
    return f"{one_line(output.name)[:40]} {kind} from {output.low:.4g} to {output.high:.4g}, mean {output.mean:.4g}"
