"""`dt install`: units and configuration for systemd, written whole or not at all, and taken away again.

It keeps three laws. What it writes carries its own digest in the first line, so that what somebody has changed since is
recognised and never overwritten or removed. Either every file is in its place or everything is as it was before. And a
password goes into the credential, which only root may read.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dt_cli.output import console
from schemas.contract.errors import DtError
from schemas.contract.messages import as_name
from schemas.host.settings import HIDDEN, Loaded, OptionName, fields, shown
from schemas.host.state import not_roots

UNITS = {"gateway": "gateway-agent.service", "edge": "edge-agent@.service"}
_SHIPPED = "/opt/deepthings/bin/dt"  # what the units call before they know better
_STAMP = "# dt install "
_UNSEEN = tuple(Path(p) for p in ("/home", "/root", "/run/user", "/tmp", "/var/tmp"))  # ProtectHome=, PrivateTmp=


@dataclass(frozen=True)
class File:
    """One file below the root folder, as it is to be."""

    path: Path
    text: str
    mode: int = 0o644

    @property
    def stamped(self) -> str:
        return f"{_STAMP}{_digest(self.text)}: change what you like; it will not be overwritten then.\n{self.text}"


def install(section: str, loaded: Loaded, prefix: Path, dry_run: bool, uninstall: bool) -> None:
    """What the flags of ``loaded`` say, as a service.

    Raises:
        DtError: not root, a file that somebody has changed, a path that the service cannot see, a full disk.
    """
    given = {key: getattr(getattr(loaded.settings, section), key[-1]) for key in _flags(loaded)}
    name = given.pop(("edge", "name"), None) or as_name(socket.gethostname())
    instance = f"edge-{name}" if section == "edge" else "gateway"
    service = f"edge-agent@{name}" if section == "edge" else "gateway-agent"
    files = compose(section, instance, given, own_program())
    live = prefix == Path("/")
    if dry_run:
        for file in files:
            console.print(f"# {file.path} ({file.mode:o})\n{file.stamped if file.mode != 0o600 else HIDDEN}", markup=False)
        return
    if live and os.geteuid() != 0:
        raise DtError(f"dt install writes to /etc and needs root: sudo {own_program()} install {section} ...")
    if uninstall:
        _tell_systemd(live, "disable", "--now", service)
        for line in remove([*files, File(_secrets(instance), "")], prefix):
            console.print(line, soft_wrap=True, markup=False)
        _tell_systemd(live, "daemon-reload")
        return
    if live:
        require_visible([own_program(), *(value for value in given.values() if isinstance(value, Path))])
    write(files, prefix)
    if all(file.path != _secrets(instance) for file in files):  # an old password would win over the new configuration
        remove([File(_secrets(instance), "")], prefix)
    _tell_systemd(live, "daemon-reload")
    for file in files:
        console.print(f"wrote {prefix / file.path.relative_to('/')}", soft_wrap=True, markup=False)
    console.print(f"start it, now and at every boot: systemctl enable --now {service}", soft_wrap=True, markup=False)


def compose(section: str, instance: str, given: Mapping[OptionName, Any], program: Path) -> list[File]:
    """The unit, the configuration and, if there is something to hide, the credential."""
    known = fields()
    hidden = {key: value for key, value in given.items() if shown(known[key], value) not in (value, str(value))}
    public = {key: value for key, value in given.items() if key not in hidden}
    unit = (units_folder() / UNITS[section]).read_text().replace(_SHIPPED, str(program))
    files = [
        File(Path("/etc/systemd/system") / UNITS[section], unit),
        File(Path("/etc/deepthings") / instance / f"{section}.toml", toml(section, public)),
    ]
    return files + ([File(_secrets(instance), toml(section, hidden), 0o600)] if hidden else [])


def toml(section: str, given: Mapping[OptionName, Any]) -> str:
    """One section. Paths become absolute."""
    lines = [f"{key[-1]} = {json.dumps(_plain(value), ensure_ascii=False)}" for key, value in given.items()]
    return "\n".join([f"[{section}]", *lines, ""])


def write(files: Sequence[File], root: Path) -> None:
    """Every file, or nothing.

    Raises:
        DtError: one of them was changed by somebody, or cannot be written.
    """
    if theirs := not_roots(root):
        raise DtError(f"{theirs} is not root's alone, its user could have root write elsewhere: run dt install as that user")
    targets = {root / file.path.relative_to("/"): file for file in files}
    for path in targets:
        if theirs := not_roots(path):
            raise DtError(f"{theirs} is not root's alone: move it away first")
        if _changed(path):
            raise DtError(f"{path} was changed since 'dt install' wrote it: edit it yourself, or move it away first")
    made: list[Path] = []
    with contextlib.ExitStack() as undo:
        undo.callback(lambda: _remove_empty(reversed(made)))
        try:
            staged = {path: _stage(path, file, undo, made) for path, file in targets.items()}
            for path, part in staged.items():
                before = (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) if path.exists() else None
                part.replace(path)
                undo.callback(_restore, path, before)
        except OSError as error:
            raise DtError(f"cannot write {error.filename or root}: {error.strerror}: nothing was installed") from error
        undo.pop_all()


def remove(files: Iterable[File], root: Path) -> list[str]:
    """Take away what is as it was written; says what it did, one line a file."""
    said = []
    for file in files:
        path = root / file.path.relative_to("/")
        if not path.exists():
            continue
        if path.name == UNITS["edge"] and len(list((root / "etc/deepthings").glob("edge-*/edge.toml"))) > 1:
            said.append(f"kept {path}: other edges use it")
        elif _changed(path):
            said.append(f"kept {path}: it was changed since 'dt install' wrote it")
        else:
            path.unlink()
            said.append(f"removed {path}")
            with contextlib.suppress(OSError):
                if path.parent.parent.name == "deepthings":
                    path.parent.rmdir()
    return said or ["nothing of it is installed"]


def require_visible(paths: Iterable[Path]) -> None:
    """Units hide home and temporary folders, and their user is nobody in particular.

    Raises:
        DtError: one of ``paths`` cannot be read by the service.
    """
    for path in (path.absolute() for path in paths):
        if any(path.is_relative_to(unseen) for unseen in _UNSEEN):
            raise DtError(f"the service cannot see {path}: units hide home and temporary folders; move it below /opt")
        for step in (path, *path.parents):
            if not step.exists() or not step.stat().st_mode & (0o005 if step.is_dir() else 0o004):
                raise DtError(f"the service cannot read {path}: see {step}: it runs as a user of its own (chmod o+rX)")


def own_program() -> Path:
    """The ``dt`` of this virtual environment."""
    return Path(sys.executable).parent / "dt"


def units_folder() -> Path:
    """Where the units are: beside this package in a checkout, in the environment's data folder after pip install."""
    folders = [Path(__file__).parents[1] / "systemd", Path(sysconfig.get_path("data")) / "share/deepthings/systemd"]
    for folder in folders:
        if all((folder / unit).exists() for unit in UNITS.values()):
            return folder
    raise DtError(f"the units are missing: neither {folders[0]} nor {folders[1]} holds them; install the package again")


