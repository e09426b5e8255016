"""What `dt doctor` can find out about a machine: each check is a function of readings, and its finding names a remedy.

They read below ``root``, where /proc, /sys, /dev, /run and /etc are, or take what was measured. None of them raises.
"""

import itertools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.contract.kernels import difference
from schemas.host.discovery import Found
from schemas.host.packages import install

Level = Literal["good", "note", "bad"]
Holder = Literal["nobody", "gateway", "other"]
DISK_BYTES = 300_000_000  # models, their rewritten parts and a weight cache
MEMORY_BYTES = 400_000_000
SKEW_S = 2.0
HOT_C = 80.0  # a Pi slows down from here
_NOW = {0: "too little voltage", 1: "its frequency is capped", 2: "it is throttled", 3: "it is too hot"}
_POWER = "use the board's own power supply and a short cable; give it a heat sink or a fan"


@dataclass(frozen=True)
class Finding:
    """``bad``: something does not work; ``note``: it works, but look. ``remedy`` is what to do, if anything."""

    check: str
    level: Level
    text: str
    remedy: str = ""


def python(version: tuple[int, ...], bits: int) -> Finding:
    text = f"Python {'.'.join(map(str, version[:3]))}, {bits} bit"
    if version[:2] < (3, 10):
        return Finding("python", "bad", text, "use Python 3.10 or newer: Raspberry Pi OS Bookworm has 3.11")
    if bits == 32 and version[:2] > (3, 11):
        remedy = "a 64-bit system, or Bookworm's Python 3.11: tflite-runtime, the only 32-bit runtime, ends there"
        return Finding("python", "bad", text, remedy)
    return Finding("python", "good" if bits == 64 else "note", text, "" if bits == 64 else "64-bit systems run twice as fast")


def runtime(kernels: str | None, cluster: str | None) -> Finding:
    """``kernels``: those of this machine, None without a runtime; ``cluster``: what the plan asks for, if it is known."""
    if kernels is None:
        return Finding("runtime", "bad", "no TFLite runtime", "pip install ai-edge-litert (64 bit) or tflite-runtime (32 bit)")
    reason, remedy = difference(kernels, cluster) if cluster else ("", "")
    if reason:
        return Finding("runtime", "bad", f"the gateway refuses this node: {reason}", remedy)
    return Finding("runtime", "good", kernels)


def packages(untested: Sequence[str]) -> Finding:
    """``untested``: what is installed in another version than was tested."""
    if not untested:
        return Finding("packages", "good", "as they were tested")
    text = ", ".join(untested[:5]) + (" ..." if len(untested) > 5 else "")
    return Finding("packages", "note", text, install())


def memory(root: Path) -> Finding:
    told = dict(line.split(":", 1) for line in _text(root / "proc/meminfo").splitlines() if ":" in line)
    kib = [int(word) for word in told.get("MemTotal", "").split() if word.isdecimal()]
    if not kib:
        return Finding("memory", "note", "unknown")
    total = kib[0] * 1024
    text = f"{total / 1e6:.0f} MB"
    if total < MEMORY_BYTES:
        return Finding("memory", "note", text, "let it help only (no --source), and plan with --memory")
    return Finding("memory", "good", text)


def memory_limits(root: Path) -> Finding:
    """Raspberry Pi OS switches the memory cgroup off on the kernel's command line; units' MemoryMax= then does nothing."""
    remedy = "add cgroup_enable=memory to the one line of /boot/firmware/cmdline.txt and reboot"
    controllers = _text(root / "sys/fs/cgroup/cgroup.controllers").split()
    rows = [line.split() for line in _text(root / "proc/cgroups").splitlines()]
    enabled = any(row[0] == "memory" and row[-1] == "1" for row in rows if row)
    if "memory" in controllers or (enabled and not controllers):
        return Finding("memory limits", "good", "the kernel enforces MemoryMax= of the services")
    return Finding("memory limits", "note", "the kernel does not enforce MemoryMax= of the services", remedy)


def throttling(root: Path) -> Finding:
    """A Raspberry Pi's get_throttled: bits 0 to 3 now, 16 to 19 since its start."""
    word = _text(root / "sys/devices/platform/soc/soc:firmware/get_throttled").strip()
    heat = _text(root / "sys/class/thermal/thermal_zone0/temp").strip()
    celsius = int(heat) / 1000 if heat.isdecimal() else None
    warm = "" if celsius is None else f"{celsius:.0f} °C"
    try:
        bits = int(word, 16)
    except ValueError:
        if celsius is not None and celsius >= HOT_C:
            return Finding("throttling", "note", warm, "give it a heat sink or a fan")
        return Finding("throttling", "good", warm or "this machine does not tell")
    now, before = ([said for bit, said in _NOW.items() if bits >> bit + shift & 1] for shift in (0, 16))
    if now:
        return Finding("throttling", "bad", f"at this moment {' and '.join(now)} {warm}".strip(), _POWER)
    if before:
        return Finding("throttling", "note", f"since its start it had: {' and '.join(before)} {warm}".strip(), _POWER)
    return Finding("throttling", "good", f"none since its start {warm}".strip())


def cameras(root: Path, may_use: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK | os.W_OK)) -> Finding:
    """Devices that frames could come from: numbers of a Pi's codecs (10 and more) are no cameras."""
    found = sorted((root / "dev").glob("video[0-9]"))
    if not found:
        return Finding("camera", "good", "no /dev/video0 to 9: this node helps, or has a network camera or a folder")
    names = ", ".join(
        f"/dev/{path.name} ({_text(root / 'sys/class/video4linux' / path.name / 'name').strip() or 'unnamed'})"
        for path in found
    )
    closed = [f"/dev/{path.name}" for path in found if not may_use(path)]
    if closed:
        remedy = "sudo usermod -aG video $USER and log in again; the service is in that group already"
        return Finding("camera", "note", f"{names}; this user may not open {', '.join(closed)}", remedy)
    return Finding("camera", "good", names)


