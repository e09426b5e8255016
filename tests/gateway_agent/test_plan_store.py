"""What a gateway chose while it ran is taken up by the next one, if nobody asks for anything else."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from gateway_agent.plan_store import PlanStore
from models.bundle import Bundle, make_bundle, save
from models.graph.build import build
from schemas.contract.config import GatewayOptions
from schemas.contract.errors import DtError
from tests.examples import examples


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, size in (("mini", 96), ("other", 64)):
        (folder / f"{name}.tflite").write_bytes(build("mini", size=size).to_bytes())
    (folder / "mini.toml").write_text('decoder = "raw"\ntask = "raw"\n')
    return folder


def kept(folder: Path, models: Path, automatic: bool = False) -> tuple[PlanStore, Bundle]:
    memory = PlanStore(folder, GatewayOptions(model=models / "mini.tflite"))
    bundle = make_bundle(models / "mini.tflite", (2, 1))
    memory.keep(bundle, automatic)
    return memory, bundle


@pytest.mark.parametrize("automatic", [True, False])
def test_what_was_chosen_is_taken_up_so_that_to_the_edges_it_is_no_news(
    tmp_path: Path, models: Path, automatic: bool
) -> None:
    memory, bundle = kept(tmp_path, models, automatic)
    taken = memory.take_up()
    assert taken is not None and taken[1] == automatic
    assert taken[0].plan == bundle.plan and taken[0].plan.digest() == bundle.plan.digest()
    assert taken[0].edge_model == bundle.edge_model and taken[0].card == bundle.card
    assert [path.name for path in tmp_path.iterdir()] == ["chosen.json"], "nothing half-written"
    assert PlanStore(tmp_path / "elsewhere", memory.options).take_up() is None


@pytest.mark.parametrize(
    "asked", [{"grid": "3x3"}, {"cut": "max3"}, {"objective": "fixed"}, {"model": "other.tflite"}], ids=str
)
def test_whoever_asks_for_something_else_gets_that(tmp_path: Path, models: Path, asked: dict[str, str]) -> None:
    memory, _ = kept(tmp_path, models)
    words = {**asked, "model": models / asked.get("model", "mini.tflite")}
    other = memory.options.model_copy(update=words)
    assert PlanStore(tmp_path, other).take_up([models / "mini.tflite"]) is None
    assert PlanStore(tmp_path, memory.options.model_copy(update={"threads": 2, "deadline": 5.0})).take_up() is not None


def test_another_model_of_the_folder_is_taken_up_as_long_as_it_is_there(tmp_path: Path, models: Path) -> None:
    memory = PlanStore(tmp_path, GatewayOptions(model=models / "mini.tflite"))
    memory.keep(make_bundle(models / "other.tflite", (2, 2)), False)
    taken = memory.take_up(sorted(models.glob("*.tflite")))
    assert taken is not None and taken[0].path == models / "other.tflite"
    assert memory.take_up() is None, "no --models any more"


@pytest.mark.parametrize("automatic", [True, False])
def test_a_plan_of_version_2_is_made_anew_of_the_same_model_and_grid(tmp_path: Path, models: Path, automatic: bool) -> None:
    """``chosen.json`` as the last program with plans of version 2 wrote it, as far as it is still read."""
    memory = PlanStore(tmp_path, GatewayOptions(model=models / "mini.tflite"))
    asked = [str(models / "mini.tflite"), "", "auto", ""]
    tile = {"index": 0, "row": 0, "col": 0, "tile_class": 0, "inputs": {"image": [0, 0, 9, 9]}, "outputs": {}, "flops": 1}
    plan = {"version": 2, "blocks": [{"mode": "tiles", "rows": 1, "cols": 2, "tiles": [tile]}], "pixels": {"tensor": "image"}}
    kept = {"asked": asked, "model": str(models / "other.tflite"), "automatic": automatic, "plan": plan, "digest": "0"}
    memory.path.write_text(json.dumps(kept))
    taken = memory.take_up(sorted(models.glob("*.tflite")))
    assert taken is not None and taken[1] == automatic
    assert taken[0].plan == make_bundle(models / "other.tflite", (1, 2)).plan
    memory.path.write_text(json.dumps(kept | {"asked": [*asked[:1], "3x3", *asked[2:]]}))
    assert memory.take_up(sorted(models.glob("*.tflite"))) is None, "somebody asks for something else now"


def test_a_folder_with_a_plan_keeps_its_card(tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "plan"
    first = make_bundle(models / "mini.tflite", (3, 3))
    save(first, folder)
    memory = PlanStore(tmp_path, GatewayOptions(model=folder))
    memory.keep(make_bundle(folder / "model.tflite", (1, 2), card=first.card), False)
    taken = memory.take_up()
    assert taken is not None and taken[0].card == first.card and taken[0].plan.blocks[0].cols == 2


def test_a_model_or_a_card_that_has_changed_is_planned_anew(
    tmp_path: Path, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("mini.tflite", "mini.toml"):
        (own / name).write_bytes((models / name).read_bytes())
    memory, _ = kept(tmp_path, own)
    (own / "mini.toml").write_text('decoder = "raw"\ntask = "raw"\n[made]\nby = "somebody"\n')
    assert memory.take_up() is None and "card of" in caplog.text
    (own / "mini.toml").write_bytes((models / "mini.toml").read_bytes())
    assert memory.take_up() is not None
    (own / "mini.tflite").write_bytes(build("mini", size=96, seed=2).to_bytes())
    assert memory.take_up() is None and "digests differ" in caplog.text


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_spoilt_file_is_a_warning(
    tmp_path: Path, models: Path, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    memory, bundle = kept(tmp_path, models)
    whole = memory.path.read_bytes()
    digits = [at for at, byte in enumerate(whole) if chr(byte).isdigit()]
    at, others = data.draw(st.integers(0, len(whole) - 1) | st.sampled_from(digits)), st.integers(0, 255)
    if at in digits:
        others = st.integers(ord("0"), ord("9"))  # still JSON, and perhaps a plan
    byte = data.draw(others.filter(lambda b: b != whole[at]))
    memory.path.write_bytes(data.draw(st.sampled_from([whole[:at], whole[:at] + bytes([byte]) + whole[at + 1 :]])))
    caplog.clear()
    taken = memory.take_up()
    if taken is None:
        assert "ignoring the saved plan" in caplog.text
    else:
        assert taken[0].plan == bundle.plan, "1E-5 is 1e-5"


def test_a_disk_that_refuses_is_told_in_a_line(tmp_path: Path, models: Path) -> None:
    with pytest.raises(DtError, match="state folder"):
        kept(tmp_path / "missing", models)
