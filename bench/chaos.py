"""A cluster of real processes that something happens to every two seconds: what becomes of the frames, fault by fault.

`python -m bench.chaos --minutes 10 --edges 6 --sources 2 --json FILE`, on emulated hosts (`bench.hosts`) or, where these
cannot be made or with ``--loopback``, on this machine's loopback, without the faults of links and cores.

Every frame of a source that lives must end once, as the unpartitioned model's answer or as a failure that says why.
``lost`` frames ended without a word, ``wrong`` ones with another answer; ``repeated`` outcomes were said twice. What the
listener could not hear, for the broker was down, is read in the gateway's journal (``unheard``). A fault's recovery is the
time from its end, or from the start of one that nothing ends, to the next answer for each source that lives; other faults
may fall into it: `--faults "kill gateway" --every 20` measures one alone.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.hosts import ONE_CORE, Hosts, end_once, missing
from bench.loopback import Loopback
from edge_agent.sources import open_source
from edge_agent.sources.fit import fit
from gateway_agent.tail import digests
from models.bundle import Reference, make_bundle, save
from models.graph.build import build
from models.planning.planner import parse_block
from models.tiling.tensor import to_input
from schemas.contract.errors import DtError
from schemas.contract.messages import frame_id, frame_source

PORT = 1883
PATIENCE_S = 60.0
PROCESSES = ("kill edge", "freeze edge", "kill gateway", "kill broker")
LINKS = ("unplug edge", "unplug pair", "slow link", "slow core")
LASTS_S = {"kill edge": 3.0, "freeze edge": 5.0, "kill gateway": 1.0, "kill broker": 0.0, "unplug edge": 6.0,
           "unplug pair": 6.0, "slow link": 8.0, "slow core": 8.0}  # fmt: skip


@dataclass
class Happened:
    """A fault: what, to whom, and when it began and ended (monotonic seconds)."""

    kind: str
    who: str
    at: float
    until: float


@dataclass
class Told:
    """The figures of a run."""

    frames: int = 0
    ok: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unheard: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    memory_mb_hour: dict[str, float] = field(default_factory=dict)
    memory_mb: dict[str, list[float]] = field(default_factory=dict)  # each minute, of the same processes


def main() -> int:
    options = _options()
    end_once()
    try:
        with contextlib.ExitStack() as stack:
            room = options.logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dt-chaos-")))
            room.mkdir(parents=True, exist_ok=True)
            told = Run(options, room.resolve()).run()
    except DtError as error:
        print(f"bench.chaos: {error}", file=sys.stderr)
        return error.exit_code
    figures = {"minutes": options.minutes, "edges": options.edges, "sources": options.sources, "seed": options.seed}
    figures |= {name: list(value) if isinstance(value, list) else value for name, value in vars(told).items()}
    Console(width=160, highlight=False).print_json(json.dumps(figures))
    if options.json:
        with options.json.open("a") as file:
            file.write(json.dumps(figures) + "\n")
    return 1 if told.lost or told.wrong or told.repeated else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.chaos", description="Faults on a cluster of real processes.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--edges", type=int, default=6)
    parser.add_argument("--sources", type=int, default=2)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two faults")
    parser.add_argument("--faults", help="which, separated by commas, or none [default: all that are possible here]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blocks", help="how the network is divided, as in dt plan --blocks [default: 2x3 tiles]")
    parser.add_argument("--fps", type=float, default=2.0, help="frames a second of each source")
    parser.add_argument("--loopback", action="store_true", help="no emulated hosts")
    parser.add_argument("--logs", type=Path, help="keep logs, faults and outcomes in this new folder [default: none]")
    parser.add_argument("--json", type=Path, help="append one JSON line to this file")
    return parser.parse_args()


class Run:
    """One run."""

    def __init__(self, options: argparse.Namespace, room: Path) -> None:
        if options.edges < options.sources:
            raise DtError(f"{options.sources} sources for {options.edges} edges: give more edges")
        self._options, self._room, self._chance = options, room, random.Random(options.seed)
        self._edges = [f"e{i + 1}" for i in range(options.edges)]
        self._loopback = options.loopback or bool(missing())
        known = PROCESSES if self._loopback else PROCESSES + LINKS
        wanted = known if options.faults is None else tuple(k for k in options.faults.split(",") if k != "none")
        if not set(wanted) <= set(known):
            raise DtError(f"--faults {options.faults}: here there are {', '.join(known)}")
        self._kinds = wanted
        self._happened: list[Happened] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._later: list[tuple[float, Any]] = []
        self._memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._logs: Counter[str] = Counter()
        self._ended: dict[str, dict[str, Any]] = {}  # what the journal, which forgets, has ever said
        if any(room.iterdir()):
            raise DtError(f"--logs {room}: it is not empty; name a new folder")
        model = room / "mini.tflite"
        model.write_bytes(build("mini", size=160).to_bytes())
        blocks = options.blocks and [parse_block(text) for text in options.blocks.split(",")]
        self._bundle = make_bundle(model, (2, 3), blocks=blocks or None)
        save(self._bundle, room / "plan")
        self._env = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "HOME": str(room), **ONE_CORE}

    def run(self) -> Told:
        cores: dict[str, float | None] = dict.fromkeys(["g", *self._edges, "w"])
        with Loopback() if self._loopback else Hosts(cores, 100.0) as self._hosts:
            self._address = f"{self._hosts.address('g')}:{self._hosts.port(PORT)}"
            self._start("g")
            self._await("gateway ready")
            watch = [sys.executable, "-m", "bench.watch", self._address, str(self._room / "heard")]
            self._processes["w"] = self._hosts.spawn("w", watch, self._room / "w.log", self._env)
            for name in self._edges:
                self._start(name)
            self._until(lambda: len({frame_source(o["frame"])[0] for o in self._heard()}) == self._options.sources)
            self._misfortune()
            return self._judge()

    def _misfortune(self) -> None:
        """Faults until time is up; then peace, so that everything can end."""
        end, next_at, sample_at = time.monotonic() + self._options.minutes * 60, time.monotonic(), 0.0
        while time.monotonic() < end:
            now = time.monotonic()
            for act in [act for at, act in self._later if at <= now]:
                act()
            self._later = [(at, act) for at, act in self._later if at > now]
            if self._kinds and now >= next_at:
                next_at = now + self._options.every
                self._do(self._chance.choice(self._kinds), now)
            if now >= sample_at:
                sample_at = now + 10.0
                self._weigh(now)
                self._read_journal()
            time.sleep(0.05)
        for _, act in sorted(self._later, key=lambda item: item[0]):
            act()
        time.sleep(20.0)

    def _read_journal(self) -> None:
        path = self._room / "state" / "ended.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(json.JSONDecodeError):  # it is being written
                said = json.loads(line)
                if frame := said.get("ended"):
                    self._ended[frame] = said.get("outcome") or self._ended.get(frame) or {"frame": frame, "status": "unheard"}

    def _do(self, kind: str, now: float) -> None:
        name, lasts_s = self._chance.choice(self._edges), LASTS_S[kind]
        until = now + lasts_s
        process = self._processes.get("g" if kind in ("kill gateway", "kill broker") else name)
        if process is None or process.poll() is not None:
            return  # it is dead already
        if kind == "kill edge":
            process.kill()
            self._later.append((until, lambda: self._start(name)))
        elif kind == "freeze edge":
            process.send_signal(signal.SIGSTOP)
            self._later.append((until, lambda: process.send_signal(signal.SIGCONT)))
        elif kind == "kill gateway":
            name = "g"
            process.kill()
            self._later.append((until, lambda: self._start("g")))
        elif kind == "kill broker":
            name = "broker"
            for child in _children(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        elif kind == "unplug edge":
            self._hosts.plug(name, False)
            self._later.append((until, lambda: self._hosts.plug(name, True)))
        elif kind == "unplug pair":
            other = self._chance.choice([edge for edge in self._edges if edge != name])
            self._hosts.part(name, other, True)
            self._later.append((until, lambda: self._hosts.part(name, other, False)))
        elif kind == "slow link":
            self._hosts.rate(name, 1.0)
            self._later.append((until, lambda: self._hosts.rate(name, 100.0)))
        elif kind == "slow core":
            self._hosts.share(name, 0.1)
            self._later.append((until, lambda: self._hosts.share(name, None)))
        self._happened.append(Happened(kind, name, now, until))
        with (self._room / "faults").open("a") as file:
            file.write(json.dumps(vars(self._happened[-1])) + "\n")

    def _start(self, name: str) -> None:
        self._logs[name] += 1
        log = self._room / f"{name}.{self._logs[name]}.log"
        if name == "g":
            argv = ["gateway", "--model", str(self._room / "plan"), "--listen", self._address]
            argv += ["--broker", "auto", "--insecure", "--state", str(self._room / "state")]
        else:
            argv = ["edge", "--gateway", self._address, "--name", name, "--cache", str(self._room / f"cache-{name}")]
            number = self._edges.index(name)
            argv += ["--source", self._source(number)] if number < self._options.sources else []
        command = [sys.executable, "-m", "dt_cli.main", *argv]
        self._processes[name] = self._hosts.spawn(name, command, log, self._env)

    def _source(self, number: int) -> str:
        return f"synthetic://?width=160&height=160&seed={number + 1}&fps={self._options.fps:g}"

    def _weigh(self, now: float) -> None:
        for name, process in self._processes.items():
            with contextlib.suppress(OSError, StopIteration):
                status = Path(f"/proc/{process.pid}/status").read_text()
                kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
                self._memory[f"{name}.{self._logs[name]}"].append((now, kilobytes / 1024))

    def _judge(self) -> Told:
        told = Told()
        heard, first = self._heard(), dict[str, dict[str, Any]]()
        for outcome in heard:
            if outcome["frame"] in first:
                told.repeated.append(outcome["frame"])
            first.setdefault(outcome["frame"], outcome)
        self._read_journal()
        unheard = {frame: outcome for frame, outcome in self._ended.items() if frame not in first}
        told.unheard = len(unheard)
        first |= unheard
        numbers = defaultdict[tuple[str, str], set[int]](set)
        for frame in first:
            source, epoch, number = frame_source(frame)
            numbers[source, epoch].add(number)
        for (source, epoch), ended in numbers.items():
            told.lost += [frame_id(source, epoch, n) for n in range(max(ended) - 2) if n not in ended]
        known, last = self._known(), dict[tuple[str, str], int]()
        for frame, outcome in sorted(first.items(), key=lambda item: frame_source(item[0])):
            source, epoch, _ = frame_source(frame)
            if outcome["status"] == "ok":
                told.ok += 1
                index = known[source].get(json.dumps(outcome["digests"], sort_keys=True), -1)
                told.wrong += [frame] if index <= last.get((source, epoch), -1) else []
                last[source, epoch] = index
            elif outcome["status"] == "failed":
                told.failed[outcome["reason"].split(" with ")[0].split(":")[0]] += 1
        told.frames = len(first)
        told.faults = self._recoveries(heard)
        told.memory_mb_hour = {name: slope for name, samples in self._memory.items() if (slope := _slope(samples)) is not None}
        told.memory_mb = {name: [round(mb, 1) for _, mb in self._memory[name][::6]] for name in told.memory_mb_hour}
        return told

    def _known(self) -> dict[str, dict[str, int]]:
        """The one-machine answers to all pictures that a source can have shown, by their digests: which picture it is.

        A source drops pictures that come while it has no room, so its frames are some of them, in their order.
        """
        reference, pixels = Reference(self._bundle), self._bundle.plan.pixels
        count = int(self._options.fps * (self._options.minutes * 60 + 60))
        known: dict[str, dict[str, int]] = {}
        for i, name in enumerate(self._edges[: self._options.sources]):
            source = open_source(self._source(i).replace(f"&fps={self._options.fps:g}", ""))
            answers = (digests(*reference.run(to_input(fit(image, pixels), pixels))) for image in source.frames())
            known[name] = {json.dumps(d, sort_keys=True): index for index, d in zip(range(count), answers)}
            source.close()
        return known

    def _recoveries(self, heard: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        times = defaultdict[str, list[float]](list)
        answers = defaultdict[str, list[float]](list)
        for outcome in heard:
            if outcome["status"] == "ok":
                answers[frame_source(outcome["frame"])[0]].append(outcome["at"])
        for fault in self._happened:
            since = fault.until if fault.kind in ("kill gateway", "kill broker") else fault.at
            others = [times for source, times in answers.items() if source != fault.who]
            nexts = [min((at for at in times if at > since), default=float("nan")) for times in others]
            times[fault.kind] += [max(nexts) - since] if nexts else []
        return {
            kind: {"count": len(seconds), "recover_s": {
                "median": round(statistics.median(seconds), 2), "max": round(max(seconds), 2)}}
            for kind, seconds in times.items()
            if seconds  # the only source was the victim each time
        }  # fmt: skip

    def _heard(self) -> list[dict[str, Any]]:
        path = self._room / "heard"
        lines = path.read_text().splitlines() if path.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("}")]
        return [line for line in told if line["kind"] == "Outcome"]

    def _await(self, text: str) -> None:
        self._until(lambda: text in (self._room / "g.1.log").read_text())

    def _until(self, done: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            if time.monotonic() > deadline:
                last = {p.name: p.read_text().strip().splitlines()[-1:] for p in self._room.glob("*.log")}
                raise DtError(f"the cluster did not start within {PATIENCE_S:g} s: {last}")
            time.sleep(0.1)


def _slope(samples: list[tuple[float, float]]) -> float | None:
    """MB an hour by least squares, without the first third; None for a process that lived less than five minutes."""
    begun, ended = samples[0][0], samples[-1][0]
    if ended - begun < 300.0:
        return None
    warm = [(at / 3600, size) for at, size in samples if at >= begun + (ended - begun) / 3]
    return round(statistics.linear_regression([at for at, _ in warm], [size for _, size in warm]).slope, 2)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


if __name__ == "__main__":
    sys.exit(main())
