"""Figures 11 to 15 of DeepThings (2018) from runs of ``bench.series``: ``python -m bench.plots RUNS.jsonl --out FOLDER``.

Measured is drawn solid, what the plan predicted dashed, the ideal dotted. A figure without runs is left out.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from bench.series import CUTS, GRIDS, read
from models.graph.build import build
from models.planning.cluster import Cluster
from models.planning.cost import memory
from models.planning.planner import fused_blocks, parse_grid
from models.tiling.division import Tiler
from models.tiling.partition import Partition

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#666666")
STYLE = {
    "font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "figure.constrained_layout.use": True,
}  # fmt: skip
Run = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.plots", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, help="what bench.series has written")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figures [figures]")
    options = parser.parse_args()
    runs = read(options.runs)
    if not runs:
        print(f"bench.plots: {options.runs} holds no runs of bench.series: see python -m bench.series --help", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update(STYLE)
    for name, draw in FIGURES.items():
        figure, axes = plt.subplots(figsize=(6.0, 3.8))
        if draw(axes, runs):
            path = options.out / f"{name}.png"
            figure.savefig(path, dpi=150)
            print(path)
        plt.close(figure)
    return 0


def memory_by_layer(axes: Any, runs: Sequence[Run]) -> bool:
    """Figure 11: what an edge needs, by the depth that is fused and the grid; predicted for one tile class."""
    tiler = Tiler(Partition(build("yolov2", layers=16)))
    for colour, grid in zip(COLOURS, GRIDS):
        tiles = parse_grid(grid)
        cluster = Cluster((1e10,) * len(tiles.homes), 60.0, 1e10)
        needs = []
        for name in CUTS:
            cut = tiler.partition.find(name)
            blocks = fused_blocks(tiler, [(cut, tiles)], classes=False)
            needs.append(memory(tiler, blocks, cut, cluster)["edge1"] / 1e6)
        axes.plot(CUTS, needs, "--", color=colour)
        peaks = {run["cut"]: _peak(run) / 1e6 for run in _shaped(runs) if run["grid"] == grid}
        known = [cut for cut in CUTS if cut in peaks]
        axes.plot(known, [peaks[cut] for cut in known], "-o", color=colour, label=grid)
    _named(axes, "last fused layer", "MB of an edge (measured: all tile classes)", "Memory by fused depth and grid")
    return True


def _peak(run: Run) -> int:
    peak: int = max(host["peak_bytes"] for name, host in run["hosts"].items() if name != "g")
    return peak


def bytes_by_grid(axes: Any, runs: Sequence[Run]) -> bool:
    """Figure 12: bytes of a frame on the wire, each hop counted once."""
    shaped = _shaped(runs)
    for colour, cut in zip(COLOURS, CUTS):
        own = sorted((run for run in shaped if run["cut"] == cut), key=lambda run: GRIDS.index(run["grid"]))
        grids = [run["grid"] for run in own]
        if own:
            axes.plot(grids, [run["wire_bytes"] / 1e6 for run in own], "-o", color=colour, label=cut)
            axes.plot(grids, [run["predicted_wire_bytes"] / 1e6 for run in own], "--", color=colour)
    _named(axes, "grid", "bytes a frame, MB", "Bytes on the wire")
    return bool(shaped)


def latency_by_edges(axes: Any, runs: Sequence[Run]) -> bool:
    """Figure 13: a frame's latency with one source and 1 to 6 edges."""
    single = [r for r in runs if r["sources"] == 1 and "--grid" not in r["argv"]]
    rates = sorted({r["rate_mbit"] for r in single})
    kinds = [("stealing", rate) for rate in rates] + [(s, rates[0]) for s in ("sharing", "modnn") if rates]
    for colour, (schedule, rate) in zip(COLOURS, kinds):
        own = {r["edges"]: r for r in single if r["schedule"] == schedule and r["rate_mbit"] == rate}
        _measured(axes, own, "latency_s", "predicted_s", f"{schedule}, {rate:g} Mbit/s", colour)
    alone = next((r for r in single if r["edges"] == 1), None)
    if alone is not None:
        axes.plot(range(1, 7), [alone["latency_s"] / n for n in range(1, 7)], ":", color="black", label="ideal")
    _named(axes, "edges", "latency of a frame, s", "One source")
    return bool(single)


def throughput_by_sources(axes: Any, runs: Sequence[Run]) -> bool:
    """Figure 14: frames a second of six edges with 1 to 6 sources."""
    six = {r["sources"]: r for r in runs if r["edges"] == 6 and r["rate_mbit"] == 60.0 and r["schedule"] == "stealing"
           and "--grid" not in r["argv"]}  # fmt: skip
    _measured(axes, six, "throughput_fps", "predicted_fps", "stealing, 60 Mbit/s", COLOURS[0])
    alone = next((r for r in runs if r["edges"] == 1 and r["rate_mbit"] == 60.0), None)
    if alone is not None:
        axes.axhline(6 * alone["throughput_fps"], linestyle=":", color="black", label="ideal: six times one edge")
    _named(axes, "sources", "frames a second", "Six edges")
    return bool(six)


def latency_by_depth(axes: Any, runs: Sequence[Run]) -> bool:
    """Figure 15: a frame's latency by the depth that is fused and the grid."""
    shaped = _shaped(runs)
    for colour, grid in zip(COLOURS, GRIDS):
        own = {CUTS.index(r["cut"]): r for r in shaped if r["grid"] == grid}
        _measured(axes, own, "latency_s", "predicted_s", grid, colour)
    axes.set_xticks(range(len(CUTS)), CUTS)
    _named(axes, "last fused layer", "latency of a frame, s", "Six edges, one source")
    return bool(shaped)


def _shaped(runs: Sequence[Run]) -> list[Run]:
    """Runs of one block whose grid and cut were given."""
    return [run for run in runs if "--grid" in run["argv"] and run["cut"] in CUTS and run["grid"] in GRIDS]


def _measured(axes: Any, own: dict[int, Run], key: str, predicted: str, label: str, colour: str) -> None:
    at = sorted(own)
    if at:
        axes.plot(at, [own[x][key] for x in at], "-o", color=colour, label=label)
        axes.plot(at, [own[x][predicted] for x in at], "--", color=colour)


def _named(axes: Any, x: str, y: str, title: str) -> None:
    axes.set(xlabel=x, ylabel=y, title=f"{title} (solid: measured, dashed: predicted)")
    axes.set_ylim(0, 1.05 * axes.dataLim.ymax)
    axes.legend()


FIGURES: dict[str, Callable[[Any, Sequence[Run]], bool]] = {
    "11-memory": memory_by_layer,
    "12-bytes": bytes_by_grid,
    "13-edges": latency_by_edges,
    "14-sources": throughput_by_sources,
    "15-depth": latency_by_depth,
}

if __name__ == "__main__":
    sys.exit(main())
