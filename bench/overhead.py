"""What a cluster of one edge costs over the plain interpreter loop: ``python -m bench.overhead``.

YOLOv2-608, the 16 layers of the paper, one tile, one edge, embedded broker, all on loopback. Per frame, medians:

- loop: uint8 pixels to the model's values, set, invoke, get, by the interpreter on one thread, in this process. It reads
  no source; the edge does.
- cluster, as an edge runs (two frames may be open at once): the time from one frame's outcome to the next, and the
  latency from the gateway's first word of a frame to its outcome.
- one frame at a time: the same.

Loop and cluster take turns within one run, and no edge runs while the loop does. The first frames of a turn, which load
the model, do not count. The ratio is that of a turn's mean to the mean of the loops before and after it, because outcomes
may come in bunches and other programs come and go; of all turns the median. The goal: at most 1.10.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.processes import OUTCOMES, PATIENCE_S, Cluster
from edge_agent.sources import open_source
from edge_agent.sources.fit import fit
from models.bundle import Bundle, make_bundle
from models.graph.build import build
from models.graph.file import load
from models.running import engine
from models.running.runner import TileRunner
from models.tiling.tensor import to_input
from schemas.contract import messages as m
from schemas.contract.errors import DtError

GOAL = 1.10
SOURCE = "synthetic://?width=608&height=608"
WARM_UP = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.overhead", description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=20, help="frames of a turn that count [20]")
    parser.add_argument("--turns", type=int, default=3, help="turns of loop and cluster [3]")
    parser.add_argument("--layers", type=int, default=16, help="layers of YOLOv2, all of them distributed [16]")
    parser.add_argument("--json", type=Path, help="write the same as JSON")
    given = parser.parse_args()
    engine.silence_runtime()
    with tempfile.TemporaryDirectory(prefix="dt-bench-") as folder:
        room = Path(folder)
        model = room / f"yolov2-{given.layers}.tflite"
        graph = build("yolov2", layers=given.layers)
        model.write_bytes(graph.to_bytes())
        cut = graph.tensors[graph.outputs[0]].name
        bundle = make_bundle(model, (1, 1), cut)
        found = compare(bundle, room, given.frames, given.turns)
        found["compute_ms"] = split(bundle, room, given.frames)
    show(found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["ratio"] <= GOAL else 1


def compare(bundle: Bundle, room: Path, frames: int, turns: int) -> dict[str, Any]:
    """Loop and edge, two frames open or one, in turns: milliseconds of single frames, and ratios of whole turns."""
    images = [fit(image, bundle.plan.pixels) for image in islice(open_source(SOURCE).frames(), 4)]
    plain = engine.load(bundle.edge_model)
    loops = [_loop(plain, bundle, images, frames)]
    ratios: dict[int, list[float]] = {1: [], 2: []}
    intervals: dict[int, list[float]] = {1: [], 2: []}
    latency: dict[int, list[float]] = {1: [], 2: []}
    compute: list[float] = []
    with Cluster(bundle.path, "1x1", bundle.cut.name, room, OUTCOMES) as cluster:
        for window in (2, 1) * turns:
            outcomes, seconds = _turn(cluster, window, frames + WARM_UP)
            loops.append(_loop(plain, bundle, images, frames))
            spent = [b - a for (a, _), (b, _) in pairwise(outcomes[WARM_UP - 1 :])]
            ratios[window].append(statistics.mean(spent) / statistics.mean(loops[-1] + loops[-2]))
            intervals[window] += spent
            latency[window] += [o.latency_s for _, o in outcomes[WARM_UP:]]
            compute.append(seconds / len(outcomes))
    ms = {
        "loop": [seconds for loop in loops for seconds in loop],
        "cluster": intervals[2],
        "cluster, latency": latency[2],
        "one at a time": intervals[1],
        "one at a time, latency": latency[1],
    }
    return {
        "goal": GOAL,
        "ratio": statistics.median(ratios[2]),
        "ratio_one_at_a_time": statistics.median(ratios[1]),
        "ratios_of_turns": ratios[2],
        "ms": {name: _quartiles(values) for name, values in ms.items()},
        "compute_s_of_a_frame_ms": round(1000 * statistics.median(compute), 2),
    }


def _loop(plain: engine.Engine, bundle: Bundle, images: list[np.ndarray], frames: int) -> list[float]:
    seconds = []
    for i in range(frames + WARM_UP):
        start = time.perf_counter()
        plain.run([to_input(images[i % len(images)], bundle.plan.pixels)])
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def _turn(cluster: Cluster, window: int, frames: int) -> tuple[list[tuple[float, m.Outcome]], float]:
    """One life of the edge: outcomes with the time of their arrival, and the edge's compute seconds in all."""
    cluster.edge("edge1", "--window", str(window), "--source", SOURCE, "--frames", str(frames))
    outcomes: list[tuple[float, m.Outcome]] = []
    status: m.Status | None = None
    while len(outcomes) < frames or status is None or status.computed < frames:
        heard = cluster.next()
        if heard is None:
            raise DtError(f"no frame has ended for {PATIENCE_S:.0f} s")
        at, _, message = heard
        if isinstance(message, m.Outcome):
            if message.status != "ok":
                raise DtError(f"frame {message.frame} failed: {message.reason}")
            outcomes.append((at, message))
        elif isinstance(message, m.Status) and message.node == "edge1":
            status = message
    cluster.stop("edge1")
    return outcomes, status.compute_s


