"""What Home Assistant makes of our messages, as strictly as it could: for tests without it.

It checks every message against what Home Assistant 2025.4 accepts, refuses or warns of: keys of each platform, unique ids,
templates that miss a key, options that it was not told of, devices that come before the one that leads to them.
"""

import json
import re
from typing import Any

from gateway_agent.homeassistant.mirror import Said

COMMON = {
    "platform", "name", "unique_id", "device", "origin", "availability", "availability_mode", "icon", "entity_category",
    "device_class", "json_attributes_topic", "json_attributes_template", "value_template",
}  # fmt: skip
NEEDS = {
    "sensor": {"state_topic"},
    "binary_sensor": {"state_topic"},
    "switch": {"command_topic", "state_topic"},
    "number": {"command_topic", "state_topic"},
    "select": {"command_topic", "state_topic", "options"},
    "button": {"command_topic"},
    "update": {"state_topic"},
    "image": {"image_topic"},
    "camera": {"topic"},
    "event": {"state_topic", "event_types"},
    "device_automation": {"automation_type", "topic", "type", "subtype"},
}
TAKES = {
    "sensor": {"unit_of_measurement", "state_class"},
    "binary_sensor": {"payload_on", "payload_off"},
    "number": {"min", "max", "step", "mode"},
    "update": {"title"},
    "image": {"content_type"},
    "device_automation": {"payload"},
}
CLASSES = {
    "sensor": {"duration": {"ms"}, "temperature": {"°C"}, "data_size": {"MB"}, "timestamp": {None}},
    "binary_sensor": {"connectivity", "problem", "occupancy"},
    "button": {"restart"},
    "update": {"firmware"},
}
READ_ONLY = {"sensor", "binary_sensor", "image", "camera", "event", "update"}


