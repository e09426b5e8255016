"""What the plan should take on the nodes that are here: the planner's own prediction, from the speeds that they tell."""

from dataclasses import replace
from functools import cache
from typing import Any

from gateway_agent.dashboard.record import Snapshot
from gateway_agent.replan import Member, cluster_of
from models.cost import measure_speed, predict
from models.effort import arithmetic
from models.engine import threads
from schemas.errors import PlanError

RATES = (0.1, 100_000.0)  # Mbit/s


def parse_rate(text: str) -> float | None:
    """Mbit/s; None if ``text`` is empty. Raises PlanError for what is no rate of a link."""
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not RATES[0] <= rate <= RATES[1]:
        raise PlanError(f"rate {text!r}: give Mbit/s from {RATES[0]:g} to {RATES[1]:g}")
    return rate


def expected(snapshot: Snapshot, rate_mbit: float | None) -> dict[str, Any]:
    """Latency of one frame alone and frames a second, with links of ``rate_mbit``, or as measured. Takes seconds on a Pi.

    Without a node whose speed is known nothing is expected: ``latency_s`` is None.
    """
    nodes = [n for n in snapshot.state["nodes"] if n["online"] and n["flops_s"]]
    members = [Member(n["name"], n["camera"], n["flops_s"], n["bytes_s"]) for n in nodes]
    members.sort(key=lambda member: (not member.camera, member.name))
    if not members:
        return {"latency_s": None, "nodes": 0, "rate_mbit": rate_mbit}
    cluster = cluster_of(tuple(members), _own_speed(arithmetic(snapshot.bundle.graph)))
    cluster = replace(cluster, sources=max(cluster.sources, 1), rate_mbit=rate_mbit or cluster.rate_mbit)
    found = predict(snapshot.bundle.partition, snapshot.bundle.plan, cluster)
    return {
        "latency_s": round(found.latency_s, 4), "fps": round(found.throughput_fps, 3),
        "bound_s": round(found.bound_s, 4), "redundancy": round(found.redundancy, 3), "wire_bytes": found.wire_bytes,
        "memory_bytes": found.edge_memory_bytes, "nodes": len(members), "rate_mbit": round(cluster.rate_mbit, 1),
    }  # fmt: skip


@cache
def _own_speed(dtype: str) -> float:
    return measure_speed(dtype, threads())
