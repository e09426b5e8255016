"""What strangers wrote stays in one line and moves no cursor, wherever it is shown."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.contract.errors import DecodeError, EngineError, PlanError
from schemas.contract.results import Detection
from schemas.contract.text import one_line


@given(st.text())
def test_a_line_is_printable_and_as_long_as_what_it_was_made_of(text: str) -> None:
    line = one_line(text)
    assert line.isprintable() and len(line) == len(text) and one_line(line) == line
    assert all(a == b for a, b in zip(text, line) if a.isprintable())


@given(st.sampled_from([PlanError, DecodeError, EngineError]), st.text())
def test_every_error_of_ours_is_one_line(kind: type[Exception], text: str) -> None:
    assert str(kind(text)) == one_line(text)


def test_a_label_is_one_line_on_both_sides() -> None:
    found = Detection(label="cat\x1b[2J\n\u202e", index=0, score=0.5, box=(0, 0, 1, 1))
    assert found.label == "cat [2J  "
