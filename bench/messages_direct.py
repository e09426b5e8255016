"""What a message costs on a straight connection: processor time of both ends together, in one process on loopback.

Tiles are encoded and sent, received and admitted, one after another; ``bench.messages`` prints it beside the broker's.
"""

import queue
import time
from typing import Any

import numpy as np

from bench.messages_broker import DIGEST, EPOCH, NODES, seals
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.topics import Publish
from schemas.security.seal import Seal
from schemas.wire.direct import STRAIGHT_BYTES, Direct, Straight
from schemas.wire.guard import Guard, OpenGuard

ROWS = {"direct_1k_ms": (1024, False), "direct_200k_ms": (200_000, False), "direct_200k_sealed_ms": (200_000, True)}
WARM_UP = 50
PATIENCE_S = 30.0


def cost_ms(size: int, sealed: bool, messages: int) -> float:
    """Of a tile of so many bytes. Those below 4 KB, which else go by the broker, are sent straight all the same."""
    keys = seals() if sealed else dict[str, Seal]()
    inboxes: dict[str, queue.Queue[Any]] = {name: queue.Queue() for name in NODES}
    ends = {
        name: Direct("dt", name, EPOCH, inbox, keys.get(name), least_bytes=min(size, STRAIGHT_BYTES))
        for name, inbox in inboxes.items()
    }
    (sender, receiver), (name, other) = ends.values(), NODES
    inbox, key = inboxes[other], keys.get(other)
    guard = OpenGuard() if key is None else Guard(key)
    header = m.TileHeader(
        node=name, epoch=EPOCH, plan=DIGEST, to_epoch=EPOCH, request=EPOCH, frame=m.frame_id(name, EPOCH, 0), lease_s=10.0,
        token=DIGEST,
    )  # fmt: skip
    tile = Publish(topics.TILE, header, {"node": other}, {"image": np.random.default_rng(0).integers(0, 256, size, np.uint8)})

    def pass_one() -> None:
        if not sender.send(tile):
            raise RuntimeError("there is no straight connection")
        event = inbox.get(timeout=PATIENCE_S)
        assert isinstance(event, Straight)
        guard.admit("dt", event.topic, event.payload, DIGEST, event.opened)

    try:
        for end in ends.values():
            end.open("127.0.0.1")
        peers = {name: m.Peer(epoch=EPOCH, address=end.address) for name, end in ends.items() if end.address}
        for end in ends.values():
            end.know(peers)
        deadline = time.monotonic() + PATIENCE_S
        while not (sender.peers and receiver.peers) and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(WARM_UP):
            pass_one()
        begun = time.process_time()
        for _ in range(messages):
            pass_one()
        return 1000 * (time.process_time() - begun) / messages
    finally:
        for end in ends.values():
            end.close()

