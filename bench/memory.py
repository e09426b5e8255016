"""The memory of an edge without a camera: ``python -m bench.memory``.

YOLOv2-608, the 16 layers of the paper, 5x5 tiles, all computed in the plan's order by ``TileRunner`` from uint8 crops. One
row for each runtime, number of tile classes kept alive, and weight cache: none, built in this process, or found on disk;
where the runtime has none, the model mapped from a file in its folder.
Each row is a process of its own (``bench.memory_row``, which says what its marks mean).

All numbers are growth in MB (10^6 bytes) after the last tile, over the process that has imported all but loaded nothing
(``ready``); the largest after any tile stands beside it. What the imports themselves cost is printed below, so that growth
over the bare interpreter, or over numpy and the runtime alone, is the sum. The goal: at most 20 MB private with one class
alive and the weight cache.

``python -m bench.memory --plan DIR`` measures one place of a folder that ``dt plan`` wrote instead (``bench.memory_place``):
growth over a process that has imported an edge and runs nothing, of its own memory and of every page of weights that it has
touched, at most in three frames; at the first start, which packs weights, and at the next. Beside it stands what the plan
says of the place.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from models.bundle import make_bundle, open_bundle, save
from models.graph.build import build
from models.planning.planner import places

GOAL_MB = 20.0
KINDS = ("private", "uss", "resident")
ROOM = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.memory", description=__doc__.partition("\n")[0])
    parser.add_argument("--runtime-python", type=Path, action="append", default=[], metavar="PATH",
                        help="another interpreter to measure, such as one with tflite-runtime; may be repeated")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the same as JSON")
    parser.add_argument("--plan", type=Path, metavar="DIR", help="measure a place of this plan alone")
    parser.add_argument("--place", type=int, metavar="LANE", help="which; default: the one that is to need the most")
    parser.add_argument("--keep", type=int, default=1, help="of the place: engines alive at once")
    given = parser.parse_args()
    if given.plan is not None:
        result = measure_place(given.plan, given.place, given.keep)
        print(json.dumps(result, indent=1))
        if given.json:
            given.json.write_text(json.dumps(result, indent=1) + "\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="dt-bench-") as folder:
        room = Path(folder)
        graph = build("yolov2", layers=16)
        (room / "yolov2-16.tflite").write_bytes(graph.to_bytes())
        bundle = make_bundle(room / "yolov2-16.tflite", (5, 5), graph.tensors[graph.outputs[0]].name)
        save(bundle, room / "plan")
        classes = len({tile.tile_class for tile in bundle.plan.blocks[0].tiles})
        rows = []
        for python in (Path(sys.executable), *given.runtime_python):
            rows += list(measure(python, room / "plan", classes, room))
    goal = [row for row in rows if row["keep"] == 1 and row["cache"] == "on disk"]
    met = bool(goal) and all(row["growth_mb"]["private"] <= GOAL_MB for row in goal)
    show(rows, classes)
    if given.json:
        result = {"goal_mb": GOAL_MB, "met": met, "classes": classes, "rows": rows}
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if met else 1


def measure_place(folder: Path, place: int | None, keep: int) -> dict[str, Any]:
    """What a place is predicted to need, and what it took at its first start and at its next, in MB."""
    bundle = open_bundle(folder)
    predicted = places(bundle.partition, bundle.plan)
    if place is None:
        place = max(range(len(predicted)), key=lambda lane: int(predicted[lane]["memory_bytes"]))
    own = predicted[place]
    told = {"model": folder.name, "place": place, "blocks": [bundle.plan.blocks[i].kind for i in own["tasks"]], "keep": keep}
    told["predicted_mb"] = {name: round(own[f"{name}_bytes"] / 1e6, 1) for name in ("weight", "memory")}
    with tempfile.TemporaryDirectory(prefix="dt-bench-") as room:
        plan, cache = Path(room) / "plan", Path(room) / "cache"
        plan.mkdir()
        cache.mkdir()
        (plan / "edge.tflite").write_bytes(bundle.edge_model)
        (plan / "plan.json").write_text(bundle.plan.model_dump_json())
        for start in ("first", "next"):
            argv = [sys.executable, "-m", "bench.memory_place", str(plan), str(place), str(keep), str(cache)]
            found = json.loads(subprocess.run(argv, cwd=ROOM, stdout=subprocess.PIPE, check=True).stdout)
            grown = [(t["own"] - found["ready"], t["weights"]) for t in found["tasks"]]
            most = max(grown, key=sum)
            parts = zip(("memory", "own", "weights"), (sum(most), *most))
            told[f"{start}_start_mb"] = {name: round(count / 1e6, 1) for name, count in parts}
            told["ready_mb"], told["seconds_a_frame"] = round(found["ready"] / 1e6, 1), found["seconds_a_frame"]
    return told


def measure(python: Path, plan: Path, classes: int, room: Path) -> Iterator[dict[str, Any]]:
    """The rows of one interpreter. A runtime without a weight cache maps the model from the cache's folder instead."""
    for keep in (1, 3, classes):
        first = _row(python, plan, keep, None)
        yield _described(first, keep, "none")
        with tempfile.TemporaryDirectory(dir=room) as cache:
            built = _row(python, plan, keep, cache)
            if any(Path(cache).iterdir()):
                yield _described(built, keep, "built")
                yield _described(_row(python, plan, keep, cache), keep, "on disk")
            else:
                yield _described(built, keep, "model mapped")


