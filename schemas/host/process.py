"""What every long-running command does alike: logs for people, a clean end on SIGTERM, Ctrl-C or the parent's death."""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TextIO

from schemas.contract.redact import redact
from schemas.contract.text import one_line

STDIN_ENDS = "DT_END_WITH_STDIN"  # set by a parent that holds our stdin: its death closes the pipe

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 4 << 20  # free memory that each of a process's heaps keeps, and what is allocated at once apart from them
_NICE = 10
# sd-daemon(3) and ECMA-48 (faint, yellow, red)
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_COLOURS = {logging.DEBUG: 2, logging.WARNING: 33, logging.ERROR: 31, logging.CRITICAL: 31}


class _Format(logging.Formatter):
    """One record for its reader: the journal wants a priority before each line, people want a level they can see."""

    def __init__(self, journal: bool, colours: bool) -> None:
        super().__init__("%(message)s" if journal else "%(levelname)s %(message)s")
        self._journal, self._colours = journal, colours

    def format(self, record: logging.LogRecord) -> str:
        text = "\n".join(one_line(line) for line in super().format(record).splitlines())
        if self._journal:
            return "\n".join(f"<{_PRIORITIES.get(record.levelno, 6)}>{line}" for line in text.split("\n"))
        if self._colours and record.levelno in _COLOURS:
            return text.replace(record.levelname, f"\x1b[{_COLOURS[record.levelno]}m{record.levelname}\x1b[0m", 1)
        return text


def log_to_stderr(level: str = "info") -> None:
    """Log on stderr: with priorities into systemd's journal, else as text, its level coloured on a terminal."""
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format(in_journal(sys.stderr), colours))
    logging.basicConfig(handlers=[handler], level=level.upper())


def blank_arguments() -> None:
    """From now on the process list shows this process's arguments without their secrets; what Python has of them stays.

    Where the kernel does not tell where they lie, it goes on showing them.
    """
    try:
        stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        at, end = (int(field) for field in stat[45:47])  # arg_start and arg_end in proc(5), which counts from 1, two before
    except (OSError, ValueError):
        return
    if not 0 < at < end:
        return
    for argument in ctypes.string_at(at, end - at).split(b"\0"):
        shown = os.fsencode(redact(os.fsdecode(argument)))
        if shown != argument:
            ctypes.memmove(at, shown[: len(argument)].ljust(len(argument)), len(argument))
        at += len(argument) + 1


def complain(text: str) -> None:
    """The last word of a command that fails."""
    print(f"<3>{text}" if in_journal(sys.stderr) else text, file=sys.stderr)


def in_journal(stream: TextIO) -> bool:
    """Whether ``stream`` goes to systemd's journal: $JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


@cache  # it is said again and again, and each look would read a file
def version() -> str:
    """Of the installed package; of a checkout that is not installed 0.0.0."""
    try:
        return metadata.version("deepthings-mqtt")
    except metadata.PackageNotFoundError:
        return "0.0.0"


def return_memory() -> None:
    """Asks glibc to give back what large tensors used (mallopt: mmap and trim threshold), but not what messages use.

    With 64 KB for both, each message's memory came as new pages: packing a tile took three times its time.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def trim() -> None:
    """Has glibc give back what its heaps keep: to be called when much was freed, not for each message."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def give_way() -> None:
    """The calling thread computes for long: what else this process does, to send and to answer, goes first from now on.

    Where that is not allowed, or a thread has no priority of its own, all stay equal.
    """
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):  # a sandbox may forbid it
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(_NICE, os.getpriority(os.PRIO_PROCESS, thread)))


def on_end(stop: Callable[[], None]) -> None:
    """Calls ``stop`` (which must only set something) on SIGTERM, SIGINT, SIGHUP (its terminal is gone) and, under a parent that
    asks so, its death."""
    for number in (signal.SIGINT, *_ends()):
        signal.signal(number, lambda *_: stop())
    if os.environ.get(STDIN_ENDS):
        threading.Thread(target=_await_end_of_stdin, args=(stop,), daemon=True).start()


def interrupt_on_end() -> None:
    """From now on whatever asks this process to end does it as Ctrl-C does: nothing is left behind."""
    for number in _ends():
        signal.signal(number, signal.default_int_handler)


def _ends() -> tuple[signal.Signals, ...]:
    """'nohup' has SIGHUP ignored, and so it stays."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return (signal.SIGTERM,) if ignored else (signal.SIGTERM, signal.SIGHUP)


def _await_end_of_stdin(stop: Callable[[], None]) -> None:
    while os.read(0, 4096):
        pass
    stop()
