"""What a gateway or an edge keeps on disk over its restarts: where that folder is, and how a file gets there whole.

It keeps three laws: a name holds all of what was written last, or all of what was there before, whatever is killed or full
in between; nobody but this user reads it, for keys lie here, too; and no link is followed, so that root, who works here in
the folder of another user ('sudo dt enroll'), changes nothing elsewhere. What root makes belongs to the folder's owner.
"""

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.contract.errors import CredentialError, DtError

MOST_BYTES = 256 * 2**20  # of a file that is read
LOCK_S = 2.0  # a lock is held for a write to the disk
_HERE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # neither a link's target, nor the wait for a pipe's other end
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC
_NO_FILE = "a link, a folder, a pipe or a device, no file of its own"
_log = logging.getLogger(__name__)


def state_folder(given: Path | None, root: str, make: bool = True) -> Path:
    """The folder of the cluster ``root``: ``given``, else $STATE_DIRECTORY (systemd's), else ``deepthings/<root>`` in
    $XDG_STATE_HOME or ~/.local/state. ``make``: it is made (0700) if it is missing, and closed to others if it is not.

    Raises:
        DtError: it cannot be made.
    """
    service = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    folder = given or (Path(service) if service else user_folder("XDG_STATE_HOME", ".local/state") / root)
    if make:
        with told(folder):
            _close(folder)
    return folder


def user_folder(variable: str, below: str) -> Path:
    """Our folder in $variable, or ``below`` this user's home. Whoever has none, as in a container, finds nothing there."""
    try:
        return Path(os.environ.get(variable) or Path.home() / below) / "deepthings"
    except RuntimeError:  # $HOME is not set, and this user's number has no name
        return Path("/nonexistent") / below / "deepthings"  # the home folder of Debian's users without one


