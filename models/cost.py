"""What a plan costs on a cluster: seconds, bytes on every hop, memory of every node, and the bound that no plan beats.

``models.simulation`` plays a frame; here are the numbers that go into it and the prediction that comes out. Tiles take
their effort (``models.effort``) at the rate that a node was measured to have; redundancy counts operations (2 per
multiply-accumulate).
"""

import functools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from models import engine
from models.build import Network
from models.cluster import Cluster, Exchange, Saving, Workload, is_whole, undivided
from models.division import Tiler
from models.effort import FLOAT, effort_of
from models.graph import Graph, Quantization, Tensor
from models.partition import Cut, Partition
from models.reuse import Reuse, neighbours
from models.simulation import Run
from models.tensor import part_bytes, shared
from schemas.plan import Block, Plan, Region

_STEADY_FRAMES, _STEADY_ROUNDS = 4, 3  # of each source at least, and so often its window, to see the throughput
_MEASURED_S = 0.3


@dataclass(frozen=True)
class Prediction:
    """What is expected of a plan. ``bytes_by_hop`` is a frame's; ``memory_bytes`` is each host's, by name.

    ``redundancy`` is the operations that tiles do, over those of the undivided blocks. ``bound_s``: the ideal share of the
    effort, the tail, and the bytes that must travel at the links' rate, with nothing waiting for anything.
    """

    latency_s: float
    throughput_fps: float
    redundancy: float
    bytes_by_hop: dict[str, int]
    memory_bytes: dict[str, int]
    blocks: list[dict[str, Any]]
    bound_s: float
    tail_flops: int = 0  # that are left for the gateway

    @property
    def wire_bytes(self) -> int:
        """Bytes of a frame, each hop counted once."""
        return sum(self.bytes_by_hop.values())

    @property
    def edge_memory_bytes(self) -> int:
        """What the largest of the edges needs."""
        return max(count for name, count in self.memory_bytes.items() if name != "gateway")


def predict(partition: Partition, plan: Plan, cluster: Cluster) -> Prediction:
    """What ``plan`` costs on ``cluster``: latency of one frame alone, throughput in the steady state."""
    cut = deepest(partition, plan.blocks)
    return predict_blocks(Tiler(partition), plan.blocks, cut, cluster, can_undivided=plan.undivided)


def deepest(partition: Partition, blocks: Sequence[Block]) -> Cut:
    """The cut that the last block ends at."""
    return partition.find("+".join(spec.name for spec in blocks[-1].cut))


def predict_blocks(
    tiler: Tiler,
    blocks: Sequence[Block],
    cut: Cut,
    cluster: Cluster,
    steady: bool = True,
    can_undivided: bool = True,
) -> Prediction:
    """As ``predict``. Without ``steady`` the throughput is that of frames one after another, which is quicker.

    ``can_undivided``: a source computes its frames whole where it is the only node, or helpers are too few.
    """
    partition, (before, behind) = tiler.partition, tiler.sums(cut)
    spread = sum(block.mode == "tiles" for block in blocks)
    work = workload(tiler, blocks, cut)
    whole = undivided(work, before.effort, sum(work.results))
    first = whole if can_undivided and cluster.nodes == 1 else work
    alone = Run(first, replace(cluster, sources=1, window=1))
    done = before.flops if first is whole else sum(t.flops for block in blocks for t in block.tiles)
    latency_s = alone.latencies_s[0]
    fps = 1 / latency_s
    if steady:
        frames = max(_STEADY_FRAMES, _STEADY_ROUNDS * cluster.window)
        fps = Run(whole if can_undivided and is_whole(cluster) else first, cluster, frames).fps
    return Prediction(
        latency_s=latency_s,
        throughput_fps=fps,
        redundancy=(done - alone.spared_flops) / max(before.flops, 1),
        bytes_by_hop=dict(alone.bytes_by_hop),
        memory_bytes=memory(tiler, blocks, cut, cluster),
        blocks=[_told(block) for block in blocks],
        bound_s=bound_s(partition, work, before.effort, cluster, sum(map(sum, work.effort[spread:]))),
        tail_flops=behind.flops,
    )


def _told(block: Block) -> dict[str, Any]:
    return {
        "cut": "+".join(spec.name for spec in block.cut),
        "grid": f"{block.rows}x{block.cols}",
        "mode": block.mode,
        "flops": sum(tile.flops for tile in block.tiles),
    }


def workload(tiler: Tiler, blocks: Sequence[Block], cut: Cut) -> Workload:
    """What a frame asks of the cluster, from the regions of the blocks' tiles."""
    partition = tiler.partition
    image = partition.graph.tensors[partition.image]
    last, reuses = blocks[-1], blocks[0].reuse
    return Workload(
        effort=tuple(tuple(tile.effort for tile in block.tiles) for block in blocks),
        crops=tuple(sum(_area(r) for r in tile.inputs.values()) * image.shape[3] for tile in blocks[0].tiles),
        exchanges=tuple(_exchanges(tiler, one, other) for one, other in zip(blocks, blocks[1:])),
        results=tuple(sum(part_bytes(t, tile.outputs[t.name]) for t in last.cut) for tile in last.tiles),
        tail_effort=tiler.sums(cut)[1].effort,
        savings=_savings(partition, blocks[0], cut) if reuses else {},
        order=blocks[0].order if reuses else (),
    )


