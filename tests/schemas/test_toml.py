"""A TOML document is what ``tomllib`` says, or a ``ValueError`` in one line, soon."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract.errors import DtError
from schemas.host.settings import load
from schemas.host.toml import parse

CRAFTED = {
    "a = " + "[" * 5000: "nested too deep",
    "a = " + "{b = " * 5000: "nested too deep",
    "a" + ".a" * 5000 + " = 1": "more than 100 parts",
    "a = " + "9" * 5000: "too many digits",
    "a = [{b = 0x" + "9" * 5000 + "}]": "too many digits",
    "a = 0x8000000000000000": "too many digits",
}


@pytest.mark.parametrize("text", CRAFTED, ids=CRAFTED.values())
def test_a_crafted_document_is_refused_soon_and_named(text: str) -> None:
    begin = time.thread_time()
    with pytest.raises(ValueError, match=CRAFTED[text]):
        parse(text)
    assert time.thread_time() - begin < 5


def test_all_that_toml_holds_is_read() -> None:
    text = 'a.b = [0.57, 1.87]\nc = [{x = -9223372036854775808}]\nd = "a. b. c"\n[e.f]\ng = true\n'
    assert parse(text) == {
        "a": {"b": [0.57, 1.87]}, "c": [{"x": -(2**63)}], "d": "a. b. c", "e": {"f": {"g": True}}
    }  # fmt: skip


@given(st.text(max_size=40))
def test_any_text_is_a_document_or_a_value_error(text: str) -> None:
    try:
        assert isinstance(parse(text), dict)
    except ValueError as error:
        assert len(str(error)) < 200


@pytest.mark.parametrize(
    "text", [*CRAFTED, '[edge]\ncache = "~nobody-of-this-name/x"', "[edge]\nkeep = 0x" + "9" * 5000, "#" * 2**20 + "\n"]
)
def test_a_crafted_configuration_is_an_error_of_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(DtError) as caught:
        load(config=path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
