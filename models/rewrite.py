"""Emits graphs: one per tile class, the part that the edges run, and the tail.

A tile's graph holds VALID operators only, with explicit padding at true image borders, so that its outputs equal the
same region of the unpartitioned model bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from models.graph import Graph
from models.ops import RULES, Emitter
from models.partition import Cut, Partition
from schemas.plan import Region, digest


def tile_graph(partition: Partition, ops: Sequence[int], inputs: Sequence[int], outputs: Mapping[int, Region]) -> Graph:
    """The graph of one tile: ``inputs`` cropped to what the tile needs, in order -> ``outputs``, in order."""
    graph = partition.graph
    regions = partition.regions(ops, outputs)
    emitter = Emitter(graph)
    local = {t: emitter.local(t, regions[t]) for t in inputs}
    crops: dict[tuple[int, Region], int] = {}

    def part(t: int, region: Region) -> int:
        if (t, region) not in crops:
            crops[t, region] = emitter.crop(local[t], t, region, regions[t])
        return crops[t, region]

    for i in ops:
        op = graph.ops[i]
        out = regions.get(op.outputs[0])
        if out is None:
            continue
        rule = RULES[op.kind]
        given = {slot: part(op.inputs[slot], need) for slot, need in rule.needs(graph, op, out).items()}
        made = [emitter.local(t, out) for t in op.outputs]
        rule.emit(emitter, op, out, given, made)
        local.update(zip(op.outputs, made))
    ends = tuple(part(t, region) for t, region in outputs.items())
    return _named(Graph(emitter.tensors, emitter.ops, tuple(local[t] for t in inputs), ends))


def _named(graph: Graph) -> Graph:
    """Tensor names made unique: the weight cache and the runtimes tell tensors apart by name."""
    seen: set[str] = set()
    tensors = []
    for i, tensor in enumerate(graph.tensors):
        name, again = tensor.name, i
        while name in seen:
            name, again = f"{tensor.name}#{again}", again + len(graph.tensors)
        seen.add(name)
        tensors.append(replace(tensor, name=name))
    return Graph(tensors, graph.ops, graph.inputs, graph.outputs)


def signature(graph: Graph) -> str:
    """Equal for tiles whose graphs are the same: shapes, operators, options and constants (large ones by name)."""
    tensors = [
        (t.shape, t.dtype, t.data if t.data is None else t.data.tobytes() if t.data.size <= 64 else t.name)
        for t in graph.tensors
    ]
    ops = [(op.kind, op.inputs, op.outputs, sorted(op.options.items(), key=str)) for op in graph.ops]
    return digest(repr((graph.inputs, graph.outputs, tensors, ops)).encode())


def edge_graph(partition: Partition, cut: Cut) -> Graph:
    """The unpartitioned prefix, image -> cut: what the edges get and rewrite themselves."""
    graph = partition.graph
    return Graph(graph.tensors, graph.ops, (partition.image,), cut.tensors).pruned()


def tail_graph(partition: Partition, cut: Cut) -> Graph | None:
    """Cut tensors (and the model's other inputs) -> the outputs that are not the cut's own; None if there are none."""
    graph, inside = partition.graph, set(cut.ops)
    rest = [op for i, op in enumerate(graph.ops) if i not in inside]
    others = tuple(t for t in graph.inputs if t != partition.image)
    outputs = tuple(t for t in dict.fromkeys(graph.outputs) if t not in cut.tensors)
    return Graph(graph.tensors, rest, cut.tensors + others, outputs).pruned() if outputs else None
