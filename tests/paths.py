"""Where test data lie that the project does not carry; tests that use them skip where they are absent."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(name: str) -> Path:
    """A file or folder of the shared test data; skips the test if it is not there."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {name} in the shared test data beside the checkout")
    return path
