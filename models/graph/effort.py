"""What operators cost a processor: their effort, in operations of a large float32 convolution that take as long.

Operations alone foretell a network of large convolutions (YOLOv2: within 8 %), but not the small models of phones, most
of whose time goes into depthwise convolutions and into writing maps: those took up to seven times what their operations
promised. So an operator's effort is its operations, weighed by what one of its kind costs, and a price for each element
that it writes. Measured as the difference between chains of two and of six operators, on maps of 19x19x384 to 76x76x96
(one core of x86-64 with AVX-512 and VNNI, ai-edge-litert 2.3): the effort of whole models agrees with their time within
15 %. Other processors have other ratios between integers and floats: ``models.planning.cost.measure_speed`` measures them.
"""

from collections import Counter
from collections.abc import Iterable
from math import prod

from models.graph.file import Graph, Op
from models.graph.ops import RULES, depth, flops_of

FLOAT = "float32"
ARITHMETICS = (FLOAT, "int8", "uint8")  # of XNNPACK, the same, and of the runtime's own kernels
_DENSE = {FLOAT: 1.0, "int8": 0.25, "uint8": 0.9}
_OPERATION = {  # the price of one; that of kinds which only pass through a map is in their elements
    "CONV_2D": _DENSE,
    "TRANSPOSE_CONV": _DENSE,
    "FULLY_CONNECTED": _DENSE,
    "BATCH_MATMUL": _DENSE,
    "CONV_3D": _DENSE,
    "DEPTHWISE_CONV_2D": dict.fromkeys(ARITHMETICS, 2.4),
}
_ELEMENT = 20.0  # the price of one that is written
_WEIGHT = 15.0  # of a byte of a dense layer's weights, which come from memory once: 11 to 23 GB/s, whatever its operations
_DEARER = {
    ("CONV_2D", "uint8"): 45.0,
    ("MAX_POOL_2D", FLOAT): 85.0,
    **{("RESIZE_BILINEAR", dtype): 60.0 for dtype in ARITHMETICS},
}


def effort_of(graph: Graph, ops: Iterable[int]) -> int:
    """The effort of these operators over whole tensors, whether they can be tiled or not."""
    return int(sum(whole_effort(graph, i) for i in ops))


def whole_effort(graph: Graph, index: int) -> float:
    """That of one."""
    op = graph.ops[index]
    if not op.outputs:
        return 0.0
    each, element = _prices(graph, op)
    read = _WEIGHT * graph.tensors[op.inputs[1]].nbytes if op.kind == "FULLY_CONNECTED" and len(op.inputs) > 1 else 0.0
    return max(each * flops_of(graph, [index]), read) + element * prod(graph.tensors[op.outputs[0]].shape)


def effort_at(graph: Graph, op: Op) -> float:
    """The effort of one pixel of the output map of an operator that can be tiled, over all channels and frames."""
    each, element = _prices(graph, op)
    return each * RULES[op.kind].flops(graph, op) + element * depth(graph.tensors[op.outputs[0]].shape)


def arithmetic(graph: Graph) -> str:
    """The one of ``ARITHMETICS`` in which most of a model's operations are."""
    flops: Counter[str] = Counter({FLOAT: 0})
    for i, op in enumerate(graph.ops):
        flops[_arithmetic(graph, op)] += flops_of(graph, [i])
    return max(flops, key=lambda dtype: flops[dtype])


def _prices(graph: Graph, op: Op) -> tuple[float, float]:
    """Of an operation, and of an element that is written."""
    dtype = _arithmetic(graph, op)
    each = _OPERATION[op.kind][dtype] if op.kind in _OPERATION else 0.0
    return each, _DEARER.get((op.kind, dtype), _ELEMENT)


def _arithmetic(graph: Graph, op: Op) -> str:
    """That of the maps which an operator reads."""
    dtypes = {graph.tensors[t].dtype for t in graph.data_inputs(op)}
    return next((dtype for dtype in ARITHMETICS[1:] if dtype in dtypes), FLOAT)
