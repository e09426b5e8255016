"""Decoders: known boxes go through an encoder written here and come back; real models say what their pictures show."""

import math
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.fit import fit
from edge_agent.sources.video import Video
from models.graph.build import Network
from models.graph.file import load
from models.graph.prepare import image_input
from models.planning.planner import make_plan
from models.results.card import Card, load_card
from models.results.card_file import COCO_ANCHORS, COCO_KEYPOINTS, card_text
from models.results.decode import DECODERS, decode, quantization_of, segmentation_map
from models.results.geometry import answer_boxes, clipped, placed, to_source
from models.running import engine
from models.tiling.partition import Partition
from models.tiling.tensor import to_input
from schemas.contract.errors import EngineError, PlanError
from schemas.contract.plan import Pixels, digest
from schemas.contract.results import Result, sentence
from tests.paths import shared

cv2 = pytest.importorskip("cv2")
Box = tuple[float, float, float, float]
side = st.integers(1, 400)


def card(**values: object) -> Card:
    return Card.model_validate(values)


def model_pixels(height: int = 320, width: int = 320, how: str = "stretch") -> Pixels:
    return Pixels.model_validate({"tensor": "x", "height": height, "width": width, "dtype": "float32", "fit": how})


def said(
    given: Card,
    *outputs: np.ndarray,
    picture: tuple[int, int] = (320, 320),
    pixels: Pixels | None = None,
    quantization: Mapping[str, tuple[float, int]] | None = None,
) -> Result:
    named = {f"out{i}": output for i, output in enumerate(outputs)}
    result = decode(given, named, quantization or {}, picture, pixels or model_pixels())
    assert Result.model_validate_json(result.model_dump_json()) == result
    return result


# --- where boxes lie --------------------------------------------------------------------------------------------------


@given(side, side, side, side, st.sampled_from(["letterbox", "stretch"]), st.data())
def test_a_point_of_the_source_comes_back_from_the_models_picture(
    height: int, width: int, rows: int, cols: int, how: str, data: st.DataObject
) -> None:
    pixels, share = model_pixels(rows, cols, how), st.floats(0, 1)
    x, y = data.draw(share) * width, data.draw(share) * height
    where = placed(height, width, pixels)
    there = np.array([where.x0 + x * where.width / width, where.y0 + y * where.height / height])
    assert np.allclose(to_source(there, (height, width), pixels), (x, y), atol=1e-6)


@given(side, side, side, side, st.sampled_from(["letterbox", "stretch"]))
def test_the_place_of_the_image_in_the_picture_is_where_fit_puts_it(
    h: int, w: int, rows: int, cols: int, how: str
) -> None:
    pixels = model_pixels(rows, cols, how)
    where = placed(h, w, pixels)
    inside = np.zeros((rows, cols), bool)
    inside[where.y0 : where.y1, where.x0 : where.x1] = True
    assert ((fit(np.full((h, w, 3), 255, np.uint8), pixels)[0] == 255).all(axis=2) == inside).all()
    corners = np.array([[where.x0, where.y0, where.x1, where.y1]])
    assert np.allclose(to_source(corners, (h, w), pixels), [[0, 0, w, h]])


def test_a_letterbox_is_undone_in_an_example_that_can_be_checked_by_hand() -> None:
    pixels = model_pixels(100, 100, "letterbox")  # a 400 x 200 image fills 100 x 50, 25 rows from the top
    assert to_source(np.array([10.0, 30.0, 60.0, 75.0]), (200, 400), pixels).tolist() == [40.0, 20.0, 240.0, 200.0]


@given(side, side)
def test_shares_of_tiles_partition_the_source_image(height: int, width: int) -> None:
    net = Network((56, 56, 3))
    for layer in [("conv", 4, 3, 2)] * 3:
        net.add(layer)
    plan, _, _ = make_plan(Partition(net.graph()), "0" * 32, (2, 2), "conv2", fit="letterbox")
    boxes = answer_boxes(plan, (height, width))
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    assert math.isclose(sum(areas), height * width)
    assert boxes[0][:2] == (0, 0) and np.allclose(boxes[3][2:], (width, height))


