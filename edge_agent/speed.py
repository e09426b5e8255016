"""How fast this node computes and handles messages: measured once, kept on its disk, and corrected by every tile.

The planner divides frames by it. Kept with the runtime, the processor and the threads that were measured: others have
another speed.
"""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.running.engine import here
from models.running.speed import measure_speed
from schemas.wire.pace import measure_messages

FILE = "speed.json"
_WEIGHT = 0.1  # of the newest tile
_SLOWEST, _FASTEST = _FLOPS_S = 1e6, 1e14  # that a file may claim
_MESSAGE_SPEEDS = 1e-4, 1e2


class Speed:
    """``flops_s``: effort a second of the engine as it is loaded today, other work of the machine included.

    ``message_speed``: how fast messages are handled, the reference core's being 1.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Reads what ``folder`` keeps of so many threads, or measures for less than half a second."""
        self._path = folder / FILE
        self._of = {"kernels": here(), "threads": threads}
        kept = self._read()
        self.flops_s = _within(kept, "flops_s", _FLOPS_S) or measure_speed(threads=threads)
        self.message_speed = _within(kept, "message_speed", _MESSAGE_SPEEDS) or measure_messages()

    def saw(self, effort: int, seconds: float) -> None:
        """A tile of so much effort was so long in the engine."""
        if effort > 0 and seconds > 0:
            self.flops_s += _WEIGHT * (min(max(effort / seconds, _SLOWEST), _FASTEST) - self.flops_s)

    def keep(self) -> None:
        """Write it for the next start; a full or read-only disk costs that start a measurement, no more."""
        told = json.dumps({**self._of, "flops_s": round(self.flops_s), "message_speed": round(self.message_speed, 6)})
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".speed-")
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(told + "\n")
                Path(name).replace(self._path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def _read(self) -> dict[str, Any]:
        """What the file says of this runtime and so many threads, if it does."""
        try:
            said = json.loads(self._path.read_bytes()[:4096])
            return said if {key: said[key] for key in self._of} == self._of else {}
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return {}


def _within(said: dict[str, Any], key: str, limits: tuple[float, float]) -> float | None:
    try:
        figure = float(said[key])
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    return figure if limits[0] <= figure <= limits[1] else None
