"""What a plan should take is said from what is known: a bound that a frame has passed is none, and guesses are called so."""

from typing import Any
from unittest.mock import Mock

import pytest

from gateway_agent.dashboard import expected as module
from gateway_agent.dashboard.expected import expected
from tests.gateway_agent.dashboard.played import NODES, digits

NEVER = float("inf")


@pytest.fixture(autouse=True)
def own_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_own_speeds", lambda dtype: (20e9, 0.0))


def seen(best_s: float = NEVER, mbit: float = 0.0, flops_s: float = 20e9) -> Any:
    """Three nodes of this speed, whose links were measured so, or not; the quickest frame took ``best_s``."""
    nodes = [
        {"name": name, "online": True, "camera": name == NODES[0], "flops_s": flops_s, "bytes_s": mbit * 1e6 / 8,
         "message_speed": 0.0}
        for name in NODES
    ]
    return Mock(state={"nodes": nodes}, bundle=digits(), best_s=best_s)


def test_links_that_were_measured_count_in_the_bound() -> None:
    slow, fast = (expected(seen(mbit=mbit), None) for mbit in (5.0, 500.0))
    assert slow["bound_s"] > 3 * fast["bound_s"] and slow["latency_s"] > fast["latency_s"]
    assert slow["rate_mbit"] == 5.0 and slow["says"].endswith("3 nodes at the speed that they tell, and 5 Mbit/s, as measured.")


def test_of_links_that_nobody_measured_no_bound_is_made() -> None:
    unknown, fastest = expected(seen(), None), expected(seen(), 1e5)
    assert unknown["bound_s"] == fastest["bound_s"] and "assumed: no link has been measured" in unknown["says"]


def test_a_frame_that_was_quicker_than_the_bound_proves_faster_links() -> None:
    told = expected(seen(mbit=5.0), None)
    again = expected(seen(told["bound_s"] / 2, mbit=5.0), None)
    assert again["bound_s"] <= told["bound_s"] / 2 and again["rate_mbit"] > 5.0
    assert again["latency_s"] < told["latency_s"] and "5 Mbit/s" not in again["says"]
    assert "at least: frames were quicker than the links' measured rate allows" in again["says"]


def test_a_frame_that_was_quicker_than_the_nodes_can_be_leaves_no_bound() -> None:
    told = expected(seen(1e-6, mbit=5.0), None)
    assert told["bound_s"] is None and "frames were quicker than the nodes' speeds allow" in told["says"]


def test_a_rate_that_is_said_is_not_doubted() -> None:
    told = expected(seen(1e-6, mbit=500.0), 5.0)
    assert told["bound_s"] > 1e-3 and told["says"].endswith("5 Mbit/s, as said.")


def test_without_a_node_nothing_is_expected() -> None:
    told = expected(Mock(state={"nodes": []}, bundle=digits(), best_s=NEVER), None)
    assert told["latency_s"] is None and told["says"] == "No node has told its speed."
