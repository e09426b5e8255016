"""The weight-cached engine computes the interpreter's bits, shares one cache, and lets Python go on."""

import functools
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from models.bundle import make_bundle
from models.graph import file as graph
from models.graph.build import build
from models.running import engine, litert
from models.running.runner import TileRunner
from models.running.samples import ARITHMETICS
from schemas.contract.errors import PlanError
from tests.paths import shared

pytestmark = pytest.mark.skipif(
    not engine.runtime().startswith("ai-edge-litert"), reason="only ai-edge-litert has a weight cache"
)


def test_this_runtime_is_one_that_we_know() -> None:
    assert all(map(engine._has_cache, ARITHMETICS)), "the pinned ai-edge-litert must offer the weight cache"


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


def test_another_thread_is_never_stopped_for_a_third_of_a_tile(tmp_path: Path) -> None:
    """The best of five tiles, because other programs come and go."""
    model = graph.parse(build("yolov2", size=416, layers=16).to_bytes())
    ready = engine.load_cached(model, tmp_path / "cache")
    image = np.zeros((1, 416, 416, 3), np.float32)
    ready.run([image])
    assert min(_standstill(lambda: ready.run([image])) for _ in range(5)) < 1 / 3


def _standstill(work: Callable[[], object]) -> float:
    """The longest time between two signs of life of a thread that wakes each millisecond, as a part of ``work``'s."""
    signs = []
    done = threading.Event()

    def live() -> None:
        while not done.wait(0.001):
            signs.append(time.monotonic())

    thread = threading.Thread(target=live)
    thread.start()
    start = time.monotonic()
    work()
    end = time.monotonic()
    done.set()
    thread.join()
    during = [start, *(moment for moment in signs if start < moment < end), end]
    return max(b - a for a, b in pairwise(during)) / (end - start)


@pytest.fixture(scope="module")
def mini() -> graph.Graph:
    return graph.parse(build("mini", size=64).to_bytes())


def image_of(model: graph.Graph) -> np.ndarray:
    return np.random.default_rng(1).random(model.tensors[model.inputs[0]].shape, dtype=np.float32)


def test_an_engine_may_be_used_by_one_thread_and_dropped_by_another(mini: graph.Graph, tmp_path: Path) -> None:
    want = engine.load(mini.to_bytes()).run([image_of(mini)])[0]
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        ready = [one.submit(engine.load_cached, mini, tmp_path / "cache").result()]
        got = other.submit(ready[0].run, [image_of(mini)]).result()
        one.submit(ready.clear).result()
    np.testing.assert_array_equal(got[0], want)


def damages(whole: bytes) -> Iterator[bytes]:
    """What a power cut, a bad card or somebody else leaves in the place of a cache."""
    yield b""
    yield b"no cache at all"
    yield bytes(4096)
    for length in (100, len(whole) // 2, len(whole) - 1):
        yield whole[:length]
    yield whole + b"x"
    yield whole[:4096] + bytes(len(whole) // 2) + whole[4096 + len(whole) // 2 :]
    for at in range(0, len(whole), len(whole) // 20):
        yield whole[:at] + bytes([whole[at] ^ 0x7F]) + whole[at + 1 :]


def test_a_damaged_cache_is_deleted_and_built_again(mini: graph.Graph, tmp_path: Path) -> None:
    """The runtime alone takes a flipped weight for a weight."""
    image = image_of(mini)
    want = engine.load(mini.to_bytes()).run([image])[0]
    engine.load_cached(mini, tmp_path / "cache")
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in damages(whole):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(engine.load_cached(mini, tmp_path / "cache").run([image])[0], want)
        assert [p.read_bytes() == whole for p in tmp_path.iterdir()] == [True]


def test_a_cache_is_built_once_and_one_of_a_longer_name_is_another(mini: graph.Graph, tmp_path: Path) -> None:
    for name in ("v1.xnnpack", "v1-2.xnnpack", "v1.xnnpack", "v1-2.xnnpack"):
        engine.load_cached(mini, tmp_path / name)
    found = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(found) == 2
    engine.load_cached(mini, tmp_path / "v1.xnnpack")
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == found


@pytest.mark.parametrize("name", ["a space", 'a "quote" # or two', "back\\slash", "h\u00e9\U0001f600", "\udcff"])
def test_any_name_of_a_folder_will_do(name: str, mini: graph.Graph, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    engine.load_cached(mini, folder / "cache")
    assert len(list(folder.iterdir())) == 1


def test_only_a_line_break_will_not(mini: graph.Graph, tmp_path: Path) -> None:
    (tmp_path / "a\nb").mkdir()
    with pytest.raises(PlanError, match="line break"):
        engine.load_cached(mini, tmp_path / "a\nb" / "cache")


def test_engines_that_are_dropped_give_their_memory_back(mini: graph.Graph, tmp_path: Path) -> None:
    def resident_mb() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6

    def use(times: int) -> None:
        for _ in range(times):
            engine.load_cached(mini, tmp_path / "cache").run([image_of(mini)])

    use(20)
    before, files = resident_mb(), len(list(Path("/proc/self/fd").iterdir()))
    use(500)
    assert resident_mb() < before + 10
    assert len(list(Path("/proc/self/fd").iterdir())) == files


@pytest.mark.parametrize("lack", ["version", "library", "function", "bits"])
def test_what_is_not_known_is_left_to_the_interpreter_and_said_once(
    lack: str, mini: graph.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise {"library": OSError("no libLiteRt.so"), "function": AttributeError("no such symbol")}[lack]

    def other_bits(*_: object) -> list[np.ndarray]:
        return [np.zeros((1, 13, 11, 7), np.float32)]

    if lack == "version":
        monkeypatch.setattr(litert, "VERSIONS", ("0.0.0",))
    elif lack == "library":
        monkeypatch.setattr(litert, "_environment", refuse)
    elif lack == "function":
        monkeypatch.setattr(litert, "_call", refuse)
    else:
        monkeypatch.setattr(litert.CompiledGraph, "run", other_bits)
    monkeypatch.setattr(engine, "_has_cache", functools.cache(engine._has_cache.__wrapped__))
    with caplog.at_level(logging.INFO):
        first, second = (engine.load_cached(mini, tmp_path / "cache") for _ in range(2))
    assert isinstance(first, engine._Interpreter) and isinstance(second, engine._Interpreter)
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.INFO
    assert list(tmp_path.iterdir()) == []
    want = engine.load(mini.to_bytes()).run([image_of(mini)])[0]
    np.testing.assert_array_equal(first.run([image_of(mini)])[0], want)


def test_one_environment_without_accelerators_serves_all_engines() -> None:
    """In a process of its own: other tests may load what they like."""
    program = (
        "from pathlib import Path; from models.running import engine, litert; "
        "assert all(map(engine._has_cache, engine.ARITHMETICS)); assert litert._environment.cache_info().misses == 1; "
        "maps = Path('/proc/self/maps').read_text(); assert 'libLiteRt.so' in maps; "
        "assert not any(word in maps for word in ('WebGpu', 'Accelerator', 'libvulkan', 'libOpenCL', 'Dispatch'))"
    )
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
