"""Clients that behave as Frigate's detectors do, against a cluster of real processes of which some are killed.

`python -m bench.frigate --seconds 600 --edges 6 --kill 2 --clients 2 --json FILE`

Every answer must be, bit for bit, what one interpreter says of the same picture; ``false`` are those that are not, zeros that
are none of the model's among them. A client that gets no answer in time takes that for zeros, as Frigate does, and asks on a
new socket: ``unanswered``. The rates and times of one interpreter on the same pictures, alone on this machine, stand beside it.
"""

import argparse
import itertools
import json
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from rich.console import Console

import models
from bench.processes import Cluster
from edge_agent.sources import open_source
from edge_agent.sources.fit import fit
from edge_agent.sources.requests import rows
from models.bundle import Bundle, Reference, make_bundle
from models.results.decode import decode, quantization_of
from models.tiling.tensor import to_input
from schemas.contract.errors import DtError

DIGITS = Path(models.__file__).parent / "zoo" / "digits.tflite"
READY_MS = 30_000  # that Frigate waits for word of its model
PICTURES, ALONE = 16, 100


class Client:
    """A REQ socket as Frigate's detector has it: strict, made anew after each silence, which asks for its model first."""

    def __init__(self, context: "zmq.Context[Any]", endpoint: str, model: str, timeout_s: float = 0.2) -> None:
        self._context, self._endpoint, self._model, self._timeout_ms = context, endpoint, model, round(timeout_s * 1000)
        self.is_ready = False
        self._open()
        self._begin()

    def detect(self, tensor: np.ndarray) -> bytes | None:
        """The 480 bytes that it is told; None: nothing came in time."""
        header = {"shape": list(tensor.shape), "dtype": tensor.dtype.name, "model_type": "ssd"}
        try:
            self._socket.send_multipart([json.dumps(header).encode(), tensor.tobytes()])
            parts: list[bytes] = self._socket.recv_multipart()
        except zmq.Again:
            self._socket.close(0)
            self._open()
            self._begin()
            return None
        if len(parts) != 2 or json.loads(parts[0]) != {"shape": [20, 6], "dtype": "float32"} or len(parts[1]) != 480:
            raise DtError(f"an answer that Frigate does not read: {parts!r}"[:200])
        return parts[1]

    def ask(self, header: dict[str, Any], *more: bytes) -> dict[str, Any]:
        """A word about models, and its answer; Raises ``zmq.Again``: there was none."""
        self._socket.send_multipart([json.dumps(header).encode(), *more])
        self._socket.setsockopt(zmq.RCVTIMEO, READY_MS)
        try:
            (answer,) = self._socket.recv_multipart()
        finally:
            self._socket.setsockopt(zmq.RCVTIMEO, self._timeout_ms)
        said: dict[str, Any] = json.loads(answer)
        return said

    def close(self) -> None:
        self._socket.close(0)

    def _open(self) -> None:
        self._socket = self._context.socket(zmq.REQ)
        for option in (zmq.RCVTIMEO, zmq.SNDTIMEO):
            self._socket.setsockopt(option, self._timeout_ms)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(self._endpoint)

    def _begin(self) -> None:
        said = self.ask({"model_request": True, "model_name": self._model})
        self.is_ready = said == {"model_available": True, "model_loaded": True}


class Direct:
    """One interpreter: the unpartitioned model and its decoder."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._reference = bundle, Reference(bundle)
        self._quantization = quantization_of(bundle.graph)

    def look(self, image: np.ndarray) -> bytes:
        """The rows of an RGB picture (height, width, 3)."""
        bundle, size = self._bundle, (image.shape[0], image.shape[1])
        _, outputs = self._reference.run(to_input(fit(image, bundle.plan.pixels), bundle.plan.pixels))
        return rows(decode(bundle.card, outputs, self._quantization, size, bundle.plan.pixels), size)


def pictures(bundle: Bundle, count: int) -> list[np.ndarray]:
    """Frames of the drawn scene, in the model's size."""
    pixels = bundle.plan.pixels
    source = open_source(f"synthetic://?scene=digits&width={pixels.width}&height={pixels.height}")
    found = list(itertools.islice(source.frames(), count))
    source.close()
    return found


