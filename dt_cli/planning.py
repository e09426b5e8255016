"""`dt plan --nodes --rate`: the plan that wins on a cluster, what is expected of it, and what a run has shown."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dt_cli.output import console, short, size, table, write_json
from models.bundle import Bundle, make_bundle, open_bundle, save
from models.graph.effort import arithmetic
from models.graph.file import load
from models.planning.cluster import Cluster
from models.planning.cost import Prediction, predict
from models.planning.devices import device
from models.planning.planner import BlockChoices, parse_block, parse_grid, places
from models.planning.search import Choice, Found, approximate_plan, best_plan, fits_undivided
from models.running.engine import threads
from models.running.speed import measure_speed
from models.tiling.division import Channels, Tiler, Whole
from models.tiling.partition import Partition
from schemas.contract.errors import PlanError
from schemas.wire.pace import measure_messages

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_COMPARED = ("latency_s", "throughput_fps", "wire_bytes")


@dataclass(frozen=True)
class Wishes:
    """What the user has said of the cluster and the plan; None: not said. Speeds in GFLOP/s, the rate in Mbit/s.

    ``message_speed``: how fast an edge handles messages, the reference core's being 1. ``device`` stands for both speeds.
    ``direct``: whether tiles and parts go straight from edge to edge; they do if it is not said, or as in the run to compare.
    ``radio``: all hosts share one channel.
    """

    nodes: int | None = None
    rate: float | None = None
    speed: float | None = None
    message_speed: float | None = None
    device: str | None = None
    gateway_speed: float | None = None
    memory: str | None = None
    window: int | None = None
    objective: str = "latency"
    force_split: bool = False
    explain: bool = False
    compare: Path | None = None
    direct: str | None = None
    radio: bool = False

    @property
    def is_said(self) -> bool:
        """Whether a cluster is meant at all."""
        return self.nodes is not None or self.rate is not None or self.compare is not None


class Shape(NamedTuple):
    """The plan that the user names; None and "auto" where it is for the planner to choose."""

    grid: str | None
    cut: str
    blocks: str | None
    whole: str | None = None
    approximate: bool = False

    @property
    def is_said(self) -> bool:
        return self.grid is not None or self.cut != "auto" or self.has_blocks

    @property
    def has_blocks(self) -> bool:
        """Whether it is more than a grid and a cut."""
        return self.blocks is not None or self.whole is not None

    def choices(self) -> BlockChoices:
        """Cut and division of each block."""
        grid = parse_grid(self.grid or "3x3")
        if self.blocks is not None and self.cut != "auto":
            raise PlanError("give --cut for one block or --blocks for several, not both")
        names = [self.cut] if self.blocks is None else [name.strip() for name in self.blocks.split(",")]
        whole = [] if self.whole is None else [name.strip() for name in self.whole.split(",")]
        chosen = [*(parse_block(name, grid) for name in names), *((name, Whole()) for name in whole)]
        if not self.approximate and any(isinstance(division, Channels) for _, division in chosen):
            raise PlanError("channels and pairs sum in another order than one machine, which is not exact: add --approximate")
        return chosen

    def bundle(self, model: Path) -> Bundle:
        """The model with this plan, or with the one that its folder holds."""
        if not self.has_blocks:
            return open_bundle(model, parse_grid(self.grid) if self.grid else None, self.cut)
        if model.is_dir():
            raise PlanError(f"{model} holds a plan already: give the model file to choose other blocks")
        return make_bundle(model, blocks=self.choices())


def plan_cluster(model: Path, shape: Shape, wishes: Wishes, out: Path | None, json_: Path | None) -> None:
    """Chooses a plan, or costs the one that is named, and says what is expected of it."""
    run = {} if wishes.compare is None else read_run(wishes.compare)
    partition = Partition(load(model))
    cluster = _cluster(wishes, run, arithmetic(partition.graph))
    parts: dict[str, int] = {}
    if not shape.is_said and run:
        shape = Shape(run.get("grid"), run.get("cut", "auto"), run.get("blocks"))
    if shape.is_said:
        chosen = shape.choices()
        found = None
        shares: tuple[float, ...] = ()
    else:
        with console.status("looking for the best plan"):
            found = best_plan(partition, cluster, wishes.objective, wishes.force_split)
            if shape.approximate:
                found, partition, parts = approximate_plan(partition, cluster, wishes.objective, found)
        chosen, shares = found.best.pieces, found.best.shares
    own = None if shape.is_said and parts == {} else partition
    made = make_bundle(model, blocks=chosen, partition=own, shares=shares, approximate=parts)
    bundle = _within(made, cluster)
    expected = predict(bundle.partition, bundle.plan, cluster)
    _show(model, bundle.cut.name, expected, cluster, found)
    if wishes.explain:
        _explain(expected, found)
    if run:
        _compare(expected, run)
    if out is not None:
        save(bundle, out)
        console.print(f"written to {out}: plan.json, card.json, model.tflite")
    held, is_approximate = places(bundle.partition, bundle.plan), bool(bundle.plan.approximate)
    write_json(json_, {**asdict(expected), "approximate": is_approximate, "places": held})


def _within(bundle: Bundle, cluster: Cluster) -> Bundle:
    """The same plan, which forbids sources to compute frames whole where a budget has no room for that."""
    if fits_undivided(Tiler(bundle.partition), bundle.cut, cluster):
        return bundle
    return replace(bundle, plan=bundle.plan.model_copy(update={"undivided": False}))


def read_run(path: Path) -> dict[str, Any]:
    """The last line of what ``python -m bench.cluster --json`` has written.

    Raises:
        PlanError: the file cannot be read or holds no such line.
    """
    try:
        lines = path.read_text().splitlines()
        said = json.loads(next(line for line in reversed(lines) if line.strip()))
        if isinstance(said, dict) and all(isinstance(said.get(key), int | float) for key in _COMPARED):
            return said
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, StopIteration):
        pass
    raise PlanError(f"{path} is no run of bench.cluster: its last line lacks {', '.join(_COMPARED)}")


def _cluster(wishes: Wishes, run: Mapping[str, Any], dtype: str) -> Cluster:
    nodes = wishes.nodes if wishes.nodes is not None else run.get("edges")
    rate = wishes.rate if wishes.rate is not None else run.get("rate_mbit")
    if nodes is None or rate is None:
        raise PlanError("give both --nodes (edges) and --rate (Mbit/s of each host's link)")
    if wishes.direct not in (None, "on", "off"):
        raise PlanError(f"--direct {wishes.direct!r}: give on or off")
    shares = float(run.get("edge_cpu", 1.0)), float(run.get("gateway_cpu", 1.0))
    speed, message_speed = _speeds(wishes, run, dtype, shares[0])
    as_edge, own = shares[1] / shares[0], wishes.gateway_speed is not None
    return Cluster(
        speeds=(speed,) * nodes,
        rate_mbit=rate,
        gateway_flops_s=wishes.gateway_speed * 1e9 if wishes.gateway_speed is not None else speed * as_edge,
        message_speeds=(message_speed,) * nodes,
        gateway_message_speed=0.0 if own else message_speed * as_edge,
        **_budgets(wishes.memory, nodes),
        sources=run.get("sources", 1),
        window=wishes.window or run.get("window", 2 if wishes.objective == "throughput" else 1),
        direct=(wishes.direct or run.get("direct", "off" if run else "on")) == "on",
        slice_s=Cluster.slice_s if run or not message_speed else 0.0,
        radio=wishes.radio or bool(run.get("radio")),
    )


def _speeds(wishes: Wishes, run: Mapping[str, Any], dtype: str, share: float) -> tuple[float, float]:
    """FLOP/s of an edge and how fast it handles messages (0: as its FLOP/s say): as said, of the device, or of this machine
    in the share of a core that the run had.
    """
    board = wishes.device or (run.get("device") if wishes.speed is None else None)
    if board is not None:
        if wishes.speed is not None or wishes.message_speed is not None:
            raise PlanError(f"--device {wishes.device} sets both speeds: give either --device, or --speed and --message-speed")
        return device(board)[:2]
    if wishes.speed is not None:
        return wishes.speed * 1e9, wishes.message_speed or 0.0
    here = measure_speed(dtype, 1 if run else threads())  # a run's nodes have one core, or less
    return here * share, wishes.message_speed or measure_messages() * share


def _budgets(text: str | None, nodes: int) -> dict[str, Any]:
    """``160MB`` for every edge, or ``edge1=120MB,edge2=64MB`` for some.

    Raises:
        PlanError: anything else.
    """
    if text is None or "=" not in text:
        return {"memory_bytes": None if text is None else parse_bytes(text)}
    named = [part.partition("=") for part in text.split(",")]
    known = {f"edge{i + 1}" for i in range(nodes)}
    strange = next((name.strip() for name, _, _ in named if name.strip() not in known), None)
    if strange is not None:
        raise PlanError(f"--memory {text!r}: there is no {strange!r}, only edge1 to edge{nodes}")
    return {"budgets": {name.strip(): parse_bytes(size) for name, _, size in named}}


def parse_bytes(text: str) -> int:
    """``23MB`` -> 23,000,000; kB, MB, GB and the binary KiB, MiB, GiB.

    Raises:
        PlanError: anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise PlanError(f"--memory {text!r}: give bytes such as 23MB or 512MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _show(model: Path, cut: str, expected: Prediction, cluster: Cluster, found: Found | None) -> None:
    speeds = f"{cluster.speeds[0] / 1e9:.1f} GFLOP/s an edge, {cluster.gateway_flops_s / 1e9:.1f} the gateway"
    speeds += f"; messages at {cluster.edge_message_speeds[0]:.2g} of the reference core's speed"
    way = "tensors straight from edge to edge" if cluster.direct else "all by the broker"
    rate = f"{cluster.rate_mbit:g} Mbit/s" + (" of one channel" if cluster.radio else "")
    console.print(f"{model.name} on {cluster.nodes} edges, {rate}, {way}, {speeds}")
    shown = table("", "block", "cut", "grid", "GFLOP", left=("cut",))
    for i, block in enumerate(expected.blocks):
        shown.add_row(str(i + 1), short(block["cut"], 60), block["grid"], f"{block['flops'] / 1e9:.2f}")
    console.print(shown)
    if found is not None and found.why:
        console.print(found.why)
    console.print(
        f"expected: {expected.latency_s:.3f} s a frame (bound {expected.bound_s:.3f}), "
        f"{expected.throughput_fps:.2f} frames/s, redundancy {expected.redundancy:.3f}, "
        f"{size(expected.wire_bytes)} on the wire, {size(expected.edge_memory_bytes)} an edge"
    )


def _explain(expected: Prediction, found: Found | None) -> None:
    hops = ", ".join(f"{hop} {size(count)}" for hop, count in expected.bytes_by_hop.items())
    console.print(f"bytes of a frame by hop: {hops}")
    console.print("memory: " + ", ".join(f"{host} {size(count)}" for host, count in expected.memory_bytes.items()))
    console.print(_who_runs_the_tail(expected, found))
    if found is None:
        return
    shown = table(
        "The closest rivals", "plan", "latency s", "frames/s", "redundancy", "wire", "memory", "bound s", left=("plan",)
    )
    for choice in (found.best, *found.rivals):
        shown.add_row(*_row(choice))
    console.print(shown)


def _who_runs_the_tail(expected: Prediction, found: Found | None) -> str:
    """Who computes what tiles do not, and what the best plan is expected to cost where somebody else does."""
    whole = sum(block["flops"] for block in expected.blocks if block["split"] == "whole")
    shares = [f"one edge {whole / 1e9:.2f} GFLOP of it whole"] if whole else []
    shares += [f"the gateway {expected.tail_flops / 1e9:.2f} GFLOP"] if expected.tail_flops else []
    told = f"the tail: {', '.join(shares) or 'there is none'}"
    if found is None or found.other is None:
        return told
    who = "one edge" if found.other.whole else "the gateway"
    return f"{told}; run by {who} instead: {found.other.prediction.latency_s:.3f} s a frame by {found.other.name}"


def _row(choice: Choice) -> list[str]:
    p = choice.prediction
    figures = [f"{p.latency_s:.3f}", f"{p.throughput_fps:.2f}", f"{p.redundancy:.3f}"]
    return [choice.name, *figures, size(p.wire_bytes), size(p.edge_memory_bytes), f"{p.bound_s:.3f}"]


def _compare(expected: Prediction, run: Mapping[str, Any]) -> None:
    shown = table("Predicted and measured", "", "predicted", "measured", "predicted / measured", left=("",))
    for key in _COMPARED:
        predicted, measured = float(getattr(expected, key)), float(run[key])
        ratio = f"{predicted / measured:.2f}" if measured else "-"
        shown.add_row(key, f"{predicted:.4g}", f"{measured:.4g}", ratio)
    console.print(shown)
