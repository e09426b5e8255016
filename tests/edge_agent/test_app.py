"""An edge's process and the model that it is sent: tried in a child first, once, and told in a line if it is bad."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest

from edge_agent.app import ANEW, Edge
from edge_agent.capture import Captured
from edge_agent.worker import Computed
from gateway_agent.broker import BrokerProcess
from gateway_agent.publishing import ModelUpload
from models.bundle import Bundle, make_bundle
from models.graph.file import Graph
from models.running import engine
from models.trial import Verdicts
from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.chunks import CHUNK_BYTES, chunk, chunk_digests
from schemas.contract.config import EdgeOptions
from schemas.contract.errors import EngineError, PlanError, UnreachableError
from schemas.contract.plan import digest
from schemas.wire.codec import decode, encode
from schemas.wire.link import Arrived, Connected
from tests.models.sketch import splitting
from tests.nodes import small_plan


def serve(link: Any, inbox: "queue.Queue[Any]", root: str, upload: ModelUpload) -> None:
    """Give the chunks that are asked for, until None comes."""
    while (event := inbox.get()) is not None:
        if isinstance(event, Arrived):
            message = decode(root, event.topic, event.payload).message
            assert isinstance(message, m.ChunkRequest)
            upload.asked(message)
            while upload:
                link.send(upload.next("01234567"))


@contextmanager
def published(station: Any, root: str, graph: Graph, folder: Path) -> Iterator[Bundle]:
    """What a gateway has for its edges."""
    path = folder / "model.tflite"
    path.write_bytes(graph.to_bytes())
    bundle = make_bundle(path, (2, 2), "1")
    gateway, head = station("gateway"), {"node": "gateway", "epoch": "01234567"}
    gateway.link.subscribe(topics.MODEL_REQ)
    gateway.link.connect()
    model = bundle.edge_model
    plan = bundle.plan.model_copy(update={"runtime": engine.kernels()})
    upload = ModelUpload("gateway", plan.edge_model, model)
    for chunks in (upload.chunks * 2, ("0" * 32,)):
        wrong = m.PlanMessage(**head, plan=plan, chunks=chunks, model_bytes=len(model))  # type: ignore[arg-type]
        assert gateway.link.publish(topics.PLAN, wrong), "garbage before the good one: it must not stand in its way"
    said = m.PlanMessage(**head, plan=plan, chunks=upload.chunks, model_bytes=len(model))  # type: ignore[arg-type]
    assert gateway.link.publish(topics.PLAN, said)
    thread = threading.Thread(target=serve, args=(gateway.link, gateway.inbox, root, upload))
    thread.start()
    try:
        yield bundle
    finally:
        gateway.inbox.put(None)
        thread.join()


def test_the_policy_of_its_options_is_that_of_its_source(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="nothing to drop"):
        Edge(EdgeOptions(gateway="127.0.0.1:1", source="synthetic://", drop="latest", cache=tmp_path), "e1")


@pytest.mark.parametrize(("ready", "is_alone"), [(True, False), (False, True)])
def test_a_source_begins_once_what_its_tiles_need_is_loaded_or_at_once_alone(
    ready: bool, is_alone: bool, tmp_path: Path
) -> None:
    app = Edge(EdgeOptions(gateway="127.0.0.1:1", source="synthetic://", cache=tmp_path), "e1")
    node = Mock(wants_frame=True, is_alone=False, plan=None, digest="", **{"deadline.return_value": float("inf")})
    app._node, app._worker, app._capture = node, Mock(ready=False), Mock()
    app._status_at = float("inf")
    for begins in (False, True):
        if begins:
            app._worker.ready, node.is_alone = ready, is_alone
        app._inbox.put(None)
        app._step()
        assert app._capture.more.called == begins


@pytest.mark.parametrize("leave", [True, False])
def test_the_next_picture_is_read_once_the_tiles_of_the_last_have_left_or_a_while_later(
    leave: bool, tmp_path: Path
) -> None:
    """To read it takes the processor from what sends them, but nobody may come for the last."""
    app = Edge(EdgeOptions(gateway="127.0.0.1:1", source="synthetic://", cache=tmp_path), "e1")
    node = Mock(wants_frame=False, digest="", **{"deadline.return_value": float("inf"), "frame.return_value": []})
    app._node, app._worker, app._capture, app._status_at = node, Mock(), Mock(), float("inf")
    node.tiles.waiting = 2
    app._inbox.put(Captured(app._capture, Mock(), (1, 1), 0.0, 0.0))
    app._step()
    assert not app._capture.ahead.called
    node.tiles.waiting = 0 if leave else 1
    app._inbox.put(None)
    app._step()
    assert app._capture.ahead.called == leave
    begun = time.monotonic()
    while not app._capture.ahead.called:
        app._step()
    assert time.monotonic() < begun + 5.0
    app._inbox.put(None)
    app._step()
    assert app._capture.ahead.call_count == 1


@pytest.mark.parametrize("is_of_this_plan", [True, False])
def test_a_tile_of_an_earlier_plan_that_ends_as_the_next_begins_comes_to_nothing(is_of_this_plan: bool, tmp_path: Path) -> None:
    app = Edge(EdgeOptions(gateway="127.0.0.1:1", cache=tmp_path), "e1")
    worker, node = Mock(), MagicMock(wants_frame=False, digest="", **{"deadline.return_value": float("inf")})
    node.computed.return_value = []
    app._node, app._worker, app._status_at = node, worker if is_of_this_plan else Mock(), float("inf")
    app._inbox.put(Computed(worker, ("e1-01234567-0", 1, 5), {}, 0.1))
    app._step()
    assert node.computed.called == is_of_this_plan


def test_a_plan_whose_bits_this_node_does_not_compute_is_refused_with_a_remedy(tmp_path: Path) -> None:
    app = Edge(EdgeOptions(gateway="127.0.0.1:1", cache=tmp_path), "e1")
    for arithmetic in ("float32", "uint8"):
        asked = engine.kernels([arithmetic]).replace("=", "=f" if arithmetic == "uint8" else "=")
        message = m.PlanMessage(node="gateway", epoch="01234567", plan=small_plan(asked), chunks=("0" * 32,), model_bytes=1)
        if arithmetic == "float32":
            app._adopt(message, 0.0)
            assert app._plan is message
            continue
        with pytest.raises(EngineError, match=r"^this node cannot join: .*other uint8 bits .*use an int8 or float32 model"):
            app._adopt(message, 0.0)


def test_an_edge_waits_for_a_plan_that_it_knows_and_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = Mock()
    app = Edge(EdgeOptions(gateway="127.0.0.1:1", cache=tmp_path), "e1", service)
    app._link = Mock(connected=True, address="pi:1883", root="dt", bytes_in=0, bytes_out=0, messages_in=0, messages_out=0)
    plan = m.PlanMessage(node="gateway", epoch="01234567", plan=small_plan(""), chunks=("0" * 32,), model_bytes=1)
    known = encode(topics.PLAN, plan)
    for payload, waits in ((known, False), (known.replace(b'"version":3', b'"version":4'), True), (known, False)):
        app._act(app._handle(Arrived("dt/plan", payload), 0.0))
        assert (app._plan is None) == waits and (app._download is None) == waits
        if waits:
            assert "gateway has plan version 4, this node 3: update the older of the two" in caplog.text
            assert "version 4" in service.status.call_args.args[0]
            app._publish_status(0.0)
            assert app._link.publish.call_args.args[0] is topics.STATUS, "people see that it is there"


MODEL = np.random.default_rng(1).bytes(20 * CHUNK_BYTES + 1)


@pytest.fixture
def fetching(tmp_path: Path) -> Edge:
    """An edge, connected to nobody, that has heard of a plan whose model is not here."""
    app = Edge(EdgeOptions(gateway="127.0.0.1:1", cache=tmp_path), "e1")
    counters = dict.fromkeys(("bytes_in", "bytes_out", "messages_in", "messages_out"), 0)
    app._link = Mock(connected=True, address="pi:1883", root="dt", local=("", 0), **counters)
    plan = small_plan().model_copy(update={"edge_model": digest(MODEL), "runtime": ""})
    head = {"node": "gateway", "epoch": "01234567"}
    app._adopt(m.PlanMessage(**head, plan=plan, chunks=chunk_digests(MODEL), model_bytes=len(MODEL)), 0.0)  # type: ignore[arg-type]
    return app


def asked(app: Edge) -> list[int]:
    """Chunks that it has asked for since."""
    said = [call.args[1] for call in app._link.publish.call_args_list if call.args[0] is topics.MODEL_REQ]  # type: ignore[attr-defined]
    app._link.publish.reset_mock()  # type: ignore[attr-defined]
    return [n for request in said for n in request.chunks]


def arrive(app: Edge, n: int, now: float) -> None:
    header = m.ChunkHeader(node="gateway", epoch="01234567", digest=digest(MODEL), n=n)
    payload = encode(topics.MODEL, header, {"chunk": chunk(MODEL, n)})
    app._act(app._handle(Arrived(topics.MODEL.path("dt", node="e1"), payload), now))


def test_a_model_is_asked_for_as_it_comes_and_its_progress_is_told(fetching: Edge, tmp_path: Path) -> None:
    fetching._await_model(0.0)
    assert asked(fetching) == [0]
    arrive(fetching, 0, 0.1)
    fetching._await_model(0.1)
    assert asked(fetching) == [1, 2]
    fetching._publish_status(0.2)
    (status,) = [c.args[1] for c in fetching._link.publish.call_args_list if c.args[0] is topics.STATUS]  # type: ignore[attr-defined]
    assert status.fetched == pytest.approx(1 / 21)
    fetching._end_plan()
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]


def test_chunks_that_never_come_are_told_of_and_asked_for_on_another_connection(
    fetching: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    now, renewed = 0.0, []
    for _ in range(ANEW + 1):
        fetching._await_model(now)
        assert asked(fetching) == [0]
        renewed.append(fetching._link.renew.call_count)  # type: ignore[attr-defined]
        assert fetching._download is not None
        now = fetching._download.deadline(now)
    assert renewed == [0, 0, 0, 1] and "pass messages of 131 kB? 'dt doctor'" in caplog.text
    fetching._handle(Connected(), now)
    fetching._await_model(now)
    assert asked(fetching) == [0], "and at once on the new one"
    fetching._end_plan()


def edge(broker: BrokerProcess, root: str, cache: Path, *more: str) -> "subprocess.Popen[str]":
    words = ["edge", "--gateway", broker.url, "--name", "e1", "--root", root, "--cache", str(cache), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "dt_cli.main", *words], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )


@pytest.mark.skipif(not engine.runtime().startswith("ai-edge-litert"), reason="the older runtime has its own ways to die")
def test_a_model_that_kills_the_runtime_ends_the_edge_with_a_line_and_no_signal(
    broker: BrokerProcess, root: str, station: Callable[..., Any], tmp_path: Path
) -> None:
    with published(station, root, splitting(0), tmp_path), edge(broker, root, tmp_path / "cache") as process:
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "dies of it (SIGSEGV in a child process)" in said.splitlines()[-1]
    assert "Traceback" not in said and not (tmp_path / "cache" / "tried").exists()


@pytest.mark.parametrize("more", [[], ["--once"]])
def test_a_good_model_is_tried_before_the_edge_joins_and_remembered_beside_it(
    more: list[str], broker: BrokerProcess, root: str, station: Callable[..., Any], tmp_path: Path
) -> None:
    watcher = station("watcher")
    watcher.link.subscribe(topics.REGISTER)
    watcher.link.connect()
    cache = tmp_path / "cache"
    with published(station, root, splitting(1), tmp_path) as bundle, edge(broker, root, cache, *more) as process:
        try:
            assert watcher.expect(Arrived, 60.0).topic.endswith("register")
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0
    assert Verdicts(tmp_path / "cache").knows(bundle.plan.edge_model)


def test_asked_once_an_edge_waits_so_long_for_a_plan_and_no_longer(
    broker: BrokerProcess, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.app.ONCE_S", 0.4)
    app, begun = Edge(EdgeOptions(gateway=broker.url, root=root, cache=tmp_path, once=True), "e1"), time.monotonic()
    with pytest.raises(UnreachableError, match=f"{broker.port} has no plan: is 'dt gateway' running there"):
        app.run()
    assert time.monotonic() - begun > 0.4
