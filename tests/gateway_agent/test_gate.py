"""The gateway's guard and a node's guard, without a line between them: rings, joining, revoking, an untrusted broker."""

import fcntl
import logging
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.membership import EdgeGuard, Membership, load, only_name, save
from gateway_agent import registry as registry_file
from gateway_agent import rules
from gateway_agent.gate import NEWS_S, GatewayGuard
from gateway_agent.registry import DAMAGED, FILE, LOCK, PERMISSIONS, USES, Enrolled, Members, Registry
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import CredentialError, DecodeError, DtError, PlanError
from schemas.contract.topics import Publish, Topic
from schemas.host import state
from schemas.host.state import state_folder
from schemas.security import keyring
from schemas.security.keyring import MEMBERS
from schemas.security.seal import Unsealed
from schemas.wire.codec import Incoming, Rejected, encode, limit
from tests.nodes import small_plan

NOW = 1_800_000_000.0
D = small_plan().digest()


class World:
    """A gateway's gate and edges' guards; ``deliver`` carries what is published, if it was sealed for the receiver."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(folder)
        self.now = NOW
        self.changes: list[Members] = []
        self.gate = GatewayGuard(self.registry, lambda: self.now, self.changes.append)
        self.edges: dict[str, EdgeGuard] = {}
        self.refused: list[str] = []
        self.last: dict[str, bytes] = {}

    def edge(self, name: str, epoch: str) -> EdgeGuard:
        """An edge of this name starts; enrolled if it was not."""
        node = self.registry.read().nodes.get(name) or self.registry.enroll(name, NOW)
        place = Membership(name=name, root="dt", gateway="gw:1", secret=node.secret, permission="0" * 8)
        self.edges[name] = EdgeGuard(place, epoch)
        self.settle()
        return self.edges[name]

    def say(self, by: GatewayGuard | EdgeGuard, topic: Topic, message: m.Message, **levels: str | int) -> list[Incoming]:
        """Publish, and let all who read it hear it."""
        path = topic.path("dt", **levels)
        payload = by.seal(topic, path, levels, message, encode(topic, message))
        if payload is None:
            return []
        self.last[path] = payload
        return self.hear(path, payload, by)

    def hear(self, path: str, payload: bytes, but: Any = None) -> list[Incoming]:
        heard: list[Incoming] = []
        for guard in (self.gate, *self.edges.values()):
            if guard is not but:
                try:
                    heard += guard.admit("dt", path, payload, D)
                except DecodeError as error:
                    self.refused.append(str(error))
        return heard

    def settle(self) -> list[Incoming]:
        """The gate's own words reach their readers; returns what it wants decided."""
        decided = []
        self.now += NEWS_S
        for item in self.gate.tick():
            if isinstance(item, Publish):
                self.say(self.gate, item.topic, item.message, **item.levels)
            else:
                decided.append(item)
        return decided

    def register(self, name: str, plan: str | None = D) -> list[Incoming]:
        """A heartbeat, and the gateway's echo."""
        guard = self.edges[name]
        register = m.Register(node=name, epoch=guard.keys.epoch, seq=1, runtime="r", plan=plan)
        heard = self.say(guard, topics.REGISTER, register)
        for incoming in heard:
            epoch = incoming.message.epoch
            echo = m.Echo(node="gateway", epoch=self.gate.keys.epoch, seq=1, to_epoch=epoch, plan=D)
            self.say(self.gate, topics.ECHO, echo, node=name)
        self.settle()
        return heard

    def here(self, *names: str) -> None:
        """These are in: each has heard an echo and registered again."""
        for name in names * 2:
            self.register(name)

    def request(self, name: str) -> list[Incoming]:
        guard = self.edges[name]
        return self.say(guard, topics.VICTIM_REQ, m.VictimRequest(node=name, epoch=guard.keys.epoch, plan=D, request="0" * 8))

    def lend(self, by: str, to: str) -> list[Incoming]:
        giver, taker = self.edges[by].keys, self.edges[to].keys
        tile = m.TileHeader(node=by, epoch=giver.epoch, plan=D, to_epoch=taker.epoch, request="0" * 8)
        return self.say(self.edges[by], topics.TILE, tile, node=to)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_newcomer_is_a_stranger_until_it_has_heard_an_echo(world: World) -> None:
    world.edge("e1", "00000001")
    assert world.request("e1") == []
    (first,) = world.register("e1")
    assert first.stranger
    (second,) = world.register("e1")
    assert not second.stranger and len(world.request("e1")) == 1
    (without_plan,) = world.register("e1", plan=None)
    assert without_plan.stranger


