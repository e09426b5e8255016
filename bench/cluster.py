"""A cluster on emulated hosts (`bench.hosts`): how long a frame takes, what it moves, what it costs each host.

`python -m bench.cluster --edges 6 --sources 1 --rate 60 --edge-cpu 0.15 --gateway-cpu 0.25 --layers 16`

The plan is the planner's choice unless ``--grid`` or ``--blocks`` names one. With ``--edges 1 --grid 1x1`` this is one edge
alone, the time that others are shares of. Latency runs from the gateway's first word of a frame, which its source says
before it sends any tile, to the frame's outcome, and is measured with one frame at a time, after the helpers have loaded
what fits into their memory; throughput with two frames in flight. The processor of a single camera is limited once its first
frame has ended, that of several before they start; ``--frames`` are counted from the first one's end. Every answer is
compared with the unpartitioned model's.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.hosts import ONE_CORE, Hosts, measured
from edge_agent.sources import open_source
from edge_agent.sources.fit import fit
from gateway_agent.tail import digests
from models.bundle import Bundle, Reference, make_bundle, save
from models.graph.build import build
from models.graph.effort import arithmetic
from models.graph.file import load
from models.planning.cluster import Cluster
from models.planning.cost import predict
from models.planning.devices import DEVICES, Device, device
from models.planning.planner import BlockChoices, parse_grid
from models.planning.search import best_plan, by_layers, judged_by, useful_cuts
from models.running.speed import measure_speed
from models.tiling.division import Tiles, Whole
from models.tiling.partition import Cut, Partition
from models.tiling.tensor import to_input
from schemas.contract.errors import DtError
from schemas.contract.messages import frame_source
from schemas.wire.pace import measure_messages

PORT = 1883
PATIENCE_S = 120.0
ALONE_S = 3600.0
QUIET_S = 0.5
SPEEDS = 5  # a shared machine is now faster, now slower


def main() -> int:
    options = _options()
    told = measured("cluster", lambda room: Run(options, room).run(), options.json)
    Console(width=160, highlight=False).print(
        f"{told['edges']} edges, {told['sources']} sources, {told['rate_mbit']:g} Mbit/s, {told['grid']} to {told['blocks']}: "
        f"latency {told['latency_s']:.2f} s (predicted {told['predicted_s']:.2f}, bound {told['bound_s']:.2f}), "
        f"{told['throughput_fps']:.2f} frames/s ({told['predicted_fps']:.2f}), {told['wire_bytes'] / 1e6:.2f} MB a frame, "
        f"redundancy {told['redundancy']:.2f}, exact: {told['exact']}"
    )
    return 0 if told["exact"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.cluster", description="A cluster on emulated hosts.")
    parser.add_argument("--edges", type=int, default=6)
    parser.add_argument("--sources", type=int, default=1)
    parser.add_argument("--rate", type=float, default=60.0, help="Mbit/s of every host, up and down")
    parser.add_argument("--radio", action="store_true", help="all hosts share one channel of that rate, as Wi-Fi does")
    parser.add_argument("--edge-cpu", type=float, default=0.15, help="share of a core")
    parser.add_argument("--gateway-cpu", type=float, default=0.25, help="share of a core")
    parser.add_argument(
        "--device", choices=DEVICES,
        help="all hosts are this board: engines paced to its speed, shares of a core for its Python, its memory; "
        "instead of --edge-cpu and --gateway-cpu (pi4-1: one thread of a Pi 4)",
    )  # fmt: skip
    parser.add_argument("--model", type=Path, help="a .tflite file [default: YOLOv2-608]")
    parser.add_argument("--layers", type=int, help="of YOLOv2, from the first; 16 is the paper's experiment")
    parser.add_argument("--grid", help="default: what the planner chooses")
    parser.add_argument("--cut", default="auto", help="default: the last layer that is kept")
    parser.add_argument("--blocks", help="several blocks instead: their cuts, separated by commas")
    parser.add_argument("--whole", help="blocks behind those, each whole on one edge: their cuts; end is the model's end")
    parser.add_argument("--divided", action="store_true", help="compute tile by tile where a node is alone, too")
    parser.add_argument("--recompute", action="store_true", help="no reuse between the tiles of one node")
    parser.add_argument("--direct", default="on", choices=("on", "off"), help="tiles and parts straight from edge to edge")
    parser.add_argument("--broker", default="auto", help="amqtt, mosquitto, or auto: mosquitto if it is installed")
    parser.add_argument(
        "--schedule", default="stealing", choices=("stealing", "sharing", "modnn", "lop", "pipeline-simple"),
        help="sharing: tiles dealt equally, frame after frame (FTP-WSH); "
        "modnn: strips of one dimension, exchanged after each layer that has a halo, as MoDNN (BODP-MR) does; "
        "lop: each layer by its filters, as DeeperThings without fusion; pipeline-simple: as many layers on each node, one "
        "after another, as Hadidi's simple pipeline",
    )  # fmt: skip
    parser.add_argument("--objective", default="latency", help="of the planner: latency, throughput or traffic")
    parser.add_argument("--force-split", action="store_true", help="divide frames even where one node is faster")
    parser.add_argument("--frames", type=int, default=6, help="of each source")
    parser.add_argument("--window", type=int, help="frames of a source in flight [default: 1, with several sources 2]")
    parser.add_argument("--json", type=Path, help="append one JSON line to this file")
    return parser.parse_args()


def baseline(schedule: str, partition: Partition, cluster: Cluster) -> BlockChoices:
    """The blocks of ``lop`` or ``pipeline-simple``, as they were published."""
    layers = by_layers(partition, cluster)
    if schedule == "lop":
        return layers
    stages = min(cluster.nodes, len(layers))
    return [(layers[len(layers) * (stage + 1) // stages - 1][0], Whole(stage)) for stage in range(stages)]


class Run:
    """One measurement."""

    def __init__(self, options: argparse.Namespace, room: Path) -> None:
        self._options, self._room = options, room
        if options.edges < max(options.sources, 1):
            raise DtError(f"{options.sources} sources for {options.edges} edges: give more edges")
        self._window = options.window or (1 if options.sources == 1 else 2)
        self._frames = options.frames + self._window  # of each source: these were under way before its limit was in force
        self._model = options.model or room / "yolov2.tflite"
        if options.model is None:
            self._model.write_bytes(build("yolov2", layers=options.layers).to_bytes())
        self._partition = Partition(load(self._model))
        speed = statistics.median(measure_speed(arithmetic(self._partition.graph)) for _ in range(SPEEDS))
        messages = statistics.median(measure_messages() for _ in range(SPEEDS))
        self._board = device(options.device) if options.device else None
        if self._board is not None:  # what the engine takes of the core beside what Python may
            options.edge_cpu = options.gateway_cpu = self._board.message_speed / messages + self._board.flops_s / speed
        own, gateways = (  # a share of a core slows engine and messages alike
            Device(speed * share, messages * share, 0) if self._board is None else self._board
            for share in (options.edge_cpu, options.gateway_cpu)
        )
        self._cluster = Cluster(
            speeds=(own.flops_s,) * options.edges,
            rate_mbit=options.rate,
            gateway_flops_s=gateways.flops_s,
            message_speeds=(own.message_speed,) * options.edges,
            gateway_message_speed=gateways.message_speed,
            sources=options.sources,
            window=self._window,
            direct=options.direct == "on",
            radio=options.radio,
        )
        self._bundle = self._plan()
        self._expected = predict(self._bundle.partition, self._bundle.plan, self._cluster)
        self._env = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "HOME": str(room), **ONE_CORE}

    def _plan(self) -> Bundle:
        options, partition = self._options, self._partition
        blocks, shares = self._choice(partition)
        self._divisions = [division for _, division in blocks]
        bundle = make_bundle(self._model, blocks=blocks, reuse=not options.recompute, partition=partition, shares=shares)
        if options.schedule == "sharing":
            bundle = replace(bundle, plan=bundle.plan.model_copy(update={"schedule": "sharing", "undivided": False}))
        if options.divided:
            bundle = replace(bundle, plan=bundle.plan.model_copy(update={"undivided": False}))
        save(bundle, self._room / "plan")
        return bundle

    def _choice(self, partition: Partition) -> tuple[BlockChoices, tuple[float, ...]]:
        """Cuts and grid, and shares of the tiles, as they were named or as the planner chooses them."""
        options = self._options
        if options.schedule == "modnn":
            chain: list[Cut] = []
            for cut in useful_cuts(partition):
                if not chain or set(chain[-1].ops) < set(cut.ops):
                    chain.append(cut)
            return [(cut, Tiles(options.edges, 1)) for cut in chain], ()
        if options.schedule in ("lop", "pipeline-simple"):
            return baseline(options.schedule, partition, self._cluster), ()
        if options.grid is None and options.blocks is None and options.whole is None:
            objective = judged_by(options.objective, self._cluster)
            best = best_plan(partition, self._cluster, objective, options.force_split).best
            return best.pieces, best.shares
        grid = parse_grid(options.grid or "2x3")
        last = partition.cuts[-1].name if options.cut == "auto" and options.layers else options.cut
        whole = [(name, Whole()) for name in options.whole.split(",")] if options.whole else []
        return [*((name, grid) for name in (options.blocks or last).split(",")), *whole], ()

    def run(self) -> dict[str, Any]:
        options = self._options
        edges = [f"e{i + 1}" for i in range(options.edges)]
        cores: dict[str, float | None] = {"g": options.gateway_cpu} | dict.fromkeys(edges, options.edge_cpu)
        memory = dict.fromkeys(cores, self._board.memory_bytes) if self._board is not None else {}
        with Hosts(cores | {"w": None}, options.rate, memory, options.radio) as hosts:
            url = f"{hosts.address('g')}:{PORT}"
            gateway = ["gateway", "--model", str(self._room / "plan"), "--listen", f"{hosts.address('g')}:{PORT}", "--insecure"]
            gateway += ["--broker", options.broker, "--state", str(self._room / "state")]
            self._dt(hosts, "g", *gateway, "--deadline", str(ALONE_S))
            self._await("g.log", "gateway ready")
            watch = [sys.executable, "-m", "bench.watch", url, str(self._room / "heard")]
            hosts.spawn("w", watch, self._room / "w.log", self._env)
            self._await("heard", "ready")
            cameras = edges[: options.sources]
            helpers = edges[options.sources :]
            for name in helpers:
                self._edge(hosts, name, url)
            self._until(lambda: set(helpers) <= {line.get("node") for line in self._heard()}, "the edges to join")
            self._until(lambda: _is_quiet(hosts, helpers), "the edges to load their tile classes")
            late = {*cameras} if len(cameras) == 1 else set()  # of several, the first would be through before the last begins
            hosts.limit({"g", *edges} - late)
            for i, name in enumerate(cameras):
                source = f"synthetic://?width=608&height=608&seed={i + 1}"
                self._edge(
                    hosts, name, url, "--source", source, "--frames", str(self._frames), "--window", str(self._window)
                )
            self._until(lambda: len(self._begun()) == len(cameras), "the first frames")
            hosts.limit(late)
            sent, cpu, before = hosts.sent_bytes(), hosts.cpu_s(), len(self._outcomes())
            total = self._frames * options.sources
            self._until(lambda: len(self._outcomes()) >= total, f"{total} frames")
            moved = {name: count - sent[name] for name, count in hosts.sent_bytes().items()}
            used = {name: seconds - cpu[name] for name, seconds in hosts.cpu_s().items()}
            return self._told(moved, used, hosts.peak_bytes(), total - before)

    def _told(self, moved: dict[str, int], used: dict[str, float], peak: dict[str, int], frames: int) -> dict[str, Any]:
        options, outcomes, blocks = self._options, self._outcomes(), self._bundle.plan.blocks
        divided = ",".join(f"{block.name}={division}" for block, division in zip(blocks, self._divisions))
        counted = [o for o in outcomes if frame_source(o["frame"])[2] >= self._window]
        steady = [o for o in counted if frame_source(o["frame"])[2] > self._window]
        return {
            "edges": options.edges,
            "sources": options.sources,
            "rate_mbit": options.rate,
            "device": options.device,
            "radio": options.radio,
            "edge_cpu": options.edge_cpu,
            "gateway_cpu": options.gateway_cpu,
            "schedule": options.schedule,
            "direct": options.direct,
            "grid": f"{blocks[0].rows}x{blocks[0].cols}",
            "blocks": divided,
            "cut": self._bundle.cut.name,
            "frames": len(outcomes),
            "window": self._window,
            "latency_s": statistics.median(o["latency_s"] for o in steady),
            "throughput_fps": throughput(counted),
            "wire_bytes": sum(moved[n] for n in moved if n != "w") / max(frames, 1),
            "predicted_s": self._expected.latency_s,
            "predicted_fps": self._expected.throughput_fps,
            "bound_s": self._expected.bound_s,
            "predicted_wire_bytes": self._expected.wire_bytes,
            "redundancy": self._expected.redundancy,
            "flops_s": self._cluster.speeds[0],
            "exact": self._exact(outcomes),
            "hosts": {n: {"cpu_s": used[n], "sent_bytes": moved[n], "peak_bytes": peak[n]} for n in moved if n != "w"},
        }

    def _exact(self, outcomes: list[dict[str, Any]]) -> bool:
        reference, pixels = Reference(self._bundle), self._bundle.plan.pixels
        wanted = {}
        for i in range(self._options.sources):
            source = open_source(f"synthetic://?width=608&height=608&seed={i + 1}&frames={self._frames}")
            for number, image in enumerate(source.frames()):
                wanted[f"e{i + 1}", number] = digests(*reference.run(to_input(fit(image, pixels), pixels)))
        named = {(frame_source(o["frame"])[0], frame_source(o["frame"])[2]): o for o in outcomes}
        return set(named) == set(wanted) and all(named[key]["digests"] == want for key, want in wanted.items())

    def _dt(self, hosts: Hosts, name: str, *argv: str) -> None:
        program = ["dt_cli.main"] if self._board is None else ["bench.paced", str(self._board.flops_s)]
        hosts.spawn(name, [sys.executable, "-m", *program, *argv], self._room / f"{name}.log", self._env)

    def _edge(self, hosts: Hosts, name: str, url: str, *more: str) -> None:
        cache = str(self._room / f"cache-{name}")
        straight = ("--direct", self._options.direct)
        self._dt(hosts, name, "edge", "--gateway", url, "--name", name, "--cache", cache, *straight, *more)

    def _heard(self) -> list[dict[str, Any]]:
        lines = (self._room / "heard").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def _outcomes(self) -> list[dict[str, Any]]:
        return [line for line in self._heard() if line["kind"] == "Outcome"]

    def _begun(self) -> set[str]:
        """Cameras that have had an answer; each has its edge's name."""
        return {frame_source(o["frame"])[0] for o in self._outcomes()}

    def _await(self, file: str, text: str) -> None:
        path = self._room / file
        self._until(lambda: path.exists() and text in path.read_text(), f"{text!r} in {file}")

    def _until(self, done: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            if time.monotonic() > deadline:
                last = {p.name: p.read_text().strip().splitlines()[-1:] for p in self._room.glob("*.log")}
                raise DtError(f"waited {PATIENCE_S:g} s for {what}: {last}")
            time.sleep(0.1)


def _is_quiet(hosts: Hosts, names: Sequence[str]) -> bool:
    """Whether these hosts do nothing much, by what their processors did in a while."""
    before = hosts.cpu_s()
    time.sleep(QUIET_S)
    after = hosts.cpu_s()
    return all(after[name] - before[name] < QUIET_S / 20 for name in names)


def throughput(outcomes: Sequence[Mapping[str, Any]]) -> float:
    """Frames a second while every source had frames: from the last one's first outcome to the first one's last.

    Raises:
        DtError: there was no such time.
    """
    times: dict[str, list[float]] = {}
    for outcome in outcomes:
        times.setdefault(frame_source(outcome["frame"])[0], []).append(outcome["at"])
    begin, end = max(found[0] for found in times.values()), min(found[-1] for found in times.values())
    if end <= begin:
        raise DtError("the sources were not busy at one time: give more --frames")
    count = len([o for o in outcomes if begin < o["at"] <= end])
    return count / (end - begin)


if __name__ == "__main__":
    sys.exit(main())
