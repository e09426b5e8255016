"""How an edge gets its model: it asks the gateway for a few chunks at a time and writes each to the disk as it comes.

It keeps two laws. What counts is on the disk and has its digest, so that a download goes on where it ended, whatever ended
it. And no more is under way than arrives in a fraction of a second: control messages never wait long behind chunks.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_agent.cache import Part
from schemas.contract.chunks import CHUNK_BYTES, check_count
from schemas.contract.errors import DecodeError
from schemas.contract.plan import digest

MOST = 16  # chunks under way
QUICK_S, SLOW_S = 0.25, 0.75  # a chunk that came sooner lets one more be under way, one that came later one less
PATIENCE_S, LONGEST_S = 5.0, 60.0  # an answer is awaited for so long at least, and at most
_TIMES = 4  # and for so many times as long as the last one took
SCAN = 64  # chunks on the disk that are looked at before the loop goes on


class Window:
    """How many chunks may be under way, by how long the last ones took; times in monotonic seconds."""

    def __init__(self) -> None:
        self.size = 1
        self.silences = 0  # so often something was given up, and nothing has come since
        self._asked: dict[int, float] = {}
        self._patience_s = PATIENCE_S

    @property
    def room(self) -> int:
        return max(self.size - len(self._asked), 0)

    def sent(self, n: int, now: float) -> None:
        self._asked[n] = now

    def came(self, n: int, now: float) -> None:
        """What was not asked for, or comes late, says nothing of the link."""
        asked_at = self._asked.pop(n, None)
        self.silences = 0
        if asked_at is None:
            return
        took = now - asked_at
        self._patience_s = min(max(PATIENCE_S, _TIMES * took), LONGEST_S)
        if took < QUICK_S:
            self.size = min(self.size + 1, MOST)
        elif took > SLOW_S:
            self.size = max(self.size - 1, 1)

    def deadline(self) -> float:
        """When the first of what is under way is given up."""
        return min(self._asked.values(), default=float("inf")) + self._patience_s

    def expire(self, now: float) -> list[int]:
        """What has been under way for too long; then one at a time is asked for, and waited for longer."""
        late = [n for n, asked_at in self._asked.items() if now >= asked_at + self._patience_s]
        if late:
            self.silences += 1
            self.size, self._patience_s = 1, min(2 * self._patience_s, LONGEST_S)
        for n in late:
            del self._asked[n]
        return late

    def drop(self) -> list[int]:
        """Nothing is under way any more: the connection is another one."""
        lost, self._asked, self.size = sorted(self._asked), {}, 1
        return lost


class ModelDownload:
    """One model on its way into ``part``, in chunks with these digests.

    Raises:
        DecodeError: a model of this size has another number of chunks.
    """

    def __init__(self, part: Part, digests: Sequence[str]) -> None:
        check_count(len(digests), part.size)
        self.digest, self.part = part.digest, part
        self.window = Window()
        self.here = self.came_bytes = 0  # chunks on the disk; bytes that came since the start
        self._digests = digests
        self._again: list[int] = []  # to be asked for once more
        self._next = 0  # from here on no chunk was looked at
        self._came: set[int] = set()

    @property
    def chunks(self) -> int:
        return len(self._digests)

    @property
    def share(self) -> float:
        """How much of it is here, from 0 to 1."""
        return self.here / self.chunks

    @property
    def complete(self) -> bool:
        return self.here == self.chunks

    def deadline(self, now: float) -> float:
        """When ``ask`` has something to do."""
        return now if self.window.room and (self._again or self._next < self.chunks) else self.window.deadline()

    def ask(self, now: float) -> list[int]:
        """Numbers of the chunks to ask for now. Those that the disk has already are not asked for."""
        self._again += self.window.expire(now)
        wanted: list[int] = []
        for _ in range(SCAN):
            if len(wanted) >= self.window.room or not (self._again or self._next < self.chunks):
                break
            n = self._again.pop(0) if self._again else self._next
            self._next = max(self._next, n + 1)
            if n in self._came:
                continue
            if digest(self.part.read(n)) == self._digests[n]:
                self._count(n)
            else:
                wanted.append(n)
        for n in wanted:
            self.window.sent(n, now)
        return wanted

    def take(self, n: int, data: npt.NDArray[np.uint8], now: float) -> None:
        """Chunk ``n`` has come; a second time, and it is ignored.

        Raises:
            DecodeError: there is no such chunk, or it has another size, type or digest.
            DtError: the disk does not take it.
        """
        if not 0 <= n < self.chunks:
            raise DecodeError(f"chunk {n} of model {self.digest}: it has {self.chunks} chunks, numbered from 0")
        size = min(CHUNK_BYTES, self.part.size - n * CHUNK_BYTES)
        if data.dtype != np.uint8 or data.shape != (size,):
            raise DecodeError(
                f"chunk {n} of model {self.digest}: uint8 of shape {(size,)} wanted, got {data.dtype} of {data.shape}"
            )
        found = digest(np.ascontiguousarray(data).data)
        if found != self._digests[n]:
            raise DecodeError(f"chunk {n} of model {self.digest} has digest {found}, wanted {self._digests[n]}")
        self.window.came(n, now)
        if n not in self._came:
            self.part.write(n, data)
            self.came_bytes += size
            self._count(n)

    def reconnected(self) -> None:
        """What was asked for on another connection does not come on this one."""
        self._again += self.window.drop()

    def begin_again(self) -> None:
        """All chunks had their digests and the model had not: what is here is of no use."""
        self.here, self._next, self._again = 0, 0, []
        self._came.clear()
        self.part.clear()

    def _count(self, n: int) -> None:
        self._came.add(n)
        self.here += 1
