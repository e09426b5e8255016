"""Outputs that are closed, full or read by nobody: one line and exit 1 where the disk is at fault, and nothing left behind."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dt_cli import streams
from dt_cli.demo import DIGITS
from schemas.contract.errors import DtError, PlanError
from schemas.host.files import write_files

FULL = Path("/dev/full")


def dt(words: str, redirected: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """By a shell, as users redirect."""
    command = f"set -o pipefail; {sys.executable} -m dt_cli.main {words} {redirected}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env={**os.environ, **env})


@pytest.mark.parametrize("words", ["--help", f"inspect {DIGITS}", "config show --json"])
def test_a_full_disk_is_one_line_and_exit_1(words: str) -> None:
    done = dt(words, "> /dev/full")
    assert (done.returncode, done.stderr) == (1, "dt: cannot write to standard output: No space left on device\n")


def test_closed_streams_and_readers_that_went_away_are_no_failure(tmp_path: Path) -> None:
    """What was asked for beside the output is done, too."""
    for n, redirected in enumerate(["| true", ">&-", "2>&-", "<&- >&- 2>&-", "2> /dev/full"]):
        done = dt(f"inspect {DIGITS} --json {tmp_path / str(n)}", redirected)
        assert (done.returncode, done.stderr) == (0, ""), redirected
        assert (tmp_path / str(n)).stat().st_size > 1000
        assert ("digits.tflite: 15 operators" in done.stdout) == (redirected in ("2>&-", "2> /dev/full"))


def test_a_failure_keeps_its_exit_code_where_nobody_can_be_told() -> None:
    assert [dt("inspect /nowhere", redirected).returncode for redirected in ("2>&-", "2> /dev/full")] == [2, 2]


def test_a_report_that_the_disk_has_no_room_for_is_one_line_and_exit_1() -> None:
    done = dt(f"inspect {DIGITS} --json /dev/full", "")
    assert done.returncode == 1 and FULL.is_char_device()
    assert done.stderr == "dt: cannot write /dev/full: No space left on device: make room there, or name another place\n"


def test_letters_that_an_output_does_not_know_are_escaped() -> None:
    done = dt(f"inspect {DIGITS}", "", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.isascii() and done.stderr == ""


@pytest.fixture
def closed() -> Iterator[int]:
    """The writing end of a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_a_command_that_only_prints_learns_that_its_reader_is_gone(closed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.FileIO(closed, "wb", closefd=False)))
    streams.guard()
    assert not streams.reader_is_gone()
    print("a line", flush=True)
    assert streams.reader_is_gone()
    print("and another", flush=True)


def test_files_that_belong_together_appear_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for last, error in ((tmp_path / "taken", PlanError), (tmp_path / "absent" / "b", PlanError), (FULL, DtError)):
        with pytest.raises(error, match=f"cannot write {last}"):
            write_files({tmp_path / "a": [b"1"], last: [b"2"]})
        assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    write_files({tmp_path / "a": [b"1", memoryview(b"2")], tmp_path / "b": []})
    assert (tmp_path / "a").read_bytes() == b"12" and len(list(tmp_path.iterdir())) == 3


def test_a_pipe_gets_its_bytes_though_its_reader_goes_away(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["head", "-c", "3", str(pipe)], stdout=subprocess.PIPE) as reader:
        write_files({pipe: [b"x" * 2**20]})
        assert reader.communicate(timeout=60)[0] == b"xxx"
    assert pipe.is_fifo()
