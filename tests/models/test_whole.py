"""Blocks that are executed whole: how far they may reach, and that no bit of what they give is another."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle, Reference, make_bundle, open_bundle, save
from models.graph.file import Graph, Op, load, parse
from models.planning.cost import predict
from models.planning.planner import BlockChoices, fused_blocks, make_plan, tile_costs
from models.running.engine import Engine
from models.running.runner import TileRunner
from models.tiling.division import Tiler, Tiles, Whole
from models.tiling.partition import Partition
from models.tiling.rewrite import whole_graph
from models.tiling.tensor import to_input
from models.trial import Trial
from models.verify import Verifier, compare_all
from schemas.contract.errors import PlanError
from schemas.contract.plan import Block
from tests.examples import share
from tests.models.test_equality import MODELS, picture, some_cuts
from tests.models.test_search import SLOW
from tests.nodes import WHOLE_BLOCKS, ended_graph, small_graph, whole_plan
from tests.paths import shared

WHOLE = Whole()
RECURRENT = "traffic_model"


def ended(path: Path, grid: tuple[int, int], which: int = 2) -> Bundle:
    """A real model that is divided to one of three cuts, and executed whole from there to its end."""
    partition = Partition(load(path))
    cut = some_cuts(partition, grid)[which]
    return make_bundle(path, blocks=[(cut.name, Tiles(*grid)), ("end", WHOLE)], partition=partition)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "ended.tflite"
    path.write_bytes(ended_graph().to_bytes())
    return path


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("path", share([p for p in MODELS if p.stem != RECURRENT], 2), ids=lambda path: path.stem)
def test_a_real_model_is_exact_to_its_end(path: Path, which: int) -> None:
    bundle = ended(path, (2, 3), which)
    cuts, outputs = Verifier(bundle).check(picture(bundle))
    assert bundle.plan.blocks[-1].split == "whole" and bundle.plan.tail_inputs == ()
    assert {d.tensor for d in outputs} <= {d.tensor for d in cuts}, "the last block gives the model's outputs"
    assert [d for d in (*cuts, *outputs) if d.differing] == []


def test_a_recurrent_model_keeps_its_tail_at_the_gateway() -> None:
    partition = Partition(load(shared(f"data/models/{RECURRENT}.tflite")))
    with pytest.raises(PlanError, match="besides the image it needs 'raw_inputs/init_lstm_c'"):
        make_plan(partition, "0" * 32, blocks=[(partition.cuts[8], Tiles(2, 2)), ("end", WHOLE)])


def test_a_recurrent_model_may_be_executed_whole_as_far_as_tiles_reach() -> None:
    path = shared(f"data/models/{RECURRENT}.tflite")
    partition = Partition(load(path))
    some = some_cuts(partition, Tiles(2, 2))
    bundle = make_bundle(path, blocks=[(some[0].name, Tiles(2, 2)), (some[2].name, WHOLE)], partition=partition)
    cuts, outputs = Verifier(bundle).check(picture(bundle))
    assert len(bundle.plan.tail_inputs) > 1 and not [d for d in (*cuts, *outputs) if d.differing]


def test_what_is_executed_whole_is_not_loaded_ahead(model: Path) -> None:
    bundle = make_bundle(model, blocks=WHOLE_BLOCKS)
    runner = TileRunner(bundle.plan, parse(bundle.edge_model), keep=None, free=lambda: 1 << 30)
    loaded = 0
    while runner.warm():
        loaded += 1
    assert loaded == sum(len({tile.tile_class for tile in block.tiles}) for block in bundle.plan.blocks[:2])


def test_several_whole_blocks_and_what_passes_them_by_are_exact(model: Path) -> None:
    bundle = make_bundle(model, blocks=WHOLE_BLOCKS)
    cuts, outputs = Verifier(bundle).check(picture(bundle))
    assert [block.split for block in bundle.plan.blocks] == ["tiles"] * 2 + ["whole"] * 2
    assert len(cuts) == 4 and not [d for d in (*cuts, *outputs) if d.differing]


@pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128_quant", "movenet_single_pose_lightning_ptq", ""])
def test_the_end_is_exact_with_the_weight_cache_and_undivided(name: str, model: Path, tmp_path: Path) -> None:
    bundle = ended(shared(f"data/models/{name}.tflite"), (2, 2)) if name else make_bundle(model, blocks=WHOLE_BLOCKS)
    plan, image = bundle.plan, picture(bundle)
    runner = TileRunner(plan, parse(bundle.edge_model), tmp_path)
    found = Verifier(bundle)
    found._runner = runner
    assert not [d for differences in found.check(image) for d in differences if d.differing]
    cut, wanted = Reference(bundle).run(to_input(image, plan.pixels))
    got = runner.run_whole({plan.pixels.tensor: image})
    assert cut.keys() == wanted.keys() == got.keys() and not [d for d in compare_all(got, wanted) if d.differing]


def test_the_only_tile_and_the_undivided_frame_share_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(shared("data/models/mobilenet_v1_0.25_128_quant.tflite"), (1, 1))
    loads, load = [], TileRunner._loaded

    def counted(self: TileRunner, graph: Graph, blocks: Sequence[Block], *more: str) -> Engine:
        loads.append(graph)
        return load(self, graph, blocks, *more)

    monkeypatch.setattr(TileRunner, "_loaded", counted)
    runner, image = TileRunner(bundle.plan, parse(bundle.edge_model), keep=4), picture(bundle)
    tile = runner.run(0, 0, runner.crops(image, 0, 0))
    whole = runner.run_whole({bundle.plan.pixels.tensor: image})
    assert len(loads) == 1 and not [d for d in compare_all(tile, whole) if d.differing]


def test_a_plan_to_the_end_is_saved_opened_and_tried(model: Path, tmp_path: Path) -> None:
    bundle = make_bundle(model, blocks=WHOLE_BLOCKS)
    save(bundle, tmp_path / "plan")
    again = open_bundle(tmp_path / "plan")
    assert again.plan == bundle.plan and again.cut.tensors == again.graph.outputs
    with Trial(model, bundle.plan) as trial:
        assert trial.verdict(wait=True) == ""


def test_the_end_of_a_model_that_tiles_reach_is_its_last_cut() -> None:
    partition = Partition(small_graph())
    assert partition.end is partition.find("end") is partition.cuts[-1]


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ((("conv0", Tiles(2, 2)), ("end", Tiles(2, 2))), "no tile reaches mean: operator 9 .*MEAN.*--whole"),
        ((("conv4", Tiles(2, 2)), ("conv0", WHOLE)), "cut conv0 does not follow conv4"),
        ((("conv4", Tiles(2, 2)), ("elsewhere", WHOLE)), "no legal cut 'elsewhere'"),
    ],
)
def test_blocks_that_make_no_plan_are_refused(blocks: object, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        make_plan(Partition(ended_graph()), "0" * 32, blocks=blocks)  # type: ignore[arg-type]


def test_one_node_computes_all_to_the_end_where_tiles_do_not_reach() -> None:
    plan, _, _ = make_plan(Partition(ended_graph()), "0" * 32, blocks=[("conv0", WHOLE), ("conv4", WHOLE), ("end", WHOLE)])
    assert [block.split for block in plan.blocks] == ["whole"] * 3 and plan.lanes == 1


def test_a_single_block_that_tiles_do_not_reach_goes_on_over_what_is_executed_whole() -> None:
    plan, _, _ = make_plan(Partition(ended_graph()), "0" * 32, (2, 3), "end")
    assert [block.kind for block in plan.blocks] == ["2x3", "whole"] and plan.ends[0].name == "mean"


def test_an_end_that_does_not_travel_is_refused_by_name() -> None:
    graph = ended_graph()
    for shape, dtype in (((), "float32"), ((1, 5), "string"), ((0, 5), "float32")):
        tensors = list(graph.tensors)
        last = graph.outputs[0]
        tensors[last] = type(tensors[last])("strange", shape, dtype)
        with pytest.raises(PlanError, match=f"to its end: tensor 'strange' .* is {dtype} of shape"):
            _ = Partition(Graph(tensors, graph.ops, graph.inputs, graph.outputs)).end


def test_an_end_that_nothing_makes_is_refused() -> None:
    graph = ended_graph()
    with pytest.raises(PlanError, match="nothing makes its output 'image'"):
        _ = Partition(Graph(graph.tensors, graph.ops, graph.inputs, (graph.outputs[0], graph.inputs[0]))).end


def test_a_whole_block_that_is_not_given_what_it_needs_is_refused() -> None:
    partition = Partition(ended_graph())
    names = partition.graph.by_name
    with pytest.raises(PlanError, match="needs 'image', which it does not get"):
        whole_graph(partition, [names["conv2"]], [names["mean"]])
    assert [op.kind for op in whole_graph(partition, [names["conv4"]], [names["mean"]]).ops] == ["MEAN"]


def test_what_a_whole_block_costs_is_its_operators_on_whole_tensors() -> None:
    partition, plan = Partition(ended_graph()), whole_plan()
    made = [sum(tile.flops for tile in block.tiles) for block in plan.blocks]
    between = partition.between([partition.graph.by_name[n] for n in ("conv0", "conv1")], [partition.graph.by_name["conv2"]])
    assert made[2] == partition.flops(between)
    (cost,) = tile_costs(partition, plan, 3)
    assert (cost.bytes_out, cost.bytes_in) == (5 * 4, 24 * 30 * 8 * 4)
    assert cost.peak_memory_bytes >= cost.bytes_in
    tiler = Tiler(partition)
    assert fused_blocks(tiler, [(partition.find(str(n)), division) for n, division in WHOLE_BLOCKS]) == plan.blocks


def test_who_computes_the_end_shows_in_what_is_expected() -> None:
    partition = Partition(ended_graph())
    choices: BlockChoices = [("conv0+conv2", Tiles(2, 3)), ("end", WHOLE)]
    plans = [make_plan(partition, "0" * 32, blocks=choices[:count])[0] for count in (1, 2)]
    gateway, edge = (predict(partition, plan, SLOW) for plan in plans)
    assert gateway.tail_flops > 0 == edge.tail_flops
    assert [block["split"] for block in edge.blocks] == ["tiles", "whole"]
    assert edge.bytes_by_hop["results up"] < 1000 < gateway.bytes_by_hop["results up"]
    assert edge.bytes_by_hop["parts up"] > 0 and "parts up" not in gateway.bytes_by_hop
    assert edge.latency_s > edge.bound_s > 0 and edge.redundancy < gateway.redundancy
    assert edge.memory_bytes["edge1"] > max(edge.memory_bytes[f"edge{i}"] for i in range(2, 7)), "lane 0 has it all"
    assert edge.memory_bytes["gateway"] < gateway.memory_bytes["gateway"]


def test_an_operator_whose_input_is_absent_is_no_obstacle() -> None:
    graph = ended_graph()
    mean = graph.ops[-1]
    ops = [*graph.ops[:-1], Op(mean.kind, (*mean.inputs, -1), mean.outputs, mean.options_type, mean.options)]
    partition = Partition(Graph(graph.tensors, ops, graph.inputs, graph.outputs))
    assert whole_graph(partition, [graph.by_name["conv4"]], graph.outputs).ops[0].inputs[-1] == -1
    assert np.isfinite(partition.flops(partition.end.ops))