def _savings(partition: Partition, block: Block, cut: Cut) -> dict[int, Saving]:
    names, sides = partition.graph.by_name, functools.partial(neighbours, rows=block.rows, cols=block.cols)
    outputs = [{names[name]: region for name, region in tile.outputs.items()} for tile in block.tiles]
    reuse = Reuse(partition, cut.ops, outputs, block.rows, block.cols)
    found = {}
    for tile in range(len(outputs)):
        makers = frozenset(sides(tile)[side] for (_, side), _ in reuse.reduced(tile).strips())
        if makers:
            found[tile] = Saving(makers, *reuse.saved(tile))
    return found


def _exchanges(tiler: Tiler, block: Block, after: Block) -> tuple[Exchange, ...]:
    key = id(block), id(after)
    if key not in tiler.exchanges:
        specs, sizes = {spec.name: spec for spec in block.cut}, Counter[tuple[int, int]]()
        for maker in block.tiles:
            for part in shared(maker, after.tiles):
                sizes[maker.index, part.tile] += part_bytes(specs[part.tensor], part.region)
        found = tuple(Exchange(maker, taker, size) for (maker, taker), size in sizes.items())
        tiler.exchanges[key] = block, after, found  # the blocks, too: while they are kept no others have their ids
    return tiler.exchanges[key][2]


def _area(region: Region) -> int:
    return region.height * region.width


def plan_bound_s(partition: Partition, plan: Plan, cluster: Cluster) -> float:
    """What ``predict`` tells as the bound, without the prediction."""
    tiler, cut = Tiler(partition), deepest(partition, plan.blocks)
    work, spread = workload(tiler, plan.blocks, cut), sum(block.mode == "tiles" for block in plan.blocks)
    return bound_s(partition, work, tiler.sums(cut)[0].effort, cluster, sum(map(sum, work.effort[spread:])))


def bound_s(partition: Partition, work: Workload, effort: int, cluster: Cluster, whole_effort: int = 0) -> float:
    """Ideal compute shared by the nodes that take part, the tail, and the pixels and results that must travel, in s.

    Of the ``effort`` before the cut ``whole_effort`` is not shared: it is one node's.
    """
    nodes = min(work.lanes, cluster.nodes)
    shape = partition.graph.tensors[partition.image].shape
    pixels = cluster.packed(prod(shape) * (nodes - 1) // nodes, are_pixels=True)
    results = cluster.packed(sum(work.results), are_pixels=False)
    shared_s = (effort - whole_effort) / sum(cluster.speeds[:nodes])
    compute_s = shared_s + whole_effort / cluster.speeds[0] + work.tail_effort / cluster.gateway_flops_s
    return compute_s + (pixels + results) / cluster.bytes_s


def memory(tiler: Tiler, blocks: Sequence[Block], cut: Cut, cluster: Cluster) -> dict[str, int]:
    """Bytes that each host needs: the constants of what it computes, its largest layer's live data, the runtime."""
    graph, names = tiler.partition.graph, tiler.partition.graph.by_name
    peaks = [0] * cluster.nodes
    cuts = [tiler.partition.find("+".join(spec.name for spec in block.cut)) for block in blocks[:-1]]
    for span, block in zip(tiler.spans([*cuts, cut]), blocks):
        for tile in block.tiles:
            outputs = {names[name]: region for name, region in tile.outputs.items()}
            work = tiler.whole(span) if block.mode == "whole" else tiler.work(span, outputs)
            edge = tile.index % cluster.nodes
            peaks[edge] = max(peaks[edge], work.live_bytes)
    weights, beyond = (sums.constant_bytes for sums in tiler.sums(cut))
    merged = sum(graph.tensors[t].nbytes for t in cut.tensors)
    tail = beyond + 2 * merged
    edges = {f"edge{i + 1}": cluster.runtime_bytes + (weights + peak if peak else 0) for i, peak in enumerate(peaks)}
    return {**edges, "gateway": cluster.runtime_bytes + tail}


def measure_speed(dtype: str = FLOAT, threads: int = 1) -> float:
    """Effort a second of so many threads here: a small stack of convolutions on the engine, in this one of
    ``models.effort.ARITHMETICS``, a third of a second. In float32 it is FLOP/s.

    The mean and not the best: a processor that is shared, or has a quota, is as fast as that for tiles.
    """
    graph = _stack(dtype)
    effort = effort_of(graph, range(len(graph.ops)))
    image = graph.tensors[graph.inputs[0]]
    runner, given = engine.load(graph.to_bytes(), threads), [np.ones(image.shape, image.dtype)]
    runner.run(given)
    runs, begun = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begun) < _MEASURED_S:
        runner.run(given)
        runs += 1
    return effort * runs / seconds


def _stack(dtype: str) -> Graph:
    network = Network((76, 76, 64), seed=1)
    for filters, kernel in ((128, 3), (64, 1), (128, 3)):
        network.add(("linear", filters, kernel, 1))
    graph = network.graph()
    return graph if dtype == FLOAT else replace(graph, tensors=tuple(_quantized(t, dtype) for t in graph.tensors))


def _quantized(tensor: Tensor, dtype: str) -> Tensor:
    """The same in integers, of no particular values: maps and filters in ``dtype``, biases in int32."""
    if tensor.data is None:
        return replace(tensor, dtype=dtype, quantization=Quantization((0.1,), (0,)))
    kind, scale = ("int32", 0.001) if len(tensor.shape) == 1 else (dtype, 0.01)
    data = np.ones(tensor.shape, kind).reshape(-1).view(np.uint8)
    return replace(tensor, dtype=kind, quantization=Quantization((scale,), (0,)), data=data)
