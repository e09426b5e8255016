"""Cache blocking: a convolution whose weights no cache holds becomes several over some of its filters each.

XNNPACK reads all weights of a convolution anew for every few output pixels. Weights beyond the last cache so come from
memory at each turn: YOLOv2's 1024 -> 1024 convolutions (38 MB) ran at 99 GFLOP/s whole and at 200 in parts that a cache
holds. Law: an output channel is computed of the same numbers in the same order either way, so the bits stay the same,
where the runtime has one kernel for part and whole. On Arm it chooses float kernels of 1x1 convolutions by the number of
filters, too (255 agree with 128 and 127 of them, not with three times 85), so that each division is tried on its node.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

from models.graph.file import Graph, Op, Tensor
from models.graph.ops import VALID
from models.graph.tflite_schema import OPTIONS
from models.running import engine, samples
from models.tiling.filters import cut

LEAST_FILTERS = 16  # a part keeps whole vectors, and clear of the kernels that runtimes have for a few channels
_LEAST_BYTES, _MOST_BYTES = 512 << 10, 4 << 20
_PIXELS = ((3, 5), (1, 1))  # of the maps that a division is tried on
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_Case: TypeAlias = tuple[Tensor, tuple[int, ...], dict[str, int]]
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@cache
def part_bytes() -> int:
    """The most weights of a part on this machine: half its largest cache, and what suits most if that is not known."""
    sizes = [text for path in sorted(_CACHES.glob("index*/size")) if (text := path.read_text().strip())[:-1].isdecimal()]
    largest = max((int(text[:-1]) * _UNITS.get(text[-1], 1) for text in sizes), default=0)
    return min(max(largest // 2, _LEAST_BYTES), _MOST_BYTES)


def blocked(graph: Graph, most: int, stride: int) -> Graph:
    """``graph`` with every convolution of more than ``most`` bytes of weights in parts of about so many.

    One whose parts have other bits here stays whole. ``stride`` is more than any buffer's number in the file: a part's
    buffer gets a number that depends on its place in that file alone, for the weight cache knows weights by it.
    """
    starts = [_starts(graph, op, most) for op in graph.ops]
    return _divided(graph, [ends if ends and is_exact(graph, op, ends) else () for op, ends in zip(graph.ops, starts)], stride)


def _divided(graph: Graph, starts: Sequence[Sequence[int]], stride: int) -> Graph:
    """``graph`` with each operator in parts that begin at the filters ``starts``; whole where there are none."""
    tensors, ops = list(graph.tensors), list[Op]()
    known: dict[tuple[int, int], int] = {}  # a constant's slice: where it stands, for convolutions that share it
    claimed: dict[tuple[int, int], tuple[int, int]] = {}  # which filters have a buffer's number

    def part(t: int, low: int, high: int, number: int) -> int:
        if (t, low) not in known:
            known[t, low] = len(tensors)
            buffer = graph.tensors[t].buffer
            piece = cut(graph.tensors[t], -1 if len(graph.tensors[t].shape) == 5 else 0, (low, high))
            tensors.append(replace(piece, buffer=buffer + (number + 1) * stride if buffer else 0))
        return known[t, low]

    for op, borders in zip(graph.ops, starts):
        parts = list(enumerate(zip(borders, borders[1:])))
        buffers = {graph.tensors[t].buffer for t in op.inputs[1:] if t >= 0} if parts else set()
        if any(claimed.setdefault((b, number), ends) != ends for b in buffers - {0} for number, ends in parts):
            parts = []  # another convolution has divided a constant that both read, and otherwise
        made, out = [], graph.tensors[op.outputs[0]]
        for number, (low, high) in parts:
            given = (op.inputs[0], *(part(t, low, high, number) if t >= 0 else t for t in op.inputs[1:]))
            made.append(len(tensors))
            tensors.append(replace(out, name=f"{out.name}/{low}", shape=(*out.shape[:-1], high - low)))
            ops.append(replace(op, inputs=given, outputs=(made[-1],)))
        if made:
            options = {"axis": len(out.shape) - 1}
            ops.append(Op("CONCATENATION", tuple(made), op.outputs, OPTIONS.index("Concatenation"), options, version=2))
        else:
            ops.append(op)
    return graph if len(ops) == len(graph.ops) else Graph(tensors, ops, graph.inputs, graph.outputs).pruned()


def numbers(graph: Graph) -> int:
    """A stride for parts of this file's graph."""
    return max(t.buffer for t in graph.tensors) + 1


