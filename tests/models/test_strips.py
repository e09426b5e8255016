"""The shelf of strips: bounded by bytes and by frames, the oldest frame first."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.strips import Shelf

PUTS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 60)), max_size=30)


def strip(size: int) -> dict[str, np.ndarray]:
    return {"t": np.zeros(size, np.uint8)}


@given(PUTS, st.integers(0, 3))
def test_a_shelf_never_holds_more_than_its_bytes_and_frames(
    puts: list[tuple[str, int, int, int]], removed: int
) -> None:
    shelf = Shelf(100, 3)
    for frame, taker, maker, size in puts:
        shelf.put(frame, taker, maker, strip(size))
        held = [a.nbytes for f in "abcd" for t in range(4) for s in shelf.get(f, t).values() for a in s.values()]
        assert shelf.nbytes == sum(held) <= 100
        assert sum(any(shelf.get(f, t) for t in range(4)) for f in "abcd") <= 3
    for frame in "abcd":
        shelf.remove(frame, removed)
        assert shelf.get(frame, removed) == {}
        shelf.forget(frame)
    assert shelf.nbytes == 0


def test_the_oldest_frame_goes_first_and_is_counted() -> None:
    shelf = Shelf(100, 3)
    for frame in "ab":
        assert shelf.put(frame, 1, 0, strip(40))
    assert not shelf.put("a", 1, 0, strip(50)) and shelf.nbytes == 80
    shelf.put("b", 3, 0, strip(40))
    assert shelf.get("a", 1) == {} and set(shelf.get("b", 1)) == {0} and shelf.dropped == 1
    for frame in "cde":
        shelf.put(frame, 1, 0, strip(1))
    assert shelf.get("b", 1) == {} and shelf.dropped == 2
