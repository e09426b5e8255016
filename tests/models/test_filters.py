"""Blocks divided by filters: whatever the graph and the number of parts, every channel has the bits of the undivided run."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from models.graph.build import Network, build
from models.graph.file import Graph, Tensor
from models.graph.networks import ALEXNET
from models.graph.ops import SAME
from models.planning.planner import make_plan
from models.running import engine
from models.tiling import filters
from models.tiling.division import Filters, Tiler
from models.tiling.filters import filter_task, has_filters, lines, slice_of
from models.tiling.partition import Partition
from models.tiling.rewrite import whole_graph
from models.tiling.tensor import crop
from schemas.contract.errors import PlanError
from tests.examples import examples
from tests.models.sketch import Sketch, image_for, quantized, run
from tests.models.test_random_graphs import SIZES, STEPS, WINDOWS


def wrong_parts(graph: Graph, parts: int) -> list[str]:
    """Tensors some channels of which have other bits when a whole graph is one block of so many tasks."""
    partition = Partition(graph)
    graph = partition.graph
    cut = partition.cuts[-1]
    image = image_for(graph)
    whole = engine.load(Graph(graph.tensors, graph.ops, (partition.image,), cut.tensors).pruned().to_bytes()).run([image])
    found = []
    for part in range(parts):
        task = filter_task(graph, cut.ops, [partition.image], cut.tensors, (part, parts))
        given = [np.ascontiguousarray(crop(image, box)) for box in task.inputs.values()]
        made = engine.load(task.graph.to_bytes()).run(given)
        for (t, box), right, array in zip(task.outputs.items(), whole, made, strict=True):
            if crop(right, box).tobytes() != array.tobytes():
                found.append(graph.tensors[t].name)
    return found


def wide(data: st.DataObject, net: Sketch, x: int) -> int | None:
    """A convolution or a dense layer of enough channels to be divided."""
    filters, kernel = data.draw(st.integers(16, 50)), data.draw(WINDOWS)
    if data.draw(st.booleans()):
        return net.dense(x, filters)
    return net.conv(x, filters, kernel) if min(net.window(x, kernel, (1, 1), (1, 1), SAME)) >= 1 else None


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_parts_of_any_graph_equal_the_undivided_run(dtype: str) -> None:
    @examples(60, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        quantization = None if dtype == "float32" else quantized(0.02, 5 if dtype == "int8" else 121)
        net = Sketch((1, data.draw(SIZES), data.draw(SIZES), 3), dtype, quantization, seed=data.draw(st.integers(0, 99)))
        x = net.conv(0, 32)
        for step in data.draw(st.lists(st.sampled_from([wide, *STEPS]), min_size=1, max_size=5)):
            made = step(data, net, x)
            if made is not None and np.prod(net.shape(made)) < 10**5:
                x = made
        graph = net.graph(x)
        least = graph.tensors[x].shape[-1] // 8
        assert wrong_parts(graph, data.draw(st.integers(1, min(max(least, 1), 4)))) == []

    check()


@given(st.integers(1, 4096), st.integers(2, 64))
def test_parts_are_contiguous_nearly_even_and_never_small(size: int, count: int) -> None:
    if 8 * count > size:
        with pytest.raises(PlanError, match=f"{size} channels cannot be divided among {count} tasks: each takes 8"):
            lines(size, count)
        return
    ends = lines(size, count)
    sizes = [b - a for a, b in zip(ends, ends[1:])]
    assert ends[0] == 0 and ends[-1] == size and len(sizes) == count and min(sizes) > 0
    assert max(sizes) - min(sizes) <= 32
    assert all(end % (16 if size >= 16 * count else 8) == 0 for end in ends[:-1])


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_convolutions_and_dense_layers_of_alexnet_are_exact_and_hold_a_part_of_the_weights(parts: int) -> None:
    network = Network((67, 67, 3))
    for row in (*ALEXNET[:8], ("dense", 100, "relu"), ("dense", 70), ("softmax",)):
        network.add(row)
    partition = Partition(network.graph())
    chain = ("conv0", "conv3", "conv6", "conv7", "dense8", "dense9")
    plan, _, _ = make_plan(partition, "0" * 32, blocks=[(name, Filters(parts)) for name in chain])
    assert [len(block.tiles) for block in plan.blocks] == [parts] * len(chain)
    graph, image = partition.graph, image_for(partition.graph)
    held = [sum(block.by_home[lane].weight_bytes for block in plan.blocks) for lane in range(parts)]
    total = sum(t.nbytes for t in graph.tensors if t.data is not None)
    assert max(held) < 1.35 * total / parts
    maps = {graph.tensors[graph.inputs[0]].name: image}
    for span, block in zip(Tiler(partition).planned(plan.blocks), plan.blocks):
        names = [graph.tensors[t].name for t in span.made]
        given = [maps[graph.tensors[t].name] for t in span.given]
        right = run(whole_graph(partition, span.given, span.made), given)
        maps.update(zip(names, right))
        for part, tile in enumerate(block.tiles):
            task = filter_task(graph, span.ops, span.given, span.made, (part, parts))
            for name, array in zip(names, run(task.graph, given), strict=True):
                assert array.tobytes() == crop(maps[name], tile.outputs[name]).tobytes(), f"{name} of part {part}"


def test_what_keeps_channels_apart_needs_no_more_than_its_own() -> None:
    net = Sketch((1, 12, 12, 16))
    x = net.conv(0, 2, (3, 3), (1, 1), depthwise=True)  # two of each
    y = net.pool("MAX_POOL_2D", x, (2, 2), (2, 2), SAME)
    z = net.binary("ADD", y, net.unary("RELU", y))
    graph = net.graph(z)
    task = filter_task(graph, range(len(graph.ops)), [0], [z], (1, 2))
    assert [box[-1] for box in task.inputs.values()] == [(8, 16)] and task.outputs[z][-1] == (16, 32)
    assert not has_filters(graph, range(len(graph.ops)))


def test_what_mixes_channels_is_computed_whole_and_cut() -> None:
    net = Sketch((1, 6, 6, 4))
    x = net.conv(0, 16)
    y = net.concat(x, net.unary("RELU", x))
    graph = net.graph(y)
    assert slice_of(graph, graph.ops[-1], (0, 16)) is None
    task = filter_task(graph, range(len(graph.ops)), [0], [y], (0, 2))
    assert task.graph.ops[-1].kind == "SLICE" and task.inputs[0][-1] == (0, 4)


def test_a_planted_offset_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = filters.cut

    def shifted(tensor: Tensor, axis: int, out: tuple[int, int]) -> Tensor:
        by = min(out[0], 1)
        return right(tensor, axis, (out[0] - by, out[1] - by))

    monkeypatch.setattr(filters, "cut", shifted)
    assert wrong_parts(build("mini", 64, layers=3), 2) != []


def test_inputs_keep_their_order() -> None:
    net = Sketch((1, 6, 6, 4))
    x, y = net.conv(0, 16), net.conv(0, 16)
    z = net.conv(net.binary("ADD", x, y), 32)
    graph = net.graph(z)
    ops: Sequence[int] = [i for i, op in enumerate(graph.ops) if op.outputs[0] not in (x, y)]
    task = filter_task(graph, ops, [x, y], [z], (0, 2))
    assert list(task.inputs) == [x, y] and len(task.graph.inputs) == 2