def test_pixels_travel_in_the_order_of_the_models_channels() -> None:
    image = np.full((4, 6, 3), (10, 20, 30), np.uint8)
    for size in ((4, 6), (8, 8)):
        pixels = model_pixels(*size, "letterbox").model_copy(update={"colour": "bgr"})
        fitted = fit(image, pixels)
        where = placed(4, 6, pixels)
        assert (fitted[0, where.y0 : where.y1, where.x0 : where.x1] == (30, 20, 10)).all()
        assert fitted.flags.c_contiguous
    assert (image == (10, 20, 30)).all()


# --- detection: encoders and what comes back --------------------------------------------------------------------------


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def empty(shape: tuple[int, ...], classes: int) -> np.ndarray:
    """A map (h, w, A, 5 + C) that says nothing."""
    return np.full((*shape, 5 + classes), -9.0, np.float32)


def put_darknet(
    cells: np.ndarray, box: Box, anchor: int, anchors: np.ndarray, stride: int, index: int, objectness: float = 0.9
) -> None:
    """Writes a box into a map of x, y, w, h, objectness, classes; ``anchors`` in pixels."""
    x, y = (box[0] + box[2]) / 2 / stride, (box[1] + box[3]) / 2 / stride
    cell = cells[int(y), int(x), anchor]
    cell[:2] = logit(x % 1), logit(y % 1)
    cell[2:4] = np.log(np.array((box[2] - box[0], box[3] - box[1])) / anchors[anchor])
    cell[4] = logit(objectness)
    cell[5 + index] = 9.0


BOXES: list[tuple[Box, int]] = [((41.5, 30.25, 97.0, 141.75), 2), ((150.0, 200.0, 290.0, 300.0), 0)]


def found(result: Result) -> list[tuple[Box, int]]:
    return [(d.box, d.index) for d in sorted(result.detections, key=lambda d: d.box)]


def close(result: Result, boxes: list[tuple[Box, int]] = BOXES, tolerance: float = 0.02) -> bool:
    got = found(result)
    return [i for _, i in got] == [i for _, i in boxes] and np.allclose(
        [b for b, _ in got], [b for b, _ in boxes], atol=tolerance
    )


def test_yolov2_boxes_come_back() -> None:
    cells = empty((10, 10, 5), 3)
    anchors = np.array(COCO_ANCHORS) * 32
    for i, (box, index) in enumerate(BOXES):
        put_darknet(cells, box, i, anchors, 32, index)
    result = said(card(decoder="yolov2", labels=["a", "b", "c"]), cells.reshape(1, 10, 10, 40))
    assert close(result)
    assert [d.label for d in result.detections] == ["c", "a"] and 0.89 < result.detections[0].score <= 0.9


def test_yolov3_boxes_come_back_from_two_heads_with_their_own_anchors() -> None:
    anchors = [(116, 90), (156, 198), (10, 13), (30, 61)]
    coarse, fine = empty((10, 10, 2), 3), empty((20, 20, 2), 3)
    put_darknet(fine, BOXES[0][0], 1, np.array(anchors[2:]), 16, 2)
    put_darknet(coarse, BOXES[1][0], 0, np.array(anchors[:2]), 32, 0)
    given = card(decoder="yolov3", anchors=anchors)
    assert close(said(given, coarse.reshape(1, 10, 10, 16), fine.reshape(1, 20, 20, 16)))


@pytest.mark.parametrize("units", ["normalized", "pixels"])
@pytest.mark.parametrize("decoder", ["yolov5", "yolov8", "yolov8 transposed"])
def test_exported_yolo_boxes_come_back(decoder: str, units: str) -> None:
    rows = np.zeros((50, 8), np.float32)
    for i, (box, index) in enumerate(BOXES):
        rows[7 * i, :4] = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
        rows[7 * i, 4], rows[7 * i, 5 + index] = 0.9, 0.8
    rows[:, :4] /= 320 if units == "normalized" else 1
    if decoder == "yolov5":
        result = said(card(decoder="yolov5"), rows[None])
        assert result.detections[0].score == 0.72
    else:
        eight = np.delete(rows, 4, axis=1)
        result = said(card(decoder="yolov8"), eight[None] if "transposed" in decoder else eight.T[None].copy())
        assert result.detections[0].score == 0.8
    assert close(result)
    assert close(said(card(decoder="yolov5", box_units=units), rows[None]))


