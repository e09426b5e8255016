"""Arrays: crop a region, stitch regions together, turn pixels into the model's input. NHWC everywhere."""

from collections.abc import Iterable

import numpy as np

from schemas.errors import PlanError
from schemas.plan import Pixels, Region, TensorSpec


def crop(array: np.ndarray, region: Region) -> np.ndarray:
    """The region of an NHWC array, as a view."""
    return array[:, region.y0 : region.y1, region.x0 : region.x1, :]


def stitch(spec: TensorSpec, parts: Iterable[tuple[Region, np.ndarray]]) -> np.ndarray:
    """The whole map of regions that partition it.

    Raises:
        PlanError: the regions do not cover the map exactly once.
    """
    array = np.empty(spec.shape, spec.dtype)
    covered = 0
    for region, part in parts:
        crop(array, region)[...] = part
        covered += region.height * region.width
    if covered != spec.shape[1] * spec.shape[2]:
        raise PlanError(f"tiles cover {covered} of the {spec.shape[1] * spec.shape[2]} pixels of {spec.name}")
    return array


def to_input(image: np.ndarray, pixels: Pixels) -> np.ndarray:
    """uint8 pixels (any crop, NHWC) as the model's input values; element by element, so crops stay exact."""
    if pixels.dtype == "uint8":
        return image
    if pixels.dtype == "int8":
        return (image ^ 0x80).view(np.int8)
    values = np.multiply(image, np.float32(pixels.scale), dtype=np.float32)
    if pixels.offset:
        values += np.float32(pixels.offset)
    return values
