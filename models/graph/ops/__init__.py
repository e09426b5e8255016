"""One rule per operator: which region of its inputs an output region needs, and the operator that computes just that.

A rule that cannot keep the result bit for bit says why in ``blocker``, and the operator stays in the tail.
"""

from collections.abc import Iterable
from math import prod

from models.graph.file import MOVES, Graph, Op
from models.graph.ops.clips import Conv3DRule, FramesMaximumRule, FramesRule
from models.graph.ops.elementwise import DenseRule, ElementwiseRule, PositionRule
from models.graph.ops.moving import BlocksRule, ConcatRule, MovesRule, PadRule, SliceRule, SplitRule
from models.graph.ops.resizes import ResizeRule
from models.graph.ops.rule import SAME, VALID, Emitter, Needs, Rule, depth, sides, sized, whole
from models.graph.ops.windows import ConvRule, PoolRule, TransposeConvRule, Window, WindowRule
from schemas.contract.plan import MAPS

__all__ = [
    "RULES", "SAME", "VALID", "DenseRule", "ElementwiseRule", "Emitter", "Needs", "PositionRule", "Rule", "Window",
    "WindowRule", "blocker", "depth", "flops_of", "sides", "sized", "whole",
]  # fmt: skip

_ELEMENTWISE = (
    "ADD SUB MUL DIV MINIMUM MAXIMUM SQUARED_DIFFERENCE RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 LEAKY_RELU PRELU LOGISTIC TANH "
    "HARD_SWISH ELU ABS NEG SQUARE SQRT RSQRT EXP LOG FLOOR CEIL ROUND QUANTIZE DEQUANTIZE CAST GELU"
).split()

_BY_POSITION = (
    "SOFTMAX LOG_SOFTMAX L2_NORMALIZATION LOCAL_RESPONSE_NORMALIZATION MEAN SUM REDUCE_MAX REDUCE_MIN REVERSE_V2 GATHER"
).split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, ElementwiseRule()),
    **dict.fromkeys(_BY_POSITION, PositionRule()),
    **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN"), FramesMaximumRule()),
    "FULLY_CONNECTED": DenseRule(),
    "CONV_3D": Conv3DRule(),
    "RESHAPE": FramesRule(),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), ConvRule()),
    "TRANSPOSE_CONV": TransposeConvRule(),
    "MAX_POOL_2D": PoolRule(pad_with_minimum=True),
    "AVERAGE_POOL_2D": PoolRule(),
    **dict.fromkeys(("PAD", "PADV2"), PadRule()),
    "CONCATENATION": ConcatRule(),
    **dict.fromkeys(("SPLIT", "SPLIT_V"), SplitRule()),
    MOVES: MovesRule(),
    **dict.fromkeys(("SPACE_TO_DEPTH", "DEPTH_TO_SPACE"), BlocksRule()),
    **dict.fromkeys(("SLICE", "STRIDED_SLICE"), SliceRule()),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), ResizeRule()),
}


_CONVOLUTIONS = ("CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D")
_FEWEST_INPUTS = dict.fromkeys((*_CONVOLUTIONS, "PAD", "SPLIT", "FULLY_CONNECTED", *_BY_POSITION[4:]), 2)
_FEWEST_INPUTS |= dict.fromkeys(("PADV2", "SPLIT_V", "SLICE", "TRANSPOSE_CONV"), 3) | {"STRIDED_SLICE": 4}
_REDUCING = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "ARG_MAX", "ARG_MIN")
_LAST_CLAMP = 3  # ActivationFunctionType: NONE, RELU, RELU_N1_TO_1, RELU6, then TANH and SIGN_BIT


def blocker(graph: Graph, op: Op) -> str | None:
    """Why ``op`` cannot be tiled bit for bit, or None."""
    rule = RULES.get(op.kind)
    if rule is None:
        return "no rule can tile it"
    if not op.outputs or len(op.inputs) < _FEWEST_INPUTS.get(op.kind, 1) or min(op.inputs[:2]) < 0:
        return "inputs or outputs are missing"
    if reason := rule.beyond(graph, op):
        return reason
    if op.option("fused_activation_function") > _LAST_CLAMP:
        return "its fused activation is more than a clamp: other kernels than XNNPACK's compute it"
    for t in (*graph.data_inputs(op), *op.outputs):
        if len(graph.tensors[t].shape) not in rule.ranks:
            return f"tensor {graph.tensors[t].name!r} of shape {graph.tensors[t].shape} is no NHWC map"
        if min(graph.tensors[t].shape) < 1:
            return f"tensor {graph.tensors[t].name!r} of shape {graph.tensors[t].shape} is empty"
        if graph.tensors[t].dtype not in MAPS:
            return f"tensor {graph.tensors[t].name!r} is {graph.tensors[t].dtype}: only {', '.join(MAPS)} are exact"
    if rule.map_slot is not None and graph.data_inputs(op) != [op.inputs[rule.map_slot]]:
        return "an input beside its map is not constant"
    if len({sides(graph.tensors[t].shape) for t in op.outputs}) != 1:
        return "its outputs are maps of different sizes"
    return rule.blocker(graph, op)


def flops_of(graph: Graph, ops: Iterable[int]) -> int:
    """Operations of these operators over whole tensors, whether they can be tiled or not."""
    return int(sum(_flops_of(graph, graph.ops[i]) for i in ops if graph.ops[i].outputs))


def _flops_of(graph: Graph, op: Op) -> float:
    made, given = graph.tensors[op.outputs[0]].shape, [graph.tensors[t].shape if t >= 0 else () for t in op.inputs]
    if op.kind in RULES and len(made) in RULES[op.kind].ranks:
        return prod(sides(made)) * RULES[op.kind].flops(graph, op)
    products = {"FULLY_CONNECTED": given[1][-1:], "BATCH_MATMUL": given[0][-2:-1] if op.option("adj_x") else given[0][-1:],
                } if len(given) > 1 else {}  # of an element  # fmt: skip
    if op.kind in products:
        return 2.0 * prod(made) * prod(products[op.kind])
    return float(max(prod(made), prod(given[0])) if op.kind in _REDUCING and given else prod(made))
