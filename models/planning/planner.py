"""Makes plans: chooses a cut where none is named, divides it into tiles and describes what they cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

from models.graph.file import Graph
from models.planning.cluster import RUNTIME_BYTES
from models.tiling import rewrite
from models.tiling.division import (
    Channels,
    Division,
    Filters,
    Piece,
    Span,
    Tiler,
    Tiles,
    Whole,
    Work,
    peak_memory,
    spec_of,
)  # fmt: skip
from models.tiling.filters import PARTIALS, has_filters
from models.tiling.partials import layer_of
from models.tiling.partition import Cut, Partition
from models.tiling.reuse import order as reuse_order
from models.tiling.tensor import box_bytes, exchange
from schemas.contract.errors import PlanError
from schemas.contract.plan import MAX_BLOCKS, Block, Pixels, Plan, Region, Split, Tile, digest

_AUTO_NODES, _AUTO_BYTES_S, _AUTO_FLOPS_S = 6, 60e6 / 8, 10e9  # what "auto" assumes of a cluster: six Pis on Wi-Fi
BlockChoices: TypeAlias = Sequence[tuple[str | Cut, Division]]


def parse_grid(text: str) -> Tiles:
    """``3x4`` -> 3 rows, 4 columns.

    Raises:
        PlanError: anything else.
    """
    rows, x, cols = text.lower().partition("x")
    if not (x and rows.isdecimal() and cols.isdecimal() and 1 <= int(rows) <= 64 and 1 <= int(cols) <= 64):
        raise PlanError(f"grid {text!r}: give rows x columns from 1x1 to 64x64, such as 3x3")
    return Tiles(int(rows), int(cols))


def parse_division(text: str) -> Division:
    """``3x4``, ``filters 6``, ``channels 6``, ``pair 6``, ``whole`` or ``whole 2`` (in lane 2).

    Raises:
        PlanError: anything else.
    """
    word, _, number = text.strip().partition(" ")
    if word == "whole" and (not number or (number.isdecimal() and int(number) < 64)):
        return Whole(int(number or 0))
    if word in ("filters", "channels", "pair") and number.isdecimal() and 1 <= int(number) <= 64:
        return Filters(int(number)) if word == "filters" else Channels(int(number))
    if word in ("whole", "filters", "channels", "pair"):
        told = "give tiles such as 3x3, filters (channels, pair) with how many parts, or whole with a lane"
        raise PlanError(f"division {text!r}: {told}")
    return parse_grid(text)


def parse_block(text: str, grid: Division | None = None) -> tuple[str, Division]:
    """``CUT=DIVISION``, or ``CUT`` alone, which is divided by ``grid`` (3x3).

    Raises:
        PlanError: as ``parse_division``.
    """
    name, _, division = text.rpartition("=") if "=" in text else (text, "", "")
    return name.strip(), parse_division(division) if division else grid or Tiles(3, 3)


def in_parts(graph: Graph, blocks: BlockChoices) -> tuple[BlockChoices, dict[str, int]]:
    """The blocks with each one of channels as two, partial sums and then the rest whole, and the layers that they sum in parts.

    Raises:
        PlanError: a layer cannot be summed in parts.
    """
    found: list[tuple[str | Cut, Division]] = []
    parts: dict[str, int] = {}
    for cut, division in blocks:
        if isinstance(division, Channels):
            name = cut if isinstance(cut, str) else cut.name
            layer = graph.tensors[graph.ops[layer_of(graph, name)].outputs[0]].name
            parts[layer] = division.parts
            found += [(layer + PARTIALS, division), (name, Whole())]
        else:
            found.append((cut, division))
    return found, parts


def make_plan(
    partition: Partition,
    model_digest: str,
    grid: tuple[int, int] = (3, 3),
    cut_name: str = "auto",
    *,
    blocks: BlockChoices | None = None,
    reuse: bool = True,
    shares: Sequence[float] = (),
    approximate: Mapping[str, int] | None = None,
    **pixels: Any,
) -> tuple[Plan, Cut, bytes]:
    """A plan, its deepest cut, and the edges' model that it is for.

    ``blocks`` lists cut and division of each block from the image on; without it there is one block, of ``cut_name`` and
    ``grid``. ``reuse``: tiles of a single block take from their neighbours on the same node what those have computed (several
    blocks exchange their halos anyway). ``shares`` of the work for each tile, the first one's the source's: such tiles are
    one for each node, and reuse nothing.

    Raises:
        PlanError: no such cut, cuts that do not follow each other, or a division that leaves tasks empty.
    """
    chosen = _chosen(partition, blocks if blocks is not None else [(cut_name, Tiles(*grid))])
    cut, graph = chosen[-1][0], partition.graph
    edge_model = rewrite.edge_graph(partition, cut).to_bytes()
    tail = rewrite.tail_graph(partition, cut)
    *frames, height, width, depth = graph.tensors[partition.image].shape[1:]
    if depth != 3 and any(isinstance(pixels.get(name), tuple) for name in ("scale", "offset")):
        raise PlanError(f"the card scales three channels of colour, and the model's image has {depth}: give one number for all")
    divided = fused_blocks(Tiler(partition), chosen, shares=shares)
    if [spec.name for spec in divided[0].inputs] != [graph.tensors[partition.image].name]:
        raise PlanError(f"the operators up to {chosen[0][0].name} do not read the model's image: its file is damaged")
    reuse = reuse and len(chosen) == 1 and not shares and isinstance(chosen[0][1], Tiles)
    plan = Plan(
        model=model_digest,
        edge_model=digest(edge_model),
        pixels=Pixels(
            tensor=graph.tensors[partition.image].name,
            height=height,
            width=width,
            channels=depth,  # type: ignore[arg-type]
            frames=frames[0] if frames else 0,
            dtype=graph.tensors[partition.image].dtype,  # type: ignore[arg-type]
            **pixels,
        ),
        approximate=dict(approximate or {}),
        blocks=tuple(reusing(b) if reuse and len(b.tiles) > 1 else b for b in divided),
        ends=tuple(spec_of(graph, t) for t in cut.tensors),
        tail_inputs=() if tail is None else tuple(spec_of(tail, t) for t in tail.inputs),
        outputs=tuple(spec_of(graph, t) for t in graph.outputs),
    )
    return plan, cut, edge_model


def reusing(block: Block) -> Block:
    """The block whose tiles take from their neighbours on the same node what those have computed."""
    order = reuse_order(block.rows, block.cols, [tile.tile_class for tile in block.tiles])
    return block.model_copy(update={"reuse": True, "order": order})


def _chosen(partition: Partition, blocks: BlockChoices) -> list[Piece]:
    if not blocks:
        raise PlanError("a plan needs at least one block: name a cut")
    if len(blocks) > MAX_BLOCKS:
        raise PlanError(f"{len(blocks)} blocks: a plan holds at most {MAX_BLOCKS}, name fewer cuts")
    found: list[Piece] = []
    for cut, division in blocks:
        if cut == "auto" and not partition.cuts:
            found.append((partition.end, Whole()))  # no tile can begin: one node for all of a frame
            continue
        if cut == "auto":
            rows, cols = division if isinstance(division, Tiles) else (1, 1)
            cut = choose_cut(partition, rows, cols)
        end = partition.find(cut) if isinstance(cut, str) else cut
        found += through(partition, end, division) if len(blocks) == 1 and isinstance(division, Tiles) else [(end, division)]
    for (first, _), (second, _) in zip(found, found[1:]):
        if not set(first.ops) < set(second.ops):
            raise PlanError(f"cut {second.name} does not follow {first.name}: name the cuts from the image on")
    homes = {home for _, division in found for home in division.homes}
    if homes != set(range(len(homes))):
        raise PlanError(f"nothing is in lane {min(set(range(max(homes))) - homes)}: lanes are numbered from 0 on")
    return found


def through(partition: Partition, end: Cut, grid: Tiles) -> list[Piece]:
    """Tiles up to ``end``; over what no tile can compute by blocks that are executed whole. The maps stay where they are."""
    if not partition.refused.keys() & set(end.ops):
        return [(end, grid)]
    found: list[Piece] = []
    tiler, done = Tiler(partition), set[int]()

    def add(cut: Cut, division: Division) -> None:
        nonlocal done
        if done < set(cut.ops):
            span = tiler.spans([*(known for known, _ in found), cut])[-1]
            sizes = [partition.graph.tensors[t].shape[-3:-1] for t in span.made]
            fits = all(len(size) == 2 and size[0] >= grid.rows and size[1] >= grid.cols for size in sizes)
            found.append((cut, division if fits else Whole()))
            done = set(cut.ops)

    for hop in partition.hops:
        for cut, division in ((hop.tiles, grid), (hop.whole, Whole())):
            if cut is not None and set(cut.ops) <= set(end.ops):
                add(cut, division)
    add(end, grid if not partition.refused.keys() & (set(end.ops) - done) else Whole())
    return found


def fused_blocks(
    tiler: Tiler, pieces: Sequence[Piece], classes: bool = True, shares: Sequence[float] = ()
) -> tuple[Block, ...]:
    """The blocks from the image over these cuts. Without ``classes`` every task is its own class, which is quicker.

    Raises:
        PlanError: a task would be empty.
    """
    found = []
    for span, (_, division), works in zip(tiler.spans([cut for cut, _ in pieces]), pieces, tiler.divide(pieces, shares)):
        made = tuple(tuple(work.outputs.values()) for work in works)
        key = (span.ops, span.made, division, classes, bool(shares), made)
        if key not in tiler.blocks:
            tiler.blocks[key] = _block(tiler, span, division, works, classes, bool(shares))
        found.append(tiler.blocks[key])
    return tuple(found)


def _block(
    tiler: Tiler, span: Span, division: Division, works: Sequence[Work], classes: bool, uneven: bool
) -> Block:
    known: dict[str, int] = {}
    graph, made = tiler.partition.graph, []
    for home, work in enumerate(works, division.home if isinstance(division, Whole) else 0):
        sign = str(home)
        if classes and isinstance(division, Tiles):
            outputs = {t: box.region for t, box in work.outputs.items()}
            sign = rewrite.signature(tile_graph_of(tiler.partition, span, outputs))
        made.append(
            Tile(
                home=home,
                tile_class=known.setdefault(sign, len(known)),
                inputs={graph.tensors[t].name: box for t, box in work.inputs.items()},
                outputs={graph.tensors[t].name: box for t, box in work.outputs.items()},
                flops=work.flops,
                effort=work.effort,
                weight_bytes=work.weight_bytes,
            )
        )

    def rank(i: int) -> tuple[int, int]:
        """The source takes from the front: its own tile; thieves from the back, the fastest first."""
        return (made[i].effort if i else -1, i) if uneven else (made[i].tile_class, i)

    rows, cols = division if isinstance(division, Tiles) else (1, len(works))
    order = sorted(range(len(made)), key=rank) if isinstance(division, Tiles) else range(len(made))
    return Block(
        inputs=tuple(spec_of(graph, t) for t in works[0].inputs),
        cut=tuple(spec_of(graph, t) for t in span.made),
        split=_split(graph, span, division),
        rows=rows,
        cols=cols,
        tiles=tuple(made),
        order=tuple(made[i].home for i in order),
    )


def _split(graph: Graph, span: Span, division: Division) -> Split:
    if isinstance(division, Channels):  # of a pair the first layer is in the block, too
        layers = [i for i in span.ops if has_filters(graph, [i])]
        return "pair" if any("/part" not in graph.tensors[graph.ops[i].outputs[0]].name for i in layers) else "channels"
    return "tiles" if isinstance(division, Tiles) else "filters" if isinstance(division, Filters) else "whole"


def tile_graph_of(partition: Partition, span: Span, outputs: Mapping[int, Region]) -> Graph:
    """What a tile computes of the tensors that its block is given."""
    regions = partition.regions(span.ops, outputs)
    return rewrite.tile_graph(partition, span.ops, [t for t in span.given if t in regions], outputs)


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
    """The cost of each task of a block."""
    tiler, spec = Tiler(partition), plan.blocks[block]
    span = tiler.planned(plan.blocks)[block]
    specs = {t.name: t for t in (*spec.inputs, *spec.cut)}
    costs, peaks = [], {}
    for number, tile in enumerate(spec.tiles):
        if tile.tile_class not in peaks:
            if spec.split == "tiles":
                outputs = {partition.graph.by_name[name]: box.region for name, box in tile.outputs.items()}
                peaks[tile.tile_class] = peak_memory(tile_graph_of(partition, span, outputs))
            elif spec.divides_weights:
                peaks[tile.tile_class] = peak_memory(tiler.filter_task(span, (number, len(spec.tiles))).graph)
            else:
                peaks[tile.tile_class] = peak_memory(rewrite.whole_graph(partition, span.given, span.made))
        bytes_in = sum(
            prod(box.shape) if plan.pixels.tensor == name else box_bytes(specs[name], box)
            for name, box in tile.inputs.items()
        )
        bytes_out = sum(box_bytes(specs[name], box) for name, box in tile.outputs.items())
        costs.append(TileCost(tile.flops, bytes_in, bytes_out, peaks[tile.tile_class]))
    return costs


def places(partition: Partition, plan: Plan) -> list[dict[str, Any]]:
    """What each lane's node holds: bytes of its weights; these, its largest task's live data and inputs, what it has given to
    others by filters, and the runtime; its blocks.
    """
    costs = [tile_costs(partition, plan, i) for i in range(len(plan.blocks))]
    found: list[dict[str, Any]] = []
    for lane in range(plan.lanes):
        tasks = {i: costs[i][list(plan.blocks[i].by_home).index(lane)] for i in plan.steps[lane]}
        weights = sum(plan.blocks[i].by_home[lane].weight_bytes for i in tasks)
        most = max(c.peak_memory_bytes + c.bytes_in * (1 if i else plan.pixels.itemsize) for i, c in tasks.items())
        given = sum(c.bytes_out for i, c in tasks.items() if plan.blocks[i].divides_weights and i + 1 < len(costs))
        found.append({"weight_bytes": weights, "memory_bytes": RUNTIME_BYTES + weights + most + given, "tasks": list(tasks)})
    return found


def exchanged_bytes(plan: Plan) -> int:
    """Bytes that tasks give to other lanes."""
    specs = {spec.name: spec for block in plan.blocks for spec in block.cut}
    return sum(
        box_bytes(specs[name], box)
        for (_, home), takers in exchange(plan.blocks).gives.items()
        for lane, boxes in takers.items() if lane != home
        for name, box in boxes.items()
    )  # fmt: skip
