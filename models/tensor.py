"""Arrays: crop a region, stitch regions together, turn pixels into the model's input. NHWC everywhere.

Between two blocks of a plan a tile's outputs part into what each tile of the next block needs, and a tile's inputs are
assembled of such parts; both follow from the plan alone, so that sender and receiver agree without a word.
"""

from collections.abc import Iterable, Mapping
from math import prod
from typing import NamedTuple

import numpy as np

from schemas.errors import DecodeError, PlanError
from schemas.plan import Pixels, Plan, Region, TensorSpec, Tile, hasher


def fingerprint(tensors: Mapping[str, np.ndarray]) -> str:
    """Digest of tensors' names and bits, in 32 hexadecimal digits: who computes the same has the same."""
    hashed = hasher()
    for name in sorted(tensors):
        hashed.update(name.encode())
        hashed.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()


def crop(array: np.ndarray, region: Region) -> np.ndarray:
    """The region of an NHWC array, as a view; what is no map is not divided."""
    if array.ndim != 4:
        return array
    part: np.ndarray = array[:, region.y0 : region.y1, region.x0 : region.x1, :]
    return part


def stitch(spec: TensorSpec, parts: Iterable[tuple[Region, np.ndarray]]) -> np.ndarray:
    """The whole map of regions that partition it.

    Raises:
        PlanError: the regions do not cover the map exactly once.
    """
    array = np.empty(spec.shape, spec.dtype)
    covered = np.zeros(spec.extent[2:], np.uint8)
    for region, part in parts:
        crop(array, region)[...] = part
        covered[region.y0 : region.y1, region.x0 : region.x1] += 1
    if (covered != 1).any():
        wrong = int((covered != 1).sum())
        raise PlanError(f"tiles cover {wrong} of the {covered.size} pixels of {spec.name} not at all or twice")
    return array


class Part(NamedTuple):
    """What ``tile`` of the next block needs of a tensor that a tile has made: a region of the whole map."""

    tile: int
    tensor: str
    region: Region


def parts(plan: Plan, block: int, tile: int) -> list[Part]:
    """Where a tile's outputs go: for each tile of the next block (its own lane's among them) what it needs of them.

    Empty for the last block, whose outputs go to the gateway.
    """
    after = plan.blocks[block + 1 : block + 2]
    return shared(plan.blocks[block].tiles[tile], after[0].tiles) if after else []


def shared(maker: Tile, takers: Iterable[Tile]) -> list[Part]:
    """What each of ``takers`` needs of the outputs of ``maker``."""
    met = (
        (taker.index, name, maker.outputs[name].common(need)) for taker in takers for name, need in taker.inputs.items()
    )
    return [Part(index, name, region) for index, name, region in met if region is not None]


def part_shape(spec: TensorSpec, region: Region) -> tuple[int, ...]:
    """The shape of a region of an NHWC map; of what is no map its own."""
    if len(spec.shape) != 4:
        return spec.shape
    return (spec.shape[0], region.height, region.width, spec.shape[3])


def part_bytes(spec: TensorSpec, region: Region) -> int:
    """Bytes of a region of an NHWC map."""
    return prod(part_shape(spec, region)) * np.dtype(spec.dtype).itemsize


def assemble(
    plan: Plan, block: int, tile: int, given: Iterable[tuple[str, Region, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The inputs of a tile from parts of them: tensor, region of its whole map, values (NHWC). Repeats do no harm.

    A single part that is all of an input is used as it is, not copied.

    Raises:
        DecodeError: a part is not what its region says, or lies outside of what the tile needs.
        PlanError: the parts do not cover what the tile needs.
    """
    specs = {spec.name: spec for spec in plan.blocks[block].inputs}
    needs = plan.blocks[block].tiles[tile].inputs
    found: dict[str, list[tuple[Region, np.ndarray]]] = {name: [] for name in needs}
    for name, region, array in given:
        if name not in needs or region.common(needs[name]) != region:
            raise DecodeError(f"tile {tile} of block {block} needs no {name} of {tuple(region)}")
        spec = specs[name]
        if array.shape != part_shape(spec, region) or array.dtype != spec.dtype:
            told = f"{array.dtype}{array.shape}"
            raise DecodeError(f"{name} of {tuple(region)} for tile {tile} of block {block} is {told}")
        found[name].append((region, array))
    return {name: _joined(specs[name], needs[name], pieces) for name, pieces in found.items()}


def _joined(spec: TensorSpec, need: Region, pieces: list[tuple[Region, np.ndarray]]) -> np.ndarray:
    for region, array in pieces:
        if region == need:
            return array
    array = np.empty(part_shape(spec, need), spec.dtype)
    covered = np.zeros((need.height, need.width), bool)
    for region, piece in pieces:
        where = region.within(need)
        crop(array, where)[...] = piece
        covered[where.y0 : where.y1, where.x0 : where.x1] = True
    if not covered.all():
        missing = int((~covered).sum())
        raise PlanError(f"parts leave {missing} of the {covered.size} pixels of {spec.name} {tuple(need)} uncovered")
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
        shape = part_shape(t, region)
        dtype = "uint8" if t.name == plan.pixels.tensor else t.dtype
        if array.shape != shape or array.dtype != dtype:
            raise DecodeError(f"tensor {t.name} of tile {tile} is {array.dtype}{array.shape}, not {dtype}{shape}"[:300])


def check_whole(plan: Plan, block: int, tensors: Mapping[str, np.ndarray]) -> None:
    """Whether ``tensors`` are the whole maps of a block's cut.

    Raises:
        DecodeError: they are not, or there is no such block.
    """
    if block >= len(plan.blocks):
        raise DecodeError(f"there is no block {block} in the plan")
    wanted = {spec.name: (spec.shape, spec.dtype) for spec in plan.blocks[block].cut}
    given = {name: (array.shape, str(array.dtype)) for name, array in tensors.items()}
    if given != wanted:
        raise DecodeError(f"the whole maps are {given}, not {wanted}"[:300])
