"""What ``make test-arm64`` needs is told in a line, and what it runs inside holds on this machine, too."""

import json
import os
import shutil
from pathlib import Path

import pytest

from models.running import engine
from tests.arm64 import bits, emulate


@pytest.mark.parametrize(
    ("user", "tools", "said"),
    [
        (1000, True, "make test-arm64 needs Linux and root: sudo make test-arm64"),
        (0, False, "make test-arm64 needs debootstrap, qemu-user-static, util-linux: "
                   "sudo apt install debootstrap qemu-user-static util-linux"),
        (0, True, ""),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_with_a_remedy(user: int, tools: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}" if tools else None)
    assert emulate.missing() == said


def test_without_what_it_needs_it_ends_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert emulate.main(["cortex-a53"]) == 2 and "sudo make test-arm64" in capsys.readouterr().err


def test_a_file_of_a_processor_is_one_that_names_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for processor in emulate.PROCESSORS:
        (tmp_path / processor).write_text(emulate.cpuinfo(processor))
        monkeypatch.setattr(engine, "_CPUINFO", tmp_path / processor)
        names.add(engine.here.__wrapped__())
    assert len(names) == 3


def test_tiles_of_three_arithmetics_are_exact_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    bits.main()
    said = json.loads(capsys.readouterr().out)
    assert said["kernels"] == engine.kernels() and set(said["bits"]) == {"float32", "int8", "uint8"}


def test_tiles_of_other_bits_end_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = bits.maps
    monkeypatch.setattr(bits, "maps", lambda *given: {name: array + 1 for name, array in made(*given).items()})
    with pytest.raises(SystemExit, match=r"uint8 at .* has other bits in tiles than undivided"):
        bits.bits(bits.drawn("uint8", tmp_path / "uint8.tflite"), tmp_path)