def _flags(loaded: Loaded) -> list[OptionName]:
    return [key for key, origin in loaded.origins.items() if origin.startswith("--")]


def _secrets(instance: str) -> Path:
    return Path("/etc/credstore") / f"deepthings-{instance}.toml"


def _plain(value: Any) -> Any:
    return str(value.absolute()) if isinstance(value, Path) else value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _changed(path: Path) -> bool:
    """Whether there is something that is not as it was written here."""
    if path.is_symlink() or not path.is_file():
        return path.is_symlink() or path.exists()
    first, _, rest = path.read_text(errors="replace").partition("\n")
    return not first.startswith(_STAMP + _digest(rest))


def _stage(path: Path, file: File, undo: contextlib.ExitStack, made: list[Path]) -> Path:
    """The file under another name beside its place; gone again unless it is moved there."""
    for folder in reversed([p for p in path.parents if not p.exists()]):
        folder.mkdir()
        made.append(folder)
        folder.chmod(0o700 if folder.name == "credstore" else 0o755)
    part = _part(path, file.stamped.encode(), file.mode)
    undo.callback(part.unlink, missing_ok=True)
    return part


def _part(path: Path, data: bytes, mode: int) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out:
            os.fchmod(out.fileno(), mode)
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)


def _restore(path: Path, before: tuple[bytes, int] | None) -> None:
    if before is None:
        path.unlink()
    else:
        _part(path, *before).replace(path)


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _tell_systemd(live: bool, *command: str) -> None:
    if live and shutil.which("systemctl") and Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", *command], check=False)
