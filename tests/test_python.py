"""The page of the public interface runs as it stands, and names all that is public."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest

import deepthings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "PYTHON.md").read_text()
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def test_the_page_runs_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = threading.active_count()
    said: dict[str, object] = {}
    exec(compile(CODE, "docs/PYTHON.md", "exec"), said)
    seen = said["seen"]
    assert isinstance(seen, deepthings.Seen) and seen.workers and seen.outputs
    assert not list(tmp_path.iterdir()) and threading.active_count() <= before


def test_all_that_is_public_stands_on_the_page() -> None:
    for name in deepthings.__all__:
        assert re.search(rf"\b{name}\b", PAGE) or name in ("Plan", "Seen"), name
        assert getattr(deepthings, name).__doc__


@pytest.mark.parametrize("image", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3), np.float32), np.zeros((2, 2, 4), np.uint8)])
def test_what_is_no_picture_is_refused(image: np.ndarray) -> None:
    model = deepthings.Model(ROOT / "models" / "zoo" / "digits.tflite")
    with pytest.raises(deepthings.PlanError, match="uint8 RGB"):
        model.run(image)
