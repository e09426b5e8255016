"""`dt demo`: a whole cluster of processes on this machine, each answer compared with the unpartitioned model's.

The comparison takes its own way: this process reads the sources itself, runs the unpartitioned model on every frame and
compares digests with those that the gateway publishes.
"""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.live import Live
from rich.table import Table

import models
from dt_cli.cluster import Images, PrivateCluster, Setup
from dt_cli.output import console, size, table, write_json
from dt_cli.pictures import Pictures
from dt_cli.planning import Shape
from dt_cli.serving import endless, has_dashboard
from edge_agent.sources import open_source
from edge_agent.sources.digits import truth
from edge_agent.sources.fit import Clip
from gateway_agent.tail import digests
from models.bundle import Bundle, Reference, next_state, save
from models.results.readings import read_panels
from models.tiling.tensor import to_input
from models.trial import try_bundle
from schemas.contract import messages as m
from schemas.contract.errors import PlanError
from schemas.host.process import interrupt_on_end

DIGITS = Path(models.__file__).parent / "zoo" / "digits.tflite"  # ships with the package


def run(
    edges: int,
    frames: int,
    shape: Shape,
    model: Path | None,
    sources: Sequence[str],
    json: Path | None,
    broker: str | None,
    pictures: Path | None,
    serve: bool = False,
    http: str | None = None,
    gateway: Sequence[str] = (),
) -> int:
    """Exit code 0 only if every frame is exact and none failed. ``serve``: then goes on until it is interrupted.

    Raises:
        PlanError: the dashboard was asked for, and its extra is not installed.
    """
    interrupt_on_end()
    check_sources(sources, edges)
    with tempfile.TemporaryDirectory(prefix="dt-demo-") as folder:
        room = Path(folder)
        model = model or DIGITS
        bundle = shape.bundle(model)
        try_bundle(bundle)
        if shape.has_blocks:  # more than a gateway's options say
            model, shape = room / model.stem, Shape(None, "auto", None)
            save(bundle, model)
        http = http or ("127.0.0.1:0" if serve or has_dashboard() else None)
        outputs = pictures is not None
        setup = Setup(model, edges, sources, frames, shape.grid, shape.cut, broker, outputs, http, gateway)
        checker = Checker(bundle, sources, Pictures(pictures, bundle) if pictures else None)
        cluster = checker.cluster = PrivateCluster(setup, bundle, room, checker.check)
        with cluster:
            if cluster.dashboard:
                console.print(f"dashboard at {cluster.dashboard}", markup=False, soft_wrap=True)
            with Live(console=console, refresh_per_second=4, transient=True) as live:
                for _ in cluster.watch():
                    if console.is_terminal:
                        live.update(nodes_table(cluster, f"; {len(checker.wrong)} wrong"))
            if not serve:
                cluster.stop()
            exact = _conclude(cluster, checker, json)
            if serve:
                console.print(f"the cluster stays; see {cluster.dashboard} until Ctrl-C", markup=False, soft_wrap=True)
                with suppress(KeyboardInterrupt):
                    cluster.serve({name: endless(uri) for name, uri in cluster.cameras.items()})
    return 0 if exact else 1


def _conclude(cluster: PrivateCluster, checker: "Checker", json: Path | None) -> bool:
    """Says how it went: whether every frame has the bits that it must have."""
    console.print(nodes_table(cluster, f"; {len(checker.wrong)} wrong"))
    checker.close()
    summary = checker.summary()
    write_json(json, summary)
    print_totals(summary)
    _print_verdict(summary)
    return bool(summary["same"])


def check_sources(sources: Sequence[str], edges: int) -> None:
    """A wrong source is one line now, not a child's log.

    Raises:
        PlanError: one cannot be opened, or there are more than edges.
    """
    if len(sources) > edges:
        raise PlanError(f"{len(sources)} sources for {edges} edges: give --edges {len(sources)} or more")
    for source in sources:
        open_source(source).close()


