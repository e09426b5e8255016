"""Emits graphs: one per tile class, the part that the edges run, and the tail.

A tile's graph holds VALID operators only, with explicit padding at true image borders, so that its outputs equal the
same region of the unpartitioned model bit for bit.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from models.graph.file import Graph, Op
from models.graph.ops import RULES, Emitter
from models.tiling.partition import Cut, Partition
from models.tiling.reuse import Pieces, Place, Work, alone
from schemas.contract.errors import PlanError
from schemas.contract.plan import Region, digest

Piece: TypeAlias = tuple[int, Region]  # a region of a tensor


def tile_graph(
    partition: Partition,
    ops: Sequence[int],
    inputs: Sequence[int],
    outputs: Mapping[int, Region],
    work: Work | None = None,
    gives: Iterable[Piece] = (),
) -> Graph:
    """The graph of one tile: ``inputs`` cropped to what the tile needs, in order -> ``outputs``, in order.

    With ``work`` the strips that it takes follow the inputs, in the order of ``Work.strips``; without it the tile takes
    none. ``gives`` adds outputs: see ``ends``.
    """
    graph = partition.graph
    work = work or alone(partition, ops, outputs)
    emitter = Emitter(graph)
    local = {t: emitter.local(t, work.held[t]) for t in inputs}
    strips = {(t, side): emitter.local(t, region, f"/{side}") for (t, side), region in work.strips()}
    starts = (*(local[t] for t in inputs), *strips.values())
    crops: dict[Piece, int] = {}

    def part(t: int, region: Region) -> int:
        if (t, region) not in crops:
            crops[t, region] = emitter.crop(local[t], t, region, work.held[t])
        return crops[t, region]

    for i in ops:
        op = graph.ops[i]
        out = work.made.get(i)
        if out is not None:
            rule = RULES[op.kind]
            given = {slot: part(op.inputs[slot], need) for slot, need in rule.needs(graph, op, out).items()}
            made = [emitter.local(t, out) for t in op.outputs]
            rule.emit(emitter, op, out, given, made)
            local.update(zip(op.outputs, made))
        for t in op.outputs:
            if pieces := work.taken.get(t):
                own = emitter.crop(local[t], t, pieces.own, out) if out and pieces.own else None
                local[t] = _joined(emitter, t, pieces, own, strips)
    return _named(Graph(emitter.tensors, emitter.ops, starts, tuple(part(t, r) for t, r in ends(outputs, gives))))


def ends(outputs: Mapping[int, Region], gives: Iterable[Piece]) -> list[Piece]:
    """What a tile's graph ends in: its outputs, then what it gives; a piece that is wanted twice stands once."""
    return list(dict.fromkeys([*outputs.items(), *gives]))


def _joined(emitter: Emitter, t: int, pieces: Pieces, own: int | None, strips: Mapping[Place, int]) -> int:
    """A tensor of the tile, put together of the part that it has computed (``own``, cropped to it) and of strips."""
    found = {side: (strips[t, side], region) for side, region in pieces.strips.items()}
    if own is not None and pieces.own is not None:
        found["own"] = own, pieces.own
    middle = _concatenated(emitter, t, [found[s] for s in ("up", "own", "down") if s in found], axis=-3)
    row = [found.get("left"), middle, found.get("right")]
    whole = _concatenated(emitter, t, [part for part in row if part], axis=-2)
    assert whole is not None  # pieces with strips are not empty
    return whole[0]


def _concatenated(
    emitter: Emitter, t: int, parts: Sequence[tuple[int, Region]], axis: int
) -> tuple[int, Region] | None:
    """Adjacent regions of a tensor as one, with that region; the ``axis`` counts from the last one."""
    if len(parts) < 2:
        return parts[0] if parts else None
    region = functools.reduce(Region.hull, (region for _, region in parts))
    joined = emitter.local(t, region, f"/joined{len(emitter.ops)}")
    axis += len(emitter.tensors[joined].shape)
    return emitter.op("CONCATENATION", [part for part, _ in parts], joined, "Concatenation", axis=axis), region


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


def operator_graph(graph: Graph, op: Op, out: Region) -> Graph:
    """One operator as a tile has it that makes ``out`` of its map; inputs in the order of its rule's ``needs``."""
    rule, emitter = RULES[op.kind], Emitter(graph)
    given = {slot: emitter.local(op.inputs[slot], region) for slot, region in rule.needs(graph, op, out).items()}
    made = [emitter.local(t, out) for t in op.outputs]
    rule.emit(emitter, op, out, given, made)
    return _named(Graph(emitter.tensors, emitter.ops, tuple(given.values()), tuple(made)))


def whole_graph(partition: Partition, inputs: Sequence[int], outputs: Sequence[int]) -> Graph:
    """The operators between whole tensors as they are: what a block that is executed whole computes.

    Raises:
        PlanError: they need more than ``inputs``.
    """
    graph, given = partition.graph, set(inputs)
    rest = [op for op in graph.ops if given.isdisjoint(op.outputs)]
    found = Graph(graph.tensors, rest, tuple(inputs), tuple(outputs)).pruned()
    made = {t for op in found.ops for t in op.outputs}.union(found.inputs)
    for t in (*(t for op in found.ops for t in op.inputs if t >= 0), *found.outputs):
        tensor = found.tensors[t]
        if t not in made and tensor.data is None and not tensor.variable:
            raise PlanError(f"a block that is executed whole needs {tensor.name!r}, which it does not get")
    return found


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
