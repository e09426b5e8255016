"""A model in chunks: small enough for any broker, and each checked by a digest of its own."""

import numpy as np
import numpy.typing as npt

from schemas.contract.errors import DecodeError
from schemas.contract.plan import digest

CHUNK_BYTES = 128 * 1024  # on a link of 1 Mbit/s control waits a second behind one


def chunk_count(total_bytes: int) -> int:
    """How many chunks ``total_bytes`` (at least 1) make."""
    return -(-total_bytes // CHUNK_BYTES)


def chunk(data: bytes, n: int) -> npt.NDArray[np.uint8]:
    """Chunk ``n`` of ``data``, a view: ``CHUNK_BYTES`` long, but the last."""
    return np.frombuffer(data, np.uint8)[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES]


def chunk_digests(data: bytes) -> tuple[str, ...]:
    """The digest of every chunk, in order."""
    return tuple(digest(chunk(data, n).data) for n in range(chunk_count(len(data))))


def check_count(chunks: int, total_bytes: int) -> None:
    """Whether a model of ``total_bytes`` comes in so many chunks.

    Raises:
        DecodeError: it does not.
    """
    if total_bytes < 1 or chunks != chunk_count(total_bytes):
        wanted = chunk_count(total_bytes)
        raise DecodeError(f"a model of {total_bytes} bytes comes in {wanted} chunks of {CHUNK_BYTES} bytes, not {chunks}")