def clock(synchronised: bool | None, now_s: float, built_s: float, behind_s: float | None = None) -> Finding:
    """``synchronised``: whether the kernel's clock follows a time server; times in seconds since 1970; ``behind_s``: how
    far it is behind the gateway's, if that said so.
    """
    remedy = "timedatectl set-ntp true: a Pi has no battery for its clock"
    if now_s < built_s:
        return Finding("clock", "bad", "it is before this program was made: certificates will not be valid", remedy)
    if behind_s is not None and abs(behind_s) > SKEW_S:
        side = "behind" if behind_s > 0 else "ahead of"
        return Finding("clock", "note", f"{abs(behind_s):.0f} s {side} the gateway's: logs of the two do not match", remedy)
    if synchronised is False:
        return Finding("clock", "note", "it follows no time server: times in Home Assistant and in logs may be wrong", remedy)
    return Finding("clock", "good", "follows a time server" if synchronised else "plausible")


def disk(folder: Path, free_bytes: int | None, writable: bool) -> Finding:
    if free_bytes is None or not writable:
        return Finding("model cache", "bad", f"{folder} cannot be written", "choose another: --cache DIR, or edge.cache")
    text = f"{folder}, {free_bytes / 1e6:.0f} MB free"
    if free_bytes < DISK_BYTES:
        return Finding("model cache", "bad", text, f"make room for {DISK_BYTES / 1e6:.0f} MB, or choose another: --cache DIR")
    return Finding("model cache", "good", text)


def mosquitto(path: str | None) -> Finding:
    if path is None:
        remedy = "a gateway for others than yourself wants it: apt install mosquitto"
        return Finding("mosquitto", "note", "not installed: the embedded broker serves", remedy)
    return Finding("mosquitto", "good", path)


def port(listen: str, taken_by: Holder) -> Finding:
    """Of the broker that a gateway on this machine would host."""
    if taken_by == "other":
        remedy = "a gateway here needs another one: --listen HOST:PORT, or stop that program (systemctl stop mosquitto)"
        return Finding("port", "note", f"{listen} is taken by another program", remedy)
    return Finding("port", "good", f"{listen} is {'free' if taken_by == 'nobody' else 'a gateway'}")


def interface(root: Path, name: str | None, own_address: str | None) -> Finding:
    """The way to the gateway: ``name`` of the network interface, None if there is none."""
    if name is None:
        return Finding("interface", "bad", "no network leads to the gateway", "connect this machine: ip route, nmcli")
    told = f"{name} ({own_address})"
    if (root / "sys/class/net" / name / "wireless").exists():
        return Finding("interface", "note", f"{told}, wireless", "a cable is faster and steadier; tiles are large")
    speed = _text(root / "sys/class/net" / name / "speed").strip()
    if speed.isdecimal() and int(speed) < 100:
        return Finding("interface", "note", f"{told}, {speed} Mbit/s", "check cable and switch: 100 Mbit/s or more is usual")
    return Finding("interface", "good", f"{told}, {speed} Mbit/s" if speed.isdecimal() else told)


def straight(told: Mapping[str, Collection[str]]) -> Finding:
    """Which pairs of edges send each other tiles without the broker, by what each has ``told`` of itself."""
    pairs = list(itertools.combinations(sorted(told), 2))
    lacking = [f"{a} and {b}" for a, b in pairs if b not in told[a] or a not in told[b]]
    if not lacking:
        return Finding("straight", "good", f"all {len(told)} edges reach each other")
    some = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
    remedy = "let them reach each other by TCP (firewall, container, another network); --direct off asks for this"
    return Finding("straight", "note", f"{len(lacking)} of {len(pairs)} pairs send tiles by the broker: {some}", remedy)


def mdns(installed: bool, found: Sequence[Found]) -> Finding:
    if not installed:
        return Finding("mDNS", "note", "zeroconf is missing: addresses must be given", install("mdns"))
    if not found:
        return Finding("mDNS", "good", "no gateway answers")
    return Finding("mDNS", "good", ", ".join(f"cluster {f.root} at {f.urls[0]}" for f in found))


def gateway(url: str | None, error: str, plan: bool) -> Finding:
    """``error``: why its broker could not be reached; ``plan``: whether there was one."""
    if url is None and not error:
        return Finding("gateway", "note", "none is configured, and none answers", "dt gateway, or name it: --gateway HOST")
    if error:
        return Finding("gateway", "bad", error, "start it, correct --gateway or edge.gateway, or join it")
    if not plan:
        return Finding("gateway", "bad", f"{url} is a broker, but no gateway", "start 'dt gateway' there; is --root right?")
    return Finding("gateway", "good", f"{url} has a plan")


def messages(ready: bool, trouble: str, remedy: str) -> Finding:
    """Whether the plan's messages went to the broker and back; ``trouble``: which did not."""
    if ready:
        return Finding("messages", "good", "tiles and results of this plan come through the broker in their size")
    if not trouble:
        return Finding("messages", "note", "the broker passes them on too slowly to say", "try again; look at the network")
    return Finding("messages", "bad", trouble, remedy)


def worst(findings: Sequence[Finding]) -> int:
    """The exit code: 1 if something is broken."""
    return int(any(finding.level == "bad" for finding in findings))


def as_json(findings: Sequence[Finding]) -> list[Mapping[str, str]]:
    return [dict(vars(finding)) for finding in findings]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0")
    except OSError:
        return ""
