"""How fast this machine handles messages, which its kernels' speed does not tell: the planner prices the two apart."""

import time

import numpy as np

from schemas.contract import messages as m
from schemas.contract import topics
from schemas.security.seal import SECRET_BYTES, Seal
from schemas.wire.codec import decode, encode

_MESSAGES_S = 0.1
# Of the reference core, for a message as ``measure_messages`` sends it. An estimate: 68 us were measured on a server's core at
# 2.9 GHz on which kernels got 105 of the reference core's 220 GFLOP/s, which is taken to slow Python to 0.6.
_MESSAGE_S = 42e-6


def measure_messages() -> float:
    """How fast messages are handled here, the reference core being 1: a small tile encoded, sealed, opened and decoded again,
    a tenth of a second. One thread, whatever the engine has; the mean, other work of the machine included.
    """
    key = bytes(SECRET_BYTES)
    sender, receiver = Seal("victim", "00000000"), Seal("thief", "00000001")
    sender.admit("thief", key, key)
    receiver.admit("victim", key, key)
    header = m.TileHeader(
        node="victim", epoch=sender.epoch, plan="0" * 32, to_epoch=receiver.epoch, request="00000000",
        frame=m.frame_id("victim", sender.epoch, 0), token="0" * 32,
    )  # fmt: skip
    tensors, path = {"image": np.ones((1, 16, 16, 4), np.uint8)}, topics.TILE.path("dt", node="thief")

    def send() -> None:
        sealed = sender.seal(path, encode(topics.TILE, header, tensors), [("thief", receiver.epoch)])
        decode("dt", path, receiver.open(path, sealed).payload)

    send()
    sent, begun = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begun) < _MESSAGES_S:
        send()
        sent += 1
    return _MESSAGE_S * sent / seconds
