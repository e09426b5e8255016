"""What to tell Home Assistant, and when: the board as devices, states that changed, events, pictures.

It keeps three laws. What is announced stays known over restarts of this gateway, by a retained roster of its own, so that
a node that never came back is shown as gone and what is removed is cleared. A device's state comes before its document,
a document after that of the device that leads to it, and no document of a device soon after another: Home Assistant drops
the rest of a document that comes while it still works on the one before. Only what changed is said. It knows no
socket, thread or clock.
"""

import contextlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from gateway_agent.cluster_view import ClusterView, NodeView
from gateway_agent.homeassistant import cluster, nodes, sources
from gateway_agent.homeassistant.cluster import GATEWAY
from gateway_agent.homeassistant.discovery import Device, Tree, documents
from gateway_agent.homeassistant.facts import Facts, Settings, labels_of
from gateway_agent.homeassistant.scene import Scene
from schemas.contract import messages as m
from schemas.contract.plan import Record

LEARN_S = 1.0  # after the first connection the roster has so long to come
GRACE_S = 8.0  # so long a node of the roster may take to register, before it is gone
SETTLE_S = 1.5  # between a device's document and those of the devices behind it
CONFIG_S = 5.0  # between two documents of a device
TICK_S = 0.25  # between two looks at the board
LOOK_S = 1.0  # and at what documents should be
BEAT_S = 5.0  # numbers that change all the time are said so often
CAMERA_S = 2.0
IMAGE_S = 5.0


@dataclass(frozen=True)
class Said:
    """To publish on Home Assistant's broker. An empty payload clears a retained topic."""

    topic: str
    payload: bytes
    retain: bool = True
    qos: int = 1


class Entry(Record):
    """A device that has been announced: its configuration topics, and its components with their platforms."""

    topics: tuple[str, ...] = ()
    components: dict[str, str] = {}
    labels: tuple[str, ...] = ()


class Roster(Record):
    """``deepthings/<cluster>/roster``, retained: all that has been announced, by device."""

    devices: dict[str, Entry] = {}


