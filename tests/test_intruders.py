"""Ten intruders against a sealed cluster of real processes, with what each can know at most: each fails, the frames go on.

``mole`` is enrolled, so that an intruder may have all that a stolen node knows. The ``guarded`` cluster has its own mosquitto
with TLS, passwords and rules; the ``exposed`` one a broker where everybody may say and hear everything: only seals are left.
"""

import contextlib
import datetime
import json
import os
import queue
import re
import shutil
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.membership import EdgeGuard, Membership
from gateway_agent import certificates, rules
from gateway_agent.access import packet_bytes
from gateway_agent.broker import BrokerProcess
from gateway_agent.homeassistant.discovery import cluster_id
from gateway_agent.plans import bind
from gateway_agent.registry import FILE, Registry
from models.running.engine import kernels
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import UnreachableError
from schemas.security.rights import GATEWAY
from schemas.security.seal import bare
from schemas.security.session import Session
from schemas.wire.codec import encode
from schemas.wire.guard import Guard
from schemas.wire.link import Address, Arrived, Link
from tests.nodes import outputs
from tests.sealed import SealedCluster

BASE = f"deepthings/{cluster_id('dt')}"
SAYS = {  # of each user that is no node, the topics of the table and of Home Assistant that it may write
    "looker": {"dt/status/req"},
    "ha": {
        "dt/status/req", "dt/bridge/request/level", "homeassistant/status",
        *(f"{BASE}/set/{verb}" for verb in ("detection", "threshold", "grid", "model", "restart")),
    },
}  # fmt: skip
MISSING = not shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


class Client:
    """An intruder's own connection, under any name, with any client id; ``got`` are topics and payloads."""

    def __init__(self, address: Address, client_id: str) -> None:
        self.got: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.state: queue.Queue[str] = queue.Queue()
        self._client: Any = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv311, reconnect_on_failure=False
        )
        if address.tls:
            self._client.username_pw_set(address.user, address.password)
            context = ssl.create_default_context(cadata=address.authority)
            context.check_hostname = False
            self._client.tls_set_context(context)
        self._client.on_connect = lambda *a: self.state.put(a[3].getName())
        self._client.on_subscribe = lambda *a: self.state.put("subscribed")
        self._client.on_disconnect = lambda *_: self.state.put("gone")
        self._client.on_message = lambda _c, _d, message: self.got.put((message.topic, message.payload))
        self._client.connect(address.host, address.port)
        self._client.loop_start()
        assert self.state.get(timeout=30) == "Success"

    def hear(self, pattern: str) -> None:
        self._client.subscribe(pattern, 1)
        assert self.state.get(timeout=30) == "subscribed"

    def say(self, topic: str, payload: bytes, retained: bool = False) -> None:
        """Publish, and wait for the broker's word, which comes whether or not it lets it through."""
        info = self._client.publish(topic, payload, 1, retained)
        with contextlib.suppress(RuntimeError, ValueError):
            info.wait_for_publish(5)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Stage:
    """The cluster, and the intruders' means."""

    def __init__(self, cluster: SealedCluster) -> None:
        self.cluster = cluster
        node = cluster.registry.read().nodes.get("mole") or cluster.registry.enroll("mole", time.time())
        self.place = Membership(name="mole", root="dt", gateway="-", secret=node.secret, permission="0" * 8)
        self.open: list[Any] = []
        self.lost = {name: cluster.log(name).count("lost the broker") for name in cluster.processes}

    def as_mole(self, client_id: str = "mole") -> Client:
        return self.client(self.cluster.as_node("mole"), client_id)

    def client(self, address: Address, client_id: str) -> Client:
        deadline = time.monotonic() + 30
        while True:  # the gateway may not have told the broker yet
            try:
                made = Client(address, client_id)
            except (AssertionError, queue.Empty):
                assert time.monotonic() < deadline
                time.sleep(0.2)
                continue
            self.open.append(made)
            return made

    def as_user(self, name: str, **role: bool) -> Client:
        """One who is enrolled, but is no node; two of them at a time may be the same."""
        if name not in self.cluster.registry.read().nodes:
            self.cluster.registry.enroll(name, time.time(), **role)
        return self.client(self.cluster.as_node(name), f"{name}-{m.new_epoch()}")

    def witness(self) -> Client:
        """Hears what others say, with the gateway's own password."""
        password = rules.own_password(self.cluster.registry.read(), GATEWAY)
        made = self.client(self.cluster.login(GATEWAY, password), "witness")
        made.hear("#")
        return made

    def mole_guard(self) -> Guard:
        """The mole's keys, after it has heard an echo and got its ring, as an edge does."""
        guard, inbox = EdgeGuard(self.place, m.new_epoch()), queue.Queue[Any]()
        link = Link(self.cluster.as_node("mole"), "dt", "mole", inbox, guard=guard)
        self.open.append(link)
        for topic in (topics.ECHO, topics.KEYS):
            link.subscribe(topic, node="mole")
        link.start()
        deadline = time.monotonic() + 20
        while "worker1" not in guard.keys.peers:
            assert time.monotonic() < deadline
            link.publish(topics.REGISTER, m.Register(node="mole", epoch=guard.keys.epoch, seq=0, runtime=self.runtime))
            with contextlib.suppress(queue.Empty):
                event = inbox.get(timeout=0.3)
                if isinstance(event, Arrived):
                    guard.admit("dt", event.topic, event.payload, None)
        link.close(0.0)
        return guard

    @property
    def plan(self) -> str:
        """Digest of the plan that the cluster runs."""
        return bind(self.cluster.bundle).plan.digest()

    @property
    def runtime(self) -> str:
        return kernels()

    def tls(self) -> ssl.SSLSocket:
        """A connection to the broker that has said nothing yet."""
        context = ssl.create_default_context(cadata=self.cluster.address.authority)
        context.check_hostname = False
        line = context.wrap_socket(socket.create_connection(("127.0.0.1", self.cluster.address.port)))
        self.open.append(line)
        return line

    def refuses(self, deed: Callable[[], None], **kinds: int) -> None:
        """The gateway counts so many refusals more of each kind after the deed."""

        def counted() -> dict[str, int]:
            status = self.cluster.statuses.get(GATEWAY)
            return {kind: status.dropped.get(kind, 0) if status else 0 for kind in kinds}

        before = counted()
        deed()
        enough = {kind: before[kind] + more for kind, more in kinds.items()}
        self.cluster.until(lambda: all(counted()[kind] >= enough[kind] for kind in kinds), f"refusals: {kinds}")

    def unharmed(self) -> None:
        """Frames go on, and every one so far was exact."""
        self.cluster.check_exact(self.cluster.frames(3))
        for name in ("worker1", "worker2", "camera"):
            assert self.cluster.processes[name].poll() is None
            assert self.cluster.log(name).count("lost the broker") == self.lost[name]

    def close(self) -> None:
        for one in self.open:
            one.close()
        self.open.clear()


