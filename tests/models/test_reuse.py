"""Tiles that give and take strips: whatever runs with them and whatever without, the map has the same bits."""

import functools
import random
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note
from hypothesis import strategies as st

from models.graph import file as graph
from models.graph.file import Graph
from models.graph.ops import VALID
from models.running import engine
from models.tiling.partition import Cut, Partition
from models.tiling.reuse import Place, Reuse, divide, is_first, neighbours, order
from models.tiling.rewrite import ends, signature, tile_graph
from models.tiling.tensor import crop
from schemas.contract.plan import Box, Region
from tests.examples import examples, share
from tests.models.sketch import Sketch, image_for, quantized, run, same_bits
from tests.models.test_random_graphs import draw_graph
from tests.paths import shared

GRIDS = st.tuples(st.integers(1, 5), st.integers(1, 5)).filter(lambda grid: grid != (1, 1))
INTERVALS = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted).filter(lambda x: x[0] < x[1])
REGIONS = st.builds(lambda y, x: Region(y[0], x[0], y[1], x[1]), INTERVALS, INTERVALS)
MODELS = (
    "deeplabv3_mnv2_dm05_pascal_quant",
    "mobilenet_v1_0.25_128_quant",
    "mobilenet_v2_1.0_224_quant",
    "movenet_single_pose_lightning_ptq",
    "tf2_mobilenet_v2_1.0_224_ptq",
    "traffic_model",
)


class Tiles:
    """The tiles of one cut at one grid, run one by one with strips or without."""

    def __init__(self, partition: Partition, cut: Cut, rows: int, cols: int, image: np.ndarray) -> None:
        self.partition, self.cut, self.image = partition, cut, image
        self.outputs = partition.tile_outputs(cut, rows, cols)
        self.reuse = Reuse(partition, cut.ops, self.outputs, rows, cols)
        self.maps = [np.zeros(partition.graph.tensors[t].shape, partition.graph.tensors[t].dtype) for t in cut.tensors]
        self.strips: dict[int, dict[Place, np.ndarray]] = {}
        self.taken = 0
        self._engines: dict[str, engine.Engine] = {}

    def run(self, tile: int, gives: bool = True, takes: bool = True) -> None:
        mine, work = self.strips.get(tile, {}), self.reuse.reduced(tile)
        if not takes or {place for place, _ in work.strips()} != mine.keys():
            work = self.reuse.alone(tile)
        self.taken += bool(work.taken)
        given = [t for t in (self.partition.image,) if t in work.held]
        pieces = self.reuse.pieces(tile) if gives else []
        made = tile_graph(self.partition, self.cut.ops, given, self.outputs[tile], work, pieces)
        arrays = [np.ascontiguousarray(crop(self.image, Box.tile(self.image.shape, work.held[t]))) for t in given]
        arrays += [mine[place] for place, _ in work.strips()]
        found = dict(zip(ends(self.outputs[tile], pieces), self._engine(made).run(arrays), strict=True))
        for whole, t in zip(self.maps, self.cut.tensors):
            crop(whole, Box.tile(whole.shape, self.outputs[tile][t]))[...] = found[t, self.outputs[tile][t]]
        if gives:
            for taker, places in self.reuse.gives(tile).items():
                strips = {(t, side): found[t, region] for (t, side), region in places.items()}
                self.strips.setdefault(taker, {}).update(strips)

    def _engine(self, tile: Graph) -> engine.Engine:
        key = signature(tile)
        if key not in self._engines:
            self._engines[key] = engine.load(tile.to_bytes())
        return self._engines[key]


def whole_maps(model: Graph, cut: Cut, image: np.ndarray) -> list[np.ndarray]:
    return run(Graph(model.tensors, model.ops, model.inputs, cut.tensors).pruned(), [image])


def assert_same(tiles: Tiles, whole: Sequence[np.ndarray]) -> None:
    for t, a, b in zip(tiles.cut.tensors, tiles.maps, whole, strict=True):
        assert same_bits(a, b), f"{tiles.cut.name}: {tiles.partition.graph.tensors[t].name}"


