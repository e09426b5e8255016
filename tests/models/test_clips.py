"""Clips: convolutions over frames, divided into tiles and by filters, have the bits of the undivided run."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from models.graph.build import Network, build
from models.graph.file import Graph, Tensor
from models.graph.networks import C3D
from models.graph.ops import SAME, VALID, clips, flops_of
from models.graph.prepare import image_input
from models.planning.planner import BlockChoices, make_plan
from models.running import blocking
from models.tiling import filters
from models.tiling.division import Filters, Tiles, peak_memory
from models.tiling.partition import Partition
from schemas.contract.errors import PlanError
from schemas.contract.plan import Region
from tests.examples import examples
from tests.models.sketch import Sketch, wrong_cuts
from tests.models.test_filters import wrong_parts

STEP = st.integers(1, 2)


def convolved(net: Sketch, x: int, filters: int, kernel: Sequence[int], stride: Sequence[int], padding: int) -> int:
    _, *size, depth = net.shape(x)
    made = [-(-n // s) if padding == SAME else (n - k) // s + 1 for n, s, k in zip(size, stride, kernel)]
    assume(min(made) >= 1)
    options = {f"stride_{axis}": step for axis, step in zip("dhw", stride)}
    given = [x, net.constant(net.normal(*kernel, depth, filters)), net.constant(net.normal(filters))]
    return net.op("CONV_3D", given, net.tensor((1, *made, filters), "float32"), "Conv3D", padding=padding, **options)


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """One or two convolutions, activations, and a pool as ``dt build c3d`` has it."""
    size = draw(st.integers(2, 4)), draw(st.integers(5, 11)), draw(st.integers(5, 11))
    net = Sketch((1, *size, 3), seed=draw(st.integers(0, 9)))
    x = 0
    for _ in range(draw(STEP)):
        kernel, stride = (tuple(draw(each) for _ in "dhw") for each in (st.integers(1, 3), STEP))
        x = convolved(net, x, 8 * draw(st.integers(2, 5)), kernel, stride, draw(st.sampled_from([SAME, VALID])))
        x = net.unary(draw(st.sampled_from(["RELU", "LEAKY_RELU", "LOGISTIC"])), x)
    _, frames, height, width, depth = net.shape(x)
    if min(height, width) >= 2 and draw(st.booleans()):
        x = net.pool("MAX_POOL_2D", net.reshape(x, frames, height, width, depth), (2, 2), (1, 1), VALID)
        axes = net.constant(np.array([0], np.int32))
        x = net.op("REDUCE_MAX", [x, axes], net.tensor((1, height - 1, width - 1, depth), "float32"), "Reducer", keep_dims=True)
    return net.graph(x)


@examples(60)
@given(networks(), st.integers(1, 3), st.integers(1, 3))
def test_tiles_and_filters_of_clips_equal_the_undivided_run(graph: Graph, rows: int, cols: int) -> None:
    assert wrong_cuts(graph, rows, cols) == []
    assert wrong_parts(graph, min(graph.tensors[graph.outputs[0]].shape[-1] // 8, rows)) == []


def test_a_lost_row_of_padding_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = clips.Conv3DRule.needs

    def fewer(rule: clips.Conv3DRule, graph: Graph, op: object, out: Region) -> dict[int, Region]:
        y0, x0, y1, x1 = right(rule, graph, op, out)[0]  # type: ignore[arg-type]
        return {0: Region(y0, x0, y1 - 1 if out.y0 else y1, x1)}

    monkeypatch.setattr(clips.Conv3DRule, "needs", fewer)
    with pytest.raises(ValueError):
        assert wrong_cuts(build("c3d", 32, layers=1), 2, 2) == []


def test_c3d_has_the_shapes_weights_and_operations_of_its_paper() -> None:
    graph = build("c3d", 112)
    shapes = [graph.tensors[op.outputs[0]].shape[1:] for op in graph.ops if op.kind == "CONV_3D"]
    assert shapes[::3] == [(16, 112, 112, 64), (8, 28, 28, 256), (2, 7, 7, 512)]
    assert sum(t.nbytes for t in graph.tensors if t.data is not None) == pytest.approx(313.6e6, rel=1e-3)
    macs = sum(2 * prod(s) * 27 * d for s, d in zip(shapes, (3, 64, 128, 256, 256, 512, 512, 512)))
    done = sum(flops_of(graph, [i]) for i, op in enumerate(graph.ops) if op.kind == "CONV_3D")
    assert done == macs and macs == pytest.approx(77e9, rel=0.01)


def test_a_plan_of_a_clip_crops_all_frames_of_a_region() -> None:
    partition = Partition(build("c3d", 32, layers=4))
    blocks: BlockChoices = [("max3d1", Tiles(2, 2)), ("max3d3", Filters(4))]
    plan, _, _ = make_plan(partition, "0" * 32, blocks=blocks)
    assert plan.pixels.frames == 16 and plan.pixels.shape == (1, 16, 32, 32, 3)
    assert plan.blocks[0].tiles[0].inputs["image"].shape == (1, 16, 17, 17, 3)
    assert plan.blocks[1].tiles[1].outputs["max3d3"].shape == (1, 8, 8, 8, 32)


def test_memory_of_a_convolution_over_frames_counts_its_windows() -> None:
    graph = build("c3d", 32, layers=1)
    windows = 16 * 32 * 32 * 81 * 4
    assert peak_memory(graph) == windows + 16 * 32 * 32 * (3 + 64) * 4


def test_a_dilated_convolution_over_frames_is_left_whole() -> None:
    graph = build("c3d", 32, layers=1)
    ops = [replace(graph.ops[0], options={**graph.ops[0].options, "dilation_w_factor": 2}), *graph.ops[1:]]
    partition = Partition(Graph(graph.tensors, ops, graph.inputs, graph.outputs))
    assert partition.cuts == [] and "its dilation" in partition.describe_blocker()


def test_too_many_frames_are_refused() -> None:
    graph = Graph([Tensor("clip", (1, 65, 8, 8, 3), "float32")], [], (0,), (0,))
    with pytest.raises(PlanError, match="64 frames of a clip"):
        image_input(graph)


def test_the_filters_of_a_convolution_over_frames_are_tried_on_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network((4, 12, 12, 64))
    network.add(C3D[2])
    graph = network.graph()
    assert blocking.is_exact(graph, graph.ops[0], (0, 16, 128))
    right = filters.cut
    monkeypatch.setattr(blocking, "cut", lambda t, axis, out: right(t, axis, (0, out[1] - out[0])))
    assert not blocking.is_exact(graph, graph.ops[0], (0, 32, 128))