class Home:
    """``hear`` what is published; ``states`` are as Home Assistant would show them, by unique id."""

    def __init__(self, prefix: str = "homeassistant") -> None:
        self.prefix = prefix
        self.retained: dict[str, bytes] = {}
        self.entities: dict[str, dict[str, Any]] = {}
        self.triggers: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.documents: list[str] = []  # topics of non-empty configurations, as they came
        self._of_topic: dict[str, set[str]] = {}
        self._devices: set[str] = set()

    def hear(self, said: Said) -> None:
        if said.topic.startswith(self.prefix + "/"):
            assert said.retain and said.qos == 1, said.topic
            assert re.fullmatch(r"(device/[A-Za-z0-9_-]+|\w+/[A-Za-z0-9_-]+/[A-Za-z0-9_-]+)/config",
                                said.topic[len(self.prefix) + 1 :])  # fmt: skip
            self._configure(said.topic, said.payload)
        elif said.retain:
            self.retained[said.topic] = said.payload
            self._check_state(said.topic)
        if not said.retain:
            document = json.loads(said.payload)
            for entity in self.entities.values():
                if entity["platform"] == "event" and entity["state_topic"] == said.topic:
                    assert document["event_type"] in entity["event_types"]
            self.events.append((said.topic, document))
        elif not said.payload:
            self.retained.pop(said.topic, None)
        else:
            self.retained[said.topic] = said.payload

    @property
    def states(self) -> dict[str, Any]:
        return {unique_id: self.state(unique_id) for unique_id in self.entities}

    @property
    def configured(self) -> set[str]:
        """Topics whose configuration is retained."""
        return set(self._of_topic)

    def state(self, unique_id: str) -> Any:
        """What is shown: "unavailable", None for unknown, or the value of the template."""
        entity = self.entities[unique_id]
        for where in entity["availability"]:
            said = self.retained.get(where["topic"])
            if said is None or self._render(where.get("value_template"), said) != "online":
                return "unavailable"
        topic = entity.get("state_topic") or entity.get("topic") or entity.get("image_topic")
        payload = self.retained.get(topic or "")
        return None if payload is None else self._render(entity.get("value_template"), payload)

    def _configure(self, topic: str, payload: bytes) -> None:
        for unique_id in self._of_topic.pop(topic, set()) if not payload else set():
            self.entities.pop(unique_id, None)
            self.triggers.pop(unique_id, None)
        if not payload:
            return
        self.documents.append(topic)
        document = json.loads(payload)
        parts = topic[len(self.prefix) + 1 :].split("/")
        if parts[0] == "device":
            assert set(document) == {"device", "origin", "components"} and document["origin"]["name"]
            about = {"device": document["device"], "origin": document["origin"]}
            components = {f"{parts[1]} {key}": {**c} for key, c in document["components"].items()}
        else:
            about = {}
            assert parts[0] == document["platform"] and document["origin"]["name"]
            components = {f"{parts[1]} {parts[2]}": document}
        self._device(document.get("device") or {})
        for key, component in components.items():
            self._component(topic, key, {**component, **about} if len(component) > 1 else component)

    def _device(self, device: dict[str, Any]) -> None:
        assert device["identifiers"] and device["name"]
        assert device.get("via_device", "") in {"", *self._devices}, "the device that leads to it comes first"
        self._devices.update(device["identifiers"])

    def _component(self, topic: str, key: str, component: dict[str, Any]) -> None:
        platform = component["platform"]
        if len(component) == 1:  # nothing but its platform: removed
            for kept in (self.entities, self.triggers):
                kept.pop(next((u for u, c in kept.items() if c["key"] == key), ""), None)
            return
        allowed = COMMON | NEEDS[platform] | TAKES.get(platform, set())
        assert set(component) <= allowed, set(component) - allowed
        assert NEEDS[platform] <= set(component), (key, NEEDS[platform] - set(component))
        if platform == "device_automation":
            assert component["automation_type"] == "trigger"
            self.triggers[key] = {**component, "key": key}
            self._of_topic.setdefault(topic, set()).add(key)
            return
        unique_id = component["unique_id"]
        assert component["name"] and component["availability"] and component["availability_mode"] == "all"
        same = self.entities.get(unique_id)
        assert same is None or same["key"] == key, f"{unique_id} is not unique"
        _check_class(component)
        self.entities[unique_id] = {**component, "key": key}
        self._of_topic.setdefault(topic, set()).add(unique_id)
        for state_topic in _topics(component):
            self._check_state(state_topic)

    def _check_state(self, topic: str) -> None:
        """No template of an announced entity misses a key, and no select an option."""
        payload = self.retained.get(topic)
        if not payload:
            return
        for unique_id, entity in self.entities.items():
            for of, template in ((entity.get("state_topic"), entity.get("value_template")),
                                 (entity.get("json_attributes_topic"), entity.get("json_attributes_template"))):  # fmt: skip
                if of == topic and template:
                    missing = set(_keys(template)) - set(json.loads(payload))
                    assert not missing, f"{unique_id}: {missing} missing on {topic}"
            if entity["platform"] == "select" and entity["state_topic"] == topic:
                assert self._render(entity["value_template"], payload) in (None, *entity["options"]), unique_id

    @staticmethod
    def _render(template: str | None, payload: bytes) -> Any:
        if template is None:
            return payload.decode(errors="replace")
        (key,) = _keys(template)
        return json.loads(payload)[key]


def _topics(component: dict[str, Any]) -> list[str]:
    return [component[name] for name in ("state_topic", "json_attributes_topic") if name in component]


def _keys(template: str) -> list[str]:
    return re.findall(r"value_json\.(\w+)", template)


def _check_class(component: dict[str, Any]) -> None:
    platform, kind, unit = component["platform"], component.get("device_class"), component.get("unit_of_measurement")
    if kind is not None:
        assert kind in CLASSES[platform]
        known = CLASSES[platform]
        assert not isinstance(known, dict) or unit in known[kind], (component["name"], unit)
    assert component.get("state_class") in (None, "measurement", "total_increasing")
    assert component.get("entity_category") in ((None, "diagnostic") if platform in READ_ONLY else (None, "config"))
