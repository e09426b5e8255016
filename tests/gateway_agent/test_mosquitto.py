"""The installed broker: what amqtt must do, mosquitto must do as well; it ends with its parent and comes back when it dies."""

import contextlib
import io
import logging
import os
import queue
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway_agent import certificates, mosquitto, tether
from gateway_agent.access import own_broker
from gateway_agent.broker import BrokerProcess
from gateway_agent.mosquitto import PACKET_BYTES, MosquittoProcess, Protection
from models.graph.build import build
from schemas.contract.errors import DtError
from schemas.contract.messages import ChunkHeader
from schemas.wire.codec import HEADER_BYTES, TENSOR_BYTES
from schemas.wire.link import Connected, Disconnected, tls
from tests.gateway_agent import test_broker as contract

MISSING = not shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(MISSING, reason="mosquitto is not installed (apt install mosquitto)")
Make = Callable[..., Any]
ROOM = Path(__file__).resolve().parents[2]

# The same tests, on the broker of this file.
test_a_model_of_14_mb_reaches_an_edge = contract.test_a_model_of_14_mb_reaches_an_edge_in_chunks_few_at_a_time
test_no_retained_message_of_others_is_sent = (
    contract.test_a_client_is_sent_no_retained_message_that_only_others_subscribed_to
)


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    """One mosquitto on a free port, in place of the session's amqtt."""
    with MosquittoProcess() as running:
        yield running


def pid_of(running: BrokerProcess) -> int:
    assert running._child is not None
    return running._child.pid


def chunk(n: int) -> ChunkHeader:
    return ChunkHeader(node="gw", epoch="01234567", digest="0" * 32, n=n)


def test_3000_retained_messages_reach_a_subscriber_that_comes_later(station: Make) -> None:
    """With mosquitto's own limits of 20 in flight and 1000 waiting, most would be dropped without a word."""
    gateway, edge = station("gw"), station("e1", inbox=4000)
    gateway.link.connect()
    for n in range(3000):
        while not gateway.link.publish(contract.KEPT, chunk(n), {"chunk": np.zeros(9, np.uint8)}, node=f"n{n}"):
            gateway.link.flush(0.1)
        if n % 500 == 499:
            assert gateway.link.flush(10)
    edge.link.subscribe(contract.KEPT)
    edge.link.connect()
    end = time.monotonic() + 30.0
    while edge.link.stale < 3000 and time.monotonic() < end:  # the link counts what is kept of such a topic, and drops it
        time.sleep(0.05)
    assert edge.link.stale == 3000
    for n in range(3000):
        gateway.link.clear(contract.KEPT, node=f"n{n}")


@pytest.mark.parametrize(("size", "refused"), [(PACKET_BYTES + 1, True), (TENSOR_BYTES + HEADER_BYTES + 512, False)])
def test_a_packet_above_the_largest_message_ends_its_sender(broker: BrokerProcess, size: int, refused: bool) -> None:
    with socket.create_connection(("127.0.0.1", broker.port)) as line:
        line.sendall(bytes.fromhex("100d00044d5154540402003c000178"))  # CONNECT, client "x"
        assert line.recv(4) == bytes.fromhex("20020000")
        line.sendall(b"\x30" + bytes([size >> s & 0x7F | (0x80 if s < 21 else 0) for s in (0, 7, 14, 21)]) + b"\0\1tx")
        assert bool(select.select([line], [], [], 5 if refused else 0.3)[0]) is refused


def test_a_taken_port_is_one_line_that_names_it_and_the_remedy(broker: BrokerProcess) -> None:
    second = MosquittoProcess(port=broker.port)
    with pytest.raises(DtError, match=rf"127\.0\.0\.1:{broker.port} is taken .*--listen") as caught:
        second.start()
    assert "\n" not in str(caught.value) and not second.alive and broker.alive


