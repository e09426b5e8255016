"""What a plan costs on a cluster: seconds, bytes on every hop, memory of every node, and the bound that no plan beats.

``models.planning.simulation`` plays a frame; here are the numbers that go into it and the prediction that comes out. Tiles take
their effort (``models.graph.effort``) at the rate that a node was measured to have; redundancy counts operations (2 per
multiply-accumulate).
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from models.planning.cluster import Cluster, Saving, Workload, is_whole, undivided
from models.planning.simulation import Run
from models.tiling.division import Tiler
from models.tiling.partition import Cut, Partition
from models.tiling.reuse import Reuse, neighbours
from models.tiling.tensor import box_bytes, exchange
from schemas.contract.plan import Block, Box, Plan

_STEADY_FRAMES, _STEADY_ROUNDS = 4, 3  # of each source at least, and so often its window, to see the throughput


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

    def price(self, objective: str) -> float:
        """What a plan of this objective makes small: seconds, bytes of a frame, or bytes that the largest host needs."""
        if objective == "throughput":
            return 1 / self.throughput_fps
        if objective == "traffic":
            return float(self.wire_bytes)
        if objective == "memory":  # of any host: what edges need not hold the gateway must not
            return float(max(self.memory_bytes.values()))
        return self.latency_s

    @property
    def edge_memory_bytes(self) -> int:
        """What the largest of the edges needs."""
        return max(self.edges.values())

    @property
    def edges(self) -> dict[str, int]:
        """What each edge needs."""
        return {name: count for name, count in self.memory_bytes.items() if name != "gateway"}

    def excess(self, cluster: Cluster) -> int:
        """How much more than its budget an edge needs, at worst; at most 0 where all fit."""
        return max(count - (cluster.budget(name) or count) for name, count in self.edges.items())


def predict(partition: Partition, plan: Plan, cluster: Cluster) -> Prediction:
    """What ``plan`` costs on ``cluster``: latency of one frame alone, throughput in the steady state."""
    cut = deepest(partition, plan)
    return predict_blocks(Tiler(partition), plan.blocks, cut, cluster, can_undivided=plan.undivided)


def deepest(partition: Partition, plan: Plan) -> Cut:
    """The cut that the blocks end at."""
    return partition.find("+".join(spec.name for spec in plan.ends))


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
    work = workload(tiler, blocks, cut)
    whole = undivided(work, before.effort, sum(work.results.values()))
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
        bound_s=bound_s(partition, work, before.effort, cluster, blocks),
        tail_flops=behind.flops,
    )


def _told(block: Block) -> dict[str, Any]:
    return {
        "cut": block.name,
        "grid": block.kind,
        "split": block.split,
        "flops": sum(tile.flops for tile in block.tiles),
    }


def workload(tiler: Tiler, blocks: Sequence[Block], cut: Cut) -> Workload:
    """What a frame asks of the cluster, from the boxes of the blocks' tasks. ``cut``: what the gateway merges."""
    partition, graph = tiler.partition, tiler.partition.graph
    specs = {spec.name: spec for block in blocks for spec in block.cut}
    ends = {graph.tensors[t].name for t in cut.tensors}
    lanes = 1 + max(block.tiles[-1].home for block in blocks)
    pixels = {tile.home: sum(prod(box.shape) for box in tile.inputs.values()) for tile in blocks[0].tiles}
    between, reuses = exchange(blocks, tiler.parts), blocks[0].reuse

    def size(boxes: Mapping[str, Box]) -> int:
        return sum(box_bytes(specs[name], box) for name, box in boxes.items())

    results = {
        (i, tile.home): size({name: box for name, box in tile.outputs.items() if name in ends})
        for i, block in enumerate(blocks) if any(spec.name in ends for spec in block.cut) for tile in block.tiles
    }  # fmt: skip
    return Workload(
        effort={(i, tile.home): tile.effort for i, block in enumerate(blocks) for tile in block.tiles},
        crops=tuple(pixels.get(lane, 0) for lane in range(lanes)),
        gives={task: {lane: size(boxes) for lane, boxes in takers.items()} for task, takers in between.gives.items()},
        needs=between.needs,
        results=results,
        tail_effort=tiler.sums(cut)[1].effort,
        savings=_savings(partition, blocks[0], cut) if reuses else {},
        order=blocks[0].order if reuses else (),
    )


