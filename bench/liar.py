"""How soon an edge that sends wrong bits of the right shape is found: ``python -m bench.liar``.

A gateway, a camera's edge and five helpers as processes on loopback, default settings but for the grid; the last helper flips
the lowest bit of every byte that it computes, always or a share of its tiles (``--lies``), from the start or after so many
seconds (``--honest``). Told are the frames and seconds from its first wrong bits until the gateway names it, how many of them
came out wrong, and how many of them later than a second after that (what was under way is heard until then).
"""

import argparse
import json
import os
import random
import runpy
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.processes import OUTCOMES, Cluster
from edge_agent.sources import open_source
from edge_agent.sources.fit import fit
from gateway_agent.tail import digests
from models.bundle import Bundle, Reference, make_bundle
from models.planning.planner import parse_grid
from models.running.runner import TileRunner
from models.tiling.tensor import to_input
from schemas.contract import messages as m
from schemas.contract.errors import DtError

SOURCE = "synthetic://?scene=digits"
MODEL = Path(__file__).parent.parent / "models" / "zoo" / "digits.tflite"
LIES, HONEST = "BENCH_LIES", "BENCH_HONEST_S"
LATER_S, AFTER_S = 1.0, 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.liar", description=__doc__.partition("\n")[0])
    parser.add_argument("--grid", default="3x3", help="[3x3]")
    parser.add_argument("--edges", type=int, default=6, help="[6]")
    parser.add_argument("--lies", type=float, default=1.0, help="the share of its tiles that are wrong [1.0]")
    parser.add_argument("--honest", type=float, default=0.0, help="seconds before it begins [0]")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds to wait at most [300]")
    parser.add_argument("--json", type=Path, help="write the same as JSON")
    given = parser.parse_args()
    os.environ[LIES], os.environ[HONEST] = str(given.lies), str(given.honest)
    with (
        tempfile.TemporaryDirectory(prefix="dt-bench-") as folder,
        Cluster(MODEL, given.grid, "auto", Path(folder), OUTCOMES) as cluster,
    ):
        found = measure(cluster, given)
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["found_s"] is not None and not found["wrong_after"] else 1


def measure(cluster: Cluster, given: argparse.Namespace) -> dict[str, Any]:
    liar = f"edge{given.edges}"
    for n in range(2, given.edges):
        cluster.edge(f"edge{n}")
    cluster.edge(liar, module="bench.liar")
    for n in range(2, given.edges + 1):
        cluster.await_log(f"edge{n}", lambda said: "joined the cluster" in said)
    cluster.edge("edge1", "--source", SOURCE)
    truth, wrong = Truth(make_bundle(MODEL, parse_grid(given.grid))), 0
    first: tuple[float, int] | None = None
    found: float | None = None
    frames = before = 0
    until = time.monotonic() + given.honest + given.limit
    while time.monotonic() < until:
        heard = cluster.next(1.0)
        if found is None and f"{liar} gave wrong bits" in cluster.said("gateway"):
            found, until, last = time.monotonic(), time.monotonic() + AFTER_S, frames
        if heard is None or not isinstance(heard[2], m.Outcome):
            continue
        frames += 1
        outcome = heard[2]
        wrong += outcome.status == "ok" and outcome.digests != truth.digests(m.frame_source(outcome.frame)[2])
        if found is None or heard[0] < found + LATER_S:
            before = wrong
        if first is None and wrong:
            first = (heard[0], frames)
    known = found is not None and first is not None
    return {
        "lies": given.lies, "honest_s": given.honest, "frames": frames, "wrong": wrong,
        "found_s": round(found - first[0], 2) if found is not None and first is not None else None,
        "found_after_frames": last - first[1] + 1 if known and first is not None else None,
        "wrong_after": wrong - before if known else None,
    }  # fmt: skip


class Truth:
    """What the undivided model says of the source's frames."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._reference, self._known = bundle, Reference(bundle), dict[int, dict[str, str]]()
        self._images = open_source(SOURCE).frames()

    def digests(self, number: int) -> dict[str, str]:
        while number not in self._known:
            values = to_input(fit(next(self._images), self._bundle.plan.pixels), self._bundle.plan.pixels)
            self._known[len(self._known)] = digests(*self._reference.run(values))
        return self._known[number]


def lie() -> int:
    """An edge whose engine is wrong, given its command line."""
    run, share, since = TileRunner.run, float(os.environ[LIES]), time.monotonic() + float(os.environ[HONEST])

    def lying(self: TileRunner, *args: Any, **more: Any) -> Mapping[str, np.ndarray]:
        outputs = run(self, *args, **more)
        if time.monotonic() < since or random.random() >= share:
            return outputs
        return {name: _flipped(array) for name, array in outputs.items()}

    TileRunner.run = lying  # type: ignore[method-assign, assignment]
    runpy.run_module("dt_cli.main", run_name="__main__", alter_sys=True)
    return 0


def _flipped(array: np.ndarray) -> np.ndarray:
    copy = np.ascontiguousarray(array).copy()
    copy.reshape(-1).view(np.uint8)[:] ^= 1
    return copy


if __name__ == "__main__":
    try:
        sys.exit(lie() if sys.argv[1:2] == ["edge"] else main())
    except DtError as error:
        print(f"bench.liar: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
