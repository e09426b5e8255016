import time
from pathlib import Path

import pytest

from schemas.contract import topics
from schemas.contract.messages import Status
from schemas.host.vitals import Reader
from schemas.wire.codec import decode, encode


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_pi_tells_load_heat_memory_and_throttling(tmp_path: Path) -> None:
    write(tmp_path, {"proc/stat": "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n"})
    reader = Reader(tmp_path)
    write(
        tmp_path,
        {
            "proc/stat": "cpu  160 0 100 710 130 0 0 0 0 0\n",
            "proc/self/statm": "5000 1000 1 1 1 1 1\n",
            "sys/class/thermal/thermal_zone0/temp": "54321\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        },
    )
    vitals = reader.read()
    assert vitals.cpu == pytest.approx(0.6)
    assert vitals.temperature_c == pytest.approx(54.321)
    assert vitals.memory_bytes is not None and vitals.memory_bytes % 1000 == 0
    assert vitals.throttled is True


def test_what_was_throttled_once_is_not_throttled_now(tmp_path: Path) -> None:
    write(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n"})
    assert Reader(tmp_path).read().throttled is False


@pytest.mark.parametrize(
    "files", [{}, {"proc/stat": "cpu x\n", "proc/self/statm": "", "sys/class/thermal/thermal_zone0/temp": "?"}]
)
def test_what_a_machine_does_not_tell_is_none(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    vitals = Reader(tmp_path).read()
    assert (vitals.cpu, vitals.temperature_c, vitals.memory_bytes, vitals.throttled) == (None, None, None, None)
    assert vitals.uptime_s >= 0


def test_a_process_that_lives_for_years_still_tells_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    started, years = time.monotonic(), 5 * 365 * 86400.0
    reader = Reader()
    monkeypatch.setattr(time, "monotonic", lambda: started + years)
    status = Status(node="e", epoch="0" * 8, vitals=reader.read(), compute_s=years)
    assert decode("dt", "dt/node/e/status", encode(topics.STATUS, status)).message == status


def test_this_machine_tells_its_memory() -> None:
    assert (Reader().read().memory_bytes or 0) > 1_000_000