class Mirror:
    """``tick`` says what is due. Every method belongs to one thread."""

    def __init__(self, settings: Settings) -> None:
        self.tree = Tree(settings.cluster)
        self._settings = settings
        self._entries: dict[str, Entry] = {}
        self._scenes: dict[str, Scene] = {}
        self._started: dict[str, tuple[str, datetime | None]] = {}  # node -> epoch, when that began
        self._known: dict[str, set[str]] = {}  # fields of a device's state that have had a value
        self._sent: dict[str, bytes] = {}
        self._announced_at: dict[str, float] = {}
        self._outbox: list[Said] = []
        self._pictured_at: dict[str, float] = {}
        self._options: Mapping[str, Collection[str]] = {}  # of the selects, that Home Assistant knows
        self._offered: Mapping[str, Collection[str]] = {}  # that it has been told of just now
        self._model = ""
        self._up, self._learning = False, True
        self._begin_at = self._resend_at = float("inf")
        self._grace_until = self._beat_at = self._look_at = self._next_at = 0.0
        self._looking = False

    def connected(self, now: float) -> None:
        """The broker is there, perhaps without what it had retained."""
        self._forget()
        self._up = True
        if self._begin_at == float("inf"):
            self._begin_at, self._grace_until = now + LEARN_S, now + LEARN_S + GRACE_S

    def lost(self) -> None:
        """Nothing leaves any more: what happens until the broker is back is not told afterwards."""
        self._up = False
        self._outbox.clear()

    def learn(self, payload: bytes) -> None:
        """Our roster as the broker retained it. One that is broken, or comes late, says nothing."""
        if self._learning:
            with contextlib.suppress(ValidationError, RecursionError):
                self._entries = dict(Roster.model_validate_json(payload).devices)

    def birth(self, at: float) -> None:
        """Home Assistant has started: say everything again ``at`` that time."""
        self._resend_at = min(self._resend_at, at)

    def unsent(self, topic: str) -> None:
        """What was to be said there has not left: it is due again."""
        self._sent.pop(topic, None)

    def echo(self) -> None:
        """Say what the controls are set to, even if that has not changed: something was asked of them."""
        self._sent.pop(self.tree.of(GATEWAY, "controls"), None)
        self._next_at = 0.0

    def outcome(self, outcome: m.Outcome, facts: Facts, now: float) -> None:
        """A frame has ended."""
        self._follow(facts)
        source = m.frame_source(outcome.frame)[0]
        changes = self._scene(source).outcome(outcome, facts, now)
        topic = self.tree.of(f"source/{source}", "event")
        if self._up and f"source/{source}" in self._entries:
            self._outbox += [Said(topic, _json(sources.event(c, outcome.frame)), retain=False) for c in changes]

    def pictured(self, frame: str, jpeg: bytes, now: float) -> None:
        """There is an annotated picture of this frame."""
        source = m.frame_source(frame)[0]
        for what, every_s, wanted in (("camera", CAMERA_S, True), ("image", IMAGE_S, self._scene(source).shows(frame))):
            topic = self.tree.of(f"source/{source}", what)
            if self._up and wanted and now >= self._pictured_at.get(topic, float("-inf")) + every_s:
                self._pictured_at[topic] = now
                self._outbox.append(Said(topic, jpeg, qos=0))

    def tick(self, board: ClusterView, facts: Facts, now: float, utc: datetime) -> list[Said]:
        """What is due now. ``utc``: the same moment on the wall clock."""
        if not self._up or now < self._begin_at or now < self._next_at:
            return []
        self._next_at = now + TICK_S
        if now >= self._resend_at:
            self._forget()
        self._follow(facts)
        self._remember(board)
        self._looking = now >= self._look_at
        if self._looking:
            self._look_at = now + LOOK_S
        beat = now >= self._beat_at
        if beat:
            self._beat_at = now + BEAT_S
        self._say_gateway(board, facts, now, beat)
        for view in tuple(board.nodes.values()):
            self._say_node(view, board, facts, now, utc, beat)
        for name in tuple(board.sources):
            self._say_source(name, board, facts, now, beat)
        self._clear(board)
        roster = Roster(devices=self._entries)
        self._say(f"{self.tree.base}/roster", roster.model_dump_json().encode())
        said, self._outbox = self._outbox, []
        return said

    def close(self) -> list[Said]:
        """The gateway ends: nothing of it is available."""
        return [Said(self.tree.of(GATEWAY, "availability"), b"offline")]

    def _forget(self) -> None:
        """All is due again, in its order."""
        self._sent.clear()
        self._announced_at.clear()
        self._resend_at = float("inf")

    def _follow(self, facts: Facts) -> None:
        """Another model sees other objects."""
        if self._model and self._model != facts.controls.model:
            self._scenes.clear()
            self._entries = {key: entry.model_copy(update={"labels": ()}) for key, entry in self._entries.items()}
        self._model = facts.controls.model

    def _remember(self, board: ClusterView) -> None:
        """Nodes that were announced by the gateway before, and have not come yet, are on the board as gone."""
        if self._learning:
            self._learning = False
            for key in self._entries:
                kind, _, name = key.partition("/")
                if m.is_name(name) and kind in ("node", "source"):
                    board.nodes.setdefault(name, NodeView(name))
                    if kind == "source":
                        board.source(name)

    def _scene(self, source: str) -> Scene:
        return self._scenes.setdefault(source, Scene())

    def _say_gateway(self, board: ClusterView, facts: Facts, now: float, beat: bool) -> None:
        states = {"state": cluster.state(board, facts, now), "update": cluster.update(board, facts, facts.version)}
        self._beat(GATEWAY, states, beat)
        device = cluster.device(facts, self.tree)
        if self._offered and now >= self._announced_at.get(GATEWAY, now) + SETTLE_S:
            self._options, self._offered = self._offered, {}
        self._say(self.tree.of(GATEWAY, "controls"), _json(cluster.controls(facts, self._options)))
        self._say(self.tree.of(GATEWAY, "availability"), b"online")
        if self._announce(device, facts, now):
            self._offered = cluster.options(device)

    def _say_node(
        self, view: NodeView, board: ClusterView, facts: Facts, now: float, utc: datetime, beat: bool
    ) -> None:
        key = f"node/{view.name}"
        if view.status is not None:
            if self._started.get(view.name, ("", None))[0] != view.epoch:
                self._started[view.name] = (view.epoch, nodes.started(view, utc))
            state = nodes.state(view, board.sources.get(view.name), self._started[view.name][1], now)
            update = {"update": cluster.update(board, facts, view.status.version)} if view.status.version else {}
            self._beat(key, {"state": state, **update}, beat)
        elif key not in self._entries or (not view.online and now < self._grace_until):
            return
        self._say(self.tree.of(key, "availability"), b"online" if view.online else b"offline")
        self._announce(nodes.device(view, self.tree), facts, now)

    def _say_source(self, name: str, board: ClusterView, facts: Facts, now: float, beat: bool) -> None:
        key, view, scene, node = f"source/{name}", board.sources[name], self._scene(name), board.nodes.get(name)
        if not (node and node.online) and now < self._grace_until:
            return
        labels = labels_of(facts, self._settings.labels, scene.labels | set(self._entries.get(key, Entry()).labels))
        if scene.result is not None:
            state = sources.state(scene.tracker.counts, labels, scene.result, facts.reads)
            self._known.setdefault(key, set()).update(k for k, v in state.items() if v is not None)
            announced = self._entries.get(key, Entry()).components  # perhaps of the model before
            before = {k: None for k in announced if k.startswith(("occupancy_", "count_"))}
            self._say(self.tree.of(key, "state"), _json({**before, **state}))
        missed = node.status.missed if node and node.status else 0
        self._beat(key, {"stats": sources.stats(view, missed, now)}, beat)
        reason, seeing = scene.judge(view, node, facts, now)
        self._beat(key, {"health": sources.health(reason, seeing, view.failed)}, True)
        self._announce(sources.device(view, labels, facts, self.tree), facts, now, labels)

    def _beat(self, key: str, states: Mapping[str, Mapping[str, Any]], beat: bool) -> None:
        """States that wait for the next beat, unless they were never said."""
        for what, state in states.items():
            self._known.setdefault(key, set()).update(k for k, v in state.items() if v is not None)
            topic = self.tree.of(key, what)
            if beat or topic not in self._sent:
                self._say(topic, _json(state))

    def _announce(self, device: Device, facts: Facts, now: float, labels: tuple[str, ...] = ()) -> bool:
        """The device's document, if it is new or has changed and its time has come."""
        key, entry = device.device, self._entries.get(device.device, Entry())
        if not self._looking or (device.via and now < self._announced_at.get(device.via, now) + SETTLE_S):
            return False
        known = self._known.get(key, set())
        all_keys = {c.key for c in device.components}
        shown = tuple(c for c in device.components if not c.needs or c.needs in known or c.key in entry.components)
        gone = {k: platform for k, platform in entry.components.items() if k not in all_keys}
        told = Device(device.device, device.name, device.model, shown, device.via, device.version, device.availability, gone)
        documented = documents(told, self.tree, self._settings.prefix, self._settings.discovery, facts.version)
        stale = set(entry.topics) - set(documented)
        if stale:  # announced in the other way before: Home Assistant forgets that first
            for topic in sorted(stale):
                self._outbox.append(Said(topic, b""))
            self._entries[key] = entry.model_copy(update={"topics": tuple(t for t in entry.topics if t not in stale)})
            self._announced_at[key] = now
            return False
        payloads = {topic: _json(document) if document else b"" for topic, document in documented.items()}
        changed = any(self._sent.get(topic) != payload for topic, payload in payloads.items())
        if not changed or now < self._announced_at.get(key, float("-inf")) + CONFIG_S:
            return False
        for topic, payload in payloads.items():
            self._say(topic, payload)
        self._announced_at[key] = now
        components = {**gone, **{c.key: c.platform for c in shown}}
        self._entries[key] = Entry(topics=tuple(documented), components=components, labels=labels)
        return True

    def _clear(self, board: ClusterView) -> None:
        """What is not on the board any more."""
        there = {GATEWAY, *(f"node/{n}" for n in board.nodes), *(f"source/{n}" for n in board.sources)}
        for key in [k for k in self._entries if k not in there]:
            entry = self._entries.pop(key)
            own = ("availability", "state", "update", "stats", "health", "camera", "image")
            for topic in (*entry.topics, *(self.tree.of(key, what) for what in own)):
                self._sent.pop(topic, None)
                self._outbox.append(Said(topic, b""))
            self._known.pop(key, None)
            self._announced_at.pop(key, None)
            self._scenes.pop(key.partition("/")[2], None)

    def _say(self, topic: str, payload: bytes) -> None:
        if self._sent.get(topic) != payload:
            self._sent[topic] = payload
            self._outbox.append(Said(topic, payload))


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
