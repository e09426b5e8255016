"""Tiles run by class, as few of which stay loaded as the runner was told."""

import itertools
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from models.graph.build import build
from models.graph.file import Graph, parse
from models.planning.planner import make_plan
from models.running import engine
from models.running.engine_cache import EngineCache
from models.running.runner import CALM, LEFT_BYTES, TileRunner
from models.tiling import reuse
from models.tiling.partition import Partition
from models.tiling.tensor import stitch, to_input
from schemas.contract.errors import PlanError
from schemas.contract.plan import Plan

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def planned() -> tuple[Plan, Graph]:
    plan, _, edge_model = make_plan(Partition(build("mini", 96)), "0" * 32, (3, 3), "max3", reuse=False)
    return plan, parse(edge_model)


class Loads:
    """Counts loads, and the engines that are alive."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.alive = self.most = self.ran = 0
        counter, load = self, engine.load

        class Counted:
            def __init__(self, model: bytes, threads: int = 1) -> None:
                counter.count += 1
                counter.alive += 1
                counter.most = max(counter.most, counter.alive)
                self.engine = load(model, threads)

            def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
                counter.ran += 1
                return self.engine.run(inputs)

            def __del__(self) -> None:
                counter.alive -= 1

        monkeypatch.setattr(engine, "load", Counted)


def run_all(runner: TileRunner, order: Sequence[int]) -> np.ndarray:
    return run_frame(runner, "", order)


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


@pytest.mark.parametrize(("keep", "loaded"), [(2, 2), (9, 9)])
def test_classes_are_loaded_ahead_as_long_as_there_is_room(
    keep: int, loaded: int, planned: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(monkeypatch)
    runner = TileRunner(*planned, keep=keep)
    runner.run(0, 4, runner.crops(IMAGE, 0, 4))
    while runner.warm():
        pass
    assert loads.count == loads.alive == loads.ran == loaded
    run_all(runner, range(9))
    assert loads.count == 9


def test_a_quarter_of_the_free_memory_says_how_many_classes_stay(
    planned: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    def keeps(free: int) -> int:
        runner = TileRunner(*planned, keep=None, free=lambda: free)
        while runner.warm():
            pass
        return len(runner._classes)

    monkeypatch.setattr("models.running.runner.LEFT_BYTES", 0)
    two = 4 * bisect_left(range(1 << 24), 2, key=TileRunner(*planned)._fitting)
    assert (keeps(two // 2), keeps(two - 4), keeps(two), keeps(1 << 30)) == (1, 1, 2, 9)


@pytest.mark.parametrize("cached", [False, True])
def test_tiles_make_the_map_of_the_whole_image(cached: bool, planned: tuple[Plan, Graph], tmp_path: Path) -> None:
    plan, graph = planned
    whole = engine.load(graph.to_bytes()).run([to_input(IMAGE, plan.pixels)])[0]
    runner = TileRunner(plan, graph, cache=tmp_path if cached else None)
    assert run_all(runner, plan.blocks[0].order).tobytes() == whole.tobytes()
    if cached and engine.runtime().startswith("ai-edge-litert"):
        assert [path.name.startswith(plan.edge_model) for path in tmp_path.iterdir()] == [True]


FEW_BYTES = 4096


@pytest.fixture(scope="module")
def reusing(planned: tuple[Plan, Graph]) -> tuple[Plan, Graph]:
    """The same plan with reuse."""
    block = planned[0].blocks[0]
    classes = [tile.tile_class for tile in block.tiles]
    block = block.model_copy(update={"reuse": True, "order": reuse.order(block.rows, block.cols, classes)})
    return planned[0].model_copy(update={"blocks": (block,)}), planned[1]


class Graphs:
    """Counts the inputs and outputs of what runs: one of each where nothing is given or taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[int, int]] = []
        counter, load = self, engine.load

        class Counted:
            def __init__(self, model: bytes, threads: int = 1) -> None:
                self.engine = load(model, threads)

            def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
                outputs = self.engine.run(inputs)
                counter.ran.append((len(inputs), len(outputs)))
                return outputs

        monkeypatch.setattr(engine, "load", Counted)

    @property
    def kinds(self) -> str:
        """p, g or t for each tile that ran: plain, gives, takes."""
        return "".join("t" if given > 1 else "g" if made > 1 else "p" for given, made in self.ran)


