"""The paper's experiments, one after another: ``python -m bench.series --json RUNS.jsonl`` (see ``bench.plots``).

Each run is one of ``bench.cluster`` on emulated hosts, alone on the machine. A run that the file holds already is not done
again, so a series that was interrupted goes on. ``--short`` takes less than five minutes on two cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.hosts import end_once, missing

CUTS = ("max3", "max7", "max11", "conv15")
BUSY = 8  # frames of each of several sources: of fewer one's last comes before another's first
GRIDS = ("1x1", "2x2", "2x3", "3x3", "4x4", "5x5")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.series", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="append one line a run to this file")
    parser.add_argument("--short", action="store_true", help="a few points of each figure")
    parser.add_argument("--frames", type=int, help="of each source [default: 6; short: 3]")
    options = parser.parse_args()
    end_once()
    reason = missing()
    if reason:
        print(f"skipped: {reason}")
        return 0
    frames = options.frames or (3 if options.short else 6)
    todo = list(dict.fromkeys(short_runs() if options.short else full_runs()))
    done = {tuple(line["argv"]) for line in read(options.json)}
    failed = 0
    for number, run in enumerate(todo, 1):
        count = max(frames, BUSY) if "--sources" in run else frames
        argv = ("--layers", "16", *run, "--frames", str(count))
        if argv in done:
            continue
        print(f"{number}/{len(todo)} {' '.join(run)}: ", end="", flush=True)
        failed += not measure(argv, options.json)
    return 1 if failed else 0


def short_runs() -> Iterator[tuple[str, ...]]:
    """Arguments of ``bench.cluster``, one tuple a run."""
    for edges in (1, 6):
        yield _run(edges)
    for schedule in ("sharing", "modnn"):
        yield _run(6, schedule=schedule)
    yield _run(6, sources=6)
    yield _run(6, grid="3x3", cut="conv15")


def full_runs() -> Iterator[tuple[str, ...]]:
    """The same for whole figures: the number of edges (13), of sources (14), depth and grid (11, 12, 15)."""
    for rate in (60, 100, 1000):
        for edges in range(1, 7):
            yield _run(edges, rate=rate)
        for schedule in ("sharing", "modnn"):
            for edges in (2, 4, 6):
                yield _run(edges, rate=rate, schedule=schedule)
    for sources in range(2, 7):
        yield _run(6, sources=sources)
    for cut in CUTS:
        for grid in GRIDS[2:]:
            yield _run(6, grid=grid, cut=cut)


def _run(edges: int, rate: int = 60, **more: object) -> tuple[str, ...]:
    options = [("edges", edges), ("rate", rate), *more.items()]
    return tuple(word for name, value in options for word in (f"--{name}", str(value)))


def measure(argv: tuple[str, ...], file: Path) -> bool:
    """One run; its line goes into ``file`` with its arguments."""
    with tempfile.TemporaryDirectory(prefix="dt-series-") as folder:
        told = Path(folder) / "run.jsonl"
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.cluster", *argv, "--json", str(told)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate()
        finally:
            process.terminate()  # it ends its hosts
            process.wait()
        if not told.exists():
            print(f"FAILED: {said.strip().splitlines()[-1] if said.strip() else process.returncode}")
            return False
        line = json.loads(told.read_text()) | {"argv": list(argv), "utc": round(time.time())}
    with file.open("a") as runs:
        runs.write(json.dumps(line) + "\n")
    print(f"{line['latency_s']:.2f} s (predicted {line['predicted_s']:.2f}), {line['throughput_fps']:.2f} frames/s")
    return bool(line["exact"])


def read(file: Path) -> list[dict[str, Any]]:
    """The runs of a series; none if the file is not there yet. ``bench.cluster``'s own lines do not say what was asked for."""
    if not file.exists():
        return []
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    return [line for line in lines if "argv" in line]


if __name__ == "__main__":
    sys.exit(main())
