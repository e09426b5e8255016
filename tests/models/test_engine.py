"""Whichever runtime is installed: it runs graphs, says what it is, and its refusals are errors of ours."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from models.graph import runtime as graph_runtime
from models.graph.file import Op
from models.running import engine
from models.running.samples import ARITHMETICS, arithmetics, sample
from schemas.contract.errors import EngineError, PlanError
from tests.models.sketch import Sketch, quantized

ROOT = Path(__file__).resolve().parents[2]


def test_the_runtime_is_named_with_its_version() -> None:
    assert re.fullmatch(r"(ai-edge-litert|tflite-runtime) \d+\.\d+.*", engine.runtime())


def test_kernels_are_runtime_machine_and_a_digest_of_each_arithmetic_that_another_process_finds_too() -> None:
    said = "".join(f" {arithmetic}=[0-9a-f]{{8}}" for arithmetic in ARITHMETICS)
    assert re.fullmatch(re.escape(f"{engine.runtime()} {platform.machine()}") + said, engine.kernels())
    assert engine.kernels(["int8"]).split()[-1] == engine.kernels().split()[4]
    command = [sys.executable, "-c", "from models.running import engine; print(engine.kernels())"]
    other = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert other.stdout.strip() == engine.kernels(), other.stderr


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_one_operator_with_other_bits_changes_the_digest_of_its_arithmetic(
    arithmetic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the uint8 convolution of a Cortex-A53 does. Whichever operator it is: each has its map in the digest."""
    graph, image = sample(arithmetic)
    made = engine.load(graph.to_bytes()).run([image])
    assert len(made) == sum(graph.tensors[op.outputs[0]].dtype == str(image.dtype) for op in graph.ops)
    said = engine.kernels([arithmetic])
    for spoilt in made:
        engine._bits.cache_clear()
        bits = spoilt.view(np.uint8).reshape(-1)
        bits[0] ^= 1
        monkeypatch.setattr(engine, "load", lambda _: Mock(**{"run.return_value": made}))
        assert engine.kernels([arithmetic]) != said
        bits[0] ^= 1
    engine._bits.cache_clear()
    assert engine.kernels([arithmetic]) == said
    engine._bits.cache_clear()


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_sample_has_numbers_that_tell(arithmetic: str) -> None:
    """No map is all but saturated or has a NaN, whose sign processors choose."""
    graph, image = sample(arithmetic)
    for made in engine.load(graph.to_bytes()).run([image]):
        assert len(np.unique(made)) >= min(made.size, 9) / 5 and not np.isnan(made.astype(np.float64)).any()


def test_what_is_kept_on_disk_has_another_name_on_another_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that moves from a Pi 4 to a Pi 5, which agree in every bit, or to another Pi 4."""
    pi4 = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd\nCPU part\t: 0xd08\n\nSerial\t: 1\n"
    names = []
    for text in (pi4, pi4.replace("d08", "d0b"), pi4.replace("Serial\t: 1", "Serial\t: 2").replace("108", "109"), None):
        (tmp_path / "cpuinfo").unlink(missing_ok=True)
        if text is not None:
            (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(engine, "_CPUINFO", tmp_path / "cpuinfo")
        names.append(engine.here.__wrapped__())
    assert names[0] == names[2] and len(set(names)) == 3
    monkeypatch.setattr(engine, "kernels", lambda: "others")
    assert engine.here.__wrapped__() not in names


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_a_graph_has_the_arithmetics_of_the_maps_that_it_makes(dtype: str) -> None:
    net = Sketch((1, 9, 9, 3), "uint8", quantized(0.05, 128))
    x = net.conv(net.cast("DEQUANTIZE" if dtype == "float32" else "QUANTIZE", 0, dtype, None if dtype == "float32" else
                          quantized(0.05, 3)), 4, half=True) if dtype != "uint8" else net.conv(0, 4)  # fmt: skip
    assert arithmetics(net.graph(x)) == (dtype,)


def test_dynamic_range_quantization_is_an_arithmetic_of_its_own() -> None:
    """Its sums are of integers, which a Cortex-A76 has other kernels for than an A72."""
    assert arithmetics(sample("dynamic")[0]) == ("float32", "dynamic")
    assert arithmetics(sample("float32")[0]) == ("float32", "int8")  # there and back


@pytest.mark.skipif(not engine.runtime().startswith("ai-edge-litert"), reason="only ai-edge-litert has a weight cache")
def test_only_graphs_of_an_arithmetic_whose_compiled_bits_differ_have_no_weight_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bits = engine._bits
    monkeypatch.setattr(engine, "_bits", lambda a: (b"other",) if a == "uint8" else bits(a))
    engine._has_cache.cache_clear()
    shared = []
    for dtype in ("float32", "int8", "uint8"):
        net = Sketch((1, 9, 9, 3), dtype, None if dtype == "float32" else quantized(0.05, 3))
        shared.append(engine.shares_weights(net.graph(net.conv(0, 4))))
    engine._has_cache.cache_clear()
    assert shared == [True, True, False]


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
        "import os, sys; from models.running import engine; engine.silence_runtime(); os.write(2, b'native'); "
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
    monkeypatch.setattr(graph_runtime, "RUNTIMES", ("no_such_runtime",))
    with pytest.raises(EngineError, match="pip install ai-edge-litert"):
        graph_runtime.installed.__wrapped__()
