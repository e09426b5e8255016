"""What the plan should take on the nodes that are here: the planner's own prediction, from the speeds that they tell."""

from dataclasses import replace
from functools import cache
from typing import Any

from gateway_agent.dashboard.record import Snapshot
from gateway_agent.replan import Member, cluster_of
from models.graph.effort import arithmetic
from models.planning.cluster import Cluster
from models.planning.cost import plan_bound_s, predict
from models.running.engine import threads
from models.running.speed import measure_speed
from schemas.contract.errors import PlanError
from schemas.wire.pace import measure_messages

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

    Without a node whose speed is known nothing is expected: ``latency_s`` is None. ``says`` tells by what it is predicted.
    """
    nodes = [n for n in snapshot.state["nodes"] if n["online"] and n["flops_s"]]
    members = [
        Member(n["name"], n["camera"], n["flops_s"], n["bytes_s"], n["message_speed"], bool(n.get("straight"))) for n in nodes
    ]
    members.sort(key=lambda member: (not member.camera, member.name))
    if not members:
        return {"latency_s": None, "nodes": 0, "rate_mbit": rate_mbit, "says": "No node has told its speed."}
    cluster = cluster_of(tuple(members), *_own_speeds(arithmetic(snapshot.bundle.graph)))
    cluster = replace(cluster, sources=max(cluster.sources, 1), rate_mbit=rate_mbit or cluster.rate_mbit)
    bound, links = None, "as said"
    if rate_mbit is None:
        are_known = any(member.bytes_s for member in members)
        cluster, bound, links = learnt(snapshot, cluster, are_known)
    found = predict(snapshot.bundle.partition, snapshot.bundle.plan, cluster)
    bound = found.bound_s if rate_mbit else bound
    says = f"Predicted for {len(members)} node{'s' * (len(members) > 1)} at the speed that they tell, and {{}} Mbit/s, {links}."
    return {
        "latency_s": round(found.latency_s, 4), "fps": round(found.throughput_fps, 3),
        "bound_s": None if bound is None else round(bound, 4), "redundancy": round(found.redundancy, 3),
        "wire_bytes": found.wire_bytes, "memory_bytes": found.edge_memory_bytes, "nodes": len(members),
        "rate_mbit": round(cluster.rate_mbit, 1), "says": says.format(f"{cluster.rate_mbit:.0f}"),
    }  # fmt: skip


def learnt(snapshot: Snapshot, cluster: Cluster, are_known: bool) -> tuple[Cluster, float | None, str]:
    """The cluster with links that are no slower than its frames prove; the bound by what is known, if anything is; words.

    A link that idles, or is crowded, seems slower than it is, and so does a node that was busy when it was measured. Where
    a frame was quicker than the bound, they are: then the links are as fast as that takes, and if that is not enough, no
    bound is known.
    """
    best = snapshot.best_s

    def bound(rate: float) -> float:
        return plan_bound_s(snapshot.bundle.partition, snapshot.bundle.plan, replace(cluster, rate_mbit=rate))

    without_links = bound(RATES[1])
    if without_links > best:
        return cluster, None, "as measured; frames were quicker than the nodes' speeds allow, so these are not known"
    if not are_known:
        return cluster, without_links, "assumed: no link has been measured, and the bound counts none"
    rate, least = cluster.rate_mbit, bound(cluster.rate_mbit)
    while least > best:
        rate = min(rate * 1.1, RATES[1])
        least = bound(rate)
    more = rate > cluster.rate_mbit
    words = "at least: frames were quicker than the links' measured rate allows" if more else "as measured"
    return replace(cluster, rate_mbit=rate), least, words


@cache
def _own_speeds(dtype: str) -> tuple[float, float]:
    """Of engine and messages."""
    return measure_speed(dtype, threads()), measure_messages()
