"""What Home Assistant shows while a cluster lives: every message is checked by ``tests.home``, as strictly as it would."""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from gateway_agent.cluster_view import ClusterView
from gateway_agent.controls import State
from gateway_agent.homeassistant.facts import FEW, Facts, Settings
from gateway_agent.homeassistant.mirror import (
    BEAT_S,
    CAMERA_S,
    CONFIG_S,
    GRACE_S,
    IMAGE_S,
    LEARN_S,
    SETTLE_S,
    Mirror,
    Said,
)
from gateway_agent.homeassistant.scene import SILENT_S
from gateway_agent.homeassistant.sources import HOLD_S
from schemas.contract import messages as m
from schemas.contract.results import Detection, Result
from tests.home import Home

UTC = datetime(2026, 1, 1, tzinfo=timezone.utc)
DIGITS = tuple("0123456789")
FACTS = Facts(State(True, 0.5, "3x3", "digits"), ("digits", "other"), "detect", DIGITS, 0.5, "127.0.0.1:1883", True, "0.1.0")
VITALS = m.Vitals(cpu=0.5, memory_bytes=50_000_000, uptime_s=60.0)


class Play:
    """A gateway's board, its mirror and a Home Assistant; ``at`` is now, seconds."""

    def __init__(self, facts: Facts = FACTS, home: Home | None = None, **settings: Any) -> None:
        self.facts, self.home, self.at = facts, home or Home(), 1000.0
        self.board = ClusterView()
        self.mirror = Mirror(Settings(cluster="dt-1", **settings))
        self.nodes: set[str] = set()
        self.frames = 0
        self.said: list[Said] = []
        self._documents: dict[str, float] = {}  # topic -> when the last one was said
        self.mirror.connected(self.at)
        roster = self.home.retained.get("deepthings/dt-1/roster")
        if roster:
            self.mirror.learn(roster)

    def join(self, name: str, camera: bool = False, vitals: m.Vitals = VITALS, epoch: str = "11111111", **status: Any) -> None:
        self.nodes.add(name)
        self.board.hear(m.Register(node=name, epoch=epoch, seq=1, runtime="t", camera=camera), self.at)
        about = {"version": "0.1.0", "tile_s": 0.05, "vitals": vitals, **status}
        self.board.hear(m.Status.model_validate({"node": name, "epoch": epoch, **about}), self.at)

    def run(self, seconds: float) -> list[Said]:
        """Time goes on; what was said."""
        said: list[Said] = []
        end = self.at + seconds
        while self.at < end:
            self.at = min(self.at + 0.25, end)
            self.board.alive(self.nodes, self.at)
            new = self.mirror.tick(self.board, self.facts, self.at, UTC + timedelta(seconds=self.at))
            for one in new:
                self.home.hear(one)
                if one.topic.endswith("/config") and one.payload:
                    last = self._documents.get(one.topic)
                    assert last is None or self.at >= last + CONFIG_S, "Home Assistant drops a part of it"
                    self._documents[one.topic] = self.at
            said += new
        self.said += said
        return said

    def frame(self, *labels: str, failed: str = "", source: str = "cam") -> str:
        """A frame ends: with these digits side by side, or as a failure."""
        frame = f"{source}-11111111-{self.frames}"
        self.frames += 1
        boxes = [(20.0 * i, 0.0, 20.0 * i + 15, 30.0) for i in range(len(labels))]
        found = tuple(Detection(label=one, index=0, score=0.9, box=box) for one, box in zip(labels, boxes))
        about: dict[str, Any] = {"status": "failed", "reason": failed} if failed else {
            "status": "ok", "result": Result(task="detect", detections=found), "computed": {"cam": 3, "help": 2}}  # fmt: skip
        outcome = m.Outcome(node="gateway", epoch="22222222", frame=frame, latency_s=0.25, **about)
        self.board.outcome(outcome, self.at)
        self.mirror.outcome(outcome, self.facts, self.at)
        return frame

    def see(self, *labels: str, frames: int = 3, **about: Any) -> None:
        for _ in range(frames):
            self.frame(*labels, **about)
            self.run(0.5)

    def state(self, device: str, key: str) -> Any:
        return self.home.state(f"dt-1_{device}_{key}")


