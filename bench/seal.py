"""What TLS and authentication cost: ``python -m bench.seal``.

Tiles of 200 KB from one edge to another through mosquitto on loopback, both ends in this process: plain, by TLS, and by TLS
with seals, as a sealed cluster sends them. Medians of turns that take turns:

- rate: tiles back to back, QoS 1, in MB/s of tile bytes that have arrived and been admitted.
- latency: one tile at a time, from before it is encoded until it is admitted, in ms.

And without a line: what sealing and opening one tile take on one core, in ms, for one receiver and for 16.
"""

import argparse
import datetime
import json
import queue
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gateway_agent import certificates, rules
from gateway_agent.mosquitto import MosquittoProcess, Protection
from gateway_agent.registry import Registry
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.errors import DtError
from schemas.security import keyring
from schemas.security.seal import Seal
from schemas.wire.codec import encode
from schemas.wire.guard import Guard, OpenGuard
from schemas.wire.link import Address, Arrived, Link

TILE_BYTES = 200_000
EPOCH, DIGEST = "0000000a", "0" * 32
NODES = ("sender", "receiver")
WAYS = ("plain", "TLS", "TLS + seal")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.seal", description=__doc__.partition("\n")[0])
    parser.add_argument("--tiles", type=int, default=300, help="tiles of a turn [300]")
    parser.add_argument("--turns", type=int, default=5, help="turns of each way [5]")
    parser.add_argument("--json", type=Path, help="write the same as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dt-bench-") as folder:
        found = {"ways": compare(Path(folder), given.tiles, given.turns), "core_ms": core()}
    show(found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def compare(folder: Path, tiles: int, turns: int) -> dict[str, dict[str, float]]:
    """MB/s and ms of each way."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    latencies: dict[str, list[float]] = {way: [] for way in WAYS}
    with brokers(folder) as address:
        for _ in range(turns):
            for way in WAYS:
                with ends(way, address) as (send, admit):
                    for _ in range(10):
                        send()
                        admit()
                    rates[way].append(_rate(send, admit, tiles))
                    latencies[way].append(_latency(send, admit, tiles // 5))
    return {
        way: {"mb_s": round(statistics.median(rates[way]), 1), "tile_ms": round(statistics.median(latencies[way]), 3)}
        for way in WAYS
    }


@contextmanager
def brokers(folder: Path) -> Iterator[Callable[[str, str], Address]]:
    """A plain and a protected mosquitto; the address of a node by way and name."""
    registry = Registry(folder)
    for name in NODES:
        registry.enroll(name, time.time())
    members = registry.read()
    held = certificates.certificates(folder, ["localhost"], datetime.datetime.now(datetime.timezone.utc))
    passwords, access = rules.password_file(members).encode(), rules.access_file("dt", members).encode()
    with MosquittoProcess() as plain, MosquittoProcess(protection=Protection(passwords, access, held.chain, held.key)) as safe:

        def address(way: str, name: str) -> Address:
            if way == "plain":
                return Address.parse(plain.url)
            password = keyring.password(bytes.fromhex(members.nodes[name].secret))
            return replace(Address.parse(safe.url), user=name, password=password, authority=held.authority)

        yield address


@contextmanager
def ends(
    way: str, address: Callable[[str, str], Address], size: int = TILE_BYTES
) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """To send one tile of ``size`` bytes, and to admit the next one that arrives."""
    guards = {name: Guard(seal) for name, seal in seals(2).items()} if way == "TLS + seal" else {n: OpenGuard() for n in NODES}
    inbox: queue.Queue[Any] = queue.Queue(2048)
    frame = m.frame_id("sender", EPOCH, 0)
    header = m.TileHeader(node="sender", epoch=EPOCH, plan=DIGEST, to_epoch=EPOCH, request=EPOCH, frame=frame)
    pixels = {"image": np.random.default_rng(1).integers(0, 256, size, np.uint8)}
    receiver = Link(address(way, "receiver"), "dt", "receiver", inbox, guard=guards["receiver"])
    sender = Link(address(way, "sender"), "dt", "sender", queue.Queue(2048), 4 * TILE_BYTES, guards["sender"])
    receiver.subscribe(topics.TILE, node="receiver")
    with sender, receiver:
        receiver.connect()
        sender.connect()

        def send() -> None:
            while not sender.publish(topics.TILE, header, pixels, node="receiver"):
                time.sleep(0.0002)

        def admit() -> None:
            while not isinstance(event := inbox.get(timeout=30), Arrived):
                pass
            (incoming,) = guards["receiver"].admit("dt", event.topic, event.payload, DIGEST)
            assert incoming.tensors["image"].nbytes == size

        yield send, admit


def _rate(send: Callable[[], Any], admit: Callable[[], Any], tiles: int) -> float:
    start, under_way = time.perf_counter(), 0
    for _ in range(tiles):
        send()
        under_way += 1
        if under_way > 4:
            admit()
            under_way -= 1
    for _ in range(under_way):
        admit()
    return tiles * TILE_BYTES / (time.perf_counter() - start) / 1e6


def _latency(send: Callable[[], Any], admit: Callable[[], Any], tiles: int) -> float:
    times = []
    for _ in range(tiles):
        start = time.perf_counter()
        send()
        admit()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def seals(count: int) -> dict[str, Seal]:
    """So many nodes (the first two are ``NODES``) that know each other's keys and epochs."""
    names = [*NODES, *(f"n{i}" for i in range(count - 2))]
    made = {name: Seal(name, EPOCH) for name in names}
    for one in names:
        for other in names:
            if one != other:
                made[one].admit(other, f"{one}>{other}".encode(), f"{other}>{one}".encode())
                made[one].meet(other, EPOCH)
    return made


def core() -> dict[str, float]:
    """Milliseconds of one core for one tile."""
    nodes = seals(17)
    header = m.TileHeader(node="sender", epoch=EPOCH, plan=DIGEST, to_epoch=EPOCH, request=EPOCH)
    payload = encode(topics.TILE, header, {"image": np.zeros(TILE_BYTES, np.uint8)})
    others = [(name, EPOCH) for name in nodes if name != "sender"]
    sealed = [nodes["sender"].seal("t", payload, others[:1]) for _ in range(200)]
    return {
        "seal for 1": _time(lambda n: nodes["sender"].seal("t", payload, others[:1])),
        "seal for 16": _time(lambda n: nodes["sender"].seal("t", payload, others)),
        "open": _time(lambda n: nodes["receiver"].open("t", sealed[n])),
    }


def _time(deed: Callable[[int], Any]) -> float:
    times = []
    for n in range(200):
        start = time.perf_counter()
        deed(n)
        times.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(times), 4)


def show(found: dict[str, Any]) -> None:
    table = Table("way", "MB/s", "ms a tile")
    for way, row in found["ways"].items():
        table.add_row(way, f"{row['mb_s']:.0f}", f"{row['tile_ms']:.2f}")
    console = Console()
    console.print(table)
    console.print(", ".join(f"{what} {ms:.3f} ms" for what, ms in found["core_ms"].items()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DtError as error:
        print(f"bench.seal: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
