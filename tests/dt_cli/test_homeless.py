"""Users who have no home folder, or may not look into it: containers' numbers, and who became another by sudo."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from dt_cli.demo import DIGITS
from edge_agent.cache import ModelCache
from schemas.contract.errors import DtError
from schemas.host.files import cache_folder
from schemas.host.settings import find
from schemas.host.state import state_folder

NAMESPACE = ["unshare", "--user", "--map-user=12345"]  # a number without a name, who owns what we own


def test_a_user_without_a_home_finds_nothing_and_hears_which_option_names_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "DT_CONFIG", "CONFIGURATION_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31)
    assert not [path for path in find() if path.parent.parts[1] != "etc"] and not cache_folder().exists()
    monkeypatch.setattr(os, "mkdir", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(DtError, match=r"state folder .*deepthings/dt: Permission denied: .* choose another with --state DIR"):
        state_folder(None, "dt")
    with pytest.raises(DtError, match=r"model cache .*deepthings: Permission denied: .* choose another with --cache DIR"):
        ModelCache(cache_folder()).part("0" * 32, 5)


@pytest.mark.skipif(subprocess.call(["sh", "-c", f"{' '.join(NAMESPACE)} true 2>&-"]) != 0, reason="no user namespaces here")
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["verify", str(DIGITS), "--grid", "1x2"], 0, ""),
        (["doctor"], 1, ""),
        (["edge", "--gateway", "127.0.0.1:1", "--once"], 1, "Permission denied: make room or let this user write there"),
    ],
    ids=["verify", "doctor", "edge"],
)
def test_a_home_that_is_closed_stops_only_what_needs_it(words: list[str], code: int, says: str, tmp_path: Path) -> None:
    """What only remembers goes on; what must be kept is one line."""
    tmp_path.chmod(0)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "DT_"))} | {"HOME": str(tmp_path)}
    command = [*NAMESPACE, sys.executable, "-m", "dt_cli.main", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    finally:
        tmp_path.chmod(0o700)
    assert done.returncode == code, done.stderr
    assert says in done.stderr and len(done.stderr.splitlines()) == bool(says)
