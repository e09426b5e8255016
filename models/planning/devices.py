"""What known boards do, for plans without one at hand: their kernels' effort a second, and how fast their Python is.

No figure is of this program on the board: they are worked out of public ones, and a node that runs measures its own.

Kernels, four threads: XNNPACK's README (github.com/google/XNNPACK) has MobileNet v2 1.0 in float32, whose effort
(``models.graph.effort``) is 0.80 GFLOP, in 79 ms on a Pi 3 B+ and in 44 ms on a Pi 4 at 1.5 GHz, so 37 ms at today's 1.8.

Kernels, one thread, estimates: ncnn's benchmark/README.md (github.com/Tencent/ncnn) has MobileNet in 124 ms with one thread
and 61 with four on a Pi 4, ResNet-50 in 534 and 263: half of four threads'. A Cortex-A53, which the Pi 3 has, takes 394 and
163, 1803 and 783: 0.43 of them.

The Pi 5, estimates: its Cortex-A76 at 2.4 GHz does 16 operations a cycle (38 GFLOP/s; github.com/Bing1002/rpi-deploy), the
Pi 4's A72 8 (14 GFLOP/s), of which the figure above is three quarters; we take as much here, and twice that with four threads.

Memory: of a board of 1, 2 and 4 GB, less what the system takes.

Python, estimates, against a server's core of 2023: a fifth on the Pi 4 (ours: no source times the same interpreter on both).
The Pi 3 B+ is 2.1 times slower (MP-Whetstone by R. Longbottom, raspberrypi.org/forums t=44080; sysbench,
leoncode.co.uk/articles/raspberry-pi-benchmarks), the Pi 5 about 2.2 times faster (sysbench 1.9 there, 2.3 at zbotic.in).
"""

from typing import NamedTuple

from schemas.contract.errors import PlanError


class Device(NamedTuple):
    """Effort a second of its engine, how fast it handles messages (the reference core: 1), and what of its memory is free."""

    flops_s: float
    message_speed: float
    memory_bytes: int


DEVICES = {  # with four threads, as an edge has them, and with one (`dt edge --threads 1`)
    "pi3": Device(10e9, 0.1, 900_000_000),
    "pi3-1": Device(4.4e9, 0.1, 900_000_000),
    "pi4": Device(22e9, 0.2, 1_800_000_000),
    "pi4-1": Device(10.8e9, 0.2, 1_800_000_000),
    "pi5": Device(58e9, 0.45, 3_700_000_000),
    "pi5-1": Device(29e9, 0.45, 3_700_000_000),
}


def device(name: str) -> Device:
    """The board of this name.

    Raises:
        PlanError: there is none.
    """
    if name not in DEVICES:
        raise PlanError(f"no figures for device {name!r}: choose one of {', '.join(DEVICES)}, or give its speeds")
    return DEVICES[name]
