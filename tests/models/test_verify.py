"""A comparison that counts bits: what is planted is found, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from models.bundle import make_bundle
from models.graph.build import build
from models.tiling.division import Tiles
from models.verify import Difference, Verifier, compare, compare_all
from tests.models.sketch import Sketch


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


def image(size: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("grid", [(2, 3), (3, 3)])
def test_several_blocks_are_exact_at_every_cut_and_at_the_end(grid: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "mini.tflite"
    path.write_bytes(build("mini", 96).to_bytes())
    names = ["max1", "max3", "conv5", "max7", "conv9"]
    cuts, outputs = Verifier(make_bundle(path, blocks=[(name, Tiles(*grid)) for name in names])).check(image())
    assert [d.tensor for d in cuts] == names
    assert [d.differing for d in (*cuts, *outputs)] == [0] * 6


def test_a_map_that_passes_blocks_by_arrives_as_it_was_made(tmp_path: Path) -> None:
    net = Sketch((1, 25, 23, 3), seed=3)
    skip = net.conv(0, 4)
    x = net.conv(skip, 5, (3, 3), (2, 2))
    y = net.conv(x, 6)
    path = tmp_path / "skip.tflite"
    path.write_bytes(net.graph(skip, y).to_bytes())
    names = [net.tensors[skip].name, *(f"{net.tensors[skip].name}+{net.tensors[t].name}" for t in (x, y))]
    cuts, outputs = Verifier(make_bundle(path, blocks=[(name, Tiles(2, 2)) for name in names])).check(
        np.random.default_rng(0).integers(0, 256, (1, 25, 23, 3)).astype(np.uint8)
    )
    assert [d.differing for d in (*cuts, *outputs)] == [0] * 5


def test_a_difference_in_an_early_block_is_found_in_every_later_one(tmp_path: Path) -> None:
    path = tmp_path / "mini.tflite"
    path.write_bytes(build("mini", 96).to_bytes())
    verifier = Verifier(make_bundle(path, blocks=[(name, Tiles(2, 2)) for name in ("max1", "conv5", "max7")]))
    right = verifier._runner.run

    def wrong(block: int, tile: int, *given: object) -> dict[str, np.ndarray]:
        made = {name: array.copy() for name, array in right(block, tile, *given).items()}  # type: ignore[arg-type]
        if (block, tile) == (1, 2):
            made["conv5"].reshape(-1)[0] += 1
        return made

    verifier._runner.run = wrong  # type: ignore[method-assign, assignment]
    cuts, outputs = verifier.check(image())
    assert [(d.tensor, d.differing > 0) for d in cuts] == [("max1", False), ("conv5", True), ("max7", True)]
    assert cuts[1].differing == 1 and outputs[0].differing > 0


@pytest.mark.parametrize("where", ["tile", "tail"])
def test_a_planted_difference_is_found_where_it_was_planted(where: str, tmp_path: Path) -> None:
    path = tmp_path / "mini.tflite"
    path.write_bytes(build("mini", 96).to_bytes())
    verifier = Verifier(make_bundle(path, (2, 3), "max7"))
    clean_cut, clean_outputs = verifier.check(image())
    assert [d.differing for d in (*clean_cut, *clean_outputs)] == [0, 0]
    planted = verifier._runner if where == "tile" else verifier._tail
    right = planted.run

    def wrong(*given: object) -> dict[str, np.ndarray]:
        made = {name: array.copy() for name, array in right(*given).items()}  # type: ignore[arg-type]
        for array in made.values():
            array.reshape(-1)[0] += 1
        return made

    planted.run = wrong  # type: ignore[method-assign, assignment]
    cut, outputs = verifier.check(image())
    if where == "tile":
        assert (cut[0].tensor, cut[0].differing) == ("max7", 6)
        assert cut[0].largest == pytest.approx(1, abs=1e-3)
        assert outputs[0].differing > 0
    else:
        assert cut[0].differing == 0
        assert outputs[0].differing == 1
