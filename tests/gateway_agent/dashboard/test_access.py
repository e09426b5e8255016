from pathlib import Path

import pytest

from gateway_agent.dashboard.access import ASKS, COOKIE, Access, is_ours, kept_token
from schemas.contract.errors import DtError

NAMES = frozenset({"localhost", "pi"})
CLOSED = Access("x" * 32, NAMES)


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8099", True), ("192.168.1.7", True), ("[::1]:8099", True), ("[fe80::1]", True), ("localhost", True),
        ("PI:80", True), ("pi.", True), ("evil.example:8099", False), ("pi.evil.example", False), ("", False),
        ("127.0.0.1.evil.example", False), ("[evil]:80", False), ("localhost.evil.example", False),
    ],
)  # fmt: skip
def test_only_addresses_and_own_names_are_known(host: str, known: bool) -> None:
    assert Access(None, NAMES).knows(host) is known


def test_without_a_token_everybody_is_admitted_and_with_one_nobody_else() -> None:
    assert Access(None, NAMES).admits({}, {})
    assert not CLOSED.admits({}, {})
    assert not CLOSED.admits({"authorization": "Bearer "}, {COOKIE: ""})
    assert not CLOSED.admits({"authorization": "Bearer " + "y" * 32}, {COOKIE: Access("y" * 32, NAMES).session})
    assert CLOSED.admits({"authorization": "Bearer " + "x" * 32}, {})
    assert CLOSED.admits({}, {COOKIE: CLOSED.session})
    assert not CLOSED.admits({}, {COOKIE: "x" * 32}) and "x" * 8 not in CLOSED.session
    assert not CLOSED.admits({"authorization": "Bearer é"}, {COOKIE: "é"})


def test_a_request_that_sets_something_is_ours_only_from_our_page() -> None:
    good = {"host": "pi:80", "origin": "http://pi:80", ASKS: "1", "content-type": "application/json"}
    assert is_ours(good)
    assert is_ours({k: v for k, v in good.items() if k != "origin"})
    for change in (
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://pi:81"},
        {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"},
    ):  # fmt: skip
        assert not is_ours(good | change)
    assert not is_ours({k: v for k, v in good.items() if k != ASKS})


def test_a_token_is_made_once_and_read_by_nobody_else(tmp_path: Path) -> None:
    token, is_new = kept_token(tmp_path)
    assert len(token) >= 32 and is_new and kept_token(tmp_path) == (token, False)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("short")
    with pytest.raises(DtError, match="delete it"):
        kept_token(tmp_path)
