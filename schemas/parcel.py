"""A model in chunks, small enough for any broker, and whole again on the other side.

It keeps one law: bytes leave a ``Parcel`` only when all of them are there and their digest is the one asked for.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from schemas.errors import DecodeError
from schemas.plan import digest as digest_of

CHUNK_BYTES = 512 * 1024


def chunk_count(total_bytes: int) -> int:
    """How many chunks ``total_bytes`` (at least 1) make."""
    return -(-total_bytes // CHUNK_BYTES)


def chunks(data: bytes) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Number and bytes of every chunk, in order: views of ``data``, all of ``CHUNK_BYTES`` but the last."""
    whole = np.frombuffer(data, np.uint8)
    for n in range(chunk_count(len(data))):
        yield n, whole[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES]


class Parcel:
    """Collects the chunks of one model, in any order; a chunk that is there already is ignored."""

    def __init__(self, digest: str, chunks: int, total_bytes: int) -> None:
        if total_bytes < 1 or chunks != chunk_count(total_bytes):
            wanted = chunk_count(total_bytes)
            raise DecodeError(f"a model of {total_bytes} bytes comes in {wanted} chunks of {CHUNK_BYTES}, not {chunks}")
        self.digest = digest
        self.chunks = chunks
        self.total_bytes = total_bytes
        self._parts: dict[int, bytes] = {}

    @property
    def missing(self) -> list[int]:
        """Numbers of the chunks that have not come yet."""
        return [n for n in range(self.chunks) if n not in self._parts]

    def add(self, digest: str, n: int, data: npt.NDArray[np.uint8]) -> bytes | None:
        """Take chunk ``n`` of model ``digest``; the model's bytes once it is whole, else None.

        A chunk of another model is ignored: retained chunks of an older plan are normal.

        Raises:
            DecodeError: no such chunk, wrong size or type, or the whole has another digest (then it starts anew).
        """
        if digest != self.digest:
            return None
        self._check(n, data)
        self._parts.setdefault(n, data.tobytes())
        if len(self._parts) < self.chunks:
            return None
        whole = b"".join(self._parts[i] for i in range(self.chunks))
        found = digest_of(whole)
        if found != self.digest:
            self._parts.clear()
            raise DecodeError(f"model of {len(whole)} bytes has digest {found}, wanted {self.digest}: starting anew")
        return whole

    def _check(self, n: int, data: npt.NDArray[np.uint8]) -> None:
        if not 0 <= n < self.chunks:
            raise DecodeError(f"chunk {n} of model {self.digest}: it has {self.chunks} chunks, numbered from 0")
        size = min(CHUNK_BYTES, self.total_bytes - n * CHUNK_BYTES)
        if data.dtype != np.uint8 or data.shape != (size,):
            raise DecodeError(
                f"chunk {n} of model {self.digest}: uint8 of shape {(size,)} wanted, got {data.dtype} of {data.shape}"
            )
