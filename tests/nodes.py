"""A small plan and the messages of its nodes, for tests of both agents' decisions."""

from typing import Any

import numpy as np

from models.graph.build import Network
from models.graph.file import Graph, Op, Tensor, parse
from models.graph.tflite_schema import OPTIONS
from models.planning.planner import BlockChoices, make_plan
from models.tiling.division import Tiles, Whole
from models.tiling.partition import Partition
from schemas.contract import messages as m
from schemas.contract.plan import Plan
from schemas.contract.topics import Topic
from schemas.wire.codec import Incoming


def small_graph() -> Graph:
    """Two layers on 32x32 pixels."""
    network = Network((32, 32, 3))
    network.add(("conv", 4, 3, 1))
    network.add(("max", 2, 2))
    return parse(network.graph().to_bytes())


def small_plan(runtime: str = "test kernels") -> Plan:
    """A 2x2 plan of ``small_graph``: tiles of 9x9 pixels in at most 18x18 and 8x8x4 out."""
    plan, _, _ = make_plan(Partition(small_graph()), "0" * 32, (2, 2), "max1")
    return plan.model_copy(update={"runtime": runtime})


def blocks_plan(runtime: str = "test kernels") -> Plan:
    """A 2x3 plan of three blocks on 24x30 pixels; a skip connection passes the second block by."""
    network = Network((24, 30, 3))
    for layer in (("conv", 4, 3, 1), ("conv", 3, 3, 1), ("conv", 4, 3, 1), ("route", -1, -3), ("conv", 5, 3, 1)):
        network.add(layer)
    partition = Partition(parse(network.graph().to_bytes()))
    blocks = [(cut, Tiles(2, 3)) for cut in ("conv0", "conv0+conv2", "conv4")]
    plan, _, _ = make_plan(partition, "0" * 32, blocks=blocks)
    return plan.model_copy(update={"runtime": runtime})


def ended_graph() -> Graph:
    """Four layers on 24x30 pixels, a skip connection, and an end that no tile reaches: the mean of each channel."""
    network = Network((24, 30, 3))
    for layer in (("conv", 4, 3, 1), ("conv", 3, 3, 1), ("conv", 4, 3, 1), ("route", -1, -3), ("conv", 5, 3, 1)):
        network.add(layer)
    made = network.graph()
    (last,), axes = made.outputs, np.array([1, 2], np.int32)
    count = len(made.tensors)
    mean = Tensor("mean", (1, 5), "float32")
    tensors = [*made.tensors, Tensor("axes", (2,), "int32", None, axes.view(np.uint8)), mean]
    op = Op("MEAN", (last, count), (count + 1,), OPTIONS.index("Reducer"), {"keep_dims": False})
    return parse(Graph(tensors, [*made.ops, op], made.inputs, (count + 1,)).to_bytes())


WHOLE_BLOCKS = (("conv0", Tiles(2, 3)), ("conv0+conv1", Tiles(2, 3)), ("conv0+conv2", Whole()), ("end", Whole()))


def whole_plan(blocks: BlockChoices = WHOLE_BLOCKS, runtime: str = "test kernels") -> Plan:
    """A 2x3 plan of ``ended_graph``: two blocks of tiles, then two that are executed whole, to the model's end."""
    plan, _, _ = make_plan(Partition(ended_graph()), "0" * 32, blocks=blocks)
    return plan.model_copy(update={"runtime": runtime})


def heard(topic: Topic, message: m.Message, tensors: Any = None) -> Incoming:
    return Incoming(topic, {}, message, tensors or {})


def outputs(plan: Plan, tile: int, value: float = 0.0) -> dict[str, np.ndarray]:
    """What a worker would send for this tile: every element ``value``."""
    block = plan.blocks[0]
    boxes = block.tiles[tile].outputs
    return {spec.name: np.full(boxes[spec.name].shape, value, spec.dtype) for spec in block.cut}


def published(actions: Any, topic: Topic) -> list[Any]:
    """What was said on this topic."""
    return [a for a in actions if getattr(a, "topic", None) is topic]
