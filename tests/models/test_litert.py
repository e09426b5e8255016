"""The weight-cached engine computes the interpreter's bits, shares one cache, and lets Python go on."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from models import engine, graph
from models.build import build
from models.bundle import make_bundle
from models.runner import TileRunner
from tests.paths import shared

pytestmark = pytest.mark.skipif(
    not engine.runtime().startswith("ai-edge-litert"), reason="only ai-edge-litert has a weight cache"
)


def test_this_runtime_is_one_that_we_know() -> None:
    assert engine._has_cache(), "the pinned ai-edge-litert must offer the weight cache"


@pytest.mark.parametrize("name", ["yolov2", "data/models/deeplabv3_mnv2_dm05_pascal_quant.tflite"])
def test_all_classes_share_one_cache_and_equal_the_interpreter(name: str, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite" if name == "yolov2" else shared(name)
    if name == "yolov2":
        model.write_bytes(build("yolov2", size=320, layers=16).to_bytes())
    bundle = make_bundle(model, (3, 3))
    pixels = bundle.plan.pixels
    image = np.random.default_rng(3).integers(0, 256, (1, pixels.height, pixels.width, 3), np.uint8)
    plain = TileRunner(bundle.plan, graph.parse(bundle.edge_model))
    for _ in ("built", "reused from the disk"):
        cached = TileRunner(bundle.plan, graph.parse(bundle.edge_model), tmp_path)
        for tile in (*bundle.plan.blocks[0].order, 0):
            want = plain.run(0, tile, plain.crops(image, 0, tile))
            for tensor, got in cached.run(0, tile, plain.crops(image, 0, tile)).items():
                np.testing.assert_array_equal(got, want[tensor])
    assert len(list(tmp_path.glob("*.xnnpack"))) == 1 and not list(tmp_path.glob("class-*"))


def test_another_thread_goes_on_while_a_tile_computes(tmp_path: Path) -> None:
    model = graph.parse(build("yolov2", size=416, layers=16).to_bytes())
    ready = engine.load_cached(model, tmp_path / "cache")
    image = np.zeros((1, 416, 416, 3), np.float32)
    ready.run([image])
    woken: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.001):
            woken.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.monotonic()
    ready.run([image])
    end = time.monotonic()
    done.set()
    thread.join()
    assert sum(start < moment < end for moment in woken) >= 5, "nobody else ran for the whole of a tile"


def test_a_cache_file_of_garbage_is_not_believed(tmp_path: Path) -> None:
    model = graph.parse(build("mini").to_bytes())
    image = np.random.default_rng(1).random((1, 320, 320, 3), dtype=np.float32)
    want = engine.load(model.to_bytes()).run([image])[0]
    cache = tmp_path / "cache"
    for garbage in (b"", b"no cache at all", b"\0" * 4096):
        cache.write_bytes(garbage)
        np.testing.assert_array_equal(engine.load_cached(model, cache).run([image])[0], want)
    engine.load_cached(model, cache).run([image])
    whole = cache.read_bytes()
    cache.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(engine.load_cached(model, cache).run([image])[0], want)


def test_engines_that_are_dropped_give_their_memory_back(tmp_path: Path) -> None:
    model = graph.parse(build("mini", size=64).to_bytes())

    def resident_mb() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 1e6

    for _ in range(20):
        engine.load_cached(model, tmp_path / "cache").run([np.zeros((1, 64, 64, 3), np.float32)])
    before = resident_mb()
    for _ in range(100):
        engine.load_cached(model, tmp_path / "cache").run([np.zeros((1, 64, 64, 3), np.float32)])
    assert resident_mb() < before + 30
