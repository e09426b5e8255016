"""The offline commands: build, inspect, plan, verify. No broker, no agent."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dt_cli import inspection
from dt_cli.output import console, short, size, table, write_json
from dt_cli.planning import Shape
from models.bundle import save
from models.graph.build import build
from models.graph.file import Graph, file_digest, load
from models.planning.planner import TileCost, cut_bytes, exchanged_bytes, parse_grid, places, tile_costs
from models.running import engine
from models.tiling.partition import Cut, Partition
from models.trial import try_bundle
from models.verify import Difference, Verifier
from schemas.contract.plan import Pixels, Plan
from schemas.host.files import write_files

_GRIDS = ("2x2", "3x3", "5x5")


def build_model(network: str, out: Path, size_: int | None, seed: int, layers: int | None) -> None:
    graph = build(network, size_, seed, layers)
    write_files({out: graph.pieces()})
    console.print(
        f"{out}: {network}, {len(graph.ops)} operators, {size(out.stat().st_size)}, digest {file_digest(out)}"
    )


def inspect_model(model: Path, json: Path | None, all_: bool = False) -> None:
    """Prints what matters of a model, or with ``all_`` every operator and cut; the JSON has all."""
    with console.status("reading the model, looking at its cuts"):
        partition = Partition(load(model))
        graph, ends = partition.graph, partition.blocked_by
        blocked = {b.op: b.reason for b in partition.blockers}
        operators = [_operator(partition, i, blocked) for i in range(len(graph.ops))]
        total = max(sum(o["flops"] for o in operators), 1)
        shown = partition.cuts if all_ else inspection.chosen(partition)
        known = {cut.name: _cut(partition, cut, total) for cut in (partition.cuts if json else shown)}
        cuts = list(known.values())
    console.print(inspection.verdict(partition, operators, model.name))
    console.print(inspection.operators_table(operators) if all_ else inspection.groups_table(operators))
    if shown:
        console.print(inspection.cuts_table([known[cut.name] for cut in shown], len(partition.cuts)))
        if not all_:
            console.print("--cut takes a name or its operator's number; --all lists every operator and cut")
    write_json(
        json,
        {
            "model": str(model),
            "digest": file_digest(model),
            "inputs": [_tensor(graph, t) for t in graph.inputs],
            "outputs": [_tensor(graph, t) for t in graph.outputs],
            "operators": operators,
            "divisible_share": round(partition.divisible_share, 4),
            "blocked_by": None if ends is None else {"operator": ends.kind, "reason": ends.reason},
            "blockers": [asdict(b) for b in partition.blockers],
            "cuts": cuts,
        },
    )


def _tensor(graph: Graph, t: int) -> dict[str, Any]:
    tensor = graph.tensors[t]
    return {"name": tensor.name, "shape": tensor.shape, "dtype": tensor.dtype}


def _operator(partition: Partition, index: int, blocked: dict[int, str]) -> dict[str, Any]:
    graph, op = partition.graph, partition.graph.ops[index]
    made = graph.tensors[op.outputs[0]] if op.outputs else None
    if index in partition.tileable:
        state = "tile"
    elif not graph.data_inputs(op):
        state = "constant"
    else:
        state = blocked.get(index, "follows an operator that cannot be tiled")
    return {
        "index": index,
        "kind": op.label,
        "output": made.name if made else "",
        "shape": made.shape if made else (),
        "flops": partition.flops([index]) if graph.data_inputs(op) else 0,
        "tiling": state,
    }


def _cut(partition: Partition, cut: Cut, total: int) -> dict[str, Any]:
    redundancies = partition.redundancies(cut, [parse_grid(grid) for grid in _GRIDS])
    return {
        "op": cut.ops[-1],
        "name": cut.name,
        "tensors": [_tensor(partition.graph, t) for t in cut.tensors],
        "flop_share": round(partition.flops(cut.ops) / total, 4),
        "output_bytes": cut_bytes(partition.graph, cut),
        "redundancy": {grid: None if r is None else round(r, 4) for grid, r in zip(_GRIDS, redundancies)},
    }


def plan_model(model: Path, shape: Shape, out: Path | None, json: Path | None) -> None:
    with console.status("dividing the model"):
        bundle = shape.bundle(model)
    plan = bundle.plan
    costs = [tile_costs(bundle.partition, plan, i) for i in range(len(plan.blocks))]
    rows = [_tiles_table(model, plan, i, block_costs) for i, block_costs in enumerate(costs)]
    every = [cost for block_costs in costs for cost in block_costs]
    summary = {
        "redundancy": round(sum(c.flops for c in every) / max(bundle.partition.flops(bundle.cut.ops), 1), 4),
        "input_bytes": sum(c.bytes_in for c in costs[0]),
        "output_bytes": sum(prod(s.shape) * np.dtype(s.dtype).itemsize for s in plan.ends),
        "exchanged_bytes": exchanged_bytes(plan),
        "peak_memory_bytes": max(c.peak_memory_bytes for c in every),
        "classes": sum(len({t.tile_class for t in block.tiles}) for block in plan.blocks),
    }
    halos = f", {size(summary['exchanged_bytes'])} between tiles" if len(plan.blocks) > 1 else ""
    console.print(
        f"redundancy {summary['redundancy']}, {summary['classes']} tile classes, a frame moves {size(summary['input_bytes'])} "
        f"in and {size(summary['output_bytes'])} out{halos}, a tile needs at most {size(summary['peak_memory_bytes'])} for "
        "activations"
    )
    console.print(f"model {plan.model}, edges' model {plan.edge_model}, plan {plan.digest()}")
    if out is not None:
        save(bundle, out)
        console.print(f"written to {out}: plan.json, card.json, model.tflite")
    digests = {"model": plan.model, "edge_model": plan.edge_model, "plan": plan.digest()}
    grid = plan.blocks[0].kind
    cuts = [block.name for block in plan.blocks]
    held = places(bundle.partition, plan)
    if len(plan.blocks) > 1:
        shown = table("Places", "lane", "weights", "memory", "tasks", left=("tasks",))
        for lane, place in enumerate(held):
            tasks = short(", ".join(f"{i + 1}" for i in place["tasks"]), 60)
            shown.add_row(str(lane), size(place["weight_bytes"]), size(place["memory_bytes"]), tasks)
        console.print(shown)
    write_json(
        json,
        {
            **summary,
            **digests,
            "cut": cuts[-1],
            "cuts": cuts,
            "grid": grid,
            "approximate": bool(plan.approximate),
            "blocks": [{"cut": block.name, "split": block.kind} for block in plan.blocks],
            "places": held,
            "tiles": [t for block in rows for t in block],
        },
    )


def _tiles_table(model: Path, plan: Plan, index: int, costs: Sequence[TileCost]) -> list[dict[str, Any]]:
    """Prints the tiles of a block; the same as rows for JSON."""
    block = plan.blocks[index]
    cut = short(block.name)
    which = f"block {index + 1} of {len(plan.blocks)}, " if len(plan.blocks) > 1 else ""
    shown = table(
        f"{model.name}: {which}{block.kind}, cut {cut}",
        *("tile", "class", "output rows", "columns", "input rows", "columns", "MFLOP", "in", "out", "peak memory"),
    )
    rows = []
    for tile, cost in zip(block.tiles, costs):
        out_region, in_region = (next(iter(boxes.values())).region for boxes in (tile.outputs, tile.inputs))
        rows.append({"block": index, **tile.model_dump(), **asdict(cost)})
        shown.add_row(
            *(str(tile.home), str(tile.tile_class)),
            *(f"{r.y0}-{r.y1}" if axis == "y" else f"{r.x0}-{r.x1}" for r in (out_region, in_region) for axis in "yx"),
            *(f"{cost.flops / 1e6:.1f}", size(cost.bytes_in), size(cost.bytes_out), size(cost.peak_memory_bytes)),
        )
    console.print(shown)
    return rows


def verify_model(model: Path, shape: Shape, image: Path | None, threads: int | None, json: Path | None) -> int:
    with console.status("dividing the model, and trying it in a child process"):
        bundle = shape.bundle(model)
        own = engine.threads(threads)
        try_bundle(bundle, own)
    plan, pixels = bundle.plan, bundle.plan.pixels
    if image is None:
        picture = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    else:
        picture = read_picture(image, pixels)
    grid, tiles = plan.blocks[0].kind, sum(len(block.tiles) for block in plan.blocks)
    with console.status(f"running {tiles} tiles, the tail and the unpartitioned model"):
        verifier = Verifier(bundle, own)
        cut_differences, output_differences = verifier.check(picture)
    title = f"{model.name}, {grid} tiles against the unpartitioned model"
    shown = table(title, "tensor", "of", "elements", "differing", "largest difference", left=("tensor", "of"))
    kinds = [
        f"block {i + 1}" if len(plan.blocks) > 1 else "cut" for i, block in enumerate(plan.blocks) for _ in block.cut
    ]
    both = cut_differences + output_differences
    for kind, d in zip([*kinds, *["output"] * len(output_differences)], both):
        shown.add_row(short(d.tensor, 60), kind, str(d.elements), str(d.differing), f"{d.largest:g}")
    console.print(shown)
    exact = not any(d.differing for d in both)
    console.print("equal bit for bit" if exact else "NOT EQUAL: these answers are not the one-machine model's")
    difference = None
    if plan.approximate:
        difference = verifier.difference(picture)
        console.print(
            f"approximate: equal to one machine that sums {len(plan.approximate)} layers in parts, too; outputs differ from "
            f"the model's own by {difference:g} at most"
        )
        if model.is_dir():
            save(replace(bundle, plan=plan.model_copy(update={"difference": difference})), model)
    write_json(
        json,
        {
            "exact": exact and not plan.approximate,
            "difference": difference,
            "blocks": len(plan.blocks),
            "differing": sum(d.differing for d in both),
            "largest": max((d.largest for d in both), default=0.0),
            "cut": _rows(cut_differences),
            "outputs": _rows(output_differences),
        },
    )
    return 0 if exact else 1


def _rows(differences: list[Difference]) -> list[dict[str, Any]]:
    return [asdict(d) for d in differences]


def read_picture(path: Path, pixels: Pixels) -> np.ndarray:
    """The first frame of a picture or video, or the first clip, fitted to the model's input."""
    from edge_agent.sources import open_source
    from edge_agent.sources.fit import Clip

    source, clip, first = open_source(str(path)), Clip(pixels), 1 + max(pixels.frames - 1, 0) * pixels.step
    try:
        return [clip.add(image) for image in islice(source.frames(), first)][-1]
    finally:
        source.close()
