"""What people bring: U-Nets, C2f blocks, Focus slices, attention, NCHW exports: how far they are divided, and exactly."""

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle, make_bundle
from models.graph.file import Graph, load
from models.graph.ops import SAME, flops_of
from models.running import engine
from models.tiling.partition import Partition
from models.verify import Verifier
from schemas.contract.errors import EngineError, PlanError
from tests.models.sketch import Sketch
from tests.paths import SHARED, shared

GRAPHS = sorted((SHARED / "data" / "graphs").glob("*.tflite"))
REFUSED = {  # by a part of the reason
    "batch2-f32": "batch of 1",
    "conv3d_inside-f32": "cannot be tiled at all: operator 0 (RESHAPE)",
    "dyn_hw-f32": "'dt import fixed MODEL --size HxW",
    "flat_input-f32": "no image input",
    "int16act-i16": "is int16",
    "six_channels-f32": "no image input",
    "unfrozen_variables": "never frozen",
}
WHOLE = {"focus_slices": 0.99, "unet": 1, "autoencoder": 1, "dynbatch_autoencoder": 1, "nchw": 0.99, "resize_first": 0.99}
WHOLE |= {"spp": 0.97, "rgba": 0.99, "gray": 0.99, "bn_unfused": 0.99, "deeplab_tail": 0.99, "dilated-f32": 1}


def pixels(bundle: Bundle) -> np.ndarray:
    shape = bundle.plan.pixels.shape
    y, x, c = np.meshgrid(*(np.arange(n) for n in shape[-3:]), indexing="ij")
    noise = np.random.default_rng(3).normal(0, 12, shape[1:])
    made = (np.sin(y / 17 + c) + np.cos(x / (11 + c))) * 50 + 120 + noise
    return np.ascontiguousarray(made.clip(0, 255).astype(np.uint8)[None])


def deepest(path: Path, grid: tuple[int, int]) -> Bundle:
    """Divided as far as tiles reach."""
    partition = Partition(load(path))
    partition.find("auto" if not partition.cuts else partition.cuts[-1].name)
    graph, least = partition.graph, max(grid)
    fit = [cut for cut in partition.cuts if all(min(graph.tensors[t].shape[-3:-1]) >= least for t in cut.tensors)]
    cut = max(fit, key=lambda cut: (partition.flops(cut.ops), len(cut.ops)))
    return make_bundle(path, grid, cut.name, partition=partition)


def wrong(bundle: Bundle) -> list[str]:
    cuts, outputs = Verifier(bundle).check(pixels(bundle))
    return [f"{d.tensor}: {d.differing} of {d.elements}" for d in (*cuts, *outputs) if d.differing]


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_a_graph_is_exact_as_deep_as_tiles_reach_or_refused_with_the_reason(path: Path) -> None:
    if path.stem in REFUSED:
        with pytest.raises(PlanError) as error:
            deepest(path, (2, 2))
        assert REFUSED[path.stem] in str(error.value)
        return
    try:
        engine.load(path.read_bytes())
    except EngineError:
        pytest.skip("this runtime does not know one of its operators")
    for grid in ((2, 2), (3, 3)):
        assert wrong(deepest(path, grid)) == []


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_a_graph_is_divided_as_far_as_it_was(path: Path) -> None:
    share = next((share for stem, share in WHOLE.items() if path.stem.startswith(stem)), 0.0)
    if share:
        assert Partition(load(path)).divisible_share >= share


def c2f(net: Sketch, x: int, filters: int, sliced: bool) -> int:
    """YOLOv8's block: half of the channels goes through bottlenecks, and all halves are joined."""
    x = silu(net, net.conv(x, filters, (1, 1)))
    _, height, width, depth = net.shape(x)
    half = depth // 2
    parts = [net.part(x, (0, 0, at), (height, width, half)) for at in (0, half)] if sliced else net.split(x, 2)
    for _ in range(2):
        y = silu(net, net.conv(silu(net, net.conv(parts[-1], half)), half))
        parts.append(net.binary("ADD", parts[-1], y))
    return silu(net, net.conv(net.concat(*parts), filters, (1, 1)))


def silu(net: Sketch, x: int) -> int:
    return net.binary("MUL", x, net.unary("LOGISTIC", x))


def yolo(sliced: bool = True) -> Graph:
    """An NCHW image, C2f blocks, a spatial pyramid and one way up."""
    net = Sketch((1, 3, 64, 96))
    x = silu(net, net.conv(net.moved(net.transpose(0, 0, 2, 3, 1)), 8, stride=(2, 2)))
    early = c2f(net, silu(net, net.conv(x, 16, stride=(2, 2))), 16, sliced)
    deep = c2f(net, silu(net, net.conv(early, 32, stride=(2, 2))), 32, sliced)
    pools = [deep]
    for _ in range(3):
        pools.append(net.pool("MAX_POOL_2D", pools[-1], (5, 5), (1, 1), SAME))
    deep = silu(net, net.conv(net.concat(*pools), 32, (1, 1)))
    joined = c2f(net, net.concat(net.resize(deep, 2), early), 16, sliced)
    heads = [net.conv(x, 9, (1, 1)) for x in (joined, deep)]
    flat = [net.reshape(x, 1, net.shape(x)[1] * net.shape(x)[2], 9) for x in heads]
    made = net.like(flat[0], shape=(1, sum(net.shape(x)[1] for x in flat), 9))
    return net.graph(net.op("CONCATENATION", flat, made, "Concatenation", axis=1))


