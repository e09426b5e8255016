"""Tiles from one edge to another through mosquitto on loopback, both ends in this process: plain, or by TLS with seals."""

import datetime
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gateway_agent import certificates, rules
from gateway_agent.mosquitto import MosquittoProcess, Protection
from gateway_agent.registry import Registry
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.security import keyring
from schemas.security.seal import Seal
from schemas.wire.guard import Guard, OpenGuard
from schemas.wire.link import Address, Arrived, Link

BACKLOG_BYTES = 800_000
EPOCH, DIGEST = "0000000a", "0" * 32
NODES = ("sender", "receiver")


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
    way: str, address: Callable[[str, str], Address], size: int
) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """To send one tile of ``size`` bytes, and to admit the next one that arrives."""
    guards = {name: Guard(seal) for name, seal in seals().items()} if way == "TLS + seal" else {n: OpenGuard() for n in NODES}
    inbox: queue.Queue[Any] = queue.Queue(2048)
    frame = m.frame_id("sender", EPOCH, 0)
    header = m.TileHeader(node="sender", epoch=EPOCH, plan=DIGEST, to_epoch=EPOCH, request=EPOCH, frame=frame)
    pixels = {"image": np.random.default_rng(1).integers(0, 256, size, np.uint8)}
    receiver = Link(address(way, "receiver"), "dt", "receiver", inbox, guard=guards["receiver"])
    sender = Link(address(way, "sender"), "dt", "sender", queue.Queue(2048), BACKLOG_BYTES, guards["sender"])
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


def seals() -> dict[str, Seal]:
    """Both nodes, which know each other's keys and epochs."""
    made = {name: Seal(name, EPOCH) for name in NODES}
    for one, other in (NODES, NODES[::-1]):
        made[one].admit(other, f"{one}>{other}".encode(), f"{other}>{one}".encode())
        made[one].meet(other, EPOCH)
    return made
