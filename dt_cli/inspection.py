"""What `dt inspect` prints: the verdict, operators in groups, the cuts that matter; in 80 columns."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from math import log2, prod
from typing import Any

from rich.table import Table

from dt_cli.output import short, size, table
from models.planning.planner import cut_bytes
from models.planning.search import useful_cuts
from models.tiling.partition import Cut, Partition

WIDTH, CUTS = 80, 12
_NAMED, _GROUPS = 22, 40  # characters of a cut's name; groups that are shown

Row = Mapping[str, Any]


def verdict(partition: Partition, operators: Sequence[Row], name: str) -> str:
    """How much of the model can be tiled, and what ends that."""
    graph = partition.graph
    image = graph.tensors[partition.image]
    live = [o for o in operators if o["tiling"] != "constant"]
    total = max(sum(o["flops"] for o in live), 1)
    tiled = sum(o["tiling"] == "tile" for o in live)
    head = f"{name}: {len(live)} operators, {total / 1e9:.3g} GFLOP, image {shape(image.shape)} {image.dtype}"
    told = f"{tiled} of {len(live)} operators can be tiled from the image on; {partition.divisible_share:.1%} of the FLOPs "
    told += "can be divided, with what lies between executed whole. "
    told += "Nothing ends the tiles." if not partition.blockers else f"Tiles alone end at {partition.describe_blocker()}."
    return "\n".join(textwrap.fill(line, WIDTH, break_long_words=False) for line in (head, told))


def chosen(partition: Partition) -> list[Cut]:
    """A dozen cuts, shallow to deep: of each size of map in turn the one that moves the fewest bytes, and the deepest."""
    graph, kept = partition.graph, useful_cuts(partition, most=len(partition.cuts))
    sizes: dict[tuple[int, ...], list[Cut]] = {}
    for cut in sorted(kept, key=lambda cut: cut_bytes(graph, cut)):
        smallest = min((graph.tensors[t].shape[-3:-1] for t in cut.tensors), key=prod)
        sizes.setdefault(smallest, []).append(cut)
    turns = [cut for turn in zip_longest(*sizes.values()) for cut in turn if cut is not None and cut is not kept[-1]]
    shown = {cut.name for cut in [*kept[-1:], *turns][:CUTS]}
    return [cut for cut in kept if cut.name in shown]


def shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def groups_table(operators: Sequence[Row]) -> Table:
    """Operators that follow each other on maps of about one size; those of constants alone are left out."""
    made = _narrow("Operators", "ops", "kinds", "output", "MFLOP", "tiling", left=("ops", "kinds", "output", "tiling"))
    found = list(_groups([o for o in operators if o["tiling"] != "constant"]))
    for group in found[:_GROUPS]:
        first, last = group[0], group[-1]
        counts = Counter(o["kind"] for o in group)
        kinds = ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in counts.most_common())
        span = str(first["index"]) if first is last else f"{first['index']}-{last['index']}"
        flops = sum(o["flops"] for o in group) / 1e6
        made.add_row(span, kinds, shape(last["shape"]), f"{flops:.1f}" if flops else "", _tiling(group))
    if len(found) > _GROUPS:
        made.add_row("", f"{len(found) - _GROUPS} more groups: --all", "", "", "")
    made.columns[1].max_width, made.columns[4].max_width = 32, 15
    return made


def _groups(operators: Sequence[Row]) -> Iterator[list[Row]]:
    """What cannot be tiled goes with what comes before it, up to the last that can."""
    tiled = [i for i, o in enumerate(operators) if o["tiling"] == "tile"]
    level, keys = 0, []
    for i, o in enumerate(operators):
        if o["tiling"] == "tile" and len(o["shape"]) == 4:
            level = round(log2(o["shape"][1] * o["shape"][2]) / 2)  # padding by a few pixels is no other size
        keys.append((level, not tiled or i > tiled[-1]))
    return ([o for _, o in group] for _, group in groupby(zip(keys, operators), key=lambda pair: pair[0]))


def _tiling(group: Sequence[Row]) -> str:
    reasons = [o["tiling"] for o in group if o["tiling"] != "tile"]
    if not reasons:
        return "tile"
    return f"{reasons[0]}" if len(reasons) == len(group) else f"tile, {len(reasons)} not"


def _narrow(title: str, *columns: str, left: tuple[str, ...]) -> Table:
    made = table(title, *columns, left=left)
    made.padding = (0, 1, 0, 0)
    return made


def operators_table(operators: Sequence[Row]) -> Table:
    """All of them, one a line."""
    made = table("Operators", "op", "kind", "output", "MFLOP", "tiling", left=("kind", "output", "tiling"))
    for o in operators:
        flops = f"{o['flops'] / 1e6:.1f}" if o["flops"] else ""
        made.add_row(str(o["index"]), o["kind"], shape(o["shape"]), flops, o["tiling"])
    return made


def cuts_table(cuts: Sequence[Row], legal: int) -> Table:
    """Cuts: the share of FLOPs before them, their bytes, all tiles' work over the whole's (- where a map is too small)."""
    grids = list(cuts[0]["redundancy"])
    title = f"{len(cuts)} of {legal} legal cuts" if len(cuts) < legal else f"{legal} legal cuts"
    title += ", and each grid's redundancy"
    made = _narrow(title, "op", "cut", "maps", "FLOPs", "output", *grids, left=("cut", "maps"))
    for c in cuts:
        redundancies = ["-" if c["redundancy"][g] is None else f"{c['redundancy'][g]:.2f}" for g in grids]
        first, *others = c["tensors"]
        name = f"{len(others) + 1} tensors" if others else short(c["name"], _NAMED)
        maps = shape(first["shape"][1:]) + (" ..." if others else "")
        made.add_row(str(c["op"]), name, maps, f"{c['flop_share']:.0%}", size(c["output_bytes"]), *redundancies)
    return made