class Checker:
    """What the unpartitioned model says of every frame, and how the cluster's answers compare."""

    def __init__(self, bundle: Bundle, sources: Sequence[str], pictures: Pictures | None) -> None:
        self.cluster: PrivateCluster
        self.wrong: dict[str, list[str]] = {}
        self._bundle, self._pictures = bundle, pictures
        self._reference = Reference(bundle)
        self._images = {f"edge{i + 1}": Images(uri) for i, uri in enumerate(sources)}
        self._clips = {source: Clip(bundle.plan.pixels) for source in self._images}
        self._states: dict[str, dict[str, np.ndarray]] = {}
        self._wanted: dict[tuple[str, int], tuple[np.ndarray, dict[str, str]]] = {}
        self._next: dict[str, int] = {}
        self._sources = {f"edge{i + 1}": uri for i, uri in enumerate(sources)}
        self.readings_right = self.readings_total = 0

    def check(self, outcome: m.Outcome) -> None:
        """Compare one outcome; to be called once for each."""
        source, _, number = m.frame_source(outcome.frame)
        image, want = self._want(source, number)
        if outcome.status == "ok":
            wrong = [name for name in want if outcome.digests.get(name) != want[name]]
            if wrong:
                self.wrong[outcome.frame] = wrong
            self._read(outcome)
            if self._pictures is not None:
                self._pictures.write(image, outcome, dict(self.cluster.outputs.get(outcome.frame, {})))

    def _read(self, outcome: m.Outcome) -> None:
        """Compare what the model reads with what the source is known to show: all digits of a display, in order."""
        source, _, number = m.frame_source(outcome.frame)
        want = truth(self._sources[source], number)
        if want is not None and outcome.result is not None and outcome.result.task == "detect":
            got = read_panels(outcome.result.detections)
            self.readings_total += len(want)
            self.readings_right += sum(min(got.count(reading), want.count(reading)) for reading in set(want))

    def close(self) -> None:
        for images in self._images.values():
            images.close()

    def _want(self, source: str, number: int) -> tuple[np.ndarray, dict[str, str]]:
        """A frame and the digests of the unpartitioned model's tensors for it; in order, for the model may have state."""
        while (source, number) not in self._wanted:
            following = self._next.get(source, 0)
            image = self._images[source].take(following)
            values = to_input(self._clips[source].add(image), self._bundle.plan.pixels)
            cut, outputs = self._reference.run(values, self._states.get(source))
            self._states[source] = next_state(self._bundle.card, outputs)
            self._wanted[source, following] = (image, digests(cut, outputs))
            self._next[source] = following + 1
        return self._wanted.pop((source, number))

    def summary(self) -> dict[str, Any]:
        common = self.cluster.summary()
        whole = self.cluster.expected == common["frames"] > 0
        same = whole and not (common["failed"] or self.wrong or self.cluster.repeated)
        plan = self._bundle.plan
        bits = {"same": same, "exact": same and not plan.approximate, "exactness": plan.exactness}
        readings = {"readings_right": self.readings_right, "readings_total": self.readings_total}
        return {**common, **readings, **bits, "wrong": self.wrong}


def nodes_table(cluster: PrivateCluster, more: str = "") -> Table:
    """What the cluster does, for people."""
    summary, block = cluster.summary(), cluster.bundle.plan.blocks[0]
    of = "" if cluster.expected is None else f" of {cluster.expected}"
    title = (
        f"{summary['frames']}{of} frames, {block.rows}x{block.cols} tiles of {cluster.setup.model.name}; "
        f"{summary['failed']} failed{more}"
    )
    shown = table(title, "node", "tiles computed", "tiles stolen", "tiles lent", "compute s", "sent", left=("node",))
    for name, n in summary["nodes"].items():
        status = cluster.nodes.get(name)
        sent = size(status.bytes_out + status.straight_out) if status else ""
        camera = " (camera)" if name in cluster.cameras else ""
        counts = (str(n[k]) for k in ("computed", "stolen", "lent"))
        shown.add_row(name + camera, *counts, f"{n['compute_s']:.2f}", sent)
    return shown


def print_totals(summary: dict[str, Any]) -> None:
    latency = summary["latency_ms"]
    console.print(
        f"{summary['frames']} frames, {summary['failed']} failed; {summary['tiles']} tiles, "
        f"{summary['tiles_stolen']} of them stolen; {size(summary['wire_bytes'])} published; "
        f"latency {latency['p50']:.0f} ms (p50), {latency['p95']:.0f} ms (p95)"
    )
    for reason in summary["reasons"]:
        console.print(f"FAILED: {reason}")


def _print_verdict(summary: dict[str, Any]) -> None:
    for frame, tensors in summary["wrong"].items():
        console.print(f"WRONG: frame {frame} differs in {', '.join(tensors)}")
    if summary["readings_total"]:
        console.print(f"{summary['readings_right']} of {summary['readings_total']} displays read right")
    if summary["exact"]:
        console.print("every merged map and every final output equals the unpartitioned model's, bit for bit")
    if summary["same"] and not summary["exact"]:
        console.print(f"every answer has the bits of one machine that sums in parts, too; {summary['exactness']}")
