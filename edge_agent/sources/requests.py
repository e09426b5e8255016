"""What Frigate's detector of type ``zmq`` asks, what it is told, and who still waits. It knows no socket, thread or clock.

The wire is Frigate's: a request is ``[JSON with shape and dtype, the tensor's bytes in C order]``, its answer ``[JSON, 480
bytes]``: 20 rows of class, score, y0, x0, y1, x1, relative, float32, best first, the rest zeros. The law: rows are what the
model has said, and where it has said nothing in time there is no answer. Zeros would mean that nobody is there.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.contract.errors import DecodeError
from schemas.contract.results import Result

ROWS, FIELDS = 20, 6
SHAPE = json.dumps({"shape": [ROWS, FIELDS], "dtype": "float32"}).encode()
MOST_SIDE = 4096
WAITING = 32  # clients; each has one request
HEADER_BYTES = 4096


@dataclass(frozen=True)
class Look:
    """What is in this tensor? ``values`` as they came, (height, width, 3); uint8, or float32 from 0 to 1 or to 255."""

    values: NDArray[Any]


@dataclass(frozen=True)
class HasModel:
    """Is the model of this file's name here?"""

    name: str


@dataclass(frozen=True)
class TakeModel:
    """Here is the model of this file's name."""

    name: str
    data: bytes


def parse(parts: Sequence[bytes]) -> Look | HasModel | TakeModel:
    """A request, of which nothing was checked.

    Raises:
        DecodeError: what it lacks, in one line.
    """
    header = _header(parts)
    if header.get("model_request") or header.get("model_data"):
        name = header.get("model_name")
        if not isinstance(name, str) or not 0 < len(name) <= 200:
            raise DecodeError("a word of a model without the model's name")
        if header.get("model_request"):
            return HasModel(name)
        if len(parts) != 2:
            raise DecodeError(f"a model in {len(parts)} parts, not in header and bytes")
        return TakeModel(name, parts[1])
    if len(parts) != 2:
        raise DecodeError(f"a tensor in {len(parts)} parts, not in header and bytes")
    return Look(_tensor(header, parts[1]))


def _header(parts: Sequence[bytes]) -> dict[str, Any]:
    if not parts or len(parts[0]) > HEADER_BYTES:
        raise DecodeError("no header, or one that is too long")
    try:
        header = json.loads(parts[0])
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise DecodeError("a header that is no JSON object")
    return header


def _tensor(header: dict[str, Any], data: bytes) -> NDArray[Any]:
    shape, dtype = header.get("shape"), header.get("dtype")
    if dtype not in ("uint8", "float32"):
        raise DecodeError(f"a tensor of {str(dtype)[:40]}: set input_dtype of Frigate's model to int, float or float_denorm")
    if not isinstance(shape, list) or not all(type(side) is int and 1 <= side <= MOST_SIDE for side in shape):
        raise DecodeError(f"a tensor of shape {str(shape)[:80]}, which is none")
    sides = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(sides) != 3 or (sides[2] != 3 and sides[0] != 3):
        raise DecodeError(f"a tensor of shape {str(shape)[:80]}: set input_tensor of Frigate's model to nhwc or nchw")
    wanted = sides[0] * sides[1] * sides[2] * np.dtype(dtype).itemsize
    if len(data) != wanted:
        raise DecodeError(f"{len(data)} bytes for a tensor of {wanted}")
    values = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(sides)
    return values if sides[2] == 3 else values.transpose(1, 2, 0)


class Colours:
    """Tensors as pictures: uint8 RGB (height, width, 3).

    Floats reach to 1 or to 255, which a dark picture does not tell: once a value was above 1, all reach to 255.
    """

    def __init__(self, bgr: bool) -> None:
        self._bgr, self._is_wide = bgr, False

    def picture(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Raises DecodeError: a value is no colour."""
        if values.dtype != np.uint8:
            low, high = float(values.min()), float(values.max())
            if not (low >= 0.0 and high <= 255.0):  # a NaN is neither
                raise DecodeError(f"values from {low:g} to {high:g}: floats must reach from 0 to 1 or to 255")
            self._is_wide = self._is_wide or high > 1.0
            values = np.rint(values if self._is_wide else values * np.float32(255.0)).astype(np.uint8)
        return np.ascontiguousarray(values[..., ::-1] if self._bgr else values)


def rows(result: Result, picture: tuple[int, int]) -> bytes:
    """The answer's second part: detections, best first, in a picture of (height, width)."""
    height, width = picture
    table = np.zeros((ROWS, FIELDS), "<f4")
    best = sorted(result.detections, key=lambda one: -one.score)[:ROWS]
    for row, one in zip(table, best):
        x0, y0, x1, y1 = one.box
        row[:] = one.index, one.score, *np.clip((y0 / height, x0 / width, y1 / height, x1 / width), 0.0, 1.0)
    return table.tobytes()


@dataclass(frozen=True)
class Asked:
    """A request that waits for its answer until ``until``; ``ticket`` names it."""

    ticket: int
    client: bytes
    image: NDArray[np.uint8]
    until: float


class Desk:
    """Requests from their arrival to their answer. A client has one at a time; each has ``timeout_s`` seconds.

    Of those that wait the youngest is next, which has most time left: where there are too many, the eldest would all be
    answered too late. ``counts`` has what was ``asked``, ``answered`` and not: ``late``, ``failed``, ``crowded`` out, or
    ``replaced`` by the same client's next.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.counts: Counter[str] = Counter()
        self._tickets = 0
        self._waiting: dict[bytes, Asked] = {}
        self._taken: dict[int, Asked] = {}

    @property
    def unanswered(self) -> int:
        """Requests that have ended without an answer."""
        return sum(self.counts[why] for why in ("late", "failed", "crowded", "replaced"))

    def ask(self, client: bytes, image: NDArray[np.uint8], now: float) -> None:
        """A request has come."""
        self.expire(now)
        self.counts["asked"] += 1
        self._tickets += 1
        for ticket in [ticket for ticket, asked in self._taken.items() if asked.client == client]:
            self._end(ticket, "replaced")
        if self._waiting.pop(client, None):
            self.counts["replaced"] += 1
        elif len(self._waiting) >= WAITING:
            del self._waiting[next(iter(self._waiting))]
            self.counts["crowded"] += 1
        self._waiting[client] = Asked(self._tickets, client, image, now + self.timeout_s)

    def take(self, now: float) -> Asked | None:
        """The next request to look into; None: nobody waits."""
        self.expire(now)
        if not self._waiting:
            return None
        asked = self._waiting.popitem()[1]
        self._taken[asked.ticket] = asked
        return asked

    def answer(self, ticket: int, result: Result | None, now: float) -> list[bytes]:
        """The message to the one who asked, to whom first; empty: it is too late, or there is no result (None)."""
        self.expire(now)
        asked = self._taken.get(ticket)
        if asked is None:
            return []
        is_good = result is not None and result.task == "detect"
        self._end(ticket, "answered" if is_good else "failed")
        if result is None or not is_good:
            return []
        return [asked.client, b"", SHAPE, rows(result, (asked.image.shape[0], asked.image.shape[1]))]

    def expire(self, now: float) -> None:
        """Forget who waits no longer."""
        for client in [client for client, asked in self._waiting.items() if asked.until <= now]:
            del self._waiting[client]
            self.counts["late"] += 1
        for ticket in [ticket for ticket, asked in self._taken.items() if asked.until <= now]:
            self._end(ticket, "late")

    def _end(self, ticket: int, how: str) -> None:
        del self._taken[ticket]
        self.counts[how] += 1
