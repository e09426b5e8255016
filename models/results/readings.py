"""From single digits to readings: which boxes stand in one row, and what number they make.

A row goes on as long as the next digit is about as tall, about as high and not much more than a digit's height away, so a
tilted row holds together and two panels stay apart. A box that lies inside a larger one is a part taken for a digit.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

_LARGEST_GAP = 1.3  # between two digits, in heights of the smaller
_LARGEST_STEP = 0.5  # from one digit's middle to the next one's, in heights of the smaller
_LARGEST_RATIO = 1.8  # of their heights
_INSIDE = 0.7  # share of a box that lies in a larger one: not a digit of its own


class Boxed(Protocol):
    """A detection: its label and its box x0, y0, x1, y1 in pixels."""

    @property
    def label(self) -> str: ...
    @property
    def box(self) -> tuple[float, float, float, float]: ...


def read_panels(detections: Iterable[Boxed]) -> list[str]:
    """Readings of all rows of digits: labels from left to right, rows from top to bottom. Order of input is irrelevant.

    Labels that are no digits are passed over.
    """
    rows: list[list[_Digit]] = []
    found = [_Digit(d.label, *d.box) for d in detections if len(d.label) == 1 and d.label in "0123456789"]
    digits = (d for d in found if not any(_inside(d, other) for other in found))
    for digit in sorted(digits, key=lambda d: (d.x0 + d.x1, d)):
        # The nearest row's end, if any row goes on with this digit.
        row = min((r for r in rows if _next(r[-1], digit)), key=lambda r: _distance(r[-1], digit), default=None)
        if row is None:
            rows.append([digit])
        else:
            row.append(digit)
    rows.sort(key=lambda row: (_middle(row), row[0].x0))
    return ["".join(digit.label for digit in row) for row in rows]


class _Digit(NamedTuple):
    label: str
    x0: float
    y0: float
    x1: float
    y1: float


def _area(x0: float, y0: float, x1: float, y1: float) -> float:
    return max(x1 - x0, 0.0) * max(y1 - y0, 0.0)


def _inside(small: _Digit, large: _Digit) -> bool:
    shared = _area(max(small.x0, large.x0), max(small.y0, large.y0), min(small.x1, large.x1), min(small.y1, large.y1))
    size = _area(*small[1:])
    return size < _area(*large[1:]) and shared > _INSIDE * size


def _next(left: _Digit, right: _Digit) -> bool:
    low, high = sorted((left.y1 - left.y0, right.y1 - right.y0))
    return (
        high <= _LARGEST_RATIO * low
        and right.x0 - left.x1 <= _LARGEST_GAP * low
        and abs(left.y0 + left.y1 - right.y0 - right.y1) / 2 <= _LARGEST_STEP * low
    )


def _distance(left: _Digit, right: _Digit) -> float:
    return abs(right.x0 - left.x1) + abs(left.y0 + left.y1 - right.y0 - right.y1)


def _middle(row: Sequence[_Digit]) -> float:
    return sum(d.y0 + d.y1 for d in row) / (2 * len(row))
