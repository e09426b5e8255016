"""What a command writes to its stderr: for people, for a terminal, for systemd's journal."""

import ast
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from schemas.host.process import give_way

LOGS = """
import logging, os
from schemas.host.process import complain, log_to_stderr
log_to_stderr({level!r})
log = logging.getLogger("x")
log.debug("fine"); log.info("good"); log.warning("two" + os.environ.get("WORDS", "\\nlines")); log.error("bad")
complain("dt: over")
"""


def said(path: Path, level: str = "info", **env: str) -> str:
    """stderr of a process that logs, into the file ``path``."""
    with path.open("wb") as file:
        stat = os.fstat(file.fileno())
        env = {k: v.format(here=f"{stat.st_dev}:{stat.st_ino}") for k, v in env.items()}
        command = [sys.executable, "-c", LOGS.format(level=level)]
        subprocess.run(command, stderr=file, check=True, env={**os.environ, **env})
    return path.read_text()


def test_the_journal_gets_a_priority_before_each_line(tmp_path: Path) -> None:
    lines = said(tmp_path / "log", JOURNAL_STREAM="{here}").splitlines()
    assert lines == ["<6>good", "<4>two", "<4>lines", "<3>bad", "<3>dt: over"]


def test_another_stream_than_the_journal_gets_words_without_colour(tmp_path: Path) -> None:
    text = said(tmp_path / "log", "debug", JOURNAL_STREAM="1:2")
    assert text == "DEBUG fine\nINFO good\nWARNING two\nlines\nERROR bad\ndt: over\n"


def test_what_others_wrote_commands_no_terminal(tmp_path: Path) -> None:
    text = said(tmp_path / "log", "debug", WORDS="a\x1b]0;x\x07 name\x9b2J")
    assert "WARNING twoa ]0;x  name 2J\n" in text


ENDS = """
import os, signal, sys, time
from schemas.host.process import interrupt_on_end, on_end
if sys.argv[1] == "ignored":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
try:
    on_end(lambda: print("asked to end", flush=True)) if sys.argv[2] == "agent" else interrupt_on_end()
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(0.01)
except KeyboardInterrupt:
    print("asked to end")
"""


@pytest.mark.parametrize("kind", ["agent", "command"])
def test_a_lost_terminal_ends_a_process_in_order_unless_nohup_keeps_it(kind: str) -> None:
    for hangup, ends in (("heard", "asked to end\n"), ("ignored", "")):
        done = subprocess.run([sys.executable, "-c", ENDS, hangup, kind], capture_output=True, text=True, check=True)
        assert done.stdout == ends


def on_terminal(**env: str) -> str:
    master, slave = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    command = [sys.executable, "-c", LOGS.format(level="warning")]
    subprocess.run(command, stderr=slave, check=True, env={**clean, **env})
    os.close(slave)
    text = os.read(master, 4096).decode()
    os.close(master)
    return text


def test_a_terminal_gets_levels_in_colour_unless_asked_not_to() -> None:
    assert on_terminal().startswith("\x1b[33mWARNING\x1b[0m two")
    assert on_terminal(NO_COLOR="1").startswith("WARNING two")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
def test_a_thread_gives_way_to_the_others_of_its_process_alone() -> None:
    found: list[int] = []

    def compute() -> None:
        give_way()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert found[0] == max(before, 10) and before == os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_computes_on_where_a_sandbox_forbids_it_to_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", forbidden)
    give_way()


def test_the_process_list_shows_no_secret_and_the_process_keeps_it() -> None:
    given = [
        "--ha-broker", "mqtt://me:hunter2@pi", "--source=rtsp://hunter2@cam/live?a=1", "--join", "dtjoin1-hunter2_-",
        "http://cam/?token=hunter2&x=\u00e9", "--name", "kitchen", "", "me:hunter2@pi",
    ]  # fmt: skip
    code = (
        "import sys; from schemas.host.process import blank_arguments; blank_arguments(); print(ascii(sys.argv[1:]))\n"
        "print(ascii(open('/proc/self/cmdline', 'rb').read().split(bytes(1))))"
    )
    done = subprocess.run([sys.executable, "-c", code, *given], stdout=subprocess.PIPE, text=True, check=True)
    own, listed = (ast.literal_eval(line) for line in done.stdout.splitlines())
    assert own == given
    shown = [argument.decode().rstrip() for argument in listed[3:-1]]
    assert "hunter2" not in str(shown)
    assert shown[:3] == ["--ha-broker", "mqtt://me:***@pi", "--source=rtsp://***@cam/live?a=1"]
    assert shown[3:] == ["--join", "dtjoin1-***", "http://cam/?token=***&x=\u00e9", "--name", "kitchen", "", "me:***@pi"]
