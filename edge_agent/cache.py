"""Models on this edge's disk, so that a restart does not fetch them again. A file's name is its model's digest.

It keeps one law: a file that is found under a digest has that digest; half-written files never get such a name, and a
file that rotted is removed when it is asked for. A model that is on its way lies beside them, as a ``Part``.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.graph.file import file_digest
from schemas.contract.chunks import CHUNK_BYTES
from schemas.contract.errors import DtError
from schemas.host.state import not_roots

KEEP = 4
SUFFIX = ".tflite"
SYNC_BYTES = 8 * 1024 * 1024  # so much waits for the disk at most: a model written at once would stop the loop
ABANDONED_S = 3600.0  # a part this much older than the newest model belongs to a process that was killed


class ModelCache:
    """At most ``keep`` models in ``folder`` (made when needed); those stored or used longest ago go first.

    Raises:
        DtError: we are root, and another user could have us write elsewhere.
    """

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        if theirs := not_roots(folder):
            raise DtError(f"model cache {folder}: {theirs} is not root's alone: run as its user, or choose another --cache")
        self.folder = folder
        self.keep = keep

    def load(self, digest: str) -> Path | None:
        """The file with the model of this digest, verified; None if there is none.

        Raises:
            DtError: the folder cannot be read.
        """
        path = self.path(digest)
        with self.told():
            try:
                found = file_digest(path)
            except FileNotFoundError:
                return None
            if found != digest:
                path.unlink(missing_ok=True)
                return None
            with suppress(OSError):  # a read-only cache still serves
                os.utime(path)
        return path

    def part(self, digest: str, size: int) -> "Part":
        """Where the model ``digest`` of ``size`` bytes goes chunk by chunk; what came of it before is there still.

        Raises:
            DtError: the folder cannot be written or the disk is full.
        """
        path = self.folder / f".model-{digest}.part"
        with self.told():
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                missing = size - 512 * os.fstat(handle).st_blocks
                if missing > os.fstatvfs(handle).f_bavail * os.fstatvfs(handle).f_frsize:  # better now than in the middle
                    raise OSError(errno.ENOSPC, f"a model of {size / 1e6:.1f} MB does not fit on this disk")
                os.ftruncate(handle, size)
            except BaseException:
                os.close(handle)
                path.unlink(missing_ok=True)
                raise
        return Part(self, digest, size, path, handle)

    def room(self, name: str) -> Path:
        """A folder in here for what else the node ``name`` keeps.

        Raises:
            DtError: it cannot be made.
        """
        with self.told():
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        return self.folder / name

    def path(self, digest: str) -> Path:
        return self.folder / f"{digest}{SUFFIX}"

    def evict(self, newest: Path) -> None:
        """Remove the oldest models beyond ``keep``, never ``newest``. Another edge may share the folder."""

        def used(path: Path) -> float:
            with suppress(FileNotFoundError):
                return path.stat().st_mtime
            return 0.0

        others = sorted((p for p in self.folder.glob("*" + SUFFIX) if p != newest), key=used, reverse=True)
        killed = [p for p in self.folder.glob(".model-*.part") if used(p) < used(newest) - ABANDONED_S]
        for path in others[max(self.keep - 1, 0) :] + killed:
            path.unlink(missing_ok=True)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turn the disk's refusal into one line."""
        try:
            yield
        except OSError as error:
            raise DtError(
                f"model cache {self.folder}: {error.strerror or error}: make room or let this user write there, "
                "or choose another with --cache DIR"
            ) from error


class Part:
    """A model that is on its way. Processes that share the cache may write one part: the same bytes to the same places."""

    def __init__(self, cache: ModelCache, digest: str, size: int, path: Path, handle: int) -> None:
        self.digest, self.size = digest, size
        self._cache, self._path, self._handle = cache, path, handle
        self._unwritten = 0

    def read(self, n: int) -> bytes:
        """What lies where chunk ``n`` belongs, right or not."""
        with self._cache.told():
            return os.pread(self._handle, CHUNK_BYTES, n * CHUNK_BYTES)

    def write(self, n: int, data: npt.NDArray[np.uint8]) -> None:
        """Put chunk ``n`` in its place.

        Raises:
            DtError: the disk refuses it.
        """
        with self._cache.told():
            os.pwrite(self._handle, data.data, n * CHUNK_BYTES)
            self._unwritten += data.nbytes
            if self._unwritten >= SYNC_BYTES:
                self._unwritten = 0
                os.fdatasync(self._handle)

    def finish(self) -> Path | None:
        """The model's own file, on the disk, if all of it has the model's digest; None if not.

        Raises:
            DtError: the disk refuses it.
        """
        path = self._cache.path(self.digest)
        with self._cache.told():
            os.fdatasync(self._handle)
            if file_digest(f"/proc/self/fd/{self._handle}") != self.digest:
                return None
            try:
                self._path.replace(path)
            except FileNotFoundError:  # another process that shares the cache was first
                return self._cache.load(self.digest)
            self._cache.evict(path)
        return path

    def clear(self) -> None:
        """Nothing of it is right."""
        with self._cache.told():
            os.ftruncate(self._handle, 0)
            os.ftruncate(self._handle, self.size)

    def close(self) -> None:
        """What came stays for the next time."""
        os.close(self._handle)