@pytest.fixture
def play() -> Play:
    """Two nodes, the first with a camera that shows 3 and 1; all is announced."""
    play = Play()
    play.join("cam", camera=True)
    play.join("help")
    play.run(LEARN_S + 2 * SETTLE_S + 1)
    play.see("3", "1")
    play.run(CONFIG_S + BEAT_S)
    return play


def documents(said: Iterable[Said]) -> list[str]:
    return [one.topic.split("/")[-2] for one in said if one.topic.endswith("/config")]


def test_three_kinds_of_device_have_their_entities_and_all_are_known(play: Play) -> None:
    states = play.home.states
    assert {unique_id for unique_id, state in states.items() if state in (None, "unavailable")} <= {
        f"dt-1_{rest}" for rest in ("gateway_restart", "source_cam_camera", "source_cam_image", "source_cam_event")
    }
    assert len(states) == len({"dt-1_" + u.removeprefix("dt-1_") for u in states}) > 50
    assert (play.state("gateway", "nodes_online"), play.state("gateway", "grid"), play.state("gateway", "detection")) == (
        2, "3x3", "ON",
    )  # fmt: skip
    assert play.state("gateway", "latency_ms") == 250
    assert (play.state("node_help", "connectivity"), play.state("node_help", "computed")) == ("online", 6)
    assert (play.state("node_cam", "tile_ms"), play.state("node_cam", "cpu"), play.state("node_cam", "memory")) == (50, 50, 50)
    assert play.state("node_cam", "started") == (UTC + timedelta(seconds=play_began(play) - 60)).isoformat()
    assert play.state("source_cam", "reading") == "31"
    assert [play.state("source_cam", f"occupancy_{digit}") for digit in "0123"] == ["OFF", "ON", "OFF", "ON"]
    assert (play.state("source_cam", "count_3"), play.state("source_cam", "objects")) == (1, 2)
    assert (play.state("source_cam", "degraded"), play.state("source_cam", "reason")) == ("OFF", "ok")
    subtypes = {(t["type"], t["subtype"], t["payload"]) for t in play.home.triggers.values()}
    assert {("appeared", "object", "appeared"), ("left", "object", "left"), ("appeared", "3", "appeared 3")} <= subtypes


def play_began(play: Play) -> float:
    return 1000.0 + LEARN_S  # when the first state of the node was made


def test_what_a_machine_does_not_tell_makes_no_entity(play: Play) -> None:
    assert "dt-1_node_cam_temperature" not in play.home.entities
    assert "dt-1_node_help_fps" not in play.home.entities
    play.join("cam", camera=True, vitals=VITALS.model_copy(update={"temperature_c": 51.5, "throttled": False}))
    play.run(CONFIG_S + BEAT_S)
    assert (play.state("node_cam", "temperature"), play.state("node_cam", "throttled")) == (51.5, "OFF")


def test_the_newest_version_of_the_cluster_is_the_update(play: Play) -> None:
    def update(device: str = "gateway") -> Any:
        return json.loads(play.home.retained[f"deepthings/dt-1/{device}/update"])

    assert update() == {"installed_version": "0.1.0", "latest_version": "0.1.0"}
    play.join("old", version="0.0.9")
    play.join("new", version="0.10.0")
    play.join("newer", version="0.9.0")
    play.run(BEAT_S)
    assert update() == {"installed_version": "0.1.0", "latest_version": "0.10.0"}
    assert update("node/old") == {"installed_version": "0.0.9", "latest_version": "0.10.0"}
    play.run(CONFIG_S)
    assert play.home.entities["dt-1_node_old_update"]["platform"] == "update"


def test_a_node_that_is_gone_is_off_and_the_rest_of_it_not_available(play: Play) -> None:
    play.nodes.remove("help")
    play.run(1)
    assert play.state("node_help", "connectivity") == "offline"
    assert play.state("node_help", "cpu") == "unavailable"
    assert play.state("gateway", "detection") == "ON"
    play.see("3", "1")
    assert play.state("source_cam", "reading") == "31"


