"""Where a source image lies in the model's picture, and the way back: one geometry for fitting and for decoding.

Coordinates are continuous and edges are what is mapped: a box that covers the whole picture covers the whole image.
"""

import numpy as np

from models.tiling.tensor import answer_of
from schemas.contract.plan import Pixels, Plan, Region
from schemas.contract.results import Keypoint, Result


def letterboxed(height: int, width: int, pixels: Pixels) -> tuple[int, int]:
    """Height and width of the picture inside the letterbox: one side fills it, the other is rounded to nearest."""
    if pixels.height * width <= pixels.width * height:
        return pixels.height, _share(width * pixels.height, height, pixels.width)
    return _share(height * pixels.width, width, pixels.height), pixels.width


def _share(part: int, whole: int, limit: int) -> int:
    return min(limit, max(1, (2 * part + whole) // (2 * whole)))


def placed(height: int, width: int, pixels: Pixels) -> Region:
    """The region of the model's picture that a source image of ``height x width`` pixels fills."""
    if pixels.fit == "stretch":
        return Region(0, 0, pixels.height, pixels.width)
    rows, cols = letterboxed(height, width, pixels)
    top, left = (pixels.height - rows) // 2, (pixels.width - cols) // 2
    return Region(top, left, top + rows, left + cols)


def to_source(points: np.ndarray, picture: tuple[int, int], pixels: Pixels) -> np.ndarray:
    """Points ``(..., x, y, x, y...)`` of the model's picture, in its pixels -> pixels of the source image, float64.

    ``picture`` is the source image's height and width. The last axis holds pairs: (n, 2) points or (n, 4) boxes.
    """
    height, width = picture
    where = placed(height, width, pixels)
    pairs = points.astype(np.float64).reshape(*points.shape[:-1], points.shape[-1] // 2, 2)
    moved = (pairs - (where.x0, where.y0)) * (width / where.width, height / where.height)
    return np.asarray(moved.reshape(points.shape))


def clipped(points: np.ndarray, picture: tuple[int, int]) -> np.ndarray:
    """The same pairs ``(x, y)``, none of them outside the image of ``picture = (height, width)``."""
    height, width = picture
    pairs = points.reshape(*points.shape[:-1], points.shape[-1] // 2, 2)
    return np.asarray(np.clip(pairs, 0.0, (float(width), float(height))).reshape(points.shape))


def scaled(result: Result, picture: tuple[int, int], shown: tuple[int, int]) -> Result:
    """``result`` of an image of ``picture`` (height, width) for the same image shown at another size."""
    if picture == shown or min(picture) <= 0:
        return result
    x, y = shown[1] / picture[1], shown[0] / picture[0]

    def moved(keypoints: tuple[Keypoint, ...]) -> tuple[Keypoint, ...]:
        return tuple(k.model_copy(update={"x": k.x * x, "y": k.y * y}) for k in keypoints)

    found = tuple(
        d.model_copy(
            update={"box": (d.box[0] * x, d.box[1] * y, d.box[2] * x, d.box[3] * y), "keypoints": moved(d.keypoints)}
        )
        for d in result.detections
    )
    return result.model_copy(update={"detections": found, "keypoints": moved(result.keypoints)})


def answer_boxes(plan: Plan, picture: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    """The share ``(x0, y0, x1, y1)`` of the source image that each task answers for, in its pixels; of a block's tiles they
    do not overlap.

    A tile's share is the region of its first answer, blown up to the picture; its halo is not in it.
    """
    shares = []
    for block, lane in plan.answers:
        name, box = next(iter(answer_of(plan, block, lane).items()))
        whole = next(spec.box.region for spec in plan.ends if spec.name == name)
        scale = plan.pixels.width / whole.x1, plan.pixels.height / whole.y1
        r = box.region
        shares.append((r.x0 * scale[0], r.y0 * scale[1], r.x1 * scale[0], r.y1 * scale[1]))
    return _seen(np.array(shares, np.float64), plan.pixels, picture)


def halo_boxes(plan: Plan, picture: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    """What the lane of each task that answers needs of the source image, share and halo; or the share, if it needs none."""
    shares, halos = answer_boxes(plan, picture), []
    for (_, lane), share in zip(plan.answers, shares):
        if plan.blocks[0].split == "tiles" and (task := plan.task(0, lane)) and len(plan.answers) == len(plan.blocks[0].tiles):
            r = task.inputs[plan.pixels.tensor].region
            share = _seen(np.array([(r.x0, r.y0, r.x1, r.y1)], np.float64), plan.pixels, picture)[0]
        halos.append(share)
    return halos


def _seen(boxes: np.ndarray, pixels: Pixels, picture: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    found: list[tuple[float, float, float, float]] = clipped(to_source(boxes, picture, pixels), picture).tolist()
    return [(box[0], box[1], box[2], box[3]) for box in found]
