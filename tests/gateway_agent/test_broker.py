"""The broker process: it starts, carries a model, and ends with its parent, however that ends."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.cache import ModelCache
from edge_agent.download import MOST, ModelDownload
from gateway_agent.broker import BrokerProcess
from gateway_agent.publishing import ModelUpload
from schemas.contract import topics
from schemas.contract.chunks import CHUNK_BYTES
from schemas.contract.errors import DtError
from schemas.contract.messages import ChunkHeader, ChunkRequest, Register
from schemas.contract.plan import digest
from schemas.wire.codec import decode
from schemas.wire.link import Arrived, Connected

Make = Callable[..., Any]
KEPT = replace(topics.MODEL, retained=True)
ROOM = Path(__file__).resolve().parents[2]


def test_a_model_of_14_mb_reaches_an_edge_in_chunks_few_at_a_time(station: Make, root: str, tmp_path: Path) -> None:
    model = np.random.default_rng(1).bytes(108 * CHUNK_BYTES + 5)
    gateway, edge = station("gateway"), station("e1")
    gateway.link.subscribe(topics.MODEL_REQ)
    edge.link.subscribe(topics.MODEL, node="e1")
    gateway.link.connect()
    edge.link.connect()
    upload = ModelUpload("gateway", digest(model), model)
    download = ModelDownload(ModelCache(tmp_path).part(digest(model), len(model)), upload.chunks)
    most = 0
    while not download.complete:
        wanted = tuple(download.ask(time.monotonic()))
        if wanted:
            asked = ChunkRequest(node="e1", epoch="01234567", digest=upload.digest, chunks=wanted)
            edge.link.publish(topics.MODEL_REQ, asked, node="e1")
            event = gateway.expect(Arrived)
            heard = decode(root, event.topic, event.payload).message
            assert isinstance(heard, ChunkRequest)
            upload.asked(heard)
        most = max(most, edge.inbox.qsize())
        while upload:
            gateway.link.send(upload.next("01234567"))
        event = edge.expect(Arrived)
        incoming = decode(root, event.topic, event.payload)
        assert isinstance(incoming.message, ChunkHeader)
        download.take(incoming.message.n, incoming.tensors["chunk"], time.monotonic())
    path = download.part.finish()
    download.part.close()
    assert path is not None and path.read_bytes() == model
    assert most <= MOST


def test_a_client_is_sent_no_retained_message_that_only_others_subscribed_to(station: Make) -> None:
    first, second = station("e1"), station("e2")
    header = ChunkHeader(node="gw", epoch="01234567", digest="0" * 32, n=0)
    first.link.subscribe(KEPT)
    first.link.connect()
    first.link.publish(KEPT, header, {"chunk": np.zeros(9, np.uint8)}, node="e1")
    first.expect(Arrived)
    second.link.subscribe(topics.REGISTER)
    second.link.connect()
    second.expect(Connected)
    second.link.publish(topics.REGISTER, Register(node="e2", epoch="01234567", seq=1, runtime="r"))
    assert second.expect(Arrived).topic.endswith("/register")
    assert second.inbox.empty() and second.link.messages_in == 1


def test_a_taken_port_is_one_line_that_names_it_and_the_remedy() -> None:
    with BrokerProcess() as first:
        second = BrokerProcess(port=first.port)
        with pytest.raises(DtError, match=rf"127\.0\.0\.1:{first.port} is taken .*--listen") as caught:
            second.start()
        assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
        assert not second.alive and first.alive


def test_an_address_that_is_not_ours_is_one_line() -> None:
    with pytest.raises(DtError, match=r"cannot listen on 192\.0\.2\.1:0.*--listen"):
        BrokerProcess("192.0.2.1").start()


def test_a_port_is_free_again_after_stop_even_with_a_client_connected(station: Make) -> None:
    with BrokerProcess() as first:
        edge = station("e1", url=first.url)
        edge.link.connect()
        idle = socket.create_connection(("127.0.0.1", first.port))
    assert not first.alive
    with BrokerProcess(port=first.port) as second:
        assert second.alive and second.url == f"mqtt://127.0.0.1:{first.port}"
    idle.close()


def test_every_interface_and_ipv6_are_reachable_by_their_url(station: Make) -> None:
    for host in ("0.0.0.0", "::1"):
        with BrokerProcess(host) as running:
            station("e1", url=running.url).link.connect()


CHILD = [sys.executable, "-m", "gateway_agent.broker", "--bind", "127.0.0.1:0"]


def test_the_child_ends_with_its_stdin_without_a_word() -> None:
    child = subprocess.run(CHILD, cwd=ROOM, input=b"", capture_output=True, timeout=30)
    assert child.returncode == 0 and child.stdout.count(b"\n") == 1 and child.stderr == b""


def test_the_child_ignores_sigint_and_ends_on_sigterm() -> None:
    child = subprocess.Popen(CHILD, cwd=ROOM, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None and b"port" in child.stdout.readline()
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0


def test_the_child_ends_when_its_parent_is_killed() -> None:
    """The grandchild holds the pipe that we read: it ends when the grandchild does."""
    code = "import gateway_agent.broker as b, time; b.BrokerProcess().start(); print(1, flush=True); time.sleep(60)"
    ours, theirs = os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOM, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    with parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"1\n"
        parent.kill()
        parent.wait(30)
    assert select.select([ours], [], [], 30)[0] and os.read(ours, 1) == b""
    os.close(ours)
