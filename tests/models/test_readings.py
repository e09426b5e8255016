"""Rows of digits: tilted, of two panels, in any order."""

import random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.results.readings import read_panels


class Found(NamedTuple):
    label: str
    box: tuple[float, float, float, float]


def row(text: str, x: float, y: float, height: float = 40, pitch: float = 0.8, slope: float = 0.0) -> list[Found]:
    """Digits 0.6 of their height wide, ``pitch`` heights apart; each is ``slope`` heights below the one before."""
    width, step = 0.6 * height, pitch * height
    places = ((char, x + i * step, y + i * slope * height) for i, char in enumerate(text))
    return [Found(char, (left, top, left + width, top + height)) for char, left, top in places]


def test_digits_of_a_row_are_read_from_left_to_right() -> None:
    assert read_panels(reversed(row("04217", 30, 50))) == ["04217"]


def test_nothing_found_is_no_reading() -> None:
    assert read_panels([]) == []


def test_panels_are_listed_from_top_to_bottom() -> None:
    assert read_panels(row("12", 300, 200) + row("345", 20, 40)) == ["345", "12"]


def test_panels_side_by_side_stay_apart() -> None:
    assert read_panels(row("12", 0, 100) + row("34", 200, 104)) == ["12", "34"]


def test_small_digits_beside_large_ones_are_another_row() -> None:
    assert read_panels(row("12", 0, 100, height=80) + row("34", 130, 150, height=30)) == ["12", "34"]


@pytest.mark.parametrize("slope", [-0.25, 0.25])
def test_a_tilted_row_is_one_row(slope: float) -> None:
    assert read_panels(row("9081726", 10, 200, slope=slope)) == ["9081726"]


def test_a_box_inside_another_is_no_digit() -> None:
    assert read_panels([*row("587", 0, 0), Found("1", (74.0, 4.0, 87.0, 38.0))]) == ["587"]


def test_what_is_no_digit_is_passed_over() -> None:
    assert read_panels([*row("12", 0, 0), Found("cat", (40.0, 0.0, 80.0, 40.0)), Found("", (1.0, 1.0, 9.0, 9.0))]) == ["12"]


@given(st.text("0123456789", min_size=1, max_size=8), st.text("0123456789", min_size=1, max_size=8), st.randoms())
def test_order_of_detections_does_not_matter(upper: str, lower: str, mixed: random.Random) -> None:
    digits = row(upper, 50, 20, slope=0.05) + row(lower, 10, 150, height=60, slope=-0.05)
    mixed.shuffle(digits)
    assert read_panels(digits) == [upper, lower]