def test_nodes_understand_each_other_after_their_rings(world: World) -> None:
    for name, epoch in (("e1", "00000001"), ("e2", "00000002")):
        world.edge(name, epoch)
    world.here("e1")
    assert world.lend("e1", "e2") == []
    world.here("e2")
    assert [i.message.node for i in world.lend("e1", "e2")] == ["e1"]
    assert [i.message.node for i in world.lend("e2", "e1")] == ["e2"]


def test_a_node_that_starts_anew_is_reached_under_its_new_epoch(world: World) -> None:
    for name, epoch in (("e1", "00000001"), ("e2", "00000002")):
        world.edge(name, epoch)
    world.here("e1", "e2")
    world.lend("e1", "e2")
    old = world.last["dt/tile/e2"]
    world.edge("e2", "0000000b")
    world.here("e2")
    assert world.lend("e1", "e2") and world.edges["e1"].keys.epoch_of("e2") == "0000000b"
    world.refused.clear()
    assert world.hear("dt/tile/e2", old) == [] and any("does not fit" in reason for reason in world.refused)


def test_a_gateway_that_starts_anew_is_found_by_one_heartbeat(world: World) -> None:
    world.edge("e1", "00000001")
    world.here("e1")
    before = world.last["dt/register"]
    world.gate = GatewayGuard(world.registry, lambda: world.now, world.changes.append)
    assert world.request("e1") == []
    (again,) = world.hear("dt/register", before)
    assert again.stranger, "a recorded heartbeat proves nothing to it"
    assert [i.stranger for i in world.register("e1") + world.register("e1")] == [True, False]
    assert world.request("e1")


def test_a_replayed_message_and_one_of_an_epoch_before_are_refused(world: World) -> None:
    world.edge("e1", "00000001")
    world.here("e1")
    world.request("e1")
    old = world.last["dt/victim/req"]
    assert world.hear("dt/victim/req", old) == [] and "came before" in world.refused[-2]
    unheard = world.edges["e1"].seal(
        topics.VICTIM_REQ, "dt/victim/req", {}, m.VictimRequest(node="e1", epoch="00000001", plan=D, request="1" * 8), b"{}"
    )
    world.edge("e1", "0000000b")
    world.here("e1")
    assert unheard is not None and world.hear("dt/victim/req", unheard) == [] and "is over" in world.refused[-2]


def test_a_revoked_node_is_out_at_once_for_everybody(world: World) -> None:
    for name, epoch in (("e1", "00000001"), ("e2", "00000002")):
        world.edge(name, epoch)
    world.here("e1", "e2")
    world.registry.revoke("e1")
    (farewell,) = world.settle()
    assert isinstance(farewell.message, m.Register) and farewell.message.leaving and farewell.message.node == "e1"
    assert world.request("e1") == world.register("e1") == world.lend("e1", "e2") == []
    assert world.edges["e2"].keys.peers == ("gateway",)
    assert "e1" not in rules.users(world.changes[-1]) and "user e1\n" not in rules.access_file("dt", world.changes[-1])


def test_what_a_revoked_node_knew_is_worth_nothing_when_its_name_comes_back(world: World) -> None:
    for name, epoch in (("e1", "00000001"), ("e2", "00000002")):
        world.edge(name, epoch)
    world.here("e1", "e2")
    thief = world.edges["e1"]
    world.registry.revoke("e1")
    world.settle()
    world.edge("e1", "00000003")
    world.here("e1", "e2")
    assert world.lend("e1", "e2")
    world.edges["e1"] = thief
    assert world.lend("e1", "e2") == world.request("e1") == []


