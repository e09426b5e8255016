"""What a message costs on a straight connection: processor time of both ends together, in one process on loopback.

`python -m bench.messages_direct` prints milliseconds a message: tiles are encoded and sent, received and admitted, one after
another. ``costs`` gives them by name.
"""

import json
import queue
import time
from typing import Any

import numpy as np

from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.topics import Publish
from schemas.security.seal import Seal
from schemas.wire.direct import STRAIGHT_BYTES, Direct, Straight
from schemas.wire.guard import Guard, OpenGuard

ROWS = {"direct_1k_ms": (1024, False), "direct_200k_ms": (200_000, False), "direct_200k_sealed_ms": (200_000, True)}
MESSAGES, WARM_UP = 400, 50
PATIENCE_S = 30.0
PLAN = "0" * 32


def costs() -> dict[str, float]:
    """Each of ``ROWS``."""
    return {name: cost_ms(*row) for name, row in ROWS.items()}


def cost_ms(size: int, sealed: bool, messages: int = MESSAGES) -> float:
    """Of a tile of so many bytes. Those below 4 KB, which else go by the broker, are sent straight all the same."""
    epochs, inboxes = {"victim": "0" * 8, "thief": "1" * 8}, dict[str, "queue.Queue[Any]"]()
    keys: dict[str, Seal | None] = dict.fromkeys(epochs)
    if sealed:
        keys = {name: Seal(name, epoch) for name, epoch in epochs.items()}
        for name, other in (("victim", "thief"), ("thief", "victim")):
            seal = keys[name]
            assert seal is not None
            seal.admit(other, f"{name}>{other}".encode().ljust(32), f"{other}>{name}".encode().ljust(32))
            seal.meet(other, epochs[other])
    ends = {}
    for name, epoch in epochs.items():
        inboxes[name] = queue.Queue()
        ends[name] = Direct("dt", name, epoch, inboxes[name], keys[name], least_bytes=min(size, STRAIGHT_BYTES))
    victim, thief, inbox, key = ends["victim"], ends["thief"], inboxes["thief"], keys["thief"]
    guard = OpenGuard() if key is None else Guard(key)
    header = m.TileHeader(
        node="victim", epoch=epochs["victim"], plan=PLAN, to_epoch=epochs["thief"], request="0" * 8,
        frame=m.frame_id("victim", epochs["victim"], 0), lease_s=10.0, token=PLAN,
    )  # fmt: skip
    tile = Publish(topics.TILE, header, {"node": "thief"}, {"image": np.random.default_rng(0).integers(0, 256, size, np.uint8)})

    def pass_one() -> None:
        if not victim.send(tile):
            raise RuntimeError("there is no straight connection")
        event = inbox.get(timeout=PATIENCE_S)
        assert isinstance(event, Straight)
        guard.admit("dt", event.topic, event.payload, PLAN, event.opened)

    try:
        for end in ends.values():
            end.open("127.0.0.1")
        peers = {name: m.Peer(epoch=epochs[name], address=end.address) for name, end in ends.items() if end.address}
        for end in ends.values():
            end.know(peers)
        deadline = time.monotonic() + PATIENCE_S
        while not (victim.peers and thief.peers) and time.monotonic() < deadline:
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


if __name__ == "__main__":
    print(json.dumps({name: round(cost, 3) for name, cost in costs().items()}))