def run(folder: Path, broker: str) -> Iterator[SealedCluster]:
    """Gateway, two workers and a camera, joined by their lines; the first frames were exact."""
    made = SealedCluster(folder, broker)
    try:
        made.gateway()
        for name in ("worker1", "worker2"):
            made.edge(name)
        for name in ("worker1", "worker2"):
            made.said(name, "joined the cluster .*plan")
        made.edge("camera", "--source", "synthetic://", "--window", "1")
        made.check_exact(made.frames(8))
        assert sum(sum(outcome.stolen.values()) for outcome in made.outcomes) > 0
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def guarded_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SealedCluster]:
    if MISSING:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    yield from run(tmp_path_factory.mktemp("guarded"), "")


@pytest.fixture(scope="module")
def exposed_cluster(tmp_path_factory: pytest.TempPathFactory, broker: BrokerProcess) -> Iterator[SealedCluster]:
    yield from run(tmp_path_factory.mktemp("exposed"), broker.url)


@pytest.fixture
def guarded(guarded_cluster: SealedCluster) -> Iterator[Stage]:
    made = Stage(guarded_cluster)
    yield made
    made.close()


@pytest.fixture
def exposed(exposed_cluster: SealedCluster) -> Iterator[Stage]:
    made = Stage(exposed_cluster)
    yield made
    made.close()


@pytest.fixture(params=["guarded", "exposed"])
def stage(request: pytest.FixtureRequest) -> Stage:
    found: Stage = request.getfixturevalue(request.param)
    return found


def test_without_a_password_nobody_gets_in(guarded: Stage) -> None:
    for address in (guarded.cluster.address, guarded.cluster.login("", "")):
        with pytest.raises(UnreachableError, match=r"no such user and password$"):
            Link(address, "dt", "x", queue.Queue()).connect(5)
    plain = Address("127.0.0.1", guarded.cluster.address.port)
    with pytest.raises(UnreachableError, match="it wants TLS"):
        Link(plain, "dt", "x", queue.Queue()).connect(1)
    guarded.unharmed()


