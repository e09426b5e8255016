"""What was tested is named by remedies, and told from what is installed."""

import importlib.metadata
from pathlib import Path

import pytest

from schemas.host import packages


def test_a_remedy_installs_what_was_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(packages.__file__).parents[2] / "constraints.txt"
    assert packages.constraints() == file
    assert packages.install("camera") == f"pip install 'deepthings-mqtt[camera]' -c {file}"
    assert packages.install() == f"pip install 'deepthings-mqtt' -c {file}"
    monkeypatch.setattr(packages, "constraints", lambda: None)
    assert packages.install("mdns") == "pip install 'deepthings-mqtt[mdns]'" and packages.untested() == []


def test_what_is_installed_in_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("# numpy==0\nnumpy==1.0; python_version < '3.11'\nnumpy==1.1; python_version >= '3.11'\nnobody==1\n"
                    f"pydantic=={importlib.metadata.version('pydantic')}\n")  # fmt: skip
    monkeypatch.setattr(packages, "constraints", lambda: pins)
    assert packages.untested() == [f"numpy {importlib.metadata.version('numpy')} (tested: 1.0 or 1.1)"]
