"""What the doctor makes of readings: machines are folders here."""

from pathlib import Path

import pytest

from dt_cli import checks
from schemas.host.discovery import Found

STOCK_PI = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t70\t1\nmemory\t0\t70\t0\n"
THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def put(root: Path, place: str, text: str) -> Path:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(text)
    return root


def test_every_finding_that_is_not_good_says_what_to_do(tmp_path: Path) -> None:
    put(tmp_path, "proc/cgroups", STOCK_PI)
    put(tmp_path, "proc/meminfo", "MemTotal:  100000 kB\nMemFree: 1 kB\n")
    put(tmp_path, "sys/class/net/wlan0/wireless/x", "")
    put(tmp_path, "dev/video0", "")
    put(tmp_path, THROTTLED, "50005\n")
    found = [
        checks.python((3, 9, 2), 64), checks.python((3, 12, 0), 32), checks.runtime(None, None), checks.runtime("a", "b"),
        checks.packages(["numpy 9 (tested: 2)"]),
        checks.memory(tmp_path), checks.memory_limits(tmp_path), checks.throttling(tmp_path),
        checks.cameras(tmp_path, lambda path: False), checks.clock(False, 2.0, 1.0), checks.clock(None, 1.0, 2.0),
        checks.messages(False, "dropped", "raise it"), checks.messages(False, "", ""),
        checks.disk(tmp_path, 1000, True), checks.disk(tmp_path, None, True), checks.disk(tmp_path, 10**12, False),
        checks.mosquitto(None), checks.port("127.0.0.1:1883", "other"), checks.interface(tmp_path, "wlan0", "10.0.0.2"),
        checks.interface(tmp_path, None, None), checks.mdns(False, []), checks.gateway(None, "", False),
        checks.straight({"a": ("b",), "b": ("a",), "c": ("a",)}),
        checks.gateway("mqtt://pi", "refused", False), checks.gateway("mqtt://pi", "", False),
    ]  # fmt: skip
    assert all(finding.level != "good" and finding.remedy for finding in found), found
    assert checks.worst(found) == 1


def test_a_node_that_the_gateway_refuses_is_told_why_and_what_helps() -> None:
    found = checks.runtime("litert float32=1 uint8=2", "litert uint8=3")
    assert found.level == "bad" and "other uint8 bits" in found.text and "int8 or float32 model" in found.remedy
    assert checks.runtime("litert float32=1 uint8=2", "litert float32=1").level == "good"


def test_a_sound_machine_has_nothing_to_remedy(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemTotal:  4000000 kB\n")
    put(tmp_path, "sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n")
    put(tmp_path, "sys/class/net/eth0/speed", "1000\n")
    put(tmp_path, THROTTLED, "0\n")
    found = [
        checks.python((3, 11, 2), 64), checks.runtime("a", None), checks.runtime("a", "a"), checks.memory(tmp_path),
        checks.packages([]),
        checks.memory_limits(tmp_path), checks.throttling(tmp_path), checks.cameras(tmp_path),
        checks.clock(True, 2.0, 1.0), checks.clock(None, 2.0, 1.0), checks.disk(tmp_path, 10**12, True),
        checks.mosquitto("/usr/sbin/mosquitto"), checks.port("127.0.0.1:1883", "nobody"),
        checks.port("127.0.0.1:1883", "gateway"), checks.interface(tmp_path, "eth0", "10.0.0.2"), checks.mdns(True, []),
        checks.straight({"a": ("b",), "b": ("a",)}),
        checks.mdns(True, [Found("dt", ("10.0.0.1",), 1883)]), checks.gateway("mqtt://pi", "", True),
    ]  # fmt: skip
    assert all(finding.level == "good" and not finding.remedy for finding in found), found
    assert checks.worst(found) == 0


def test_nothing_is_known_of_an_empty_root_and_nothing_raises(tmp_path: Path) -> None:
    found = [check(tmp_path) for check in (checks.memory, checks.memory_limits, checks.throttling, checks.cameras)]
    assert checks.worst(found) == 0


def test_limits_hold_on_both_cgroup_versions(tmp_path: Path) -> None:
    put(tmp_path / "1", "proc/cgroups", STOCK_PI.replace("70\t0", "70\t1"))
    put(tmp_path / "2", "sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory")
    put(tmp_path / "2", "proc/cgroups", STOCK_PI)
    assert checks.memory_limits(tmp_path / "1").level == checks.memory_limits(tmp_path / "2").level == "good"
    put(tmp_path / "2", "sys/fs/cgroup/cgroup.controllers", "cpuset cpu")
    put(tmp_path / "2", "proc/cgroups", STOCK_PI.replace("70\t0", "70\t1"))  # what version 2 has, counts
    finding = checks.memory_limits(tmp_path / "2")
    assert finding.level == "note" and "cgroup_enable=memory" in finding.remedy


@pytest.mark.parametrize(
    ("word", "level", "says"),
    [
        ("0", "good", "none since"), ("1", "bad", "at this moment too little voltage"),
        ("4", "bad", "it is throttled"), ("80000", "note", "since its start it had: it is too hot"),
        ("50000", "note", "too little voltage and it is throttled"), ("nonsense", "good", "does not tell"),
    ],
)  # fmt: skip
def test_each_bit_of_throttling_is_read(tmp_path: Path, word: str, level: str, says: str) -> None:
    finding = checks.throttling(put(tmp_path, THROTTLED, word + "\n"))
    assert finding.level == level and says in finding.text


def test_heat_is_told_without_the_pi_s_own_word(tmp_path: Path) -> None:
    assert checks.throttling(put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "45300\n")).text == "45 °C"
    assert checks.throttling(put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "80000\n")).level == "note"


def test_a_camera_is_named_and_codecs_are_none(tmp_path: Path) -> None:
    put(tmp_path, "dev/video0", "")
    put(tmp_path, "sys/class/video4linux/video0/name", "HD Webcam\n")
    put(tmp_path, "dev/video10", "")
    put(tmp_path, "dev/video1", "")
    finding = checks.cameras(tmp_path, lambda path: path.name == "video0")
    assert finding.text == "/dev/video0 (HD Webcam), /dev/video1 (unnamed); this user may not open /dev/video1"


def test_a_slow_cable_is_noticed(tmp_path: Path) -> None:
    assert checks.interface(put(tmp_path, "sys/class/net/eth0/speed", "10\n"), "eth0", "10.0.0.2").level == "note"
    assert checks.interface(tmp_path, "eth1", "10.0.0.2").level == "good"


def test_a_clock_that_differs_from_the_gateway_s_is_noticed() -> None:
    assert checks.clock(True, 9.0, 1.0, 1.5).level == checks.clock(True, 9.0, 1.0, -1.5).level == "good"
    assert checks.clock(True, 9.0, 1.0, 61.0).text.startswith("61 s behind the gateway's")
    assert checks.clock(True, 9.0, 1.0, -61.0).text.startswith("61 s ahead of the gateway's")


def test_messages_that_do_not_come_through_are_broken_and_slow_ones_are_noticed() -> None:
    found = [checks.messages(*said) for said in ((True, "", ""), (False, "it drops a tile", "raise it"), (False, "", ""))]
    assert [one.level for one in found] == ["good", "bad", "note"]
    assert (found[1].text, found[1].remedy) == ("it drops a tile", "raise it")
