"""A comparison that counts bits: what is planted is found, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from models.build import build
from models.bundle import make_bundle
from models.verify import Difference, Verifier, compare, compare_all


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_equal_arrays_do_not_differ() -> None:
    assert compare("t", floats(1, 2, 3), floats(1, 2, 3)) == Difference("t", 3, 0, 0.0)
    assert compare("t", floats(), floats()) == Difference("t", 0, 0, 0.0)


def test_a_last_bit_is_a_difference() -> None:
    found = compare("t", floats(1, np.nextafter(np.float32(2), np.float32(3)), 3), floats(1, 2, 3))
    assert (found.elements, found.differing) == (3, 1)
    assert found.largest == pytest.approx(2.4e-7, rel=0.1)


def test_the_largest_distance_is_named_and_every_differing_element_counted() -> None:
    assert compare("t", floats(1, 2, 7), floats(0, 2, 3)) == Difference("t", 3, 2, 4.0)
    whole = compare("t", np.array([[-128, 5]], np.int8), np.array([[127, 5]], np.int8))
    assert whole == Difference("t", 2, 1, 255.0)


def test_zero_differs_from_minus_zero_and_a_nan_equals_the_same_nan() -> None:
    assert compare("t", floats(0.0), floats(-0.0)) == Difference("t", 1, 1, 0.0)
    assert compare("t", floats(np.nan), floats(np.nan)).differing == 0
    assert compare("t", floats(np.nan), floats(1)) == Difference("t", 1, 1, float("inf"))
    assert compare("t", floats(np.inf), floats(np.inf)).differing == 0
    assert compare("t", floats(np.nan, 3), floats(1, 1)) == Difference("t", 2, 2, 2.0)


def test_another_shape_or_dtype_differs_everywhere() -> None:
    for got in (floats(1, 2), np.ones((1, 3), np.float32), np.ones(3, np.float64)):
        assert compare("t", got, floats(1, 1, 1)) == Difference("t", 3, 3, float("inf"))


def test_arrays_that_are_not_contiguous_are_compared_by_element() -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    b = a.copy()
    b[1, 2] = 0
    assert compare("t", a.T, b.T) == Difference("t", 12, 1, 6.0)


def test_compare_all_goes_by_the_names_that_are_wanted() -> None:
    found = compare_all({"b": floats(1), "a": floats(2)}, {"a": floats(2), "b": floats(3)})
    assert [(d.tensor, d.differing) for d in found] == [("a", 0), ("b", 1)]


@pytest.mark.parametrize("where", ["tile", "tail"])
def test_a_planted_difference_is_found_where_it_was_planted(where: str, tmp_path: Path) -> None:
    path = tmp_path / "mini.tflite"
    path.write_bytes(build("mini", 96).to_bytes())
    verifier = Verifier(make_bundle(path, (2, 3), "max7"))
    image = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3)).astype(np.uint8)
    clean_cut, clean_outputs = verifier.check(image)
    assert [d.differing for d in (*clean_cut, *clean_outputs)] == [0, 0]
    planted = verifier._runner if where == "tile" else verifier._tail
    right = planted.run

    def wrong(*given: object) -> dict[str, np.ndarray]:
        made = {name: array.copy() for name, array in right(*given).items()}  # type: ignore[arg-type]
        for array in made.values():
            array.reshape(-1)[0] += 1
        return made

    planted.run = wrong  # type: ignore[method-assign, assignment]
    cut, outputs = verifier.check(image)
    if where == "tile":
        assert (cut[0].tensor, cut[0].differing) == ("max7", 6)
        assert cut[0].largest == pytest.approx(1, abs=1e-3)
        assert outputs[0].differing > 0
    else:
        assert cut[0].differing == 0
        assert outputs[0].differing == 1
