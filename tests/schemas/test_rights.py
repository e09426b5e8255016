"""Each topic has its right, and a sealed message is refused to whom the table does not name."""

import re
from pathlib import Path
from typing import Any

import pytest

from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.topics import TABLE, Topic
from schemas.security.rights import RIGHTS, is_sealed, objection
from schemas.security.seal import Seal, Unsealed
from schemas.wire.codec import Rejected, encode
from schemas.wire.guard import Guard, OpenGuard

D, E = "0" * 32, "0000000a"
FRAME = m.frame_id("e1", E, 0)


def head(node: str) -> dict[str, Any]:
    return {"node": node, "epoch": E}


def register(node: str, frames: tuple[str, ...] = ()) -> m.Register:
    return m.Register(**head(node), seq=1, runtime="r", plan=D, frames=frames)


def echo(to_epoch: str = E) -> m.Echo:
    return m.Echo(**head("gateway"), seq=1, to_epoch=to_epoch, plan=D)


def result(node: str, **more: Any) -> m.ResultHeader:
    return m.ResultHeader(**head(node), plan=D, frame=FRAME, block=0, tile=0, **more)


def picture(node: str) -> m.PictureHeader:
    return m.PictureHeader(**head(node), frame=FRAME, picture=(1, 1))


def tile(node: str, frame: str | None = FRAME) -> m.TileHeader:
    return m.TileHeader(**head(node), plan=D, to_epoch=E, request=E, frame=frame)


def guards() -> dict[str, Guard]:
    """A gateway and three edges that know each other's keys and epochs."""
    names = ("gateway", "e1", "e2", "e3")
    made = {name: Guard(Seal(name, E)) for name in names}
    for one in names:
        for other in names:
            if one != other:
                made[one].keys.admit(other, f"{one}>{other}".encode(), f"{other}>{one}".encode())
                made[one].keys.meet(other, E)
    return made


def sealed(by: Guard, topic: Topic, message: m.Message, **levels: str | int) -> bytes:
    path = topic.path("dt", **levels)
    payload = by.seal(topic, path, levels, message, encode(topic, message))
    assert payload is not None
    return payload


def strip(node: str) -> m.OverlapHeader:
    return m.OverlapHeader(**head(node), plan=D, frame=FRAME, layer=0, tile=1, maker=0)


def test_every_topic_has_a_right() -> None:
    assert set(RIGHTS) == set(TABLE)


@pytest.mark.parametrize(
    ("topic", "levels", "message", "sender", "why"),
    [
        (topics.REGISTER, {}, register("e1", (FRAME,)), "e1", ""),
        (topics.REGISTER, {}, register("e1"), "e2", "names e1"),
        (topics.REGISTER, {}, register("e2", (FRAME,)), "e2", "another source"),
        (topics.REGISTER, {}, register("gateway"), "gateway", "gateway does not"),
        (topics.ECHO, {"node": "e1"}, echo(), "gateway", ""),
        (topics.ECHO, {"node": "e1"}, m.Echo(**head("e2"), seq=1, to_epoch=E, plan=D), "e2", "only the gateway"),
        (topics.ACCEPTED, {"node": "e1"}, m.Accepted(**head("e2"), frame=FRAME), "e2", "only the gateway"),
        (topics.RESULT, {"frame": FRAME}, result("e2", stolen=True), "e2", ""),
        (topics.RESULT, {"frame": FRAME}, result("e1"), "e2", "names e1"),
        (topics.RESULT, {"frame": FRAME}, result("e1", whole=True), "e1", ""),
        (topics.RESULT, {"frame": FRAME}, result("e2", whole=True), "e2", "the whole of"),
        (topics.TILE, {"node": "e2"}, tile("e1"), "e1", ""),
        (topics.TILE, {"node": "e2"}, tile("e3"), "e3", "lends a tile of"),
        (topics.TILE, {"node": "e2"}, tile("e3", None), "e3", ""),
        (topics.OVERLAP, {"layer": "0", "tile": "1"}, strip("gateway"), "gateway", "gateway does not"),
        (topics.PICTURE, {"source": "e1"}, picture("e1"), "e1", ""),
        (topics.PICTURE, {"source": "e1"}, picture("e2"), "e2", "topic is of e1"),
        (topics.PICTURE, {"source": "e2"}, picture("e2"), "e2", "it shows e1"),
        (topics.STATUS, {"node": "e1"}, m.Status(**head("e1")), "e1", ""),
        (topics.STATUS, {"node": "e1"}, m.Status(**head("e2")), "e2", "topic is of e1"),
        (topics.STATUS, {"node": "gateway"}, m.Status(**head("gateway")), "gateway", ""),
    ],
)
def test_who_may_say_what(topic: Topic, levels: dict[str, str], message: m.Message, sender: str, why: str) -> None:
    reason = objection(topic, levels, message, sender)
    assert (why in reason and bool(reason)) if why else reason == ""


