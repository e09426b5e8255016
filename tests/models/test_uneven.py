"""Uneven tiles: whatever the shares, they partition the map, and their work is in proportion as well as pixels allow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import make_bundle
from models.graph.build import build
from models.planning.cluster import CORE_FLOPS_S, Cluster
from models.planning.search import best_plan
from models.planning.shares import shares
from models.planning.simulation import Run
from models.tiling.division import Tiler, Tiles
from models.tiling.layout import Layout, layout
from models.tiling.partition import Partition
from models.verify import Verifier
from schemas.contract.errors import PlanError
from schemas.contract.plan import Region
from tests.examples import examples
from tests.models.workloads import workload

MINI = Partition(build("mini", 160))
CLUSTER = Cluster((33e9,) * 6, 1000.0, 55e9)


def areas(made: Layout) -> list[int]:
    return [r.height * r.width for r in made.tiles()]


def assert_partitions(tiles: list[Region], height: int, width: int) -> None:
    seen = np.zeros((height, width), int)
    for r in tiles:
        assert r.height > 0 and r.width > 0
        seen[r.y0 : r.y1, r.x0 : r.x1] += 1
    assert (seen == 1).all()


@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(4, 40), st.integers(4, 40))
def test_tiles_partition_the_map_whatever_the_shares(
    data: st.DataObject, rows: int, cols: int, height: int, width: int
) -> None:
    wanted = data.draw(st.lists(st.floats(1e-3, 1.0), min_size=rows * cols, max_size=rows * cols))
    made = layout(height, width, cols, wanted, areas)
    assert_partitions(made.tiles(), height, width)
    assert_partitions(made.scaled(2 * height + 1, 3 * width).tiles(), 2 * height + 1, 3 * width)


@given(st.lists(st.floats(0.3, 1.0), min_size=6, max_size=6))
def test_on_a_large_map_work_is_in_proportion(wanted: list[float]) -> None:
    made = layout(1000, 1000, 3, wanted, areas)
    for area, share in zip(areas(made), wanted):
        assert area / 1e6 == pytest.approx(share / sum(wanted), rel=0.02)


def test_a_map_smaller_than_the_grid_is_refused() -> None:
    with pytest.raises(PlanError, match="leaves tiles empty"):
        layout(1, 10, 2, [1.0] * 4, areas)


@examples(20)
@given(
    st.lists(st.floats(0.2, 1.0), min_size=6, max_size=6),
    st.sampled_from([["max7"], ["max3", "max7"], ["max1", "conv5", "max7"]]),
)
def test_blocks_of_a_network_are_divided_by_shares_with_their_halos_counted(wanted: list[float], names: list[str]) -> None:
    cuts = [MINI.find(name) for name in names]
    tiler = Tiler(MINI)
    pieces = [(cut, Tiles(2, 3)) for cut in cuts]
    divided = tiler.divide(pieces, wanted)
    for cut, tiles in zip(cuts, divided, strict=True):
        for t in cut.tensors:
            _, height, width, _ = MINI.graph.tensors[t].shape
            assert_partitions([tile.outputs[t].region for tile in tiles], height, width)
    done = [work.effort for work in divided[-1]]
    even = [work.effort for work in tiler.divide(pieces)[-1]]

    def worst(work: list[int]) -> float:
        return max(flops / sum(work) / (share / sum(wanted)) for flops, share in zip(work, wanted))

    assert worst(done) <= max(worst(even), 1.0) + 1e-9


@pytest.mark.parametrize("cuts", [["conv9"], ["max3", "conv9"]])
def test_an_uneven_plan_has_the_bits_of_the_whole_model(tmp_path: Path, cuts: list[str]) -> None:
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini", 160).to_bytes())
    bundle = make_bundle(model, blocks=[(cut, Tiles(2, 3)) for cut in cuts], shares=(0.2, 0.05, 0.2, 0.15, 0.25, 0.15))
    assert bundle.plan.blocks[0].order[0] == 0  # the source's tile is taken first, the largest last
    efforts = [bundle.plan.blocks[0].tiles[i].effort for i in bundle.plan.blocks[0].order[1:]]
    assert efforts == sorted(efforts)
    assert not any(block.reuse for block in bundle.plan.blocks)
    image = np.random.default_rng(1).integers(0, 256, (1, 160, 160, 3), np.uint8)
    cut, outputs = Verifier(bundle).check(image)
    assert [d for d in (*cut, *outputs) if d.differing] == []


def test_work_is_as_asked_within_a_tenth_on_the_papers_network() -> None:
    partition = Partition(build("yolov2", 416, layers=16))
    tiler, wanted = Tiler(partition), (0.05, 0.2, 0.2, 0.15, 0.25, 0.15)
    done = [work.effort for work in tiler.divide([(partition.find("conv15"), Tiles(2, 3))], wanted)[0]]
    assert max(flops / sum(done) / share for flops, share in zip(done, wanted)) < 1.1


def test_shares_make_all_nodes_end_at_the_same_time() -> None:
    even = workload(((int(CORE_FLOPS_S / 10),) * 4,), (100_000,) * 4, (), (100_000,) * 4)
    cluster = replace(CLUSTER, speeds=(CORE_FLOPS_S / 2, CORE_FLOPS_S / 2, CORE_FLOPS_S / 4, CORE_FLOPS_S), per_picture_s=0.02)
    found = shares(cluster, even)
    assert found is not None and sum(found) == pytest.approx(1.0)
    assert found[2] < found[0] < found[1] < found[3]
    assert found[3] / found[1] == pytest.approx(2.0, rel=0.1)
    assert shares(cluster, replace(even, crops=(1,) * 5)) is None  # not a lane for each node


def test_a_node_that_is_slow_at_messages_gets_a_smaller_tile() -> None:
    even = workload(((int(CORE_FLOPS_S / 10),) * 4,), (100_000,) * 4, (), (100_000,) * 4)
    cluster = replace(CLUSTER, speeds=(CORE_FLOPS_S / 4,) * 4, message_speeds=(0.25, 0.25, 0.05, 1.0))
    found = shares(cluster, even)
    assert found is not None and found[2] < found[0] < found[1] < found[3] and sum(found) == pytest.approx(1.0)


@given(st.lists(st.floats(0.01, 1.0), min_size=6, max_size=6))
def test_a_node_that_is_too_slow_still_gets_a_little(speeds: list[float]) -> None:
    work = workload(((10**9,) * 6,), (100_000,) * 6, (), (10_000,) * 6)
    found = shares(replace(CLUSTER, speeds=tuple(CORE_FLOPS_S * s for s in speeds)), work)
    assert found is not None and min(found) >= 0.2 / 6


def test_the_planner_gives_a_slow_node_less_and_is_expected_to_gain_by_it() -> None:
    slow = replace(CLUSTER, speeds=(2e9, 2e9, 2e9, 2e9, 2e9, 0.7e9), gateway_flops_s=10e9, per_frame_s=1e-4, per_picture_s=1e-4,
                   per_lane_s=1e-4, per_message_s=1e-5, per_tile_s=1e-5)  # fmt: skip
    found = best_plan(MINI, slow)
    plans = sorted((found.best, *found.rivals), key=lambda choice: choice.prediction.latency_s)
    assert plans[0].shares and min(plans[0].shares) == plans[0].shares[5]
    even = workload(((10**9,) * 6,), (10,) * 6, (), (10,) * 6)
    uneven = workload((tuple(int(6e9 * s) for s in shares(slow, even) or ()),), (10,) * 6, (), (10,) * 6)
    assert Run(uneven, slow).latencies_s[0] < 0.6 * Run(even, slow).latencies_s[0]
