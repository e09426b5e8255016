"""Workloads of tiles that go through blocks one after another, as tests write them down."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from models.planning.cluster import Workload


class Exchange(NamedTuple):
    """Bytes that the tile ``maker`` of a block gives to the tile ``taker`` of the next one."""

    maker: int
    taker: int
    size: int


def workload(
    effort: Sequence[Sequence[int]],
    crops: tuple[int, ...],
    exchanges: Sequence[Sequence[Exchange]],
    results: Sequence[int],
    tail_effort: int = 0,
    **more: Any,
) -> Workload:
    """``effort`` of each tile of each block, ``exchanges`` behind each but the last, whose tiles give ``results``."""
    tasks = {(block, lane): price for block, prices in enumerate(effort) for lane, price in enumerate(prices)}
    gives: dict[tuple[int, int], dict[int, int]] = {task: {} for task in tasks}
    needs: dict[tuple[int, int], set[tuple[int, int]]] = {task: set() for task in tasks}
    for block, parts in enumerate(exchanges):
        for maker, taker, size in parts:
            gives[block, maker][taker] = size
            needs[block + 1, taker].add((block, maker))
    last = len(effort) - 1
    answers = {(last, lane): size for lane, size in enumerate(results)}
    return Workload(tasks, crops, gives, {task: frozenset(of) for task, of in needs.items()}, answers, tail_effort, **more)
