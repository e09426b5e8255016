"""What the offline step decides: boxes, tiles, fused blocks and the plan that names them.

A plan is complete: with the model it says what every node computes. It holds no path, no address and no clock, so equal
plans have equal digests on every machine. A plan is a list of blocks in topological order; a block is divided (``split``)
into tiles of its maps, by the filters of its layers, or not at all, and reads the image or what any earlier block gave.
Each task names the box of every tensor that it needs and gives, and its home: a lane, which one node computes for a frame.
What one task gives another follows from their boxes alone, so halo exchange, gathering for a whole block, the hop of a
pipeline and a skip connection that passes by are one thing and no other format.
"""

import functools
import hashlib
import mmap
from collections.abc import Iterable, Mapping
from math import prod
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema
from typing_extensions import Self

PLAN_VERSION: Final = 3
MAPS: Final = ("float32", "int8", "uint8")  # what equality is shown for; int16 leaves XNNPACK for kernels that are not exact
MAP_ELEMENTS: Final = 2**30
TENSORS: Final = ("uint8", "int8", "int16", "int32", "int64", "float32", "float16", "bool")  # what travels
MAX_RANK: Final = 6  # of what travels
MAX_BLOCKS: Final = 256
MAX_LANES: Final = 4096
MAX_FRAMES: Final = 64  # of a clip
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


class Box(tuple[tuple[int, int], ...]):
    """A part of a tensor: a half-open range ``(start, stop)`` of each of its axes, in elements.

    A tile's part is whole in all but rows and columns, a slice of filters in all but the last axis.
    """

    @classmethod
    def whole(cls, shape: Iterable[int]) -> "Box":
        """All of a tensor."""
        return cls((0, size) for size in shape)

    @classmethod
    def tile(cls, shape: tuple[int, ...], region: Region) -> "Box":
        """A region of a map: NHWC, or frames before rows (NDHWC)."""
        ends = [(0, size) for size in shape]
        ends[-3:-1] = [(region.y0, region.y1), (region.x0, region.x1)]
        return cls(ends)

    @property
    def region(self) -> Region:
        """Rows and columns of a map's part; what is no map counts as one pixel, which nobody divides."""
        if len(self) < 4:
            return Region(0, 0, 1, 1)
        (y0, y1), (x0, x1) = self[-3], self[-2]
        return Region(y0, x0, y1, x1)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self)

    def common(self, other: "Box") -> "Box | None":
        """What both hold, if anything."""
        met = Box((max(a, c), min(b, d)) for (a, b), (c, d) in zip(self, other))
        return met if all(start < stop for start, stop in met) else None

    def hull(self, other: "Box") -> "Box":
        """Smallest box that holds both."""
        return Box((min(a, c), max(b, d)) for (a, b), (c, d) in zip(self, other))

    def within(self, outer: "Box") -> "Box":
        """This box in the coordinates of ``outer``."""
        return Box((start - low, stop - low) for (start, stop), (low, _) in zip(self, outer))

    def slices(self) -> tuple[slice, ...]:
        """To index an array with."""
        return tuple(slice(start, stop) for start, stop in self)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        ends = handler.generate_schema(Annotated[tuple[tuple[Count, Count], ...], Field(max_length=MAX_RANK)])
        return core_schema.no_info_after_validator_function(cls, ends)


