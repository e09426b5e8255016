"""Tiles run by class, as few of which stay loaded as the runner was told."""

from pathlib import Path

import numpy as np
import pytest

from models import engine
from models.build import build
from models.graph import Graph, parse
from models.partition import Partition
from models.planner import make_plan
from models.runner import TileRunner
from models.tensor import stitch, to_input
from schemas.errors import PlanError
from schemas.plan import Plan

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def planned() -> tuple[Plan, Graph]:
    plan, _, edge_model = make_plan(Partition(build("mini", 96)), "0" * 32, (3, 3), "max3")
    return plan, parse(edge_model)


class Loads:
    """Counts loads, and the engines that are alive."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.alive = self.most = 0
        counter, load = self, engine.load

        class Counted:
            def __init__(self, model: bytes, threads: int = 1) -> None:
                counter.count += 1
                counter.alive += 1
                counter.most = max(counter.most, counter.alive)
                self.engine = load(model, threads)

            def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
                return self.engine.run(inputs)

            def __del__(self) -> None:
                counter.alive -= 1

        monkeypatch.setattr(engine, "load", Counted)


def run_all(runner: TileRunner, order: tuple[int, ...] | range) -> np.ndarray:
    block = runner.plan.blocks[0]
    made = {i: runner.run(0, i, runner.crops(IMAGE, 0, i)) for i in order}
    return stitch(block.cut[0], ((block.tiles[i].outputs["max3"], tensors["max3"]) for i, tensors in made.items()))


@pytest.mark.parametrize("keep", [1, 2, 9])
def test_at_most_keep_classes_are_alive(
    keep: int, planned: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(monkeypatch)
    runner = TileRunner(*planned, keep=keep)
    for _ in range(2):
        run_all(runner, range(9))
    assert loads.most == keep
    assert len(runner._classes) == keep


def test_in_the_plans_order_each_class_is_loaded_once(
    planned: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(monkeypatch)
    plan = planned[0]
    run_all(TileRunner(*planned), plan.blocks[0].order)
    assert loads.count == len({tile.tile_class for tile in plan.blocks[0].tiles})


def test_the_class_that_was_used_last_stays(planned: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch)
    runner = TileRunner(*planned, keep=2)
    for tile in (0, 1, 0, 2, 0):
        runner.run(0, tile, runner.crops(IMAGE, 0, tile))
    assert loads.count == 3


def test_nothing_is_loaded_before_its_tile_runs(planned: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch)
    TileRunner(*planned)
    assert loads.count == 0


@pytest.mark.parametrize("cached", [False, True])
def test_tiles_make_the_map_of_the_whole_image(cached: bool, planned: tuple[Plan, Graph], tmp_path: Path) -> None:
    plan, graph = planned
    whole = engine.load(graph.to_bytes()).run([to_input(IMAGE, plan.pixels)])[0]
    runner = TileRunner(plan, graph, cache=tmp_path if cached else None)
    assert run_all(runner, plan.blocks[0].order).tobytes() == whole.tobytes()
    if cached and engine.runtime().startswith("ai-edge-litert"):
        assert [path.name.startswith(plan.edge_model) for path in tmp_path.iterdir()] == [True]


def test_a_crop_is_the_region_that_the_plan_names(planned: tuple[Plan, Graph]) -> None:
    runner = TileRunner(*planned)
    for tile in planned[0].blocks[0].tiles:
        r = tile.inputs["image"]
        assert np.array_equal(runner.crops(IMAGE, 0, tile.index)["image"], IMAGE[:, r.y0 : r.y1, r.x0 : r.x1])


def test_a_plan_of_another_model_is_refused(planned: tuple[Plan, Graph]) -> None:
    for other in (build("mini", 128, layers=4), build("yolov2", 96, layers=2)):
        with pytest.raises(PlanError, match="is not in this model"):
            TileRunner(planned[0], other)