def test_a_free_port_that_is_taken_meanwhile_is_given_up_for_another(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, answers = mosquitto._bindable, [broker.port, broker.port]
    monkeypatch.setattr(mosquitto, "_bindable", lambda *a: answers.pop() if answers else free(*a))
    with MosquittoProcess() as second:
        assert not answers and second.alive and second.port not in (0, broker.port)
    answers[:] = [broker.port]
    with pytest.raises(DtError, match=rf"{broker.port} is taken"):
        MosquittoProcess(port=broker.port).start()


def test_an_address_that_is_not_ours_is_one_line() -> None:
    with pytest.raises(DtError, match=r"cannot listen on 192\.0\.2\.1:0.*--listen"):
        MosquittoProcess("192.0.2.1").start()


def test_every_interface_and_ipv6_are_reachable_by_their_url(station: Make) -> None:
    for host in ("0.0.0.0", "::1", "localhost"):
        with MosquittoProcess(host) as running:
            station("e1", url=running.url).link.connect()


def test_it_is_found_off_the_path_and_its_absence_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mosquitto, "SBIN", ())
    assert isinstance(own_broker("mosquitto", "127.0.0.1", 0), MosquittoProcess)
    assert type(own_broker("auto", "127.0.0.1", 0)) is BrokerProcess
    with pytest.raises(DtError, match=r"apt install mosquitto.*--broker amqtt"):
        MosquittoProcess().start()
    sbin = Path(tempfile.mkdtemp())  # under root, mosquitto's own user must get there
    request.addfinalizer(lambda: shutil.rmtree(sbin))
    sbin.chmod(0o755)
    (sbin / "mosquitto").write_text("#!/bin/sh\necho 'Error: no such option' >&2\nexit 3\n")
    (sbin / "mosquitto").chmod(0o755)
    monkeypatch.setattr(mosquitto, "SBIN", (str(sbin),))
    with pytest.raises(DtError, match="did not start: no such option"):
        MosquittoProcess().start()


def test_auto_takes_mosquitto_the_default_is_amqtt_and_an_address_starts_nothing() -> None:
    assert isinstance(own_broker("auto", "127.0.0.1", 0), MosquittoProcess)
    for name in (None, "amqtt"):
        assert type(own_broker(name, "127.0.0.1", 0)) is BrokerProcess
    assert own_broker("mqtt://pi4", "127.0.0.1", 0) is None


def test_tls_takes_the_cipher_that_is_fast_without_aes_instructions(tmp_path: Path) -> None:
    held = certificates.certificates(tmp_path, ["localhost"], datetime.now(timezone.utc))
    with (
        MosquittoProcess(protection=Protection(b"", b"", held.chain, held.key)) as safe,
        socket.create_connection(("127.0.0.1", safe.port), 30) as line,
        tls(held.authority).wrap_socket(line) as told,
    ):
        assert (told.cipher() or ("",))[0] == "TLS_CHACHA20_POLY1305_SHA256"


def test_a_link_finds_the_broker_again_at_the_same_port_after_its_death(station: Make) -> None:
    with MosquittoProcess() as running:
        edge, port = station("e1", url=running.url), running.port
        edge.link.connect()
        edge.expect(Connected)
        os.kill(pid_of(running), signal.SIGKILL)
        edge.expect(Disconnected)
        deadline = time.monotonic() + 30
        while running.alive and time.monotonic() < deadline:
            select.select([], [], [], 0.01)
        assert not running.alive
        running.start()
        assert running.port == port
        edge.expect(Connected)
    assert not running.alive