class Record(BaseModel):
    """A frozen value that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, cache_strings="keys")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As in pydantic, but a copy that differs works out anew what follows from its fields."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


Count = Annotated[int, Field(ge=0, le=2**53)]  # what any reader of JSON takes exactly
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class TensorSpec(Record):
    """Name, full NHWC shape (or any rank, in the tail) and numpy dtype of a tensor of the model."""

    name: str
    shape: Annotated[tuple[Count, ...], Field(max_length=16)]
    dtype: str

    @property
    def box(self) -> Box:
        """All of it."""
        return Box.whole(self.shape)

    def check_tensor(self) -> None:
        """Whether one node may give it to another whole: any shape that is known and not empty, of a dtype that travels.

        Raises:
            ValueError: it may not.
        """
        known = 1 <= len(self.shape) <= MAX_RANK and min(self.shape) >= 1 and prod(self.shape) <= MAP_ELEMENTS
        if not known or self.dtype not in TENSORS:
            raise ValueError(
                f"tensor {self.name[:200]!r} at a cut is {self.dtype[:20]} of shape {self.shape}: it must have 1 to "
                f"{MAX_RANK} known dimensions, at most {MAP_ELEMENTS} elements and be {', '.join(TENSORS)}"
            )


class Tile(Record):
    """One task: the box of every tensor that it needs and of every tensor that it gives, by tensor name.

    ``home`` is the lane that computes it. ``tile_class`` is shared by tasks whose graphs are the same (same sizes, same image
    borders, same filters). ``effort``: what it costs a processor, in operations of a large convolution (see
    ``models.graph.effort``); ``weight_bytes``: of the constants that it reads.
    """

    home: Count
    tile_class: Count
    inputs: dict[str, Box]
    outputs: dict[str, Box]
    flops: Count
    effort: Count
    weight_bytes: Count = 0


Split: TypeAlias = Literal["tiles", "filters", "channels", "pair", "whole"]


class Block(Record):
    """Consecutive operators, divided one way. ``order`` is the sequence in which lanes are taken that begin here.

    ``split``: ``tiles`` of a grid of ``rows`` and ``cols``, numbered row by row, as homes are; ``filters``: each task computes
    some of the last axis; ``channels``: each sums over some of the input channels, ``pair``: over those that it has made;
    ``whole``: the operators as they are, on one node. ``cut``: what it gives.
    """

    inputs: tuple[TensorSpec, ...]
    cut: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    split: Split = "tiles"
    rows: Annotated[int, Field(ge=1, le=64)]
    cols: Annotated[int, Field(ge=1, le=64)]
    reuse: bool = False
    tiles: Annotated[tuple[Tile, ...], Field(min_length=1, max_length=4096)]
    order: tuple[Count, ...]

    @model_validator(mode="after")
    def _inside(self) -> "Block":
        """Every task names every tensor of the block's two ends, and boxes that lie in it: what crops rely on."""
        needs, gives = ({spec.name: spec for spec in specs} for specs in (self.inputs, self.cut))
        if len(needs) != len(self.inputs) or len(gives) != len(self.cut) or not needs.keys().isdisjoint(gives):
            raise ValueError("tensors of the ends of a block have one name")
        for spec in (*self.inputs, *self.cut):
            spec.check_tensor()
        for tile in self.tiles:
            for boxes, specs in ((tile.inputs, needs), (tile.outputs, gives)):
                if boxes.keys() != specs.keys():
                    raise ValueError(f"tile {tile.home} names other tensors than its block")
                for name, box in boxes.items():
                    whole = specs[name].box
                    if self.split == "whole" and box != whole:
                        raise ValueError(f"a block that is executed whole has {name[:200]!r} in part")
                    if len(box) != len(whole) or not all(0 <= a < b <= size for (a, b), (_, size) in zip(box, whole)):
                        raise ValueError(f"tile {tile.home} has a region outside of its map")
        return self

    @model_validator(mode="after")
    def _whole(self) -> "Block":
        homes = [tile.home for tile in self.tiles]
        if self.split == "tiles" and homes != list(range(self.rows * self.cols)):
            raise ValueError(f"a {self.rows}x{self.cols} block needs {self.rows * self.cols} tiles, numbered in order")
        if homes != sorted(set(homes)) or homes[-1] >= MAX_LANES:
            raise ValueError(f"the homes of a block's tasks are different lanes below {MAX_LANES}, in order")
        if sorted(self.order) != homes:
            raise ValueError("order must name every tile once")
        if self.split == "whole" and len(self.tiles) != 1:
            raise ValueError("a block that is executed whole is one task")
        if self.reuse and self.split != "tiles":
            raise ValueError("a block that is not divided into tiles reuses nothing")
        return self

    @functools.cached_property
    def by_home(self) -> Mapping[int, Tile]:
        """Its tasks by lane."""
        return {tile.home: tile for tile in self.tiles}

    @property
    def name(self) -> str:
        """Of what it gives."""
        return "+".join(spec.name for spec in self.cut)

    @property
    def kind(self) -> str:
        """How it is divided, in a word or two."""
        if self.split == "tiles":
            return f"{self.rows}x{self.cols}"
        return "whole" if self.split == "whole" else f"{self.split} {len(self.tiles)}"

    @property
    def divides_weights(self) -> bool:
        """Whether each of its tasks has a part of the weights."""
        return self.split not in ("tiles", "whole")


class Pixels(Record):
    """How an image becomes the model's input: uint8 of ``height x width`` until the worker maps it.

    float32: ``pixel * scale + offset``, in the model's own order of channels; uint8: the pixel; int8: the pixel minus
    128. ``channels``: of colour, grey alone, or colour and an opacity that is full everywhere. ``fit`` says how a frame of
    another size is brought to this one, ``colour`` in which order channels travel. ``frames``: so many pictures are one
    input, a clip of the last one and every ``step``-th before it (0: the picture alone, without an axis for frames).
    """

    tensor: str
    height: Annotated[int, Field(ge=1, le=16384)]
    width: Annotated[int, Field(ge=1, le=16384)]
    channels: Literal[1, 3, 4] = 3
    frames: Annotated[int, Field(ge=0, le=MAX_FRAMES)] = 0
    step: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 1
    dtype: Literal["float32", "uint8", "int8"]
    scale: Channels = 1.0 / 255.0
    offset: Channels = 0.0
    colour: Literal["rgb", "bgr"] = "rgb"
    fit: Literal["letterbox", "stretch"] = "letterbox"

    @property
    def itemsize(self) -> int:
        """Bytes of a value of the model's input."""
        return 4 if self.dtype == "float32" else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the model's input."""
        return (1, *[self.frames][: self.frames], self.height, self.width, self.channels)


