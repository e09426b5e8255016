"""The parts of a multipart/x-mixed-replace stream (MJPEG), from bytes in pieces of any size. Knows no socket.

The law: the parts do not depend on how the bytes were cut into pieces, and no part, header or gap makes it hold more
than ``most`` bytes: what is larger is thrown away up to the next boundary.
"""

import re

_HEADER = 4096


class Multipart:
    """Splits at ``boundary`` (as the Content-Type has it, with or without its leading dashes)."""

    def __init__(self, boundary: str, most: int) -> None:
        self._mark = b"--" + boundary.strip('"').removeprefix("--").encode("latin-1", "replace")
        self._most, self._held, self._inside = most, b"", False

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies of the parts that ``data`` completes."""
        self._held += data
        found = []
        while (part := self._next()) is not None:
            if part:
                found.append(part)
        return found

    def _next(self) -> bytes | None:
        """One body, empty for bytes that are none; None if more data are needed."""
        if not self._inside:
            return self._seek()
        head, gap, body = self._held.partition(b"\r\n\r\n")
        if len(head) > _HEADER + (0 if gap else 3):  # 3: a part of the gap
            return self._give_up()
        if not gap:
            return None
        length = re.search(rb"(?i)^content-length:[ \t]*([0-9]{1,9})[ \t]*\r?$", head, re.MULTILINE)
        return self._counted(body, int(length[1])) if length else self._marked(body)

    def _counted(self, body: bytes, size: int) -> bytes | None:
        if size > self._most:
            return self._give_up()
        return self._cut(body, size) if len(body) >= size else None

    def _marked(self, body: bytes) -> bytes | None:
        end = body.find(self._mark)
        if end > self._most or (end < 0 and len(body) > self._most + len(self._mark)):
            return self._give_up()
        return self._cut(body, end).removesuffix(b"\r\n") if end >= 0 else None

    def _seek(self) -> bytes | None:
        """Throw away what lies before the next boundary."""
        at = self._held.find(self._mark)
        if at < 0:
            self._held = self._held[max(0, len(self._held) - len(self._mark) + 1) :]
            return None
        self._held, self._inside = self._held[at + len(self._mark) :], True
        return b""

    def _give_up(self) -> bytes:
        self._inside = False
        return b""

    def _cut(self, body: bytes, end: int) -> bytes:
        self._held, self._inside = body[end:], False
        return body[:end]
