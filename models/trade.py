"""What the tiles of a block with reuse give each other, what it weighs and what it saves: enough to decide without the model.

It follows from plan and model alone, so that giver, taker and pool agree without a word. Law: strips travel only where they
save more seconds of an engine than they cost: on the link, where each byte goes up to the broker and down again, and on the
processors of maker, pool and taker.
"""

import functools
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from models.cluster import CORE_FLOPS_S, Cluster
from models.partition import Partition
from models.reuse import Reuse, neighbours
from models.tensor import part_bytes, part_shape
from schemas.errors import DecodeError
from schemas.packing import HOPS
from schemas.plan import Block, Region, TensorSpec

MOST_STRIPS = 64  # tensors that one message carries

Tensors: TypeAlias = Mapping[str, np.ndarray]


class Strip(NamedTuple):
    """A part of a tensor that one tile makes and another one takes."""

    spec: TensorSpec
    region: Region


@dataclass(frozen=True)
class Trade:
    """``strips`` by taker, maker and tensor; ``saved``: the effort that a taker is spared if it has all of its strips.

    ``message_effort``: what an engine does while a strip is sent, passed on and taken.
    """

    strips: Mapping[int, Mapping[int, Mapping[str, Strip]]] = field(default_factory=dict)
    saved: Mapping[int, int] = field(default_factory=dict)
    message_effort: int = int(3 * Cluster.per_message_s * CORE_FLOPS_S)

    def makers(self, taker: int) -> Set[int]:
        """The tiles that give strips to ``taker``."""
        return self.strips.get(taker, {}).keys()

    def takers(self, maker: int) -> list[int]:
        """The tiles that take strips of ``maker``."""
        return [taker for taker, makers in self.strips.items() if maker in makers]

    def bytes(self, taker: int) -> int:
        """Bytes of all strips for ``taker``."""
        return self._bytes[taker]

    @functools.cached_property
    def _bytes(self) -> dict[int, int]:
        return {
            taker: sum(part_bytes(*strip) for strips in makers.values() for strip in strips.values())
            for taker, makers in self.strips.items()
        }

    def pays(self, taker: int, flops_s: float, bytes_s: float) -> bool:
        """Whether ``taker`` gains on an engine and a link of so much a second (0: not known) by strips that travel."""
        if taker not in self.strips or flops_s <= 0 or bytes_s <= 0:
            return False
        saved = self.saved[taker] - len(self.makers(taker)) * self.message_effort
        return HOPS * self.bytes(taker) / bytes_s < saved / flops_s

    def check(self, taker: int, maker: int, tensors: Tensors) -> None:
        """Whether ``tensors`` are what ``maker`` gives to ``taker``: names, shapes and dtypes.

        Raises:
            DecodeError: they are not, or it gives nothing.
        """
        strips = self.strips.get(taker, {}).get(maker)
        if strips is None:
            raise DecodeError(f"tile {maker} gives no strips to tile {taker}")
        wanted = {name: (part_shape(*strip), strip.spec.dtype) for name, strip in strips.items()}
        given = {name: (array.shape, str(array.dtype)) for name, array in tensors.items()}
        if given != wanted:
            raise DecodeError(f"strips of tile {maker} for tile {taker} are {given}, not {wanted}"[:300])


NO_TRADE = Trade()


def _fits(strips: Collection[Strip], block: Block) -> bool:
    """Whether they go into one message: brokers are told of whole maps, and of none larger."""
    largest = max(sum(_whole_bytes(spec) for spec in specs) for specs in (block.inputs, block.cut))
    return len(strips) <= MOST_STRIPS and sum(part_bytes(*strip) for strip in strips) <= largest


def _whole_bytes(spec: TensorSpec) -> int:
    return part_bytes(spec, Region(0, 0, *spec.shape[1:3]))


def trade(partition: Partition, block: Block, reuse: Reuse) -> Trade:
    """The trade of a block whose tiles are those of ``reuse``."""
    tensors, strips, saved = partition.graph.tensors, dict[int, dict[int, dict[str, Strip]]](), dict[int, int]()
    for taker in range(len(block.tiles)):
        work, sides = reuse.reduced(taker), neighbours(taker, block.rows, block.cols)
        found: dict[int, dict[str, Strip]] = {}
        for (t, side), region in work.strips():
            spec = TensorSpec(name=tensors[t].name, shape=tensors[t].shape, dtype=tensors[t].dtype)
            found.setdefault(sides[side], {})[spec.name] = Strip(spec, region)
        if found and all(_fits(strips_of.values(), block) for strips_of in found.values()):
            strips[taker] = dict(sorted(found.items()))
            saved[taker] = reuse.saved(taker)[1]
    return Trade(strips, saved)
