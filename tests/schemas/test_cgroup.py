import os
from pathlib import Path

import pytest

from schemas.host.cgroup import cores, free_bytes, groups, memory_left

V2 = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)
CONTAINER = "35 31 0:32 /docker/a1 /sys/fs/cgroup/memory ro,relatime master:15 - cgroup cgroup rw,memory\n"
SPACE = V2.replace("/sys/fs/cgroup", r"/sys/fs/my\040groups")


def machine(root: Path, cgroup: str, mounts: str, limits: dict[str, str] | None = None) -> Path:
    """A root with these two tables of /proc/self, and these files below /sys/fs/cgroup."""
    told = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts}
    for name, text in (told | {f"sys/fs/cgroup/{path}": text for path, text in (limits or {}).items()}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def quota(group: str, quota_us: int, period_us: int) -> dict[str, str]:
    """The limit of a group of version 1."""
    folder = f"cpu,cpuacct{group}"
    return {f"{folder}/cpu.cfs_quota_us": f"{quota_us}\n", f"{folder}/cpu.cfs_period_us": f"{period_us}\n"}


@pytest.mark.parametrize(
    ("cgroup", "mounts", "found"),
    [
        ("0::/a.slice/b\n", V2, ["2 a.slice/b", "2 a.slice", "2 ."]),
        ("0::/\n", V2, ["2 ."]),
        ("0::/a:b\n", V2, ["2 a:b", "2 ."]),
        ("5:memory:/x/y\n4:cpu,cpuacct:/z\n0::/q\n", V1, ["1 memory/x/y", "1 memory/x", "1 memory"]),
        ("5:memory:/docker/a1/sub\n", CONTAINER, ["1 memory/sub", "1 memory"]),
        ("5:memory:/elsewhere\n", CONTAINER, ["1 memory"]),
        ("5:memory:/x\n0::/y\n", V1 + V2, ["1 memory/x", "1 memory", "2 y", "2 ."]),
        ("0::/a\n", SPACE, ["2 ../my groups/a", "2 ../my groups"]),
        ("", V2, []),
        ("nonsense\n0\n", V1, []),
        ("0::/a\n", "", []),
    ],
)
def test_a_processs_groups_are_its_own_and_all_above_it(
    tmp_path: Path, cgroup: str, mounts: str, found: list[str]
) -> None:
    told = groups("memory", machine(tmp_path, cgroup, mounts))
    base = tmp_path / "sys/fs/cgroup"
    assert [f"{version} {os.path.relpath(folder, base)}" for version, folder in told] == found


@pytest.mark.parametrize(
    ("cgroup", "mounts", "limits", "allowed"),
    [
        ("0::/a/b\n", V2, {"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "max 100000\n"}, 2),
        ("0::/a/b\n", V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "350000 100000\n"}, 3),
        ("0::/a\n", V2, {"a/cpu.max": "50000 100000\n"}, 1),
        ("0::/a\n", V2, {"a/cpu.max": "max 100000\n"}, 8),
        ("4:cpu,cpuacct:/a\n", V1, quota("/a", -1, 100000), 8),
        ("4:cpu,cpuacct:/a\n", V1, quota("", 400000, 100000), 4),
        ("4:cpu,cpuacct:/a\n", V1, quota("/a", 100000, 0), 8),
        ("", "", {}, 8),
    ],
)
def test_a_quota_allows_whole_processors_and_at_least_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, mounts: str, limits: dict[str, str], allowed: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cores(machine(tmp_path, cgroup, mounts, limits)) == allowed


def test_affinity_is_the_most() -> None:
    """On this machine, whatever it allows."""
    allowed = os.sched_getaffinity(0)
    assert 1 <= cores() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def memory(folder: str, limit: int | str, used: int, idle: int = 0, high: str = "max") -> dict[str, str]:
    """A group of version 2."""
    return {
        f"{folder}memory.max": f"{limit}\n", f"{folder}memory.high": f"{high}\n", f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": f"anon 5\ninactive_file {idle}\nactive_file 7\n",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (memory("a/", 1000, 300), [700]),
        (memory("a/", 1000, 300, idle=50), [750]),
        (memory("a/", 1000, 300, high="500"), [200]),
        (memory("a/", "max", 300, high="500"), [200]),
        (memory("a/", "max", 300), []),
        (memory("a/", 1000, 300) | memory("", 800, 700), [700, 100]),
        (memory("a/", 1000, 1200), [0]),
        ({}, []),
    ],
)
def test_each_group_leaves_its_limit_but_what_is_in_use(tmp_path: Path, limits: dict[str, str], left: list[int]) -> None:
    assert list(memory_left(machine(tmp_path, "0::/a\n", V2, limits))) == left


def test_version_1_counts_all_below_a_group(tmp_path: Path) -> None:
    limits = {
        "memory/x/memory.limit_in_bytes": "1000\n",
        "memory/x/memory.usage_in_bytes": "900\n",
        "memory/x/memory.stat": "inactive_file 1\ntotal_inactive_file 300\n",
    }
    assert list(memory_left(machine(tmp_path, "5:memory:/x\n", V1, limits))) == [400]


@pytest.mark.parametrize(
    ("limits", "free"),
    [({}, 2000 << 10), (memory("a/", 1000000, 200000), 800000), (memory("a/", 1 << 40, 200000), 2000 << 10), (None, None)],
)
def test_free_memory_is_what_machine_and_groups_leave(
    tmp_path: Path, limits: dict[str, str] | None, free: int | None
) -> None:
    root = machine(tmp_path, "0::/a\n", V2, limits)
    if limits is not None:
        (root / "proc/meminfo").write_text("MemTotal:  4000 kB\nMemFree: 1 kB\nMemAvailable:    2000 kB\n")
    assert free_bytes(root) == free
