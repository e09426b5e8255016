"""A snapshot as Prometheus reads it. Every figure here is one that the page shows, too; names and units are Prometheus'.

What counts only up is named ``_total`` and starts anew with the process that counts it. No label comes from a picture or
from an error's text.
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from gateway_agent.dashboard.record import BUCKETS_S, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(snapshot: Snapshot, silent_s: float, connected: bool) -> bytes:
    """The text of ``/metrics``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot, silent_s, connected))
    return generate_latest(registry)


class _Collector:
    def __init__(self, snapshot: Snapshot, silent_s: float, connected: bool) -> None:
        self._snapshot, self._silent_s, self._connected = snapshot, silent_s, connected

    def collect(self) -> Iterator[Metric]:
        state = self._snapshot.state
        yield from self._frames()
        yield from _sources(state["sources"])
        yield from _nodes(state["nodes"], {**state["gateway"], "online": True})
        controls, gateway = state["controls"], state["gateway"]
        yield InfoMetricFamily(
            "dt_gateway",
            "What the gateway runs.",
            {"version": gateway.get("version", ""), "model": controls["model"], "grid": controls["grid"]},
        )
        yield GaugeMetricFamily("dt_broker_connected", "Whether the gateway has its broker.", float(self._connected))
        yield GaugeMetricFamily("dt_gateway_silent_seconds", "Since the gateway's loop last turned.", self._silent_s)
        yield GaugeMetricFamily("dt_detection_enabled", "Whether sources open frames.", float(controls["detection"]))

    def _frames(self) -> Iterator[Metric]:
        latency = HistogramMetricFamily(
            "dt_frame_latency_seconds", "From the gateway's first word of a frame to its result.", labels=["source"]
        )
        for source, histogram in sorted(self._snapshot.latencies.items()):
            total, buckets = 0, list[tuple[str, float]]()
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), histogram.counts):
                total += count
                buckets.append((bound, total))
            latency.add_metric([source], buckets, histogram.sum_s)
        failed = CounterMetricFamily(
            "dt_frames_failed", "Frames that ended without a result, by reason.", labels=["source", "reason"]
        )
        for (source, reason), count in sorted(self._snapshot.failures.items()):
            failed.add_metric([source, reason], count)
        yield latency
        yield failed


_SOURCES = (  # name, what it is, key of the view; counters first
    ("dt_frames", "Frames that ended with a result.", "frames"),
    ("dt_frames_dropped", "Frames of a camera for which there was no room, or requests without an answer in time.", "dropped"),
    ("dt_frames_still", "Frames that were left out, for nothing moved.", "still"),
)


def _sources(views: list[dict[str, Any]]) -> Iterator[Metric]:
    for name, text, key in _SOURCES:
        counter = CounterMetricFamily(name, text, labels=["source"])
        for view in views:
            counter.add_metric([view["name"]], view[key])
        yield counter
    rate = GaugeMetricFamily("dt_frames_per_second", "Frames with a result, over the last 30 s.", labels=["source"])
    degraded = GaugeMetricFamily("dt_source_degraded", "Whether the source's last frame failed.", labels=["source"])
    for view in views:
        rate.add_metric([view["name"]], view["fps"])
        degraded.add_metric([view["name"]], float(bool(view["degraded"])))
    yield rate
    yield degraded


_GAUGES = (
    ("dt_node_up", "Whether the node is in the cluster.", "online"),
    ("dt_node_cpu_ratio", "Share of all cores of its machine in use.", "cpu"),
    ("dt_node_temperature_celsius", "Of its processor.", "temperature_c"),
    ("dt_node_memory_bytes", "What the node's process occupies.", "memory_bytes"),
    ("dt_node_throttled", "Whether its machine slows down for heat or lack of power.", "throttled"),
    ("dt_node_uptime_seconds", "Since the node's process began.", "uptime_s"),
    ("dt_node_tile_seconds", "A tile in the engine, smoothed.", "tile_s"),
    ("dt_node_waiting_tiles", "Tiles that others may have.", "waiting"),
)
_COUNTERS = (
    ("dt_node_sent_bytes", "What the node published; the gateway's without the model.", "bytes_out"),
    ("dt_node_received_bytes", "What the node received.", "bytes_in"),
    ("dt_node_straight_sent_bytes", "What the node sent to other edges without the broker.", "straight_out"),
    ("dt_node_straight_received_bytes", "What came from other edges without the broker.", "straight_in"),
)


def _nodes(views: list[dict[str, Any]], gateway: dict[str, Any]) -> Iterator[Metric]:
    tiles = CounterMetricFamily("dt_tiles", "Tiles whose results counted.", labels=["node", "stolen"])
    for view in views:
        tiles.add_metric([view["name"], "false"], view["computed"] - view["stolen"])
        tiles.add_metric([view["name"], "true"], view["stolen"])
    yield tiles
    for name, text, key in _GAUGES:
        yield _family(GaugeMetricFamily(name, text, labels=["node"]), [*views, gateway], key)
    for name, text, key in _COUNTERS:
        yield _family(CounterMetricFamily(name, text, labels=["node"]), [*views, gateway], key)
    pairs = GaugeMetricFamily("dt_node_straight", "Whether a pair of edges has a straight connection.", labels=["node", "peer"])
    here = {view["name"] for view in views if view["online"]}
    for view in views:
        for peer in sorted(here - {view["name"]}) if view["status"] and view["online"] else ():
            pairs.add_metric([view["name"], peer], float(peer in view["straight"]))
    yield pairs
    rejected = CounterMetricFamily("dt_node_rejected_messages", "Messages that the node refused.", labels=["node"])
    for view in [*views, gateway]:
        if view["status"]:
            rejected.add_metric([view["name"]], sum(view["rejected"].values()))
    yield rejected


def _family(family: Any, views: list[dict[str, Any]], key: str) -> Metric:
    """``family`` with the value of each view that has one: what a machine does not tell is left out."""
    for view in views:
        if view.get(key) is not None:
            family.add_metric([view["name"]], float(view[key]))
    made: Metric = family
    return made
