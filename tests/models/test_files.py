"""A file that a user names is read whole or refused by name, at once."""

import os
import pwd
from pathlib import Path

import pytest

from models.bundle import open_bundle
from models.graph.file import load
from models.importers.darknet import import_darknet
from models.results.card import read_card
from schemas.contract.errors import PlanError
from schemas.host.files import cache_folder, check_file, read_file


def test_bytes_come_back_up_to_the_limit_and_no_further(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    assert read_file(path, 100, "card") == bytes(range(100))
    with pytest.raises(PlanError, match="larger than 99 bytes: no card"):
        read_file(path, 99, "card")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """Whoever opens it waits for a writer, who never comes."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_pipes_devices_folders_and_no_names_are_refused_at_once(tmp_path: Path, pipe: Path) -> None:
    for path, words in (
        (pipe, "no regular file"),
        (Path("/dev/zero"), "no regular file"),
        (tmp_path, "it is a folder"),
        (tmp_path / "none", "No such file"),
        (tmp_path / "a\0b", "no name of a file"),
        (tmp_path / ("x" * 5000), "name too long"),
    ):
        with pytest.raises(PlanError, match=words) as caught:
            check_file(path, "card")
        assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


def test_no_reader_of_models_waits_for_a_pipe(tmp_path: Path, pipe: Path) -> None:
    cfg, card = tmp_path / "net.cfg", tmp_path / "card.toml"
    cfg.write_text("[net]\n")
    card.write_text('decoder = "raw"\nlabels = "pipe"\n')
    (tmp_path / "plan.json").symlink_to(pipe)
    for read in (
        lambda: load(pipe),
        lambda: read_card(pipe),
        lambda: read_card(card),
        lambda: import_darknet(pipe, cfg),
        lambda: import_darknet(cfg, pipe),
        lambda: open_bundle(tmp_path),
    ):
        with pytest.raises(PlanError, match="no regular file"):
            read()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, whose home is not the environment's")
def test_root_caches_nothing_in_another_user_s_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "deepthings"
    os.chown(tmp_path, 65534, 65534)
    assert cache_folder() == Path(pwd.getpwuid(0).pw_dir) / ".cache" / "deepthings"
