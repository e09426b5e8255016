"""What twelve intruders cost a sealed cluster: ``python -m bench.intruders``.

A sealed gateway on loopback with its own mosquitto, two workers and a camera, joined by their lines, the small network.
Frames a second without and with intruders, in turns. The intruders, all at once, each again every ``--every`` s: no
password, a wrong one, another's client id, a forged result, a replayed one, a register as another, ``dt/#``, a tampered
plan, a newcomer by an open line until no more fit and then as often; a packet of 60 MB and a spoilt registry every 5 s; 50
connections that never get done. The goal: at least 0.9 of the rate.

They share the processors with the cluster, while real ones bring their own: with ``--apart`` they have the lowest priority, and
beside the quiet turns a process of that priority spends as much processor time as they do, so that what differs is what they do
to the cluster. Told is the processor time of a frame, too, of the gateway, its broker and the edges, in ms, and how many
processors the intruders kept busy.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import queue
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.processes import OUTCOMES, Cluster
from edge_agent.membership import EdgeGuard, Membership
from gateway_agent.certificates import fingerprint
from gateway_agent.registry import FILE, Permission, Registry
from models.bundle import make_bundle
from models.graph.build import build
from models.running.engine import kernels
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DtError
from schemas.contract.messages import frame_id, frame_source, new_epoch
from schemas.contract.plan import Block
from schemas.security import keyring
from schemas.security.permission import JoinToken, joiner, joiner_password
from schemas.wire.codec import encode
from schemas.wire.guard import OpenGuard
from schemas.wire.link import Address, Arrived, Link

GOAL = 0.9
LOWEST = 19
WARM_S = 5.0
FRAME_BYTES = 100  # of its id
SPAWN = multiprocessing.get_context("spawn")
BIG = 60_000_000


class SealedCluster(Cluster):
    """The processes of ``bench.processes``, sealed."""

    def __init__(self, model: Path, room: Path) -> None:
        super().__init__(model, "3x3", "auto", room, OUTCOMES)
        self.registry, self.plan = Registry(room / "gateway"), make_bundle(model, (3, 3)).plan
        self.room, self.latest = room, SPAWN.Array("c", frame_id("camera", "0" * 8, 0).encode().ljust(FRAME_BYTES))

    @cached_property
    def open_line(self) -> tuple[str, Permission]:
        """By which anybody may join."""
        return self.registry.permit(None, time.time() + 6000, time.time())

    def gateway_options(self) -> list[str]:
        (self.room / "gateway").mkdir(mode=0o700, exist_ok=True)
        return ["--sealed", "--state", str(self.room / "gateway")]

    def address(self, name: str) -> Address:
        """The login of an enrolled node or reader."""
        authority = (self.room / "gateway" / "ca.pem").read_text()
        secret = bytes.fromhex(self.registry.read().nodes[name].secret)
        return replace(Address.parse(self.url), user=name, password=keyring.password(secret), authority=authority)

    def watcher(self) -> Address:
        self.registry.enroll("bench", time.time(), reads=True)
        time.sleep(2.0)  # the gateway looks once a second
        return self.address("bench")

    def edge_options(self, name: str) -> list[str]:
        permission, granted = self.registry.permit(name, time.time() + 600, time.time())
        at, authority = Address.parse(self.url), (self.room / "gateway" / "ca.pem").read_text()
        found = JoinToken(str(at), "dt", name, permission, granted.secret, fingerprint(authority))
        time.sleep(2.0)
        return [*super().edge_options(name), "--join", str(found)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.intruders", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of a turn [10]")
    parser.add_argument("--turns", type=int, default=5, help="turns without and with intruders [5]")
    parser.add_argument("--every", type=float, default=0.2, help="seconds between an intruder's attempts [0.2]")
    parser.add_argument("--apart", action="store_true", help="as if intruders had machines of their own")
    parser.add_argument("--json", type=Path, help="write the same as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dt-bench-") as folder:
        model = Path(folder) / "mini.tflite"
        model.write_bytes(build("mini").to_bytes())
        cluster = SealedCluster(model, Path(folder))
        with cluster:
            found = compare(cluster, given.seconds, given.turns, given.every, given.apart)
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["ratio"] >= GOAL and not found["failed"] else 1


def compare(cluster: SealedCluster, seconds: float, turns: int, every: float, apart: bool) -> dict[str, Any]:
    cluster.registry.enroll("mole", time.time())
    for name in ("worker1", "worker2"):
        cluster.edge(name)
    time.sleep(8.0)
    cluster.edge("camera", "--source", "synthetic://")
    _count(cluster, 8.0)
    rates: dict[str, list[float]] = {"quiet": [], "attacked": []}
    spent: dict[str, dict[str, list[float]]] = {kind: {"gateway": [], "broker": [], "edges": []} for kind in rates}
    failed, deeds, lies, busy = 0, 0, 0, [_processors(cluster, every, apart)]
    for _ in range(turns):
        for kind in rates:
            intruders = Intruding(cluster, every, apart) if kind == "attacked" else None
            before = cluster.processor_s()
            with _burning(statistics.median(busy) if apart and intruders is None else 0.0):
                frames, bad = _count(cluster, seconds)
            used = {name: 1000 * (s - before[name]) / max(frames, 1) for name, s in cluster.processor_s().items()}
            for name in ("gateway", "broker"):
                spent[kind][name].append(used.pop(name))
            spent[kind]["edges"].append(sum(used.values()))
            rates[kind].append(frames / seconds)
            failed += bad
            if intruders is not None:
                tried, told, share = intruders.stop()
                busy.append(share)
                deeds, lies = deeds + tried, lies + told
    medians = {kind: round(statistics.median(found), 2) for kind, found in rates.items()}
    frame_ms = {kind: {name: round(statistics.median(ms), 1) for name, ms in of.items()} for kind, of in spent.items()}
    quiet, attacked = (sum(frame_ms[kind].values()) for kind in rates)
    return {
        "frames_s": medians, "ratio": round(medians["attacked"] / medians["quiet"], 3), "apart": apart,
        "frame_ms": frame_ms, "processor_ratio": round(quiet / attacked, 3),
        "intruders_processors": round(statistics.median(busy), 2), "failed": failed, "attempts": deeds, "lies": lies,
        "goal": GOAL,
    }  # fmt: skip


def _processors(cluster: SealedCluster, every: float, apart: bool) -> float:
    """How many the intruders keep busy."""
    intruders = Intruding(cluster, every, apart)
    _count(cluster, WARM_S)
    return intruders.stop()[2]


@dataclass(frozen=True)
class Target:
    """What intruders know: the login of an enrolled node, the gateway's folder, an open line, and the plan's first block."""

    mole: Address
    secret: str
    registry: Path
    permission: str
    line_secret: str
    block: Block


class Intruding:
    """Intruders in a process of their own, so that nothing of them delays who counts."""

    def __init__(self, cluster: SealedCluster, every: float, apart: bool) -> None:
        permission, granted = cluster.open_line
        mole = cluster.registry.read().nodes["mole"]
        registry = cluster.room / "gateway" / FILE
        block = cluster.plan.blocks[0]
        target = Target(cluster.address("mole"), mole.secret, registry, permission, granted.secret, block)
        self._end, self._told = SPAWN.Event(), SPAWN.Queue()
        given = (target, cluster.latest, every, apart, self._end, self._told)
        self._process = SPAWN.Process(target=_intrude, args=given, daemon=True)
        self._process.start()
        self._told.get()  # they have begun

    def stop(self) -> tuple[int, int, float]:
        """How often they tried, how often the insider lied, and how many processors they kept busy."""
        self._end.set()
        found: tuple[int, int, float] = self._told.get()
        self._process.join()
        return found


def _intrude(target: Target, latest: Any, every: float, apart: bool, end: Any, told: Any) -> None:
    if apart:
        os.nice(LOWEST)
    intruders = Intruders(target, latest, every)
    told.put(None)
    begun, own = time.monotonic(), time.process_time()
    end.wait()
    share = (time.process_time() - own) / (time.monotonic() - begun)
    told.put((intruders.stop(), intruders.insider.lies, share))


@contextlib.contextmanager
def _burning(share: float) -> Iterator[None]:
    """A process of the lowest priority that spends this share of a processor meanwhile."""
    burner = subprocess.Popen([sys.executable, "-c", _BURN, str(share)], stdin=subprocess.DEVNULL) if share else None
    try:
        yield
    finally:
        if burner is not None:
            burner.kill()
            burner.wait()


_BURN = f"""
import os, sys, time
os.nice({LOWEST})
while True:
    begun, end = time.monotonic(), time.thread_time() + 0.01 * float(sys.argv[1])
    while time.thread_time() < end: pass
    time.sleep(max(begun + 0.01 - time.monotonic(), 0.0))
