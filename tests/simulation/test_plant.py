"""The bugs that ``python -m tests.simulation.plant`` plants still have their place in the code."""

import pytest

from tests.simulation.plant import BUGS, ROOT


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_has_one_place(name: str) -> None:
    path, good, bad = BUGS[name]
    assert (ROOT / path).read_text().count(good) == 1 and good != bad
