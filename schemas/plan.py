"""What the offline step decides: regions, tiles, fused blocks and the plan that names them.

A plan is complete: with the model it says what every node computes. It holds no path, no address and no clock, so equal
plans have equal digests on every machine. A block is executed tile by tile (``mode="tiles"``) or on one node
(``mode="whole"``); its tiles name the region of every tensor they need and give, so that halo exchange between blocks is
a matter of regions, not of another format. Tile ``i`` of all blocks is lane ``i``; blocks executed whole stand last, and are
the business of lane 0: a plan's end.
"""

import hashlib
import mmap
from math import prod
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

PLAN_VERSION: Final = 2
MAPS: Final = ("float32", "int8", "uint8")  # what equality is shown for; int16 leaves XNNPACK for kernels that are not exact
MAP_ELEMENTS: Final = 2**30
TENSORS: Final = ("uint8", "int8", "int16", "int32", "int64", "float32", "float16", "bool")  # what travels
MAX_RANK: Final = 6  # of what travels
Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap
Channels: TypeAlias = float | tuple[float, float, float]  # one number for all channels, or one for each


class Region(NamedTuple):
    """Half-open rectangle of a feature map, in elements: rows ``y0 <= y < y1``, columns ``x0 <= x < x1``."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    def hull(self, other: "Region") -> "Region":
        """Smallest region that holds both."""
        return Region(min(self.y0, other.y0), min(self.x0, other.x0), max(self.y1, other.y1), max(self.x1, other.x1))

    def common(self, other: "Region") -> "Region | None":
        """What both hold, if anything."""
        met = Region(max(self.y0, other.y0), max(self.x0, other.x0), min(self.y1, other.y1), min(self.x1, other.x1))
        return met if met.height > 0 and met.width > 0 else None

    def within(self, outer: "Region") -> "Region":
        """This region in the coordinates of ``outer``."""
        return Region(self.y0 - outer.y0, self.x0 - outer.x0, self.y1 - outer.y0, self.x1 - outer.x0)


class Record(BaseModel):
    """A frozen value that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, cache_strings="keys")


Count = Annotated[int, Field(ge=0, le=2**53)]  # what any reader of JSON takes exactly
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class TensorSpec(Record):
    """Name, full NHWC shape (or any rank, in the tail) and numpy dtype of a tensor of the model."""

    name: str
    shape: Annotated[tuple[Count, ...], Field(max_length=16)]
    dtype: str

    @property
    def extent(self) -> Region:
        """The region that is all of it. What is no map (NHWC) counts as a map of one pixel, which nobody divides."""
        height, width = self.shape[1:3] if len(self.shape) == 4 else (1, 1)
        return Region(0, 0, height, width)

    def check_tensor(self) -> None:
        """Whether one node may give it to another whole: any shape that is known and not empty, of a dtype that travels.

        Raises:
            ValueError: it may not.
        """
        known = 1 <= len(self.shape) <= MAX_RANK and min(self.shape) >= 1 and prod(self.shape) <= MAP_ELEMENTS
        if not known or self.dtype not in TENSORS:
            raise ValueError(
                f"tensor {self.name[:200]!r} of a block that is executed whole is {self.dtype[:20]} of shape {self.shape}: it "
                f"must have 1 to {MAX_RANK} known dimensions, at most {MAP_ELEMENTS} elements and be {', '.join(TENSORS)}"
            )

    def check_map(self) -> None:
        """Whether it is a map that tiles are cut of: NHWC, not empty, of a dtype that is shown to be exact.

        Raises:
            ValueError: it is not.
        """
        if len(self.shape) != 4 or min(self.shape) < 1 or prod(self.shape) > MAP_ELEMENTS or self.dtype not in MAPS:
            raise ValueError(
                f"a tensor at a cut is {self.dtype[:20]} of shape {self.shape}: a map has four dimensions, at most "
                f"{MAP_ELEMENTS} elements and one of {', '.join(MAPS)}"
            )


class Tile(Record):
    """One task: the region of every tensor it needs and of every tensor it gives, by tensor name.

    ``tile_class`` is shared by tiles whose graphs are the same (same sizes, same image borders). ``effort``: what it costs
    a processor, in operations of a large convolution (``models.effort``).
    """

    index: Count
    row: Count
    col: Count
    tile_class: Count
    inputs: dict[str, Region]
    outputs: dict[str, Region]
    flops: Count
    effort: Count


