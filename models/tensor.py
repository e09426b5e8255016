"""Arrays: crop a region, stitch regions together, turn pixels into the model's input. NHWC everywhere."""

from collections.abc import Iterable, Mapping

import numpy as np

from schemas.errors import DecodeError, PlanError
from schemas.plan import Pixels, Plan, Region, TensorSpec


def crop(array: np.ndarray, region: Region) -> np.ndarray:
    """The region of an NHWC array, as a view."""
    part: np.ndarray = array[:, region.y0 : region.y1, region.x0 : region.x1, :]
    return part


def stitch(spec: TensorSpec, parts: Iterable[tuple[Region, np.ndarray]]) -> np.ndarray:
    """The whole map of regions that partition it.

    Raises:
        PlanError: the regions do not cover the map exactly once.
    """
    array = np.empty(spec.shape, spec.dtype)
    covered = np.zeros(spec.shape[1:3], np.uint8)
    for region, part in parts:
        crop(array, region)[...] = part
        covered[region.y0 : region.y1, region.x0 : region.x1] += 1
    if (covered != 1).any():
        wrong = int((covered != 1).sum())
        raise PlanError(f"tiles cover {wrong} of the {covered.size} pixels of {spec.name} not at all or twice")
    return array


def to_input(image: np.ndarray, pixels: Pixels) -> np.ndarray:
    """uint8 pixels (any crop, NHWC) as the model's input values; element by element, so crops stay exact."""
    if pixels.dtype == "uint8":
        return image
    if pixels.dtype == "int8":
        return (image ^ 0x80).view(np.int8)
    values: np.ndarray = np.multiply(image, np.asarray(pixels.scale, np.float32), dtype=np.float32)
    if np.any(pixels.offset):
        values += np.asarray(pixels.offset, np.float32)
    return values


def check(plan: Plan, block: int, tile: int, tensors: Mapping[str, np.ndarray], *, inputs: bool) -> None:
    """Whether ``tensors`` are what the plan says of this tile: names, shapes and dtypes.

    Raises:
        DecodeError: they are not, or there is no such tile.
    """
    if block >= len(plan.blocks) or tile >= len(plan.blocks[block].tiles):
        raise DecodeError(f"there is no tile {tile} in block {block} of the plan")
    spec, where = plan.blocks[block], plan.blocks[block].tiles[tile]
    specs, regions = (spec.inputs, where.inputs) if inputs else (spec.cut, where.outputs)
    if set(tensors) != set(regions):
        raise DecodeError(f"tile {tile} has tensors {sorted(tensors)}, not {sorted(regions)}"[:300])
    for t in specs:
        region, array = regions[t.name], tensors[t.name]
        shape = (t.shape[0], region.height, region.width, t.shape[3])
        dtype = "uint8" if t.name == plan.pixels.tensor else t.dtype
        if array.shape != shape or array.dtype != dtype:
            raise DecodeError(f"tensor {t.name} of tile {tile} is {array.dtype}{array.shape}, not {dtype}{shape}"[:300])
