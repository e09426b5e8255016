"""A running gateway is asked for things, and is watched: on a real cluster in this process, over amqtt."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from edge_agent.app import Edge
from gateway_agent import app
from gateway_agent.app import Gateway
from gateway_agent.broker import BrokerProcess
from gateway_agent.controls import Request, Value, Verb
from gateway_agent.plan_store import PlanStore
from gateway_agent.plans import bind
from gateway_agent.replan import Replanner
from gateway_agent.start import find_models, first_bundle
from models.bundle import make_bundle
from models.graph.build import build
from schemas.contract import messages as m
from schemas.contract.config import EdgeOptions, GatewayOptions
from schemas.contract.errors import PlanError
from tests.models.sketch import splitting

WAIT_S = 60.0


class Seen:
    """A watcher that keeps what it sees."""

    def __init__(self) -> None:
        self.outcomes: queue.Queue[m.Outcome] = queue.Queue()
        self.pictures: queue.Queue[str] = queue.Queue()
        self.closed = False

    def outcome(self, outcome: m.Outcome, now: float) -> None:
        self.outcomes.put(outcome)

    def pictured(self, frame: str, now: float) -> None:
        self.pictures.put(frame)

    def tick(self, now: float) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Running:
    """A gateway and two edges, the first with a camera, each in a thread."""

    def __init__(self, folder: Path, broker: BrokerProcess, grid: tuple[int, int] = (2, 2)) -> None:
        model = folder / "mini.tflite"
        model.write_bytes(build("mini", size=96).to_bytes())
        model.with_suffix(".toml").write_text('decoder = "yolov2"\n')
        self.seen = Seen()
        self.gateway = Gateway(GatewayOptions(deadline=60.0), bind(make_bundle(model, grid)), broker.url, None)
        self.gateway.watch(self.seen, pictures_s=0.01)
        sources = {"edge1": "synthetic://?seed=3", "edge2": None}
        self.edges = [
            Edge(EdgeOptions(gateway=broker.url, source=source, cache=folder / "cache", keep=3, window=2), name)
            for name, source in sources.items()
        ]
        runs = [self.gateway.run, *(edge.run for edge in self.edges)]
        self._threads = [threading.Thread(target=run) for run in runs]

    def __enter__(self) -> "Running":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for edge in self.edges:
            edge.stop()
        for thread in self._threads[1:]:
            thread.join(30)
        self.gateway.stop()
        self._threads[0].join(30)
        assert not any(thread.is_alive() for thread in self._threads)

    def ask(self, verb: Verb, value: Value) -> str:
        answers: queue.Queue[str] = queue.Queue()
        self.gateway.ask(Request(verb, value, answers.put))
        return answers.get(timeout=WAIT_S)

    def until(self, true: Callable[[m.Outcome], bool]) -> list[m.Outcome]:
        """Outcomes up to the first one of which ``true`` says so."""
        seen, end = [self.seen.outcomes.get(timeout=WAIT_S)], time.monotonic() + WAIT_S
        while not true(seen[-1]):
            assert time.monotonic() < end, f"not in {WAIT_S:.0f} s and {len(seen)} frames"
            seen.append(self.seen.outcomes.get(timeout=WAIT_S))
        return seen


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with BrokerProcess("127.0.0.1", 0) as broker, Running(tmp_path, broker) as running:
        yield running


def test_another_grid_is_adopted_between_two_frames_and_none_is_lost(running: Running) -> None:
    running.until(lambda outcome: True)
    assert running.ask("grid", "3x2") == ""
    seen = running.until(lambda outcome: len(outcome.workers) == 6)
    assert all(outcome.status == "ok" for outcome in seen)
    assert running.gateway.controls.grid == "3x2"
    assert all(outcome.status == "ok" for outcome in running.until(lambda outcome: True))


def test_a_paused_cluster_ends_no_frame_until_it_goes_on(running: Running) -> None:
    running.until(lambda outcome: True)
    assert running.ask("detection", False) == ""
    with pytest.raises(queue.Empty):
        while True:  # those in flight
            running.seen.outcomes.get(timeout=3.0)
    assert running.gateway.controls.detection is False
    assert running.ask("detection", True) == ""
    assert running.until(lambda outcome: True)[0].status == "ok"


def test_sources_send_pictures_and_the_board_shows_them(running: Running) -> None:
    board = running.gateway.board
    running.until(lambda outcome: board.online == ("edge1", "edge2") and board.nodes["edge1"].status is not None)
    frame = running.seen.pictures.get(timeout=WAIT_S)
    view = board.sources["edge1"]
    assert m.frame_source(frame)[0] == "edge1" and view.jpeg.startswith(b"\xff\xd8") and view.plain.startswith(b"\xff\xd8")
    status = board.nodes["edge1"].status
    assert status is not None and status.source == "synthetic://?seed=3" and status.vitals.memory_bytes


def test_a_threshold_above_every_score_leaves_no_detection(running: Running) -> None:
    assert running.ask("threshold", 0.0) == ""
    running.until(lambda outcome: outcome.result is not None and len(outcome.result.detections) > 0)
    assert running.ask("threshold", 1.0) == ""
    running.until(lambda outcome: outcome.result is not None and not outcome.result.detections)


def test_what_cannot_be_is_refused_with_its_value(running: Running) -> None:
    before = running.gateway.controls
    asked: list[tuple[Verb, Value]] = [
        ("detection", "on"), ("threshold", 1.5), ("threshold", True), ("grid", 3.0), ("grid", "3by2")
    ]  # fmt: skip
    for verb, value in asked:
        assert str(value) in running.ask(verb, value)
        assert running.gateway.controls == before


def test_the_cluster_plans_again_for_the_nodes_that_are_here(tmp_path: Path) -> None:
    with BrokerProcess("127.0.0.1", 0) as broker:
        running = Running(tmp_path, broker, (6, 6))
        running.gateway.plans.replan("latency", Replanner(settle_s=0.5, again_s=2.0))
        with running:  # the network is so small that dividing it so often cannot pay
            seen = running.until(lambda outcome: len(outcome.workers) < 36)
            assert len(seen[0].workers) == 36
            assert all(outcome.status == "ok" for outcome in seen)
            assert running.gateway.controls.grid != "6x6"


def test_a_watcher_is_told_of_the_end(tmp_path: Path) -> None:
    with BrokerProcess("127.0.0.1", 0) as broker:
        with Running(tmp_path, broker) as running:
            assert running.ask("restart", None) == ""
        assert running.seen.closed


def test_a_plan_that_somebody_asks_for_comes_instead_of_one_that_nobody_did(running: Running) -> None:
    running.until(lambda outcome: True)
    wait = threading.Event()

    def think() -> None:
        wait.wait(WAIT_S)

    running.gateway.plans.make(think)  # as the gateway does by itself
    answers: queue.Queue[str] = queue.Queue()
    running.gateway.ask(Request("grid", "3x1", answers.put))
    second: queue.Queue[str] = queue.Queue()
    running.gateway.ask(Request("grid", "1x3", second.put))
    assert "try again" in second.get(timeout=WAIT_S)
    wait.set()
    assert answers.get(timeout=WAIT_S) == ""
    running.until(lambda outcome: len(outcome.workers) == 3)
    assert running.gateway.controls.grid == "3x1"


def test_a_model_of_the_folder_is_chosen_by_name(running: Running, tmp_path: Path) -> None:
    other = tmp_path / "other.tflite"
    other.write_bytes(build("mini", size=64).to_bytes())
    running.gateway.models = find_models(tmp_path)
    assert sorted(running.gateway.models) == ["mini", "other"]
    running.until(lambda outcome: True)
    assert "mini, other" in running.ask("model", "third")
    assert running.ask("model", "other") == ""
    running.until(lambda outcome: running.gateway.controls.model == "other")
    assert running.gateway.controls.grid == "2x2"
    assert running.until(lambda outcome: True)[0].status == "ok"


def dying() -> bytes:
    """A model that the reader takes and the runtime dies of, or at least refuses."""
    return splitting(0).to_bytes()


def test_a_model_is_tried_before_it_is_adopted_and_kept_after_that(running: Running, tmp_path: Path) -> None:
    (tmp_path / "dying.tflite").write_bytes(dying())
    (tmp_path / "gone.tflite").write_bytes(build("mini", size=64).to_bytes())
    running.gateway.models = find_models(tmp_path)
    (tmp_path / "gone.tflite").unlink()
    kept: list[str] = []
    running.gateway.keep = lambda bundle, automatic: kept.append(f"{bundle.path.stem} {running.gateway.controls.model}")
    running.until(lambda outcome: True)
    for value in ("dying", "gone"):
        assert f"{value}.tflite" in running.ask("model", value)
    assert running.gateway.controls.model == "mini" and not kept
    assert running.ask("grid", "1x2") == ""
    assert all(outcome.status == "ok" for outcome in running.until(lambda outcome: len(outcome.workers) == 2))
    assert kept == ["mini mini"]


def test_a_plan_whose_tail_cannot_be_made_leaves_the_one_before(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> NoReturn:
        raise MemoryError

    kept: list[object] = []
    running.gateway.keep = lambda bundle, automatic: kept.append(bundle)
    running.until(lambda outcome: True)
    with monkeypatch.context() as patched:
        patched.setattr(app, "TailThread", full)
        assert running.ask("grid", "1x2") == ""
        end = time.monotonic() + WAIT_S
        while "keeping the current one: there is not enough memory" not in caplog.text:
            assert time.monotonic() < end
            running.until(lambda outcome: True)
    assert running.until(lambda outcome: True)[0].status == "ok" and running.gateway.controls.grid == "2x2" and not kept


def test_an_error_of_the_planner_that_nobody_expects_is_an_answer(running: Running) -> None:
    def break_down() -> NoReturn:
        raise MemoryError

    answers: queue.Queue[str] = queue.Queue()
    assert running.gateway.plans.make(break_down, Request("grid", "2x2", answers.put)) is None
    assert answers.get(timeout=WAIT_S) == "it cannot be planned: MemoryError"
    assert running.ask("grid", "1x2") == ""


def test_a_kept_choice_that_fails_falls_back_to_what_is_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, model in (("mini", build("mini", size=96).to_bytes()), ("dying", dying())):
        (tmp_path / f"{name}.tflite").write_bytes(model)
    options = GatewayOptions(model=tmp_path / "mini.tflite", grid="2x2")
    memory, models = PlanStore(tmp_path, options), find_models(tmp_path)
    memory.keep(bind(make_bundle(models["dying"], (1, 1))), True)
    bundle, automatic = first_bundle(options, memory, models.values())
    assert bundle.path == models["mini"] and automatic is None
    (told,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert "running the configured one instead" in told.message and "dying.tflite" in told.message
    memory.keep(bind(make_bundle(models["mini"], (1, 2))), True)
    bundle, automatic = first_bundle(options, memory, models.values())
    assert bundle.plan.blocks[0].cols == 2 and automatic is True


def test_a_folder_without_models_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=str(tmp_path)):
        find_models(tmp_path)


def test_only_a_node_that_is_gone_can_be_removed(running: Running) -> None:
    running.until(lambda outcome: running.gateway.board.online == ("edge1", "edge2"))
    assert "stop it first" in running.ask("remove", "edge2")
    assert "no node" in running.ask("remove", "edge9")
    running.edges[1].stop()
    while running.ask("remove", "edge2"):
        running.until(lambda outcome: True)
    assert list(running.gateway.board.nodes) == ["edge1"]


def test_a_grid_by_hand_ends_planning_by_itself_until_it_is_asked_for(running: Running) -> None:
    assert running.ask("grid", "auto") == ""
    assert running.gateway.controls.automatic
    assert running.ask("grid", "2x1") == ""
    assert not running.gateway.controls.automatic


def test_a_gateway_that_hears_its_own_words_is_not_alone(tmp_path: Path) -> None:
    model = tmp_path / "mini.tflite"
    model.write_bytes(build("mini", size=96).to_bytes())
    with BrokerProcess("127.0.0.1", 0) as broker:
        gateway = Gateway(GatewayOptions(grid="2x2"), bind(make_bundle(model, (2, 2))), broker.url, None)
        alone_at: list[float] = []

        class Ear(Seen):
            def tick(self, now: float) -> None:
                alone_at.append(gateway._node.deadline() or 0.0)

        gateway.watch(Ear())
        thread = threading.Thread(target=gateway.run)
        thread.start()
        end = time.monotonic() + WAIT_S
        while len(set(alone_at)) < 3 and time.monotonic() < end:  # each status that comes back puts it off
            gateway.ask(Request("threshold", 0.5, lambda _: None))
            gateway._publisher._status_sent_at = 0.0
            time.sleep(0.1)
        gateway.stop()
        thread.join(30)
        assert len(set(alone_at)) >= 3 and gateway.board.status is not None
        assert not gateway.board.status.dropped