class Block(Record):
    """The fused layers between two cuts. ``order`` is the sequence in which tiles are taken.

    ``mode`` whole: the operators as they are, tileable or not, on the node that has lane 0; the one tile is everything.
    """

    inputs: tuple[TensorSpec, ...]
    cut: tuple[TensorSpec, ...]
    mode: Literal["tiles", "whole"] = "tiles"
    rows: Annotated[int, Field(ge=1, le=64)]
    cols: Annotated[int, Field(ge=1, le=64)]
    reuse: bool = False
    tiles: tuple[Tile, ...]
    order: tuple[Count, ...]

    @model_validator(mode="after")
    def _inside(self) -> "Block":
        """Every tile names every tensor of the block's two ends, and regions that lie in its map: what crops rely on."""
        needs, gives = ({spec.name: spec for spec in specs} for specs in (self.inputs, self.cut))
        if len(needs) != len(self.inputs) or len(gives) != len(self.cut):
            raise ValueError("tensors of one end of a block have one name")
        for spec in (*self.inputs, *self.cut):
            spec.check_tensor() if self.mode == "whole" else spec.check_map()
        for tile in self.tiles:
            for regions, specs in ((tile.inputs, needs), (tile.outputs, gives)):
                if regions.keys() != specs.keys():
                    raise ValueError(f"tile {tile.index} names other tensors than its block")
                for name, region in regions.items():
                    (y0, x0, y1, x1), extent = region, specs[name].extent
                    if self.mode == "whole" and region != extent:
                        raise ValueError(f"a block that is executed whole has {name[:200]!r} in part")
                    if not (0 <= y0 < y1 <= extent.y1 and 0 <= x0 < x1 <= extent.x1):
                        raise ValueError(f"tile {tile.index} has a region outside of its map")
        return self

    @model_validator(mode="after")
    def _whole(self) -> "Block":
        if len(self.tiles) != self.rows * self.cols or any(t.index != i for i, t in enumerate(self.tiles)):
            raise ValueError(f"a {self.rows}x{self.cols} block needs {self.rows * self.cols} tiles, numbered in order")
        if sorted(self.order) != list(range(len(self.tiles))):
            raise ValueError("order must name every tile once")
        if self.mode == "whole" and (len(self.tiles) != 1 or self.reuse):
            raise ValueError("a block that is executed whole is one tile, and reuses nothing")
        return self


class Pixels(Record):
    """How an image becomes the model's input: uint8 of ``height x width`` until the worker maps it.

    float32: ``pixel * scale + offset``, in the model's own order of channels; uint8: the pixel; int8: the pixel minus
    128. ``channels``: of colour, grey alone, or colour and an opacity that is full everywhere. ``fit`` says how a frame of
    another size is brought to this one, ``colour`` in which order channels travel.
    """

    tensor: str
    height: Annotated[int, Field(ge=1, le=16384)]
    width: Annotated[int, Field(ge=1, le=16384)]
    channels: Literal[1, 3, 4] = 3
    dtype: Literal["float32", "uint8", "int8"]
    scale: Channels = 1.0 / 255.0
    offset: Channels = 0.0
    colour: Literal["rgb", "bgr"] = "rgb"
    fit: Literal["letterbox", "stretch"] = "letterbox"


class Plan(Record):
    """Everything that the offline step decides, for one model.

    ``model`` is the digest of the whole model, ``edge_model`` that of the part which the edges run (its blocks).
    ``runtime`` is what a node must run so that its bits equal the others' (empty: not yet bound to a cluster).
    ``undivided``: a source may compute a frame whole where no other node is idle (every node has the memory for it).
    ``schedule``: idle nodes steal tiles, or (a baseline to measure against) the gateway deals them out equally.
    """

    version: Literal[2] = PLAN_VERSION
    model: Digest
    edge_model: Digest
    runtime: str = ""
    undivided: bool = True
    schedule: Literal["stealing", "sharing"] = "stealing"
    pixels: Pixels
    blocks: Annotated[tuple[Block, ...], Field(min_length=1, max_length=64)]
    tail_inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @model_validator(mode="after")
    def _joined(self) -> "Plan":
        """The first block reads the image alone, and every other what the one before it gives."""
        given = self.blocks[0].inputs
        image = (1, self.pixels.height, self.pixels.width, self.pixels.channels)
        if [spec.name for spec in given] != [self.pixels.tensor] or given[0].shape != image:
            raise ValueError(f"the first block must read the image {self.pixels.tensor[:200]!r} of {image}, and no more")
        for before, block in zip(self.blocks, self.blocks[1:]):
            if not set(block.inputs) <= set(before.cut):
                raise ValueError("a block reads what the one before it does not give")
        return self

    @model_validator(mode="after")
    def _ending(self) -> "Plan":
        """Blocks of one grid, then maybe blocks that are executed whole: every lane has its tile in each of the former."""
        if self.blocks[0].mode == "whole":
            raise ValueError("the first block is executed tile by tile")
        for before, block in zip(self.blocks, self.blocks[1:]):
            same = (before.mode, before.rows, before.cols) == (block.mode, block.rows, block.cols)
            if block.mode == "tiles" and not same:
                raise ValueError("blocks have one grid, and behind one that is executed whole all are")
        return self

    @property
    def lanes(self) -> int:
        """Tiles of a frame that nodes take, lend and steal: those of the first block."""
        return len(self.blocks[0].tiles)

    @property
    def spread(self) -> int:
        """Blocks that are executed tile by tile; those behind them are lane 0's alone."""
        return sum(block.mode == "tiles" for block in self.blocks)

    def digest(self) -> str:
        """Digest of the canonical JSON of this plan (BLAKE2b, 128 bits, hexadecimal)."""
        return digest(self.model_dump_json().encode())


def digest(data: Buffer) -> str:
    """BLAKE2b of ``data``, 128 bits, hexadecimal: the one digest of plans, models and tensors here."""
    return hasher(data).hexdigest()


def hasher(data: Buffer = b"") -> "hashlib.blake2b":
    """To digest what comes in pieces, of which ``data`` is the first."""
    return hashlib.blake2b(data, digest_size=16)
