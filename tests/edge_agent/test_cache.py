"""A model that the cache gives is the model that was asked for."""

import os
from pathlib import Path

import pytest

from edge_agent.cache import ABANDONED_S, ModelCache, Part
from schemas.contract.chunks import CHUNK_BYTES, chunk, chunk_count
from schemas.contract.errors import DtError
from schemas.contract.plan import digest


def part(cache: ModelCache, model: bytes) -> Part:
    return cache.part(digest(model), len(model))


def store(cache: ModelCache, model: bytes) -> Path:
    """As a download does it."""
    made = part(cache, model)
    for n in range(chunk_count(len(model))):
        made.write(n, chunk(model, n))
    path = made.finish()
    made.close()
    assert path is not None
    return path


def test_a_stored_model_is_found_again_in_another_process_life(tmp_path: Path) -> None:
    path = store(ModelCache(tmp_path / "deep" / "folder"), b"model")
    assert ModelCache(tmp_path / "deep" / "folder").load(digest(b"model")) == path
    assert path.read_bytes() == b"model"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_unknown_model_is_none(tmp_path: Path) -> None:
    assert ModelCache(tmp_path / "none").load(digest(b"model")) is None


@pytest.mark.parametrize("damaged", [b"modem", b"mode", b""])
def test_a_damaged_file_is_removed(tmp_path: Path, damaged: bytes) -> None:
    cache = ModelCache(tmp_path)
    path = store(cache, b"model")
    path.write_bytes(damaged)
    assert cache.load(digest(b"model")) is None
    assert not path.exists()


def test_other_bytes_get_no_digest_as_their_name_and_make_room_for_right_ones(tmp_path: Path) -> None:
    made = part(ModelCache(tmp_path), b"model")
    made.write(0, chunk(b"other", 0))
    assert made.finish() is None and not list(tmp_path.glob("*.tflite"))
    made.clear()
    assert made.read(0) == bytes(5)
    made.write(0, chunk(b"model", 0))
    assert made.finish() == tmp_path / f"{digest(b'model')}.tflite"
    made.close()


def test_what_came_of_a_model_is_there_after_a_restart(tmp_path: Path) -> None:
    model = bytes(CHUNK_BYTES) + b"rest"
    first = part(ModelCache(tmp_path), model)
    first.write(1, chunk(model, 1))
    first.close()
    second = part(ModelCache(tmp_path), model)
    assert second.read(1) == b"rest"
    second.close()


def test_two_processes_that_share_a_cache_fetch_one_model(tmp_path: Path) -> None:
    one, other = part(ModelCache(tmp_path), b"model"), part(ModelCache(tmp_path), b"model")
    one.write(0, chunk(b"model", 0))
    assert other.read(0) == b"model"
    assert one.finish() == other.finish() == tmp_path / f"{digest(b'model')}.tflite"
    assert [path.suffix for path in tmp_path.iterdir()] == [".tflite"]
    one.close()
    other.close()


def test_the_models_used_longest_ago_are_removed_beyond_four(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    models = [bytes([i]) for i in range(6)]
    for age, model in enumerate(models):
        os.utime(store(cache, model), (age, age))
        if age == 2:  # a model that is used stays, however old
            assert cache.load(digest(models[0]))
    assert [m for m in models if cache.load(digest(m))] == [models[0], models[3], models[4], models[5]]


def test_a_model_without_room_on_the_disk_is_refused_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DtError, match=f"{tmp_path}.*does not fit.*make room"):
        ModelCache(tmp_path).part("0" * 32, 1 << 60)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_a_chunk_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    made = part(ModelCache(tmp_path), b"model")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DtError, match=f"{tmp_path}.*No space left.*make room"):
        made.write(0, chunk(b"model", 0))
    made.close()


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ModelCache(tmp_path / "file")
    with pytest.raises(DtError, match="file"):
        store(cache, b"m")
    with pytest.raises(DtError, match="file"):
        cache.load(digest(b"m"))


def test_parts_of_a_killed_process_are_swept_but_not_those_of_a_living_one(tmp_path: Path) -> None:
    old, young = tmp_path / ".model-a.part", tmp_path / ".model-b.part"
    for part in (old, young):
        part.write_bytes(b"half")
    path = store(ModelCache(tmp_path), b"m")
    now = path.stat().st_mtime
    os.utime(old, (now, now - ABANDONED_S - 10))
    store(ModelCache(tmp_path), b"n")
    assert not old.exists() and young.exists()


def test_a_link_in_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"something of ours")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f".model-{digest(b'model')}.part").symlink_to(tmp_path / "target")
    with pytest.raises(DtError, match="symbolic links"):
        part(ModelCache(tmp_path / "cache"), b"model")
    assert (tmp_path / "target").read_bytes() == b"something of ours"


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, who is to work in another user's folder")
def test_root_keeps_no_models_where_another_user_could_plant_something(tmp_path: Path) -> None:
    ModelCache(tmp_path / "ours")
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 65534, 65534)
    with pytest.raises(DtError, match="theirs is not root's alone"):
        ModelCache(tmp_path / "theirs" / "cache")
