"""A plan and its model come back from a folder as they were saved, or not at all."""

import resource
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle, Reference, Tail, make_bundle, open_bundle, save
from models.graph.build import build
from schemas.contract.errors import DtError, PlanError
from tests.models.sketch import Sketch


@pytest.fixture
def mini(tmp_path: Path) -> Bundle:
    path = tmp_path / "mini.tflite"
    path.write_bytes(build("mini", 96).to_bytes())
    return make_bundle(path, (2, 2), "max7")


def test_what_was_saved_is_opened_again(mini: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    save(mini, folder)
    names = {p.name for p in folder.iterdir()}
    assert names >= {"model.tflite", "plan.json"}
    assert all("." in name and name.rpartition(".")[2] in ("tflite", "json") for name in names)
    again = open_bundle(folder)
    assert again.plan == mini.plan
    assert again.edge_model == mini.edge_model
    assert again.cut == mini.cut
    save(again, folder)  # its own folder: the model is not copied over itself
    assert open_bundle(folder).plan == mini.plan


def test_a_model_file_is_planned_3x3_unless_told(mini: Bundle) -> None:
    assert (open_bundle(mini.path).plan.blocks[0].rows, open_bundle(mini.path).plan.blocks[0].cols) == (3, 3)
    assert open_bundle(mini.path, (1, 2), "max3").plan.blocks[0].cols == 2


def test_a_folder_takes_no_other_grid_or_cut(mini: Bundle, tmp_path: Path) -> None:
    save(mini, tmp_path / "out")
    for grid, cut in (((3, 3), "auto"), (None, "max3")):
        with pytest.raises(PlanError, match="holds a plan already"):
            open_bundle(tmp_path / "out", grid, cut)


def test_another_model_in_the_folder_is_refused(mini: Bundle, tmp_path: Path) -> None:
    save(mini, tmp_path / "out")
    (tmp_path / "out" / "model.tflite").write_bytes(build("mini", 96, seed=2).to_bytes())
    with pytest.raises(PlanError, match="digests differ"):
        open_bundle(tmp_path / "out")


def test_a_plan_of_another_program_is_refused(mini: Bundle, tmp_path: Path) -> None:
    save(mini, tmp_path / "out")
    text = (tmp_path / "out" / "plan.json").read_text()
    (tmp_path / "out" / "plan.json").write_text(text.replace(mini.plan.edge_model, "0" * 32))
    with pytest.raises(PlanError, match="another version"):
        open_bundle(tmp_path / "out")


def test_a_plan_of_an_earlier_version_says_so(mini: Bundle, tmp_path: Path) -> None:
    save(mini, tmp_path / "out")
    file = tmp_path / "out" / "plan.json"
    file.write_text(file.read_text().replace('"version": 3', '"version": 2'))
    with pytest.raises(PlanError, match=r"plan\.json was made by another version of this program: plan its model again"):
        open_bundle(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", '{"version": 3}', "\x00"])
def test_what_is_no_plan_is_refused_by_its_path(text: str, mini: Bundle, tmp_path: Path) -> None:
    save(mini, tmp_path / "out")
    (tmp_path / "out" / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json is no plan"):
        open_bundle(tmp_path / "out")


def test_a_plan_that_is_too_large_is_not_read(mini: Bundle, tmp_path: Path) -> None:
    save(mini, tmp_path / "out")
    with (tmp_path / "out" / "plan.json").open("wb") as file:
        file.truncate(9 * 2**20)
    with pytest.raises(PlanError, match="larger than"):
        open_bundle(tmp_path / "out")


@pytest.mark.parametrize("name", ["plan.json", "model.tflite"])
def test_a_missing_part_is_named(name: str, mini: Bundle, tmp_path: Path) -> None:
    save(mini, tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    with pytest.raises(PlanError, match=f"cannot read .*{name}"):
        open_bundle(tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_a_plan_error_that_names_it(mini: Bundle, tmp_path: Path) -> None:
    """A file stands where a folder should be: that stops root as well, which a mode does not."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(PlanError, match=r"cannot write .*taken"):
        save(mini, tmp_path / "taken" / "out")
    with pytest.raises(PlanError, match=r"cannot write .*taken"):
        save(mini, tmp_path / "taken")


def test_a_write_that_fails_leaves_nothing_half_written(mini: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    save(mini, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    again, (soft, hard) = make_bundle(mini.path, (3, 3), "max3"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # as a disk that is full after the first bytes
    try:
        with pytest.raises(DtError, match=r"cannot write .*/out/.*: File too large: make room there"):
            save(again, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_tail_and_the_reference_give_all_outputs_by_name(tmp_path: Path) -> None:
    """One output is the cut itself, one is of the tail, and a second input of the model is zero."""
    net = Sketch((1, 8, 8, 3))
    x = net.conv(0, 4)
    extra = net.tensor((1, 8, 8, 4), "float32")
    y = net.binary("ADD", net.conv(x, 4), extra)
    graph = net.graph(y, x)
    path = tmp_path / "model.tflite"
    path.write_bytes(type(graph)(graph.tensors, graph.ops, (0, extra), graph.outputs).to_bytes())
    bundle = make_bundle(path, (2, 2), net.tensors[x].name)
    image = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    cut, outputs = Reference(bundle).run(image)
    made = Tail(bundle).run(cut)
    assert list(made) == list(outputs) == [net.tensors[y].name, net.tensors[x].name]
    for name, array in outputs.items():
        assert made[name].tobytes() == array.tobytes()


def test_without_a_tail_the_cut_is_the_outcome(tmp_path: Path) -> None:
    net = Sketch((1, 8, 8, 3))
    x = net.conv(0, 4)
    path = tmp_path / "model.tflite"
    path.write_bytes(net.graph().to_bytes())
    bundle = make_bundle(path, (2, 2))
    given = np.ones((1, 8, 8, 4), np.float32)
    assert Tail(bundle).run({net.tensors[x].name: given})[net.tensors[x].name] is given