def put_grid(cells: np.ndarray, box: Box, index: int, objectness: float = 0.9) -> None:
    x, y = (box[0] + box[2]) / 16, (box[1] + box[3]) / 16
    cell = cells[0, int(y), int(x)]
    cell[0] = logit(objectness)
    cell[1:3] = 4 * (x - int(x) - 0.5), 4 * (y - int(y) - 0.5)
    cell[3:5] = 4 * np.log(np.array((box[2] - box[0], box[3] - box[1])) / 16)
    cell[5 + index] = 9.0


def test_grid_boxes_come_back_and_suppress_each_other_whatever_their_class() -> None:
    cells = empty((1, 40, 40), 10)
    for box, index in BOXES:
        put_grid(cells, box, index)
    put_grid(cells, (46.0, 36.0, 104.0, 140.0), 7, objectness=0.6)  # over the first, of another class
    assert close(said(card(decoder="grid"), cells))


def test_grid_boxes_are_those_of_the_training() -> None:
    training = pytest.importorskip("training.decode")
    cells = np.random.default_rng(3).normal(0, 2, (1, 40, 40, 15)).astype(np.float32)
    want = training.decode(cells, 0.4, 0.4)
    got = said(card(decoder="grid", score_threshold=0.4, iou_threshold=0.4, max_detections=1000), cells).detections
    want = [d for d in want if max(d.x0, d.y0) < 319.9 and min(d.x1, d.y1) > 0.1]
    inside = [d for d in want if min(d.x0, d.y0) >= 0 and max(d.x1, d.y1) <= 320]
    assert len(want) == len(got) and len(inside) > 20
    for digit in inside:
        same = [d.box for d in got if d.index == int(digit.label) and abs(d.score - digit.score) < 0.0001]
        assert any(np.allclose(box, (digit.x0, digit.y0, digit.x1, digit.y1), atol=0.02) for box in same)


def test_ssd_detections_end_at_their_count_and_at_the_threshold() -> None:
    boxes = np.array([[[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.5, 1.0], [0.2, 0.2, 0.4, 0.4], [0, 0, 1, 1]]], np.float32)
    classes, scores = np.array([[1, 0, 1, 1]], np.float32), np.array([[0.9, 0.5, 0.1, 0.8]], np.float32)
    given = card(decoder="ssd", labels=["???", "cat", "dog"])
    result = said(given, boxes, classes, scores, np.array([3.0], np.float32), picture=(100, 200))
    assert [(d.label, d.index, d.score, d.box) for d in result.detections] == [
        ("dog", 1, 0.9, (40.0, 10.0, 120.0, 50.0)),
        ("cat", 0, 0.5, (0.0, 0.0, 200.0, 100.0)),
    ]
    assert said(given, boxes, classes, scores, np.zeros(1, np.float32)).detections == ()


def test_double_detections_are_suppressed_within_a_class_only() -> None:
    rows = np.array(
        [[[0.5, 0.5, 0.2, 0.2, 0.9, 1, 0], [0.51, 0.5, 0.2, 0.2, 0.8, 1, 0], [0.5, 0.5, 0.2, 0.2, 0.7, 0, 1]]]
    )
    result = said(card(decoder="yolov5", labels=["a", "b"]), rows.astype(np.float32))
    assert [(d.label, d.score) for d in result.detections] == [("a", 0.9), ("b", 0.7)]
    apart = said(card(decoder="yolov5", iou_threshold=0.95), rows.astype(np.float32))
    assert [d.score for d in apart.detections] == [0.9, 0.8, 0.7]
    assert len(said(card(decoder="yolov5", max_detections=1), rows.astype(np.float32)).detections) == 1
    assert len(said(card(decoder="yolov5", score_threshold=0.85), rows.astype(np.float32)).detections) == 1


