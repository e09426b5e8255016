"""Crops and targets: what the network is trained to say decodes to the boxes that were drawn."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

from training import data
from training.decode import CHANNELS, decode


def as_map(wanted: np.ndarray) -> np.ndarray:
    """A map (1, rows, columns, 15) that says what ``targets`` asks for."""
    made = np.zeros((1, *wanted.shape[:2], CHANNELS), np.float32)
    made[0, ..., 0] = np.where(wanted[..., 1] > 0, 6, -12)
    made[0, ..., 1:5] = wanted[..., 3:7]
    np.put_along_axis(made[0], 5 + wanted[..., 2:3].astype(int), 9, axis=-1)
    return made


def test_targets_decode_to_the_boxes() -> None:
    rows = np.array([[3, 10, 20, 22, 44], [7, 23, 20, 36, 44], [0, 60, 50, 110, 140]], np.float32)
    found = sorted(decode(as_map(data.targets(rows, 160)), 0.5, 0.4), key=lambda d: d.x0)
    assert [d.label for d in found] == ["3", "7", "0"]
    assert np.allclose([d[2:] for d in found], rows[:, 1:], atol=0.01)


def test_every_digit_has_a_cell_of_its_own_and_border_cells_do_not_count() -> None:
    rows = np.array([[5, 40, 40, 100, 140]], np.float32)
    weight, there = np.moveaxis(data.targets(rows, 160)[..., :2], -1, 0)
    assert there[11, 8] == 1 and weight[11, 8] == 1
    assert there[15, 8] == 0 and weight[15, 8] == 0  # inside the digit, far from its middle
    assert there[0, 0] == 0 and weight[0, 0] == 1


def test_crops_are_reproducible_and_keep_only_visible_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SHARD", 3)
    monkeypatch.setattr(data, "Studio", lambda seed, split: studio_without_fonts(seed))
    data.make_shards(tmp_path, 1, 6)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    data.make_shards(tmp_path, 1, 6)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written and len(written) == 4
    crops = data.Crops(tmp_path, 160, 1, 6)
    for number in range(20):
        image, rows = crops.crop(number)
        again, same = crops.crop(number)
        assert image.shape == (160, 160, 3) and image.dtype == np.uint8
        assert np.array_equal(image, again) and np.array_equal(rows, same)
        assert rows.shape[1] == 5 and (rows[:, 1:] >= 0).all() and (rows[:, 1:] <= 160).all()


def studio_without_fonts(seed: int) -> object:
    from edge_agent.sources.scenes.scenes import Studio

    return Studio(seed, "train", fonts=False)
