"""Operators of clips, which have frames before rows: 1 x frames x height x width x channels. Frames are never divided."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from models.graph.file import Graph, Op
from models.graph.ops.elementwise import PositionRule
from models.graph.ops.rule import DYNAMIC_RANGE, VALID, Emitter, Rule
from models.graph.ops.windows import Window, WindowRule, window_of
from schemas.contract.plan import Region


class Conv3DRule(WindowRule):
    """CONV_3D. Weights are frames x height x width x in x out; its kernel is one matrix product over all windows."""

    ranks = (5,)

    def windows(self, graph: Graph, op: Op) -> tuple[Window, Window]:
        _, rows, cols = self.axes(graph, op)
        return rows, cols

    def axes(self, graph: Graph, op: Op) -> tuple[Window, ...]:
        """Frames, rows and columns."""
        given, kernel, made = (graph.tensors[t].shape for t in (*op.inputs[:2], op.outputs[0]))
        steps = ((int(op.option(f"stride_{d}")), int(op.option(f"dilation_{d}_factor")) or 1) for d in "dhw")
        padding = int(op.option("padding"))
        return tuple(window_of(k, *step, padding, size, out) for k, step, size, out in zip(kernel, steps, given[1:], made[1:]))

    def blocker(self, graph: Graph, op: Op) -> str | None:
        data, weights = (graph.tensors[t] for t in op.inputs[:2])
        if len(weights.shape) != 5:
            return f"its weights have shape {weights.shape}"
        if data.dtype != "float32" or weights.dtype != "float32":
            return DYNAMIC_RANGE if data.dtype == "float32" else f"the runtime has no CONV_3D of {data.dtype}"
        if any(window.dilation > 1 for window in self.axes(graph, op)):
            return "its dilation: tflite-runtime gives other bits from run to run"
        return super().blocker(graph, op)

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        frames, vertical, horizontal = self.axes(emitter.source, op)
        rows, cols = vertical.padding(out.y0, out.y1), horizontal.padding(out.x0, out.x1)
        over = frames.padding(0, emitter.source.tensors[op.outputs[0]].shape[1])
        data = emitter.pad(given[0], over, rows, cols)
        inputs = (data, *(emitter.constant(t) for t in op.inputs[1:]))
        emitter.ops.append(replace(op, inputs=inputs, outputs=tuple(outputs), options={**op.options, "padding": VALID}))

    def flops(self, graph: Graph, op: Op) -> float:
        shape = graph.tensors[op.inputs[1]].shape if len(op.inputs) > 1 else ()
        return 2.0 * prod(shape[:-1]) * super().flops(graph, op)


def is_over_frames(graph: Graph, op: Op) -> bool:
    """Whether a RESHAPE or REDUCE changes only what lies before rows."""
    given, made = (graph.tensors[t].shape for t in (op.inputs[0], op.outputs[0]))
    if min(len(given), len(made)) < 4 or given[-3:] != made[-3:]:
        return False
    if op.kind == "RESHAPE":
        return True
    axes = graph.tensors[op.inputs[1]]
    known = axes.data is not None and axes.dtype == "int32"
    return known and all(axis % len(given) < len(given) - 3 for axis in axes.array().reshape(-1).tolist())


class FramesRule(Rule):
    """RESHAPE that keeps rows, columns and channels: frames become a batch, or the other way round."""

    map_slot = 0
    ranks = (4, 5)

    def beyond(self, graph: Graph, op: Op) -> str | None:
        return None if is_over_frames(graph, op) else "no rule can tile it"

    def emit(self, emitter: Emitter, op: Op, out: Region, given: Mapping[int, int], outputs: Sequence[int]) -> None:
        shape = np.array(emitter.tensors[outputs[0]].shape, np.int32)
        inputs = given[0], emitter.literal(f"shape{len(emitter.ops)}", shape)
        emitter.ops.append(replace(op, inputs=inputs, outputs=tuple(outputs), options={"new_shape": shape}))


class FramesMaximumRule(PositionRule):
    """REDUCE_MAX and REDUCE_MIN over channels, or over what lies before rows; in any order they find the same."""

    ranks = (4, 5)

    def beyond(self, graph: Graph, op: Op) -> str | None:
        if len(graph.tensors[op.inputs[0]].shape) == 4:
            return None if is_over_frames(graph, op) else super().beyond(graph, op)
        return None if is_over_frames(graph, op) else "of a clip it must work along what lies before rows"

    def blocker(self, graph: Graph, op: Op) -> str | None:
        return None if is_over_frames(graph, op) else super().blocker(graph, op)
