"""Control groups of both versions, on trees of files that look like the kernel's."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from bench.groups import CONTROLLERS, Group, version
from bench.paced import Paced


def tree(root: Path, number: int) -> Path:
    if number == 2:
        (root / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    else:
        for controller in CONTROLLERS:
            (root / controller).mkdir()
    return root


def test_the_version_is_that_of_the_machine(tmp_path: Path) -> None:
    assert version(tmp_path) == 0
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    assert version(tree(tmp_path / "1", 1)) == 1 and version(tree(tmp_path / "2", 2)) == 2
    (tmp_path / "2" / "cgroup.controllers").write_text("pids\n")
    assert version(tmp_path / "2") == 0


@pytest.mark.parametrize("number", [1, 2])
def test_shares_and_memory_are_written_and_read_as_the_kernel_has_them(tmp_path: Path, number: int) -> None:
    group = Group("dt1_e1", tree(tmp_path, number))
    group.make()
    group.share(0.25)
    group.hold(900_000_000)
    if number == 2:
        folder = tmp_path / "dt1_e1"
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory"
        assert (folder / "cpu.max").read_text() == "5000 20000" and (folder / "memory.max").read_text() == "900000000"
        (folder / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
        (folder / "memory.current").write_text("5\n")
        assert group.cpu_s() == 2.5 and group.peak_bytes() == 5
        (folder / "memory.peak").write_text("7\n")
        assert group.peak_bytes() == 7 and group.entries == [folder / "cgroup.procs"]
        group.share(None)
        assert (folder / "cpu.max").read_text() == "max 20000"
    else:
        assert (tmp_path / "cpu/dt1_e1/cpu.cfs_quota_us").read_text() == "5000"
        assert (tmp_path / "memory/dt1_e1/memory.limit_in_bytes").read_text() == "900000000"
        (tmp_path / "cpuacct/dt1_e1/cpuacct.usage").write_text("2500000000\n")
        assert group.cpu_s() == 2.5 and len(group.entries) == 3
        group.share(None)
        assert (tmp_path / "cpu/dt1_e1/cpu.cfs_quota_us").read_text() == "-1"


def test_what_is_left_in_a_group_ends_with_it(tmp_path: Path) -> None:
    group = Group("dt1_e1", tree(tmp_path, 2))
    group.make()
    child = subprocess.Popen(["sleep", "60"])
    group.entries[0].write_text(f"{child.pid}\n")
    for file in (tmp_path / "dt1_e1").iterdir():
        if file.name != "cgroup.procs":
            file.unlink()
    group.remove()
    assert child.wait(10) == -9


def test_a_paced_engine_gives_the_same_and_takes_at_least_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Double:
        def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
            return [2 * given for given in inputs]

    slept: list[float] = []
    monkeypatch.setattr("bench.paced.time.sleep", slept.append)
    (made,) = Paced(Double(), 5.0).run([np.ones(3)])  # type: ignore[arg-type]
    assert made.tolist() == [2, 2, 2] and 4.5 < slept[0] <= 5.0
