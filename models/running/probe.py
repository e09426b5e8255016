"""Tries the kernels that a plan's tiles rely on, on the processor that is to run them.

Tiles are exact where a runtime makes a tile and the map around it by one kernel. That was measured on some processors;
others choose kernels otherwise, by the numbers of pixels and channels. So every operator makes a few pixels as a tile of
the plan does, and once more among their neighbours: the bits must be the same. That takes a moment, and little memory.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from models.graph.file import Graph, Op
from models.graph.ops import RULES, sides, sized
from models.running import blocking, engine
from models.running.samples import few_channels, noise
from models.tiling.filters import Range
from models.tiling.rewrite import operator_graph
from models.tiling.tensor import crop
from schemas.contract.plan import Box, Region

Made: TypeAlias = tuple[int, Region]  # an operator by its index, and what it makes of its output map
_TILE, _AROUND = 4, 4  # pixels a side: no kernel makes more than a tile has at once; how many more are around it


def samples(made: Iterable[Made]) -> dict[tuple[int, int, int], Region]:
    """What is to be tried of the regions that operators make in tiles: one of each operator and size, which is the key."""
    found: dict[tuple[int, int, int], Region] = {}
    for i, (y0, x0, y1, x1) in sorted(made):
        height, width = min(y1 - y0, _TILE), min(x1 - x0, _TILE)
        found.setdefault((i, height, width), Region(y0, x0, y0 + height, x0 + width))
    return found


def fault(graph: Graph, made: Iterable[Made], divided: Iterable[tuple[int, Range]] = ()) -> str:
    """What has other bits here in tiles that make these regions, or in tasks with these filters; "" if nothing.

    Raises:
        EngineError: the runtime refuses an operator.
    """
    for (i, height, width), tile in samples(made).items():
        op = graph.ops[i]
        if not is_exact(graph, op, tile):
            what = f"{op.label} {graph.tensors[op.outputs[0]].name!r}"
            told = f"{what} has other bits in tiles of {height}x{width} pixels than in its map on this processor"
            return f"{told}: choose another --grid or --cut, or leave this machine out"
    for i, (low, high) in sorted(divided):
        op = graph.ops[i]
        filters = graph.tensors[op.outputs[0]].shape[-1]
        starts = sorted({0, low, high, filters})
        if op.kind in ("CONV_2D", "CONV_3D", "FULLY_CONNECTED") and not blocking.is_exact(graph, op, starts):
            what = f"{op.label} {graph.tensors[op.outputs[0]].name!r}"
            told = f"{what} has other bits in its filters {low} to {high} alone than in all {filters} on this processor"
            return f"{told}: choose other --blocks, or leave this machine out"
    return ""


def is_exact(graph: Graph, op: Op, tile: Region) -> bool:
    """Whether an operator makes ``tile`` of its output map with the bits that it has among its neighbours."""
    rule, graph = RULES[op.kind], _thinned(graph, op)
    height, width = sides(graph.tensors[op.outputs[0]].shape)
    tile = rule.grow(graph, op, tile)
    y0, x0, y1, x1 = tile
    larger = Region(max(y0 - _AROUND, 0), max(x0 - _AROUND, 0), min(y1 + _AROUND, height), min(x1 + _AROUND, width))
    larger = rule.grow(graph, op, larger)
    wanted = rule.needs(graph, op, larger)
    specs = {slot: graph.tensors[op.inputs[slot]] for slot in wanted}
    given = {
        slot: noise(replace(specs[slot], shape=sized(specs[slot].shape, region.height, region.width)))
        for slot, region in wanted.items()
    }

    def run(out: Region) -> list[np.ndarray]:
        parts = rule.needs(graph, op, out).items()
        inputs = [(given[slot], Box.tile(given[slot].shape, part.within(wanted[slot]))) for slot, part in parts]
        return engine.load(operator_graph(graph, op, out).to_bytes()).run([np.ascontiguousarray(crop(*i)) for i in inputs])

    return all(
        _bits(crop(whole, Box.tile(whole.shape, tile.within(larger)))) == _bits(part)
        for whole, part in zip(run(larger), run(tile), strict=True)
    )


def _bits(array: np.ndarray) -> bytes:
    """Those of an array; every NaN has the same, for its sign means nothing."""
    return (np.where(np.isnan(array), np.float32("nan"), array) if array.dtype == np.float32 else array).tobytes()


def _thinned(graph: Graph, op: Op) -> Graph:
    """``graph`` with few input channels where they are many, for a convolution's weights take memory and time."""
    if op.kind not in ("CONV_2D", "CONV_3D") or graph.tensors[op.inputs[1]].data is None:
        return graph
    tensors = list(graph.tensors)
    data, weights = (tensors[t] for t in op.inputs[:2])
    for t, tensor in zip(op.inputs, few_channels(data, weights, -2 if op.kind == "CONV_3D" else -1)):
        tensors[t] = tensor
    return Graph(tensors, graph.ops, graph.inputs, graph.outputs)
