"""The control groups that limit this process, of Linux's versions 1 and 2: its own and all above it, for each limit holds.

/proc/self/cgroup names the own group, /proc/self/mountinfo where groups can be read: a container may see its own alone.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_MOUNT = re.compile(r"\S+ \S+ \S+ (\S+) (\S+) .*? - (cgroup2?) \S+ (\S+)")  # its root, its place, its kind, its options

_MEMORY = {
    1: (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    2: (("memory.max", "memory.high"), "memory.current", "inactive_file"),
}  # limits, what is in use, and the line of memory.stat that says for files not used lately


def groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Version and folder of each group that may limit ``controller`` ("cpu", "memory"), the innermost first."""
    for line in text(root / "proc/self/cgroup").splitlines():
        number, controllers, own = (line + "::").split(":", 2)
        version = 2 if number == "0" else 1
        if version == 2 or controller in controllers.split(","):
            for top, place in _mounts(version, controller, root):
                path = PurePosixPath(own.removesuffix("::"))
                below = path.relative_to(top) if path.is_relative_to(top) else PurePosixPath()
                yield from ((version, place / group) for group in dict.fromkeys((below, *below.parents)))


def cores(root: Path = Path("/")) -> int:
    """Processors that this process may keep busy: those of its affinity, or as many whole ones as a group's quota is worth."""
    shares = [
        int(quota) // int(period)
        for quota, period in (_cpu_quota(version, folder) for version, folder in groups("cpu", root))
        if quota.isdecimal() and period.isdecimal() and int(period)
    ]
    return max(1, min(len(os.sched_getaffinity(0)), *shares, 1 << 16))


def free_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process may still take: what the machine can spare, or less where a control group leaves less.

    None: Linux does not tell.
    """
    spare = [int(n) << 10 for n in re.findall(r"^MemAvailable: +(\d+) kB", text(root / "proc/meminfo"), re.MULTILINE)]
    return min([*spare, *memory_left(root)], default=None)


def memory_left(root: Path = Path("/")) -> Iterator[int]:
    """Bytes that each group with a limit leaves: what is not in use, and what is in use for files not used lately.

    Where the limit is one that the kernel throttles at (memory.high), no more than that is taken for granted.
    """
    for version, folder in groups("memory", root):
        limits, usage, idle = _MEMORY[version]
        most = [int(limit) for limit in (text(folder / name).strip() for name in limits) if limit.isdecimal()]
        used = text(folder / usage).strip()
        files = re.search(rf"^{idle} (\d+)$", text(folder / "memory.stat"), re.MULTILINE)
        if most and used.isdecimal():
            yield max(min(most) - int(used) + (int(files[1]) if files else 0), 0)


def _cpu_quota(version: int, folder: Path) -> tuple[str, str]:
    """Microseconds of processor time in so many microseconds; the first is no number where there is no limit."""
    if version == 2:
        quota, _, period = text(folder / "cpu.max").strip().partition(" ")
        return quota, period
    return text(folder / "cpu.cfs_quota_us").strip(), text(folder / "cpu.cfs_period_us").strip()


def _mounts(version: int, controller: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Which group is in which folder. An octal escape stands for a space."""
    for line in text(root / "proc/self/mountinfo").splitlines():
        found = _MOUNT.match(line)
        if found and (found[3] == "cgroup2" if version == 2 else controller in found[4].split(",")):
            top, place = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), found[n]) for n in (1, 2))
            yield top, root / place.lstrip("/")


def text(path: Path) -> str:
    """What a file of /proc or /sys says; nothing where it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