def _starts(graph: Graph, op: Op, most: int) -> Sequence[int]:
    """The first filter of each part, and the end; nothing for an operator that stays whole."""
    if op.kind != "CONV_2D" or len(op.inputs) != 3 or any(t < 0 or graph.tensors[t].data is None for t in op.inputs[1:]):
        return ()
    weights = graph.tensors[op.inputs[1]]
    filters = weights.shape[0]
    if weights.nbytes <= most:
        return ()
    size = max(int(most / weights.nbytes * filters) // LEAST_FILTERS, 1) * LEAST_FILTERS
    count = math.ceil(filters / size)
    size = math.ceil(filters / count / LEAST_FILTERS) * LEAST_FILTERS
    starts = [start for start in range(0, filters, size) if start == 0 or filters - start >= LEAST_FILTERS]
    return (*starts, filters) if len(starts) > 1 else ()


_tried: dict[tuple[object, ...], bool] = {}


def is_exact(graph: Graph, op: Op, starts: Sequence[int]) -> bool:
    """Whether parts of a CONV_2D or a dense layer, of the filters between ``starts``, have the bits of the whole one here.

    Tried once a process, and the same for every tile of a model: its tiles share packed weights, of parts or of the whole.
    """
    data, weights = (graph.tensors[t] for t in op.inputs[:2])
    key = (data.dtype, data.shape[-1], weights.shape, *sorted(op.options.items()), *starts)
    if key not in _tried:
        _tried[key] = all(_has_same_bits(sample, starts) for sample in _samples(graph, op))
    return _tried[key]


def _samples(graph: Graph, op: Op) -> Iterator[Graph]:
    """The operator alone, with small output maps and few input channels."""
    data, out = (graph.tensors[t] for t in (op.inputs[0], op.outputs[0]))
    constants = [_filled(graph.tensors[t]) for t in op.inputs[1:] if t >= 0]
    inputs = tuple(range(1 + len(constants)))
    axis = -2 if op.kind == "CONV_3D" else -1  # of input channels
    filters, *kernel, _ = constants[0].shape
    cases: list[_Case] = []
    if op.kind == "FULLY_CONNECTED":
        rows = min(math.prod(out.shape[:-1]), math.prod(_PIXELS[0]))
        cases.append((replace(data, shape=(rows, constants[0].shape[-1])), (rows,), {"keep_num_dims": 0}))
    elif op.kind == "CONV_3D":
        *kernel, _, filters = constants[0].shape
        steps = [(op.option(f"stride_{side}"), op.option(f"dilation_{side}_factor") or 1) for side in "dhw"]
        cases += [_case(data, (1, *pixels), kernel, steps) for pixels in _PIXELS]
    else:
        steps = [(op.option(f"stride_{side}"), op.option(f"dilation_{side}_factor") or 1) for side in "hw"]
        cases += [_case(data, pixels, kernel, steps) for pixels in _PIXELS]
    for given, made, options in cases:
        given, weights = samples.few_channels(given, constants[0], axis)
        tensors = [given, weights, *constants[1:], replace(out, shape=(*made, filters))]
        alone = replace(op, inputs=inputs, outputs=(len(inputs),), options={**op.options, **options})
        yield Graph(tensors, [alone], (0,), alone.outputs)


def _case(data: Tensor, pixels: Sequence[int], kernel: Sequence[int], steps: Sequence[tuple[int, int]]) -> _Case:
    """So many pixels without padding: the map for them, and what is made. ``steps``: stride and dilation of each axis."""
    sides = ((n - 1) * s + (k - 1) * d + 1 for n, k, (s, d) in zip(pixels, kernel, steps))
    return replace(data, shape=(1, *sides, data.shape[-1])), (1, *pixels), {"padding": VALID}


def _filled(tensor: Tensor) -> Tensor:
    """A constant; of one that is computed (float16 weights) any values."""
    return tensor if tensor.data is not None else replace(tensor, data=samples.noise(tensor).reshape(-1).view("uint8"))


def _has_same_bits(whole: Graph, starts: Sequence[int]) -> bool:
    given = [samples.noise(whole.tensors[0])]
    graphs = whole, _divided(whole, [starts], numbers(whole))
    want, got = (engine.load(graph.to_bytes()).run(given)[0] for graph in graphs)
    return want.tobytes() == got.tobytes()
