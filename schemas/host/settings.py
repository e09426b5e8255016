"""Where the options of ``schemas.contract.config`` come from: flags > environment > credentials > files > defaults.

Files are looked for in the first of these places that is named: ``--config FILE``; ``$DT_CONFIG``; every ``*.toml`` in
``$CONFIGURATION_DIRECTORY`` (systemd's; of several folders a later one wins); else every ``*.toml`` in /etc/deepthings and
then in $XDG_CONFIG_HOME/deepthings, which wins. ``$CREDENTIALS_DIRECTORY/secrets.toml`` is one more file, for what
others must not read. It keeps two laws: a key that is not known is an error that names it, its file and the nearest
known one; and it is known of every value where it came from.
"""

import difflib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, SettingsError

from schemas.contract.config import Settings
from schemas.contract.errors import ConfigError, DtError, PlanError
from schemas.contract.plan import Record
from schemas.contract.redact import redact
from schemas.host.state import user_folder
from schemas.host.toml import parse

SYSTEM = Path("/etc/deepthings")
SECRETS = "secrets.toml"
_MAX_BYTES = 2**20
DEFAULT, HIDDEN = "default", "(hidden)"

# What Kubernetes and Docker set for a service that is called dt-gateway, or dt-gateway-http: DT_GATEWAY_<this>
_FOREIGN = re.compile(r"(\w+_)?(service_host|service_port(_\w+)?|port(_\d+_(tcp|udp|sctp)(_(proto|port|addr))?)?)")
_log = logging.getLogger(__name__)

OptionName = tuple[str, ...]  # ("edge", "name"), or ("log",)


@dataclass(frozen=True)
class Layer:
    """Values of one origin: ``origin`` is a file, or empty for flags and environment, whose names tell."""

    values: Mapping[OptionName, Any]
    kind: str = "file"
    origin: str = ""

    def name(self, key: OptionName) -> str:
        """How the user wrote ``key`` here."""
        if self.kind == "flag":
            return "--" + key[-1].replace("_", "-")
        if self.kind == "environment":
            return "_".join(("DT", *key)).upper()
        return f"{self.origin}: {'.'.join(key)}"

    def error(self, text: str) -> DtError:
        """A mistake in a flag is one of usage (2), elsewhere one of configuration (78)."""
        return PlanError(text) if self.kind == "flag" else ConfigError(text)


@dataclass(frozen=True)
class Loaded:
    """The settings, the files that were read, and the origin of each value that is no default."""

    settings: Settings
    files: tuple[Path, ...]
    origins: Mapping[OptionName, str]

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """Each key, its value as it may be shown, and where it comes from."""
        for key, info in fields().items():
            value: Any = self.settings
            for step in key:
                value = getattr(value, step)
            yield ".".join(key), shown(info, value), self.origins.get(key, DEFAULT)


def load(flags: Mapping[OptionName, Any] | None = None, config: Path | None = None) -> Loaded:
    """Everything that is set, for a command with these ``flags``.

    Raises:
        PlanError: a flag's value is wrong.
        ConfigError: a file cannot be read, or it or the environment holds an unknown key or a wrong value.
    """
    files = find(config)
    layers = [
        Layer(flags or {}, "flag"),
        Layer(_environment(), "environment"),
        *(_file(path) for path in (*_credentials(), *reversed(files))),
    ]
    for layer in layers:
        for key in layer.values:
            _require_known(layer, key)
    won = {key: layer for layer in reversed(layers) for key in layer.values}
    return Loaded(
        _validated(won), tuple(files), {key: layer.origin or layer.name(key) for key, layer in won.items()}
    )  # fmt: skip


def find(config: Path | None = None) -> Sequence[Path]:
    """The files that count, those that win last."""
    named = config or os.environ.get("DT_CONFIG")
    if named:
        return [Path(named)]
    folders = [Path(folder) for folder in os.environ.get("CONFIGURATION_DIRECTORY", "").split(":") if folder]
    if not folders:
        folders = [SYSTEM, user_folder("XDG_CONFIG_HOME", ".config")]
    return [path for folder in folders for path in _files(folder)]