def test_a_failed_frame_degrades_and_never_says_clear(play: Play) -> None:
    play.frame(failed="model error on cam")
    play.run(0.5)
    assert (play.state("source_cam", "degraded"), play.state("source_cam", "reason")) == ("ON", "model error on cam")
    assert play.state("source_cam", "occupancy_3") == "ON"  # as it was
    for _ in range(int(HOLD_S) + 1):
        play.frame(failed="model error on cam")
        play.run(1)
        assert play.state("source_cam", "occupancy_3") in ("ON", "unavailable")
    assert play.state("source_cam", "occupancy_3") == "unavailable"
    assert play.state("source_cam", "failed") == int(HOLD_S) + 2
    assert not [e for e in play.home.events if e[1]["event_type"] == "left"]
    play.see("3", "1", frames=1)
    assert (play.state("source_cam", "degraded"), play.state("source_cam", "occupancy_3")) == ("OFF", "ON")


def test_a_camera_that_is_gone_or_silent_or_ended_is_degraded(play: Play) -> None:
    play.run(SILENT_S + 1)
    assert play.state("source_cam", "degraded") == "ON"
    assert "no frame" in play.state("source_cam", "reason")
    assert play.state("source_cam", "occupancy_3") == "unavailable"
    play.see("3")
    assert play.state("source_cam", "degraded") == "OFF"
    play.join("cam", camera=True, finished=True)
    play.run(1)
    assert play.state("source_cam", "reason") == "the source has ended"
    play.join("cam", camera=False, epoch="33333333")
    play.run(1)
    assert play.state("source_cam", "reason") == "the node has no source now"
    play.nodes.remove("cam")
    play.run(1)
    assert play.state("source_cam", "reason") == "the node is gone"
    assert play.state("source_cam", "occupancy_3") == "unavailable"


def test_still_frames_are_a_sign_of_the_camera(play: Play) -> None:
    for still in range(1, 8):
        play.join("cam", camera=True, still=still)
        play.run(SILENT_S / 3)
    assert (play.state("source_cam", "degraded"), play.state("source_cam", "occupancy_3")) == ("OFF", "ON")


def test_without_detection_nothing_is_known_and_nothing_degraded(play: Play) -> None:
    play.facts = replace(FACTS, controls=replace(FACTS.controls, detection=False))
    play.run(SILENT_S + 5)
    assert (play.state("gateway", "detection"), play.state("source_cam", "degraded")) == ("OFF", "OFF")
    assert play.state("source_cam", "occupancy_3") == "unavailable"
    play.facts = FACTS
    play.run(1)
    assert play.state("source_cam", "occupancy_3") == "unavailable"  # what was seen before says nothing now
    play.see("1", frames=1)
    assert play.state("source_cam", "occupancy_1") == "ON"


def test_events_are_told_once_and_not_retained(play: Play) -> None:
    play.see("3", "1", "7")
    play.see("3", frames=4)
    told = [(e["event_type"], e["label"]) for topic, e in play.home.events if topic.endswith("source/cam/event")]
    assert told[-3:] == [("appeared", "7"), ("left", "1"), ("left", "7")]
    assert "deepthings/dt-1/source/cam/event" not in play.home.retained


def test_pictures_are_throttled_and_the_image_shows_a_detection() -> None:
    play = Play()
    play.join("cam", camera=True)
    play.run(10)
    shown: dict[str, list[float]] = {"camera": [], "image": []}
    for second in range(30):
        frame = play.frame(*(["3"] if second >= 10 else []))
        play.mirror.pictured(frame, b"jpeg", play.at)
        for said in play.run(1):
            if said.payload == b"jpeg":
                assert said.retain
                shown[said.topic.rpartition("/")[2]].append(second)
    assert shown["image"] and min(shown["image"]) >= 10
    for what, every_s in (("camera", CAMERA_S), ("image", IMAGE_S)):
        assert all(b - a >= every_s for a, b in zip(shown[what], shown[what][1:]))
    assert len(shown["camera"]) >= 12


def test_a_birth_says_everything_again_at_its_time_in_order(play: Play) -> None:
    assert documents(play.run(20)) == []
    play.mirror.birth(play.at + 3.0)
    assert documents(play.run(2.9)) == []
    assert documents(play.run(2 * SETTLE_S + 2)) == ["dt-1_gateway", "dt-1_node_cam", "dt-1_node_help", "dt-1_source_cam"]
    assert documents(play.run(20)) == []


def test_a_broker_that_lost_everything_is_told_everything(play: Play) -> None:
    play.home = Home()
    play.mirror.connected(play.at)
    play.run(CONFIG_S + 2 * SETTLE_S + 1)
    assert len(play.home.entities) > 50
    assert play.state("source_cam", "reading") == "31"


