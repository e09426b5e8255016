from pathlib import Path

import pytest

from bench.memory import measure_place
from models.bundle import make_bundle, save
from models.graph.build import build
from models.planning.planner import BlockChoices
from models.tiling.division import Filters, Tiles


@pytest.mark.parametrize("place", [None, 1])
def test_a_place_holds_its_weights_and_little_more_than_the_plan_says(place: int | None, tmp_path: Path) -> None:
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini", 160).to_bytes())
    blocks: BlockChoices = [("max3", Tiles(1, 2)), ("max7", Filters(2)), ("conv8", Filters(2))]
    save(make_bundle(model, blocks=blocks), tmp_path / "plan")
    told = measure_place(tmp_path / "plan", place, keep=1)
    assert told["place"] in (0, 1) and told["blocks"] == ["1x2", "filters 2", "filters 2"]
    weights, memory = told["predicted_mb"]["weight"], told["predicted_mb"]["memory"]
    for start in ("first_start_mb", "next_start_mb"):
        assert told[start]["memory"] == pytest.approx(memory, abs=15)
        assert told[start]["weights"] < 2 * weights + 1
