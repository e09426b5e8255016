"""Pictures for people: what is drawn where, that it can be told apart, and that the frame itself stays as it was."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.results.draw import DrawnTile, class_colour, draw, node_colour
from schemas.contract.errors import PlanError
from schemas.contract.results import Classification, Detection, Keypoint, Result, Segment

pytest.importorskip("cv2")
NOTHING = Result(task="raw")


def grey(height: int = 240, width: int = 320, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def detection(box: tuple[float, float, float, float], label: str = "cat", index: int = 3) -> Detection:
    return Detection(label=label, index=index, score=0.9, box=box)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.asarray((before != after).any(axis=2))


def test_a_picture_without_a_result_is_a_copy() -> None:
    image = grey()
    drawn = draw(image, NOTHING)
    assert (drawn == image).all() and not np.shares_memory(drawn, image)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_box_is_drawn_where_it_is_with_text_that_differs_from_its_plate(value: int) -> None:
    image = grey(value=value)
    drawn = draw(image, Result(task="detect", detections=(detection((60, 100, 200, 180)),)))
    assert tuple(drawn[180, 130]) == class_colour(3) == tuple(drawn[140, 60])
    assert not changed(image, drawn)[110:170, 70:190].any() and (image == value).all()
    plate = drawn[86:97, 62:100].reshape(-1, 3).astype(int).sum(axis=1)
    assert plate.max() - plate.min() > 200


def test_labels_of_neighbours_do_not_cover_each_other() -> None:
    digits = tuple(detection((20 + 20 * i, 100, 38 + 20 * i, 140), str(i), i) for i in range(10))
    drawn = draw(grey(), Result(task="detect", detections=digits))
    assert changed(grey(), drawn)[88:97].any() and changed(grey(), drawn)[144:152].any()  # above and below by turns


def test_labels_at_the_edges_stay_inside() -> None:
    for box in (
        (0.0, 0.0, 40.0, 30.0),
        (300.0, 0.0, 320.0, 20.0),
        (0.0, 230.0, 320.0, 240.0),
        (0.0, 0.0, 320.0, 240.0),
    ):
        drawn = draw(grey(), Result(task="detect", detections=(detection(box, "a rather long label"),)))
        plate = (drawn == class_colour(3)).all(axis=2)
        assert plate.sum(axis=1).max() > 60, box


def test_the_best_classes_stand_in_a_panel_with_their_first_names() -> None:
    classes = (Classification(label="tabby, tabby cat", index=1, score=0.8),)
    where = changed(grey(), draw(grey(), Result(task="classify", classes=classes)))
    assert where[:20, :60].any() and not where[60:].any() and not where[:, 200:].any()


def test_a_skeleton_joins_the_points_that_were_seen() -> None:
    points = [("left_shoulder", 100, 60, 0.9), ("left_elbow", 100, 160, 0.9), ("left_wrist", 200, 160, 0.1)]
    keypoints = tuple(Keypoint(name=n, x=x, y=y, score=s) for n, x, y, s in points)
    where = changed(grey(), draw(grey(), Result(task="pose", keypoints=keypoints)))
    assert where[60, 100] and where[110, 100] and where[160, 100] and not where[160, 150] and not where[160, 200]


def test_classes_of_pixels_are_tinted_and_the_background_is_not() -> None:
    mask = np.zeros((240, 320), np.uint8)
    mask[100:200, 50:150] = 5
    segments = (Segment(label="none", index=0, share=0.87), Segment(label="cat", index=5, share=0.13))
    where = changed(grey(), draw(grey(), Result(task="segment", segments=segments), mask=mask))
    assert where[100:200, 50:150].all() and not where[210:, :].any() and where[:30, 250:].any()


def test_tiles_are_tinted_by_node_and_stolen_ones_hatched() -> None:
    tiles = [
        DrawnTile((0, 0, 160, 120), "edge1", False),
        DrawnTile((160, 0, 320, 120), "edge2", True),
        DrawnTile((0, 120, 320, 240), "edge1", False),
    ]
    drawn = draw(grey(), NOTHING, tiles=tiles)
    own, stolen = drawn[10:110, 10:150].reshape(-1, 3), drawn[10:110, 170:310].reshape(-1, 3)
    assert len(np.unique(own, axis=0)) == 1 and len(np.unique(stolen, axis=0)) == 2
    assert (drawn[0, 5] == 255).all() and (drawn[130, 300] == own[0]).all()


def test_colours_are_stable_and_those_of_numbered_nodes_far_apart() -> None:
    assert node_colour("edge1") == (174, 61, 242)  # equal in every run and on every machine
    colours = np.array([node_colour(f"edge{i}") for i in range(1, 9)], float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 999 * np.eye(8)
    assert distances.min() > 30
    assert len({class_colour(i) for i in range(100)}) > 90


names = st.text(max_size=12)
places = st.tuples(st.floats(0, 60), st.floats(0, 60), st.floats(0, 60), st.floats(0, 60))


@given(st.integers(1, 64), st.integers(1, 64), st.lists(st.tuples(places, names, st.integers(0, 300)), max_size=4))
def test_anything_can_be_drawn_on_any_picture(height: int, width: int, things: list[tuple[object, str, int]]) -> None:
    detections = [Detection.model_validate({"box": b, "label": n, "index": i, "score": 0.5}) for b, n, i in things]
    classes = [Classification(label=n, index=i, score=0.5) for _, n, i in things]
    segments = [Segment(label=n, index=i % 256, share=0.5) for _, n, i in things]
    tiles = [DrawnTile((0.0, 0.0, width / 2, float(height)), n, True) for _, n, _ in things]
    result = Result(task="raw", detections=tuple(detections), classes=tuple(classes), segments=tuple(segments))
    drawn = draw(grey(height, width), result, tiles=tiles, mask=np.zeros((height, width), np.uint8))
    assert drawn.shape == (height, width, 3) and drawn.dtype == np.uint8


def test_without_opencv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(PlanError, match=r"drawing results needs OpenCV: pip install 'deepthings-mqtt\[camera\]'"):
        draw(grey(), NOTHING)
