"""A model that the cache gives is the model that was asked for."""

import os
from pathlib import Path

import pytest

from edge_agent.cache import ABANDONED_S, ModelCache
from schemas.errors import DtError
from schemas.plan import digest


def test_a_stored_model_is_found_again_in_another_process_life(tmp_path: Path) -> None:
    path = ModelCache(tmp_path / "deep" / "folder").store(digest(b"model"), b"model")
    assert ModelCache(tmp_path / "deep" / "folder").load(digest(b"model")) == path
    assert path.read_bytes() == b"model"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_unknown_model_is_none(tmp_path: Path) -> None:
    assert ModelCache(tmp_path / "none").load(digest(b"model")) is None


@pytest.mark.parametrize("damaged", [b"modem", b"mode", b""])
def test_a_damaged_file_is_removed(tmp_path: Path, damaged: bytes) -> None:
    cache = ModelCache(tmp_path)
    path = cache.store(digest(b"model"), b"model")
    path.write_bytes(damaged)
    assert cache.load(digest(b"model")) is None
    assert not path.exists()


def test_other_bytes_get_no_digest_as_their_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=digest(b"model")):
        ModelCache(tmp_path).store(digest(b"model"), b"other")
    assert list(tmp_path.iterdir()) == []


def test_the_models_used_longest_ago_are_removed_beyond_four(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    models = [bytes([i]) for i in range(6)]
    for age, model in enumerate(models):
        os.utime(cache.store(digest(model), model), (age, age))
        if age == 2:  # a model that is used stays, however old
            assert cache.load(digest(models[0]))
    assert [m for m in models if cache.load(digest(m))] == [models[0], models[3], models[4], models[5]]


def test_a_failed_write_leaves_nothing_and_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        assert not list(tmp_path.glob("*.tflite"))  # nothing has the name before it is on the disk
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DtError, match=f"{tmp_path}.*No space left.*make room"):
        ModelCache(tmp_path).store(digest(b"model"), b"model")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ModelCache(tmp_path / "file")
    with pytest.raises(DtError, match="file"):
        cache.store(digest(b"m"), b"m")
    with pytest.raises(DtError, match="file"):
        cache.load(digest(b"m"))


def test_parts_of_a_killed_process_are_swept_but_not_those_of_a_living_one(tmp_path: Path) -> None:
    old, young = tmp_path / ".model-a.part", tmp_path / ".model-b.part"
    for part in (old, young):
        part.write_bytes(b"half")
    path = ModelCache(tmp_path).store(digest(b"m"), b"m")
    now = path.stat().st_mtime
    os.utime(old, (now, now - ABANDONED_S - 10))
    ModelCache(tmp_path).store(digest(b"n"), b"n")
    assert not old.exists() and young.exists()
