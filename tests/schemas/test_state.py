"""Where what outlives a process lies, and that a file there is whole or as it was before."""

import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import DtError
from schemas.state import read, state_folder, write


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
from schemas.state import write
from schemas.errors import DtError
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
