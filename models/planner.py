"""Makes plans: chooses a cut where none is named, divides it into tiles and describes what they cost."""

from dataclasses import dataclass
from typing import Any

from models import rewrite
from models.graph import Graph
from models.partition import Cut, Partition
from schemas.errors import PlanError
from schemas.plan import Block, Pixels, Plan, Region, TensorSpec, Tile, digest

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
    partition: Partition, model_digest: str, grid: tuple[int, int], cut_name: str = "auto", **pixels: Any
) -> tuple[Plan, Cut, bytes]:
    """A plan of one fused block, its cut, and the edges' model that it is for.

    Raises:
        PlanError: no such cut, or a grid that leaves tiles empty.
    """
    rows, cols = grid
    cut = choose_cut(partition, rows, cols) if cut_name == "auto" else partition.find(cut_name)
    graph = partition.graph
    edge_model = rewrite.edge_graph(partition, cut).to_bytes()
    tail = rewrite.tail_graph(partition, cut)
    tiles = _tiles(partition, cut, rows, cols)
    block = Block(
        inputs=(_spec(graph, partition.image),),
        cut=tuple(_spec(graph, t) for t in cut.tensors),
        rows=rows,
        cols=cols,
        tiles=tuple(tiles),
        order=tuple(sorted(range(len(tiles)), key=lambda i: (tiles[i].tile_class, i))),
    )
    _, height, width, _ = graph.tensors[partition.image].shape
    plan = Plan(
        model=model_digest,
        edge_model=digest(edge_model),
        pixels=Pixels(
            tensor=graph.tensors[partition.image].name,
            height=height,
            width=width,
            dtype=graph.tensors[partition.image].dtype,  # type: ignore[arg-type]
            **pixels,
        ),
        blocks=(block,),
        tail_inputs=() if tail is None else tuple(_spec(tail, t) for t in tail.inputs),
        outputs=tuple(_spec(graph, t) for t in graph.outputs),
    )
    return plan, cut, edge_model


def _spec(graph: Graph, tensor: int) -> TensorSpec:
    t = graph.tensors[tensor]
    return TensorSpec(name=t.name, shape=t.shape, dtype=t.dtype)


def _tiles(partition: Partition, cut: Cut, rows: int, cols: int) -> list[Tile]:
    classes: dict[str, int] = {}
    names = [t.name for t in partition.graph.tensors]
    tiles = []
    for index, outputs in enumerate(partition.tile_outputs(cut, rows, cols)):
        regions = partition.regions(cut.ops, outputs)
        graph = rewrite.tile_graph(partition, cut.ops, [partition.image], outputs)
        tiles.append(
            Tile(
                index=index,
                row=index // cols,
                col=index % cols,
                tile_class=classes.setdefault(rewrite.signature(graph), len(classes)),
                inputs={names[partition.image]: regions[partition.image]},
                outputs={names[t]: region for t, region in outputs.items()},
                flops=partition.flops(cut.ops, regions),
            )
        )
    return tiles


def choose_cut(partition: Partition, rows: int, cols: int) -> Cut:
    """The cut with the least estimated time on six nodes: its share of the tiles, bytes at 60 Mbit/s, then the tail.

    Raises:
        PlanError: nothing can be tiled at this grid.
    """
    total = partition.flops(sorted(partition.tileable))
    rounds = -(-rows * cols // _AUTO_NODES)
    best: tuple[float, Cut] | None = None
    for cut in partition.cuts:
        try:
            outputs = partition.tile_outputs(cut, rows, cols)
        except PlanError:
            continue
        work = partition.flops(cut.ops) * partition.redundancy(cut, rows, cols) / len(outputs) * rounds
        moved = cut_bytes(partition.graph, cut)
        seconds = (work + total - partition.flops(cut.ops)) / _AUTO_FLOPS_S + moved / _AUTO_BYTES_S
        if best is None or seconds < best[0]:
            best = (seconds, cut)
    if best is None:
        deepest = partition.describe_blocker() if not partition.cuts else "every map is smaller than the grid"
        raise PlanError(f"no cut of this model can be divided {rows}x{cols}: {deepest}")
    return best[1]


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


def tile_costs(partition: Partition, cut: Cut, plan: Plan) -> list[TileCost]:
    """The cost of each tile of a plan of one block."""
    names = partition.graph.by_name
    costs, peaks = [], {}
    channels = partition.graph.tensors[partition.image].shape[3]
    for tile in plan.blocks[0].tiles:
        outputs = {names[name]: region for name, region in tile.outputs.items()}
        if tile.tile_class not in peaks:
            peaks[tile.tile_class] = peak_memory(rewrite.tile_graph(partition, cut.ops, [partition.image], outputs))
        bytes_in = sum(r.height * r.width * channels for r in tile.inputs.values())
        bytes_out = sum(_bytes(partition.graph, t, r) for t, r in outputs.items())
        costs.append(TileCost(tile.flops, bytes_in, bytes_out, peaks[tile.tile_class]))
    return costs


def _bytes(graph: Graph, tensor: int, region: Region) -> int:
    t = graph.tensors[tensor]
    return region.height * region.width * t.shape[3] * t.itemsize


def peak_memory(graph: Graph) -> int:
    """Largest sum of activations alive at once when operators run in order, in bytes (no constants)."""
    last = {t: i for i, op in enumerate(graph.ops) for t in op.inputs} | dict.fromkeys(graph.outputs, len(graph.ops))
    alive = {t for t in graph.inputs if t in last}
    peak = sum(graph.tensors[t].nbytes for t in alive)
    for i, op in enumerate(graph.ops):
        alive.update(t for t in op.outputs if t not in graph.constant)
        peak = max(peak, sum(graph.tensors[t].nbytes for t in alive))
        alive = {t for t in alive if last.get(t, -1) > i}
    return peak