def test_what_happens_without_a_broker_is_not_told_afterwards(play: Play) -> None:
    play.mirror.lost()
    events = len(play.home.events)
    for _ in range(20):
        play.mirror.pictured(play.frame("3", "9"), b"jpeg", play.at)
        assert play.run(2.5) == []
    play.mirror.connected(play.at)
    assert b"jpeg" not in [one.payload for one in play.run(3)]
    assert len(play.home.events) == events
    assert play.state("source_cam", "occupancy_9") == "ON"


def test_what_did_not_leave_is_said_again(play: Play) -> None:
    play.nodes.remove("help")
    said = [one for one in play.run(1) if one.topic.endswith("node/help/availability")]
    assert len(said) == 1
    play.mirror.unsent(said[0].topic)
    assert [one for one in play.run(1) if one.topic == said[0].topic] == said


def test_only_what_changed_is_said(play: Play) -> None:
    play.run(40)
    assert [one.topic for one in play.run(2 * BEAT_S) if "state" not in one.topic and "stats" not in one.topic] == []


@pytest.mark.parametrize("mode", ["device", "component"])
def test_a_restarted_gateway_knows_whom_it_has_announced(play: Play, mode: Any) -> None:
    play.nodes.clear()
    for one in play.mirror.close():
        play.home.hear(one)
    assert set(play.home.states.values()) <= {"unavailable"}
    again = Play(home=play.home, discovery=mode)
    again.join("cam", camera=True)
    again.run(LEARN_S + 0.5)
    again.see("1")
    assert again.state("source_cam", "occupancy_1") == "ON"
    again.run(GRACE_S + CONFIG_S + 2 * SETTLE_S)
    assert again.state("node_help", "connectivity") == "offline"
    assert len(again.home.entities) > 50
    assert {topic.split("/")[1] == "device" for topic in again.home.configured} == {mode == "device"}


def test_a_node_that_comes_again_after_a_restart_of_the_gateway_was_never_off(play: Play) -> None:
    again = Play(home=play.home)
    again.run(GRACE_S / 2)
    again.join("help")
    said = again.run(GRACE_S)
    assert b"offline" not in [one.payload for one in said if one.topic.endswith("node/help/availability")]


def test_entities_that_were_announced_once_are_announced_before_they_are_known_again(play: Play) -> None:
    again = Play(home=play.home)
    again.join("cam", camera=True)
    (said,) = [one for one in again.run(GRACE_S) if one.topic.endswith("dt-1_source_cam/config")]
    assert {"occupancy_3", "reading", "objects"} <= set(json.loads(said.payload)["components"])


def test_a_removed_node_is_cleared_with_all_that_was_retained(play: Play) -> None:
    play.mirror.pictured(play.frame("3"), b"jpeg", play.at)
    play.nodes.remove("cam")
    play.run(1)
    play.board.forget("cam")
    said = play.run(1)
    assert not [u for u in play.home.entities if "_cam_" in u] and not play.home.triggers
    assert not [topic for topic in play.home.retained if "/cam" in topic]
    assert all(one.retain for one in said if not one.payload)
    assert "dt-1_node_help_cpu" in play.home.entities
    again = Play(home=play.home)
    again.run(GRACE_S + 5)
    assert sorted(again.board.nodes) == ["help"]


def test_a_broken_roster_is_none() -> None:
    for payload in (b"", b"{", b"[" * 100_000, b'{"devices": {"node/x": 3}}', b'{"devices": {"node/../x": {}}}'):
        play = Play()
        play.mirror.learn(payload)
        play.join("cam", camera=True)
        play.run(10)
        assert list(play.board.nodes) == ["cam"]


def test_one_message_a_device_or_one_an_entity_hold_the_same_entities(play: Play) -> None:
    other = Play(discovery="component")
    other.join("cam", camera=True)
    other.join("help")
    other.run(LEARN_S + 2 * SETTLE_S + 1)
    other.see("3", "1")
    other.run(CONFIG_S + BEAT_S)
    assert set(other.home.entities) == set(play.home.entities)
    assert set(other.home.triggers) == set(play.home.triggers)
    assert len(set(play.home.documents)) == 4 and len(set(other.home.documents)) > 50
    assert {u: s for u, s in other.home.states.items() if "fps" not in u} == {
        u: s for u, s in play.home.states.items() if "fps" not in u
    }


