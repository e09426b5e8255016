"""Makes plans: chooses a cut where none is named, divides it into tiles and describes what they cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

from models import rewrite
from models.division import Span, Tiler, peak_memory
from models.graph import Graph
from models.partition import Cut, Partition
from models.reuse import order as reuse_order
from models.tensor import part_bytes, part_shape, parts
from schemas.errors import PlanError
from schemas.plan import Block, Pixels, Plan, Region, TensorSpec, Tile, digest

BlockChoices: TypeAlias = Sequence[tuple[str | Cut, tuple[int, int]]]
WHOLE = (1, 1)  # the grid of blocks that are executed whole, behind blocks of another
MAX_BLOCKS = 64  # as in schemas.plan.Plan
_AUTO_NODES, _AUTO_BYTES_S, _AUTO_FLOPS_S = 6, 60e6 / 8, 10e9  # what "auto" assumes of a cluster: six Pis on Wi-Fi


def parse_grid(text: str) -> tuple[int, int]:
    """``3x4`` -> 3 rows, 4 columns.

    Raises:
        PlanError: anything else.
    """
    rows, x, cols = text.lower().partition("x")
    if not (x and rows.isdecimal() and cols.isdecimal() and 1 <= int(rows) <= 64 and 1 <= int(cols) <= 64):
        raise PlanError(f"grid {text!r}: give rows x columns from 1x1 to 64x64, such as 3x3")
    return int(rows), int(cols)


def make_plan(
    partition: Partition,
    model_digest: str,
    grid: tuple[int, int] = (3, 3),
    cut_name: str = "auto",
    *,
    blocks: BlockChoices | None = None,
    reuse: bool = True,
    shares: Sequence[float] = (),
    **pixels: Any,
) -> tuple[Plan, Cut, bytes]:
    """A plan, its deepest cut, and the edges' model that it is for.

    ``blocks`` lists cut and grid of each fused block from the image on; without it there is one block, of ``cut_name``
    and ``grid``. All have one grid, but the last may be 1x1: these are executed whole on one edge. ``reuse``: tiles of a
    single block take from their neighbours on the same node what those have computed (several blocks exchange their halos
    anyway). ``shares`` of the work for each tile, the first one's the source's: such tiles are one for each node, and
    reuse nothing.

    Raises:
        PlanError: no such cut, cuts that do not follow each other, or a grid that leaves tiles empty.
    """
    chosen = _chosen(partition, blocks if blocks is not None else [(cut_name, grid)])
    cut, graph = chosen[-1][0], partition.graph
    edge_model = rewrite.edge_graph(partition, cut).to_bytes()
    tail = rewrite.tail_graph(partition, cut)
    _, height, width, depth = graph.tensors[partition.image].shape
    if depth != 3 and any(isinstance(pixels.get(name), tuple) for name in ("scale", "offset")):
        raise PlanError(f"the card scales three channels of colour, and the model's image has {depth}: give one number for all")
    whole = _whole(partition, chosen)
    divided = fused_blocks(Tiler(partition), [c for c, _ in chosen], chosen[0][1], shares=shares, whole=whole)
    reuse = reuse and len(chosen) == 1 and not shares
    plan = Plan(
        model=model_digest,
        edge_model=digest(edge_model),
        pixels=Pixels(
            tensor=graph.tensors[partition.image].name,
            height=height,
            width=width,
            channels=depth,  # type: ignore[arg-type]
            dtype=graph.tensors[partition.image].dtype,  # type: ignore[arg-type]
            **pixels,
        ),
        blocks=tuple(reusing(b) if reuse and len(b.tiles) > 1 else b for b in divided),
        tail_inputs=() if tail is None else tuple(_spec(tail, t) for t in tail.inputs),
        outputs=tuple(_spec(graph, t) for t in graph.outputs),
    )
    return plan, cut, edge_model


def reusing(block: Block) -> Block:
    """The block whose tiles take from their neighbours on the same node what those have computed."""
    order = reuse_order(block.rows, block.cols, [tile.tile_class for tile in block.tiles])
    return block.model_copy(update={"reuse": True, "order": order})


def _chosen(partition: Partition, blocks: BlockChoices) -> list[tuple[Cut, tuple[int, int]]]:
    if not blocks:
        raise PlanError("a plan needs at least one block: name a cut")
    if len(blocks) > MAX_BLOCKS:
        raise PlanError(f"{len(blocks)} blocks: a plan holds at most {MAX_BLOCKS}, name fewer cuts")
    found = []
    for cut, grid in blocks:
        if cut == "auto":
            cut = choose_cut(partition, *grid)
        found.append((partition.find(cut) if isinstance(cut, str) else cut, grid))
    for (first, _), (second, _) in zip(found, found[1:]):
        if not set(first.ops) < set(second.ops):
            raise PlanError(f"cut {second.name} does not follow {first.name}: name the cuts from the image on")
    return found


def _whole(partition: Partition, chosen: Sequence[tuple[Cut, tuple[int, int]]]) -> int:
    """How many blocks at the end are executed whole.

    Raises:
        PlanError: the grids are not one and then 1x1, or a block that is divided holds what cannot be tiled.
    """
    grids = [grid for _, grid in chosen]
    reached = [partition.is_tileable(cut) for cut, _ in chosen]
    spread = max(sum(reached), 1) if grids[0] == WHOLE else grids.count(grids[0])  # with one node all along it is the same
    if grids != [grids[0]] * spread + [WHOLE] * (len(grids) - spread):
        told = ", ".join(f"{r}x{c}" for r, c in grids)
        raise PlanError(f"all blocks of a plan have one grid, not {told} (but the last may be 1x1: whole on one edge)")
    for is_reached, (cut, _) in zip(reached, chosen[:spread]):
        if not is_reached:
            raise PlanError(
                f"no tile reaches {cut.name}: {partition.describe_blocker()}; name an earlier cut, and this one as --whole"
            )
    return len(grids) - spread


def _spec(graph: Graph, tensor: int) -> TensorSpec:
    t = graph.tensors[tensor]
    return TensorSpec(name=t.name, shape=t.shape, dtype=t.dtype)


def fused_blocks(
    tiler: Tiler,
    cuts: Sequence[Cut],
    grid: tuple[int, int],
    classes: bool = True,
    shares: Sequence[float] = (),
    whole: int = 0,
) -> tuple[Block, ...]:
    """The blocks between the image and these cuts. Without ``classes`` every tile is its own class, which is quicker.

    ``shares`` as in ``make_plan``; the last ``whole`` blocks are executed whole.

    Raises:
        PlanError: a tile would be empty.
    """
    spans, spread = tiler.spans(cuts), len(cuts) - whole
    found = []
    for span, tiles in zip(spans, tiler.divide(cuts[:spread], *grid, shares)):
        key = (span.given, span.cut.name, grid, classes, bool(shares), *(tuple(tile.values()) for tile in tiles))
        if key not in tiler.blocks:
            tiler.blocks[key] = _block(tiler, span, tiles, grid, classes, bool(shares))
        found.append(tiler.blocks[key])
    return (*found, *(_whole_block(tiler, span) for span in spans[spread:]))


def _whole_block(tiler: Tiler, span: Span) -> Block:
    graph, work = tiler.partition.graph, tiler.whole(span)
    inputs, cut = ({t: _spec(graph, t) for t in tensors} for tensors in (work.inputs, span.cut.tensors))
    tile = Tile(
        index=0,
        row=0,
        col=0,
        tile_class=0,
        inputs={spec.name: spec.extent for spec in inputs.values()},
        outputs={spec.name: spec.extent for spec in cut.values()},
        flops=work.flops,
        effort=work.effort,
    )
    return Block(
        inputs=tuple(inputs.values()),
        cut=tuple(cut.values()),
        mode="whole",
        rows=1,
        cols=1,
        tiles=(tile,),
        order=(0,),
    )


def _block(
    tiler: Tiler, span: Span, tiles: Sequence[Mapping[int, Region]], grid: tuple[int, int], classes: bool, uneven: bool
) -> Block:
    known: dict[str, int] = {}
    graph, made = tiler.partition.graph, []
    for index, outputs in enumerate(tiles):
        work = tiler.work(span, outputs)
        sign = rewrite.signature(_tile_graph(tiler.partition, span.given, outputs)) if classes else str(index)
        made.append(
            Tile(
                index=index,
                row=index // grid[1],
                col=index % grid[1],
                tile_class=known.setdefault(sign, len(known)),
                inputs={graph.tensors[t].name: region for t, region in work.inputs.items()},
                outputs={graph.tensors[t].name: region for t, region in outputs.items()},
                flops=work.flops,
                effort=work.effort,
            )
        )
    def rank(i: int) -> tuple[int, int]:
        """The source takes from the front: its own tile; thieves from the back, the fastest first."""
        return (made[i].effort if i else -1, i) if uneven else (made[i].tile_class, i)

    return Block(
        inputs=tuple(_spec(graph, t) for t in work.inputs),
        cut=tuple(_spec(graph, t) for t in span.cut.tensors),
        rows=grid[0],
        cols=grid[1],
        tiles=tuple(made),
        order=tuple(sorted(range(len(made)), key=rank)),
    )


def _tile_graph(partition: Partition, given: Sequence[int], outputs: Mapping[int, Region]) -> Graph:
    """What a tile computes of the tensors ``given``: not what only passes it by."""
    made = {t: region for t, region in outputs.items() if t not in given}
    ops = partition.between(given, made)
    regions = partition.regions(ops, made)
    return rewrite.tile_graph(partition, ops, [t for t in given if t in regions], made)


def choose_cut(partition: Partition, rows: int, cols: int) -> Cut:
    """The cut with the least estimated time on six nodes: its share of the tiles, bytes at 60 Mbit/s, then the tail.

    Raises:
        PlanError: nothing can be tiled at this grid.
    """
    total, count = partition.effort(sorted(partition.tileable)), rows * cols
    rounds = -(-count // _AUTO_NODES)

    def seconds(cut: Cut, redundancy: float) -> float:
        effort = partition.effort(cut.ops)
        work = effort * redundancy / count * rounds
        return (work + total - effort) / _AUTO_FLOPS_S + cut_bytes(partition.graph, cut) / _AUTO_BYTES_S

    best, found = math.inf, None
    for least, _, cut in sorted((seconds(cut, 1.0), i, cut) for i, cut in enumerate(partition.cuts)):
        if least >= best:  # tiles never do less than the whole
            break
        redundancy = partition.redundancies(cut, [(rows, cols)])[0]
        if redundancy is not None and (own := seconds(cut, redundancy)) < best:
            best, found = own, cut
    if found is None:
        deepest = partition.describe_blocker() if not partition.cuts else "every map is smaller than the grid"
        raise PlanError(f"no cut of this model can be divided {rows}x{cols}: {deepest}")
    return found


def cut_bytes(graph: Graph, cut: Cut) -> int:
    """Bytes of the cut's whole maps."""
    return sum(graph.tensors[t].nbytes for t in cut.tensors)


