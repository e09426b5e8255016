"""`dt run` and `dt demo` with models that people bring: what they see, state from frame to frame, two sources at once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.graph.build import Network
from models.results.card import read_card
from tests.examples import share
from tests.paths import shared
from tests.test_commands import dt, refusal

MODELS = [
    "mobilenet_v1_0.25_128_quant",
    "mobilenet_v2_1.0_224_quant",
    "tf2_mobilenet_v2_1.0_224_ptq",
    "deeplabv3_mnv2_dm05_pascal_quant",
    "movenet_single_pose_lightning_ptq",
    "traffic_model",
]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


@pytest.mark.parametrize("name", share(MODELS, 2))
def test_every_shared_model_runs_exactly_through_three_edges(name: str) -> None:
    model = shared(f"data/models/{name}.tflite")
    done = dt("demo", "--edges", 3, "--frames", 3, "--model", model, "--source", shared("data/images"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_clips_of_a_drawn_scene_are_divided_exactly_by_tiles_and_filters(tmp_path: Path) -> None:
    model = tmp_path / "c3d.tflite"
    assert dt("build", "c3d", "--size", 32, "--layers", 6, "--out", model).returncode == 0
    model.with_suffix(".toml").write_text('decoder = "raw"\n[input]\nstep = 2\n')
    done = dt("demo", "--frames", 4, "--model", model, "--blocks", "max3d3=2x2,conv3d5=filters 3")
    assert done.returncode == 0, done.stdout + done.stderr


def test_run_names_what_the_pictures_show_and_draws_them(tmp_path: Path) -> None:
    model = tmp_path / "net.tflite"
    model.write_bytes(shared("data/models/mobilenet_v2_1.0_224_quant.tflite").read_bytes())
    labels = shared("data/models/imagenet_labels.txt")
    (tmp_path / "net.toml").write_text(f'decoder = "top_k"\nlabels = "{labels}"\n[input]\nfit = "stretch"\n')
    report, pictures = tmp_path / "seen.jsonl", tmp_path / "pictures"
    done = dt("run", model, "--source", shared("data/images"), "--json", report, "--pictures", pictures)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(0 < line["time"] < 60 and line["status"] == "ok" for line in lines(report))  # type: ignore[operator]
    seen = {line["frame"]: [c["label"] for c in line["classes"]] for line in lines(report)}  # type: ignore[attr-defined]
    assert "Egyptian cat" in seen[1] and "military uniform" in seen[3]
    assert len(list(pictures.glob("*.png"))) == len(list(shared("data/images").iterdir())) == len(seen)


def test_run_finds_a_face_and_writes_the_card_that_it_guessed(tmp_path: Path) -> None:
    model, picture = shared("data/models/mediapipe/face_detection_short_range.tflite"), shared("data/images/grace_hopper.bmp")
    report, card = tmp_path / "seen.jsonl", tmp_path / "face.toml"
    done = dt("run", model, "--source", picture, "--json", report, "--pictures", tmp_path, "--write-card", card)
    assert done.returncode == 0, done.stdout + done.stderr
    faces: Any = lines(report)[0]["detections"]
    (face,) = faces
    assert face["label"] == "face" and len(face["keypoints"]) == 6 and (tmp_path / "edge1-00000.png").exists()
    assert read_card(card).strides == (8, 16, 16, 16) and f"written to {card}" in done.stdout.replace("\n", "")
    again = dt("run", model, "--source", picture, "--write-card", card)
    assert again.returncode == 2 and "already exists" in again.stderr and "Traceback" not in again.stderr


def test_run_tells_statistics_and_digests_of_outputs_that_nobody_knows(tmp_path: Path) -> None:
    report = tmp_path / "seen.jsonl"
    model = shared("data/graphs/focus_slices-f32.tflite")
    done = dt("run", model, "--source", shared("data/images/cat.bmp"), "--json", report)
    assert done.returncode == 0, done.stdout + done.stderr
    outputs: Any = lines(report)[0]["outputs"]
    (output,) = outputs
    assert output["shape"] == [1, 5] and len(output["digest"]) == 32 and output["low"] < output["mean"] < output["high"]
    assert "raw outputs: StatefulPartitionedCall_1:0 float32 1x5 from" in done.stdout


def test_an_input_that_nobody_gives_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "two.tflite"
    path.write_bytes(shared("data/graphs/multi_input-f32.tflite").read_bytes())
    done = dt("run", path, "--source", shared("data/images/cat.bmp"))
    assert done.returncode == 2 and "needs 'serving_default_meta:0'" in done.stderr and "[inputs]" in done.stderr
    path.with_suffix(".toml").write_text('decoder = "raw"\n[inputs]\n"serving_default_meta:0" = 0.5\n')
    done = dt("run", path, "--source", shared("data/images/cat.bmp"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_run_places_seventeen_keypoints_and_segments(tmp_path: Path) -> None:
    report = tmp_path / "seen.jsonl"
    pose = shared("data/models/movenet_single_pose_lightning_ptq.tflite")
    assert dt("run", pose, "--source", shared("data/images/squat.bmp"), "--json", report).returncode == 0
    (line,) = lines(report)
    assert len(line["keypoints"]) == 17  # type: ignore[arg-type]
    deeplab = shared("data/models/deeplabv3_mnv2_dm05_pascal_quant.tflite")
    picture = shared("data/images/cat.bmp")
    done = dt("run", deeplab, "--source", picture, "--json", report, "--pictures", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines(report)[0]["segments"]) >= 2 and (tmp_path / "edge1-00000.png").exists()  # type: ignore[arg-type]


def recurrent(path: Path) -> None:
    """A model whose answer depends on all frames before: memory' = 0.5 * memory + features, answer = tanh-free sum."""
    network = Network((32, 32, 3))
    network.add(("conv", 4, 3, 1))
    network.add(("max", 2, 2))
    features = network.layers[-1]
    memory = network.tensor("memory_in", (1, 16, 16, 4))
    half = network.constant("half", np.array([0.5], np.float32))
    faded = network.op("MUL", [memory, half], network.tensor("faded", (1, 16, 16, 4)), "Mul")
    after = network.op("ADD", [faded, features], network.tensor("memory_out", (1, 16, 16, 4)), "Add")
    graph = network.graph()
    whole = type(graph)(network.tensors, network.ops, (0, memory), (after,))
    path.write_bytes(whole.to_bytes())
    path.with_suffix(".toml").write_text('decoder = "raw"\n[state]\nmemory_out = "memory_in"\n')


