"""A model that went through chunks is whole or it is not there."""

from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import parcel
from schemas.errors import DecodeError
from schemas.parcel import CHUNK_BYTES, Parcel, chunk_count, chunks
from schemas.plan import digest


@settings(max_examples=50)
@given(st.integers(1, 3 * CHUNK_BYTES + 1) | st.sampled_from([CHUNK_BYTES, CHUNK_BYTES + 1]), st.randoms())
def test_chunks_in_any_order_and_repeated_make_the_model_once_all_are_there(size: int, random: Random) -> None:
    data = np.random.default_rng(size).bytes(size)
    parts = list(chunks(data))
    wanted = Parcel(digest(data), len(parts), size)
    order = parts[:-1] * 2
    random.shuffle(order)
    assert all(wanted.add(wanted.digest, n, part) is None for n, part in order)
    assert wanted.missing == [len(parts) - 1]
    assert wanted.add(wanted.digest, *parts[-1]) == data
    assert wanted.missing == []


def test_chunk_sizes_are_the_constant_and_a_rest() -> None:
    assert [part.nbytes for _, part in chunks(bytes(2 * CHUNK_BYTES + 3))] == [CHUNK_BYTES, CHUNK_BYTES, 3]
    assert chunk_count(1) == 1 and chunk_count(CHUNK_BYTES) == 1 and chunk_count(CHUNK_BYTES + 1) == 2


def test_a_wrong_digest_starts_anew_and_can_still_succeed() -> None:
    data = bytes(CHUNK_BYTES + 5)
    wanted = Parcel(digest(data), 2, len(data))
    (_, first), (_, second) = chunks(data)
    wanted.add(wanted.digest, 0, first + np.uint8(1))
    with pytest.raises(DecodeError, match=wanted.digest):
        wanted.add(wanted.digest, 1, second)
    assert wanted.missing == [0, 1]
    assert wanted.add(wanted.digest, 1, second) is None
    assert wanted.add(wanted.digest, 0, first) == data


def test_a_chunk_of_another_model_is_ignored() -> None:
    wanted = Parcel(digest(b"abc"), 1, 3)
    assert wanted.add(digest(b"abd"), 0, np.zeros(3, np.uint8)) is None
    assert wanted.missing == [0]


@pytest.mark.parametrize(
    ("n", "data"),
    [(1, np.zeros(3, np.uint8)), (-1, np.zeros(3, np.uint8)), (0, np.zeros(4, np.uint8)), (0, np.zeros(0, np.uint8)),
     (0, np.zeros(3, np.int8)), (0, np.zeros((3, 1), np.uint8))],
)  # fmt: skip
def test_a_chunk_of_the_wrong_number_size_or_type_is_refused(n: int, data: npt.NDArray[np.uint8]) -> None:
    wanted = Parcel(digest(b"abc"), 1, 3)
    with pytest.raises(DecodeError, match="chunk"):
        wanted.add(wanted.digest, n, data)
    assert wanted.missing == [0]


@pytest.mark.parametrize(("count", "size"), [(0, 0), (2, 3), (1, CHUNK_BYTES + 1), (0, 1), (1, -1)])
def test_a_parcel_whose_chunks_do_not_fit_its_size_is_refused(count: int, size: int) -> None:
    with pytest.raises(DecodeError, match=str(parcel.CHUNK_BYTES)):
        Parcel("0" * 32, count, size)
