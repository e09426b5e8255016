import json
from pathlib import Path

import pytest

from edge_agent.speed import FILE, Speed
from models.running.engine import here


def test_a_speed_is_measured_once_and_kept(tmp_path: Path) -> None:
    speed = Speed(tmp_path)
    assert speed.flops_s > 1e7
    speed.keep()
    again = Speed(tmp_path)
    assert again.flops_s == round(speed.flops_s)
    assert again.message_speed == pytest.approx(speed.message_speed, abs=1e-6) and again.message_speed > 1e-3
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_another_number_of_threads_has_another_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.speed.measure_speed", lambda threads: threads * 1e9)
    for threads in (1, 2):
        Speed(tmp_path, threads).keep()
        monkeypatch.setattr("edge_agent.speed.measure_speed", lambda threads: threads * 3e9)
        assert Speed(tmp_path, threads).flops_s == (1e9 if threads == 1 else 6e9)


@pytest.mark.parametrize("claim", ['', ', "message_speed": 1e300', ', "message_speed": NaN', ', "message_speed": "quick"'])
def test_the_speed_of_messages_is_measured_where_the_file_does_not_tell_it(
    tmp_path: Path, claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.speed.measure_messages", lambda: 0.25)
    (tmp_path / FILE).write_text(f'{{"kernels": {json.dumps(here())}, "threads": 1, "flops_s": 1234567890{claim}}}')
    speed = Speed(tmp_path)
    assert (speed.flops_s, speed.message_speed) == (1234567890, 0.25)


def test_tiles_correct_it(tmp_path: Path) -> None:
    speed = Speed(tmp_path)
    for _ in range(100):
        speed.saw(2_000_000, 0.001)
    assert speed.flops_s == pytest.approx(2e9, rel=0.01 + speed.flops_s * 1e-4 / 2e9)
    before = speed.flops_s
    speed.saw(0, 1.0)
    speed.saw(10, 0.0)
    assert speed.flops_s == before


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"flops_s": 1e9}', '{"kernels": "another", "threads": 1, "flops_s": 1234567890}',
     '{"kernels": "K", "flops_s": 1234567890}', '{"kernels": "K", "threads": 2, "flops_s": 1234567890}',
     '{"kernels": "K", "threads": 1, "flops_s": 1e300}', '{"kernels": "K", "threads": 1, "flops_s": NaN}',
     '{"kernels": "K", "threads": 1, "flops_s": "fast"}',
     "[" * 3000],
)  # fmt: skip
def test_a_file_of_another_runtime_or_a_broken_one_is_not_believed(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text.replace('"K"', json.dumps(here())))
    assert 1e7 < Speed(tmp_path).flops_s < 1e14
    assert Speed(tmp_path).flops_s != 1234567890


def test_a_disk_that_cannot_be_written_costs_nothing_but_the_next_measurement(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    speed = Speed(tmp_path / "file")
    speed.keep()
    assert (tmp_path / "file").read_text() == ""
