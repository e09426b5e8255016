"""A small plan and the messages of its nodes, for tests of both agents' decisions."""

from typing import Any

import numpy as np

from models.build import Network
from models.graph import Graph, parse
from models.partition import Partition
from models.planner import make_plan
from schemas import messages as m
from schemas.codec import Incoming
from schemas.plan import Plan
from schemas.topics import Topic


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
    blocks = [(cut, (2, 3)) for cut in ("conv0", "conv0+conv2", "conv4")]
    plan, _, _ = make_plan(partition, "0" * 32, blocks=blocks)
    return plan.model_copy(update={"runtime": runtime})


def heard(topic: Topic, message: m.Message, tensors: Any = None) -> Incoming:
    return Incoming(topic, {}, message, tensors or {})


def outputs(plan: Plan, tile: int, value: float = 0.0) -> dict[str, np.ndarray]:
    """What a worker would send for this tile: every element ``value``."""
    block = plan.blocks[0]
    regions = block.tiles[tile].outputs
    return {
        spec.name: np.full((1, regions[spec.name].height, regions[spec.name].width, spec.shape[3]), value, spec.dtype)
        for spec in block.cut
    }


def published(actions: Any, topic: Topic) -> list[Any]:
    """What was said on this topic."""
    return [a for a in actions if getattr(a, "topic", None) is topic]
