"""Decoders of boxes from anchors, of keypoints, masks and landmarks: what was encoded comes back, and photographs agree."""

import math
from pathlib import Path

import numpy as np
import pytest

from models.graph.runtime import runtime
from models.results.card_file import FACE_KEYPOINTS
from models.results.decode import segmentation_map
from models.results.decoders.ssd import blaze_anchors, grid_anchors, pyramid_anchors
from schemas.contract.errors import EngineError
from schemas.contract.results import Result
from tests.models.test_decode import BOXES, Box, Model, card, close, logit, model_pixels, photograph, said
from tests.paths import shared

SIDE = 320  # of the picture in said()


def centred(box: Box) -> tuple[float, float, float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


def refined(anchors: np.ndarray, row: int, box: Box) -> np.ndarray:
    """y, x, h, w of a box against an anchor."""
    x, y, w, h = (value / SIDE for value in centred(box))
    cx, cy, aw, ah = anchors[row].tolist()
    return np.array([(y - cy) / ah, (x - cx) / aw, math.log(h / ah), math.log(w / aw)])


def test_tensorflows_ssd_has_1917_anchors_at_300_pixels_of_the_published_sizes() -> None:
    anchors = grid_anchors((300, 300))
    assert anchors.shape == (1917, 4) and len(grid_anchors((320, 320))) == 2034
    assert np.allclose(anchors[0], (0.5 / 19, 0.5 / 19, 0.1, 0.1))
    assert np.allclose(anchors[1], (0.5 / 19, 0.5 / 19, 0.2 * 2**0.5, 0.2 / 2**0.5))
    assert np.allclose(anchors[-6:, :2], 0.5) and np.allclose(anchors[-1, 2:], 0.95**0.5)
    assert np.allclose(anchors[19 * 19 * 3 + 5, 2:], (0.35 * 0.5) ** 0.5)


@pytest.mark.parametrize(
    ("strides", "side", "count"),
    [((8, 16, 16, 16), 128, 896), ((4,), 192, 2304), ((8, 16, 16, 16), 192, 2016), ((8, 16, 32, 32, 32), 224, 2254)],
)
def test_mediapipes_detectors_have_as_many_anchors_as_rows(strides: tuple[int, ...], side: int, count: int) -> None:
    anchors = blaze_anchors(strides, (side, side))
    assert len(anchors) == count and np.allclose(anchors[0, :2], strides[0] / 2 / side)
    assert (anchors[:, :2] > 0).all() and (anchors[:, :2] < 1).all()


@pytest.mark.parametrize("logits", [True, False])
def test_boxes_come_back_from_the_anchors_of_ssd_without_post_processing(logits: bool) -> None:
    anchors, (low, high) = grid_anchors((SIDE, SIDE)), ((-9.0, logit(0.9)) if logits else (0.0, 0.9))
    boxes, scores = np.zeros((1, len(anchors), 4), np.float32), np.full((1, len(anchors), 4), low, np.float32)
    for (box, index), row in zip(BOXES, (700, 2000)):
        boxes[0, row], scores[0, row, 1 + index] = refined(anchors, row, box) * (10, 10, 5, 5), high
    given = card(decoder="ssd_anchors", logits=logits, labels=["???", "a", "b", "c"])
    result = said(given, boxes, scores)
    assert close(result) and {d.label for d in result.detections} == {"a", "c"}


@pytest.mark.parametrize("scale", [None, 4.0])
def test_boxes_come_back_from_the_anchors_of_efficientdet(scale: float | None) -> None:
    anchors = pyramid_anchors((SIDE, SIDE), scale or 3.0)
    assert len(anchors) == 19206  # as EfficientDet-Lite0 has
    boxes, scores = np.zeros((1, len(anchors), 4), np.float32), np.zeros((1, len(anchors), 3), np.float32)
    for (box, index), row in zip(BOXES, (900, 19100)):
        boxes[0, row], scores[0, row, index] = refined(anchors, row, box), 0.9
    assert close(said(card(decoder="efficientdet", anchor_scale=scale), boxes, scores))


def test_blaze_boxes_come_back_with_their_points() -> None:
    strides = (8, 16, 16, 16)
    anchors = blaze_anchors(strides, (SIDE, SIDE))
    rows, scores = np.zeros((1, len(anchors), 8), np.float32), np.full((1, len(anchors), 1), -200.0, np.float32)
    (box, _), row = BOXES[0], 1234
    x, y, w, h = centred(box)
    middle = anchors[row, :2] * SIDE
    rows[0, row] = [x - middle[0], y - middle[1], w, h, 50 - middle[0], 60 - middle[1], 70 - middle[0], 80 - middle[1]]
    scores[0, row] = 3.0
    given = card(decoder="blaze", strides=strides, keypoints=["left", "right"], labels=["face"])
    (face,) = said(given, rows, scores).detections
    assert face.label == "face" and np.allclose(face.box, box, atol=0.02) and face.score == pytest.approx(0.9526)
    assert [(k.name, k.x, k.y) for k in face.keypoints] == [("left", 50.0, 60.0), ("right", 70.0, 80.0)]


def rows_of_boxes(extra: int, classes: int = 3, count: int = 50) -> np.ndarray:
    """An exported YOLO's rows with ``BOXES`` in pixels, and room for more values."""
    rows = np.zeros((count, 4 + classes + extra), np.float32)
    for i, (box, index) in enumerate(BOXES):
        rows[7 * i, :4], rows[7 * i, 4 + index] = centred(box), 0.8
    return rows


def test_keypoints_of_a_yolo_belong_to_their_body() -> None:
    rows = rows_of_boxes(6)
    rows[0, -6:] = 50, 60, 0.9, 70, 80, 0.1
    result = said(card(decoder="yolov8", keypoints=["nose", "tail"]), rows.T[None].copy())
    assert close(result)
    points = {d.index: [(k.name, k.x, k.y, k.score) for k in d.keypoints] for d in result.detections}
    assert points[2] == [("nose", 50.0, 60.0, 0.9), ("tail", 70.0, 80.0, 0.1)]


@pytest.mark.parametrize("units", ["normalized", "pixels"])
def test_an_end_to_end_yolo_is_not_suppressed_again(units: str) -> None:
    rows = np.zeros((300, 6), np.float32)
    for i, (box, index) in enumerate([*BOXES, BOXES[0]]):
        rows[i] = *box, 0.8, index
    rows[:, :4] /= SIDE if units == "normalized" else 1
    result = said(card(decoder="yolo_end_to_end"), rows[None])
    assert len(result.detections) == 3 and close(Result(task="detect", detections=result.detections[:2]))
    rows[0, 5] = 0.5
    with pytest.raises(EngineError, match=r"classes are no whole numbers, such as 0\.5"):
        said(card(decoder="yolo_end_to_end"), rows[None])


@pytest.mark.parametrize("decoder", ["yolov8", "yolo_end_to_end"])
def test_masks_are_sums_of_prototypes_inside_their_boxes(decoder: str) -> None:
    prototypes = np.zeros((1, 80, 80, 2), np.float32)
    prototypes[0, :, :40, 0], prototypes[0, :, 40:, 0] = 1, -1  # the left half, or with a negative share the right
    rows = rows_of_boxes(2)
    rows[0, -2:], rows[7, -2:] = (1, 0), (-1, 0)
    outputs = rows.T[None].copy()
    if decoder == "yolo_end_to_end":
        rows = np.zeros((1, 300, 8), np.float32)
        rows[0, 0], rows[0, 1] = (*BOXES[0][0], 0.8, 2, 1, 0), (*BOXES[1][0], 0.8, 0, -1, 0)
        outputs = rows
    given = card(decoder=decoder, outputs=["out0", "out1"])
    assert close(said(given, outputs, prototypes))
    mask = segmentation_map(given, {"out0": outputs, "out1": prototypes}, {}, (SIDE, SIDE), model_pixels(SIDE, SIDE))
    assert mask is not None and set(np.unique(mask).tolist()) == {0, 1, 3}
    ys, xs = np.nonzero(mask == 3)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (40, 95, 32, 139)  # the box, to four pixels
    assert np.nonzero(mask == 1)[1].min() == 160  # of the other box the right half
    assert segmentation_map(card(decoder="top_k"), {"out0": outputs}, {}, (9, 9), model_pixels(9, 9)) is None


@pytest.mark.parametrize(
    ("decoder", "shape"), [("yolov5", (1, 9, 8)), ("yolov8", (1, 8, 9)), ("yolo_end_to_end", (1, 9, 6))]
)
def test_what_is_no_score_is_an_error_and_no_detection(decoder: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=r"the scores go from .*512, not 0 to 1: the model is of another kind"):
        said(card(decoder=decoder), np.full(shape, 512, np.float32))


def test_landmarks_are_pixels_of_the_models_picture_if_there_is_a_face_at_all() -> None:
    places = np.array([[[[10, 20, -1, 30, 40, 2]]]], np.float32)
    given = card(decoder="landmarks", keypoints=["a", "b"])
    assert [(k.name, k.x, k.y, k.score) for k in said(given, places).keypoints] == [("a", 10, 20, 1), ("b", 30, 40, 1)]
    assert said(given, places, np.full((1, 1), -3.0, np.float32)).keypoints == ()
    seen = said(given, places, np.full((1, 1), 3.0, np.float32)).keypoints
    assert seen[0].score == pytest.approx(0.9526)


# --- photographs ------------------------------------------------------------------------------------------------------


def mediapipe(folder: Path, name: str, labels: str = "") -> Model:
    return Model(folder, f"mediapipe/{name}", labels)


def inside(inner: Box, outer: Box) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


@pytest.mark.parametrize("name", ["face_detection_short_range", "face_detection_full_range_sparse"])
def test_a_face_is_found_with_its_eyes_and_none_on_the_bird(name: str, tmp_path: Path) -> None:
    model = mediapipe(tmp_path, name)
    (face,) = model.result(photograph("grace_hopper")).detections
    assert face.label == "face" and face.score > 0.85
    assert inside((200, 180, 335, 325), face.box) and inside(face.box, (140, 120, 390, 370))  # by hand
    places = {k.name: (k.x, k.y) for k in face.keypoints}
    assert tuple(places) == FACE_KEYPOINTS
    assert math.dist(places["right_eye"], (220, 190)) < 25 and math.dist(places["left_eye"], (310, 190)) < 25
    assert model.result(photograph("bird")).detections == ()


def test_a_palm_is_found_on_the_man_and_none_on_the_bird(tmp_path: Path) -> None:
    model = mediapipe(tmp_path, "palm_detection_lite")
    (palm,) = model.result(photograph("squat")).detections
    assert palm.label == "palm" and len(palm.keypoints) == 7 and inside(palm.box, (290, 200, 370, 280))
    assert model.result(photograph("bird")).detections == ()


def test_open_images_ssd_names_the_person_the_cat_and_the_shoes(tmp_path: Path) -> None:
    labels = shared("data/models/mediapipe/object_detection_oidv4_labelmap.txt")
    model = mediapipe(tmp_path, "object_detection_ssd_mobilenetv2_oidv4_fp16", f'labels = "{labels}"\n')
    seen = {name: model.result(photograph(name)).detections for name in ("grace_hopper", "cat", "squat", "bird")}
    assert [d.label for d in seen["grace_hopper"]] == ["Person"]
    assert inside((120, 60, 400, 560), seen["grace_hopper"][0].box)
    assert {d.label for d in seen["cat"]} == {"Cat"} and seen["cat"][0].score > 0.7
    assert {d.label for d in seen["squat"]} == {"Footwear", "Person"} and seen["bird"] == ()


@pytest.mark.skipif(
    not runtime().startswith("ai-edge-litert"), reason="tflite-runtime has no Convolution2DTransposeBias"
)
def test_a_selfie_is_segmented_under_the_label_in_its_file(tmp_path: Path) -> None:
    model = mediapipe(tmp_path, "selfie_segmentation_landscape")
    shares = {s.label: s.share for s in model.result(photograph("grace_hopper")).segments}
    assert set(shares) == {"selfie", "background"} and 0.45 < shares["selfie"] < 0.7
