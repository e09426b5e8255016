"""The files that ship: small, exact in tiles, and able to read."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

import models
from edge_agent.sources.scenes.scenes import moving_scene
from models.bundle import make_bundle
from models.graph.file import load
from models.results.card import load_card
from models.results.readings import read_panels
from models.tiling.partition import Partition
from models.verify import Verifier
from training.view import Reader, letterbox, square

ZOO = Path(models.__file__).parent / "zoo"
FILES = [ZOO / "digits.tflite", ZOO / "digits_int8.tflite"]
files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_both_files_together_are_at_most_3_mb() -> None:
    assert sum(path.stat().st_size for path in FILES) <= 3_000_000


@files
def test_the_card_fits_and_says_how_it_was_made(path: Path) -> None:
    card, guessed = load_card(path)
    assert not guessed
    assert (card.decoder, card.task, card.labels) == ("grid", "detect", tuple("0123456789"))
    assert card.made["command"].startswith("python -m training") and card.made["ap50"] >= 0.9


@files
def test_the_model_is_within_its_budget(path: Path) -> None:
    graph = load(path)
    image = graph.tensors[graph.inputs[0]]
    assert image.shape == (1, 320, 320, 3)
    partition = Partition(graph)
    assert partition.flops(sorted(partition.tileable)) <= 2 * 1.5e9


def test_the_int8_file_takes_the_pixel_minus_128() -> None:
    graph = load(FILES[1])
    image, out = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    assert image.dtype == out.dtype == "int8" and image.quantization is not None
    assert image.quantization.zero_point == (-128,)
    assert image.quantization.scale[0] == pytest.approx(1 / 255)


@files
def test_the_whole_model_tiles_bit_for_bit(path: Path) -> None:
    deepest = Partition(load(path)).cuts[-1]
    assert deepest.ops[-1] == len(load(path).ops) - 1, "the cut is at the head"
    frame = letterbox(moving_scene(2, 5).image, square(320))
    noise = np.random.default_rng(1).integers(0, 256, frame.shape, np.uint8)
    verifier = Verifier(make_bundle(path, (3, 3), deepest.name))
    for image in (frame, noise):
        for differences in verifier.check(image):
            assert differences and all(d.differing == 0 for d in differences)


@files
def test_films_are_read_right(path: Path) -> None:
    reader, right = Reader(path), 0
    for number in range(30):
        scene = moving_scene(number // 6, 17 * number)
        right += Counter(read_panels(reader.read(scene.image))) == Counter(scene.readings)
    assert right >= 27