def test_a_box_in_the_border_of_a_letterbox_is_none_and_others_are_cut_at_the_image() -> None:
    rows = np.array([[[0.5, 0.05, 0.2, 0.1, 0.9, 1], [0.5, 0.2, 0.2, 0.2, 0.8, 1]]], np.float32)
    pixels = model_pixels(100, 100, "letterbox")  # rows 25 to 75 hold the image
    result = said(card(decoder="yolov5"), rows, picture=(200, 400), pixels=pixels)
    assert [d.box for d in result.detections] == [(160.0, 0.0, 240.0, 20.0)]


@given(st.integers(0, 2**32 - 1), side, side, st.sampled_from(["letterbox", "stretch"]))
def test_whatever_a_network_gives_detections_lie_in_the_image_best_first(seed: int, h: int, w: int, how: str) -> None:
    random = np.random.default_rng(seed)
    pixels = model_pixels(64, 64, how)
    spread = 10.0 ** random.integers(-1, 4)
    for decoder, shape in (("yolov2", (1, 2, 2, 35)), ("grid", (1, 8, 8, 8))):
        result = said(
            card(decoder=decoder), (random.normal(0, spread, shape)).astype(np.float32), picture=(h, w), pixels=pixels
        )
        scores = [d.score for d in result.detections]
        assert scores == sorted(scores, reverse=True) and all(s >= 0.25 for s in scores)
        for x0, y0, x1, y1 in (d.box for d in result.detections):
            assert 0 <= x0 < x1 <= w and 0 <= y0 < y1 <= h


def test_quantized_outputs_are_read_by_their_scale_and_zero_point() -> None:
    real = np.zeros((1, 20, 6), np.float32)
    real[0, 3] = 0.5, 0.5, 0.25, 0.5, 1.0, 0.75
    stored = (np.round(real * 200) - 100).astype(np.int8)
    result = said(card(decoder="yolov5"), stored, quantization={"out0": (1 / 200, -100)})
    assert found(result) == [((120.0, 80.0, 200.0, 240.0), 0)] and result.detections[0].score == 0.75


# --- other tasks ------------------------------------------------------------------------------------------------------


def test_top_k_lists_the_best_classes_and_makes_probabilities_of_logits() -> None:
    scores = np.log(np.array([[1, 2, 4, 1]], np.float32))
    result = said(card(decoder="top_k", labels=list("abcd"), top_k=2, logits=True), scores)
    assert [(c.label, c.index, c.score) for c in result.classes] == [("c", 2, 0.5), ("b", 1, 0.25)]
    quantized = said(card(decoder="top_k"), np.array([[0, 128, 64]], np.uint8), quantization={"out0": (1 / 256, 0)})
    assert [(c.label, c.score) for c in quantized.classes] == [("class 1", 0.5), ("class 2", 0.25)]


def test_a_segmentation_counts_the_source_images_pixels_only() -> None:
    classes = np.full((1, 20, 20), 9, np.int64)  # the letterbox: rows 5 to 15 hold the image
    classes[0, 5:15] = 0
    classes[0, 5:15, :8] = 1
    given, pixels = card(decoder="segmentation", labels=["none", "cat"]), model_pixels(100, 100, "letterbox")
    result = said(given, classes, picture=(100, 200), pixels=pixels)
    assert [(s.label, s.share) for s in result.segments] == [("none", 0.6), ("cat", 0.4)]
    mask = segmentation_map(given, {"out0": classes}, {}, (100, 200), pixels)
    assert mask is not None and mask.shape == (100, 200) and mask.dtype == np.uint8
    assert (mask[:, :80] == 1).all() and (mask[:, 80:] == 0).all()


def test_a_segmentation_of_scores_takes_the_best_class_or_one_half() -> None:
    scores = np.zeros((1, 4, 4, 3), np.float32)
    scores[..., 2] = 0.5
    assert [s.index for s in said(card(decoder="segmentation"), scores).segments] == [2]
    single = np.full((1, 4, 4, 1), 0.25, np.float32)
    assert [s.index for s in said(card(decoder="segmentation", logits=True), single).segments] == [1]
    assert [s.index for s in said(card(decoder="segmentation", logits=False), single).segments] == [0]


