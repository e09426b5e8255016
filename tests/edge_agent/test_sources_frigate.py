"""What Frigate asks and hears: the desk's decisions, the bytes, and a socket with clients of all manners."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from bench.frigate import Client
from edge_agent.sources import open_source
from edge_agent.sources.frigate import CHOSEN, MODELS, Frigate, keep_model
from edge_agent.sources.requests import FIELDS, ROWS, WAITING, Colours, Desk, HasModel, Look, TakeModel, parse, rows
from schemas.contract.errors import DecodeError, PlanError
from schemas.contract.results import Detection, Result

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
NOTHING = Result(task="detect")


def header(**fields: Any) -> bytes:
    return json.dumps({"shape": [1, 4, 6, 3], "dtype": "uint8", "model_type": "ssd", **fields}).encode()


def seen(count: int) -> Result:
    """``count`` objects; the first is the least certain."""
    found = [Detection(label="a", index=i, score=(i + 1) / 32, box=(i, 1, i + 2, 3)) for i in range(count)]
    return Result(task="detect", detections=tuple(found))


def picture(*parts: bytes, bgr: bool = False) -> np.ndarray:
    asked = parse(parts)
    assert isinstance(asked, Look)
    return Colours(bgr).picture(asked.values)


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "float", "float_denorm"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw", "hwc"])
def test_a_tensor_is_the_picture_that_it_was_made_of(layout: str, kind: str, bgr: bool) -> None:
    values: Any = PICTURE[..., ::-1] if bgr else PICTURE
    if kind != "uint8":
        values = values.astype(np.float32) / (255 if kind == "float" else 1)
    values = values if layout == "hwc" else values[None] if layout == "nhwc" else values.transpose(2, 0, 1)[None]
    said = header(shape=list(values.shape), dtype=values.dtype.name)
    assert np.array_equal(picture(said, np.ascontiguousarray(values).tobytes(), bgr=bgr), PICTURE)


def test_once_floats_reach_to_255_a_dark_picture_stays_dark() -> None:
    colours = Colours(bgr=False)
    assert colours.picture(np.ones((1, 1, 3), np.float32)).max() == 255
    colours.picture(np.full((1, 1, 3), 9, np.float32))
    assert colours.picture(np.ones((1, 1, 3), np.float32)).max() == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 255.5])
def test_a_value_that_is_no_colour_is_refused(value: float) -> None:
    with pytest.raises(DecodeError, match="floats must reach"):
        Colours(bgr=False).picture(np.full((1, 1, 3), value, np.float32))


@pytest.mark.parametrize(
    "parts",
    [
        [], [b""], [b"[" * 5000], [b"[" * 4000], [b"\xff"], [header()], [header(), b"short"], [header(), bytes(72), b""],
        [header(dtype="int64"), bytes(72 * 8)], [header(shape=[1, 4, 6, 4]), bytes(96)], [header(shape="4"), bytes(72)],
        [header(shape=[1, 4, 6, -3]), bytes(72)], [header(shape=[True, 3]), bytes(72)], [header(shape=[2, 2, 6, 3]), bytes(72)],
        [header(shape=[1, 2**30, 2**30, 3]), bytes(72)], [header(model_request=True)], [header(model_data=True, model_name=1)],
        [header(model_data=True, model_name="a")],
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(DecodeError):
        parse(parts)


@given(st.lists(st.one_of(st.binary(max_size=80), st.just(header()), st.just(bytes(72))), max_size=4))
def test_any_bytes_are_a_request_or_refused(parts: list[bytes]) -> None:
    try:
        assert isinstance(parse(parts), Look | HasModel | TakeModel)
    except DecodeError as error:
        assert "\n" not in str(error)


@given(st.integers(0, 40))
def test_rows_are_the_best_first_and_relative(count: int) -> None:
    table = np.frombuffer(rows(seen(min(count, 31)), (4, 8)), np.float32).reshape(ROWS, FIELDS)
    told = min(count, 31)
    assert not table[min(told, ROWS) :].any(), "no more than were seen"
    for row, i in zip(table[:told], reversed(range(told))):
        assert row[0] == i and row[1] == np.float32((i + 1) / 32)
        assert np.allclose(row[2:], [1 / 4, min(i / 8, 1), 3 / 4, min((i + 2) / 8, 1)], 1e-6)


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "take", "right", "wrong", "none"]), st.integers(0, 40), st.floats(0, 0.15)),
        max_size=60,
    )
)
def test_every_request_ends_once_and_no_answer_is_late_or_anothers(steps: list[tuple[str, int, float]]) -> None:
    desk, now, open_until = Desk(0.2), 0.0, dict[int, tuple[bytes, float]]()
    answered = 0
    for step, number, passed in steps:
        now += passed
        if step == "ask":
            desk.ask(client := bytes([number]), PICTURE, now)
            open_until = {ticket: of for ticket, of in open_until.items() if of[0] != client}
        elif step == "take":
            if (taken := desk.take(now)) is not None:
                assert now < taken.until <= now + 0.2
                open_until[taken.ticket] = (taken.client, taken.until)
        elif open_until:
            ticket = list(open_until)[number % len(open_until)]
            client, until = open_until.pop(ticket)
            result = {"right": seen(1), "wrong": Result(task="classify"), "none": None}[step]
            message = desk.answer(ticket, result, now)
            assert bool(message) == (step == "right" and now < until)
            assert not message or message[0] == client
            answered += bool(message)
            assert desk.answer(ticket, seen(1), now) == [], "an answer comes once"
        assert len(desk._waiting) <= WAITING
    desk.expire(now + 1.0)
    assert answered == desk.counts["answered"] and desk.counts["asked"] == answered + desk.unanswered


def test_of_those_that_wait_the_one_with_most_time_left_is_next() -> None:
    desk = Desk(1.0)
    for i in range(3):
        desk.ask(bytes([i]), PICTURE, 0.1 * i)
    assert [taken.client for _ in range(3) if (taken := desk.take(0.5)) is not None] == [b"\2", b"\1", b"\0"]


@contextmanager
def opened(query: str = "", model: str = "digits") -> Iterator[tuple[Frigate, "zmq.Context[Any]"]]:
    source, context = open_source(f"frigate://127.0.0.1:0?{query}"), zmq.Context[Any]()
    assert isinstance(source, Frigate)
    source.runs(model)
    try:
        yield source, context
    finally:
        source.close()
        context.destroy(0)


def look(source: Frigate, result: Result | None, count: int = 1) -> threading.Thread:
    """Somebody who sees ``result`` in the next pictures."""

    def run() -> None:
        running = source.shots(lambda: False)
        for _ in range(count):
            source.answer(next(running).ticket, result)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("result", [NOTHING, seen(3)])
def test_a_client_hears_what_its_picture_shows_and_zeros_if_that_is_nothing(result: Result) -> None:
    with opened("timeout=20000") as (source, context):
        client = Client(context, source.endpoint, "digits.tflite", 20.0)
        thread = look(source, result, 2)
        assert client.is_ready and client.detect(PICTURE[None]) == rows(result, (4, 6))
        assert client.detect(PICTURE.transpose(2, 0, 1)[None].astype(np.float32) / 255) == rows(result, (4, 6))
        thread.join()
        assert source.unanswered == 0


def test_a_frame_that_failed_is_silence_and_the_next_client_gets_its_own_answer() -> None:
    with opened("timeout=20000") as (source, context):
        client = Client(context, source.endpoint, "digits.tflite", 0.3)
        look(source, None).join(0.0)
        assert client.detect(PICTURE[None]) is None
        assert source.unanswered == 1
        client._timeout_ms = 20_000
        client._socket.setsockopt(zmq.RCVTIMEO, 20_000)
        look(source, seen(1)).join(0.0)
        assert client.detect(PICTURE[None]) == rows(seen(1), (4, 6))


def test_an_answer_that_is_too_late_is_not_sent_to_the_socket_that_was_made_anew() -> None:
    with opened("timeout=100") as (source, context):
        client = Client(context, source.endpoint, "digits.tflite", 0.2)
        running, late = source.shots(lambda: False), list[int]()
        taker = threading.Thread(target=lambda: late.append(next(running).ticket))
        taker.start()
        assert client.detect(PICTURE[None]) is None
        taker.join()
        source.answer(late[0], seen(1))
        assert client.detect(PICTURE[None]) is None, "it is of another picture"
        assert source._desk.counts["late"] >= 1 and source._desk.counts["answered"] == 0


def test_garbage_gets_no_answer_and_disturbs_nobody() -> None:
    with opened("timeout=20000") as (source, context):
        stranger = context.socket(zmq.DEALER)
        stranger.connect(source.endpoint)
        for parts in ([b"x"], [b"", b"x"], [b"", header(), b"short"], [b"", header(dtype="float32"), b"\xff" * 288]):
            stranger.send_multipart(parts)
        client = Client(context, source.endpoint, "digits.tflite", 20.0)
        look(source, seen(2)).join(0.0)
        assert client.detect(PICTURE[None]) == rows(seen(2), (4, 6))
        assert not stranger.poll(0) and source._desk.counts["refused"] == 4


def test_another_model_is_not_here_and_none_is_taken() -> None:
    with opened() as (source, context):
        client = Client(context, source.endpoint, "yolov9.onnx")
        assert not client.is_ready
        assert client.ask({"model_data": True, "model_name": "yolov9.onnx"}, bytes(100)) == {
            "model_saved": False, "model_loaded": False,
        }  # fmt: skip


def test_a_model_that_a_client_sends_is_kept_where_that_is_allowed_and_asked_of_the_gateway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(f"models={tmp_path}") as (source, context):
        client = Client(context, source.endpoint, "new.tflite")
        said: list[dict[str, Any]] = []
        header = {"model_data": True, "model_name": "new.tflite"}
        sender = threading.Thread(target=lambda: said.append(client.ask(header, b"a model")))
        sender.start()
        while f"{CHOSEN}{tmp_path}/new.tflite\n" not in capsys.readouterr().out:
            time.sleep(0.01)
        assert (tmp_path / "new.tflite").read_bytes() == b"a model"
        source.runs("new")
        sender.join()
        assert said == [{"model_saved": True, "model_loaded": True}]
        assert client.ask(header, b"another") == {"model_saved": False, "model_loaded": False}
        assert (tmp_path / "new.tflite").read_bytes() == b"a model", "what is there stays"


def test_who_has_sent_a_model_that_the_gateway_removes_hears_that_it_is_not_saved(tmp_path: Path) -> None:
    with opened(f"models={tmp_path}") as (source, context):
        client = Client(context, source.endpoint, "new.tflite")
        thread = threading.Thread(target=lambda: _remove(tmp_path / "new.tflite"))
        thread.start()
        header = {"model_data": True, "model_name": "new.tflite"}
        assert client.ask(header, b"no model") == {"model_saved": False, "model_loaded": False}
        thread.join()


def _remove(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)
    path.unlink()


@pytest.mark.parametrize("name", ["../a.tflite", ".a.tflite", "a.onnx", "a b.tflite", "/a.tflite", "a" * 200 + ".tflite"])
def test_a_model_with_a_name_that_leads_elsewhere_is_not_kept(name: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="give it a name"):
        keep_model(tmp_path, TakeModel(name, b""))
    assert not list(tmp_path.rglob("*"))


def test_a_folder_takes_no_more_models_than_it_may(tmp_path: Path) -> None:
    for i in range(MODELS):
        keep_model(tmp_path, TakeModel(f"{i}.tflite", b""))
    with pytest.raises(PlanError, match="the most"):
        keep_model(tmp_path, TakeModel("x.tflite", b""))


def test_who_asks_for_the_model_before_it_is_known_hears_when_it_is() -> None:
    with opened(model="") as (source, context):
        timer = threading.Timer(0.3, source.runs, ["digits"])
        timer.start()
        assert Client(context, source.endpoint, "digits.tflite").is_ready
        timer.join()


def test_a_file_is_an_endpoint_too_and_gone_when_it_closes(tmp_path: Path) -> None:
    source = open_source(f"frigate://{tmp_path}/detector")
    assert (tmp_path / "detector").is_socket()
    source.close()
    assert not (tmp_path / "detector").exists()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("frigate://0.0.0.0:5555", "insecure=1"), ("frigate://nowhere", "HOST:PORT"), ("frigate://", "HOST:PORT"),
        ("frigate://127.0.0.1:5555?colour=yuv", "rgb or bgr"), ("frigate://127.0.0.1:5555?motion=1", "leave motion"),
        ("frigate://127.0.0.1:5555?timeout=1", "from 10"), ("frigate://127.0.0.1:5555?fps=1", "unknown parameter"),
        ("frigate:///nowhere/at/all", "cannot listen"),
    ],
)  # fmt: skip
def test_an_address_that_is_none_or_is_open_to_others_is_refused(uri: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        open_source(uri)


def test_closing_ends_its_threads_and_who_waits() -> None:
    before = threading.active_count()
    source = open_source("frigate://127.0.0.1:0")
    waiting = threading.Thread(target=lambda: list(source.frames()))
    waiting.start()
    time.sleep(0.05)
    source.close()
    waiting.join(5.0)
    assert not waiting.is_alive() and threading.active_count() == before