"""


def _count(cluster: SealedCluster, seconds: float) -> tuple[int, int]:
    """Frames that end within so many seconds, and how many of them fail."""
    cluster.forget()
    deadline, frames, failed = time.monotonic() + seconds, 0, 0
    while (left := deadline - time.monotonic()) > 0:
        heard = cluster.next(left)
        if heard is not None and isinstance(heard[2], m.Outcome):
            cluster.latest[:] = heard[2].frame.encode().ljust(FRAME_BYTES)
            frames += 1
            failed += heard[2].status != "ok"
    return frames, failed


class Intruders:
    """Threads that try; ``stop`` tells how often they did."""

    def __init__(self, target: Target, latest: Any, every: float) -> None:
        mole = target.mole
        self._mole, self._registry = mole, target.registry
        self._permission = target.permission
        self._secret, user = bytes.fromhex(target.line_secret), joiner(self._permission)
        newcomer = replace(mole, user=user, password=joiner_password(target.line_secret))
        self._newcomer = Link(newcomer, "dt", "newcomer", queue.Queue(1000), guard=OpenGuard())
        self._newcomer.start()
        self._done, self._counts = threading.Event(), 0
        self._link = Link(mole, "dt", "mole", queue.Queue(1000), guard=OpenGuard())
        self._link.start()
        self._half = [socket.create_connection((mole.host, mole.port)) for _ in range(50)]
        self.insider = Insider(target, latest)
        often = (self.insider.lie, self._strangers, self._forge, self._join)
        deeds = [*((deed, every) for deed in often), (self._big, 5.0), (self._spoil, 5.0)]
        self._threads = [threading.Thread(target=self._again, args=deed, daemon=True) for deed in deeds]
        for thread in self._threads:
            thread.start()

    def stop(self) -> int:
        self._done.set()
        for thread in self._threads:
            thread.join()
        self.insider.close()
        self._link.close(0.0)
        self._newcomer.close(0.0)
        for line in self._half:
            line.close()
        return self._counts

    def _again(self, deed: Callable[[], None], every: float) -> None:
        while not self._done.wait(every):
            with contextlib.suppress(OSError, DtError):
                deed()
            self._counts += 1

    def _strangers(self) -> None:
        """No password, a wrong one, another's client id."""
        for user, password in ((None, None), ("worker1", "wrong"), ("mole", "wrong")):
            address = replace(self._mole, user=user, password=password)
            with contextlib.suppress(DtError):
                Link(address, "dt", "worker1", queue.Queue(10)).connect(1.0)

    def _forge(self) -> None:
        """A result and a register of another, a replay of them, all topics, a plan."""
        frame = frame_id("camera", "0" * 8, 0)
        result = m.ResultHeader(node="worker1", epoch="0" * 8, plan="0" * 32, frame=frame, block=0, tile=0)
        register = m.Register(node="camera", epoch="0" * 8, seq=1, runtime="", leaving=True)
        for _ in range(2):
            self._link.publish(topics.RESULT, result, {}, frame=frame)
            self._link.publish(topics.REGISTER, register)
        self._link._client.subscribe([("dt/#", 1)])
        self._link._client.publish("dt/plan", encode(topics.REGISTER, register), 1, True)

    def _join(self) -> None:
        """One more member with a long name."""
        name, public = new_epoch().ljust(64, "x"), keyring.Attempt().public
        proof = keyring.ask_proof(self._secret, name, "0" * 8, self._permission, public)
        ask = m.JoinRequest(node=name, epoch="0" * 8, permission=self._permission, public=public, proof=proof)
        self._newcomer.publish(topics.JOIN, ask, permission=self._permission)

    def _spoil(self) -> None:
        """What becomes of the registry on a bad disk."""
        self._registry.write_bytes(b"{")

    def _big(self) -> None:
        """60 MB by nobody."""
        context = ssl.create_default_context(cadata=self._mole.authority)
        context.check_hostname = False
        with context.wrap_socket(socket.create_connection((self._mole.host, self._mole.port))) as line:
            line.settimeout(2.0)
            line.sendall(b"\x10" + bytes([0x80, 0x8E, 0xCE, 0x1C]) + bytes(BIG))