def split(bundle: Bundle, room: Path, frames: int) -> dict[str, float]:
    """Milliseconds of the parts of an edge's ``compute_s``: what the first frame loads, and the rest of every frame.

    The last is no part of it: for how long no other thread of this process could run Python while the engine computed.
    An edge that stands still so long neither lends nor asks for tiles; an engine that releases the lock shows 1-5 ms.
    """
    image = fit(next(iter(open_source(SOURCE).frames())), bundle.plan.pixels)
    cache = room / "cache"
    cache.mkdir()
    [name] = [spec.name for spec in bundle.plan.blocks[0].inputs]

    def run(runner: TileRunner) -> float:
        start = time.perf_counter()
        runner.run(0, 0, {name: image})
        return time.perf_counter() - start

    def convert() -> float:
        start = time.perf_counter()
        to_input(image, bundle.plan.pixels)
        return time.perf_counter() - start

    first = run(TileRunner(bundle.plan, load(bundle.path), cache))
    runner = TileRunner(bundle.plan, load(bundle.path), cache)
    second = run(runner)
    conversion = statistics.median(convert() for _ in range(frames))
    steady = statistics.median(run(runner) for _ in range(frames))
    parts = {
        "pixels to values": conversion,
        "engine: write, invoke, read": steady - conversion,
        "first frame, no weight cache": first - steady,
        "first frame, weight cache on disk": second - steady,
        "other threads stand still": statistics.median(_stall(lambda: run(runner)) for _ in range(5)),
    }
    return {part: round(1000 * seconds, 2) for part, seconds in parts.items()}


def _stall(work: Callable[[], object]) -> float:
    """The longest time between two signs of life of a thread that wakes every millisecond while ``work`` runs."""
    signs = [time.perf_counter()]
    done = threading.Event()

    def live() -> None:
        while not done.wait(0.001):
            signs.append(time.perf_counter())

    thread = threading.Thread(target=live)
    thread.start()
    work()
    signs.append(time.perf_counter())
    done.set()
    thread.join()
    return max(b - a for a, b in pairwise(signs))


def _quartiles(seconds: list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(np.array(seconds) * 1000, [25, 50, 75])
    return {"p25": round(low, 2), "p50": round(middle, 2), "p75": round(high, 2)}


def show(found: dict[str, Any]) -> None:
    """A table for people."""
    console = Console(highlight=False)
    base = found["ms"]["loop"]["p50"]
    table = Table(title=f"ms a frame on {engine.kernels()}", title_justify="left")
    for column in ("", "median", "quartiles", "of medians"):
        table.add_column(column, justify="left" if not column else "right")
    for name, q in found["ms"].items():
        table.add_row(name, f"{q['p50']:.1f}", f"{q['p25']:.1f} - {q['p75']:.1f}", f"{q['p50'] / base:.3f}")
    console.print(table)
    console.print(
        f"compute_s of an edge: {found['compute_s_of_a_frame_ms']:.1f} ms a frame, loading included; it splits into:"
    )
    for name, ms in found["compute_ms"].items():
        console.print(f"  {name}: {ms:.1f} ms")
    turns = ", ".join(f"{ratio:.3f}" for ratio in found["ratios_of_turns"])
    console.print(f"ratio {found['ratio']:.3f} (turns: {turns}), goal {found['goal']:.2f}")
    console.print(f"one frame at a time: ratio {found['ratio_one_at_a_time']:.3f}")


if __name__ == "__main__":
    sys.exit(main())