def test_with_a_wrong_password_nobody_gets_in(guarded: Stage) -> None:
    for user in ("worker1", GATEWAY, "join.00000000"):
        with pytest.raises(UnreachableError, match="no such user and password"):
            Link(guarded.cluster.login(user, "wrong"), "dt", "worker1", queue.Queue()).connect(5)
    guarded.unharmed()


def test_another_node_s_client_id_takes_nothing_over(guarded: Stage) -> None:
    for name in ("worker1", "camera", GATEWAY):
        guarded.as_mole(name)
    guarded.unharmed()


def result(node: str, epoch: str, frame: str, plan: str) -> bytes:
    header = m.ResultHeader(node=node, epoch=epoch, plan=plan, frame=frame, block=0, tile=0)
    return encode(topics.RESULT, header, {"x": np.zeros(4, np.float32)})


def next_frame(cluster: SealedCluster) -> str:
    """A frame that has not ended yet."""
    source, epoch, number = m.frame_source(cluster.frames(1)[0].frame)
    return m.frame_id(source, epoch, number + 2)


def test_a_forged_result_is_refused(stage: Stage) -> None:
    guard, mole = stage.mole_guard(), stage.as_mole()
    frame, plan = next_frame(stage.cluster), stage.plan
    forged = result("worker1", guard.keys.epoch, frame, plan)
    path = f"dt/result/{frame}"
    header = m.ResultHeader(node="worker1", epoch=guard.keys.epoch, plan=plan, frame=frame, block=0, tile=0)
    sealed = guard.seal(topics.RESULT, path, {"frame": frame}, header, forged)
    assert sealed is not None

    def forge() -> None:
        mole.say(path, forged)
        mole.say(path, sealed)
        mole.say(path, sealed.replace(b"mole", b"worker1"))

    stage.refuses(forge, seal=2, right=1)
    stage.unharmed()


def test_a_replayed_result_is_refused(exposed: Stage) -> None:
    anybody = exposed.as_mole()
    anybody.hear("dt/result/+")
    topic, payload = anybody.got.get(timeout=20)
    _, other = anybody.got.get(timeout=20)

    def replay() -> None:
        anybody.say(topic, payload)
        anybody.say(topic.rsplit("-", 1)[0] + "-999999", other)

    exposed.refuses(replay, replay=2)
    exposed.unharmed()


def test_nobody_registers_another(stage: Stage) -> None:
    guard, mole = stage.mole_guard(), stage.as_mole()

    def register() -> None:
        for node in ("worker1", GATEWAY, "newnode"):
            said = m.Register(node=node, epoch=guard.keys.epoch, seq=1, runtime=stage.runtime, plan=stage.plan)
            payload = encode(topics.REGISTER, said)
            mole.say("dt/register", guard.seal(topics.REGISTER, "dt/register", {}, said, payload) or b"")
            mole.say("dt/register", payload)
        leaving = m.Register(node="camera", epoch=guard.keys.epoch, seq=1, runtime="", plan=stage.plan, leaving=True)
        mole.say("dt/register", encode(topics.REGISTER, leaving))

    stage.refuses(register, right=3, seal=4)
    stage.unharmed()


def test_who_subscribes_to_everything_hears_what_is_its_own(guarded: Stage) -> None:
    mole = guarded.as_mole()
    for pattern in ("dt/#", "#", "+/tile/+", "dt/tile/worker1", "dt/result/+", "dt/keys/+", "$SYS/#"):
        mole.hear(pattern)
    guarded.unharmed()
    heard = {mole.got.get_nowait()[0] for _ in range(mole.got.qsize())}
    public = ("dt/plan", "dt/model/", "dt/overlap/")
    assert heard and [t for t in heard if not t.startswith(public) and not t.endswith("/mole")] == []