def states() -> list[list[str]]:
    """The rows of the table in docs/SECURITY.md that says who may change which state of whom."""
    text = (Path(__file__).parents[2] / "docs" / "SECURITY.md").read_text()
    table = text.partition("## Who may change which state of whom")[2].partition("| --- |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in table.splitlines()[1:]]


def test_the_table_of_states_has_every_topic_with_a_seal_by_the_one_who_may_publish_it() -> None:
    rows = {topic: row for row in states() for topic in re.findall(r"`([^`]+)`", row[3])}
    known = {row.pattern: row for row in TABLE}
    assert {topic.pattern for topic in TABLE if is_sealed(topic)} <= rows.keys() <= known.keys()
    for pattern, (_, who, other, *_) in rows.items():
        right = RIGHTS[known[pattern]].publisher
        assert ("gateway" if right == "gateway" else "source" if right == "source" else "node") in who or right == "edge"
        assert re.search("refused|dropped|ignored|holds for that source alone", other)


def test_every_test_that_the_table_of_states_names_is_there() -> None:
    named = [(found, row) for row in states() for found in row[4].split("; ")]
    for found, row in named:
        file, *names = re.findall(r"`([^`]+)`", found)
        text = (Path(__file__).parents[1] / f"{file}.py").read_text()
        assert names and all(re.search(rf"^def test_\w*{name}", text, re.MULTILINE) for name in names), (found, row[0])


def test_a_guard_lets_in_what_its_sender_may_say() -> None:
    nodes = guards()
    (heard,) = nodes["gateway"].admit("dt", "dt/register", sealed(nodes["e1"], topics.REGISTER, register("e1")), D)
    assert heard.message == register("e1") and not heard.stranger
    (heard,) = nodes["e2"].admit("dt", "dt/tile/e2", sealed(nodes["e1"], topics.TILE, tile("e1"), node="e2"), D)
    assert heard.message == tile("e1")


def test_a_guard_refuses_what_its_sender_may_not_say_and_what_has_no_seal() -> None:
    nodes = guards()
    for message, kind in (
        (register("e2"), "right"),
        (register("e1").model_copy(update={"epoch": "0000000b"}), "right"),
        (register("e1").model_copy(update={"plan": "1" * 32}), "plan"),
    ):
        with pytest.raises(Rejected) as caught:
            nodes["gateway"].admit("dt", "dt/register", sealed(nodes["e1"], topics.REGISTER, message), D)
        assert caught.value.kind == kind
    for row in TABLE:
        if is_sealed(row):
            path = row.path("dt", node="e1", source="e1", frame=FRAME, layer=0, tile=0)
            with pytest.raises(Unsealed):
                nodes["gateway"].admit("dt", path, b"{}", D)
    with pytest.raises(Rejected, match="at most"):
        nodes["gateway"].admit("dt", "dt/register", bytes(70_000), D)


def test_a_register_carries_a_seal_for_a_gateway_that_has_restarted() -> None:
    nodes = guards()
    payload = sealed(nodes["e1"], topics.REGISTER, register("e1"))
    nodes["gateway"].restart("0000000b")
    (heard,) = nodes["gateway"].admit("dt", "dt/register", payload, D)
    assert heard.stranger
    request = m.VictimRequest(**head("e1"), plan=D, request=E)
    with pytest.raises(Unsealed):
        nodes["gateway"].admit("dt", "dt/victim/req", sealed(nodes["e1"], topics.VICTIM_REQ, request), D)


def test_an_answer_is_sealed_for_the_epoch_that_asked() -> None:
    nodes = guards()
    payload = sealed(nodes["gateway"], topics.ECHO, echo("0000000b"), node="e1")
    with pytest.raises(Unsealed):
        nodes["e1"].admit("dt", "dt/echo/e1", payload, D)
    nodes["e1"].restart("0000000b")
    assert nodes["e1"].admit("dt", "dt/echo/e1", payload, D)


def test_overlaps_are_sealed_for_every_other_node() -> None:
    nodes = guards()
    header = m.OverlapRequest(**head("e1"), plan=D, frame=FRAME, layer=0, tile=0)
    payload = sealed(nodes["e1"], topics.OVERLAP_REQ, header)
    for name in ("e2", "e3", "gateway"):
        assert nodes[name].admit("dt", "dt/overlap/req", payload, D)


def test_what_nobody_could_believe_is_not_sent() -> None:
    lonely = Guard(Seal("e1", E))
    lonely.keys.admit("gateway", b"a", b"b")
    request = m.VictimRequest(**head("e1"), plan=D, request=E)
    assert lonely.seal(topics.VICTIM_REQ, "dt/victim/req", {}, request, b"{}") is None
    assert lonely.seal(topics.TILE, "dt/tile/e2", {"node": "e2"}, tile("e1"), b"{}") is None
    assert lonely.seal(topics.REGISTER, "dt/register", {}, register("e1"), b"{}") is not None


def test_what_is_for_people_and_an_open_cluster_s_messages_have_no_seal() -> None:
    outcome = m.Outcome(**head("gateway"), frame=FRAME, status="ok", latency_s=1)
    levels = {"source": "e1"}
    assert guards()["gateway"].seal(topics.OUTCOME, "dt/source/e1/outcome", levels, outcome, b"{}") == b"{}"
    status = m.Status(**head("gateway"))
    assert guards()["gateway"].seal(topics.STATUS, "dt/node/gateway/status", {"node": "gateway"}, status, b"{}") == b"{}"
    assert OpenGuard().seal(topics.REGISTER, "dt/register", {}, register("e1"), b"{}") == b"{}"
    (heard,) = OpenGuard().admit("dt", "dt/register", encode(topics.REGISTER, register("e1")), D)
    assert heard.message == register("e1") and not heard.stranger


def test_only_a_register_may_come_from_one_who_does_not_know_our_epoch() -> None:
    nodes = guards()
    request = m.VictimRequest(**head("e1"), plan=D, request=E)
    payload = nodes["e1"].keys.seal("dt/victim/req", encode(topics.VICTIM_REQ, request), [("gateway", "")])
    with pytest.raises(Unsealed):
        nodes["gateway"].admit("dt", "dt/victim/req", payload, D)