def run_frame(runner: TileRunner, frame: str, tiles: Sequence[int] = ()) -> np.ndarray:
    """The map of a frame whose tiles run in this sequence, or in the plan's."""
    return stitched(runner.plan, run_tiles(runner, frame, tiles or runner.plan.blocks[0].order))


def run_tiles(runner: TileRunner, frame: str, tiles: Sequence[int]) -> dict[int, np.ndarray]:
    return {i: runner.run(0, i, runner.crops(IMAGE, 0, i), frame)["max3"] for i in tiles}


def stitched(plan: Plan, made: Mapping[int, np.ndarray]) -> np.ndarray:
    block = plan.blocks[0]
    return stitch(block.cut[0], ((block.tiles[i].outputs["max3"], array) for i, array in made.items()))


@pytest.mark.parametrize("cached", [False, True])
def test_tiles_with_reuse_make_the_same_map(cached: bool, reusing: tuple[Plan, Graph], tmp_path: Path) -> None:
    plan, model = reusing
    whole = engine.load(model.to_bytes()).run([to_input(IMAGE, plan.pixels)])[0]
    runner = TileRunner(plan, model, cache=tmp_path if cached else None, keep=4)
    for frame in ("a", "b"):
        assert run_frame(runner, frame).tobytes() == whole.tobytes()
    assert runner.strip_bytes == 0
    assert run_frame(runner, "c", tuple(np.random.default_rng(1).permutation(9).tolist())).tobytes() == whole.tobytes()