def test_heatmaps_give_the_middle_of_the_best_cell_or_the_place_that_offsets_say() -> None:
    maps = np.full((1, 5, 5, 2), -4.0, np.float32)
    maps[0, 1, 3, 0] = maps[0, 4, 0, 1] = 4.0
    pixels = model_pixels(65, 65)
    plain = said(card(decoder="heatmaps", keypoints=["a", "b"], logits=True), maps, picture=(65, 65), pixels=pixels)
    assert [(k.name, k.x, k.y, k.score) for k in plain.keypoints] == [("a", 45.5, 19.5, 0.982), ("b", 6.5, 58.5, 0.982)]
    offsets = np.zeros((1, 5, 5, 4), np.float32)
    offsets[0, 1, 3] = 2.0, 0, 5.0, 0
    exact = said(card(decoder="heatmaps", logits=True), maps, offsets, picture=(65, 65), pixels=pixels)
    assert [(k.name, k.x, k.y) for k in exact.keypoints] == [("point 0", 53.0, 18.0), ("point 1", 0.0, 64.0)]


def test_raw_outputs_are_told_by_shape_statistics_and_digest_and_not_interpreted() -> None:
    given = np.array([[3, 5, 7]], np.uint8)
    result = said(card(decoder="raw"), given, np.zeros((1, 0), np.float32), quantization={"out0": (0.5, 3)})
    one, empty = result.outputs
    assert (one.name, one.shape, one.dtype, one.low, one.high, one.mean) == ("out0", (1, 3), "uint8", 0.0, 2.0, 1.0)
    assert one.digest == digest(given.tobytes()) and empty.shape == (1, 0) and empty.mean == 0.0
    assert sentence(result).startswith("raw outputs: out0 uint8 1x3 from 0 to 2, mean 1; out1 float32 1x0")
    many = said(card(decoder="raw"), *(np.zeros(1, np.float32) for _ in range(40)))
    assert len(many.outputs) == 32 and sentence(many).endswith("; 28 more")


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_an_error_that_names_the_output(decoder: str, bad: float) -> None:
    output = np.zeros((1, 8, 8, 25), np.float32)
    output[0, 3, 4, 5] = bad
    with pytest.raises(EngineError, match=r"output 'out0' holds 1 values of 1600 that are not finite numbers"):
        said(card(decoder=decoder), output)


HUGE = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("given", "outputs"),
    [
        (card(decoder="yolov5"), [np.array([[[HUGE] * 4 + [1] * 4] * 3], np.float32)]),
        (card(decoder="yolov8"), [np.repeat(np.array([[[HUGE], [-HUGE], [-HUGE], [HUGE], [1], [1], [1]]], "f4"), 9, 2)]),
        (card(decoder="movenet"), [np.full((1, 1, 3, 3), HUGE, np.float32)]),
    ],
    ids=lambda given: given.decoder if isinstance(given, Card) else "",
)
def test_finite_outputs_that_lead_to_no_finite_place_are_an_error(given: Card, outputs: list[np.ndarray]) -> None:
    with pytest.raises(EngineError, match="a place that is no finite number"):
        said(given, *outputs, picture=(30, 40))


@pytest.mark.parametrize("number", [-1.0, -HUGE, 2.0**20, 1e15, HUGE])
def test_a_class_that_no_model_has_is_an_error(number: float) -> None:
    outputs = [np.array([[[0, 0, 1, 1]]], "f4"), np.array([[number]], "f4"), np.array([[0.9]], "f4"), np.array([1], "f4")]
    with pytest.raises(EngineError, match="the model gives classes"):
        said(card(decoder="ssd"), *outputs)


