"""What a gateway or an edge keeps on disk over its restarts: where that folder is, and how a file gets there whole.

It keeps two laws: a name holds all of what was written last, or all of what was there before, whatever is killed or full
in between; and nobody but this user reads it, for keys lie here, too.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import DtError


def state_folder(given: Path | None, root: str, make: bool = True) -> Path:
    """The folder of the cluster ``root``: ``given``, else $STATE_DIRECTORY (systemd's), else ``deepthings/<root>`` in
    $XDG_STATE_HOME or ~/.local/state. ``make``: it is made (0700) if it is missing.

    Raises:
        DtError: it cannot be made.
    """
    service = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    folder = given or (Path(service) if service else Path(home) / "deepthings" / root)
    if make:
        with told(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def write(path: Path, data: bytes) -> None:
    """Put ``data`` under ``path`` (0600): complete and on the disk when this returns, or nothing has changed.

    Raises:
        DtError: the folder cannot be written or the disk is full.
    """
    with told(path.parent):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if os.geteuid() == 0:  # 'sudo dt enroll' beside a gateway that runs as another user
                owner = path.parent.stat()
                os.chown(name, owner.st_uid, owner.st_gid)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync(path.parent)


def read(path: Path) -> bytes | None:
    """What is there; None if nothing is.

    Raises:
        DtError: it cannot be read.
    """
    with told(path.parent):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turn the disk's refusal into one line."""
    try:
        yield
    except OSError as error:
        raise DtError(
            f"state folder {folder}: {error.strerror or error}: make room or let this user write there, or choose another "
            "with --state DIR"
        ) from error


def _sync(folder: Path) -> None:
    """The new name, too, outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
