"""The table's patterns, the paths that are published and the filters that are subscribed agree."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.contract.errors import DecodeError
from schemas.contract.messages import FrameId, frame_id, frame_source
from schemas.contract.topics import TABLE, Topic, find

level = st.text(st.characters(exclude_characters="/+#\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
roots = st.from_regex(r"[A-Za-z0-9_-]{1,10}", fullmatch=True)


def params(row: Topic) -> list[str]:
    return re.findall(r"<(\w+)>", row.pattern)


def matches(filter_: str, topic: str) -> bool:
    """MQTT 3.1.1, section 4.7, for filters without ``#``."""
    ours, theirs = filter_.split("/"), topic.split("/")
    return len(ours) == len(theirs) and all(a in ("+", b) for a, b in zip(ours, theirs))


@given(roots, st.sampled_from(TABLE), st.data())
def test_a_path_is_found_as_its_row_and_matched_by_its_filters(root: str, row: Topic, data: st.DataObject) -> None:
    levels = {name: data.draw(level) for name in params(row)}
    path = row.path(root, **levels)
    assert find(root, path) == (row, levels)
    given_levels = {name: value for name, value in levels.items() if data.draw(st.booleans())}
    assert matches(row.filter(root, **given_levels), path)


@given(st.sampled_from(TABLE), st.sampled_from(TABLE), st.data())
def test_no_path_matches_the_filter_of_another_row(row: Topic, other: Topic, data: st.DataObject) -> None:
    path = row.path("dt", **{name: data.draw(level) for name in params(row)})
    assert matches(other.filter("dt"), path) == (row is other)


@given(roots, roots, st.sampled_from(TABLE), st.data())
def test_nothing_of_another_root_is_found(root: str, other: str, row: Topic, data: st.DataObject) -> None:
    path = row.path(other, **{name: data.draw(level) for name in params(row)})
    if root != other:
        with pytest.raises(DecodeError, match=re.escape(repr(root))):
            find(root, path)


@given(st.text(max_size=60))
def test_an_unknown_topic_is_a_decode_error(topic: str) -> None:
    try:
        row, levels = find("dt", topic)
    except DecodeError:
        return
    assert row.path("dt", **levels) == topic


def test_find_refuses_deeper_shallower_and_empty_levels() -> None:
    for topic in ("dt", "dt/", "dt/steal", "dt/steal/", "dt/steal/a/b", "dt/steal/a\n/", "dt/plan\n", "/dt/register"):
        with pytest.raises(DecodeError):
            find("dt", topic)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), st.integers(0, 2**32 - 1), st.integers(0, 10**12 - 1))
def test_a_frame_s_name_is_taken_apart_as_it_was_made_whatever_its_source_is_called(name: str, epoch: int, n: int) -> None:
    frame = frame_id(name, f"{epoch:08x}", n)
    assert TypeAdapter(FrameId).validate_python(frame) == frame and frame_source(frame) == (name, f"{epoch:08x}", n)


def test_no_topic_has_a_letter_that_some_broker_refuses_or_turns_into_another() -> None:
    """NATS refuses ``.``, RabbitMQ turns it into ``/``: a frame's name is a level of ours that is made of parts."""
    levels: dict[str, str | int] = {"frame": frame_id("cam-1_b", "0123abcd", 7), "node": "n", "digest": "0" * 32, "n": 0,
                                    "layer": 0, "tile": 0, "source": "n", "verb": "grid", "permission": "0" * 8}  # fmt: skip
    for row in TABLE:
        assert re.fullmatch(r"[A-Za-z0-9_/-]+", row.path("dt", **levels))
    with pytest.raises(ValidationError):
        TypeAdapter(FrameId).validate_python("cam.0123abcd.7")


def test_the_table_is_sound() -> None:
    assert len({row.pattern for row in TABLE}) == len(TABLE)
    for row in TABLE:
        assert row.qos in (0, 1)
        named = {"frame" if level == "source" else level for level in row.binds}
        assert set(row.binds) <= set(params(row)) and named <= set(row.payload.model_fields)
        assert set(params(row)) - set(row.binds) <= {"node", "verb"}, "who hears it, or what is asked"