def test_a_strangers_word_of_a_giant_picture_takes_no_memory() -> None:
    scores = np.zeros((1, 4, 4, 2), np.float32)
    scores[0, :2, :, 1] = 1
    tracemalloc.start()
    result = said(card(decoder="segmentation", labels=["none", "cat"]), scores, picture=(65535, 65535))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert [(s.label, round(s.share, 3)) for s in result.segments] in (
        [("none", 0.5), ("cat", 0.5)], [("cat", 0.5), ("none", 0.5)]
    )  # fmt: skip


@given(st.integers(1, 5), st.integers(1, 5), side, side, side, side, st.sampled_from(["letterbox", "stretch"]))
def test_shares_are_those_of_the_map_of_the_source_image(
    rows: int, cols: int, h: int, w: int, height: int, width: int, how: str
) -> None:
    classes = np.random.default_rng(h).integers(0, 4, (1, rows, cols), np.int32)
    given, pixels = card(decoder="segmentation", max_detections=4), model_pixels(height, width, how)
    shares = {s.index: s.share for s in said(given, classes, picture=(h, w), pixels=pixels).segments}
    mask = segmentation_map(given, {"out0": classes}, {}, (h, w), pixels)
    assert mask is not None
    counted = {i: round(int((mask == i).sum()) / mask.size, 4) for i in range(4)}
    assert shares == {i: share for i, share in counted.items() if share >= 0.0001}


def test_a_missing_output_and_a_missing_opencv_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanError, match=r"decoder 'top_k' needs output 'scores', the model gave \['out0'\]"):
        said(card(decoder="top_k", outputs=["scores"]), np.zeros((1, 3), np.float32))
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    assert said(card(decoder="yolov5"), np.zeros((1, 9, 6), np.float32)).detections == ()
    with pytest.raises(PlanError, match=r"needs OpenCV: pip install 'deepthings-mqtt\[camera\]'"):
        said(card(decoder="yolov5"), np.ones((1, 9, 6), np.float32))


def test_a_segmentation_map_of_classes_beyond_a_byte_is_an_error() -> None:
    with pytest.raises(EngineError, match="holds classes 0 to 300, not 0 to 255"):
        said(card(decoder="segmentation"), np.array([[[0, 300]]], np.int32))


# --- real models, unpartitioned ---------------------------------------------------------------------------------------


