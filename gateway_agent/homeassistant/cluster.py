"""The gateway as a device: how the cluster fares, and its controls."""

from collections.abc import Collection, Mapping
from typing import Any

from gateway_agent.cluster_view import ClusterView
from gateway_agent.controls import AUTO, VERBS, Value, Verb
from gateway_agent.homeassistant.discovery import NAME, Component, Device, Tree, value
from gateway_agent.homeassistant.facts import Facts

GATEWAY = "gateway"
COMMANDS: tuple[Verb, ...] = ("detection", "threshold", "grid", "model", "restart")
GRIDS = (AUTO, "1x1", "2x2", "2x3", "3x3", "4x4", "5x5")
_DIAGNOSTIC = {"entity_category": "diagnostic"}
_CONFIG = {"entity_category": "config"}


def state(board: ClusterView, facts: Facts, now: float) -> dict[str, Any]:
    """What changes all the time. Latency in ms, None without a frame."""
    latency_s = board.latency_s()
    return {
        "fps": round(board.rate.per_second(now), 2),
        "latency_ms": None if latency_s is None else round(latency_s * 1000),
        "nodes_online": len(board.online),
        "frames": board.frames,
        "failed": board.failed,
        "tiles_stolen": board.stolen,
        "broker": "ON" if facts.connected else "OFF",
        "tiles": facts.controls.grid,
        "exactness": facts.controls.exactness,
    }


def controls(facts: Facts, options: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """What the controls are set to. What is not yet among the ``options`` that Home Assistant knows is None: it would
    log an error.
    """
    of = facts.controls
    chosen = {"grid": AUTO if of.automatic else of.grid, "model": of.model}
    known = {key: value if value in options.get(key, ()) else None for key, value in chosen.items()}
    return {
        "detection": "ON" if of.detection else "OFF", "threshold": of.threshold, "broker_address": facts.broker, **known,
    }  # fmt: skip


def options(device: Device) -> dict[str, Collection[str]]:
    """What the selects of a gateway's device offer."""
    return {c.key: c.options["options"] for c in device.components if c.platform == "select"}


def update(board: ClusterView, facts: Facts, installed: str) -> dict[str, Any]:
    """The ``installed`` version of a device, and the newest that any node of the cluster runs: no server is asked."""
    seen = [v.status.version for v in board.nodes.values() if v.status is not None and v.status.version]
    return {"installed_version": installed, "latest_version": max([facts.version, *seen], key=_ordered)}


def device(facts: Facts, tree: Tree) -> Device:
    """The gateway and what it can be told."""
    states, set_to = tree.of(GATEWAY, "state"), tree.of(GATEWAY, "controls")
    grids = GRIDS if facts.controls.automatic else tuple(dict.fromkeys((*GRIDS, facts.controls.grid)))
    components = [
        _sensor(states, "fps", "Frames per second", unit_of_measurement="fps", state_class="measurement", icon="mdi:filmstrip"),
        Component("broker", "binary_sensor", "Broker", {
            "state_topic": states, "value_template": value("broker"), "device_class": "connectivity",
            "json_attributes_topic": set_to,
            "json_attributes_template": "{{ {'address': value_json.broker_address} | tojson }}", **_DIAGNOSTIC,
        }),
        _sensor(states, "latency_ms", "Latency", "latency_ms", unit_of_measurement="ms", device_class="duration",
                state_class="measurement"),
        _sensor(states, "nodes_online", "Nodes online", state_class="measurement", icon="mdi:server-network"),
        _sensor(states, "frames", "Frames", state_class="total_increasing", **_DIAGNOSTIC),
        _sensor(states, "failed", "Failed frames", state_class="total_increasing", **_DIAGNOSTIC),
        _sensor(states, "tiles_stolen", "Stolen tiles", state_class="total_increasing", **_DIAGNOSTIC),
        Component("update", "update", "Update", {
            "state_topic": tree.of(GATEWAY, "update"), "title": NAME, "device_class": "firmware", **_DIAGNOSTIC,
        }),
        Component("detection", "switch", "Detection", {
            "state_topic": set_to, "value_template": value("detection"), "command_topic": tree.set("detection"),
            "icon": "mdi:eye",
        }),
        _select(set_to, tree, "grid", "Plan", grids),
        _sensor(states, "tiles", "Tiles of a frame", icon="mdi:grid", **_DIAGNOSTIC),
        _sensor(states, "exactness", "Answers", icon="mdi:equal", **_DIAGNOSTIC),
        Component("restart", "button", "Restart", {
            "command_topic": tree.set("restart"), "device_class": "restart", **_CONFIG,
        }),
    ]  # fmt: skip
    if facts.controls.threshold is not None:
        components.append(Component("threshold", "number", "Threshold", {
            "state_topic": set_to, "value_template": value("threshold"), "command_topic": tree.set("threshold"),
            "min": 0, "max": 1, "step": 0.01, "mode": "slider", **_CONFIG,
        }))  # fmt: skip
    if facts.models:
        options = tuple(dict.fromkeys((*facts.models, facts.controls.model)))
        components.append(_select(set_to, tree, "model", "Model", options))
    available = ({"topic": tree.of(GATEWAY, "availability")},)
    root = tree.cluster.rpartition("-")[0]
    name = NAME if root in ("", "dt") else f"{NAME} {root}"
    return Device(GATEWAY, name, "Gateway", tuple(components), "", facts.version, available)


def command(verb: str, payload: bytes) -> tuple[Verb, Value] | None:
    """What Home Assistant asks for; None if it means nothing. Whether it can be is the gateway's to say."""
    text = payload[:200].decode("utf-8", "replace")
    if verb == "detection" and text in ("ON", "OFF"):
        return "detection", text == "ON"
    if verb == "threshold":
        try:
            return "threshold", float(text)
        except ValueError:
            return None
    if verb == "restart":
        return ("restart", None) if text == "PRESS" else None
    return next(((known, text) for known in VERBS if known == verb and known in ("grid", "model")), None)


def _sensor(topic: str, key: str, name: str, needs: str = "", **options: Any) -> Component:
    return Component(key, "sensor", name, {"state_topic": topic, "value_template": value(key), **options}, needs)


def _select(topic: str, tree: Tree, key: str, name: str, options: tuple[str, ...]) -> Component:
    about = {"state_topic": topic, "value_template": value(key), "command_topic": tree.set(key), "options": list(options)}
    return Component(key, "select", name, {**about, **_CONFIG})


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else -1 for part in version.split("."))