@pytest.mark.parametrize(("name", "role"), [("looker", {"reads": True}), ("ha", {"controls": True})])
def test_who_is_no_node_says_what_its_role_says_and_no_more(guarded: Stage, name: str, role: dict[str, bool]) -> None:
    user, witness = guarded.as_user(name, **role), guarded.witness()
    said = {row.path("dt", **dict.fromkeys(re.findall(r"<(\w+)>", row.pattern), "level")) for row in topics.TABLE}
    said |= {f"dt/{what}" for what in ("result/camera-00000000-0", "node/worker1/status", "tile/worker1", "keys/worker1")}
    said |= {f"{BASE}/set/{verb}" for verb in ("detection", "threshold", "grid", "model", "restart", "remove")}
    said |= {f"{BASE}/{what}" for what in ("roster", "gateway/availability", "gateway/controls", "source/camera/camera")}
    said |= {"homeassistant/status", "homeassistant/device/x/config", "elsewhere"}
    for topic in sorted(said, key=lambda topic: topic == "dt/status/req"):
        user.say(topic, b"forged")
    passed: set[str] = set()
    while "dt/status/req" not in passed:
        topic, payload = witness.got.get(timeout=30)
        passed |= {topic} if payload == b"forged" else set()
    assert passed == SAYS[name]
    guarded.unharmed()


def test_who_looks_on_hears_what_is_for_people_alone(guarded: Stage) -> None:
    for name, role, more in (("looker", {"reads": True}, ()), ("ha", {"controls": True}, (f"{BASE}/", "homeassistant/"))):
        user = guarded.as_user(name, **role)
        for pattern in ("dt/#", "#", "+/tile/+", "dt/result/+", "dt/source/+/picture", "dt/keys/+", "deepthings/#"):
            user.hear(pattern)
        guarded.unharmed()
        heard = {user.got.get_nowait()[0] for _ in range(user.got.qsize())}
        people = (*more, "dt/register", "dt/plan", "dt/bridge/", "dt/node/")
        assert heard and [t for t in heard if not t.startswith(people) and not re.fullmatch("dt/source/[^/]+/outcome", t)] == []
        assert any(t.startswith(BASE) for t in heard) is bool(more)