def test_mosquitto_ends_when_its_parent_is_killed() -> None:
    code = (
        "import time, gateway_agent.mosquitto as g\n"
        "b = g.MosquittoProcess()\nb.start()\nprint(b._child.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOM, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        alive = not select.select([child], [], [], 0)[0]
        parent.kill()
    assert alive and select.select([child], [], [], 5)[0]
    os.close(child)


def test_a_parent_that_died_before_the_child_asked_starts_nothing() -> None:
    for parent, says in ((os.getppid(), b""), (os.getpid(), b"x\n")):
        command = [sys.executable, tether.__file__, str(parent), "-", "/bin/echo", "x"]
        done = subprocess.run(command, capture_output=True, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, says, b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_runs_as_a_normal_user() -> None:
    code = (
        "import os, gateway_agent.mosquitto as g\n"
        "with g.MosquittoProcess() as b: print(os.geteuid(), os.stat(f'/proc/{b._child.pid}').st_uid, b.alive)"
    )
    try:
        subprocess.run([sys.executable, "-c", "import pydantic"], cwd=ROOM, user=65534, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this Python is root's only")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOM, user=65534, group=65534, capture_output=True, text=True
    )
    assert done.stdout == "65534 65534 True\n", done.stderr


def test_only_warnings_and_drops_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    said: queue.Queue[str] = queue.Queue()
    words = (
        b"Config loaded.\nWarning: root\nmosquitto version 2.0.11 running\nClient a\nError: out\n"
        b"Outgoing messages are being dropped for client e1.\n"
    )
    with caplog.at_level(logging.DEBUG):
        mosquitto._listen(io.BytesIO(words), said)
    assert caplog.messages == ["mosquitto: Error: out", "mosquitto: Outgoing messages are being dropped for client e1."]
    assert mosquitto._first_trouble(said) == ""


def dt(*argv: object) -> list[str]:
    return [sys.executable, "-m", "dt_cli.main", *map(str, argv)]


def test_a_whole_cluster_runs_on_it_and_leaves_nothing(tmp_path: Path) -> None:
    """`dt demo` compares every answer; what mosquitto leaves would stand in the empty folder for temporary files."""
    demo = dt("demo", "--edges", 2, "--frames", 3, "--grid", "2x2", "--broker", "mosquitto")
    done = subprocess.run(demo, capture_output=True, text=True, timeout=60, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_the_gateway_starts_a_dead_mosquitto_again_and_takes_it_along(tmp_path: Path) -> None:
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini").to_bytes())
    command = dt("gateway", "--model", model, "--listen", "127.0.0.1:0", "--broker", "mosquitto")
    with (tmp_path / "log").open("w") as log:
        gateway = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOM)
    with gateway, contextlib.ExitStack() as stack:
        stack.callback(gateway.kill)  # harmless after its end
        assert gateway.stdout is not None
        ready = re.search(r"127\.0\.0\.1:(\d+)", gateway.stdout.readline())
        assert ready is not None
        first = children(gateway.pid)
        assert len(first) == 1
        os.kill(first[0], signal.SIGKILL)
        deadline = time.monotonic() + 30
        while children(gateway.pid) in ([], first) and time.monotonic() < deadline:
            select.select([], [], [], 0.05)
        second = children(gateway.pid)
        assert len(second) == 1 and second != first
        while not _answers(int(ready[1])) and time.monotonic() < deadline:
            select.select([], [], [], 0.05)
        assert _answers(int(ready[1]))
        gateway.terminate()
        assert gateway.wait(30) == 0
    assert not _answers(int(ready[1])) and "starting it again on port" in (tmp_path / "log").read_text()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _answers(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("ready", [False, True])
def test_a_gateway_says_at_once_which_message_its_broker_does_not_carry(ready: bool, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(build("mini", 256).to_bytes())
    with MosquittoProcess(packet_bytes=PACKET_BYTES if ready else 60_000) as small:
        words = ["--model", str(tmp_path / "model.tflite"), "--grid", "2x2", "--broker", small.url, "--state", str(tmp_path)]
        with subprocess.Popen(
            [sys.executable, "-m", "dt_cli.main", "gateway", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as gateway:  # fmt: skip
            assert gateway.stdout is not None
            said = gateway.stdout.readline()
            gateway.terminate()
            trouble = gateway.communicate(timeout=60)[1].splitlines()
    assert said.startswith("gateway ready") is ready
    assert gateway.returncode == (0 if ready else 69)
    if not ready:
        assert "ends the connection at a" in trouble[-1] and "but passes 1024: raise its limit" in trouble[-1]
        assert "Traceback" not in "".join(trouble) and len(trouble) <= 3
