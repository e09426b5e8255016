from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway_agent.homeassistant.cluster import command
from gateway_agent.homeassistant.discovery import cluster_id, slug
from gateway_agent.homeassistant.watcher import settings_of
from schemas.contract.config import GatewayOptions


@given(st.lists(st.text(max_size=12), unique=True, max_size=20))
def test_different_labels_have_different_keys_that_a_topic_and_a_template_carry(labels: list[str]) -> None:
    keys = [slug(label) for label in labels if label]
    assert len(set(keys)) == len(keys)
    assert all(key and set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789_") for key in keys)


def test_a_plain_label_is_its_key() -> None:
    assert (slug("7"), slug("traffic light")) == ("7", "traffic_light")
    assert slug("Person") not in ("person", slug("PERSON"))


@given(st.sampled_from(["detection", "threshold", "grid", "model", "restart", "remove", "other"]), st.binary(max_size=300))
def test_whatever_is_asked_is_a_request_or_nothing(verb: str, payload: bytes) -> None:
    asked = command(verb, payload)
    assert asked is None or (asked[0] == verb != "remove")


def test_controls_say_what_home_assistant_sends() -> None:
    assert command("detection", b"ON") == ("detection", True)
    assert command("detection", b"OFF") == ("detection", False)
    assert command("threshold", b"0.35") == ("threshold", 0.35)
    assert command("grid", b"2x3") == ("grid", "2x3")
    assert command("restart", b"PRESS") == ("restart", None)
    for verb, payload in (("detection", b"on"), ("threshold", b"much"), ("restart", b""), ("remove", b"edge1")):
        assert command(verb, payload) is None


def test_settings_take_the_clusters_own_broker_unless_another_is_named() -> None:
    own = settings_of(GatewayOptions(ha=True, ha_labels=" a, b ,a,"), "mqtt://here:1")
    assert (own.broker, own.labels, own.discovery) == ("mqtt://here:1", ("a", "b"), "device")
    named = GatewayOptions(ha_broker="mqtt://u:p@ha", ha_prefix="ha/x", ha_discovery="component", root="cellar")
    other = settings_of(named, "mqtt://here:1")
    assert (other.broker, other.prefix, other.discovery) == ("mqtt://u:p@ha", "ha/x", "component")
    assert own.cluster.startswith("dt-") and other.cluster.startswith("cellar-")


@pytest.mark.parametrize("prefix", ["a/#", "", "/a", "a//b"])
def test_a_prefix_that_is_no_topic_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="ha_prefix"):
        GatewayOptions(ha_prefix=prefix)


def test_a_cluster_keeps_its_name_and_differs_from_that_of_another_machine(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("aa\n")
    other.write_text("bb\n")
    assert cluster_id("dt", one) == cluster_id("dt", one) != cluster_id("dt", other)
    assert cluster_id("dt", tmp_path / "none").startswith("dt-")