class Model:
    """A shared model on one machine, with a card of ours, or guessed where that names no decoder; state is fed back."""

    def __init__(self, folder: Path, name: str, toml: str) -> None:
        path = folder / f"{Path(name).name}.tflite"
        path.symlink_to(shared(f"data/models/{name}.tflite"))
        self.graph = load(path)
        if "decoder" not in toml:
            toml += card_text(load_card(path, self.graph)[0])
        path.with_suffix(".toml").write_text(toml)
        self.card, guessed = load_card(path, self.graph)
        assert not guessed
        image = self.graph.tensors[image_input(self.graph)]
        _, height, width, _ = image.shape
        self.pixels = Pixels.model_validate(
            {"tensor": image.name, "height": height, "width": width, "dtype": image.dtype, **self.card.pixels()}
        )
        self._engine = engine.load(path.read_bytes(), threads=2)
        self.state: dict[str, np.ndarray] = {}

    def outputs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Source image (height, width, 3; uint8 RGB) -> outputs by name."""
        inputs = [self.graph.tensors[t] for t in self.graph.inputs]
        given = {self.pixels.tensor: to_input(fit(image, self.pixels), self.pixels), **self.state}
        made = self._engine.run([given.get(t.name, np.zeros(t.shape, t.dtype)) for t in inputs])
        outputs = dict(zip((self.graph.tensors[t].name for t in self.graph.outputs), made, strict=True))
        self.state = {taken: outputs[given] for given, taken in self.card.state.items()}
        return outputs

    def result(self, image: np.ndarray) -> Result:
        return decode(self.card, self.outputs(image), quantization_of(self.graph), image.shape[:2], self.pixels)


def photograph(name: str) -> np.ndarray:
    image: np.ndarray = cv2.imread(str(shared(f"data/images/{name}.bmp")))[..., ::-1]
    return np.ascontiguousarray(image)


@pytest.mark.parametrize(
    "name", ["mobilenet_v1_0.25_128_quant", "mobilenet_v2_1.0_224_quant", "tf2_mobilenet_v2_1.0_224_ptq"]
)
def test_mobilenets_name_the_cat_and_the_uniform(name: str, tmp_path: Path) -> None:
    labels = shared("data/models/imagenet_labels.txt")
    model = Model(tmp_path, name, f'decoder = "top_k"\nlabels = "{labels}"\n')
    cat = [c.label for c in model.result(photograph("cat")).classes]
    assert {"tabby, tabby cat", "tiger cat", "Egyptian cat"} & set(cat[:2]), cat
    uniform = [c.label for c in model.result(photograph("grace_hopper")).classes]
    assert "military uniform" in uniform, uniform
    assert name.startswith("mobilenet_v1") or uniform[0] == "military uniform"


@pytest.mark.parametrize("how", ["letterbox", "stretch"])
def test_deeplab_segments_bird_and_cat(how: str, tmp_path: Path) -> None:
    labels = shared("data/models/pascal_voc_segmentation_labels.txt")
    toml = f'decoder = "segmentation"\nlabels = "{labels}"\n[input]\nfit = "{how}"\n'
    model = Model(tmp_path, "deeplabv3_mnv2_dm05_pascal_quant", toml)
    for name, least, most in (("bird", 0.12, 0.22), ("cat", 0.35, 0.5)):
        shares = {s.label: s.share for s in model.result(photograph(name)).segments}
        assert set(shares) == {"background", name} and least < shares[name] < most, shares
        assert math.isclose(sum(shares.values()), 1.0, abs_tol=0.001)


def test_movenet_places_17_keypoints_on_the_squatting_man(tmp_path: Path) -> None:
    model = Model(tmp_path, "movenet_single_pose_lightning_ptq", 'decoder = "movenet"\n')
    points = {k.name: k for k in model.result(photograph("squat")).keypoints}
    assert tuple(points) == COCO_KEYPOINTS
    assert all(0 <= p.x <= 500 and 0 <= p.y <= 610 for p in points.values())
    assert sum(p.score > 0.4 for p in points.values()) >= 14
    for a in ("left", "right"):
        heights = [points[f"{a}_{part}"].y for part in ("ear", "shoulder", "hip", "knee", "ankle")]
        assert heights == sorted(heights), (a, heights)
    # By hand, on the picture: the man looks to the right, his nose is at (290, 205), his hips are far behind his feet.
    assert math.dist((points["nose"].x, points["nose"].y), (290, 205)) < 25
    assert math.dist((points["right_ankle"].x, points["right_ankle"].y), (165, 545)) < 30
    assert points["right_hip"].x < points["right_ankle"].x < points["right_knee"].x


STATE = """[state]
"raw_outputs/lstm_c" = "raw_inputs/init_lstm_c"
"raw_outputs/lstm_h" = "raw_inputs/init_lstm_h"
"""


def test_the_lstm_detector_follows_the_car_with_its_state_fed_back(tmp_path: Path) -> None:
    model = Model(tmp_path, "traffic_model", f'decoder = "ssd"\n{STATE}')
    frames = Video(shared("data/video/car-detection.mp4"), loop=False).frames()
    results = [model.result(image) for image, _ in zip(frames, range(68))]
    assert set(model.state) == {"raw_inputs/init_lstm_c", "raw_inputs/init_lstm_h"}
    assert not any(r.detections for r in results[:54])  # an empty street
    assert all(r.detections for r in results[56:66])
    # By hand: in frame 62 the car fills x 284 to 472 and y 302 to 432.
    x0, y0, x1, y1 = results[62].detections[0].box
    inner = max(0.0, min(x1, 472) - max(x0, 284)) * max(0.0, min(y1, 432) - max(y0, 302))
    assert inner / (188 * 130) > 0.8, results[62].detections


def test_clipping_leaves_pairs_inside_alone() -> None:
    assert clipped(np.array([[-1.0, 5.0, 30.0, 9.0]]), (8, 20)).tolist() == [[0.0, 5.0, 20.0, 8.0]]
