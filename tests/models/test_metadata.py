"""What a model's file says of itself, and what it may not do."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.graph.metadata import About, about
from models.results.card import load_card
from schemas.contract.errors import PlanError
from tests.models.test_card import classifier
from tests.paths import shared

YOLO = {"names": {0: "person", 1: "bicycle"}, "task": "pose", "kpt_shape": [17, 3], "stride": 32, "end2end": True}


def zipped(**files: str) -> bytes:
    folder = io.BytesIO()
    with zipfile.ZipFile(folder, "w") as file:
        for name, text in files.items():
            file.writestr(name.replace("_", "."), text)
    return folder.getvalue()


def model(tmp_path: Path, behind: bytes, classes: int = 4) -> Path:
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier(classes).to_bytes() + behind)
    return path


@pytest.mark.parametrize(("name", "text"), [("metadata_json", json.dumps(YOLO)), ("temp_meta_txt", str(YOLO))])
def test_what_ultralytics_exporters_append_is_read(name: str, text: str, tmp_path: Path) -> None:
    found = about(model(tmp_path, zipped(**{name: text})))
    assert found == About(("person", "bicycle"), task="pose", keypoints=17, end_to_end=True)


def test_labels_of_the_file_are_the_cards_if_they_are_as_many_as_the_classes(tmp_path: Path) -> None:
    path = model(tmp_path, zipped(labels_txt="cat\ndog\n\nbird\nfish\n"))
    assert load_card(path)[0].labels == ("cat", "dog", "bird", "fish")
    path.with_suffix(".toml").write_text('decoder = "top_k"\n')
    assert load_card(path)[0].labels == ("cat", "dog", "bird", "fish")
    path.with_suffix(".toml").write_text('decoder = "top_k"\nlabels = ["a", "b", "c", "d"]\n')
    assert load_card(path)[0].labels == ("a", "b", "c", "d")
    path.with_suffix(".toml").unlink()
    assert load_card(model(tmp_path, zipped(labels_txt="cat\ndog\n")))[0].labels == ()
    assert load_card(model(tmp_path, zipped(a_txt="a\nb\nc\nd\n", b_txt="e\nf\ng\nh\n")))[0].labels == ()


@pytest.mark.parametrize("name", ["mediapipe/face_detection_short_range", "mobilenet_v2_1.0_224_quant"])
def test_tflites_own_metadata_tell_the_scale_of_the_pixels(name: str) -> None:
    found = about(shared(f"data/models/{name}.tflite"))
    assert (found.scale, found.offset) == ((1 / 127.5,), (-1.0,))
    assert len(found.labels) == (1001 if "mobilenet" in name else 0)


def test_a_model_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot read the model"):
        about(tmp_path / "none.tflite")


def test_a_giant_file_behind_a_model_is_not_unpacked(tmp_path: Path) -> None:
    assert about(model(tmp_path, zipped(labels_txt="x\n" * 2**20))) == About()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_metadata_are_passed_over(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = bytearray(shared("data/models/mobilenet_v1_0.25_128_quant.tflite").read_bytes())
    start = whole.index(b"M001") - 4
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(start, start + 690))] = data.draw(st.integers(0, 255))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(len(whole) - 12000, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "net.tflite"
    path.write_bytes(whole)
    assert isinstance(about(path), About)