def test_many_labels_have_entities_when_they_were_seen_or_asked_for() -> None:
    many = tuple(f"thing {n}" for n in range(FEW + 1))
    facts = replace(FACTS, labels=many)
    play = Play(facts)
    play.join("cam", camera=True)
    play.run(5)
    play.see("thing 3")
    play.run(CONFIG_S + 2)
    assert occupancies(play) == {"occupancy_thing_3"}
    play.see("thing 5")
    play.run(CONFIG_S + 2)
    assert occupancies(play) == {"occupancy_thing_3", "occupancy_thing_5"}
    again = Play(facts, home=play.home)
    again.join("cam", camera=True)
    again.run(5)
    again.see("thing 5")
    again.run(CONFIG_S)
    assert occupancies(again) == {"occupancy_thing_3", "occupancy_thing_5"}
    asked = Play(facts, labels=("thing 9",))
    asked.join("cam", camera=True)
    asked.run(5)
    asked.see("thing 3")
    asked.run(CONFIG_S + 2)
    assert occupancies(asked) == {"occupancy_thing_9"}
    assert asked.state("source_cam", "objects") == 1


def occupancies(play: Play) -> set[str]:
    return {u.removeprefix("dt-1_source_cam_") for u in play.home.entities if "occupancy" in u}


def test_another_model_takes_the_entities_of_the_one_before_away(play: Play) -> None:
    play.facts = replace(FACTS, labels=("cat", "dog"), controls=State(True, None, "3x3", "other"))
    play.run(2)
    assert play.state("source_cam", "objects") == "unavailable"  # those of the model before say nothing
    play.see("cat", frames=2)
    assert play.state("source_cam", "objects") == 1
    play.run(CONFIG_S + 2)
    assert occupancies(play) == {"occupancy_cat", "occupancy_dog"}
    assert play.state("source_cam", "occupancy_cat") == "ON"
    assert play.state("gateway", "model") == "other"
    assert "dt-1_gateway_threshold" not in play.home.entities and "dt-1_source_cam_reading" not in play.home.entities
    play.facts = FACTS
    play.run(2)
    play.see("3")
    play.run(CONFIG_S + 2)
    assert play.state("gateway", "threshold") == 0.5 and play.state("source_cam", "reading") == "3"


@pytest.mark.parametrize("task", ["classify", "segment", "pose", "raw"])
def test_every_task_is_announced_so_that_home_assistant_takes_it(task: Any) -> None:
    play = Play(replace(FACTS, task=task, labels=() if task == "raw" else ("person",)))
    play.join("cam", camera=True)
    play.run(5)
    for number in range(3):
        outcome = m.Outcome(node="gateway", epoch="22222222", frame=f"cam-11111111-{number}", status="ok", latency_s=0.1,
                            result=Result(task=task))  # fmt: skip
        play.board.outcome(outcome, play.at)
        play.mirror.outcome(outcome, play.facts, play.at)
        play.run(1)
    play.run(CONFIG_S)
    assert (play.state("source_cam", "objects") == 0) if task != "raw" else "dt-1_source_cam_objects" not in play.home.entities


def test_a_grid_that_home_assistant_was_not_told_of_is_said_after_its_document(play: Play) -> None:
    play.facts = replace(FACTS, controls=replace(FACTS.controls, grid="1x7"))
    play.run(CONFIG_S + 2 * SETTLE_S)
    assert play.state("gateway", "grid") == "1x7"
    assert play.state("gateway", "tiles") == "1x7"
    play.facts = replace(FACTS, controls=replace(FACTS.controls, grid="7x1", automatic=True))
    play.run(CONFIG_S + 2 * SETTLE_S)
    assert (play.state("gateway", "grid"), play.state("gateway", "tiles")) == ("auto", "7x1")


def test_what_was_asked_of_a_control_is_echoed_even_if_refused(play: Play) -> None:
    play.run(10)
    play.mirror.echo()
    said = {one.topic.rpartition("/")[2]: one for one in play.run(0.25)}
    assert json.loads(said["controls"].payload)["threshold"] == 0.5


def test_no_secret_and_no_forbidden_key_is_announced(play: Play) -> None:
    everything = b" ".join(one.payload for one in play.said)
    assert b"object_id" not in everything and b"password" not in everything
