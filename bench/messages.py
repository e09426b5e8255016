"""What a message costs: ``python -m bench.messages [--json FILE]``, in ms of processor time, both ends together.

Tiles of 1 KB and of 200 KB from one edge to another, one at a time, QoS 1: from a machine's action (``Link.send``) to what the
other machine hears (``admit``), in one process, which has both ends and nothing else; mosquitto's own time is not in it. By
the broker, on loopback, plain and by TLS with seals; and straight from node to node (``bench.messages_direct``). Medians of
turns that take turns.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import messages_direct
from bench.messages_broker import brokers, ends
from schemas.contract.errors import DtError

WAYS = {
    "broker_1k_ms": ("plain", 1_000),
    "broker_200k_ms": ("plain", 200_000),
    "broker_200k_sealed_ms": ("TLS + seal", 200_000),
}
WARM = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.messages", description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=400, help="messages of a turn [400]")
    parser.add_argument("--turns", type=int, default=5, help="turns of each way [5]")
    parser.add_argument("--json", type=Path, help="write the same as JSON")
    given = parser.parse_args()
    found = measure(given.messages, given.turns)
    for key, value in found.items():
        print(f"{key:28} {value:.3f}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def measure(messages: int, turns: int) -> dict[str, float]:
    """Milliseconds by key."""
    costs: dict[str, list[float]] = {way: [] for way in (*WAYS, *messages_direct.ROWS)}
    with tempfile.TemporaryDirectory(prefix="dt-bench-") as folder, brokers(Path(folder)) as address:
        for _ in range(turns):
            for key, (way, size) in WAYS.items():
                with ends(way, address, size) as (send, admit):
                    costs[key].append(cost(send, admit, messages))
            for key, row in messages_direct.ROWS.items():
                costs[key].append(messages_direct.cost_ms(*row, messages))
    return {key: round(statistics.median(ms), 3) for key, ms in costs.items()}


def cost(send: Callable[[], Any], admit: Callable[[], Any], messages: int) -> float:
    """This process's processor time of one message, in ms."""
    for _ in range(WARM):
        send()
        admit()
    begun = time.process_time()
    for _ in range(messages):
        send()
        admit()
    return 1000 * (time.process_time() - begun) / messages


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DtError as error:
        print(f"bench.messages: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
