import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway_agent.dashboard.metrics import exposition
from gateway_agent.dashboard.record import Recorder, Snapshot
from tests.gateway_agent.dashboard.played import NODES, Played

GRAFANA = Path(__file__).parents[3] / "docs" / "grafana.json"


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    played = Played()
    recorder = Recorder(played.board)
    played.join(1.0)
    for i, (latency_s, reason) in enumerate([(0.2, ""), (0.5, ""), (0.0, "source lost with 2 of 9 tiles"), (40.0, "")]):
        recorder.outcome(played.frame(50.0 + i, latency_s, reason), 50.0 + i, 0.0)
    return recorder.snapshot(played.controls, played.bundle, {"version": "1"}, 55.0, 0.0)


@pytest.fixture(scope="module")
def samples(snapshot: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = exposition(snapshot, 0.25, True).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def test_metrics_and_page_tell_the_same(snapshot: Snapshot, samples: Samples) -> None:
    (source,) = snapshot.state["sources"]
    label = (("source", "edge1"),)
    assert samples["dt_frames_total", label] == source["frames"] == 3
    assert samples["dt_frames_dropped_total", label] == source["dropped"] == 5
    assert samples["dt_frames_per_second", label] == source["fps"] > 0
    assert samples["dt_source_degraded", label] == 0
    assert samples["dt_frames_failed_total", (("reason", "source lost"), ("source", "edge1"))] == source["failed"] == 1
    for node in snapshot.state["nodes"]:
        name = ("node", node["name"])
        assert samples["dt_node_up", (name,)] == node["online"]
        assert samples["dt_node_memory_bytes", (name,)] == node["memory_bytes"] == 90_000_000
        assert samples["dt_node_temperature_celsius", (name,)] == 48.0
        assert samples["dt_node_sent_bytes_total", (name,)] == 1000
        assert samples["dt_node_straight_sent_bytes_total", (name,)] == 700
        assert samples["dt_node_straight_received_bytes_total", (name,)] == 300
        peers = {dict(labels)["peer"]: value for (metric, labels), value in samples.items()
                 if metric == "dt_node_straight" and name in labels}  # fmt: skip
        assert peers == {other: float(other in node["straight"]) for other in NODES if other != node["name"]}
        assert samples["dt_node_rejected_messages_total", (name,)] == 2
        stolen = samples["dt_tiles_total", (name, ("stolen", "true"))]
        assert (
            stolen == node["stolen"]
            and stolen + samples["dt_tiles_total", (name, ("stolen", "false"))] == node["computed"]
        )


def test_latencies_are_cumulative_buckets_of_the_frames_with_a_result(samples: Samples) -> None:
    def bucket(le: str) -> float:
        return samples["dt_frame_latency_seconds_bucket", (("le", le), ("source", "edge1"))]

    assert [bucket(le) for le in ("0.1", "0.2", "0.3", "0.5", "30.0", "+Inf")] == [0, 1, 1, 2, 2, 3]
    assert samples["dt_frame_latency_seconds_count", (("source", "edge1"),)] == 3
    assert samples["dt_frame_latency_seconds_sum", (("source", "edge1"),)] == pytest.approx(40.7)


def test_what_a_machine_does_not_tell_is_left_out() -> None:
    played = Played()
    snapshot = Recorder(played.board).snapshot(played.controls, played.bundle, {}, 1.0, 0.0)
    text = exposition(snapshot, 0.0, False).decode()
    assert "\ndt_node_temperature_celsius{" not in text and "\ndt_broker_connected 0.0" in text
    assert 'dt_node_up{node="gateway"} 1.0' in text


def test_the_grafana_dashboard_asks_for_metrics_that_exist(samples: Samples) -> None:
    dashboard = json.loads(GRAFANA.read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\bdt_\w+", target["expr"])
    }
    assert len(asked) > 12 and asked <= {name for name, _ in samples}
    labels = {label for _, pairs in samples for label, _ in pairs}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels
