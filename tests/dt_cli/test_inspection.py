"""`dt inspect`: the verdict first, in 80 columns, what matters of a model with hundreds of operators and cuts."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from dt_cli import inspection, offline
from models.graph.file import Graph, load
from models.tiling.partition import Partition
from tests.models.sketch import Sketch
from tests.models.test_extents import densenet
from tests.paths import shared


def inspected(graph: Graph | Path, folder: Path, monkeypatch: pytest.MonkeyPatch, all_: bool = False) -> list[str]:
    path = folder / "net.tflite"
    path.write_bytes(graph.read_bytes() if isinstance(graph, Path) else graph.to_bytes())
    paper = io.StringIO()
    monkeypatch.setattr(offline, "console", Console(file=paper, width=160, highlight=False, markup=False))
    offline.inspect_model(path, folder / "report.json", all_)
    return [line.rstrip() for line in paper.getvalue().splitlines()]


def test_a_deep_model_is_told_in_groups_and_a_dozen_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = inspected(densenet((6, 12, 12), 4), tmp_path, monkeypatch)
    assert lines[0].startswith("net.tflite: 97 operators")
    assert lines[1].startswith("97 of 97 operators can be tiled from the image on; 100.0%")
    assert len(lines) < 40 and max(map(len, lines)) <= inspection.WIDTH
    assert "12 of 97 legal cuts, and each grid's redundancy" in lines
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["operators"]) == 97 and len(report["cuts"]) == 97
    every = inspected(densenet((6, 12, 12), 4), tmp_path, monkeypatch, all_=True)
    assert len(every) > 2 * 97 and "97 legal cuts, and each grid's redundancy" in every


def test_a_real_detector_fits_a_terminal_without_its_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared("data/models/mediapipe/object_detection_ssd_mobilenetv2_oidv4_fp16.tflite")
    lines = inspected(model, tmp_path, monkeypatch)
    assert len(lines) <= 45 and max(map(len, lines)) <= inspection.WIDTH
    assert not any("DEQUANTIZE" in line for line in lines)
    text = " ".join(lines)
    assert "of the FLOPs" in text.split("Operators")[0]


def test_the_dozen_cuts_hold_the_cheapest_of_each_size_and_the_deepest() -> None:
    partition = Partition(densenet((6, 12, 12), 4))
    found = inspection.chosen(partition)
    assert len(found) == inspection.CUTS and found[-1].name == partition.cuts[-1].name
    sizes, shown = ({partition.graph.tensors[cut.tensors[0]].shape for cut in cuts} for cuts in (partition.cuts, found))
    assert {shape[1:3] for shape in shown} == {shape[1:3] for shape in sizes} and len(shown) > 4
    assert [len(cut.ops) for cut in found] == sorted(len(cut.ops) for cut in found)


def test_a_model_that_no_tile_computes_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Sketch((1, 8, 8, 3))
    net.reshape(0, 1, 192)
    lines = inspected(net.graph(), tmp_path, monkeypatch)
    told = " ".join(" ".join(lines[1:4]).split())
    assert told.startswith("0 of 1 operators can be tiled from the image on; 0.0% of the FLOPs can be divided")
    assert "Tiles alone end at operator 0 (RESHAPE)" in told
    assert load(tmp_path / "net.tflite").ops[0].kind == "RESHAPE" and not any("legal cuts" in line for line in lines)
