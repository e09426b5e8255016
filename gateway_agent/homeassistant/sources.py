"""A camera as a device: what is seen, counted and read, pictures, events, and whether that may be believed.

The law: a picture that failed is never an empty result. ``degraded`` turns on with the first frame that fails and says
why; what was seen stays as it was, and becomes unavailable when frames have failed for ``HOLD_S``, never "clear".
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway_agent.cluster_view import SourceView
from gateway_agent.homeassistant.cluster import GATEWAY
from gateway_agent.homeassistant.discovery import TRIGGER, Component, Device, Tree, slug, value
from gateway_agent.homeassistant.facts import Facts
from gateway_agent.homeassistant.tracker import EVENT_TYPES, Change
from models.results.readings import read_panels
from schemas.contract.results import Result

HOLD_S = 10.0
LONGEST = 255  # characters of a state
_DIAGNOSTIC = {"entity_category": "diagnostic"}


def state(counts: Mapping[str, int], labels: Sequence[str], result: Result, reads: bool) -> dict[str, Any]:
    """What is seen: ``counts`` of the objects that are there, of which ``labels`` have entities."""
    readings = read_panels(result.detections) if reads else []
    told: dict[str, Any] = {"objects": sum(counts.values()), "reading": None, "readings": readings}
    for label in labels:
        told[f"occupancy_{slug(label)}"] = "ON" if counts.get(label) else "OFF"
        told[f"count_{slug(label)}"] = counts.get(label, 0)
    if readings:
        told["reading"] = ", ".join(readings)[:LONGEST]
    return told


def health(reason: str, seeing: bool, failed: int) -> dict[str, Any]:
    """``reason``: why the source is degraded, empty if it is not."""
    return {
        "seeing": "online" if seeing else "offline",
        "degraded": "ON" if reason else "OFF",
        "reason": reason[:LONGEST] or "ok",
        "failed": failed,
    }


def stats(view: SourceView, missed: int, now: float) -> dict[str, Any]:
    """Rates and times; ``missed``: frames that came while there was no room for them."""
    return {
        "fps": round(view.rate.per_second(now), 2),
        "latency_ms": None if view.latency_s is None else round(view.latency_s * 1000),
        "frames": view.frames,
        "dropped": missed,
    }


def event(change: Change, frame: str) -> dict[str, Any]:
    """One message of the ``event`` entity."""
    told: dict[str, Any] = {"event_type": change.type, "label": change.sight.label, "object": change.number,
                            "score": round(change.sight.score, 3), "frame": frame}  # fmt: skip
    return told | ({"box": [round(v) for v in change.sight.box]} if change.sight.box else {})


def device(view: SourceView, labels: Sequence[str], facts: Facts, tree: Tree) -> Device:
    """``labels`` have entities of their own."""
    key = f"source/{view.name}"
    states, ill, numbers = (tree.of(key, what) for what in ("state", "health", "stats"))
    alive = {"topic": tree.of(GATEWAY, "availability")}
    seeing = {"topic": ill, "value_template": value("seeing")}

    def sensor(topic: str, key: str, name: str, **options: Any) -> Component:
        return Component(key, "sensor", name, {"state_topic": topic, "value_template": value(key), **options}, key)

    count = {"state_class": "measurement", "icon": "mdi:counter"}
    each = _DIAGNOSTIC if facts.reads else {}  # where the reading is what matters, single digits stand back
    always: dict[str, Any] = {"availability": [alive]}
    components = [
        Component("degraded", "binary_sensor", "Degraded", {
            "state_topic": ill, "value_template": value("degraded"), "device_class": "problem", **always, **_DIAGNOSTIC,
        }),
        sensor(ill, "reason", "Degraded by", icon="mdi:alert-circle-outline", **always, **_DIAGNOSTIC),
        sensor(ill, "failed", "Failed frames", state_class="total_increasing", **always, **_DIAGNOSTIC),
        sensor(numbers, "fps", "Frames per second", unit_of_measurement="fps", state_class="measurement",
               icon="mdi:filmstrip", **always),
        sensor(numbers, "latency_ms", "Latency", unit_of_measurement="ms", device_class="duration",
               state_class="measurement", **always),
        sensor(numbers, "dropped", "Dropped frames", state_class="total_increasing", **always, **_DIAGNOSTIC),
        Component("camera", "camera", "Camera", {"topic": tree.of(key, "camera"), **always}),
        Component("image", "image", "Last detection", {
            "image_topic": tree.of(key, "image"), "content_type": "image/jpeg", **always,
        }),
    ]  # fmt: skip
    if facts.task != "raw":
        components += [sensor(states, "objects", "Objects", **count), _events(tree.of(key, "event"))]
        components += [_trigger(tree.of(key, "event"), kind, "") for kind in ("appeared", "left")]
    if facts.reads:
        components.append(sensor(
            states, "reading", "Reading", icon="mdi:numeric", json_attributes_topic=states,
            json_attributes_template="{{ {'readings': value_json.readings} | tojson }}",
        ))  # fmt: skip
    for label in labels:
        occupied = f"occupancy_{slug(label)}"
        about = {"state_topic": states, "value_template": value(occupied), "device_class": "occupancy", **each}
        components.append(Component(occupied, "binary_sensor", f"{label} occupancy", about, occupied))
        components.append(sensor(states, f"count_{slug(label)}", f"{label} count", **count, **each))
        components.append(_trigger(tree.of(key, "event"), "appeared", label))
    return Device(key, f"{view.name} source", "Source", tuple(components), f"node/{view.name}", "", (alive, seeing))


def _events(topic: str) -> Component:
    about = {"state_topic": topic, "event_types": list(EVENT_TYPES), "icon": "mdi:motion-sensor"}
    return Component("event", "event", "Objects", about, "objects")


def _trigger(topic: str, kind: str, label: str) -> Component:
    """For automations: any object, or one of a label, came or went."""
    said = "{{ value_json.event_type }}" if not label else "{{ value_json.event_type ~ ' ' ~ value_json.label }}"
    about = {"automation_type": "trigger", "topic": topic, "type": kind, "subtype": label or "object",
             "value_template": said, "payload": f"{kind} {label}".strip()}  # fmt: skip
    return Component(f"{kind}_{slug(label)}" if label else kind, TRIGGER, "", about, "objects")
