"""A model that kills the runtime kills a child process, and this one says so in a line; a good model is tried once."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle, make_bundle
from models.graph.file import Graph, load
from models.running import engine
from models.trial import KEEP, Trial, Verdicts, try_bundle
from schemas.contract.errors import EngineError
from tests.models.sketch import convolved, splitting


def good() -> Graph:
    return convolved().graph()


def splits_into_nothing() -> Graph:
    return splitting(0)


def grows_without_end() -> Graph:
    """PAD to a map of 100 GB, which its file calls small."""
    sketch = convolved()
    made, widths = len(sketch.tensors) - 1, sketch.constant(np.array([(0, 0), (0, 80_000), (0, 80_000), (0, 0)], np.int32))
    return sketch.graph(sketch.op("PAD", [made, widths], sketch.like(made), "Pad"))


def makes_another_shape() -> Graph:
    """A pool whose window is empty: the runtime makes an empty map of it, the file says 4x4."""
    sketch = convolved()
    made = len(sketch.tensors) - 1
    sizes = {"stride_w": 1, "stride_h": 1, "filter_width": 0, "filter_height": 0}
    return sketch.graph(sketch.op("AVERAGE_POOL_2D", [made], sketch.like(made, shape=(1, 4, 4, 4)), "Pool2D", **sizes))


def reads_out_of_bounds() -> Graph:
    sketch = convolved()
    made, index = len(sketch.tensors) - 1, sketch.constant(np.array([10**9], np.int32))
    return sketch.graph(sketch.op("GATHER", [made, index], sketch.like(made, shape=(1, 8, 8, 1)), "Gather", axis=3))


def bundle(graph: Graph, folder: Path) -> Bundle:
    path = folder / "model.tflite"
    path.write_bytes(graph.to_bytes())
    return make_bundle(path, (2, 2))


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (splits_into_nothing, r"dies of it \(SIGSEGV in a child process\)"),
        (grows_without_end, "refuses the model|dies of it"),
        (makes_another_shape, r"the runtime makes float32\(1, 0, 0, 4\) of output 't4', its file says float32\(1, 4, 4, 4\)"),
        (reads_out_of_bounds, "failed: gather index out of bounds"),
    ],
)
def test_a_model_that_the_runtime_cannot_take_is_an_error_in_one_line(
    tmp_path: Path, graph: Callable[[], Graph], words: str
) -> None:
    if not engine.runtime().startswith("ai-edge-litert"):
        words = "."  # the older runtime has its own ways
    with pytest.raises(EngineError, match=words) as caught:
        try_bundle(bundle(graph(), tmp_path), folder=tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert not (tmp_path / "tried").exists(), "nothing bad is remembered"


def test_a_good_model_is_tried_once_whatever_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle(good(), tmp_path)
    try_bundle(made, folder=tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nobody"))  # starts no second child
    try_bundle(replace(made, plan=make_bundle(made.path, (1, 2)).plan), folder=tmp_path)
    other = made.plan.model_copy(update={"model": "f" * 32})
    with pytest.raises(FileNotFoundError):
        try_bundle(replace(made, plan=other), folder=tmp_path)
    monkeypatch.setattr(engine, "here", lambda: "another processor")
    assert not Verdicts(tmp_path).knows(made.plan.model)


def test_a_folder_that_cannot_be_written_means_another_trial_and_no_failure(tmp_path: Path) -> None:
    made = bundle(good(), tmp_path)
    (tmp_path / "tried").write_text("no folder")
    try_bundle(made, folder=tmp_path)


def test_no_more_verdicts_are_kept_than_told(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path)
    for number in range(KEEP + 3):
        verdicts.add(f"{number:032x}")
    assert len(list((tmp_path / "tried").iterdir())) == KEEP
    assert verdicts.knows(f"{KEEP + 2:032x}")


def test_a_trial_ends_with_its_time_or_with_its_user_and_leaves_no_child(tmp_path: Path) -> None:
    made = bundle(good(), tmp_path)
    with Trial(made.path, made.plan, limit_s=1e-4) as late:
        assert "took more than" in str(late.verdict(wait=True))
    with Trial(made.path, made.plan) as given_up:
        assert given_up.verdict() is None
    assert given_up.ended and late.ended and "by force" in str(given_up.verdict())


def test_an_edge_tries_the_tiles_and_keeps_their_packed_weights(tmp_path: Path) -> None:
    made = bundle(good(), tmp_path)
    model = tmp_path / "edge.tflite"
    model.write_bytes(made.edge_model)
    with Trial(model, made.plan, weights=tmp_path / "packed") as missing:
        assert "cannot write to the cache folder" in str(missing.verdict(wait=True))
    (tmp_path / "packed").mkdir()
    with Trial(model, made.plan, weights=tmp_path / "packed") as trial:
        assert trial.verdict(wait=True) == ""
    kept = list((tmp_path / "packed").iterdir())
    assert bool(kept) == engine.shares_weights(load(model))


def test_no_child_outlives_who_wants_its_verdict() -> None:
    child = (
        "import time, models.trial as trial\n"
        "def begin(_): print('begun', flush=True); time.sleep(60)\n"
        "trial.Plan.model_validate_json = begin; trial.child()"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, 'model', '1', '60', '', ''])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as begun:
        assert begun.stdin is not None and begun.stdout is not None
        begun.stdin.close()
        assert begun.stdout.readline() == b"begun\n"
        killed_at = time.monotonic()
        begun.kill()
        assert begun.stdout.read() == b"" and time.monotonic() < killed_at + 30  # the other end is closed: it is gone