class Insider:
    """An enrolled node with its keys, which says everything about the camera's frames."""

    def __init__(self, target: Target, latest: Any) -> None:
        place = Membership(name="mole", root="dt", gateway="-", secret=target.secret, permission="0" * 8)
        self._block, self._latest, self._inbox, self._seq = target.block, latest, queue.Queue[Any](1000), 0
        self.lies = 0  # rounds of them, once it knew the plan
        self._guard, self._runtime, self._plan = EdgeGuard(place, m.new_epoch()), kernels(), ""
        self._link = Link(target.mole, "dt", "mole", self._inbox, guard=self._guard)
        for topic in (topics.ECHO, topics.KEYS, topics.STEAL):
            self._link.subscribe(topic, node="mole")
        self._link.start()

    def close(self) -> None:
        self._link.close(0.0)

    def lie(self) -> None:
        self._listen()
        self._seq += 1
        head: dict[str, Any] = {"node": "mole", "epoch": self._guard.keys.epoch}
        claims: dict[str, Any] = {"waiting": 999, "priority": 100} if self._plan else {}
        plan: dict[str, Any] = {"plan": self._plan} if self._plan else {}
        self._link.publish(topics.REGISTER, m.Register(**head, **plan, **claims, seq=self._seq, runtime=self._runtime))
        if not self._plan:
            return
        head |= plan
        self.lies += 1
        source, epoch, number = frame_source(bytes(self._latest[:]).decode().strip())
        for n in (number + 1, number + 2, 10**12 - 1):
            frame, tile, shape = frame_id(source, epoch, n), self._seq % len(self._block.tiles), self._block
            zeros = {s.name: np.zeros(shape.tiles[tile].outputs[s.name].shape, s.dtype) for s in shape.cut}
            answer = m.ResultHeader(**head, frame=frame, block=0, tile=tile, request="0000000a", stolen=True)
            self._link.publish(topics.RESULT, answer, zeros, frame=frame)
            failure = m.ResultHeader(**head, frame=frame, block=0, tile=tile, error="any text")
            self._link.publish(topics.RESULT, failure, {}, frame=frame)
            self._link.publish(topics.RETURN, m.Return(**head, frame=frame, tiles=(tile,), error="any text"), node="camera")
            shown = m.PictureHeader(node="mole", epoch=self._guard.keys.epoch, frame=frame, picture=(1, 1))
            self._link.publish(topics.PICTURE, shown, {"jpeg": np.zeros(9, np.uint8)}, source="camera")

    def _listen(self) -> None:
        """Keys, and which plan runs; who asks for a tile waits in vain."""
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._inbox.get_nowait()
                if isinstance(event, Arrived):
                    for heard in self._guard.admit("dt", event.topic, event.payload, None):
                        self._plan = getattr(heard.message, "plan", self._plan)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DtError as error:
        print(f"bench.intruders: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
