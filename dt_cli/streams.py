"""Standard output and error of a command, whatever they are when it starts: closed, full, or with nobody who reads.

The laws: a stream that is closed is as /dev/null, and no file of ours takes its number; a reader that goes away is no
failure, and what is printed after that goes nowhere; an output that cannot be written for another reason is one, told once.
"""

import errno
import io
import os
import sys
from typing import Any, TextIO

from schemas.contract.errors import DtError


class _Raw(io.FileIO):
    """The file of stdout, or of stderr, whose errors could be told nowhere."""

    def __init__(self, stream: TextIO, is_output: bool) -> None:
        super().__init__(stream.fileno(), "wb", closefd=False)
        self._stream, self._is_output, self.is_over = stream, is_output, False  # it closes its file as it goes

    def write(self, data: Any, /) -> int:
        try:
            return len(data) if self.is_over else super().write(data)
        except OSError as error:
            self.is_over = True  # otherwise the interpreter tries again as it ends
            if self._is_output and error.errno != errno.EPIPE:
                raise DtError(f"cannot write to standard output: {error.strerror}") from error
            return len(data)


def open_missing() -> None:
    """Before anything else opens a file: 0, 1 and 2 are files."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
    sys.stdout = sys.stdout or io.TextIOWrapper(io.FileIO(1, "wb", closefd=False))
    sys.stderr = sys.stderr or io.TextIOWrapper(io.FileIO(2, "wb", closefd=False))


def guard() -> None:
    """From now on the laws above hold."""
    sys.stdout, sys.stderr = (_guarded(stream, stream is sys.stdout) for stream in (sys.stdout, sys.stderr))


def reader_is_gone() -> bool:
    """Whether what this command prints is read by nobody any more."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _Raw) and raw.is_over


def _guarded(stream: TextIO, is_output: bool) -> TextIO:
    errors = "backslashreplace" if stream.errors == "strict" else stream.errors
    lines = stream.line_buffering or not is_output
    buffer = io.BufferedWriter(_Raw(stream, is_output))
    return io.TextIOWrapper(buffer, stream.encoding, errors, line_buffering=bool(lines))