class Plan(Record):
    """Everything that the offline step decides, for one model.

    ``model`` is the digest of the whole model, ``edge_model`` that of the part which the edges run (its blocks).
    ``runtime`` is what a node must run so that its bits equal the others' (empty: not yet bound to a cluster).
    ``ends``: what the blocks give to the gateway, which merges it and computes the rest.
    ``undivided``: a source may compute a frame whole where no other node is idle (every node has the memory for it).
    ``approximate``: layers that are summed in so many parts, by the name of what they make: their bits are not the model's own,
    but the same every time. ``difference``: the largest from the model's own outputs that ``dt verify`` has found.
    ``schedule``: idle nodes steal tiles, or (a baseline to measure against) the gateway deals them out equally.
    """

    version: Literal[3] = PLAN_VERSION
    model: Digest
    edge_model: Digest
    runtime: str = ""
    undivided: bool = True
    schedule: Literal["stealing", "sharing"] = "stealing"
    approximate: dict[str, Count] = {}
    difference: Annotated[float, Field(ge=0)] | None = None
    pixels: Pixels
    blocks: Annotated[tuple[Block, ...], Field(min_length=1, max_length=MAX_BLOCKS)]
    ends: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    tail_inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @model_validator(mode="after")
    def _joined(self) -> "Plan":
        """The first block reads the image alone, every other what those before it give, all of it made once."""
        image = self.pixels.shape
        given = self.blocks[0].inputs
        if [spec.name for spec in given] != [self.pixels.tensor] or given[0].shape != image:
            raise ValueError(f"the first block must read the image {self.pixels.tensor[:200]!r} of {image}, and no more")
        known: dict[str, TensorSpec] = {}
        for i, block in enumerate(self.blocks):
            if i and any(known.get(spec.name) != spec for spec in block.inputs):
                raise ValueError("a block reads what none before it gives")
            if any(spec.name in known or spec.name == self.pixels.tensor for spec in block.cut):
                raise ValueError("two blocks give the same tensor")
            known.update({spec.name: spec for spec in block.cut})
        if any(known.get(spec.name) != spec for spec in self.ends):
            raise ValueError("the gateway merges what no block gives")
        homes = {tile.home for block in self.blocks for tile in block.tiles}
        if homes != set(range(len(homes))):
            raise ValueError("lanes are numbered from 0 on, without a gap")
        return self

    @functools.cached_property
    def lanes(self) -> int:
        """Lanes of a frame, which nodes take, lend and steal."""
        return 1 + max(block.tiles[-1].home for block in self.blocks)

    @functools.cached_property
    def order(self) -> tuple[int, ...]:
        """The sequence in which a source takes lanes; thieves take from its end."""
        return (*self.blocks[0].order, *(lane for lane in range(self.lanes) if lane not in self.blocks[0].by_home))

    @functools.cached_property
    def steps(self) -> tuple[tuple[int, ...], ...]:
        """For each lane the blocks that have a task there, in order."""
        return tuple(
            tuple(i for i, block in enumerate(self.blocks) if lane in block.by_home) for lane in range(self.lanes)
        )

    @property
    def exactness(self) -> str:
        """Whether answers have the model's own bits, in words for people."""
        if not self.approximate:
            return "exact"
        return "approximate: " + (
            "dt verify has not said yet how far from the model's own" if self.difference is None
            else f"within {self.difference:.3g} of the model's own, as dt verify found"
        )  # fmt: skip

    @functools.cached_property
    def makers(self) -> Mapping[str, int]:
        """The block that gives each tensor."""
        return {spec.name: i for i, block in enumerate(self.blocks) for spec in block.cut}

    @functools.cached_property
    def answers(self) -> tuple[tuple[int, int], ...]:
        """Block and lane of each task whose outputs, or some of them, are the gateway's."""
        last = sorted({self.makers[spec.name] for spec in self.ends})
        return tuple((i, tile.home) for i in last for tile in self.blocks[i].tiles)

    def task(self, block: int, lane: int) -> Tile | None:
        """What a lane computes of a block, if anything."""
        return self.blocks[block].by_home.get(lane) if block < len(self.blocks) else None

    def digest(self) -> str:
        """Digest of the canonical JSON of this plan (BLAKE2b, 128 bits, hexadecimal)."""
        return digest(self.model_dump_json().encode())


def digest(data: Buffer) -> str:
    """BLAKE2b of ``data``, 128 bits, hexadecimal: the one digest of plans, models and tensors here."""
    return hasher(data).hexdigest()


def hasher(data: Buffer = b"") -> "hashlib.blake2b":
    """To digest what comes in pieces, of which ``data`` is the first."""
    return hashlib.blake2b(data, digest_size=16)
