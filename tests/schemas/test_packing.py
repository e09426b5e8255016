"""Packing changes no bit, survives damaged bytes, and is done where it pays."""

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.contract.errors import DecodeError
from schemas.wire.packing import PROBE, RECENT, Pace, pack, unpack

DTYPES = ("uint8", "int8", "int32", "int64", "float32", "float16", "bool")
arrays = st.sampled_from(DTYPES).flatmap(
    lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5))
)


@given(arrays)
def test_what_is_unpacked_has_the_bits_of_what_was_packed(array: np.ndarray) -> None:
    got = unpack(memoryview(pack(np.ascontiguousarray(array).reshape(array.shape))), array.dtype, array.shape)
    assert got.dtype == array.dtype and got.shape == array.shape and got.tobytes() == array.tobytes()


def test_a_smooth_picture_and_a_feature_map_become_smaller() -> None:
    ramp = (np.add.outer(np.arange(90) * 2, np.arange(120)) % 256).astype(np.uint8)
    picture = np.ascontiguousarray(np.repeat(ramp[None, :, :, None], 3, axis=3))
    assert len(pack(picture)) < 0.05 * picture.nbytes
    features = np.random.default_rng(1).standard_normal((1, 20, 20, 32)).astype(np.float32)
    assert len(pack(features)) < 0.95 * features.nbytes


@given(st.binary(max_size=100), st.integers(0, 200))
def test_damaged_bytes_are_a_decode_error(data: bytes, at: int) -> None:
    array = np.arange(100, dtype=np.uint8)
    packed = bytearray(pack(array))
    packed[at % len(packed) : at % len(packed) + len(data)] = data
    try:
        got = unpack(memoryview(bytes(packed)), array.dtype, array.shape)
    except DecodeError:
        return
    assert got.shape == array.shape  # zstd's frames carry no checksum here: TCP has one, and results are verified whole


@pytest.mark.parametrize("size", [0, 99, 101, 2**40])
def test_bytes_that_claim_another_size_are_refused_before_anything_is_allocated(size: int) -> None:
    params = zstandard.ZstdCompressor(level=1)
    data = params.compress(b"\0" * min(size, 10**6))
    if size > 10**6:  # a frame header that lies: single segment, eight bytes of content size
        data = bytes([0x28, 0xB5, 0x2F, 0xFD, 0xE0]) + size.to_bytes(8, "little") + b"\x01\0\0"
    with pytest.raises(DecodeError, match="its shape says 100"):
        unpack(memoryview(data), np.dtype(np.uint8), (100,))


@pytest.mark.parametrize("after", [b"x", pack(np.zeros(9, np.uint8))])
def test_bytes_after_the_packed_ones_are_refused(after: bytes) -> None:
    with pytest.raises(DecodeError, match="damaged"):
        unpack(memoryview(pack(np.zeros(9, np.uint8)) + after), np.dtype(np.uint8), (9,))


def test_packing_pays_on_a_slow_link_and_not_on_a_fast_one() -> None:
    slow, fast = Pace(), Pace()
    for pace, rate in ((slow, 7e6), (fast, 5e9)):
        assert pace.pays(), "until something is known it is tried"
        pace.packed(300_000, 150_000, 0.001)
        pace.moved(int(rate), 1.0)
    assert slow.pays()
    assert [fast.pays() for _ in range(2 * PROBE)].count(True) == 2


def test_a_link_is_as_fast_as_the_best_of_what_has_moved_lately() -> None:
    """Each measures the waiting as well: crowded or idle it is less than the link can do."""
    pace = Pace()
    for rate in (8e6, 1e6, 2e6):
        pace.moved(int(rate), 1.0)
    assert max(pace.recent) == 8e6 > pace.rate
    for _ in range(RECENT):
        pace.moved(3_000_000, 1.0)
    assert max(pace.recent) == 3e6
