import pytest

from bench.cluster import baseline
from models.graph.build import build
from models.planning.cluster import Cluster
from models.planning.cost import predict
from models.planning.planner import make_plan
from models.tiling.partition import Partition

CLUSTER = Cluster((10e9,) * 4, 100.0, 10e9, window=8)


def test_lop_divides_every_layer_with_enough_filters_among_all_nodes() -> None:
    partition = Partition(build("mini", 160))
    plan, _, _ = make_plan(partition, "0" * 32, blocks=baseline("lop", partition, CLUSTER))
    sizes = [len(block.tiles) for block in plan.blocks if block.split == "filters"]
    assert len(sizes) >= 10 and set(sizes) <= {2, 4} and sizes.count(4) > len(sizes) / 2


@pytest.mark.parametrize("nodes", [2, 4])
def test_a_simple_pipeline_has_one_stage_on_each_node_with_as_many_layers(nodes: int) -> None:
    partition = Partition(build("mini", 160))
    cluster = Cluster((10e9,) * nodes, 100.0, 10e9, window=8)
    plan, _, _ = make_plan(partition, "0" * 32, blocks=baseline("pipeline-simple", partition, cluster))
    assert [(block.split, block.tiles[0].home) for block in plan.blocks] == [("whole", i) for i in range(nodes)]
    assert predict(partition, plan, cluster).throughput_fps > 0
