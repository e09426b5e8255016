"""Regions of many tiles at once are those of each, and figures of large graphs cost few of them."""

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from models.graph.file import Graph
from models.graph.ops import VALID
from models.tiling.extents import Tables, extents
from models.tiling.partition import Partition
from schemas.contract.plan import Region
from tests.examples import examples
from tests.models.sketch import RELU, Sketch
from tests.models.test_random_graphs import draw_graph


def drawn_region(data: st.DataObject, shape: tuple[int, ...]) -> Region:
    (y0, y1), (x0, x1) = (sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in shape[1:3])
    return Region(y0, x0, y1, x1)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_many_regions_are_what_the_rules_give_one_by_one(dtype: str) -> None:
    @examples(150, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        partition = Partition(draw_graph(data, dtype))
        cut = data.draw(st.sampled_from(partition.cuts))
        shapes = {t: partition.graph.tensors[t].shape for t in cut.tensors}
        tiles = [{t: drawn_region(data, shape) for t, shape in shapes.items()} for _ in range(3)]
        many = Tables(partition.graph).regions(cut.ops, {t: extents([tile[t] for tile in tiles]) for t in shapes})
        for i, tile in enumerate(tiles):
            got = {t: (y0, x0, -y1, -x1) for t, (y0, x0, y1, x1) in ((t, found[:, i]) for t, found in many.items())}
            regions = partition.regions(cut.ops, tile)
            assert got == {t: tuple(region) for t, region in regions.items()}
        whole = [partition.flops(cut.ops, partition.regions(cut.ops, tile)) for tile in tiles]
        assert partition._flops_of_each(cut.ops, {t: extents([tile[t] for tile in tiles]) for t in shapes}) == whole

    check()


def densenet(blocks: tuple[int, ...], growth: int) -> Graph:
    """Every layer of a block reads all that came before it in the block."""
    net = Sketch((1, 64, 64, 3))
    x = net.conv(0, 8, (7, 7), (2, 2), activation=RELU)
    for count in blocks:
        for _ in range(count):
            x = net.concat(x, net.conv(net.conv(x, 2 * growth, (1, 1), activation=RELU), growth))
        x = net.pool("AVERAGE_POOL_2D", net.conv(x, net.shape(x)[3] // 2, (1, 1)), (2, 2), (2, 2), VALID)
    return net.graph()


def test_redundancies_of_a_deep_graph_ask_each_rule_once_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    partition, asked = Partition(densenet((6, 12, 12), 4)), 0
    one_by_one = Partition.regions

    def regions(*given: object) -> object:
        nonlocal asked
        asked += 1
        return one_by_one(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Partition, "regions", regions)
    found = [partition.redundancies(cut, [(2, 2), (3, 3), (99, 1)]) for cut in partition.cuts]
    assert len(found) > 90 and asked == 0
    assert all(1 <= two <= three and none is None for two, three, none in found if two and three)
    cut = partition.cuts[-1]
    tiles = partition.tile_outputs(cut, 3, 3)
    exact = sum(partition.flops(cut.ops, one_by_one(partition, cut.ops, tile)) for tile in tiles)
    assert found[-1][1] == exact / partition.flops(cut.ops)