def test_home_assistant_sees_plain_states_and_steers_and_a_node_and_a_reader_do_not(guarded: Stage) -> None:
    home, mole, looker = guarded.as_user("ha", controls=True), guarded.as_mole(), guarded.as_user("looker", reads=True)
    home.hear("homeassistant/#")
    home.hear(f"{BASE}/#")
    seen: dict[str, Any] = {}

    def until(true: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 30
        while not true():
            topic, payload = home.got.get(timeout=max(deadline - time.monotonic(), 0.01))
            seen[topic] = json.loads(payload) if payload.startswith(b"{") else payload

    def detection() -> str:
        return str(seen.get(f"{BASE}/gateway/controls", {}).get("detection", ""))

    until(lambda: detection() == "ON" and seen.get(f"{BASE}/node/worker1/availability") == b"online")
    devices = {"gateway", "node_worker1", "source_camera"}
    until(lambda: devices <= {t.split("/")[2].partition("_")[2] for t in seen if t.startswith("homeassistant/device/")})
    for intruder in (mole, looker):
        intruder.say(f"{BASE}/set/detection", b"OFF")
        intruder.say(f"{BASE}/gateway/controls", b'{"detection": "forged"}', retained=True)
    home.say(f"{BASE}/set/grid", b"99x99")  # is refused, and the controls are said again
    seen.clear()
    until(detection)
    assert detection() == "ON"
    for state in ("OFF", "ON"):
        home.say(f"{BASE}/set/detection", state.encode())
        until(lambda state=state: detection() == state)  # type: ignore[misc]
    home.say("dt/bridge/request/fly", b"{}")
    home.hear("dt/bridge/response/fly")
    guarded.unharmed()


def test_a_registry_that_is_spoilt_ends_nothing_and_is_repaired(guarded: Stage) -> None:
    cluster, path = guarded.cluster, guarded.cluster.state / FILE
    members = cluster.registry.read().nodes
    for spoil in (lambda: path.write_bytes(b"{"), lambda: path.unlink()):
        spoil()
        cluster.until(lambda: path.exists() and path.read_bytes().startswith(b"{\n"), "the registry to be written anew")
        assert Registry(cluster.state).read().nodes == members
        guarded.unharmed()
    assert cluster.log("gateway").count("rewriting it with this gateway") == 2
    done = cluster.dt("enroll", "--list", "--state", cluster.state)
    assert done.returncode == 0 and "worker1: node" in done.stdout


def test_a_packet_of_60_mb_ends_its_sender_s_connection_alone(guarded: Stage) -> None:
    assert packet_bytes(guarded.cluster.bundle.plan) < 8e6
    mole = guarded.as_mole()
    mole.say("dt/result/camera-00000000-0", bytes(60_000_000))
    assert mole.state.get(timeout=20) == "gone"
    raw = guarded.tls()
    with contextlib.suppress(OSError):  # a CONNECT of 60 MB by nobody
        raw.sendall(b"\x10" + bytes([0x80, 0x8E, 0xCE, 0x1C]) + bytes(200_000))
        raw.settimeout(20)
        assert raw.recv(1) == b""
    guarded.unharmed()


def test_connections_that_never_get_done_hold_nobody_up(guarded: Stage) -> None:
    half = [socket.create_connection(("127.0.0.1", guarded.cluster.address.port)) for _ in range(100)]
    slow = [guarded.tls() for _ in range(20)]
    guarded.open += half
    for n in range(8):
        for line in slow:
            line.send(b"\x10\x7f\x00\x04MQTT"[n : n + 1])
        guarded.cluster.hear(0.05)
    guarded.as_mole()  # who belongs gets in
    guarded.unharmed()


def test_edges_speak_straight_and_their_ports_let_nobody_else_in(guarded: Stage) -> None:
    cluster, edges = guarded.cluster, {"worker1", "worker2", "camera"}

    cluster.until(lambda: all(edges - {name} <= {*cluster.status(name).straight} for name in edges), "connections of all pairs")
    before = cluster.status("camera").straight_out
    cluster.frames(3)
    cluster.until(lambda: cluster.status("camera").straight_out > before + 4096, "a tile that went straight")
    witness, register = guarded.witness(), None
    while register is None or register.node != "worker1":
        topic, payload = witness.got.get(timeout=10)
        if topic == "dt/register":
            register = m.Register.model_validate_json(bare(payload))
    assert register.address is not None
    host, port = register.address.rsplit(":", 1)
    keys = guarded.mole_guard().keys
    own = m.Hello(node="mole", epoch=keys.epoch, to="worker1", to_epoch=register.epoch)
    posing = {"node": "camera", "epoch": cluster.status("camera").epoch}
    for words in (
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<I", 60 * 2**20),
        hello_frame(own.model_copy(update=posing)),  # no key
        hello_frame(Session(keys, own, dialled=True).mine.model_copy(update=posing)),  # another's
        hello_frame(Session(keys, own.model_copy(update={"to_epoch": "0" * 8}), dialled=True).mine),  # of another day
    ):
        with socket.create_connection((host, int(port)), 10) as line:
            line.sendall(words)
            with contextlib.suppress(ConnectionResetError):
                assert line.recv(1) == b"", words
    flood = [socket.create_connection((host, int(port)), 10) for _ in range(200)]
    guarded.open += flood
    guarded.unharmed()
    assert all(edges - {name} <= {*cluster.status(name).straight} for name in edges)


def hello_frame(hello: m.Hello) -> bytes:
    body = hello.model_dump_json().encode()
    return struct.pack("<I", len(body)) + body


def tampered_plan(stage: Stage) -> tuple[bytes, str]:
    """A plan that scales pixels otherwise, as the gateway would publish it, and its digest."""
    plan = bind(stage.cluster.bundle).plan
    plan = plan.model_copy(update={"pixels": plan.pixels.model_copy(update={"scale": 0.5})})
    message = m.PlanMessage(node=GATEWAY, epoch="00000000", plan=plan, chunks=("0" * 32,), model_bytes=1)
    return encode(topics.PLAN, message), plan.digest()


def test_a_tampered_plan_does_not_pass_the_broker(guarded: Stage) -> None:
    mole = guarded.as_mole()
    mole.hear("dt/plan")
    mole.got.get(timeout=30)
    mole.say("dt/plan", tampered_plan(guarded)[0], retained=True)
    guarded.unharmed()
    assert mole.got.empty()


def test_a_tampered_plan_that_passes_the_broker_is_not_believed(exposed: Stage) -> None:
    anybody, (payload, digest) = exposed.as_mole(), tampered_plan(exposed)
    anybody.hear("dt/plan")
    genuine = anybody.got.get(timeout=30)[1]
    anybody.say("dt/plan", payload, retained=True)
    assert anybody.got.get(timeout=30)[1] == payload
    for name in ("worker1", "camera"):
        echo = m.Echo(node=GATEWAY, epoch="00000000", seq=10**6, to_epoch="00000000", plan=digest)
        anybody.say(f"dt/echo/{name}", encode(topics.ECHO, echo))
    exposed.unharmed()
    exposed.cluster.end("worker2")
    exposed.cluster.edge("worker2")  # a node that starts now is offered the tampered plan first
    started = time.monotonic()
    exposed.cluster.until(lambda: time.monotonic() > started + 4, "nothing")
    assert exposed.cluster.log("worker2").count(": plan ") == 1
    anybody.say("dt/plan", genuine, retained=True)
    exposed.cluster.until(lambda: exposed.cluster.log("worker2").count(": plan ") == 2, "worker2 to believe the genuine plan")
    exposed.unharmed()


def test_a_line_is_good_for_one_use_and_a_revoked_node_is_cut_off_within_seconds(guarded: Stage) -> None:
    cluster = guarded.cluster
    line = str(cluster.line("brief"))
    places = [("--state", cluster.folder / name, "--cache", cluster.folder / "cache-brief") for name in ("brief", "thief")]
    cluster.spawn("brief", "edge", "--join", line, *places[0])
    cluster.said("brief", "joined the cluster .*plan")
    cluster.until(lambda: "brief" in cluster.status("worker1").straight, "a straight connection of brief")
    again = cluster.dt("edge", "--join", line, *places[1])
    assert again.returncode == 78 and "was used by brief already" in again.stderr
    assert "refused a request to join as brief: this line was used" in cluster.log("gateway")
    done = cluster.dt("revoke", "brief", "--state", cluster.state)
    assert done.returncode == 0 and "brief is revoked" in done.stdout
    cluster.said("brief", "lost the broker at .*: the broker knows no such user and password; trying again", 5)
    assert "brief was revoked" in cluster.log("gateway")
    cluster.until(lambda: "brief" not in cluster.status("worker1").straight, "its straight connections to end")
    unknown = r"dt: the gateway at \S+ no longer knows brief: 'dt enroll brief' prints a new line there; give it here: dt edge"
    cluster.said("brief", unknown)
    assert cluster.processes.pop("brief").wait(30) == 78 and cluster.log("brief").count("WARNING") <= 4  # not one a try
    once = cluster.dt("edge", "--once", *places[0])
    assert once.returncode == 78 and re.match(unknown, once.stderr)
    secrets = [json.loads((cluster.folder / "brief" / "edge-brief.json").read_text())["secret"], line]
    assert not any(secret in cluster.log(name) for name in cluster.processes for secret in secrets)
    guarded.unharmed()


def test_a_node_finds_no_other_gateway_behind_its_address(guarded: Stage, tmp_path: Path) -> None:
    """Somebody else answers there, with an authority of its own."""
    line = guarded.cluster.line("newcomer")
    other = replace(line, authority="00" * 32)
    done = guarded.cluster.dt("edge", "--join", str(other), "--state", tmp_path)
    assert done.returncode == 78 and "is not the gateway that printed this line" in done.stderr
    held = json.loads((guarded.cluster.folder / "worker1" / "edge-worker1.json").read_text())
    held["authority"] = certificates.authority(tmp_path, datetime.datetime.now(datetime.timezone.utc))
    (tmp_path / "edge-worker1.json").write_text(json.dumps(held))
    done = guarded.cluster.dt("edge", "--once", "--state", tmp_path)
    assert done.returncode == 69 and "its certificate is not the one that this node joined under" in done.stderr
    guarded.unharmed()


def test_nodes_looks_into_a_sealed_cluster_with_its_state_folder_or_a_line(guarded: Stage, tmp_path: Path) -> None:
    cluster, at = guarded.cluster, str(guarded.cluster.address)
    bare = cluster.dt("nodes", "--gateway", at, "--state", tmp_path)
    assert bare.returncode == 78 and re.fullmatch(r"dt: the cluster at \S+ is sealed: .* --join LINE\n", bare.stderr)
    elsewhere = cluster.dt("enroll", "laptop", "--reader", "--gateway", at, "--state", cluster.state)
    line = elsewhere.stdout.strip()
    wrong = cluster.dt("edge", "--join", line, "--state", tmp_path)
    assert wrong.returncode == 78 and "'dt enroll NAME' prints one for a node" in wrong.stderr and not list(tmp_path.iterdir())
    ways = (("--state", cluster.state), ("--join", line, "--state", tmp_path), ("--state", tmp_path))
    for way in ways:
        done = cluster.dt("nodes", "--json", *way)
        assert done.returncode == 0, done.stderr
        rows = {row["node"]: row for row in json.loads(done.stdout)}
        assert {rows[name]["role"] for name in ("worker1", "worker2")} == {"helper"} and rows["camera"]["role"] == "camera"
        assert all(rows[name]["state"] == "online" and rows[name]["memory_bytes"] for name in (GATEWAY, "worker1", "camera"))
    assert (tmp_path / "looker.json").stat().st_mode & 0o777 == 0o600
    for place in (("--state", tmp_path), ("--state", cluster.folder / "worker1")):  # one who looks on, and an edge
        told = cluster.dt("doctor", "--json", "--cache", tmp_path, *place)
        assert {f["check"]: f["text"] for f in json.loads(told.stdout)}["gateway"] == f"{at} has a plan"
    cluster.dt("revoke", "laptop", "--state", cluster.state)
    witness = guarded.witness()
    while cluster.dt("nodes", "--state", tmp_path, "--gateway", at).returncode == 0:
        assert witness.got.get(timeout=30)
    gone = cluster.dt("nodes", "--state", tmp_path)
    assert gone.returncode == 78 and "does not know this reader: 'dt enroll NAME --reader' prints a new line" in gone.stderr
    guarded.unharmed()


def test_several_who_look_on_as_the_same_user_hold_each_other_up_no_more_than_nodes(guarded: Stage) -> None:
    both = [guarded.as_user("looker", reads=True) for _ in range(2)]
    for one in both:
        one.hear("dt/source/+/outcome")
    guarded.unharmed()
    assert all(one.got.qsize() and one.state.empty() for one in both)


def test_an_enrolled_node_opens_numbers_ends_and_fails_no_frame_of_another(stage: Stage) -> None:
    """It says it all with its own keys: results for frames that nobody opened, for tiles that nobody lent it, failures."""
    cluster, guard, mole = stage.cluster, stage.mole_guard(), stage.as_mole()
    source, epoch, number = m.frame_source(cluster.frames(1)[0].frame)
    head: dict[str, Any] = {"node": "mole", "epoch": guard.keys.epoch, "plan": stage.plan}
    plan = cluster.bundle.plan

    def say(topic: topics.Topic, message: m.Message, tensors: Any = None, **levels: str) -> None:
        path = topic.path("dt", **levels)
        mole.say(path, guard.seal(topic, path, levels, message, encode(topic, message, tensors)) or b"")

    def lie() -> None:
        say(topics.REGISTER, m.Register(**head, seq=9, runtime=stage.runtime, waiting=999, priority=100, flops_s=1e15))
        for frame in (m.frame_id(source, epoch, n) for n in (number + 2, number + 5, 10**12 - 1)):
            for tile in range(plan.lanes):
                answer = m.ResultHeader(**head, frame=frame, block=0, tile=tile, request="0000000a", stolen=True)
                say(topics.RESULT, answer, outputs(plan, tile), frame=frame)
            failure = m.ResultHeader(**head, frame=frame, block=0, tile=0, error="any text")
            say(topics.RESULT, failure, {}, frame=frame)
            say(topics.RETURN, m.Return(**head, frame=frame, tiles=tuple(range(9)), error="any text"), node="camera")
            header = m.PictureHeader(node="mole", epoch=guard.keys.epoch, frame=frame, picture=(1, 1))
            say(topics.PICTURE, header, {"jpeg": np.zeros(9, np.uint8)}, source="camera")

    stage.refuses(lie, right=3)
    stage.unharmed()
    cluster.check_exact(cluster.frames(5))
    cluster.processes["gateway"].kill()
    cluster.processes["gateway"].wait()
    cluster.gateway()
    cluster.check_exact(cluster.frames(5))
    numbers = sorted(m.frame_source(o.frame)[2] for o in cluster.outcomes if o.frame.startswith(f"{source}-{epoch}-"))
    assert numbers[-11:] == list(range(numbers[-11], numbers[-11] + 11)), "they run on"
    assert "any text" not in cluster.log("gateway") and "mole" not in {n for o in cluster.outcomes for n in o.computed}


def test_a_gateway_that_starts_anew_has_its_nodes_back(guarded: Stage) -> None:
    cluster = guarded.cluster
    cluster.processes["gateway"].kill()
    cluster.processes["gateway"].wait()
    cluster.gateway()
    cluster.check_exact(cluster.frames(8))
    for name in ("worker1", "worker2", "camera"):
        assert cluster.processes[name].poll() is None
