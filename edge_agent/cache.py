"""Models on this edge's disk, so that a restart does not fetch them again. A file's name is its model's digest.

It keeps one law: a file that is found under a digest has that digest; half-written files never get such a name, and a
file that rotted is removed when it is asked for.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.errors import DtError
from schemas.plan import digest as digest_of

KEEP = 4
SUFFIX = ".tflite"
ABANDONED_S = 3600.0  # a part this much older than the newest model belongs to a process that was killed


class ModelCache:
    """At most ``keep`` models in ``folder`` (made when needed); those stored or used longest ago go first."""

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        self.folder = folder
        self.keep = keep

    def load(self, digest: str) -> Path | None:
        """The file with the model of this digest, verified; None if there is none.

        Raises:
            DtError: the folder cannot be read.
        """
        path = self._path(digest)
        with self._told():
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return None
            if digest_of(data) != digest:
                path.unlink(missing_ok=True)
                return None
            with suppress(OSError):  # a read-only cache still serves
                os.utime(path)
        return path

    def store(self, digest: str, data: bytes) -> Path:
        """Keep the bytes of the model ``digest``: complete and on the disk when the name appears, or not at all.

        Raises:
            DtError: the folder cannot be written or the disk is full.
        """
        if digest_of(data) != digest:
            raise ValueError(f"{len(data)} bytes have digest {digest_of(data)}, not {digest}")
        path = self._path(digest)
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".model-", suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            self._evict(path)
        return path

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}{SUFFIX}"

    def _evict(self, newest: Path) -> None:
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
    def _told(self) -> Iterator[None]:
        """Turn the disk's refusal into one line."""
        try:
            yield
        except OSError as error:
            raise DtError(
                f"model cache {self.folder}: {error.strerror or error}: make room or let this user write there, "
                "or choose another folder"
            ) from error
