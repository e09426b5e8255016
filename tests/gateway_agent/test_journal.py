"""What a gateway finds of the one before it, whatever happened to that and to the disk."""

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gateway_agent.journal import KEEP, LACKING, LINES, Journal
from schemas.contract.errors import PlanError
from schemas.contract.messages import Outcome


def outcome(number: int, source: str = "camera") -> Outcome:
    return Outcome(
        node="gateway", epoch="aaaaaaaa", frame=f"{source}-11111111-{number}", status="ok", latency_s=0.5,
        computed={"edge1": 4}, digests={"cut/a": "0" * 32},
    )  # fmt: skip


def reopened(journal: Journal) -> Journal:
    journal.close()
    return Journal(journal._path)


def test_what_was_kept_is_there_again_with_its_words_until_they_were_heard(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "ended.jsonl")
    for number in range(3):
        journal.keep(outcome(number))
    journal.heard((outcome(0).frame, outcome(1).frame))
    before = reopened(journal).before
    assert before.ended == {outcome(0).frame: None, outcome(1).frame: None, outcome(2).frame: outcome(2)}


def test_lines_that_were_cut_off_or_are_of_an_older_version_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "ended.jsonl")
    journal.keep(outcome(0))
    with (tmp_path / "ended.jsonl").open("ab") as file:
        file.write(outcome(1).model_dump_json().encode()[:40] + b"\n\xff\xfe\n{}\n")
        file.writelines(b'{"ended":"camera.11111111.%d"}\n' % number for number in range(9))
    journal = reopened(journal)
    assert caplog.text.count("skipped 11 damaged") == 1 and "outdated lines" in caplog.text
    journal.keep(outcome(2))
    assert list(reopened(journal).before.ended) == [outcome(0).frame, outcome(2).frame]


def test_the_file_is_bounded_and_the_oldest_frames_are_remembered_by_number(tmp_path: Path) -> None:
    path = tmp_path / "ended.jsonl"
    journal = Journal(path)
    for number in range(LINES + 10):
        journal.keep(outcome(number))
        journal.heard((outcome(number).frame,))
    assert path.stat().st_size < 2 * LINES * len(outcome(LINES).model_dump_json())
    before = reopened(journal).before
    assert len(before.ended) == KEEP and list(before.ended)[-1] == outcome(LINES + 9).frame
    assert before.forgotten == (outcome(LINES + 9 - KEEP).frame,)


def test_two_gateways_do_not_share_a_folder(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "ended.jsonl")
    with pytest.raises(PlanError, match="another gateway is using the state folder"):
        Journal(tmp_path / "ended.jsonl")
    reopened(journal).close()


def test_a_full_disk_is_told_once_and_leaves_whole_lines(tmp_path: Path) -> None:
    script = f"""
import logging, resource, signal
from pathlib import Path
from gateway_agent.journal import Journal
from tests.gateway_agent.test_journal import outcome
logging.basicConfig(format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path({str(tmp_path)!r}) / "ended.jsonl")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for number in range(20):
    journal.keep(outcome(number))
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"state folder {tmp_path}: ") and "make room" in line and errno.ENOSPC
    ended = Journal(tmp_path / "ended.jsonl").before.ended
    assert 1 < len(ended) < 20 and list(ended.values()) == [outcome(number) for number in range(len(ended))]


def test_a_disk_that_is_nearly_full_is_told_once_and_the_file_is_whole_again_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, path = Journal(tmp_path / "ended.jsonl"), tmp_path / "ended.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    lost = []
    for number in range(LACKING // 4):
        journal.keep(outcome(number))
        room = path.stat().st_size + (100 if number % 2 else 300)  # for what was heard, but not for an outcome; for both
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            journal.heard((outcome(number).frame,))
            journal.keep(outcome(1000 + number))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        lost.append(outcome(1000 + number).frame.encode() not in path.read_bytes())
    assert any(lost) and not all(lost) and len(caplog.records) == 1
    for number in range(LACKING):
        journal.heard((outcome(number % 8).frame,))
    assert set(reopened(journal).before.ended) == {
        outcome(start + n).frame for start in (0, 1000) for n in range(LACKING // 4)
    }
    (tmp_path / "ended.jsonl").unlink()
    for _ in range(LACKING + 1):
        journal.heard((outcome(0).frame,))
    assert len(journal.before.ended) == LACKING // 2 and path.exists() and len(caplog.records) == 2


def test_what_is_no_journal_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ended.jsonl").symlink_to("/dev/zero")
    journal = Journal(tmp_path / "ended.jsonl")
    journal.keep(outcome(0))
    assert list(reopened(journal).before.ended) == [outcome(0).frame] and "is damaged" in caplog.text


def test_more_outcomes_at_once_than_it_remembers_are_heard_all_the_same(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "ended.jsonl")
    journal.keep(outcome(LINES))
    journal.heard(tuple(outcome(number).frame for number in range(LINES + 1)))
    assert reopened(journal).before.ended == {outcome(LINES).frame: None}