def test_a_plan_is_believed_when_the_gateway_s_echo_has_named_it(world: World) -> None:
    plan = small_plan()
    other = plan.model_copy(update={"runtime": "the broker's"})
    guard = world.edge("e1", "00000001")

    def offer(one: Any) -> list[Incoming]:
        message = m.PlanMessage(node="gateway", epoch="0" * 8, plan=one, chunks=("0" * 32,), model_bytes=1)
        return world.hear("dt/plan", encode(topics.PLAN, message), world.gate)

    def echoed() -> list[Any]:
        echo = m.Echo(node="gateway", epoch=world.gate.keys.epoch, seq=1, to_epoch="00000001", plan=plan.digest())
        return [type(i.message) for i in world.say(world.gate, topics.ECHO, echo, node="e1")]

    assert offer(plan) == []
    assert echoed() == [m.Echo, m.PlanMessage] and echoed() == [m.Echo]
    assert offer(other) == [] and echoed() == [m.Echo]
    assert [type(i.message) for i in offer(plan)] == [m.PlanMessage]
    forged = m.Echo(node="gateway", epoch="0" * 8, seq=9, to_epoch="00000001", plan=other.digest())
    with pytest.raises(Unsealed):
        guard.admit("dt", "dt/echo/e1", encode(topics.ECHO, forged), D)


def test_an_old_ring_does_not_bring_a_revoked_node_back(world: World) -> None:
    for name, epoch in (("e1", "00000001"), ("e2", "00000002")):
        world.edge(name, epoch)
    world.here("e2")
    withheld: list[bytes] = []
    world.here("e1")
    edition = m.Keys(
        node="gateway", epoch=world.gate.keys.epoch, to_epoch="00000002", edition=1,
        box=keyring.close_ring(keyring.Ring(nodes={}), bytes.fromhex(world.registry.read().nodes["e2"].secret), "00000002"),
    )  # fmt: skip
    payload = world.gate.seal(topics.KEYS, "dt/keys/e2", {"node": "e2"}, edition, encode(topics.KEYS, edition))
    assert payload is not None
    withheld.append(payload)
    with pytest.raises(Rejected, match="an old one"):
        world.edges["e2"].admit("dt", "dt/keys/e2", withheld[0], D)
    assert "e1" in world.edges["e2"].keys.peers


# Joining.


def ask(world: World, permission: str, secret: str, name: str, attempt: keyring.Attempt | None = None) -> m.JoinAnswer | None:
    """What the gateway answers."""
    raw, attempt = bytes.fromhex(secret), attempt or keyring.Attempt()
    proof = keyring.ask_proof(raw, name, "0000000a", permission, attempt.public)
    request = m.JoinRequest(node=name, epoch="0000000a", permission=permission, public=attempt.public, proof=proof)
    try:
        world.gate.admit("dt", f"dt/join/{permission}/ask", encode(topics.JOIN, request), D)
    except DecodeError as error:
        world.refused.append(str(error))
    world.now += NEWS_S
    said = [item for item in world.gate.tick() if isinstance(item, Publish) and item.topic is topics.JOINED]
    answer = said[0].message if said else None
    if isinstance(answer, m.JoinAnswer):
        assert answer.to == attempt.public and keyring.answers_rightly(answer, raw)
        if answer.box:
            own = keyring.open_box(attempt.shared(answer.public, raw), answer.box, name)
            assert own.hex() == world.registry.read().nodes[name].secret
        return answer
    return None


def test_a_permission_lets_its_node_in_once(world: World) -> None:
    key, permission = world.registry.permit("e1", NOW + 60, NOW)
    world.settle()
    attempt = keyring.Attempt()
    first = ask(world, key, permission.secret, "e1", attempt)
    assert first is not None and first.box and not first.refused
    assert ask(world, key, permission.secret, "e1", attempt) == first, "an answer that was lost comes again"
    second = ask(world, key, permission.secret, "e1")
    assert second is not None and not second.box and "used by e1 already" in second.refused


def test_a_permission_is_for_its_name_and_its_time(world: World) -> None:
    key, permission = world.registry.permit("e1", NOW + 60, NOW)
    world.settle()
    other = ask(world, key, permission.secret, "e2")
    assert other is not None and "is for e1, not e2" in other.refused
    world.now += 60
    late = ask(world, key, permission.secret, "e1")
    assert late is not None and "no longer valid" in late.refused and not world.registry.read().nodes


def test_an_open_permission_lets_in_anybody_whose_name_is_new(world: World) -> None:
    world.registry.enroll("e0", NOW)
    key, permission = world.registry.permit(None, NOW + 60, NOW)
    world.settle()
    for name in ("e1", "e2"):
        answer = ask(world, key, permission.secret, name)
        assert answer is not None and answer.box
    for name in ("e0", "e1", "gateway"):
        answer = ask(world, key, permission.secret, name)
        assert answer is not None and not answer.box and "enrolled already" in answer.refused


