"""Grids of tiles whose work is in proportion to given shares.

The rows of a grid are as high as their tiles' shares ask, and each row has its own columns, so that any shares can be had.
Law: whatever the shares, the tiles of a cut partition each of its maps and none is empty.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from schemas.contract.errors import PlanError
from schemas.contract.plan import Region

_ROUNDS = 6
_DAMPING = 0.8  # of each correction

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


def common_lines(layouts: Mapping[int, Layout]) -> list[dict[int, Region]]:
    """The region of each tensor for every tile, from the layout of each tensor."""
    tiles = {t: own.tiles() for t, own in layouts.items()}
    return [{t: regions[i] for t, regions in tiles.items()} for i in range(len(next(iter(tiles.values()))))]
