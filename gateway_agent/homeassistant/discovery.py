"""What Home Assistant is told of a device: one document for all its components, or one for each.

Laws: every entity has a ``unique_id`` that outlives restarts of everything, and none has an ``object_id``; what has been
announced once and is no more is cleared by name. Topics and payloads only; when they are sent is the mirror's affair.
"""

import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Mode = Literal["device", "component"]

NAME = "DeepThings"
PREFIX = "homeassistant"
URL = "https://doi.org/10.1109/TCAD.2018.2858384"
TRIGGER = "device_automation"


@dataclass(frozen=True)
class Tree:
    """Our topics on Home Assistant's broker. ``cluster`` keeps several clusters apart."""

    cluster: str

    @property
    def base(self) -> str:
        return f"deepthings/{self.cluster}"

    def of(self, device: str, what: str) -> str:
        """``device``: gateway, node/NAME or source/NAME."""
        return f"{self.base}/{device}/{what}"

    def set(self, verb: str) -> str:
        """Where Home Assistant says what a control is to be."""
        return f"{self.base}/set/{verb}"

    def device_id(self, device: str) -> str:
        return f"{self.cluster}_{device.replace('/', '_')}"


def cluster_id(root: str, machine: Path = Path("/etc/machine-id")) -> str:
    """A name for this cluster that stays, and that no other cluster of the household has."""
    try:
        own = machine.read_text()
    except OSError:
        own = "no machine id"
    return f"{root}-{hashlib.sha256(f'deepthings {own}'.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Component:
    """One entity or device trigger. ``options`` are as Home Assistant spells them.

    ``needs``: a field of the device's state that must have been known once before this is announced: what a machine never
    tells makes no entity.
    """

    key: str
    platform: str
    name: str
    options: Mapping[str, Any]
    needs: str = ""


@dataclass(frozen=True)
class Device:
    """A device and its components. ``device``: gateway, node/NAME or source/NAME; ``via``: the device that leads to it."""

    device: str
    name: str
    model: str
    components: tuple[Component, ...]
    via: str = ""
    version: str = ""
    availability: tuple[Mapping[str, str], ...] = ()
    gone: Mapping[str, str] = field(default_factory=dict)  # components that were announced before: key -> platform


def documents(device: Device, tree: Tree, prefix: str, mode: Mode, version: str) -> dict[str, dict[str, Any]]:
    """Configuration topics and their documents; an empty document clears its topic."""
    about: dict[str, Any] = {"identifiers": [tree.device_id(device.device)], "name": device.name,
                             "manufacturer": NAME, "model": device.model}  # fmt: skip
    if device.version:
        about["sw_version"] = device.version
    if device.via:
        about["via_device"] = tree.device_id(device.via)
    common = {"device": about, "origin": {"name": "deepthings-mqtt", "sw_version": version, "support_url": URL}}
    shared = {"availability": [dict(a) for a in device.availability], "availability_mode": "all"}
    described = {c.key: {**shared, **_describe(c, device, tree)} for c in device.components}
    if mode == "component":
        told = {_own_topic(prefix, c.platform, device, tree, c.key): {**described[c.key], **common} for c in device.components}
        return told | {_own_topic(prefix, p, device, tree, key): {} for key, p in device.gone.items()}
    components = described | {key: {"platform": platform} for key, platform in device.gone.items()}
    return {f"{prefix}/device/{tree.device_id(device.device)}/config": {**common, "components": components}}


def slug(label: str) -> str:
    """A label as part of a key: different labels never become the same."""
    plain = re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")
    return plain if plain == label.replace(" ", "_") else f"{plain}_{zlib.crc32(label.encode()):08x}".strip("_")


def value(key: str) -> str:
    """The template of one field of a state."""
    return f"{{{{ value_json.{key} }}}}"


def _describe(component: Component, device: Device, tree: Tree) -> dict[str, Any]:
    told = {"platform": component.platform, **component.options}
    if component.platform != TRIGGER:
        told |= {"name": component.name, "unique_id": f"{tree.device_id(device.device)}_{component.key}"}
    return told


def _own_topic(prefix: str, platform: str, device: Device, tree: Tree, key: str) -> str:
    return f"{prefix}/{platform}/{tree.device_id(device.device)}/{key}/config"
