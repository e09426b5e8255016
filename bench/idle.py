"""What an idle cluster says: ``python -m bench.idle``. A gateway, three edges without a camera, nothing to compute.

A client at the broker hears every topic of the cluster and counts messages for a while, by topic and by sender; each
message counts once, when it is published. The goal: fewer than 2 messages a second and node (the gateway is a node).
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.processes import EVERYTHING, ROOT, Cluster
from models.graph.build import build
from schemas.contract import topics

GOAL = 2.0
SETTLE_S = 3.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.idle", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to count [20]")
    parser.add_argument("--edges", type=int, default=3, help="edges without a camera [3]")
    parser.add_argument("--json", type=Path, help="write the same as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dt-bench-") as folder:
        model = Path(folder) / "mini.tflite"
        model.write_bytes(build("mini").to_bytes())
        found = count(model, given.edges, given.seconds, Path(folder))
    show(found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["worst"] < GOAL else 1


def count(model: Path, edges: int, seconds: float, room: Path) -> dict[str, Any]:
    """Messages a second by topic and by sender, once every edge has joined."""
    names = [f"edge{i}" for i in range(1, edges + 1)]
    by_topic: Counter[str] = Counter()
    by_node: Counter[str] = Counter(dict.fromkeys(("gateway", *names), 0))
    with Cluster(model, "3x3", "auto", room, [EVERYTHING]) as cluster:
        for name in names:
            cluster.edge(name)
        for name in names:
            cluster.await_log(name, lambda said: "joined the cluster" in said)
        end = time.monotonic() + SETTLE_S
        while (left := end - time.monotonic()) > 0:
            cluster.next(left)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            heard = cluster.next(left)
            if heard:
                _, topic, message = heard
                by_topic[topics.find(ROOT, topic)[0].pattern] += 1
                by_node[message.node] += 1
    rates = {name: round(n / seconds, 3) for name, n in by_node.items()}
    return {
        "goal": GOAL,
        "seconds": seconds,
        "by_topic": {name: round(n / seconds, 3) for name, n in by_topic.most_common()},
        "by_node": rates,
        "mean": round(sum(by_node.values()) / seconds / len(by_node), 3),
        "worst": max(rates.values()),
    }


def show(found: dict[str, Any]) -> None:
    """A table for people."""
    console = Console(highlight=False)
    table = Table(title=f"messages a second over {found['seconds']:.0f} s, idle", title_justify="left")
    table.add_column("")
    table.add_column("sent", justify="right")
    for name, rate in (*found["by_node"].items(), *found["by_topic"].items()):
        table.add_row(name, f"{rate:.2f}")
    console.print(table)
    console.print(
        f"mean {found['mean']:.2f}, worst {found['worst']:.2f} a second and node; goal below {found['goal']:.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
