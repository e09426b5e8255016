"""Where what outlives a process lies, and that a file there is whole or as it was before."""

import logging
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.contract.errors import CredentialError, DtError
from schemas.host.state import append, keep_aside, locked, read, state_folder, write

NOBODY = 65534


def test_the_folder_is_the_named_one_then_systemd_s_then_the_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert state_folder(None, "farm") == tmp_path / "xdg" / "deepthings" / "farm"
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/unit:{tmp_path}/more")
    assert state_folder(None, "farm") == tmp_path / "unit"
    named = state_folder(tmp_path / "named", "farm")
    assert named == tmp_path / "named" and stat.S_IMODE(named.stat().st_mode) == 0o700


def test_what_is_written_is_read_again_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert read(path) is None
    write(path, b"old")
    write(path, b"new")
    assert read(path) == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_a_folder_that_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DtError, match=r"state folder .*/file/x: Not a directory: .* --state DIR"):
        state_folder(tmp_path / "file" / "x", "dt")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "key", b"old")
    script = f"""
import resource, signal
from pathlib import Path
from schemas.host.state import write
from schemas.contract.errors import DtError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.RLIM_INFINITY}))
try:
    write(Path({str(tmp_path / "key")!r}), bytes(8192))
except DtError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large: make room" in done.stdout
    assert read(tmp_path / "key") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_what_is_appended_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with pytest.raises(DtError, match="No such file"):
        append(path, b"one\n")
    write(path, b"one\n")
    append(path, b"two\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(DtError, match="make room"):
            append(path, b"three\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read(path) == b"one\ntwo\n"


def test_what_is_kept_aside_stays_when_the_file_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "key"
    keep_aside(path, ".old")
    for data in (b"one", b"two", b"three"):
        write(path, data)
        keep_aside(path, ".old")
    write(path, b"four")
    assert read(path) == b"four" and read(tmp_path / "key.old") == b"three"


def test_a_disk_without_second_names_keeps_nothing_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # as vfat does

    write(tmp_path / "key", b"one")
    monkeypatch.setattr(os, "link", refuses)
    keep_aside(tmp_path / "key", ".old")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_folder_of_ours_is_closed_to_others_unless_they_may_read_what_it_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, shared = tmp_path / "ours", tmp_path / "shared"
    for folder in (ours, shared):
        folder.mkdir()
        folder.chmod(0o755)
        write(folder / "key", b"")
    (shared / "page").write_text("for all")
    (shared / "page").chmod(0o644)
    assert state_folder(ours, "dt", make=False) == ours and stat.S_IMODE(ours.stat().st_mode) == 0o755
    state_folder(ours, "dt")
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700 and not caplog.records
    with caplog.at_level(logging.WARNING):
        state_folder(shared, "dt")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755 and "chmod 700" in caplog.text


# Root in the folder of another user, who has planted what leads elsewhere.


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of another user, and a file of root's beside it."""
    if os.geteuid() != 0:
        pytest.skip("takes root, who is to work in another user's folder")
    theirs, target = tmp_path / "theirs", tmp_path / "target"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, NOBODY, NOBODY)
    target.write_bytes(b"root's")
    target.chmod(0o600)
    return theirs, target


def untouched(target: Path) -> bool:
    found = target.stat()
    return target.read_bytes() == b"root's" and (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)


def test_what_root_makes_in_another_user_s_folder_is_that_user_s(planted: tuple[Path, Path]) -> None:
    theirs, _ = planted
    write(theirs / "key", b"x")
    with locked(theirs / "lock"):
        pass
    assert {(path.name, path.stat().st_uid) for path in theirs.iterdir()} == {("key", NOBODY), ("lock", NOBODY)}


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_root_follows_no_link_of_a_file(planted: tuple[Path, Path], plant: Callable[[Path, Path], None]) -> None:
    theirs, target = planted
    for name in ("key", "lock"):
        plant(target, theirs / name)
    with pytest.raises(DtError), locked(theirs / "lock"):
        pass
    with pytest.raises(DtError):
        append(theirs / "key", b"more")
    if plant is os.symlink:
        with pytest.raises(CredentialError, match="is damaged"):
            read(theirs / "key")
    assert untouched(target)
    write(theirs / "key", b"ours")
    assert read(theirs / "key") == b"ours" and untouched(target)


def test_root_follows_no_link_of_another_on_the_way_and_follows_its_own(planted: tuple[Path, Path], tmp_path: Path) -> None:
    theirs, _ = planted
    (tmp_path / "roots").mkdir()
    (tmp_path / "own").symlink_to(tmp_path / "roots")
    write(tmp_path / "own" / "key", b"x")
    assert read(tmp_path / "roots" / "key") == b"x"
    (theirs / "inner").symlink_to(tmp_path / "roots")
    for bad in (
        lambda: write(theirs / "inner" / "key", b"y"), lambda: read(theirs / "inner" / "key"),
        lambda: state_folder(theirs / "inner" / "new", "dt"), lambda: append(theirs / "inner" / "key", b"y"),
    ):  # fmt: skip
        with pytest.raises(DtError, match="a link that another user may have put there"):
            bad()
    assert read(tmp_path / "own" / "key") == b"x" and [path.name for path in (tmp_path / "roots").iterdir()] == ["key"]


def test_what_is_swapped_while_root_writes_is_not_what_it_gives_away(
    planted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, target = planted
    sync = os.fsync

    def swap(handle: int) -> None:
        sync(handle)
        for part in theirs.glob("*.part"):
            part.unlink()
            part.symlink_to(target)

    monkeypatch.setattr(os, "fsync", swap)
    write(theirs / "key", b"x")
    assert untouched(target)