def transformer() -> Graph:
    """Convolutions, then every position looks at every other."""
    net = Sketch((1, 32, 32, 3))
    x = net.conv(net.conv(0, 16, stride=(2, 2)), 16, stride=(2, 2))
    tokens = net.reshape(x, 1, 64, 16)
    keys = net.transpose(tokens, 0, 2, 1)
    scores = net.op("BATCH_MATMUL", [tokens, keys], net.tensor((1, 64, 64), "float32"), "BatchMatMul")
    weights = net.op("SOFTMAX", [scores], net.like(scores), "Softmax", beta=1.0)
    seen = net.op("BATCH_MATMUL", [weights, tokens], net.like(tokens), "BatchMatMul")
    return net.graph(net.conv(net.moved(net.reshape(seen, 1, 8, 8, 16)), 4))


@pytest.mark.parametrize("sliced", [True, False])
@pytest.mark.parametrize("grid", [(2, 2), (3, 3)])
def test_a_network_of_c2f_blocks_on_an_nchw_image_is_divided_and_exact(
    sliced: bool, grid: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "yolo.tflite"
    path.write_bytes(yolo(sliced).to_bytes())
    assert Partition(load(path)).divisible_share >= 0.99
    assert wrong(deepest(path, grid)) == []


def test_attention_over_all_positions_is_executed_whole_between_tiles(tmp_path: Path) -> None:
    path = tmp_path / "transformer.tflite"
    path.write_bytes(transformer().to_bytes())
    partition = Partition(load(path))
    assert [b.kind for b in partition.blockers] == ["RESHAPE"] and partition.divisible_share > 0.99
    assert wrong(deepest(path, (2, 2))) == []
    bundle = make_bundle(path, (2, 2), "end")
    assert [block.split for block in bundle.plan.blocks].count("tiles") >= 2 and wrong(bundle) == []


# --- operations, by another way of counting



def deconvolved(net: Sketch) -> int:
    """Every input element meets every weight of its channel: 2 * 6 * 5 * 3 * (4 * 2 * 2)."""
    net.transpose_conv(0, 4, (2, 2), (2, 2), SAME)
    return 2 * 6 * 5 * 3 * 16


def multiplied(net: Sketch) -> int:
    net.op("BATCH_MATMUL", [net.tensor((2, 7, 11), "float32"), net.tensor((2, 11, 5), "float32")],
           net.tensor((2, 7, 5), "float32"), "BatchMatMul")  # fmt: skip
    return 2 * 2 * 7 * 11 * 5


def multiplied_across(net: Sketch) -> int:
    net.op("BATCH_MATMUL", [net.tensor((2, 11, 7), "float32"), net.tensor((2, 11, 5), "float32")],
           net.tensor((2, 7, 5), "float32"), "BatchMatMul", adj_x=True)  # fmt: skip
    return 2 * 2 * 7 * 11 * 5


def dense_rows(net: Sketch) -> int:
    net.op("FULLY_CONNECTED", [net.tensor((1, 9, 6), "float32"), net.constant(net.normal(4, 6))],
           net.tensor((1, 9, 4), "float32"), "FullyConnected", keep_num_dims=True)  # fmt: skip
    return 2 * 9 * 4 * 6


def dense_positions(net: Sketch) -> int:
    net.dense(0, 4)
    return 2 * 6 * 5 * 4 * 3


def convolved_3d(net: Sketch) -> int:
    net.op("CONV_3D", [net.tensor((1, 4, 6, 5, 3), "float32"), net.constant(net.normal(3, 2, 1, 3, 8))],
           net.tensor((1, 4, 6, 5, 8), "float32"), "Conv3D")  # fmt: skip
    return 2 * (4 * 6 * 5 * 8) * (3 * 2 * 1 * 3)


def averaged(net: Sketch) -> int:
    axes = net.constant(np.array([1, 2], np.int32))
    net.op("MEAN", [0, axes], net.tensor((1, 3), "float32"), "Reducer")
    return prod((6, 5, 3))


@pytest.mark.parametrize(
    "add", [deconvolved, multiplied, multiplied_across, dense_rows, dense_positions, convolved_3d, averaged]
)
def test_operations_are_counted_as_by_hand(add: Callable[[Sketch], int]) -> None:
    net = Sketch((1, 6, 5, 3))
    wanted = add(net)
    op = net.ops[-1]
    assert flops_of(Graph(net.tensors, net.ops, (0,), op.outputs), [len(net.ops) - 1]) == wanted


def test_a_shared_attention_graph_counts_its_products() -> None:
    partition = Partition(load(shared("data/graphs/attention-f32.tflite")))
    products = [i for i, op in enumerate(partition.graph.ops) if op.kind == "BATCH_MATMUL"]
    assert partition.flops(products) == 2 * (2 * 2 * 256 * 256 * 16)
