"""Files that a user names: regular ones only, no larger than is sane for what they are, read whole.

A pipe would be waited for and a device would never end; both are refused before they are opened.
"""

import os
import stat
from pathlib import Path

from schemas.errors import PlanError


def check_file(path: Path, what: str) -> None:
    """Whether ``path`` names a regular file; ``what`` is what the message calls it.

    Raises:
        PlanError: there is none, or it is a folder, a pipe or a device.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise PlanError(f"cannot read the {what} {path}: {error.strerror}") from error
    except ValueError:  # a zero byte in the name
        raise PlanError(f"cannot read the {what} {str(path)!r}: no name of a file") from None
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


def cache_folder() -> Path:
    """The service's or the user's folder for what can be fetched or worked out again."""
    given = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepthings"
