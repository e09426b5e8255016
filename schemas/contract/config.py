"""What may be configured: one record a command, and each option's name, type, default, limits and help text once.

A field of ``GatewayOptions`` is an option of ``dt gateway``, a key of ``[gateway]`` in a configuration file and the
variable ``DT_GATEWAY_<FIELD>``; ``EdgeOptions`` likewise. Nothing else lists them: ``dt_cli.options`` makes the flags of
these fields, ``schemas.host.settings`` reads files and environment. To add an option, add a field.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from schemas.contract import address
from schemas.contract.messages import is_name
from schemas.contract.plan import Record


def option(default: Any, text: str, *, secret: bool = False, **limits: Any) -> Any:
    """A field with its help ``text``; ``limits`` are pydantic's (ge, le...). A ``secret`` is shown to nobody."""
    return Field(default, description=text, json_schema_extra={"secret": secret}, **limits)


def parse_listen(text: str) -> tuple[str, int]:
    """``HOST:PORT``; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("give HOST:PORT, such as 127.0.0.1:1883 (port 0 takes a free one)")
    return host.strip("[]"), int(port)


def parse_detectors(text: str) -> dict[str, str]:
    """Endpoints of ZeroMQ for Frigate by the names of their sources: ``tcp://HOST:PORT`` or ``ipc:///PATH``, joined by commas;
    ``NAME=`` before one makes its source ``frigate-NAME``.

    Raises:
        ValueError: they are not of that form.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, endpoint = part.strip().rpartition("=")
        scheme, _, where = endpoint.partition("://")
        source = f"frigate-{name}" if equals else "frigate"
        if scheme == "tcp":
            parse_listen(where)
        elif scheme != "ipc" or not where.startswith("/"):
            raise ValueError("give tcp://127.0.0.1:5555 or ipc:///PATH, with NAME= before each if there are several")
        if source in found or not is_name(source):
            raise ValueError(f"{source} is given twice or is no name: give each endpoint its own, such as yard=tcp://127.0.0.1:5556")
        found[source] = endpoint
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on ``host``."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError("use 1 to 64 letters, digits, _ and - only")
    return text


def _listen(text: str) -> str:
    parse_listen(text)
    return text


def _detectors(text: str) -> str:
    parse_detectors(text)
    return text


