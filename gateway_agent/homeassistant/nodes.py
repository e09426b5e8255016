"""An edge as a device: whether it is there, what it computes, how its machine fares."""

from datetime import datetime, timedelta
from typing import Any

from gateway_agent.cluster_view import NodeView, SourceView
from gateway_agent.homeassistant.cluster import GATEWAY
from gateway_agent.homeassistant.discovery import NAME, Component, Device, Tree, value

_DIAGNOSTIC = {"entity_category": "diagnostic"}


def state(view: NodeView, source: SourceView | None, started: datetime | None, now: float) -> dict[str, Any]:
    """None is what the machine does not tell. Tile time in ms, memory in MB, CPU in per cent."""
    status = view.status
    assert status is not None
    vitals = status.vitals
    return {
        "fps": None if source is None or not view.camera else round(source.rate.per_second(now), 2),
        "tiles_per_second": round(view.tiles.per_second(now), 2),
        "tile_ms": None if status.tile_s is None else round(status.tile_s * 1000, 1),
        "computed": view.computed,
        "stolen": view.stolen,
        "queue": view.waiting,
        "cpu": None if vitals.cpu is None else round(vitals.cpu * 100),
        "temperature": vitals.temperature_c,
        "memory": None if vitals.memory_bytes is None else round(vitals.memory_bytes / 1e6, 1),
        "throttled": None if vitals.throttled is None else "ON" if vitals.throttled else "OFF",
        "started": None if started is None else started.isoformat(),
    }


def started(view: NodeView, utc: datetime) -> datetime | None:
    """When the node's process began, to the second; ``utc`` is now."""
    if view.status is None:
        return None
    return (utc - timedelta(seconds=view.status.vitals.uptime_s)).replace(microsecond=0)


def device(view: NodeView, tree: Tree) -> Device:
    """A node's connectivity is known even when the node is gone; the rest is not available then."""
    key = f"node/{view.name}"
    there, states = tree.of(key, "availability"), tree.of(key, "state")
    alive = {"topic": tree.of(GATEWAY, "availability")}

    def sensor(key: str, name: str, **options: Any) -> Component:
        return Component(key, "sensor", name, {"state_topic": states, "value_template": value(key), **options}, key)

    rate = {"state_class": "measurement"}
    components = (
        Component("connectivity", "binary_sensor", "Connectivity", {
            "state_topic": there, "payload_on": "online", "payload_off": "offline", "device_class": "connectivity",
            "availability": [alive], **_DIAGNOSTIC,
        }),
        sensor("fps", "Frames per second", unit_of_measurement="fps", icon="mdi:filmstrip", **rate),
        sensor("tiles_per_second", "Tiles per second", unit_of_measurement="tiles/s", icon="mdi:grid", **rate),
        sensor("tile_ms", "Tile time", unit_of_measurement="ms", device_class="duration", **rate, **_DIAGNOSTIC),
        sensor("computed", "Tiles computed", state_class="total_increasing", icon="mdi:grid", **_DIAGNOSTIC),
        sensor("stolen", "Tiles stolen", state_class="total_increasing", icon="mdi:hand-extended", **_DIAGNOSTIC),
        sensor("queue", "Tiles waiting", icon="mdi:tray-full", **rate, **_DIAGNOSTIC),
        sensor("cpu", "CPU", unit_of_measurement="%", icon="mdi:cpu-64-bit", **rate, **_DIAGNOSTIC),
        sensor("temperature", "Temperature", unit_of_measurement="°C", device_class="temperature", **rate, **_DIAGNOSTIC),
        sensor("memory", "Memory", unit_of_measurement="MB", device_class="data_size", **rate, **_DIAGNOSTIC),
        Component("throttled", "binary_sensor", "Throttled", {
            "state_topic": states, "value_template": value("throttled"), "device_class": "problem", **_DIAGNOSTIC,
        }, "throttled"),
        sensor("started", "Started", device_class="timestamp", **_DIAGNOSTIC),
        Component("update", "update", "Update", {
            "state_topic": tree.of(key, "update"), "title": NAME, "device_class": "firmware", **_DIAGNOSTIC,
        }, "installed_version"),
    )  # fmt: skip
    version = view.status.version if view.status is not None else ""
    return Device(key, view.name, "Edge", components, GATEWAY, version, (alive, {"topic": there}))
