import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent.sources.fit import BORDER, Clip, fit
from models.results.geometry import letterboxed
from schemas.contract.errors import PlanError
from schemas.contract.plan import Pixels

side = st.integers(1, 300)


def pixels(height: int, width: int, how: str = "letterbox") -> Pixels:
    return Pixels.model_validate({"tensor": "x", "height": height, "width": width, "dtype": "float32", "fit": how})


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.RandomState(7).randint(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def no_cv2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)


@pytest.mark.parametrize("how", ["letterbox", "stretch"])
@pytest.mark.usefixtures("no_cv2")
def test_an_image_of_the_right_size_passes_without_opencv_and_without_a_copy(how: str) -> None:
    image = picture(6, 9)
    fitted = fit(image, pixels(6, 9, how))
    assert fitted.shape == (1, 6, 9, 3)
    assert np.shares_memory(fitted, image)


@pytest.mark.usefixtures("no_cv2")
def test_a_border_alone_needs_no_opencv_and_centres_the_image_on_grey() -> None:
    image = picture(4, 10)
    fitted = fit(image, pixels(9, 10))
    assert (fitted[0, 2:6] == image).all()
    assert (fitted[0, :2] == BORDER).all() and (fitted[0, 6:] == BORDER).all()


@pytest.mark.usefixtures("no_cv2")
def test_a_resize_without_opencv_says_what_to_install() -> None:
    with pytest.raises(PlanError, match=r"10x4 frames to 20x8 needs OpenCV: pip install 'deepthings-mqtt\[camera\]'"):
        fit(picture(4, 10), pixels(20, 20))


@given(side, side, side, side)
def test_a_letterbox_keeps_the_aspect_and_fills_one_side(height: int, width: int, rows: int, cols: int) -> None:
    inner_rows, inner_cols = letterboxed(height, width, pixels(rows, cols))
    assert 1 <= inner_rows <= rows and 1 <= inner_cols <= cols
    assert inner_rows == rows or inner_cols == cols
    scale = min(rows / height, cols / width)
    assert abs(inner_rows - max(1, height * scale)) <= 0.5 and abs(inner_cols - max(1, width * scale)) <= 0.5


@given(side, side, side, side, st.sampled_from(["letterbox", "stretch"]))
def test_every_fit_has_the_models_size_and_repeats_exactly(h: int, w: int, rows: int, cols: int, how: str) -> None:
    pytest.importorskip("cv2")
    first, second = fit(picture(h, w), pixels(rows, cols, how)), fit(picture(h, w), pixels(rows, cols, how))
    assert first.shape == (1, rows, cols, 3) and first.dtype == np.uint8
    assert (first == second).all()


def test_a_letterbox_holds_the_picture_between_equal_borders() -> None:
    pytest.importorskip("cv2")
    fitted = fit(np.full((100, 200, 3), 250, np.uint8), pixels(64, 64))
    assert (fitted[0, :16] == BORDER).all() and (fitted[0, 48:] == BORDER).all()
    assert (fitted[0, 16:48] == 250).all()


def test_a_stretched_picture_has_no_border_and_channels_stay_in_order() -> None:
    pytest.importorskip("cv2")
    image = np.full((50, 200, 3), (10, 20, 30), np.uint8)
    assert (fit(image, pixels(64, 64, "stretch"))[0] == (10, 20, 30)).all()


def test_shrinking_averages_areas() -> None:
    pytest.importorskip("cv2")
    image = np.zeros((8, 8, 3), np.uint8)
    image[::4, ::4] = 160
    assert (fit(image, pixels(2, 2))[0] == 10).all()


def test_a_model_of_grey_pictures_gets_the_luminance_and_one_of_rgba_full_opacity() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[0, 0], image[1, 1], image[2, 2] = (255, 0, 0), (10, 200, 30), (255, 255, 255)
    grey = fit(image, Pixels(tensor="image", height=4, width=6, channels=1, dtype="uint8"))
    assert grey.shape == (1, 4, 6, 1) and [grey[0, i, i, 0] for i in range(4)] == [76, 124, 255, 0]
    for height in (4, 6):  # without a border, and with one
        rgba = fit(image, Pixels(tensor="image", height=height, width=6, channels=4, dtype="uint8", colour="bgr"))
        assert rgba.shape == (1, height, 6, 4) and (rgba[..., 3] == 255).all()
        top = (height - 4) // 2
        assert np.array_equal(rgba[0, top : top + 4, :, :3], image[..., ::-1])


@pytest.mark.usefixtures("no_cv2")
@pytest.mark.parametrize("step", [1, 3])
def test_a_clip_ends_with_the_newest_picture_and_begins_again_with_the_first(step: int) -> None:
    wanted = pixels(4, 5).model_copy(update={"frames": 4, "step": step})
    clip = Clip(wanted)
    for n in range(20):
        made = clip.add(np.full((4, 5, 3), n, np.uint8))
        assert made.shape == wanted.shape == (1, 4, 4, 5, 3)
        assert made[0, :, 0, 0, 0].tolist() == [max(n - age * step, 0) for age in (3, 2, 1, 0)]


def test_a_single_picture_is_no_clip() -> None:
    image = picture(4, 5)
    assert np.shares_memory(Clip(pixels(4, 5)).add(image), image)
