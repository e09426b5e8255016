"""A helper gives wrong bits of the right shape: its source finds it, names it alone, and lends it nothing more."""

from collections.abc import Mapping

import numpy as np
import pytest

from models.tiling.tensor import crop
from schemas.contract import messages as m
from tests.simulation.cluster import Cluster, Fault, Setup
from tests.simulation.pictures import PLANS, Pictures

LIAR = "helper2"


class Spoilt(Pictures):
    """Whose engines make wrong outputs of wrong inputs, and do not stop the test."""

    def compute(self, frame: str, block: int, tile: int, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return super().compute(frame, block, tile, inputs)
        except AssertionError:
            return {n: np.full_like(a, 99) for n, a in self._outputs(frame, block, tile).items()}

    def _outputs(self, frame: str, block: int, tile: int) -> dict[str, np.ndarray]:
        boxes = self.plan.blocks[block].by_home[tile].inputs
        right = {n: crop(self.whole(frame, n), box) for n, box in boxes.items()}
        return super().compute(frame, block, tile, right)


def cluster(plan: str, seed: int, lies: float, sources: int = 1) -> Cluster:
    """Six nodes with one liar."""
    found = Cluster(Setup(plan, sources=sources, helpers=6 - sources, period_s=0.5, seed=seed), pictures=Spoilt(PLANS[plan]))
    found.truth.wrong = []
    found.edges[LIAR].lies = lies
    return found


def liars(found: Cluster) -> dict[str, set[str]]:
    return {name: edge.node.sampler.liars for name, edge in found.edges.items() if name.startswith("camera")}


@pytest.mark.parametrize("plan", ["one block", "three blocks", "whole end"])
def test_a_helper_that_always_lies_is_found_within_a_few_frames_and_no_other_is_blamed(plan: str) -> None:
    found = cluster(plan, 0, 1.0)
    found.run(30.0)
    assert liars(found) == {"camera0": {LIAR}}
    wrong = found.truth.wrong or []
    assert len(wrong) <= (12 if len(PLANS[plan].blocks) > 1 else 6), wrong
    assert found.gateway.node.ring.distrusts("camera0") == {LIAR}
    tiles, frames = len(found.edges[LIAR].tiles_computed), len(found.truth.outcomes)
    found.run(15.0)
    assert len(found.edges[LIAR].tiles_computed) == tiles, "it gets no tile any more"
    assert len(found.truth.outcomes) > frames + 15 and (found.truth.wrong or []) == wrong
    found.heal()
    assert set(found.truth.reasons) <= {"ok", "bits"}


def test_one_that_lies_now_and_then_after_it_has_been_honest_is_found_in_the_end() -> None:
    found = cluster("one block", 1, 0.0)
    found.run(30.0)
    found.edges[LIAR].lies = 0.5
    while not liars(found)["camera0"]:
        found.run(1.0)
        assert found.world.now < 3600.0
    assert liars(found) == {"camera0": {LIAR}} and found.truth.reasons["ok"] > 50


def test_each_source_judges_for_itself_and_nobody_s_word_keeps_another_s_helpers_away() -> None:
    found = cluster("one block", 0, 0.0, sources=2)
    found.edges["camera1"].node.sampler.liars.update({"helper0", "helper1", "helper2", "helper3", "camera0"})  # it lies
    found.run(15.0)
    assert liars(found)["camera0"] == set() and found.truth.wrong == []
    ring = found.gateway.node.ring
    assert ring.distrusts("camera0") == set() and len(ring.distrusts("camera1")) == 5
    stolen = [o.stolen for o in found.truth.outcomes.values() if o.frame.startswith("camera0")]
    assert any(stolen) and not any(o.stolen for o in found.truth.outcomes.values() if o.frame.startswith("camera1"))


def test_frames_that_are_open_when_a_liar_is_found_fail_by_its_name_and_a_restarted_gateway_hears_of_it() -> None:
    found = cluster("one block", 2, 1.0)
    while not liars(found)["camera0"]:
        found.run(0.1)
    found.run(1.0)
    failed = [o for o in found.truth.outcomes.values() if o.status == "failed"]
    assert all(o.reason.startswith(f"bits of {LIAR} were wrong") for o in failed)
    found.do(Fault("kill gateway", seconds=0.5))
    found.run(20.0)
    assert found.gateway.node.ring.distrusts("camera0") == {LIAR}
    found.heal()


def test_checks_take_little_time_once_everybody_was_checked() -> None:
    found = cluster("one block", 3, 0.0)
    found.run(30.0)
    camera = found.edges["camera0"]
    computing = {name for name, edge in found.edges.items() if edge.tiles_computed} - {"camera0"}
    assert set(camera.node.sampler.checks) == computing and len(computing) > 2, "everybody within half a minute"
    before = sum(camera.node.sampler.checks.values())
    found.run(40.0)
    checks = sum(camera.node.sampler.checks.values()) - before
    assert 0 < checks * camera.tile_s <= 0.06 * 40.0 and m.frame_source(camera.captured[-1])[2] > 100
