"""Several blocks: tiles partition every cut, lines move no byte more than they must, and what passes a block by stays."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.graph.build import build
from models.graph.ops import SAME
from models.planning.planner import fused_blocks
from models.tiling.division import Tiler, Tiles, live_bytes, peak_memory
from models.tiling.layout import between
from models.tiling.partition import Cut, Partition
from models.tiling.rewrite import tile_graph
from schemas.contract.errors import PlanError
from schemas.contract.plan import Region
from tests.models.sketch import Sketch

MINI = Partition(build("mini", 160))
CHAIN = [MINI.find(name) for name in ("max1", "max3", "conv5", "max7", "conv9")]


def area(region: Region) -> int:
    return region.height * region.width


def halo(partition: Partition, cuts: Sequence[Cut], tiles: Sequence[Sequence[dict[int, Region]]]) -> int:
    """Elements that tiles need of what other tiles have made."""
    moved = 0
    for span, before, after in zip(Tiler(partition).spans(cuts)[1:], tiles, tiles[1:]):
        for own, outputs in zip(before, after, strict=True):
            need = {t: box.region for t, box in Tiler(partition).work(span, outputs).inputs.items()}
            common = {t: own[t].common(region) for t, region in need.items()}
            moved += sum(area(r) - (area(met) if (met := common[t]) else 0) for t, r in need.items())
    return moved


def divided(tiler: Tiler, cuts: Sequence[Cut], grid: tuple[int, int]) -> list[list[dict[int, Region]]]:
    """The output regions of every tile of every block."""
    works = tiler.divide([(cut, Tiles(*grid)) for cut in cuts])
    return [[{t: box.region for t, box in work.outputs.items()} for work in block] for block in works]


@given(st.sets(st.integers(0, 4), min_size=1), st.integers(1, 4), st.integers(1, 4))
def test_tiles_partition_every_map_of_every_cut(chosen: set[int], rows: int, cols: int) -> None:
    cuts = [CHAIN[i] for i in sorted(chosen)]
    for cut, tiles in zip(cuts, divided(Tiler(MINI), cuts, (rows, cols)), strict=True):
        for t in cut.tensors:
            _, height, width, _ = MINI.graph.tensors[t].shape
            assert sum(area(tile[t]) for tile in tiles) == height * width
            assert all(a is b or a[t].common(b[t]) is None for a in tiles for b in tiles)
            assert all(tile[t].height > 0 and tile[t].width > 0 for tile in tiles)


@pytest.mark.parametrize("grid", [(2, 3), (3, 3), (1, 4)])
def test_no_line_costs_halo_that_another_place_for_it_would_save(grid: tuple[int, int]) -> None:
    """The need of neighbours meets or overlaps wherever a line lies: moving it one pixel never saves an element."""
    tiler, cuts = Tiler(MINI), CHAIN[1:4]
    tiles = divided(tiler, cuts, grid)
    least = halo(MINI, cuts, tiles)
    for by in (-1, 1):
        for axis in (0, 1):
            moved = [[{t: shifted(tile[t], by, axis, maps(cuts[0])) for t in tile} for tile in tiles[0]], *tiles[1:]]
            assert halo(MINI, cuts, moved) >= least


def maps(cut: Cut) -> tuple[int, int]:
    _, height, width, _ = MINI.graph.tensors[cut.tensors[0]].shape
    return height, width


def shifted(region: Region, by: int, axis: int, size: tuple[int, int]) -> Region:
    """The region with its inner borders along one axis moved."""
    ends = list(region)
    for i in (axis, axis + 2):
        ends[i] += by if 0 < ends[i] < size[axis] else 0
    return Region(*ends)


def test_more_blocks_mean_less_redundant_work_on_the_same_cut() -> None:
    whole = MINI.flops(CHAIN[-1].ops)
    done = []
    for cuts in (CHAIN[-1:], [CHAIN[2], CHAIN[4]], CHAIN):
        blocks = fused_blocks(Tiler(MINI), [(cut, Tiles(2, 3)) for cut in cuts], classes=False)
        done.append(sum(tile.flops for block in blocks for tile in block.tiles) / whole)
    assert done[0] > done[1] > done[2] >= 1


def skipping() -> tuple[Partition, list[Cut]]:
    """A map ``skip`` that is needed again after two more layers, so that it passes a block by."""
    net = Sketch((1, 24, 24, 3))
    skip = net.conv(0, 4, (3, 3), (1, 1), padding=SAME)
    x = net.conv(skip, 5, (3, 3), (2, 2), padding=SAME)
    y = net.conv(x, 6, (3, 3), (1, 1), padding=SAME)
    partition = Partition(net.graph(skip, y))
    return partition, [cut for cut in partition.cuts if len(cut.ops) in (1, 2, 3)]


def test_a_tensor_that_passes_blocks_by_is_given_once_and_divided_as_its_next_reader_needs_it() -> None:
    partition, cuts = skipping()
    assert [len(cut.tensors) for cut in cuts] == [1, 2, 2]
    blocks = fused_blocks(Tiler(partition), [(cut, Tiles(2, 2)) for cut in cuts])
    skip = blocks[0].cut[0].name
    assert [[spec.name for spec in block.cut].count(skip) for block in blocks] == [1, 0, 0]
    assert [spec.name for spec in blocks[1].inputs] == [skip] and skip not in {spec.name for spec in blocks[2].inputs}
    for made, taken in zip(blocks[0].tiles, blocks[1].tiles):
        assert made.outputs[skip].common(taken.inputs[skip]) == made.outputs[skip]


def test_a_grid_that_leaves_tiles_empty_at_any_cut_is_refused() -> None:
    with pytest.raises(PlanError, match="a 41x1 grid leaves tiles empty"):
        divided(Tiler(MINI), [CHAIN[1], CHAIN[2]], (41, 1))


def test_a_line_moves_into_what_both_neighbours_need_and_no_strip_is_emptied() -> None:
    assert between((0, 5, 10), [(0, 7), (6, 10)]) == (0, 6, 10)
    assert between((0, 9, 10), [(0, 7), (6, 10)]) == (0, 7, 10)
    assert between((0, 5, 10), [(0, 4), (7, 10)]) == (0, 5, 10)  # a gap that nobody needs
    assert between((0, 3, 6, 9), [(0, 2), (0, 1), (0, 9)]) == (0, 3, 6, 9)


def test_live_bytes_of_a_tile_are_those_of_its_graph_without_padding() -> None:
    """A tile in the middle of the map has no padding, so its graph holds the same maps."""
    cut = CHAIN[2]
    outputs = {cut.tensors[0]: Region(15, 15, 25, 26)}
    regions = MINI.regions(cut.ops, outputs)
    graph = tile_graph(MINI, cut.ops, [MINI.image], outputs)
    assert live_bytes(MINI.graph, cut.ops, regions, list(outputs)) == peak_memory(graph)
