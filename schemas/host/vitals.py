"""How the machine of this process fares: what Linux tells in /proc and /sys. What it does not tell is None."""

import os
import time
from pathlib import Path

from schemas.contract.messages import Vitals
from schemas.host.cgroup import text

_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"  # Raspberry Pi: bits as of vcgencmd get_throttled
_NOW = 0b1111  # under-voltage, frequency capped, throttled, soft temperature limit: at this moment


class Reader:
    """``read`` says how it was since the reading before. ``root``: where /proc and /sys are."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._started = time.monotonic()
        self._ticks = self._cpu_ticks()

    def read(self) -> Vitals:
        throttled = self._number(_THROTTLED, 16)
        millidegrees = self._number("sys/class/thermal/thermal_zone0/temp")
        pages = self._line("proc/self/statm").split()
        return Vitals(
            cpu=self._cpu(),
            temperature_c=None if millidegrees is None or abs(millidegrees) > 99999 else millidegrees / 1000,
            memory_bytes=int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else None,
            throttled=None if throttled is None else bool(throttled & _NOW),
            uptime_s=time.monotonic() - self._started,
            clock_s=time.time(),
        )

    def _cpu(self) -> float | None:
        before, self._ticks = self._ticks, self._cpu_ticks()
        if before is None or self._ticks is None or self._ticks[1] <= before[1]:
            return None
        idle, whole = (now - then for now, then in zip(self._ticks, before))
        return min(max(1.0 - idle / whole, 0.0), 1.0)

    def _cpu_ticks(self) -> tuple[int, int] | None:
        """Idle (waiting for disks included) and all ticks of all cores since boot."""
        ticks = [int(field) for field in self._line("proc/stat").split()[1:9] if field.isdecimal()]
        return (ticks[3] + ticks[4], sum(ticks)) if len(ticks) > 4 else None

    def _number(self, path: str, base: int = 10) -> int | None:
        try:
            return int(self._line(path), base)
        except ValueError:
            return None

    def _line(self, path: str) -> str:
        return text(self._root / path).partition("\n")[0]
