"""However many threads compute, the bits are the same: of XNNPACK's kernels, which is tried, and not of all others."""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from models.graph.file import Graph, load, parse
from models.graph.runtime import installed
from models.running import engine
from models.running.samples import ARITHMETICS, sample
from tests.examples import examples
from tests.models.sketch import image_for
from tests.models.test_random_graphs import draw_graph
from tests.paths import shared

COUNTS = (2, 3, 4, 7)
MODELS = ["deeplabv3_mnv2_dm05_pascal_quant", "movenet_single_pose_lightning_ptq", "traffic_model"]


def inputs_for(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    tensors = [graph.tensors[t] for t in graph.inputs]
    return [
        rng.random(t.shape).astype(t.dtype) if t.dtype == "float32" else rng.integers(0, 120, t.shape).astype(t.dtype)
        for t in tensors
    ]


def assert_one_answer(graph: Graph, given: list[np.ndarray], counts: tuple[int, ...] = COUNTS) -> None:
    data = graph.to_bytes()
    made = [[array.tobytes() for array in engine.load(data, count).run(given)] for count in (1, *counts)]
    assert all(answer == made[0] for answer in made), [op.kind for op in graph.ops]


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_any_graph_gives_the_same_bits_with_any_number_of_threads(dtype: str) -> None:
    @examples(60, suppress_health_check=list(HealthCheck))
    @given(st.data(), st.sampled_from(COUNTS))
    def check(data: st.DataObject, count: int) -> None:
        graph = draw_graph(data, dtype)
        assert_one_answer(graph, [image_for(graph)], (count,))

    check()


@pytest.mark.parametrize("name", MODELS)
def test_models_that_people_bring_give_the_same_bits_with_any_number_of_threads(name: str) -> None:
    graph = load(shared(f"data/models/{name}.tflite"))
    assert_one_answer(graph, inputs_for(graph))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_so_does_the_path_with_shared_weights(arithmetic: str, tmp_path: Path) -> None:
    graph, image = sample(arithmetic)
    graph = parse(graph.to_bytes())
    wanted = [array.tobytes() for array in engine.load(graph.to_bytes()).run([image])]
    for count in COUNTS:
        made = engine.load_cached(graph, tmp_path / f"weights-{count}", count).run([image])
        assert [array.tobytes() for array in made] == wanted


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing of what was tried is remembered, before or after."""
    engine.threads.cache_clear()
    yield
    engine.threads.cache_clear()


def test_a_node_uses_as_many_threads_as_it_may(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "cores", lambda: 3)
    assert (engine.threads(), engine.threads(2), engine.threads(1)) == (3, 2, 1)
    engine.threads.cache_clear()
    monkeypatch.setattr(engine, "cores", lambda: 500)
    assert engine.threads() == 64


def test_a_runtime_whose_bits_depend_on_the_threads_gets_one(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own float convolutions, without XNNPACK, sum in another order."""
    name, module = installed()
    plain = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    bare = type("Bare", (), {"Interpreter": functools.partial(module.Interpreter, experimental_op_resolver_type=plain)})
    monkeypatch.setattr(engine, "installed", lambda: (name, bare))
    assert engine.threads(4) == 1
    assert "4 threads compute different bits from one" in caplog.text
