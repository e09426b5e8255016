"""A model arrives whole whatever happens to it on its way, and never more of it is under way than the link carries soon."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cache import ModelCache
from edge_agent.download import LONGEST_S, MOST, PATIENCE_S, SLOW_S, ModelDownload, Window
from schemas.contract.chunks import CHUNK_BYTES, chunk, chunk_count, chunk_digests
from schemas.contract.errors import DecodeError
from schemas.contract.plan import digest
from tests.examples import examples

MODEL = np.random.default_rng(1).bytes(40 * CHUNK_BYTES + 7)


def fetch(folder: Path, model: bytes = MODEL) -> ModelDownload:
    return ModelDownload(ModelCache(folder).part(digest(model), len(model)), chunk_digests(model))


def give(download: ModelDownload, numbers: list[int], now: float, model: bytes = MODEL) -> None:
    for n in numbers:
        download.take(n, chunk(model, n), now)


def test_a_model_arrives_and_no_chunk_is_asked_for_twice(tmp_path: Path) -> None:
    download, now, asked = fetch(tmp_path), 0.0, list[int]()
    while not download.complete:
        wanted = download.ask(now)
        assert 0 < len(wanted) <= MOST
        asked += wanted
        now += 0.1
        give(download, wanted, now)
    assert sorted(asked) == list(range(chunk_count(len(MODEL))))
    assert download.share == 1.0 and download.came_bytes == len(MODEL) and download.ask(now) == []
    path = download.part.finish()
    download.part.close()
    assert path is not None and path.read_bytes() == MODEL


@examples(30)
@given(data=st.data())
def test_whatever_is_lost_repeated_or_late_all_of_it_arrives(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = MODEL[: data.draw(st.integers(1, 5 * CHUNK_BYTES + 1))]
    folder = tmp_path_factory.mktemp("cache")
    download, now = fetch(folder, model), 0.0
    under_way: list[int] = []
    for _ in range(data.draw(st.integers(0, 30))):
        under_way += download.ask(now)
        now += data.draw(st.sampled_from([0.01, 1.0, 2 * LONGEST_S]))
        fate = data.draw(st.sampled_from(["arrives", "twice", "lost", "cut", "killed"]))
        if fate == "cut":
            download.reconnected()
        elif fate == "killed":
            download.part.close()
            download = fetch(folder, model)
        elif under_way:
            n = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            give(download, {"arrives": [n], "twice": [n, n], "lost": []}[fate], now, model)
    for _ in range(100):  # faults have stopped; time goes on only to the deadline
        if download.complete:
            break
        now = max(now, download.deadline(now))
        give(download, download.ask(now), now, model)
    path = download.part.finish()
    download.part.close()
    assert path is not None and path.read_bytes() == model


def test_after_a_restart_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    first = fetch(tmp_path)
    give(first, [0, 1, 2, 5], 0.0)
    first.part.close()
    with (tmp_path / f".model-{digest(MODEL)}.part").open("r+b") as file:  # and a block that the disk has lost
        file.seek(2 * CHUNK_BYTES)
        file.write(b"rotten")
    second = fetch(tmp_path)
    asked, now = list[int](), 0.0
    while not second.complete:
        wanted = second.ask(now)
        asked += wanted
        give(second, wanted, now)
    assert sorted(asked) == [2, 3, 4, *range(6, 41)]
    second.part.close()


def answers(took_s: float) -> Iterator[int]:
    """Size of the window after each chunk of a link on which one takes ``took_s``."""
    window, now, n = Window(), 0.0, 0
    while True:
        while window.room:
            window.sent(n, now)
            n += 1
        now += took_s
        for late in range(n - window.size, n):
            window.came(late, now)
        yield window.size


def test_the_faster_chunks_come_the_more_are_under_way() -> None:
    fast, slow = answers(0.01), answers(2 * SLOW_S)
    assert [next(fast) for _ in range(6)][-1] == MOST
    assert {next(slow) for _ in range(6)} == {1}


def test_what_does_not_come_is_asked_for_once_more_one_at_a_time_and_awaited_longer(tmp_path: Path) -> None:
    download, now, gaps = fetch(tmp_path), 0.0, []
    assert download.ask(now) == [0]
    give(download, [0], 0.1)
    under_way = download.ask(0.1)
    assert len(under_way) > 1
    assert download.ask(0.1 + PATIENCE_S - 0.01) == []
    now, before = download.deadline(0.1), 0.1
    for silence in range(1, 9):
        assert download.ask(now) and download.window.silences == silence and download.window.size == 1
        gaps.append(now - before)
        before, now = now, download.deadline(now)
    assert gaps[:4] == pytest.approx([5, 10, 20, 40]) and gaps[-1] == pytest.approx(LONGEST_S)
    download.part.close()


def test_on_another_connection_all_that_was_under_way_is_asked_for_at_once(tmp_path: Path) -> None:
    download = fetch(tmp_path)
    assert download.ask(0.0) == [0]
    download.reconnected()
    assert download.ask(0.0) == [0]
    download.part.close()


def test_a_model_whose_chunks_are_right_and_the_whole_is_not_starts_anew(tmp_path: Path) -> None:
    download = ModelDownload(ModelCache(tmp_path).part("0" * 32, len(MODEL)), chunk_digests(MODEL))
    give(download, list(range(41)), 0.0)
    assert download.complete and download.part.finish() is None
    download.begin_again()
    assert not download.complete and download.ask(0.0) == [0]
    download.part.close()


@pytest.mark.parametrize(
    ("n", "data"),
    [(1, np.zeros(3, np.uint8)), (-1, np.zeros(3, np.uint8)), (0, np.zeros(4, np.uint8)), (0, np.zeros(0, np.uint8)),
     (0, np.zeros(3, np.int8)), (0, np.zeros((3, 1), np.uint8)), (0, np.ones(3, np.uint8))],
)  # fmt: skip
def test_a_chunk_of_the_wrong_number_size_type_or_digest_is_refused(
    n: int, data: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    download = fetch(tmp_path, bytes(2) + b"x")
    with pytest.raises(DecodeError, match="chunk"):
        download.take(n, data, 0.0)
    assert download.here == 0 and download.part.read(0) == bytes(3)
    download.part.close()


@pytest.mark.parametrize(("count", "size"), [(2, 3), (1, CHUNK_BYTES + 1), (3, 2 * CHUNK_BYTES)])
def test_digests_that_do_not_fit_the_size_are_refused(count: int, size: int, tmp_path: Path) -> None:
    part = ModelCache(tmp_path).part("0" * 32, size)
    with pytest.raises(DecodeError, match=str(CHUNK_BYTES)):
        ModelDownload(part, ["0" * 32] * count)
    part.close()
