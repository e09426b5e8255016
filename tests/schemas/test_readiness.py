"""Ready is who had every kind of message back; what did not come is named with its size and a remedy."""

import re
from math import prod

import pytest

from schemas.wire.readiness import AGAIN_S, MARK, PATIENCE_S, Kind, Probe, Readiness, kinds
from tests.nodes import blocks_plan, whole_plan

KINDS = [Kind("an echo", "dt/echo/gateway", 0, 1000), Kind("a tile", "dt/tile/gateway", 1, 1000)]
KINDS += [Kind("a tile", "dt/tile/gateway", 0, 500_000)]
LATE_S = PATIENCE_S + 500_000 / 50_000


def proof(*kinds: Kind) -> Readiness:
    return Readiness(kinds or KINDS, "pi:1883")


def answered(readiness: Readiness, probes: list[Probe], most: float = float("inf")) -> None:
    """A broker that passes what has ``most`` bytes."""
    while probes and len(probes[0].payload) <= most:
        (probe,) = probes
        probes = readiness.came(probe.path, probe.payload, 0.1)


def test_every_kind_goes_there_and_back_in_its_size_the_smallest_first() -> None:
    readiness = proof()
    sent = []
    probes = readiness.connected(0.0)
    while probes:
        assert not readiness.ready
        sent += [(p.path, p.qos, len(p.payload)) for p in probes]
        assert all(p.payload.startswith(MARK) for p in probes)
        probes = readiness.came(probes[0].path, probes[0].payload, 0.1)
    assert sent == [("dt/echo/gateway", 0, 1000), ("dt/tile/gateway", 1, 1000), ("dt/tile/gateway", 0, 500_000)]
    assert readiness.ready and not readiness.trouble and readiness.deadline() == float("inf")


def test_on_another_connection_all_is_to_be_proved_again() -> None:
    readiness = proof()
    answered(readiness, readiness.connected(0.0))
    readiness.lost(1.0)
    assert not readiness.ready
    probes = readiness.connected(2.0)
    assert [p.path for p in probes] == ["dt/echo/gateway"]
    answered(readiness, probes)
    assert readiness.ready and not readiness.trouble


@pytest.mark.parametrize("cut", ["the path", "the end", "another's"])
def test_what_is_not_the_very_probe_proves_nothing(cut: str) -> None:
    readiness = proof()
    (probe,) = readiness.connected(0.0)
    (other,) = proof().connected(0.0)
    wrong = {
        "the path": (KINDS[1].path, probe.payload),
        "the end": (probe.path, probe.payload[:-1]),
        "another's": (probe.path, other.payload),
    }
    assert readiness.came(*wrong[cut], 0.1) == [] and not readiness.ready
    assert readiness.came(probe.path, probe.payload, 0.1) != []
    assert readiness.came(probe.path, probe.payload, 0.2) == []  # a second copy


def test_a_broker_that_drops_large_messages_is_named_with_the_sizes_and_the_setting() -> None:
    readiness = proof()
    answered(readiness, readiness.connected(0.0), most=100_000)
    again = readiness.tick(readiness.deadline())
    assert [p.path for p in again] == ["dt/tile/gateway"] and not readiness.trouble
    now = readiness.deadline()
    assert now == pytest.approx(LATE_S, abs=1) and readiness.tick(now) == []
    told = readiness.complaint()
    assert re.search(r"pi:1883 does not pass on a tile of 500000 bytes on dt/tile/.*, but passes 1000: raise .* 500000", told)
    assert "max_packet_size" in told and readiness.complaint() == ""


def test_a_broker_that_cuts_is_named_once_and_tried_again_after_a_while() -> None:
    readiness = proof()
    now = 0.0
    for _ in range(2):
        assert not readiness.trouble
        answered(readiness, readiness.connected(now), most=100_000)
        readiness.lost(now + 0.2)
        now += 1.0
    assert "ends the connection at a tile of 500000 bytes" in readiness.complaint()
    for _ in range(20):  # it comes back each second
        assert readiness.connected(now) == [] and not readiness.complaint() and not readiness.ready
        now += 1.0
    due = readiness.deadline()
    assert due == pytest.approx(AGAIN_S, abs=2)
    answered(readiness, readiness.tick(due))
    assert readiness.ready and not readiness.trouble


def test_a_link_too_slow_for_a_message_is_not_taken_for_a_limit() -> None:
    readiness = proof()
    for now in (0.0, 100.0):
        answered(readiness, readiness.connected(now), most=100_000)
        readiness.lost(now + 40.0)
    assert "a tile of 500000 bytes" in readiness.finding and "too slow" in readiness.trouble
    assert "limit" not in readiness.trouble


def test_one_cut_may_be_chance() -> None:
    readiness = proof()
    for _ in range(5):
        answered(readiness, readiness.connected(0.0), most=100_000)
        readiness.lost(0.1)
        answered(readiness, readiness.connected(0.2))
        assert readiness.ready and not readiness.trouble
        readiness.lost(0.3)


def test_a_broker_whose_rules_leave_us_out_is_told_apart_from_one_with_a_limit() -> None:
    readiness = proof(KINDS[0], Kind("a result", "dt/result/x", 1, 1100))
    readiness.connected(0.0)
    for _ in range(2):
        readiness.tick(readiness.deadline())
    assert "an echo of 1000 bytes on dt/echo/gateway: its rules must let this user read and write dt/#" in readiness.trouble
    readiness = proof(KINDS[0], Kind("a result", "dt/result/x", 1, 1100))
    answered(readiness, readiness.connected(0.0), most=1000)
    for _ in range(2):
        readiness.tick(readiness.deadline())
    assert "dt/result/x: its rules" in readiness.trouble


def test_a_plans_kinds_have_the_sizes_of_its_tensors() -> None:
    plan = blocks_plan()
    tile = plan.blocks[0].tiles[0].inputs["image"]
    needs = {kind.what: kind for kind in kinds(plan, "dt", "gateway", True, outputs=True, pictures=True)}
    assert set(needs) == {
        "an echo", "a word of acceptance", "a tile's result", "a part of a model", "a part of a tile",
        "a model's outputs", "a tile", "a picture",
    }  # fmt: skip
    assert needs["a tile"].size >= prod(tile.shape)
    assert all(kind.path.startswith("dt/") for kind in needs.values())
    own = kinds(plan, "dt", "e1")
    assert [kind.size for kind in own] == sorted(kind.size for kind in own)
    assert [kind.qos for kind in own] == [1, 1, 0, 0], "at QoS 1 a large one would come again on each connection"
    assert max(kind.size for kind in kinds(plan, "dt", "e1", camera=False)) < own[-1].size, "helpers compute none undivided"
    assert {kind.path for kind in kinds(whole_plan(), "dt", "e1")} == {"dt/tile/e1"}
