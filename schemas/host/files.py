"""Files that a user names: read whole, regular ones only, no larger than is sane for what they are; written whole or not.

A pipe would be waited for and a device would never end; both are refused before they are read.
"""

import os
import pwd
import stat
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from errno import EISDIR
from pathlib import Path

from schemas.contract.errors import PlanError, unwritable
from schemas.host.state import not_roots, user_folder


def check_file(path: Path, what: str) -> None:
    """Whether ``path`` names a regular file; ``what`` is what the message calls it.

    Raises:
        PlanError: there is none, or it is a folder, a pipe or a device; or its name is no text, which no message carries.
    """
    try:
        str(path).encode()
        mode = path.stat().st_mode
    except OSError as error:
        raise PlanError(f"cannot read the {what} {path}: {error.strerror}") from error
    except ValueError:  # a zero byte in the name, or no UTF-8
        raise PlanError(f"cannot read the {what} {str(path)!r}: no name of a file, or none in UTF-8") from None
    if not stat.S_ISREG(mode):
        raise PlanError(f"cannot read the {what} {path}: it is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")


def read_file(path: Path, most: int, what: str) -> bytes:
    """The bytes of a file of at most ``most`` bytes.

    Raises:
        PlanError: not readable, no regular file, or larger.
    """
    check_file(path, what)
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise PlanError(f"cannot read the {what} {path}: {error.strerror}") from error
    if len(data) > most:
        raise PlanError(f"{path} is larger than {most} bytes: no {what}")
    return data


def write_files(files: Mapping[Path, Iterable[bytes | memoryview]]) -> None:
    """Write files that belong together: none appears before all are written. A device or pipe gets its bytes as they are.

    Raises:
        PlanError: one cannot be written.
        DtError: the disk is full.
    """
    with ExitStack() as cleanup:
        parts: dict[Path, Path] = {}
        for path, pieces in files.items():
            try:
                if path.exists() and not path.is_file() and not path.is_dir():
                    with suppress(BrokenPipeError), path.open("wb") as there:  # whose reader went away: no failure
                        there.writelines(pieces)
                    continue
                if path.is_dir():
                    raise IsADirectoryError(EISDIR, "it is a folder")
                parts[path] = path.with_name(f".{path.name}.{os.getpid()}")
                cleanup.callback(parts[path].unlink, missing_ok=True)
                with parts[path].open("wb") as file:
                    file.writelines(pieces)
            except OSError as error:
                raise unwritable(path, error) from error
        for path, part in parts.items():
            try:
                part.replace(path)
            except OSError as error:
                raise unwritable(path, error) from error


def cache_folder() -> Path:
    """The service's or the user's folder for what can be fetched or worked out again; root's is its own, for with 'sudo' the
    environment may still be that of another user, who could have root write elsewhere."""
    given = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    folder = Path(given) if given else user_folder("XDG_CACHE_HOME", ".cache")
    return folder if not_roots(folder) is None else Path(pwd.getpwuid(0).pw_dir) / ".cache" / "deepthings"
