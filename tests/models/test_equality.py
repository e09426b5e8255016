"""Tiles and tail equal the unpartitioned model, bit for bit: YOLOv2-608 and every real model of the test data."""

from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle, make_bundle
from models.graph.build import build
from models.graph.file import load, parse
from models.running import engine
from models.tiling.partition import Cut, Partition
from models.tiling.rewrite import tile_graph
from models.tiling.tensor import crop, to_input
from models.verify import Verifier
from tests.examples import share
from tests.models.sketch import same_bits
from tests.paths import SHARED, shared

GRIDS = [(3, 3), (2, 2), (5, 5)]
MODELS = sorted((SHARED / "data" / "models").glob("*.tflite"))


@pytest.fixture(scope="session")
def yolov2_16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("yolov2") / "yolov2-16.tflite"
    path.write_bytes(build("yolov2", layers=16).to_bytes())
    return path


@pytest.fixture(scope="session")
def yolov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole network, 203 MB; written piece by piece."""
    path = tmp_path_factory.mktemp("yolov2") / "yolov2.tflite"
    with path.open("wb") as file:
        file.writelines(build("yolov2").pieces())
    return path


def picture(bundle: Bundle, seed: int = 3) -> np.ndarray:
    """Pixels of the model's size: smooth shapes with noise on them, as a photograph has."""
    pixels = bundle.plan.pixels
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: pixels.height, : pixels.width]
    waves = np.stack([np.sin(y / 17 + c) + np.cos(x / (11 + c)) for c in range(3)], axis=-1) * 50 + 120
    noisy = waves + random.normal(0, 12, waves.shape)
    return np.ascontiguousarray(noisy.clip(0, 255).astype(np.uint8)[None])


def assert_exact(bundle: Bundle, threads: int = 1) -> None:
    cut, outputs = Verifier(bundle, threads).check(picture(bundle))
    assert len(cut) == len(bundle.cut.tensors)
    assert len(outputs) == len(bundle.graph.outputs)
    wrong = [d for d in (*cut, *outputs) if d.differing]
    assert wrong == [], f"cut {bundle.cut.name}"
    assert all(d.elements > 0 for d in cut)


@pytest.mark.parametrize("grid", share(GRIDS, 1))
def test_sixteen_layers_of_yolov2_are_exact(yolov2_16: Path, grid: tuple[int, int]) -> None:
    assert_exact(make_bundle(yolov2_16, grid, "conv15"))


@pytest.mark.parametrize("grid", share(GRIDS, 1))
def test_the_whole_of_yolov2_is_exact(yolov2: Path, grid: tuple[int, int]) -> None:
    bundle = make_bundle(yolov2, grid, "conv15")
    assert [spec.shape for spec in bundle.plan.outputs] == [(1, 19, 19, 425)]
    assert_exact(bundle, threads=2)


def some_cuts(partition: Partition, grid: tuple[int, int]) -> list[Cut]:
    """Three cuts, spread from the first to the last that fits the grid, and the last of a set where there is one."""
    shapes = {cut: [partition.graph.tensors[t].shape for t in cut.tensors] for cut in partition.cuts}
    fit = [cut for cut in partition.cuts if all(s[1] >= grid[0] and s[2] >= grid[1] for s in shapes[cut])]
    chosen = [fit[len(fit) // 3], fit[2 * len(fit) // 3], fit[-1]]
    sets = [cut for cut in fit if len(cut.tensors) > 1]
    if sets and not any(len(cut.tensors) > 1 for cut in chosen):
        chosen[0] = sets[len(sets) // 2]
    return chosen


@pytest.mark.parametrize("grid", GRIDS[:2])
@pytest.mark.parametrize("path", share(MODELS, 3), ids=lambda path: path.stem)
def test_a_real_model_is_exact_at_three_cuts(path: Path, grid: tuple[int, int]) -> None:
    cuts = some_cuts(Partition(load(path)), grid)
    assert len({cut.name for cut in cuts}) == 3
    for cut in cuts:
        assert_exact(make_bundle(path, grid, cut.name))


def test_real_models_have_cuts_that_are_sets() -> None:
    shared("data/models")
    sizes = {path.stem: max(len(cut.tensors) for cut in Partition(load(path)).cuts) for path in MODELS}
    assert sum(size > 1 for size in sizes.values()) >= 3
    assert sizes["movenet_single_pose_lightning_ptq"] >= 3


@pytest.mark.parametrize("name", ["mobilenet_v2_1.0_224_quant", "movenet_single_pose_lightning_ptq", "yolov2"])
def test_the_weight_cache_changes_no_bit(name: str, yolov2_16: Path, tmp_path: Path) -> None:
    """All classes of a plan share one cache file, which only the first of them fills."""
    path = yolov2_16 if name == "yolov2" else shared(f"data/models/{name}.tflite")
    bundle = make_bundle(path, (3, 3), "conv15" if name == "yolov2" else "auto")
    edge = Partition(parse(bundle.edge_model))
    names, block = edge.graph.by_name, bundle.plan.blocks[0]
    image = picture(bundle)
    classes = {tile.tile_class: tile for tile in block.tiles}
    for tile in classes.values():
        outputs = {names[name]: box.region for name, box in tile.outputs.items()}
        graph = tile_graph(edge, sorted(edge.tileable), [edge.image], outputs)
        region = tile.inputs[bundle.plan.pixels.tensor]
        given = np.ascontiguousarray(to_input(crop(image, region), bundle.plan.pixels))
        plain = engine.load(graph.to_bytes()).run([given])
        cached = engine.load_cached(graph, tmp_path / "weights.xnnpack").run([given])
        again = engine.load_cached(graph, tmp_path / "weights.xnnpack").run([given])
        for a, b, c in zip(plain, cached, again, strict=True):
            assert same_bits(a, b)
            assert same_bits(a, c)
    if engine.runtime().startswith("ai-edge-litert"):
        assert [p.suffix for p in tmp_path.iterdir()] == [".xnnpack"]
