"""How frames ended, on disk: what a gateway that takes up after a killed one must not say otherwise.

One JSON line a frame, written before its outcome is published; ``heard`` lines follow when the broker has it. It keeps two
laws: a line is whole or not there, and the file is bounded. A line is not synced: it outlives the process, not the machine's
power (a card in a Pi bears no write a frame), and after a power cut the last seconds' frames may end again.
"""

import fcntl
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from gateway_agent.node import Before
from schemas.contract.errors import CredentialError, DtError, PlanError
from schemas.contract.messages import FrameId, Outcome, frame_id, frame_source
from schemas.contract.plan import Record
from schemas.host.state import append, entered, read, told, write

JOURNAL = "ended.jsonl"
KEEP = 1024  # frames by name; of older ones the last number of each source and epoch
SOURCES = 256
LINES = 8 * KEEP
LACKING = 64  # lines after which a file that lacks some is tried to be written anew
_log = logging.getLogger(__name__)


class Entry(Record):
    """A frame that ended, and how; or frames whose outcome the broker has; or those before which all have ended."""

    ended: FrameId | None = None
    outcome: Outcome | None = None
    heard: Annotated[tuple[FrameId, ...], Field(max_length=LINES)] = ()
    forgotten: Annotated[tuple[FrameId, ...], Field(max_length=SOURCES)] = ()


class Journal:
    """The frames that ended, oldest first, in ``path``. No other process may have one in this folder.

    A disk that is full or gone costs the memory, not the work: it is told once, until the file holds everything again. Each
    frame tries its own line, which on a full disk fits now and then; what is missing follows as soon as all of it does.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._folder = path, _claim(path.parent)
        self._ended: OrderedDict[str, Outcome | None] = OrderedDict()
        self._forgotten: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._lines = self._tries = 0
        self._lacks = False
        damaged = [line for line in self._found().splitlines() if not self._take(line)]
        if damaged:
            _log.warning("%s: skipped %d damaged or outdated lines", path, len(damaged))
        self._rewrite()

    @property
    def before(self) -> Before:
        """What the gateways before this one have ended."""
        forgotten = tuple(frame_id(source, epoch, number) for (source, epoch), number in self._forgotten.items())
        return Before(dict(self._ended), forgotten)

    def close(self) -> None:
        """Another gateway may have the folder."""
        os.close(self._folder)

    def keep(self, outcome: Outcome) -> None:
        """A frame ends like this; to be called before that is said."""
        self._append(Entry(ended=outcome.frame, outcome=outcome))

    def heard(self, frames: tuple[str, ...]) -> None:
        """The broker has the outcomes of these frames; of more than ``KEEP`` the first are forgotten already."""
        self._append(Entry(heard=frames[-KEEP:]))

    def _found(self) -> bytes:
        """What is there; nothing in place of what is no journal."""
        try:
            return read(self._path) or b""
        except CredentialError as error:
            _log.warning("%s; outcomes of earlier frames are unknown", error)
            return b""

    def _append(self, line: Entry) -> None:
        self._remember(line)
        self._tries += self._lacks
        if self._tries >= LACKING or (self._lines >= LINES and not self._lacks):
            return self._rewrite()
        data = line.model_dump_json(exclude_defaults=True).encode() + b"\n"
        self._try(lambda: append(self._path, data))
        self._lines += 1

    def _rewrite(self) -> None:
        """Only what counts, in place of the file."""
        lines = [Entry(forgotten=self.before.forgotten)]
        lines += [Entry(ended=frame, outcome=outcome) for frame, outcome in self._ended.items()]
        data = b"".join(line.model_dump_json(exclude_defaults=True).encode() + b"\n" for line in lines)
        self._tries = 0
        if self._try(lambda: write(self._path, data)):
            self._lines, self._lacks = len(lines), False

    def _try(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except DtError as error:
            if not self._lacks:
                _log.error("%s; until then a restarted gateway may report a frame's outcome twice", error)
            self._lacks = True
            return False
        return True

    def _take(self, data: bytes) -> bool:
        """Whether it is a line of ours."""
        try:
            self._remember(Entry.model_validate_json(data))
        except ValidationError:
            return False
        return True

    def _remember(self, line: Entry) -> None:
        for frame in line.forgotten:
            self._forget(frame)
        for frame in line.heard:
            if frame in self._ended:
                self._ended[frame] = None
        if line.ended:
            self._ended[line.ended] = line.outcome
        while len(self._ended) > KEEP:
            self._forget(self._ended.popitem(last=False)[0])

    def _forget(self, frame: str) -> None:
        source, epoch, number = frame_source(frame)
        self._forgotten[source, epoch] = max(number, self._forgotten.pop((source, epoch), -1))
        while len(self._forgotten) > SOURCES:
            self._forgotten.popitem(last=False)


def _claim(folder: Path) -> int:
    """A handle that keeps other gateways out of the folder until it is closed, or this process is dead."""
    with told(folder), entered(folder) as entry:
        handle = os.dup(entry)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise PlanError(f"another gateway is using the state folder {folder}: choose another --root or --state DIR") from None
    return handle