@dataclass(frozen=True)
class TileCost:
    """What one tile costs: operations, bytes in (uint8 pixels) and out, peak bytes of its activations."""

    flops: int
    bytes_in: int
    bytes_out: int
    peak_memory_bytes: int


def tile_costs(partition: Partition, plan: Plan, block: int = 0) -> list[TileCost]:
    """The cost of each tile of a block."""
    names, spec = partition.graph.by_name, plan.blocks[block]
    specs = {t.name: t for t in (*spec.inputs, *spec.cut)}
    costs, peaks = [], {}
    given = [names[t.name] for t in spec.inputs]
    for tile in spec.tiles:
        outputs = {names[name]: region for name, region in tile.outputs.items()}
        if tile.tile_class not in peaks:
            whole = spec.mode == "whole"
            made = [t for t in outputs if t not in given]
            graph = rewrite.whole_graph(partition, given, made) if whole else _tile_graph(partition, given, outputs)
            peaks[tile.tile_class] = peak_memory(graph)
        bytes_in = sum(
            prod(part_shape(specs[name], region)) if plan.pixels.tensor == name else part_bytes(specs[name], region)
            for name, region in tile.inputs.items()
        )
        bytes_out = sum(part_bytes(specs[name], region) for name, region in tile.outputs.items())
        costs.append(TileCost(tile.flops, bytes_in, bytes_out, peaks[tile.tile_class]))
    return costs


def exchanged_bytes(plan: Plan, block: int) -> int:
    """Bytes that tiles of a block give to other tiles of the next one."""
    specs, tiles = {spec.name: spec for spec in plan.blocks[block].cut}, plan.blocks[block].tiles
    moved = (part for tile in tiles for part in parts(plan, block, tile.index) if part.tile != tile.index)
    return sum(part_bytes(specs[part.tensor], part.region) for part in moved)