def chain(size: int = 24, dtype: str = "float32") -> Partition:
    """conv 3x3, pool 2x2, conv 3x3, conv 1x1."""
    net = Sketch((1, size, size, 3), dtype, None if dtype == "float32" else quantized(0.02, 5))
    x = net.pool("MAX_POOL_2D", net.conv(0, 4), (2, 2), (2, 2), 0)
    return Partition(net.graph(net.conv(net.conv(x, 4), 4, (1, 1))))


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_tiles_with_reuse_equal_the_whole_map(dtype: str) -> None:
    """In the plan's order, and in any order with any mix of tiles that give, take or do neither."""

    @examples(100, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        model = draw_graph(data, dtype)
        note(" ".join(f"{op.kind}{op.inputs}->{op.outputs}{op.options}" for op in model.ops))
        note(" ".join(f"{i}:{t.shape}" for i, t in enumerate(model.tensors)))
        partition, image, (rows, cols) = Partition(model), image_for(model), data.draw(GRIDS)
        for cut in partition.cuts:
            if any(m < n for t in cut.tensors for m, n in zip(model.tensors[t].shape[1:3], (rows, cols))):
                continue
            whole = whole_maps(model, cut, image)
            tiles = Tiles(partition, cut, rows, cols, image)
            for tile in order(rows, cols, [0] * rows * cols):
                tiles.run(tile)
            assert tiles.taken == sum(bool(tiles.reuse.reduced(i).taken) for i in range(rows * cols))
            assert_same(tiles, whole)
            mixed = Tiles(partition, cut, rows, cols, image)
            chosen = random.Random(data.draw(st.integers(0, 9)))
            for tile in chosen.sample(range(rows * cols), rows * cols):
                mixed.run(tile, gives=chosen.random() < 0.8, takes=chosen.random() < 0.8)
            assert_same(mixed, whole)

    check()


@pytest.mark.parametrize("name", share(MODELS, 2))
def test_real_models_keep_their_bits(name: str) -> None:
    model = graph.parse(shared(f"data/models/{name}.tflite").read_bytes())
    partition = Partition(model)
    image = image_for(Graph(model.tensors, model.ops, (partition.image,), ()))
    largest = [c for c in partition.cuts if min(n for t in c.tensors for n in model.tensors[t].shape[1:3]) >= 5]
    for cut in (largest[len(largest) // 2], largest[-1]):
        alone = Graph(model.tensors, model.ops, (partition.image,), cut.tensors).pruned()
        whole = run(alone, [image])
        for grid in ((2, 2), (3, 3), (5, 5)):
            tiles = Tiles(partition, cut, *grid, image)
            for tile in order(*grid, [0] * len(tiles.outputs)):
                tiles.run(tile)
            assert tiles.taken == len(tiles.outputs) // 2
            assert_same(tiles, whole)


@given(REGIONS, st.dictionaries(st.sampled_from(["left", "up", "down", "right"]), REGIONS))
def test_pieces_partition_a_region_and_each_is_one_that_its_neighbour_has(
    need: Region, lent: Mapping[str, Region]
) -> None:
    pieces = divide(need, lent)
    covered = np.zeros((9, 9), int)
    for region in [*pieces.strips.values(), *([pieces.own] if pieces.own else [])]:
        covered[region.y0 : region.y1, region.x0 : region.x1] += 1
    wanted = np.zeros((9, 9), int)
    wanted[need.y0 : need.y1, need.x0 : need.x1] = 1
    assert (covered == wanted).all()
    assert all(region.common(lent[side]) == region for side, region in pieces.strips.items())


def test_left_and_right_strips_have_the_full_height_and_up_and_down_the_middle() -> None:
    pieces = divide(Region(0, 0, 10, 10), {
        "left": Region(0, -5, 10, 2), "up": Region(-5, 0, 3, 10), "down": Region(8, 0, 15, 10), "right": Region(0, 9, 10, 15),
    })  # fmt: skip
    assert pieces == (
        Region(3, 2, 8, 9),
        Region(0, 0, 10, 2),
        Region(0, 2, 3, 9),
        Region(8, 2, 10, 9),
        Region(0, 9, 10, 10),
    )


@given(GRIDS, st.randoms())
def test_order_names_every_tile_once_and_givers_before_takers(grid: tuple[int, int], chosen: random.Random) -> None:
    rows, cols = grid
    classes = [chosen.randrange(4) for _ in range(rows * cols)]
    found = order(rows, cols, classes)
    assert sorted(found) == list(range(rows * cols))
    levels = [is_first(*divmod(tile, cols)) for tile in found]
    assert levels == sorted(levels, reverse=True)
    ranks = [(level, len(neighbours(t, rows, cols)), classes[t]) for level, t in zip(levels, found)]
    assert len([a for a, b in zip(ranks, ranks[1:]) if a != b]) == len(set(ranks)) - 1  # one class in one go


@given(GRIDS)
def test_tiles_of_the_first_level_share_no_border(grid: tuple[int, int]) -> None:
    rows, cols = grid
    for tile in range(rows * cols):
        for other in neighbours(tile, rows, cols).values():
            assert is_first(*divmod(tile, cols)) != is_first(*divmod(other, cols))


def test_strips_are_taken_only_where_a_kernel_reaches_over_its_stride() -> None:
    partition = chain()
    model, cut = partition.graph, partition.cuts[-1]
    reuse = Reuse(partition, cut.ops, partition.tile_outputs(cut, 2, 2), 2, 2)
    kinds = {model.ops[model.producer[t]].kind for (t, _), _ in reuse.reduced(1).strips()}
    assert kinds == {"MAX_POOL_2D"}


def test_what_is_made_of_the_image_without_a_window_is_made_again() -> None:
    net = Sketch((1, 16, 16, 3))
    partition = Partition(net.graph(net.conv(net.unary("RELU", 0), 4)))
    reuse = Reuse(partition, partition.cuts[-1].ops, partition.tile_outputs(partition.cuts[-1], 2, 2), 2, 2)
    assert all(not reuse.reduced(tile).taken and not reuse.gives(tile) for tile in range(4))


def test_operators_whose_results_the_neighbours_have_are_dropped() -> None:
    net = Sketch((1, 25, 25, 3))
    x = functools.reduce(lambda x, _: net.conv(x, 4), range(6), 0)
    partition = Partition(net.graph(x))
    reuse = Reuse(partition, partition.cuts[-1].ops, partition.tile_outputs(partition.cuts[-1], 5, 5), 5, 5)
    work = reuse.reduced(7)
    assert 0 not in work.made and partition.image not in work.held
    assert len(reuse.alone(7).made) == 6


def test_reuse_computes_less_and_reads_less_of_the_image() -> None:
    partition = chain(48)
    cut = partition.cuts[-1]
    reuse = Reuse(partition, cut.ops, partition.tile_outputs(cut, 3, 3), 3, 3)
    alone, less = reuse.alone(1), reuse.reduced(1)
    image = partition.image
    assert less.held[image].hull(alone.held[image]) == alone.held[image] != less.held[image]
    assert partition.flops(cut.ops, less.held) < partition.flops(cut.ops, alone.held)


def test_a_tile_computes_a_part_of_each_output_itself() -> None:
    net = Sketch((1, 5, 25, 3))
    first = net.conv(0, 4)
    last = functools.reduce(lambda x, _: net.conv(x, 4), range(6), first)
    model = net.graph(first, last)
    partition, image = Partition(model), image_for(model)
    cut = next(cut for cut in partition.cuts if cut.tensors == (first, last))
    tiles = Tiles(partition, cut, 1, 5, image)
    for tile in order(1, 5, [0] * 5):
        tiles.run(tile)
        assert model.producer[first] in tiles.reuse.reduced(tile).made
    assert tiles.taken == 2
    assert_same(tiles, whole_maps(model, cut, image))


def test_a_pool_that_must_grow_stays_within_what_the_tile_received() -> None:
    """An average pool computes two pixels where one is needed; here the second lies beyond the tile's own crop."""
    net = Sketch((1, 3, 10, 3))
    x = net.pool("AVERAGE_POOL_2D", 0, (3, 3), (1, 1), VALID)
    model = net.graph(net.conv(net.conv(x, 4, (1, 1), (2, 2), padding=VALID), 4))
    partition, image = Partition(model), image_for(model)
    cut = partition.cuts[-1]
    tiles = Tiles(partition, cut, 1, 2, image)
    tiles.run(0)
    tiles.run(1)
    alone, less = tiles.reuse.alone(1).held[0], tiles.reuse.reduced(1).held[0]
    assert tiles.taken == 1
    assert alone.hull(less) == alone
    assert_same(tiles, whole_maps(model, cut, image))