def test_in_the_plans_order_givers_run_before_takers(
    reusing: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs(monkeypatch)
    run_frame(TileRunner(*reusing), "a")
    assert graphs.kinds == "gggggtttt"


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("keep", [64, 10])
def test_variants_are_loaded_ahead_so_that_a_frame_loads_nothing(
    keep: int, cached: bool, reusing: tuple[Plan, Graph], tmp_path: Path
) -> None:
    runner = TileRunner(*reusing, cache=tmp_path if cached else None, keep=keep)
    loads = list(itertools.takewhile(bool, (runner.warm() for _ in range(40))))
    alive = len(runner._classes)
    assert len(loads) == alive < 40
    if keep == 64:
        run_frame(runner, "f")
        run_all(runner, range(9))
        assert len(runner._classes) == alive == 9 + 5 + 4  # plain, those that give, those that take


def test_without_a_frame_or_reuse_tiles_run_plain(
    planned: tuple[Plan, Graph], reusing: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs(monkeypatch)
    run_frame(TileRunner(*reusing), "")
    run_frame(TileRunner(*planned), "a")
    assert graphs.kinds == "p" * 18


def test_a_tile_that_misses_a_strip_runs_plain(reusing: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(monkeypatch)
    run_tiles(TileRunner(*reusing), "a", (0, 2, 1, 4, 6, 3))  # 1 lacks the strips of 4
    assert graphs.kinds == "ggpggt"


def test_strips_are_given_only_while_a_neighbour_can_use_them(
    reusing: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, runner = Graphs(monkeypatch), TileRunner(*reusing)
    run_tiles(runner, "a", (1, 3, 0, 5, 2, 4))  # both neighbours of 0 and of 2 have run, one of 4 has not
    assert graphs.kinds == "ppp" + "pp" + "g"


def test_strips_of_another_frame_are_not_taken(reusing: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, runner = Graphs(monkeypatch), TileRunner(*reusing)
    for tile, frame in ((0, "a"), (2, "a"), (4, "b"), (1, "a"), (1, "b")):
        runner.run(0, tile, runner.crops(IMAGE, 0, tile), frame)
    assert graphs.kinds == "gggpp"


def test_a_forgotten_frame_leaves_nothing(reusing: tuple[Plan, Graph]) -> None:
    runner = TileRunner(*reusing)
    run_tiles(runner, "a", (0, 2))
    held = runner.strip_bytes
    run_tiles(runner, "b", (0,))
    assert runner.strip_bytes > held > 0
    runner.forget("a")
    runner.forget("b")
    runner.forget("never seen")
    assert runner.strip_bytes == 0


def test_strips_never_take_more_than_their_bytes(reusing: tuple[Plan, Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(monkeypatch)
    room = TileRunner(*reusing)
    run_tiles(room, "a", (0, 2, 4, 6, 8))
    limit, graphs.ran = room.strip_bytes, []
    runner = TileRunner(*reusing, strip_limit=limit)
    run_tiles(runner, "a", (0, 2, 4))
    run_tiles(runner, "b", (0, 2, 4, 6, 8))
    assert runner.strip_bytes == limit
    run_tiles(runner, "a", (1,))  # the older frame's strips had to go
    run_tiles(runner, "b", (1, 3, 5, 7))
    assert graphs.kinds == "g" * 8 + "p" + "tttt"


def test_frames_that_nobody_forgets_do_not_pile_up(reusing: tuple[Plan, Graph]) -> None:
    runner = TileRunner(*reusing, keep=9)
    run_tiles(runner, "0", (0,))
    held = runner.strip_bytes
    for frame in range(1, 20):
        run_tiles(runner, str(frame), (0,))
    assert runner.strip_bytes == 8 * held


def test_a_runner_without_room_for_strips_computes_all_the_same(reusing: tuple[Plan, Graph]) -> None:
    runner = TileRunner(*reusing, strip_limit=FEW_BYTES)
    assert run_frame(runner, "a").tobytes() == run_frame(TileRunner(*reusing), "").tobytes()
    assert runner.strip_bytes <= FEW_BYTES


def test_light_classes_do_not_drive_out_others() -> None:
    loads: list[str] = []
    classes = EngineCache(keep=2)

    def get(name: str, share: float) -> None:
        def load() -> engine.Engine:
            loads.append(name)
            return Idle()

        classes.get((0, name), load, share)

    for _ in range(2):
        for name, share in (("a", 1.0), ("b", 1.0), ("c", 0.1), ("d", 0.15)):
            get(name, share)
    assert loads == ["a", "b", "c", "d"]
    get("e", 0.2)  # a light one goes: with it they would hold more than a sixth of two
    assert len(classes) == 4
    get("f", 0.3)  # not light: one of the two others goes
    assert len(classes) == 4
    assert loads == ["a", "b", "c", "d", "e", "f"]


def test_there_is_room_for_light_classes_as_long_as_none_goes_for_them() -> None:
    classes = EngineCache(keep=3)
    rooms = []
    for name, share in (("a", 1.0), ("b", 0.1), ("c", 0.2), ("d", 0.25), ("b", 0.1), ("a", 1.0)):
        rooms.append(classes.has_room((0, name), share))
        if rooms[-1]:
            classes.get((0, name), Idle, share)
    assert rooms == [True, True, True, False, False, False] and len(classes) == 3
    assert classes.has_room((0, "e"))


class Loading:
    """A row of classes and how often each was loaded. ``free``: how many ordinary classes there is memory for."""

    def __init__(self, keep: int, free: float = 1e9) -> None:
        self.free = free
        self.loads: list[str] = []
        self.classes = EngineCache(keep, lambda share: self.free - self._held() >= share)

    def _held(self) -> float:
        return self.classes._ordinary.held + self.classes._light.held

    def get(self, name: str, share: float = 1.0) -> None:
        def load() -> engine.Engine:
            self.loads.append(name)
            return Idle()

        self.classes.get((0, name), load, share)

    def alive(self, names: str) -> str:
        return "".join(name for name in names if not self.classes.has_room((0, name)) and (0, name) in self.classes._ordinary)


@pytest.mark.parametrize("keep", range(1, 10))
def test_frame_after_frame_each_class_that_is_kept_saves_a_load(keep: int) -> None:
    """Had the one used longest ago made room, each would have gone just before its turn."""
    frames = Loading(keep)
    for name in "abcdefghi":
        frames.get(name)
    for _ in range(20):
        frames.loads.clear()
        for name in "abcdefghi":
            frames.get(name)
    assert len(frames.loads) == (10 - keep if keep < 9 else 0)


def test_what_was_not_used_for_long_makes_room_first() -> None:
    frames = Loading(2)
    frames.get("a")
    for name in "bc" * 300:
        frames.get(name)
    assert frames.alive("abc") == "bc"


def test_what_counts_for_several_classes_takes_their_room_and_leaves_one_at_least() -> None:
    frames = Loading(3)
    for name, share in (("a", 1.0), ("b", 1.0), ("c", 1.0), ("w", 2.0)):
        frames.get(name, share)
    assert frames.alive("abcw") == "aw"
    frames.get("x", 9.0)
    assert frames.alive("abcwx") == "x"


def test_classes_make_room_where_there_is_no_memory_for_another_and_the_last_runs_all_the_same() -> None:
    frames = Loading(9, free=2.0)
    for name in "abc":
        frames.get(name)
    assert frames.alive("abc") == "ac" and not frames.classes.has_room((0, "d"))
    frames.free = 0.0
    frames.get("d")
    assert frames.alive("abcd") == "d"


def test_what_was_given_back_comes_again_one_by_one_once_it_may() -> None:
    frames = Loading(3)
    for name in "abc":
        frames.get(name)
    assert frames.classes.give_back() and frames.classes.give_back()
    frames.get("b")
    assert frames.alive("abc") == "b"
    frames.classes.regrow()
    frames.get("c")
    assert frames.alive("abc") == "bc"
    assert [frames.classes.give_back() for _ in range(3)] == [True, True, False]


def test_a_runner_gives_classes_and_undivided_frames_back_while_memory_is_short(planned: tuple[Plan, Graph]) -> None:
    left = [1 << 40]
    runner = TileRunner(*planned, keep=None, free=lambda: left[0])
    while runner.warm():
        pass
    assert len(runner._classes) == 9 and runner.relieve() == 0 and runner.fits_whole
    runner.run_whole({"image": IMAGE})
    assert len(runner._classes) == 10
    left[0] = LEFT_BYTES - 1
    assert runner.relieve() == 10 and len(runner._classes) == 0
    assert not runner.warm() and not runner.fits_whole
    assert run_all(runner, range(9)).tobytes() == run_all(TileRunner(*planned), range(9)).tobytes()
    assert len(runner._classes) == 1
    left[0] = 1 << 40
    for _ in range(9 * CALM):
        assert runner.relieve() == 0
    while runner.warm():
        pass
    assert len(runner._classes) == 9


class Idle:
    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return []


def test_a_crop_is_the_region_that_the_plan_names(planned: tuple[Plan, Graph]) -> None:
    runner = TileRunner(*planned)
    for tile in planned[0].blocks[0].tiles:
        r = tile.inputs["image"].region
        assert np.array_equal(runner.crops(IMAGE, 0, tile.home)["image"], IMAGE[:, r.y0 : r.y1, r.x0 : r.x1])


def test_a_plan_of_another_model_is_refused(planned: tuple[Plan, Graph]) -> None:
    for other in (build("mini", 128, layers=4), build("yolov2", 96, layers=2)):
        with pytest.raises(PlanError, match="is not in this model"):
            TileRunner(planned[0], other)