def write(path: Path, data: bytes) -> None:
    """Put ``data`` under ``path`` (0600): complete and on the disk when this returns, or nothing has changed.

    Raises:
        DtError: the folder cannot be written or the disk is full.
    """
    part = f".{path.name}-{secrets.token_hex(8)}.part"
    with told(path.parent), entered(path.parent) as folder:
        handle = _made(part, folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(part, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)
            raise
        os.fsync(folder)  # the new name, too, outlives a power cut


def append(path: Path, data: bytes) -> None:
    """Put ``data`` at the end of a file that is there, or leave that as it was. It outlives this process, not a power cut.

    Raises:
        DtError: there is none, it cannot be written, or the disk is full.
    """
    with told(path.parent), entered(path.parent) as folder:
        handle = _opened(path.name, folder, os.O_WRONLY | os.O_APPEND)
        try:
            size = os.fstat(handle).st_size
            try:
                if os.write(handle, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)


def read(path: Path, most: int = MOST_BYTES) -> bytes | None:
    """What is there, of at most ``most`` bytes; None if nothing is.

    Raises:
        CredentialError: it is nothing that was written here: no file, or a larger one.
        DtError: it cannot be read.
    """
    with told(path.parent):
        try:
            with entered(path.parent) as folder, _no_file_told(path):
                handle = _opened(path.name, folder, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with os.fdopen(handle, "rb") as file:
            data = file.read(most + 1)
    if len(data) > most:
        raise CredentialError(f"{path} is damaged (more than {most} bytes): restore it, or remove it")
    return data


def keep_aside(path: Path, suffix: str) -> None:
    """Give the file a second name, which what was kept aside before loses; none, and a disk that knows one name for each file,
    are no errors.

    Raises:
        DtError: the folder cannot be written.
    """
    aside = path.name + suffix
    with told(path.parent), entered(path.parent) as folder:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=folder)
        with contextlib.suppress(OSError):
            os.link(path.name, aside, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """No other process has this lock meanwhile; ``path`` is a file for that alone, which is made.

    Raises:
        DtError: another has it for longer than it takes, or the folder cannot be written.
    """
    with told(path.parent), entered(path.parent) as folder:
        try:
            handle = _made(path.name, folder)
        except FileExistsError:
            handle = _opened(path.name, folder, os.O_RDWR)
    try:
        until = time.monotonic() + LOCK_S
        while not _locks(handle):
            if time.monotonic() > until:
                raise DtError(f"{path} is locked by another process for more than {LOCK_S:g} s: end that one, or try again")
            time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def not_roots(folder: Path) -> Path | None:
    """As root: the first folder or link on the way to ``folder``, it included, in which or by which another user could put
    something else in place of what we name; None: there is none, or we are not root."""
    if os.geteuid() != 0:
        return None
    for step in (*reversed(folder.absolute().parents), folder.absolute()):
        try:
            found, link = step.stat(), step.lstat()
        except OSError:
            return None  # it is not there, or cannot be: whoever goes on is told
        open_to_all = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if found.st_uid != 0 or link.st_uid != 0 or open_to_all:
            return step
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


@contextmanager
def _no_file_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise CredentialError(f"{path} is damaged ({_NO_FILE}): put the file itself there, or remove it") from None


@contextmanager
def entered(folder: Path, make: bool = False) -> Iterator[int]:
    """A handle on the folder, which is made if it is missing: what is done by it is done there, wherever its name leads now.

    On the way root follows no link but those that root alone can have put there.
    """
    at = os.open("/", os.O_PATH | _FOLDER)
    try:
        *way, last = folder.absolute().parts
        for name in [*way[1:], last]:
            try:
                step = _step(name, at)
            except FileNotFoundError:
                if not make:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700 if name is last else 0o777, dir_fd=at)
                step = _step(name, at)
            os.close(at)
            at = step
        handle = os.open(".", os.O_RDONLY | _FOLDER, dir_fd=at)
    finally:
        os.close(at)
    try:
        yield handle
    finally:
        os.close(handle)


def _step(name: str, at: int) -> int:
    """From one folder into the next."""
    try:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | _FOLDER, dir_fd=at)
    except NotADirectoryError:
        holder = os.fstat(at)
        if not stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            raise
        if os.geteuid() == 0 and (holder.st_uid != 0 or holder.st_mode & 0o022):
            raise OSError(errno.ELOOP, f"{name} is a link that another user may have put there") from None
        return os.open(name, os.O_PATH | _FOLDER, dir_fd=at)


def _made(name: str, folder: int) -> int:
    """A new file (0600) of the folder's owner."""
    handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _HERE, 0o600, dir_fd=folder)
    if os.geteuid() == 0:
        owner = os.fstat(folder)
        os.fchown(handle, owner.st_uid, owner.st_gid)
    return handle


def _opened(name: str, folder: int, flags: int) -> int:
    """A file that is there, and has no other name by which it belongs elsewhere."""
    try:
        handle = os.open(name, flags | _HERE, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise OSError(errno.EINVAL, f"{name} is {_NO_FILE}") from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or (flags != os.O_RDONLY and found.st_nlink > 1):
        os.close(handle)
        raise OSError(errno.EINVAL, f"{name} is {_NO_FILE}")
    return handle


def _locks(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close(folder: Path) -> None:
    """Others need not look into it, unless it holds what they may read: then it is more than a state folder."""
    with entered(folder, make=True) as handle:
        found = os.fstat(handle)
        if not found.st_mode & 0o077:
            return
        with os.scandir(handle) as entries:
            inner = [entry.stat(follow_symlinks=False).st_mode for entry in entries]
        if os.geteuid() in (0, found.st_uid) and all(stat.S_ISREG(mode) and not mode & 0o077 for mode in inner):
            os.fchmod(handle, 0o700)
        else:
            open_to_others = "state folder %s is open to others (%o): close it (chmod 700), or choose another with --state DIR"
            _log.warning(open_to_others, folder, stat.S_IMODE(found.st_mode))