def _grid(text: str) -> str:
    if not re.fullmatch(r"([1-9]|[1-5]\d|6[0-4])[xX]([1-9]|[1-5]\d|6[0-4])", text):
        raise ValueError("give rows x columns from 1x1 to 64x64, such as 3x3")
    return text


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[^+#/\0]+(/[^+#/\0]+)*", text):
        raise ValueError("give the beginning of a topic, such as homeassistant")
    return text


def _broker(text: str) -> str:
    if text:
        address.broker(text)  # the words for a broker of the gateway's own have the form of a host's name
    return text


def _source(text: str) -> str:
    if text.partition("://")[0].lower() in address.CAMERAS and not os.path.exists(text):  # noqa: PTH110 - too long for a path is no error
        address.camera(text)
    return text


NodeName = Annotated[str, AfterValidator(_name)]
Listen = Annotated[str, AfterValidator(_listen)]
Detectors = Annotated[str, AfterValidator(_detectors)]
Grid = Annotated[str, AfterValidator(_grid)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Broker = Annotated[str, AfterValidator(_broker)]
Source = Annotated[str, AfterValidator(_source)]
Level = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(lambda given: {"warn": "warning"}.get(str(given).lower(), str(given).lower())),
]

Drop = Literal["latest", "all"]

ROOT = "dt"
_ROOT = "First topic level; one per cluster."
_STATE = "Folder for credentials. [default: the service's, or ~/.local/state/deepthings/ROOT]"
_THREADS = "Threads of the TFLite runtime. [default: as many as this process may keep busy: affinity, control groups]"


class GatewayOptions(Record):
    """``dt gateway``."""

    model: Path | None = option(None, "A .tflite file, or a folder that 'dt plan' wrote.")
    grid: Grid | None = option(None, "Tiles, rows x columns. [default: 3x3]")
    cut: str = option("auto", "Where to cut: a tensor's name, an operator's index, or auto.")
    listen: Listen = option("127.0.0.1:1883", "HOST:PORT of the broker that the gateway hosts.")
    broker: Broker | None = option(
        None,
        "amqtt (embedded), mosquitto (installed), auto (mosquitto if installed), or yours: mqtt://HOST:PORT "
        "[default: amqtt on loopback, auto beyond]",
    )
    root: NodeName = option(ROOT, _ROOT)
    sealed: bool = option(False, "Let in only enrolled nodes, on loopback, too, or on a broker of yours.")
    insecure: bool = option(False, "Listen beyond loopback without TLS, passwords and seals.")
    announce: bool = option(True, "Let edges find this gateway by mDNS where it listens beyond loopback.")
    deadline: float = option(120.0, "Seconds after which an incomplete frame fails.", ge=1, le=1e6)
    state: Path | None = option(
        None, "Folder for what outlives a restart, and credentials. [default: the service's, or ~/.local/state/deepthings/ROOT]"
    )
    threads: int | None = option(None, _THREADS, ge=1, le=64)
    http: Listen | None = option(None, "HOST:PORT of the dashboard, such as 127.0.0.1:8099.")
    outputs: bool = option(False, "Publish the final tensors, too, not only what they say.")
    objective: Literal["fixed", "latency", "throughput", "traffic", "memory"] | None = option(
        None,
        "Plan again for latency, throughput, traffic or memory when nodes join, leave or turn slow; or keep the plan: fixed. "
        "[default: latency, or fixed where a grid, a cut or a plan is given]",
    )
    models: Path | None = option(None, "A folder of .tflite files to choose from while it runs.")
    frigate: Detectors | None = option(
        None,
        "Answer Frigate's detectors (zmq) at tcp://127.0.0.1:5555 or ipc:///PATH; several as NAME=tcp://..., joined by commas.",
    )
    frigate_timeout: float = option(0.2, "Seconds that Frigate waits, its request_timeout_ms.", ge=0.01, le=60)
    frigate_colour: Literal["rgb", "bgr"] = option("rgb", "Frigate's input_pixel_format.")
    ha: bool = option(False, "Show the cluster in Home Assistant, by MQTT discovery.")
    ha_broker: Broker | None = option(
        None, "Home Assistant's broker, mqtt://USER:PASSWORD@HOST; implies --ha. [default: the cluster's]"
    )
    ha_prefix: Prefix = option("homeassistant", "Home Assistant's discovery prefix.")
    ha_discovery: Literal["device", "component"] = option(
        "device", "device: one message for each device; component: one for each entity."
    )
    ha_labels: str | None = option(
        None, "Labels with an occupancy of their own, joined by commas. [default: all; of more than 16 those seen]"
    )


class EdgeOptions(Record):
    """``dt edge``."""

    gateway: Broker | None = option(None, "HOST[:PORT] of the gateway's broker. [default: found by mDNS]")
    name: NodeName | None = option(None, "This node's name. [default: the host's]")
    source: Source | None = option(None, "Frames: file:///clip.mp4, dir:///images, synthetic://")
    frames: int | None = option(None, "Stop the source after so many frames.", ge=1)
    root: NodeName | None = option(None, f"{_ROOT} [default: {ROOT}, or that of the gateway that is found]")
    cache: Path | None = option(None, "Folder for models. [default: the service's, or ~/.cache/deepthings]")
    keep: int | None = option(
        None, "Tile classes kept in memory. [default: what a quarter of the free memory holds]", ge=1, le=64
    )
    window: int = option(2, "Frames of the source in flight: 1 for latency, 2 for rate.", ge=1, le=32)
    threads: int | None = option(None, _THREADS, ge=1, le=64)
    deadline: float | None = option(
        None, "Seconds after which an incomplete frame of this source fails. [default: the gateway's]", gt=0, le=1e6
    )
    drop: Drop | None = option(
        None,
        "Pictures that come while there is no room: latest keeps the newest, all keeps all in order until too many wait. "
        "[default: latest for cameras; files and folders wait and lose none]",
    )
    priority: int = option(0, "Sources of a higher one come first.", ge=-100, le=100)
    direct: Literal["on", "off"] = option("on", "Tiles and parts go straight to the node that takes them, not by the broker.")
    join: str | None = option(None, "The line that 'dt enroll' printed on the gateway; given once.", secret=True)
    state: Path | None = option(None, _STATE)
    once: bool = option(False, "Exit 69 if the gateway cannot be reached, instead of retrying.")


class Settings(BaseSettings):
    """All of it: one section a command, and what concerns every command. ``schemas.host.settings.load`` makes it."""

    model_config = SettingsConfigDict(
        env_prefix="DT_", env_nested_delimiter="_", env_nested_max_split=1, extra="forbid", frozen=True
    )
    log: Level = option("info", "The least that is logged: debug, info, warning or error.")
    gateway: GatewayOptions = GatewayOptions()
    edge: EdgeOptions = EdgeOptions()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # ``schemas.host.settings`` lays the others beneath each other and remembers which one won
