"""The generator: the same scene from the same seed, digits where it says, held-out faces and backgrounds kept apart."""

import sys
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("cv2")

from edge_agent.sources.scenes import backgrounds, glyphs
from edge_agent.sources.scenes.scenes import TRAINING, VIEW, Camera, Studio, moving_scene

CAMERAS = {"training": TRAINING, "view": VIEW}


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(1, "train", fonts=False)


@pytest.mark.parametrize("name", CAMERAS)
def test_a_scene_follows_from_seed_and_index(studio: Studio, name: str) -> None:
    for index in (0, 5):
        first, again = studio.scene(index, CAMERAS[name]), Studio(1, "train", fonts=False).scene(index, CAMERAS[name])
        assert np.array_equal(first.image, again.image)
        assert (first.boxes, first.readings) == (again.boxes, again.readings)


def test_other_seeds_and_indices_give_other_scenes(studio: Studio) -> None:
    first = studio.scene(0).image
    assert not np.array_equal(first, studio.scene(1).image)
    assert not np.array_equal(first, Studio(2, "train", fonts=False).scene(0).image)


@pytest.mark.parametrize("name", CAMERAS)
def test_boxes_lie_in_the_frame_and_hold_the_readings_digits(studio: Studio, name: str) -> None:
    camera: Camera = CAMERAS[name]
    for index in range(12):
        scene = studio.scene(index, camera)
        assert scene.image.shape == (camera.height, camera.width, 3) and scene.image.dtype == np.uint8
        assert Counter("".join(scene.readings)) == Counter(char for char, *_ in scene.boxes)
        for _, x0, y0, x1, y1 in scene.boxes:
            assert -2 <= x0 < x1 <= camera.width + 2 and -2 <= y0 < y1 <= camera.height + 2


def test_no_face_and_no_background_is_on_both_sides() -> None:
    train, test = (glyphs.faces(side, fonts=False) for side in ("train", "test"))
    assert len(train) > len(test) > 5
    assert not {face.family for face in train} & {face.family for face in test}
    assert not set(backgrounds.kinds("train")) & set(backgrounds.kinds("test"))
    assert set(backgrounds.kinds("train")) | set(backgrounds.kinds("test")) == set(backgrounds.KINDS)


def test_every_face_draws_ten_different_digits() -> None:
    for face in glyphs.drawn_faces():
        drawn = [face.glyph(char) for char in glyphs.DIGITS]
        assert len({g.mask.tobytes() for g in drawn}) == 10
        for glyph in drawn:
            x0, y0, x1, y1 = glyph.ink
            assert glyph.mask.shape[0] == glyphs.HEIGHT
            assert x1 - x0 >= 4 and y1 - y0 >= glyphs.HEIGHT * 0.7


def test_a_film_follows_from_seed_and_index_and_needs_no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)  # importing it would fail
    for seed in range(3):
        first, again = moving_scene(seed, 7), moving_scene(seed, 7)
        assert np.array_equal(first.image, again.image) and first.boxes == again.boxes
        assert first.image.shape == (480, 640, 3) and len(first.readings) == 2


def test_a_films_panels_move_a_little_each_frame_and_count() -> None:
    frames = [moving_scene(4, index) for index in range(12)]
    assert len({tuple(frame.readings) for frame in frames}) == 4
    for before, after in zip(frames, frames[1:]):
        assert not np.array_equal(before.image, after.image)
        for (_, *old), (_, *new) in zip(before.boxes, after.boxes):
            assert abs(old[1] - new[1]) < 25 and abs(old[3] - new[3]) < 25
    for frame in frames:
        for _, x0, y0, x1, y1 in frame.boxes:
            assert 0 <= x0 < x1 <= 640 and 0 <= y0 < y1 <= 480 and y1 - y0 > 40
