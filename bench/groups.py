"""Control groups of Linux, of version 1 or 2: how much processor and memory the processes of an emulated host get."""

import contextlib
import os
import signal
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "memory")  # of version 1, a tree each
PERIOD_US = 20_000


def version(root: Path = ROOT) -> int:
    """Which version this machine has; 0: none with a processor's limit."""
    if (root / "cgroup.controllers").is_file():
        return 2 if {"cpu", "memory"} <= set((root / "cgroup.controllers").read_text().split()) else 0
    return 1 if (root / "cpu").is_dir() else 0


class Group:
    """The group ``name``, which ``make`` makes and ``remove`` removes."""

    def __init__(self, name: str, root: Path = ROOT) -> None:
        self._name, self._root, self._is_2 = name, root, version(root) == 2

    def _folder(self, controller: str) -> Path:
        return self._root / self._name if self._is_2 else self._root / controller / self._name

    def _folders(self) -> list[Path]:
        return list(dict.fromkeys(map(self._folder, CONTROLLERS)))

    def make(self) -> None:
        if self._is_2:
            (self._root / "cgroup.subtree_control").write_text("+cpu +memory")
        for folder in self._folders():
            folder.mkdir()

    @property
    def entries(self) -> list[Path]:
        """The files that take the id of a process which enters."""
        return [folder / "cgroup.procs" for folder in self._folders()]

    def share(self, cores: float | None) -> None:
        """So much of a core from now on; None: no limit."""
        if self._is_2:
            quota = "max" if cores is None else str(int(cores * PERIOD_US))
            (self._folder("cpu") / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        else:
            (self._folder("cpu") / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self._folder("cpu") / "cpu.cfs_quota_us").write_text("-1" if cores is None else str(int(cores * PERIOD_US)))

    def hold(self, memory_bytes: int) -> None:
        """No more memory than this, page cache included."""
        (self._folder("memory") / ("memory.max" if self._is_2 else "memory.limit_in_bytes")).write_text(str(memory_bytes))

    def cpu_s(self) -> float:
        """Processor seconds used so far."""
        if self._is_2:
            used = dict(line.split() for line in (self._folder("cpu") / "cpu.stat").read_text().splitlines())
            return int(used["usage_usec"]) / 1e6
        return int((self._folder("cpuacct") / "cpuacct.usage").read_text()) / 1e9

    def peak_bytes(self) -> int:
        """The most memory held so far, page cache included."""
        folder = self._folder("memory")
        name = "memory.max_usage_in_bytes"
        if self._is_2:  # the peak came with Linux 5.19
            name = "memory.peak" if (folder / "memory.peak").exists() else "memory.current"
        return int((folder / name).read_text())

    def remove(self) -> None:
        """Ends what is left in it (a broker, a trial of a model), and removes it: that takes the kernel a moment."""
        with contextlib.suppress(FileNotFoundError):
            for pid in self.entries[0].read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for folder in self._folders():
            for _ in range(40):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)
                else:
                    break
