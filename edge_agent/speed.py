"""How fast this node computes: measured once, kept on its disk, and corrected by every tile.

The planner divides frames by it. Kept with the runtime, the processor and the threads that were measured: others have
another speed.
"""

import json
import math
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from models.cost import measure_speed
from models.engine import here

FILE = "speed.json"
_WEIGHT = 0.1  # of the newest tile
_SLOWEST, _FASTEST = 1e6, 1e14  # FLOP/s that a file may claim


class Speed:
    """``flops_s``: effort a second of the engine as it is loaded today, other work of the machine included."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Reads what ``folder`` keeps of so many threads, or measures for a third of a second."""
        self._path = folder / FILE
        self._of = {"kernels": here(), "threads": threads}
        self.flops_s = self._read() or measure_speed(threads=threads)

    def saw(self, effort: int, seconds: float) -> None:
        """A tile of so much effort was so long in the engine."""
        if effort > 0 and seconds > 0:
            self.flops_s += _WEIGHT * (min(max(effort / seconds, _SLOWEST), _FASTEST) - self.flops_s)

    def keep(self) -> None:
        """Write it for the next start; a full or read-only disk costs that start a measurement, no more."""
        told = json.dumps({**self._of, "flops_s": round(self.flops_s)})
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

    def _read(self) -> float | None:
        try:
            said = json.loads(self._path.read_bytes()[:4096])
            flops_s = float(said["flops_s"])
            same = {key: said[key] for key in self._of} == self._of
            known = same and math.isfinite(flops_s) and _SLOWEST <= flops_s <= _FASTEST
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return flops_s if known else None
