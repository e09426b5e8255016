from typing import Any

import pytest

from gateway_agent.bridge import HEALTH_S, LOOK_S, Bridge
from gateway_agent.cluster_view import ClusterView
from gateway_agent.controls import VERBS
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.topics import Publish
from schemas.wire.codec import decode, encode

ABOUT: dict[str, Any] = {
    "version": "0.1.0", "broker": "127.0.0.1:1883", "plan": "0" * 32, "deadline_s": 120.0, "models": (), "labels": (),
    "verbs": VERBS, "model": "digits", "grid": "3x3", "detection": True, "threshold": 0.5,
}  # fmt: skip
STATE, INFO, NODES, HEALTH = topics.BRIDGE_STATE, topics.BRIDGE_INFO, topics.BRIDGE_NODES, topics.BRIDGE_HEALTH


def board_with_node() -> ClusterView:
    board = ClusterView()
    board.hear(m.Register(node="edge1", epoch="11111111", seq=1, runtime="t", camera=True), 0.0)
    board.hear(m.Status(node="edge1", epoch="11111111", version="0.2.0", source="file:///clip.mp4"), 0.0)
    board.alive({"edge1"}, 0.0)
    return board


def topics_of(said: list[Publish]) -> list[topics.Topic]:
    return [one.topic for one in said]


def test_it_says_what_is_and_then_only_what_changed() -> None:
    bridge, board, about = Bridge("gateway", "aaaaaaaa"), board_with_node(), dict(ABOUT)
    assert topics_of(bridge.tick(board, lambda: about, 1.0)) == [STATE, INFO, NODES, HEALTH]
    assert bridge.tick(board, lambda: about, 1.0 + LOOK_S) == []
    about["threshold"] = 0.7
    assert topics_of(bridge.tick(board, lambda: about, 1.0 + 2 * LOOK_S)) == [INFO]
    board.alive(set(), 5.0)
    (said,) = bridge.tick(board, lambda: about, 5.0)
    assert isinstance(said.message, m.BridgeNodes) and not said.message.nodes[0].online
    (said,) = bridge.tick(board, lambda: about, 1.0 + HEALTH_S)
    assert isinstance(said.message, m.BridgeHealth) and said.message.nodes_online == 0
    bridge.connected()
    assert topics_of(bridge.tick(board, lambda: about, 2.0 + HEALTH_S)) == [STATE, INFO, NODES, HEALTH]


def test_nothing_is_asked_for_between_two_looks() -> None:
    bridge = Bridge("gateway", "aaaaaaaa")
    bridge.tick(ClusterView(), lambda: ABOUT, 1.0)
    assert bridge.tick(ClusterView(), lambda: pytest.fail("too soon"), 1.0 + LOOK_S / 2) == []


def test_health_names_a_degraded_source_and_why() -> None:
    bridge, board = Bridge("gateway", "aaaaaaaa"), board_with_node()
    board.outcome(
        m.Outcome(node="gateway", epoch="aaaaaaaa", frame="edge1-11111111-0", status="failed", reason="lost", latency_s=1), 0.5
    )
    board.source("edge2")
    health = bridge.tick(board, lambda: ABOUT, 1.0)[-1].message
    assert isinstance(health, m.BridgeHealth)
    assert (health.failed, health.degraded, health.latency_s) == (1, {"edge1": "lost"}, None)


def test_all_it_says_but_answers_is_retained_and_crosses_the_wire() -> None:
    for said in Bridge("gateway", "aaaaaaaa").tick(board_with_node(), lambda: ABOUT, 1.0):
        assert said.topic.retained
        path = said.topic.path("dt", **said.levels)
        assert decode("dt", path, encode(said.topic, said.message)).message == said.message
    assert not topics.BRIDGE_REQUEST.retained and not topics.BRIDGE_RESPONSE.retained


def test_a_request_of_plain_json_is_answered_with_its_transaction() -> None:
    bridge, answers = Bridge("gateway", "aaaaaaaa"), list[Publish]()
    message = decode("dt", "dt/bridge/request/threshold", b'{"value": 1, "transaction": "7"}').message
    assert isinstance(message, m.BridgeRequest)
    request = bridge.asked("threshold", message, answers.append)
    assert request is not None and (request.verb, request.value) == ("threshold", 1.0)
    assert not answers
    request.answer("")
    request.answer("too high")
    first, second = (one.message for one in answers)
    assert isinstance(first, m.BridgeResponse) and isinstance(second, m.BridgeResponse)
    assert (first.status, first.error, first.transaction, first.value) == ("ok", "", "7", 1.0)
    assert (second.status, second.error) == ("error", "too high")
    assert answers[0].topic.path("dt", **answers[0].levels) == "dt/bridge/response/threshold"


def test_an_unknown_verb_is_answered_with_those_that_there_are() -> None:
    answers = list[Publish]()
    assert Bridge("gateway", "aaaaaaaa").asked("explode", m.BridgeRequest(transaction="x"), answers.append) is None
    (answer,) = answers
    assert isinstance(answer.message, m.BridgeResponse)
    assert answer.message.status == "error" and answer.message.transaction == "x"
    assert all(verb in answer.message.error for verb in VERBS)


def test_the_last_will_is_that_it_is_offline() -> None:
    said = Bridge("gateway", "aaaaaaaa").state("offline")
    assert said.topic is STATE and isinstance(said.message, m.BridgeState) and said.message.state == "offline"


def test_what_it_says_of_many_with_the_longest_words_fits_its_message() -> None:
    bridge, board = Bridge("gateway", "aaaaaaaa"), ClusterView()
    for n in range(200):
        name = f"{n:03}".ljust(64, "n")
        board.hear(m.Register(node=name, epoch="11111111", seq=1, runtime="\U0001f600" * 200, camera=True), 0.0)
        board.hear(m.Status(node=name, epoch="11111111", version='"' * 40, source="\U0001f600" * 300), 0.0)
        board.source(name).degraded = "\U0001f600" * 500
    for said in bridge.tick(board, lambda: ABOUT, 1.0):
        assert decode("dt", said.topic.path("dt"), encode(said.topic, said.message)).message == said.message
