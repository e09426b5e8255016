"""A cluster as the planner sees it, and what a frame asks of it: numbers only, from measurements and from a plan."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

Task: TypeAlias = tuple[int, int]  # block and lane

HOPS = 2  # sender -> broker -> receiver
ENDS = 2  # that pack and unpack
PACKED_BYTES = 4096  # smaller tensors are not packed
CORE_FLOPS_S = 220e9  # of the reference core, on which the seconds below were measured
HEADER_BYTES = 300
RUNTIME_BYTES = 15_000_000  # what an edge grows by beside weights and tensors once it runs (python -m bench.memory --plan)


@dataclass(frozen=True)
class Cluster:
    """Edges (the sources first), a gateway that hosts the broker, and links of ``rate_mbit`` Mbit/s up and down each; with
    ``radio`` one channel of that rate for all of them, which everything crosses twice, to the access point and from it.

    ``speeds`` are effort a second of each edge: FLOP/s of large float32 convolutions. ``message_speeds`` are how fast each
    handles messages, pictures and all else that is not in the engine, the reference core's being 1, and
    ``gateway_message_speed`` is the gateway's; not known (none, or 0 of one), a host is taken to be a share of the reference
    core, which slows both alike. ``memory_bytes`` is what an edge may use at most, ``budgets`` of those that differ by name.
    Each end of a message takes ``per_message_s`` and ``per_byte_s``, the broker (mosquitto) ``broker_message_s`` and
    ``broker_byte_s`` on each side; ``per_tile_s`` starts a tile, ``per_lane_s`` the first of a lane (it must be asked for,
    leased, accepted), ``per_frame_s`` divides a picture; ``per_picture_s`` takes the next one while the source waits or, at
    an equal share, computes; ``per_outcome_s`` ends a frame: all seconds of the reference core. A host that has a share of a
    core has it in slices of ``slice_s``; 0: hosts have processors of their own.
    ``round_trip_s`` is the network's. Packed, pixels and maps have these shares of their bytes; a byte costs the sender
    ``pack_byte_s`` and the receiver as much, and where links are too fast for that to pay nothing is packed.
    ``direct``: tiles and parts of ``straight_bytes`` or more go from edge to edge without the broker, for
    ``straight_message_s`` an end.
    """

    speeds: tuple[float, ...]
    rate_mbit: float
    gateway_flops_s: float
    message_speeds: tuple[float, ...] = ()
    gateway_message_speed: float = 0.0
    memory_bytes: int | None = None
    budgets: Mapping[str, int] = field(default_factory=dict)
    runtime_bytes: int = RUNTIME_BYTES
    sources: int = 1
    window: int = 1
    round_trip_s: float = 0.001
    per_message_s: float = 0.00045
    per_byte_s: float = 0.6e-9
    broker_message_s: float = 0.00004
    broker_byte_s: float = 0.1e-9
    per_tile_s: float = 0.001
    per_lane_s: float = 0.005
    per_frame_s: float = 0.006
    per_picture_s: float = 0.012
    per_outcome_s: float = 0.003
    slice_s: float = 0.02
    packed_pixels: float = 0.5
    packed_maps: float = 0.75
    pack_byte_s: float = 1.8e-9
    direct: bool = False
    straight_bytes: int = 4096
    straight_message_s: float = 0.00013
    radio: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether an edge may not use what memory it likes."""
        return self.memory_bytes is not None or bool(self.budgets)

    def budget(self, edge: str) -> int | None:
        """What an edge (``edge1`` is the first) may use at most; None: as much as it likes."""
        return self.budgets.get(edge, self.memory_bytes)

    @property
    def nodes(self) -> int:
        return len(self.speeds)

    @functools.cached_property
    def edge_message_speeds(self) -> tuple[float, ...]:
        """``message_speeds``, those that are not known by the edge's speed."""
        told = self.message_speeds or (0.0,) * self.nodes
        return tuple(_message_speed(*both) for both in zip(told, self.speeds, strict=True))

    @property
    def gateways_message_speed(self) -> float:
        """As above, of the gateway."""
        return _message_speed(self.gateway_message_speed, self.gateway_flops_s)

    @property
    def bytes_s(self) -> float:
        return self.rate_mbit * 1e6 / 8

    def is_straight(self, count: int) -> bool:
        """Whether a tensor of so many bytes goes from edge to edge without the broker."""
        return self.direct and count >= self.straight_bytes

    def packed(self, count: int, are_pixels: bool, hops: int = HOPS) -> int:
        """Bytes on the wire of a tensor of so many bytes, which crosses it ``hops`` times."""
        share = self.packed_pixels if are_pixels else self.packed_maps
        pack_s = self.pack_byte_s / min(self.edge_message_speeds)
        pays = ENDS * pack_s < hops * (1 - share) / self.bytes_s  # of a channel that is not crowded
        return int(count * share) if pays and count >= PACKED_BYTES else count


def _message_speed(told: float, flops_s: float) -> float:
    return told or min(flops_s / CORE_FLOPS_S, 1.0)  # more threads make no message faster


class Saving(NamedTuple):
    """What a tile is spared where all of ``makers`` have run before: operations, and their effort."""

    makers: frozenset[int]
    flops: int
    effort: int


@dataclass(frozen=True)
class Workload:
    """What a frame asks of a cluster: the effort of each task (block, lane), and bytes between them.

    ``crops``: bytes of each lane's pixels; ``results``: what the gateway gets of tasks that answer. ``gives``: the bytes that
    a task gives to each lane, its own among them; ``needs``: the tasks that one waits for. Where tiles reuse what others of the
    same node have made, ``savings`` has those that do, and ``order`` the sequence in which a node takes them.
    """

    effort: Mapping[Task, int]
    crops: tuple[int, ...]
    gives: Mapping[Task, Mapping[int, int]]
    needs: Mapping[Task, frozenset[Task]]
    results: Mapping[Task, int]
    tail_effort: int = 0
    savings: Mapping[int, Saving] = field(default_factory=dict)
    order: tuple[int, ...] = ()

    @property
    def lanes(self) -> int:
        return len(self.crops)

    @functools.cached_property
    def steps(self) -> tuple[tuple[int, ...], ...]:
        """The blocks that each lane has a task of, in order."""
        return tuple(tuple(sorted(b for b, own in self.effort if own == lane)) for lane in range(self.lanes))


def is_whole(cluster: Cluster) -> bool:
    """Whether sources do not divide their frames: fewer helpers than sources."""
    return cluster.nodes - cluster.sources < cluster.sources and cluster.sources > 1


def undivided(work: Workload, effort: int, result: int) -> Workload:
    """The same frame on its source alone: ``effort`` and ``result`` bytes for the gateway."""
    return Workload({(0, 0): effort}, (0,), {(0, 0): {}}, {(0, 0): frozenset()}, {(0, 0): result}, work.tail_effort)
