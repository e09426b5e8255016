"""What every long-running command does alike: logs for people, a clean end on SIGTERM, Ctrl-C or the parent's death."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib import metadata

STDIN_ENDS = "DT_END_WITH_STDIN"  # set by a parent that holds our stdin: its death closes the pipe


def log_to_stderr() -> None:
    """One line a record, on stderr."""
    logging.basicConfig(
        stream=sys.stderr, level=os.environ.get("DT_LOG", "INFO").upper(), format="%(levelname)s %(message)s"
    )


def version() -> str:
    """Of the installed package; of a checkout that is not installed 0.0.0."""
    try:
        return metadata.version("deepthings-mqtt")
    except metadata.PackageNotFoundError:
        return "0.0.0"


def on_end(stop: Callable[[], None]) -> None:
    """Calls ``stop`` (which must only set something) on SIGTERM, SIGINT and, under a parent that asks so, its death."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
    if os.environ.get(STDIN_ENDS):
        threading.Thread(target=_await_end_of_stdin, args=(stop,), daemon=True).start()


def _await_end_of_stdin(stop: Callable[[], None]) -> None:
    while os.read(0, 4096):
        pass
    stop()