class Detected(Cluster):
    """A cluster that answers at ``endpoint``."""

    def __init__(self, model: Path, room: Path, endpoint: str, timeout_s: float, *more: str) -> None:
        super().__init__(model, "3x3", "auto", room, ())
        self._frigate = ["--frigate", endpoint, "--frigate-timeout", str(timeout_s), *more]

    def gateway_options(self) -> list[str]:
        return [*super().gateway_options(), *self._frigate]

    def kill(self, name: str) -> None:
        """SIGKILL."""
        child = self._children.pop(name)
        child.kill()
        child.wait()


def ask_on(
    client: Client, images: Sequence[np.ndarray], until: float, said: "queue.SimpleQueue[tuple[int, bytes | None, float]]"
) -> None:
    """One client's life: pictures in turn, as fast as answers come; (picture, answer, seconds) into ``said``."""
    for number in itertools.cycle(range(len(images))):
        begun = time.monotonic()
        if begun >= until:
            break
        said.put((number, client.detect(images[number][None]), time.monotonic() - begun))
    client.close()


def run(options: argparse.Namespace, room: Path) -> dict[str, Any]:
    bundle = make_bundle(options.model, (3, 3))
    images, direct = pictures(bundle, PICTURES), Direct(bundle)
    wanted = [direct.look(image) for image in images]
    alone = []
    for image in itertools.islice(itertools.cycle(images), ALONE):
        begun = time.monotonic()
        direct.look(image)
        alone.append(time.monotonic() - begun)
    endpoint, said = f"ipc://{room}/detector", queue.SimpleQueue[tuple[int, bytes | None, float]]()
    context: zmq.Context[Any] = zmq.Context()
    cluster = Detected(options.model, room, endpoint, options.timeout)
    with cluster:
        for i in range(options.edges):
            cluster.edge(f"edge{i + 1}", "--threads", "1")
        for i in range(options.edges):
            cluster.await_log(f"edge{i + 1}", lambda log: "joined the cluster" in log)
        clients = [Client(context, endpoint, options.model.name, options.timeout) for _ in range(options.clients)]
        if not all(client.is_ready for client in clients):
            raise DtError("the cluster does not have the model: see its logs")
        begun = time.monotonic()
        threads = [
            threading.Thread(target=ask_on, args=(client, images, begun + options.seconds, said)) for client in clients
        ]
        for thread in threads:
            thread.start()
        for i in range(options.kill):
            time.sleep(max(begun + options.seconds * (i + 1) / (options.kill + 1) - time.monotonic(), 0.0))
            cluster.kill(f"edge{i + 1}")
        for thread in threads:
            thread.join()
        took = time.monotonic() - begun
    context.destroy(0)
    counts: Counter[str] = Counter()
    times = []
    while not said.empty():
        number, answer, seconds = said.get()
        counts["unanswered" if answer is None else "right" if answer == wanted[number] else "false"] += 1
        times += [seconds] if answer is not None else []
    return {
        "edges": options.edges, "killed": options.kill, "clients": options.clients, "seconds": round(took, 1),
        "answers": counts["right"], "false": counts["false"], "unanswered": counts["unanswered"],
        "fps": round(counts["right"] / took, 2), **_percentiles(times),
        "direct": {"fps": round(len(alone) / sum(alone), 2), **_percentiles(alone)},
    }  # fmt: skip


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
    return {"p50_ms": round(1000 * cuts[49], 1), "p95_ms": round(1000 * cuts[94], 1)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.frigate", description="Clients like Frigate's, and nodes that die.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--edges", type=int, default=6, help="helpers beside the gateway's own edge")
    parser.add_argument("--kill", type=int, default=2, help="so many of them, evenly over the time")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=0.2, help="seconds that a client waits")
    parser.add_argument("--model", type=Path, default=DIGITS)
    parser.add_argument("--json", type=Path, help="append one JSON line to this file")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="dt-frigate-") as room:
            told = run(options, Path(room))
    except DtError as error:
        print(f"bench.frigate: {error}", file=sys.stderr)
        return error.exit_code
    Console(width=160, highlight=False).print_json(json.dumps(told))
    if options.json:
        with options.json.open("a") as file:
            file.write(json.dumps(told) + "\n")
    return 1 if told["false"] or not told["answers"] else 0


if __name__ == "__main__":
    sys.exit(main())