def _row(python: Path, plan: Path, keep: int, cache: str | None) -> dict[str, Any]:
    argv = [str(python), "-m", "bench.memory_row", str(plan), str(keep), *([cache] if cache else [])]
    done = subprocess.run(argv, cwd=ROOM, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _described(found: dict[str, Any], keep: int, cache: str) -> dict[str, Any]:
    marks = {name: {kind: kb * 1024 / 1e6 for kind, kb in mark.items()} for name, mark in found["marks"].items()}
    return {
        "runtime": found["runtime"],
        "keep": keep,
        "cache": cache,
        "growth_mb": {kind: round(marks["end"][kind] - marks["ready"][kind], 1) for kind in KINDS},
        "most_mb": {kind: round(marks["most"][kind] - marks["ready"][kind], 1) for kind in KINDS},
        "imports_mb": {
            "bare": {kind: round(marks["bare"][kind], 1) for kind in KINDS},
            "numpy and runtime": {kind: round(marks["runtime"][kind] - marks["bare"][kind], 1) for kind in KINDS},
            "the rest of an edge's engine": {
                kind: round(marks["ready"][kind] - marks["runtime"][kind], 1) for kind in KINDS
            },
        },
        "seconds": round(found["seconds"], 2),
    }


def show(rows: list[dict[str, Any]], classes: int) -> None:
    """A table for people."""
    console = Console(highlight=False)
    table = Table(title="growth in MB: after the last tile (largest after any tile)", title_justify="left")
    for column in ("runtime", "classes alive", "weight cache", *KINDS, "25 tiles, s"):
        table.add_column(column, justify="left" if column in ("runtime", "weight cache") else "right")
    for row in rows:
        grown = (f"{row['growth_mb'][kind]:.1f} ({row['most_mb'][kind]:.1f})" for kind in KINDS)
        alive = f"all {classes}" if row["keep"] == classes else str(row["keep"])
        table.add_row(row["runtime"], alive, row["cache"], *grown, f"{row['seconds']:.2f}")
    console.print(table)
    for row in rows[:1]:
        for name, mb in row["imports_mb"].items():
            console.print(f"{name}: " + ", ".join(f"{mb[kind]:.1f} MB {kind}" for kind in KINDS))
    console.print(f"goal: at most {GOAL_MB:.0f} MB private with one class alive and the weight cache on disk")


if __name__ == "__main__":
    sys.exit(main())