def test_of_newcomers_the_broker_hears_once_a_second_and_of_who_leaves_at_once(world: World) -> None:
    """It reads all members anew each time. Nobody is answered before it knows who may connect."""
    key, permission = world.registry.permit(None, NOW + 600, NOW)
    world.settle()
    world.settle()
    world.changes.clear()
    answered = []
    for n in range(10):
        world.now += NEWS_S / 5
        attempt, name = keyring.Attempt(), f"e{n}"
        proof = keyring.ask_proof(bytes.fromhex(permission.secret), name, "0000000a", key, attempt.public)
        request = m.JoinRequest(node=name, epoch="0000000a", permission=key, public=attempt.public, proof=proof)
        world.gate.admit("dt", f"dt/join/{key}/ask", encode(topics.JOIN, request), D)
        answered += [item for item in world.gate.tick() if isinstance(item, Publish) and item.topic is topics.JOINED]
        assert len(answered) == (len(world.changes[-1].nodes) if world.changes else 0), "the broker knows who is answered"
    assert len(world.changes) == 2
    world.registry.revoke("e0")
    world.gate.tick()
    assert len(world.changes) == 3 and "e0" not in world.changes[-1].nodes


def test_who_does_not_know_the_secret_gets_no_word(world: World) -> None:
    key, permission = world.registry.permit("e1", NOW + 60, NOW)
    world.settle()
    assert ask(world, key, "11" * 32, "e1") is None and ask(world, "00000000", permission.secret, "e1") is None
    assert len(world.refused) == 2 and all("without a permission" in reason for reason in world.refused)
    assert not world.registry.read().nodes


def test_a_new_permission_ends_the_one_before_for_that_name(world: World) -> None:
    key, permission = world.registry.permit("e1", NOW + 60, NOW)
    world.registry.permit("e1", NOW + 60, NOW)
    world.settle()
    assert ask(world, key, permission.secret, "e1") is None


# As many as there may be.


def long(i: int) -> str:
    return f"{i:03}".ljust(64, "n")


def full(registry: Registry, count: int = MEMBERS) -> None:
    """So many members, by the longest names."""
    nodes = {long(i): Enrolled(secret=f"{i:064x}", serial=f"{i:08x}", since=NOW) for i in range(count)}
    registry._save(registry.read().model_copy(update={"nodes": nodes}))


def test_the_keys_for_as_many_members_as_may_be_fit_their_message(world: World) -> None:
    full(world.registry)
    one, other = long(0), long(MEMBERS - 1)
    for name, epoch in ((one, "00000001"), (other, "00000002")):
        world.edge(name, epoch)
    world.here(one, other)
    assert world.lend(one, other) and world.lend(other, one)
    for i in range(1, MEMBERS - 1):
        world.gate.keys.meet(long(i), "0000000a")
    assert len(world.edges[one].keys.peers) == MEMBERS
    world.settle()
    assert limit(topics.KEYS) * 0.9 < len(world.last[f"dt/keys/{one}"]) < limit(topics.KEYS)


def test_one_more_than_there_may_be_is_refused_to_whoever_asks(world: World) -> None:
    full(world.registry, MEMBERS - 1)
    key, permission = world.registry.permit(None, NOW + 60, NOW)
    world.settle()
    for refused in (lambda: world.registry.enroll("e9", NOW), lambda: world.registry.permit("e9", NOW + 60, NOW)):
        if len(world.registry.read().nodes) < MEMBERS:
            answer = ask(world, key, permission.secret, "e1")
            assert answer is not None and answer.box
        with pytest.raises(PlanError, match=rf"{MEMBERS} members .*'dt revoke'"):
            refused()
    answer = ask(world, key, permission.secret, "e2")
    assert answer is not None and not answer.box and "'dt revoke' one" in answer.refused
    world.registry.revoke("e1")
    answer = ask(world, key, permission.secret, "e2")
    assert answer is not None and answer.box and len(Registry(world.registry.folder).read().nodes) == MEMBERS


def test_a_line_is_used_and_lines_are_open_so_often_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    registry = Registry(tmp_path)
    key, _ = registry.permit(None, NOW + 60, NOW)
    for i in range(USES):
        assert registry.join([(key, f"e{i}")], NOW)[0][0] == ""
        registry.revoke(f"e{i}")
    assert f"used {USES} times" in registry.join([(key, "e")], NOW)[0][0]
    for i in range(PERMISSIONS - 1):
        registry.permit(f"e{i}", NOW + 60, NOW)
    with pytest.raises(PlanError, match=rf"{PERMISSIONS} join lines are open"):
        registry.permit("more", NOW + 60, NOW)
    registry.permit("more", NOW + 120, NOW + 60)
    assert len(Registry(tmp_path).read().permissions) == PERMISSIONS