def test_a_recurrent_model_keeps_its_state_for_each_of_two_sources(tmp_path: Path) -> None:
    """The demo compares with the unpartitioned model that is fed its own state: a mix-up of sources or order differs."""
    model, report = tmp_path / "memory.tflite", tmp_path / "demo.json"
    recurrent(model)
    sources = ["--source", "synthetic://?seed=1", "--source", "synthetic://?seed=2"]
    done = dt("demo", "--edges", 3, "--frames", 12, "--model", model, "--grid", "2x2", *sources, "--json", report)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(report.read_text())["frames"] == 24


def test_the_lstm_detector_keeps_its_state_over_fifty_frames_of_two_videos_at_once(tmp_path: Path) -> None:
    frames = len(share(range(50), 12))
    model, report = tmp_path / "traffic.tflite", tmp_path / "demo.json"
    model.write_bytes(shared("data/models/traffic_model.tflite").read_bytes())
    videos = [shared("data/video/car-detection.mp4"), shared("data/video/one-by-one-person-detection.mp4")]
    sources = [argument for video in videos for argument in ("--source", video)]
    done = dt("demo", "--edges", 3, "--frames", frames, "--model", model, "--grid", "2x2", *sources, "--json", report)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(report.read_text())["frames"] == 2 * frames


BROKEN = [
    ("decoder = ", "net.toml"),
    ('decoder = "yolo9"', "yolo9"),
    ('decoder = "top_k"\nlabels = ["a", "b"]', "labels"),
    ('decoder = "yolov2"\nanchors = [[1, 1], [2, 2], [3, 3]]', "yolov2"),
    ('decoder = "top_k"\nlabels = "absent.txt"', "absent.txt"),
]


@pytest.mark.parametrize(("card", "says"), BROKEN, ids=[card for card, _ in BROKEN])
def test_a_broken_card_is_one_line(card: str, says: str, tmp_path: Path) -> None:
    model = tmp_path / "net.tflite"
    model.write_bytes(shared("data/models/mobilenet_v1_0.25_128_quant.tflite").read_bytes())
    (tmp_path / "net.toml").write_text(card)
    assert says in refusal("run", model, "--source", "synthetic://?frames=1")


def test_a_truncated_model_is_one_line(tmp_path: Path) -> None:
    model = tmp_path / "net.tflite"
    model.write_bytes(shared("data/models/mobilenet_v1_0.25_128_quant.tflite").read_bytes()[:200_000])
    assert "damaged .tflite file" in refusal("run", model, "--source", "synthetic://?frames=1")
