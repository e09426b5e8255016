"""Tiles of uneven work, for nodes of uneven speed or with other things to do: a source that takes and sends pictures.

The rows of a grid are as high as their tiles' shares ask, and each row has its own columns, so that any shares can be had.
Law: whatever the shares, the tiles of a cut partition each of its maps and none is empty.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from models.cluster import CORE_FLOPS_S, Cluster, Workload
from schemas.errors import PlanError
from schemas.plan import Region

_ROUNDS = 6
_DAMPING = 0.8  # of each correction
_LEAST = 0.2  # of an even share: less is not worth a message

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """Borders of the rows, and of the columns of each row, from 0 to the map's size."""

    rows: tuple[int, ...]
    cols: tuple[tuple[int, ...], ...]

    def scaled(self, height: int, width: int) -> "Layout":
        """The same on a map of another size, which is no smaller."""
        return Layout(_scale(self.rows, height), tuple(_scale(row, width) for row in self.cols))

    def tiles(self) -> list[Region]:
        """The regions, row by row."""
        return [
            Region(y0, x0, y1, x1)
            for y0, y1, row in zip(self.rows, self.rows[1:], self.cols)
            for x0, x1 in zip(row, row[1:])
        ]


def layout(
    height: int, width: int, cols: int, shares: Sequence[float], work: Callable[[Layout], Sequence[int]]
) -> Layout:
    """Divides a map so that the tiles' ``work`` is in proportion to ``shares`` (row by row), as well as pixels allow.

    Raises:
        PlanError: the map has fewer rows or columns than the grid.
    """
    rows = len(shares) // cols
    if rows > height or cols > width:
        raise PlanError(f"a {rows}x{cols} grid leaves tiles empty: the map is {height}x{width}")
    wanted = [share / sum(shares) for share in shares]
    parts, best = list(wanted), (float("inf"), Layout((), ()))
    for _ in range(_ROUNDS):
        made = _laid(height, width, cols, parts)
        done = work(made)
        off = [count / max(sum(done), 1) / want for count, want in zip(done, wanted)]
        best = min(best, (max(count / want for count, want in zip(done, wanted)), made))
        parts = [part / max(ratio, 1e-6) ** _DAMPING for part, ratio in zip(parts, off)]
    return best[1]


def _laid(height: int, width: int, cols: int, parts: Sequence[float]) -> Layout:
    """Rows by the sums of their parts, columns by the parts in each row."""
    rows = [parts[i : i + cols] for i in range(0, len(parts), cols)]
    return Layout(_lines([sum(row) for row in rows], height), tuple(_lines(row, width) for row in rows))


def _lines(parts: Sequence[float], size: int) -> tuple[int, ...]:
    """Borders of strips in proportion to ``parts``, each at least one pixel."""
    whole, found = sum(parts), [0]
    for i, done in enumerate(accumulate(parts), 1):
        line = size if i == len(parts) else round(size * done / whole)
        found.append(min(max(line, found[-1] + 1), size - len(parts) + i))
    return tuple(found)


def _scale(lines: Sequence[int], size: int) -> tuple[int, ...]:
    return tuple(line * size // lines[-1] for line in lines)


def moved(own: Layout, needs: Sequence[Region]) -> Layout:
    """``own``, its lines where they divide what the next block's tiles need with as little halo as can be."""
    cols = len(own.cols[0]) - 1
    rows = [needs[i : i + cols] for i in range(0, len(needs), cols)]
    spans = [(min(n.y0 for n in row), max(n.y1 for n in row)) for row in rows]
    columns = tuple(between(lines, [(n.x0, n.x1) for n in row]) for lines, row in zip(own.cols, rows))
    return Layout(between(own.rows, spans), columns)


def between(lines: tuple[int, ...], spans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Each inner line moved to between the start of the next span and the end of the one before; no strip empty."""
    found = [lines[0]]
    for line, (_, end), (start, _) in zip(lines[1:], spans, spans[1:]):
        low, high = sorted((start, end))
        found.append(min(max(line, low), high))
    found.append(lines[-1])
    return tuple(found) if all(a < b for a, b in zip(found, found[1:])) else lines


def shares(cluster: Cluster, work: Workload, weight: float = 1.0) -> list[float] | None:
    """Each lane's share of the effort, so that all nodes are through at the same time; None: they are even anyhow.

    Lane i is node i's; the first is the source, which takes the picture and sends all other tiles. ``weight``: how much
    of what nodes do beside computing counts. For a plan with as many lanes as nodes.
    """
    if work.lanes != cluster.nodes or work.lanes < 2:
        return None
    lane_s = cluster.per_lane_s + cluster.per_tile_s * len(work.steps[0])
    sent_s = [_message_s(cluster, crop, True) for crop in work.crops]
    back_s = [0.0] * work.lanes
    for (_, lane), count in work.results.items():
        back_s[lane] += _message_s(cluster, count, False)
    beside = [weight * (lane_s + got + back) for got, back in zip(sent_s, back_s)]
    beside[0] = weight * (lane_s + cluster.per_frame_s + cluster.per_picture_s + sum(sent_s[1:]) + back_s[0])
    power = [speed / CORE_FLOPS_S for speed in cluster.speeds]
    beside = [busy * own / told for busy, own, told in zip(beside, power, cluster.edge_message_speeds)]  # as effort's seconds
    whole_s = sum(work.effort.values()) / CORE_FLOPS_S
    end_s = (whole_s + sum(beside)) / sum(power)
    found = [end_s * share - busy for share, busy in zip(power, beside)]
    return [max(own / whole_s, _LEAST / work.lanes) for own in found]


def _message_s(cluster: Cluster, count: int, are_pixels: bool) -> float:
    """What one end of a message costs."""
    pack_s = cluster.pack_byte_s * count if cluster.packed(count, are_pixels) < count else 0.0
    return cluster.per_message_s + cluster.per_byte_s * count + pack_s


def common_lines(layouts: Mapping[int, Layout]) -> list[dict[int, Region]]:
    """The region of each tensor for every tile, from the layout of each tensor."""
    tiles = {t: own.tiles() for t, own in layouts.items()}
    return [{t: regions[i] for t, regions in tiles.items()} for i in range(len(next(iter(tiles.values()))))]
