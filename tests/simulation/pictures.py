"""What every tensor of every frame holds in the simulation, so that a wrong, a mixed and a missing piece can be told.

The value of an element says which frame, tensor and place it belongs to. The engine of the simulation turns a tile's inputs
into its outputs only if each input element is the right one; the tail does the same with what was merged.
"""

from collections import OrderedDict
from collections.abc import Mapping
from zlib import crc32

import numpy as np

from models.graph.build import Network
from models.graph.file import parse
from models.planning.planner import BlockChoices, make_plan
from models.tiling.division import Filters, Tiles, Whole
from models.tiling.partition import Partition
from models.tiling.tensor import crop
from schemas.contract.plan import Plan, digest
from tests.nodes import small_plan

Tensors = Mapping[str, np.ndarray]
REMEMBERED = 64


THREE = (("conv0", Tiles(2, 2)), ("conv0+conv2", Tiles(2, 2)), ("conv4", Tiles(2, 2)))
ONE_WHOLE = (("conv0+conv2", Tiles(2, 2)), ("conv4", Whole()))
TWO_WHOLE = (("conv0", Tiles(2, 2)), ("conv0+conv1", Tiles(2, 2)), ("conv0+conv2", Whole()), ("end", Whole()))
FILTERS = (("conv0", Filters(2)), ("conv0+conv2", Filters(2)), ("conv4", Filters(3)))
PIPELINE = (("conv0", Whole()), ("conv0+conv2", Whole(1)), ("conv4", Whole(2)))
EVERYTHING = (("conv0", Tiles(2, 2)), ("conv0+conv1", Whole(1)), ("conv0+conv2", Tiles(3, 1)), ("conv4", Filters(2)))


def lanes_plan(blocks: BlockChoices = THREE) -> Plan:
    """A plan of several blocks with halo exchange between them; a skip connection passes those between by."""
    network = Network((16, 16, 3))
    for layer in (("conv", 16, 3, 1), ("conv", 16, 3, 1), ("conv", 16, 3, 1), ("route", -1, -3), ("conv", 24, 3, 1)):
        network.add(layer)
    partition = Partition(parse(network.graph().to_bytes()))
    plan, _, _ = make_plan(partition, "0" * 32, blocks=blocks)
    return plan.model_copy(update={"runtime": "test kernels"})


def _divided(plan: Plan) -> Plan:
    return plan.model_copy(update={"undivided": False})


def _reusing(plan: Plan) -> Plan:
    return plan.model_copy(update={"blocks": (plan.blocks[0].model_copy(update={"reuse": True}),)})


_SMALL = small_plan()
PLANS = {
    "one block": _divided(_SMALL),
    "undivided": _SMALL,
    "reuse": _reusing(_divided(_SMALL)),
    "three blocks": _divided(lanes_plan()),
    "three blocks, undivided": lanes_plan(),
    "whole end": _divided(lanes_plan(ONE_WHOLE)),
    "two blocks, two whole": _divided(lanes_plan(TWO_WHOLE)),
    "whole end, undivided": lanes_plan(ONE_WHOLE),
    "filters": _divided(lanes_plan(FILTERS)),
    "pipeline": _divided(lanes_plan(PIPELINE)),
    "everything": _divided(lanes_plan(EVERYTHING)),
}


class Pictures:
    """The tensors of every frame under one plan."""

    tile_s = 0.05

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        specs = [spec for block in plan.blocks for spec in (*block.inputs, *block.cut)]
        self._dtypes = {s.name: "uint8" if s.name == plan.pixels.tensor else s.dtype for s in specs}
        self._places = {
            s.name: (np.arange(int(np.prod(s.shape)), dtype=np.uint32) * 7 + crc32(s.name.encode()) % 1009).reshape(s.shape)
            for s in specs
        }
        self._known: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
        self._digests: OrderedDict[str, dict[str, str]] = OrderedDict()

    def whole(self, frame: str, tensor: str) -> np.ndarray:
        """A tensor of the frame, its whole map."""
        known = self._known.get((frame, tensor))
        if known is None:
            known = (self._places[tensor] + crc32(frame.encode()) % 65521).astype(self._dtypes[tensor])
            known.flags.writeable = False
            self._known[frame, tensor] = known
            if len(self._known) > REMEMBERED * len(self._places):
                self._known.popitem(last=False)
        return known

    def image(self, frame: str) -> np.ndarray:
        return self.whole(frame, self.plan.pixels.tensor)

    def compute(self, frame: str, block: int, tile: int, inputs: Tensors) -> dict[str, np.ndarray]:
        """The engine: a tile's outputs, if its inputs are right to the last element."""
        wanted = self.plan.blocks[block].by_home[tile]
        assert inputs.keys() == wanted.inputs.keys()
        for name, box in wanted.inputs.items():
            right = crop(self.whole(frame, name), box)
            assert np.array_equal(inputs[name], right), f"{name} of tile {tile}, block {block}, {frame} is wrong"
        return {name: crop(self.whole(frame, name), box) for name, box in wanted.outputs.items()}

    def compute_whole(self, frame: str, inputs: Tensors) -> dict[str, np.ndarray]:
        """The engine with an undivided frame: the last cut's whole maps."""
        assert np.array_equal(inputs[self.plan.pixels.tensor], self.image(frame))
        return self.maps(frame)

    def maps(self, frame: str) -> dict[str, np.ndarray]:
        """What the gateway must have merged."""
        return {spec.name: self.whole(frame, spec.name) for spec in self.plan.ends}

    def digests(self, frame: str) -> dict[str, str]:
        """What the frame's outcome must say."""
        known = self._digests.get(frame)
        if known is None:
            maps = self.maps(frame).items()
            known = {f"cut/{name}": digest(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data) for name, a in maps}
            self._digests[frame] = known
            if len(self._digests) > REMEMBERED:
                self._digests.popitem(last=False)
        return known