def _savings(partition: Partition, block: Block, cut: Cut) -> dict[int, Saving]:
    names, sides = partition.graph.by_name, functools.partial(neighbours, rows=block.rows, cols=block.cols)
    outputs = [{names[name]: box.region for name, box in tile.outputs.items()} for tile in block.tiles]
    reuse = Reuse(partition, cut.ops, outputs, block.rows, block.cols)
    found = {}
    for tile in range(len(outputs)):
        makers = frozenset(sides(tile)[side] for (_, side), _ in reuse.reduced(tile).strips())
        if makers:
            found[tile] = Saving(makers, *reuse.saved(tile))
    return found


def plan_bound_s(partition: Partition, plan: Plan, cluster: Cluster) -> float:
    """What ``predict`` tells as the bound, without the prediction."""
    tiler, cut = Tiler(partition), deepest(partition, plan)
    return bound_s(partition, workload(tiler, plan.blocks, cut), tiler.sums(cut)[0].effort, cluster, plan.blocks)


def bound_s(
    partition: Partition, work: Workload, effort: int, cluster: Cluster, blocks: Sequence[Block] = ()
) -> float:
    """Ideal compute shared by the nodes that take part, the tail, and the pixels and results that must travel, in s.

    Of the ``effort`` before the cut what is executed whole is not shared: it is one node's.
    """
    nodes = min(work.lanes, cluster.nodes)
    shape = partition.graph.tensors[partition.image].shape
    whole = sum(tile.effort for block in blocks if block.split == "whole" for tile in block.tiles)
    pixels = cluster.packed(prod(shape) * (nodes - 1) // nodes, are_pixels=True)
    results = cluster.packed(sum(work.results.values()), are_pixels=False)
    shared_s = (effort - whole) / sum(cluster.speeds[:nodes])
    compute_s = shared_s + whole / cluster.speeds[0] + work.tail_effort / cluster.gateway_flops_s
    return compute_s + (2 if cluster.radio else 1) * (pixels + results) / cluster.bytes_s


def memory(tiler: Tiler, blocks: Sequence[Block], cut: Cut, cluster: Cluster) -> dict[str, int]:
    """Bytes that each host needs: the constants of its tasks, the live data of its largest with its inputs as they came, what
    it has given to others by filters (until the frame ends), the runtime.

    Lane ``i`` is host ``i``'s, or where there are more lanes than hosts, each host has any.
    """
    graph, names = tiler.partition.graph, tiler.partition.graph.by_name
    peaks, weights = [0] * cluster.nodes, [0] * cluster.nodes
    specs = {spec.name: spec for block in blocks for spec in (*block.inputs, *block.cut)}

    def size(boxes: Mapping[str, Box]) -> int:
        return sum(box_bytes(specs[name], box) for name, box in boxes.items())

    for span, block in zip(tiler.planned(blocks), blocks):
        loaded = [0] * cluster.nodes  # tiles of a block share its weights
        for number, tile in enumerate(block.tiles):
            if block.split == "whole":
                work = tiler.whole(span)
            elif block.divides_weights:
                work = tiler.filters(span, (number, len(block.tiles)))
            else:
                work = tiler.work(span, {names[name]: box.region for name, box in tile.outputs.items()})
            edge = tile.home % cluster.nodes
            peaks[edge] = max(peaks[edge], work.live_bytes + size(tile.inputs))
            weights[edge] += size(tile.outputs) if block.divides_weights and block is not blocks[-1] else 0
            loaded[edge] = loaded[edge] + work.weight_bytes if block.divides_weights else work.weight_bytes
        weights = [own + more for own, more in zip(weights, loaded)]
    merged = sum(graph.tensors[t].nbytes for t in cut.tensors)
    tail = tiler.sums(cut)[1].constant_bytes + 2 * merged
    edges = {f"edge{i + 1}": cluster.runtime_bytes + own + peak for i, (own, peak) in enumerate(zip(weights, peaks))}
    return {**edges, "gateway": cluster.runtime_bytes + tail}
