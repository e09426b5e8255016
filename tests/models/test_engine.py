"""Whichever runtime is installed: it runs graphs, says what it is, and its refusals are errors of ours."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import engine
from models.graph import Op
from schemas.errors import EngineError, PlanError
from tests.models.sketch import Sketch

ROOT = Path(__file__).resolve().parents[2]


def test_the_runtime_is_named_with_its_version() -> None:
    assert re.fullmatch(r"(ai-edge-litert|tflite-runtime) \d+\.\d+.*", engine.runtime())


def test_kernels_are_runtime_machine_and_a_digest_that_another_process_finds_too() -> None:
    assert re.fullmatch(re.escape(f"{engine.runtime()} {platform.machine()} ") + "[0-9a-f]{8}", engine.kernels())
    command = [sys.executable, "-c", "from models import engine; print(engine.kernels())"]
    other = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert other.stdout.strip() == engine.kernels(), other.stderr


def two_outputs() -> tuple[Sketch, bytes]:
    """Minus the image, and the image twice: outputs of different shapes, the later one first."""
    net = Sketch((1, 5, 4, 3))
    x, y = net.concat(0, 0), net.unary("NEG", 0)
    return net, net.graph(y, x).to_bytes()


def test_outputs_come_in_the_graphs_order_and_belong_to_the_caller() -> None:
    _, model = two_outputs()
    ready = engine.load(model)
    image = np.random.default_rng(0).standard_normal((1, 5, 4, 3)).astype(np.float32)
    first = ready.run([image])
    assert np.array_equal(first[0], -image)
    assert np.array_equal(first[1], np.concatenate([image, image], axis=3))
    ready.run([image * 2])
    assert np.array_equal(first[0], -image)


def test_a_view_that_is_not_contiguous_is_read_as_its_values() -> None:
    _, model = two_outputs()
    image = np.random.default_rng(0).standard_normal((1, 9, 8, 3)).astype(np.float32)[:, 1:6, 2:6]
    assert np.array_equal(engine.load(model).run([image])[0], -image)


def test_a_view_that_is_not_contiguous_is_read_as_its_values_with_the_cache(tmp_path: Path) -> None:
    net, _ = two_outputs()
    image = np.random.default_rng(0).standard_normal((1, 9, 8, 3)).astype(np.float32)[:, 1:6, 2:6]
    ready = engine.load_cached(net.graph(2, 1), tmp_path / "cache")
    first = ready.run([image])
    assert np.array_equal(first[0], -image)
    assert np.array_equal(first[1], np.concatenate([image, image], axis=3))
    ready.run([image * 2])
    assert np.array_equal(first[0], -image)


def refused() -> Sketch:
    """A custom operator that no runtime knows."""
    net = Sketch((1, 5, 4, 3))
    net.ops.append(Op("CUSTOM", (0,), (net.like(0),), custom_code="Mystery"))
    return net


def test_a_graph_that_the_runtime_refuses_is_an_engine_error_of_one_line(tmp_path: Path) -> None:
    """With the weight cache it is refused at the first run, not before."""
    image = np.zeros((1, 5, 4, 3), np.float32)
    for start in (
        lambda: engine.load(refused().graph().to_bytes()),
        lambda: engine.load_cached(refused().graph(), tmp_path / "cache").run([image]),
    ):
        with pytest.raises(EngineError) as caught:
            start()
        assert engine.runtime() in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
    assert [path for path in tmp_path.iterdir() if path.suffix == ".tflite"] == []


@pytest.mark.parametrize("cached", [False, True])
def test_inputs_of_another_shape_dtype_or_number_are_an_engine_error(cached: bool, tmp_path: Path) -> None:
    net, model = two_outputs()
    ready = engine.load_cached(net.graph(2, 1), tmp_path / "cache") if cached else engine.load(model)
    for given in (
        [np.zeros((1, 5, 5, 3), np.float32)],
        [np.zeros((1, 5, 4, 3), np.float64)],
        [],
        [np.zeros((1, 5, 4, 3), np.float32)] * 2,
    ):
        with pytest.raises(EngineError):
            ready.run(given)


def test_a_cache_folder_that_is_not_there_is_named() -> None:
    net, _ = two_outputs()
    with pytest.raises(PlanError, match="cannot write to the cache folder /nowhere"):
        engine.load_cached(net.graph(1), Path("/nowhere/cache"))


def test_silence_runtime_hides_what_c_code_writes_and_keeps_what_python_writes() -> None:
    program = (
        "import os, sys; from models import engine; engine.silence_runtime(); os.write(2, b'native'); "
        "print('python', file=sys.stderr); engine.kernels(); raise SystemExit('bye')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines() == ["python", "bye"]
    assert done.returncode == 1


def test_without_a_runtime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RUNTIMES", ("no_such_runtime",))
    with pytest.raises(EngineError, match="pip install ai-edge-litert"):
        engine._runtime.__wrapped__()
