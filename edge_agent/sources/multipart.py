"""The parts of a multipart/x-mixed-replace stream (MJPEG), from bytes in pieces of any size. Knows no socket.

The law: the parts do not depend on how the bytes were cut into pieces, no part, header or gap makes it hold more than
``most`` bytes (what is larger is thrown away up to the next boundary), and no byte is looked at or moved more than a few
times, however small the pieces are. Lines of a header end with CRLF or, as some cameras have it, with LF alone.
"""

import re
from collections.abc import Callable

_HEADER = 4096
_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"(?i)^content-length:[ \t]*([0-9]{1,9})[ \t]*\r?$", re.MULTILINE)


class Multipart:
    """Splits at ``boundary`` (as the Content-Type has it, with or without its leading dashes)."""

    def __init__(self, boundary: str, most: int) -> None:
        self._mark = b"--" + boundary.strip('"').removeprefix("--").encode("latin-1", "replace")
        self._most, self._held = most, bytearray()
        self._seen = 0  # so many bytes of what is held need not be looked at again
        self._size = 0
        self._step: Callable[[], bytes | None] = self._seek

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies of the parts that ``data`` completes."""
        self._held += data
        found = []
        while (part := self._step()) is not None:
            if part:
                found.append(part)
        return found

    # Each step gives one body, empty for bytes that are none, or None if more data are needed.

    def _seek(self) -> bytes | None:
        """Throw away what lies before the next boundary."""
        at = self._held.find(self._mark)
        if at < 0:
            del self._held[: max(0, len(self._held) - len(self._mark) + 1)]
            return None
        return self._go(at + len(self._mark), self._head)

    def _head(self) -> bytes | None:
        end = _END.search(self._held, self._seen)
        if (end.start() if end else len(self._held) - 3) > _HEADER:  # 3: a part of the end
            return self._go(0, self._seek)
        if end is None:
            self._seen = max(0, len(self._held) - 3)
            return None
        length = _LENGTH.search(self._held[: end.start()])
        if length is None:
            return self._go(end.end(), self._marked)
        self._size = int(length[1])
        return self._go(end.end(), self._counted if self._size <= self._most else self._seek)

    def _counted(self) -> bytes | None:
        return self._cut(self._size) if len(self._held) >= self._size else None

    def _marked(self) -> bytes | None:
        end = self._held.find(self._mark, self._seen)
        if end > self._most or (end < 0 and len(self._held) > self._most + len(self._mark)):
            return self._go(0, self._seek)
        if end < 0:
            self._seen = max(0, len(self._held) - len(self._mark) + 1)
            return None
        body = self._cut(end)
        return body[:-2] if body.endswith(b"\r\n") else body.removesuffix(b"\n")

    def _cut(self, end: int) -> bytes:
        body = bytes(self._held[:end])
        self._go(end, self._seek)
        return body

    def _go(self, end: int, step: Callable[[], bytes | None]) -> bytes:
        """Throw away so many bytes and go on with ``step``."""
        del self._held[:end]
        self._seen, self._step = 0, step
        return b""