def _files(folder: Path) -> list[Path]:
    """None in a folder of somebody else: $HOME may be that of who became this user."""
    with suppress(PermissionError):
        return sorted(folder.glob("*.toml"))
    return []


def fields() -> dict[OptionName, FieldInfo]:
    """Every key that may be set."""
    found: dict[OptionName, FieldInfo] = {}
    for name, info in Settings.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, Record):
            found |= {(name, key): inner for key, inner in section.model_fields.items()}
        else:
            found[name,] = info
    return found


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for a child that must heed its flags alone, whatever this machine is configured to be."""
    sections = tuple(f"DT_{section}".upper() for section in {key[0] for key in fields() if len(key) > 1})
    ours = (*sections, "CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY")
    kept = {name: value for name, value in environ.items() if not name.upper().startswith(ours)}
    return {**kept, "DT_CONFIG": os.devnull}


def _credentials() -> list[Path]:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return []
    path = Path(folder) / SECRETS
    try:
        path.stat()
    except FileNotFoundError:
        return []
    except OSError:
        pass  # it is there: reading it tells what is wrong
    return [path]


def _environment() -> dict[OptionName, Any]:
    try:
        found = _flat(EnvSettingsSource(Settings)())
    except SettingsError as error:
        raise ConfigError(f"environment: {error}: write DT_GATEWAY_<OPTION> or DT_EDGE_<OPTION>") from None
    foreign = {key for key in found if _FOREIGN.fullmatch(key[-1]) and key not in fields()}
    if foreign:
        names = ", ".join(sorted("_".join(("DT", *key)).upper() for key in foreign))
        _log.warning("no options of this program, but a service's address as Kubernetes or Docker sets it; ignored: %s", names)
    return {key: value for key, value in found.items() if key not in foreign}


def _file(path: Path) -> Layer:
    """One file. A relative path in it counts from the file's folder."""
    try:
        said = parse(_text(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}: name another with --config FILE") from None
    except ValueError as error:  # not UTF-8, either
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    known, values = fields(), _flat(said)
    for key, value in values.items():
        if key in known and Path in (known[key].annotation, *get_args(known[key].annotation)) and isinstance(value, str):
            try:
                values[key] = path.absolute().parent / Path(value).expanduser()
            except RuntimeError as error:  # the home of a user who is none
                raise ConfigError(f"{path}: {'.'.join(key)} {value!r}: {error}") from None
    return Layer(values, origin=str(path))


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES} bytes")
    return data.decode()


def _flat(tree: Mapping[str, Any]) -> dict[OptionName, Any]:
    """Sections opened: {"edge": {"name": "a"}} -> {("edge", "name"): "a"}."""
    found: dict[OptionName, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= {(name, key): inner for key, inner in value.items()}
        else:
            found[name,] = value
    return found


def _require_known(layer: Layer, key: OptionName) -> None:
    known = {".".join(k): k for k in fields()}
    if key in known.values():
        return
    near = difflib.get_close_matches(".".join(key), known, 1, 0.0)[0]
    here = layer.name(known[near]).removeprefix(f"{layer.origin}: ")
    raise layer.error(f"{layer.name(key)}: there is no such key: did you mean {here}?")


def _validated(won: Mapping[OptionName, Layer]) -> Settings:
    tree: dict[str, Any] = {}
    for key, layer in won.items():
        section = tree.setdefault(key[0], {}) if len(key) > 1 else tree
        section[key[-1]] = layer.values[key]
    try:
        return Settings(**tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = tuple(str(step) for step in first["loc"])[:2]
        key = key if key in won else key[:1]
        why = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
        layer = won[key]
        value = shown(fields()[key], first["input"])
        raise layer.error(f"{layer.name(key)} {value!r}: {why}") from None


def shown(info: FieldInfo, value: Any) -> Any:
    """A value as it may be shown: no secret, and no password within an address."""
    extra = info.json_schema_extra
    if isinstance(extra, dict) and extra.get("secret") and value is not None:
        return HIDDEN
    if isinstance(value, str):
        return redact(value)
    return str(value) if isinstance(value, Path) else value