def test_who_is_enrolled_but_not_here_costs_nobody_a_ring(world: World) -> None:
    for name, epoch in (("e1", "00000001"), ("e2", "00000002")):
        world.edge(name, epoch)
    world.here("e1", "e2")
    for change in (lambda: world.registry.enroll("e3", NOW), lambda: None):
        change()
        assert [item for item in world.gate.tick() if isinstance(item, Publish) and item.topic is topics.KEYS] == []
    world.edge("e3", "00000003")
    world.here("e3")
    assert world.lend("e3", "e1") and world.lend("e2", "e3")
    world.edge("e4", "00000004")
    world.registry.revoke("e4")
    assert len([item for item in world.gate.tick() if isinstance(item, Publish) and item.topic is topics.KEYS]) == 3


def test_a_file_with_more_members_than_may_be_still_lets_them_out(world: World) -> None:
    full(world.registry, MEMBERS + 9)
    world.edge(long(0), "00000001")
    world.here(long(0))
    assert len(world.edges[long(0)].keys.peers) == MEMBERS + 1
    for i in range(10):
        world.registry.revoke(long(MEMBERS + 8 - i))
    world.settle()
    assert world.registry.enroll("e1", NOW) and world.register(long(0))


# What becomes of the disk while the gateway runs.


@contextmanager
def full_disk() -> Iterator[None]:
    """No file grows beyond 100 bytes meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _replaced(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def _huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(registry_file.MOST_BYTES + 1)


SPOILT: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: _replaced(path, path.read_bytes()[:-40]),
    "empty": lambda path: _replaced(path, b""),
    "gone": lambda path: path.unlink(),
    "no text": lambda path: _replaced(path, b"\xff\xfe" * 100),
    "nested": lambda path: _replaced(path, b"[" * 100_000),
    "huge": _huge,
    "a link": lambda path: (path.unlink(), path.symlink_to("/dev/zero"))[1],  # type: ignore[func-returns-value]
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path))[1],  # type: ignore[func-returns-value]
    "a folder": lambda path: (path.unlink(), path.mkdir())[1],  # type: ignore[func-returns-value]
    "the gateway as a node": lambda path: _replaced(path, path.read_bytes().replace(b'"e1"', b'"gateway"')),
    "no time": lambda path: _replaced(path, path.read_bytes().replace(b'"since": 1', b'"since": 1e999, "x": 1')),
    "no number": lambda path: _replaced(path, path.read_bytes().replace(b'"since": 1', b'"since": NaN, "x": 1')),
    "of another gateway": lambda path: _replaced(
        path, Members(secret="ab" * 32, nodes=Members.model_validate_json(path.read_bytes()).nodes).model_dump_json().encode()
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_gateway_that_runs_keeps_its_members_whatever_becomes_of_the_file(
    world: World, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry_file, "RETRY_S", 0.0)
    world.edge("e1", "00000001")
    world.here("e1")
    members, path = world.registry.read(), world.registry.folder / FILE
    SPOILT[how](path)
    caplog.set_level(logging.ERROR)
    for _ in range(3):
        assert world.settle() == [] and world.request("e1")
    assert len(caplog.records) == 1, "told once"
    if how == "a folder":
        with pytest.raises(DtError):
            Registry(world.registry.folder).read()
        path.rmdir()
        world.settle()
    kept = path.with_name(FILE + DAMAGED)
    assert kept.is_symlink() or kept.exists() is (how not in ("gone", "a folder", "of another gateway"))
    assert Registry(world.registry.folder).read() == members, "and it has repaired the file"
    Registry(world.registry.folder).enroll("e2", NOW)
    world.edge("e2", "00000002")
    world.here("e2")
    world.here("e1")
    assert world.lend("e1", "e2")


def test_a_full_disk_refuses_the_newcomer_and_no_more(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.edge("e1", "00000001")
    world.here("e1")
    key, permission = world.registry.permit("e2", NOW + 60, NOW)
    world.settle()
    attempt = keyring.Attempt()
    with full_disk():
        answer = ask(world, key, permission.secret, "e2", attempt)
        assert answer is not None and "cannot write down who joins" in answer.refused and world.request("e1")
        with pytest.raises(DtError, match="make room"):
            world.registry.enroll("e3", NOW)
        (world.registry.folder / FILE).unlink()
        world.settle()
        assert world.request("e1") and not (world.registry.folder / FILE).exists()
    assert "File too large" in caplog.text
    world.registry._retry_at = 0.0
    world.settle()
    answer = ask(world, key, permission.secret, "e2", attempt)
    assert answer is not None and answer.box, "the same line, once there is room"


def test_a_lock_that_is_never_let_go_is_told_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "LOCK_S", 0.05)
    key, permission = world.registry.permit("e2", NOW + 60, NOW)
    world.settle()
    with (world.registry.folder / LOCK).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        answer = ask(world, key, permission.secret, "e2")
        assert answer is not None and answer.refused
        with pytest.raises(DtError, match="is locked by another process"):
            world.registry.enroll("e3", NOW)
    world.registry.enroll("e3", NOW)


def test_a_broker_that_cannot_be_told_of_the_members_is_told_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.edge("e1", "00000001")
    world.here("e1")
    told = world.changes.append

    def fails(_: Members) -> None:
        raise DtError("the disk is full")

    monkeypatch.setattr(world.gate, "_on_change", fails)
    world.registry.revoke("e1")
    assert len(world.settle()) == 1 and world.register("e1") == [], "out, whatever the broker knows"
    monkeypatch.setattr(world.gate, "_on_change", told)
    world.changes.clear()
    world.settle()
    assert not world.changes
    world.now += 10
    world.settle()
    assert [set(members.nodes) for members in world.changes] == [set()]
    world.now -= 400 * 86400
    world.settle()
    assert len(world.changes) == 2, "a clock that goes back puts nothing off"


# The file.


def test_members_are_the_same_after_a_restart_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    first = Registry(tmp_path)
    node = first.enroll("e1", NOW)
    assert Registry(tmp_path).read() == first.read() and Registry(tmp_path).read().nodes == {"e1": node}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_two_who_write_lose_nothing_of_each_other(tmp_path: Path) -> None:
    one, other = Registry(tmp_path), Registry(tmp_path)
    one.read()
    other.enroll("e1", NOW)
    one.enroll("e2", NOW)
    assert set(other.read().nodes) == {"e1", "e2"} and one.read() is one.read()


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (lambda r: r.revoke("e9"), "no node 'e9' is enrolled"),
        (lambda r: r.permit("e1", NOW, NOW), "'dt revoke e1' first"),
        (lambda r: r.permit("gateway", NOW, NOW), "the gateway's own name"),
    ],
)
def test_what_cannot_be_is_told_with_the_remedy(tmp_path: Path, what: Callable[[Registry], Any], says: str) -> None:
    registry = Registry(tmp_path)
    registry.enroll("e1", NOW)
    with pytest.raises(PlanError, match=says):
        what(registry)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(CredentialError, match=r"cluster\.json is damaged"):
        Registry(tmp_path).read()
    (tmp_path / "edge-e1.json").write_text("{}")
    with pytest.raises(CredentialError, match=r"edge-e1\.json is damaged.*'dt enroll e1'"):
        load(tmp_path, "e1")


def test_a_membership_comes_back_and_its_words_hide_the_secret(tmp_path: Path) -> None:
    place = Membership(name="e1", root="dt", gateway="gw:8883", secret="ab" * 32, permission="0" * 8, authority="PEM")
    save(tmp_path, place)
    assert load(tmp_path, "e1") == place and load(tmp_path, "e2") is None and only_name(tmp_path) == "e1"
    address = place.address()
    assert (address.host, address.port, address.tls, address.user) == ("gw", 8883, True, "e1")
    assert address.password and address.password not in repr(address) + str(address)
    assert place.address("elsewhere:1").host == "elsewhere"


def test_nobody_writes_while_another_does(tmp_path: Path) -> None:
    registry, entered = Registry(tmp_path), threading.Event()

    def write() -> None:
        Registry(tmp_path).enroll("e1", NOW)
        entered.set()

    writer = threading.Thread(target=write)
    with registry.alone():
        writer.start()
        assert not entered.wait(0.3)
    writer.join(30)
    assert entered.is_set() and stat.S_IMODE(state_folder(tmp_path / "new", "dt").stat().st_mode) == 0o700
