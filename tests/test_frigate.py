"""Clients like Frigate's ask a cluster of real processes that loses nodes: each answer is the model's own, or there is none."""

import os
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from bench.frigate import DIGITS, Client, Detected, Direct, ask_on, pictures
from models.bundle import make_bundle

INT8 = DIGITS.with_name("digits_int8.tflite")
TIMEOUT_S = 2.0  # a machine that runs tests side by side is slow
Said = queue.SimpleQueue[tuple[int, bytes | None, float]]


def asked(
    cluster: Detected, endpoints: list[str], seconds: float, meanwhile: Callable[[], None] = lambda: None
) -> Counter[str]:
    """What a client on each endpoint is told meanwhile."""
    bundle = make_bundle(DIGITS, (3, 3))
    images, direct = pictures(bundle, 4), Direct(bundle)
    wanted = [direct.look(image) for image in images]
    assert len(set(wanted)) > 1 and bytes(480) not in wanted
    context: zmq.Context[Any] = zmq.Context()
    clients = [Client(context, endpoint, "digits.tflite", TIMEOUT_S) for endpoint in endpoints]
    assert all(client.is_ready for client in clients)
    said, until = Said(), time.monotonic() + seconds
    threads = [threading.Thread(target=ask_on, args=(client, images, until, said)) for client in clients]
    for thread in threads:
        thread.start()
    meanwhile()
    for thread in threads:
        thread.join()
    context.destroy(0)
    counts: Counter[str] = Counter()
    while not said.empty():
        number, answer, _ = said.get()
        counts["unanswered" if answer is None else "right" if answer == wanted[number] else "false"] += 1
    return counts


def test_no_answer_is_false_while_nodes_die_and_freeze(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/d"
    cluster = Detected(DIGITS, tmp_path, f"{endpoint},yard={endpoint}2", TIMEOUT_S)

    def spoil() -> None:
        time.sleep(2.0)
        cluster.kill("edge1")
        frozen = cluster._children["edge2"].pid
        os.kill(frozen, signal.SIGSTOP)
        time.sleep(3.0)
        os.kill(frozen, signal.SIGCONT)

    with cluster:
        for name in ("edge1", "edge2", "edge3"):
            cluster.edge(name, "--threads", "1")
            cluster.await_log(name, lambda log: "joined the cluster" in log)
        counts = asked(cluster, [endpoint, endpoint, f"{endpoint}2"], 8.0, spoil)
    assert counts["right"] > 10 and not counts["false"], counts


def test_an_edge_of_the_gateways_own_that_dies_is_started_again(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/d"
    context: zmq.Context[Any] = zmq.Context()
    with Detected(DIGITS, tmp_path, endpoint, TIMEOUT_S) as cluster:
        gateway = cluster._children["gateway"].pid
        bundle = make_bundle(DIGITS, (3, 3))
        (image,), direct = pictures(bundle, 1), Direct(bundle)
        client = Client(context, endpoint, "digits.tflite", TIMEOUT_S)
        assert client.detect(image[None]) == direct.look(image)
        (child,) = [pid for pid in _children(gateway) if "frigate" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]
        os.kill(child, signal.SIGKILL)
        assert client.detect(image[None]) is None, "no answer is none"
        deadline = time.monotonic() + 60.0
        while (answer := client.detect(image[None])) is None:
            assert time.monotonic() < deadline
        assert answer == direct.look(image)
        client.close()
    context.destroy(0)


def _children(pid: int) -> list[int]:
    return [int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()]


def test_a_model_that_a_client_sends_runs_where_that_is_allowed_and_no_other_stays(tmp_path: Path) -> None:
    endpoint, folder = f"ipc://{tmp_path}/d", tmp_path / "models"
    folder.mkdir()
    (folder / "digits.tflite").write_bytes(DIGITS.read_bytes())
    (folder / "digits_int8.toml").write_bytes(INT8.with_suffix(".toml").read_bytes())
    context: zmq.Context[Any] = zmq.Context()
    with Detected(DIGITS, tmp_path, endpoint, TIMEOUT_S, "--models", str(folder)):
        client = Client(context, endpoint, "digits_int8.tflite", TIMEOUT_S)
        assert not client.is_ready
        header = {"model_data": True, "model_name": "bad.tflite"}
        assert client.ask(header, bytes(1000)) == {"model_saved": False, "model_loaded": False}
        assert not (folder / "bad.tflite").exists()
        header["model_name"] = "digits_int8.tflite"
        assert client.ask(header, INT8.read_bytes()) == {"model_saved": True, "model_loaded": True}
        again = Client(context, endpoint, "digits_int8.tflite", TIMEOUT_S)
        assert again.is_ready
        bundle = make_bundle(INT8, (3, 3))
        (image,) = pictures(bundle, 1)
        assert again.detect(image[None]) == Direct(bundle).look(image)
        client.close()
        again.close()
    context.destroy(0)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_gateway_answers_with_an_edge_of_its_own_alone(tmp_path: Path, sealed: bool) -> None:
    endpoint = f"ipc://{tmp_path}/d"
    cluster = Detected(DIGITS, tmp_path, endpoint, TIMEOUT_S, *(["--sealed", "--broker", "amqtt"] if sealed else []))
    with cluster:
        counts = asked(cluster, [endpoint], 3.0)
    assert counts["right"] and not counts["false"], counts
    assert not (tmp_path / "d").exists(), "it leaves nothing"
