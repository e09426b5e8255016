"""How long edges take to fetch a large model over slow links, on emulated hosts (`bench.hosts`), and what it costs them.

`python -m bench.download --edges 6 --rate 60`

The edges start at once, without a cache, and the plan has them run the whole model. Compared with the time that as many
copies of it take over the gateway's link. ``--cut`` pulls one edge's cable for so many seconds on the way.
"""

import argparse
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from bench.hosts import Hosts, measured
from models.bundle import make_bundle, save
from models.graph.build import build
from models.graph.file import load
from models.tiling.division import Tiles, Whole
from models.tiling.partition import Partition
from schemas.contract.errors import DtError

PORT = 1883
PATIENCE = 3  # times the time that the copies take


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.download", description="A model's way to its edges.")
    parser.add_argument("--edges", type=int, default=6)
    parser.add_argument("--rate", type=float, default=60.0, help="Mbit/s of every host, up and down")
    parser.add_argument("--model", type=Path, help="a .tflite file [default: YOLOv2-608, 204 MB]")
    parser.add_argument("--broker", default="auto", help="amqtt, mosquitto, or auto: mosquitto if it is installed")
    parser.add_argument("--cut", type=float, default=0.0, help="seconds without a cable, of the last edge")
    parser.add_argument("--json", type=Path, help="append one JSON line to this file")
    options = parser.parse_args()
    told = measured("download", lambda room: measure(options, room), options.json)
    print(
        f"{told['edges']} edges, {told['rate_mbit']:g} Mbit/s, {told['model_bytes'] / 1e6:.1f} MB: all there after "
        f"{told['all_s']:.1f} s, {told['all_s'] / told['copies_s']:.2f} times {told['edges']} copies; "
        f"{told['lost']} connections lost, {told['memory_bytes'] / 1e6:.1f} MB of memory an edge for it"
    )
    return 0


def measure(options: argparse.Namespace, room: Path) -> dict[str, Any]:
    model = options.model or room / "yolov2.tflite"
    if options.model is None:
        model.write_bytes(build("yolov2").to_bytes())
    partition = Partition(load(model))
    bundle = make_bundle(model, blocks=[(partition.cuts[0].name, Tiles(2, 2)), ("end", Whole())], partition=partition)
    save(bundle, room / "plan")
    size = len(bundle.edge_model)
    copies_s = options.edges * size * 8 / options.rate / 1e6
    names = [f"e{i + 1}" for i in range(options.edges)]
    env = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "HOME": str(room)}
    logs = {name: room / f"{name}.log" for name in (*names, "g")}
    with Hosts(dict.fromkeys(("g", *names), 1.0), options.rate) as hosts:
        at = f"{hosts.address('g')}:{PORT}"
        gateway = ["gateway", "--model", str(room / "plan"), "--listen", at, "--insecure", "--state", str(room / "state")]
        hosts.spawn("g", [sys.executable, "-m", "dt_cli.main", *gateway, "--broker", options.broker], logs["g"], env)
        deadline = time.monotonic() + 120
        while "gateway ready" not in logs["g"].read_text():
            _check(deadline, logs)
        start, pids = time.monotonic(), {}
        for name in names:
            edge = ["edge", "--gateway", at, "--name", name, "--cache", str(room / f"cache-{name}")]
            pids[name] = hosts.spawn(name, [sys.executable, "-m", "dt_cli.main", *edge], logs[name], env).pid
        before: dict[str, int] = {}
        done: dict[str, float] = {}
        used: dict[str, int] = {}
        is_cut = False
        while len(done) < len(names):
            _check(start + max(PATIENCE * copies_s, 60.0), logs)
            for name in names:
                most = _memory(pids[name], "VmHWM")  # before the log is read: what comes behind the download is not for it
                said = logs[name].read_text()
                if name not in before and "fetching model" in said:
                    before[name] = _memory(pids[name], "VmRSS")
                if name in done:
                    continue
                if "came just now" in said:
                    done[name] = time.monotonic() - start
                else:
                    used[name] = most
            if options.cut and not is_cut and time.monotonic() > start + copies_s / 3:
                is_cut = True
                hosts.plug(names[-1], False)
                time.sleep(options.cut)
                hosts.plug(names[-1], True)
        lost = sum(log.read_text().count("lost the broker") for log in logs.values())
    return {
        "edges": options.edges, "rate_mbit": options.rate, "model_bytes": size, "copies_s": copies_s,
        "all_s": max(done.values()), "median_s": statistics.median(done.values()), "lost": lost,
        "memory_bytes": max(used[name] - before[name] for name in names),
    }  # fmt: skip


def _memory(pid: int, what: str) -> int:
    """Of a process, in bytes: VmRSS what it holds, VmHWM the most that it has held."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _check(deadline: float, logs: dict[str, Path]) -> None:
    if time.monotonic() > deadline:
        raise DtError(f"it takes too long: {[log.read_text().strip().splitlines()[-1:] for log in logs.values()]}")
    time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
