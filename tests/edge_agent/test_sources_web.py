import base64
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources import open_source, web
from edge_agent.sources.live import Camera, Grabber, Mailbox
from edge_agent.sources.multipart import Multipart
from models.results import jpeg
from schemas.contract.errors import PlanError
from tests.examples import examples

Answer = Callable[[BaseHTTPRequestHandler], None]
BOUNDARY = "multipart/x-mixed-replace; boundary=cut"


@pytest.fixture(scope="module")
def cv2() -> Any:
    return pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def pictures(cv2: Any) -> list[bytes]:
    """Ten JPEG pictures of 16x24, each a brighter grey."""
    return [cv2.imencode(".jpg", np.full((16, 24, 3), 20 * i, np.uint8))[1].tobytes() for i in range(10)]


def level(image: Any) -> int:
    return round(float(image.mean()) / 20)


class WebCamera:
    """A camera on loopback that answers as it is told. ``release`` lets its stalled answers end."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seen: list[tuple[str, str | None]] = []
        self.release = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.seen.append((self.path, self.headers["Authorization"]))
                answer = camera.answers.pop(0) if len(camera.answers) > 1 else camera.answers[0]
                with contextlib.suppress(OSError):  # the client has gone
                    answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.01))
        self._thread.start()

    def url(self, path: str = "/cam", user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self._server.server_port}{path}"

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def camera() -> Iterator[WebCamera]:
    server = WebCamera()
    yield server
    server.close()


def body(data: bytes, kind: str = "image/jpeg", length: int | None = None, code: int = 200) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Type", kind)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def then_wait(first: Answer, camera: WebCamera) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        first(handler)
        camera.release.wait(30)

    return answer


def parts(*bodies: bytes, counted: bool = True) -> bytes:
    heads = (f"Content-Type: image/jpeg\r\nContent-Length: {len(b)}\r\n" if counted else "X: y\r\n" for b in bodies)
    return b"".join(b"--cut\r\n" + h.encode() + b"\r\n" + b + b"\r\n" for h, b in zip(heads, bodies)) + b"--cut\r\n"


def opened(camera: WebCamera, timeout_s: float = 5.0, user: str = "") -> Camera:
    return web.connect(web.Address(camera.url(user=user), camera.url(user="***@" if user else "")), timeout_s, 2.0)


def refusal(camera: WebCamera, timeout_s: float = 5.0) -> str:
    with pytest.raises(PlanError) as caught:
        found = opened(camera, timeout_s)
        try:
            found.read(timeout_s)
        finally:
            found.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_snapshot_is_asked_for_again_each_time(camera: WebCamera, pictures: list[bytes]) -> None:
    camera.answers = [body(picture, length=len(picture)) for picture in pictures]
    found = opened(camera)
    assert [level(found.read(5.0)) for _ in range(4)] == [0, 1, 2, 3] and len(camera.seen) == 4
    assert found.period_s == 2.0


@pytest.mark.parametrize("counted", [True, False])
def test_the_pictures_of_a_stream_come_in_order_from_one_answer(
    counted: bool, camera: WebCamera, pictures: list[bytes]
) -> None:
    camera.answers = [body(parts(*pictures, counted=counted), BOUNDARY)]
    found = opened(camera)
    assert [level(found.read(5.0)) for _ in pictures] == list(range(10)) and len(camera.seen) == 1
    assert found.period_s == 0.0
    with pytest.raises(PlanError, match="has ended its stream"):
        found.read(5.0)
    found.close()


def test_damaged_and_oversized_pictures_of_a_stream_are_passed_over(camera: WebCamera, pictures: list[bytes]) -> None:
    cut = pictures[5][: len(pictures[5]) // 2]
    huge = b"--cut\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 1000
    stream = parts(pictures[1], cut, b"no picture", b"", pictures[2]) + huge + parts(pictures[3])
    camera.answers = [body(stream, BOUNDARY)]
    found = opened(camera)
    assert [level(found.read(5.0)) for _ in range(3)] == [1, 2, 3]
    found.close()


def test_a_broken_snapshot_is_an_error_that_says_so(camera: WebCamera, pictures: list[bytes]) -> None:
    picture = pictures[4]
    for answer, said in (
        (body(picture[:-30], length=len(picture) - 30), "no whole JPEG picture"),
        (body(picture[:-30], length=len(picture)), f"sent {len(picture) - 30} of {len(picture)} bytes"),
        (body(b""), "sent 0 bytes that are no whole JPEG"),
        (body(b"\xff\xd8\xff\xd9"), "no whole JPEG picture"),
        (body(b"<html>", "text/html"), "sends text/html, neither image/jpeg nor multipart"),
        (body(b"x", "multipart/x-mixed-replace"), "multipart without a boundary"),
        (body(b"", code=404), "answers 404: check the path"),
        (body(b"", code=503), "answers 503"),
        (lambda handler: handler.wfile.write(b"SSH-2.0\r\n"), "does not answer as HTTP (BadStatusLine)"),
        (lambda handler: None, "does not answer as HTTP (RemoteDisconnected)"),
    ):
        camera.answers = [answer]
        assert said in refusal(camera)


def test_every_truncated_picture_is_refused_and_padding_is_not(cv2: Any) -> None:
    grain = np.random.RandomState(1).randint(0, 256, (64, 64, 3), np.uint8)
    grain[..., 0] = 0  # no blue, which stands first in OpenCV
    whole = cv2.imencode(".jpg", grain)[1].tobytes()
    assert all(jpeg.decode(whole[:size]) is None for size in range(0, len(whole) - 1, 41))
    padded = jpeg.decode(whole + b"\0" * 32)
    assert padded is not None and padded.shape == (64, 64, 3)
    assert padded[..., 0].mean() > padded[..., 2].mean() + 50  # red stands first


def test_a_picture_larger_than_the_limit_is_given_up(
    camera: WebCamera, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MOST_BYTES", 1 << 20)
    camera.answers = [body(b"\xff\xd8" + b"x" * (3 << 20))]
    assert "more than 1 MiB" in refusal(camera)
    assert 0 < jpeg.pixels(pictures[0]) == 16 * 24
    wide = pictures[0].replace(bytes([0, 16, 0, 24]), b"\xff\xff\xff\xff")
    assert jpeg.pixels(wide) == 65535**2 and jpeg.decode(wide) is None


def drip(camera: WebCamera, head: bytes, piece: bytes) -> Answer:
    """First ``head``, then ``piece`` again and again."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while not camera.release.wait(0.01):
            handler.wfile.write(piece)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Content-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "status": (b"", b"H"),
    "header": (OK + b"X: ", b"y"),
    "headers": (OK, b"X: y\r\n"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (OK + b"Content-Type: image/jpeg\r\n\r\n", b"x"),
    "chunk size": (CHUNKED, b"0"),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n"),
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: /cam\r\nX: ", b"y"),
    "challenge": (b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="', b"y"),
    "part": (OK + f"Content-Type: {BOUNDARY}\r\n\r\n--cut\r\nContent-Length: 99999\r\n\r\n".encode(), b"x"),
    "gap": (OK + f"Content-Type: {BOUNDARY}\r\n\r\n".encode(), b"x"),
}  # fmt: skip


@pytest.mark.parametrize("what", DRIPS)
def test_no_exchange_outlasts_its_deadline_however_the_camera_drips(what: str, camera: WebCamera) -> None:
    camera.answers = [drip(camera, *DRIPS[what])]
    begun = time.monotonic()
    said = refusal(camera, 0.3)
    assert "does not answer within 0.3 s" in said or "gives no whole picture in time" in said
    assert time.monotonic() < begun + 5.0


def test_a_handshake_that_never_ends_and_one_that_fails_are_told_in_time(camera: WebCamera) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port, said in ((silent.getsockname()[1], "timed out"), (int(camera.url().split(":")[2][:-4]), "")):
            with pytest.raises(PlanError, match=rf"cannot be reached \(.*{said}.*\): check address and network"):
                web.Address(f"https://127.0.0.1:{port}/", "cam").ask(0.3)


def test_a_camera_that_drips_later_is_opened_again(camera: WebCamera, pictures: list[bytes]) -> None:
    good = body(pictures[1], length=len(pictures[1]))
    camera.answers = [good, drip(camera, *DRIPS["header"]), body(pictures[2], length=len(pictures[2]))]
    address, box = web.Address(camera.url(), "cam"), Mailbox()
    grabber = Grabber("cam", lambda: web.connect(address, 0.5, 0.0), box, 0.5, draw=lambda: 0.0)
    end = time.monotonic() + 30.0
    while len(camera.seen) < 3 or (shot := box.take(lambda: False)) is None or level(shot.image) != 2:
        assert time.monotonic() < end
        threading.Event().wait(grabber.wait_s())
        grabber.turn()
    grabber.close()


def test_silence_is_an_error_after_the_timeout(camera: WebCamera, pictures: list[bytes]) -> None:
    picture = pictures[1]
    silent = then_wait(lambda handler: None, camera)
    half = then_wait(body(picture[:50], length=len(picture)), camera)
    stream = then_wait(body(parts(picture)[:60], BOUNDARY), camera)
    for answer, said in ((silent, "does not answer within 0.1 s"), (half, "no whole picture"), (stream, "no whole picture")):
        camera.answers = [answer]
        assert said in refusal(camera, 0.1)


def to(where: str, code: int = 302, tail: bytes = b"") -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Location", where)
        handler.end_headers()
        while tail:  # a body without end, until the other side has had enough
            handler.wfile.write(tail)

    return answer


def test_a_redirect_goes_elsewhere_only_where_the_user_asks_for_it(
    camera: WebCamera, pictures: list[bytes], tmp_path: Path
) -> None:
    other, good = WebCamera(), body(pictures[3], length=len(pictures[3]))
    other.answers = [good]
    try:
        camera.answers = [to("/there", tail=b"x" * 65536), good]
        assert level(opened(camera, user="me:pw@").read(5.0)) == 3 and camera.seen[-1][0] == "/there"
        secret = other.url("/x?token=hunter2", "you:hunter3@")
        for where in (secret, camera.url().replace("http:", "https:"), camera.url().replace("127.0.0.1", "localhost")):
            camera.answers = [to(where)]
            assert "is not followed: name that address if it is right, or add redirect=1" in (said := refusal(camera))
            assert "hunter" not in said and not other.seen
        camera.answers = [to(other.url())]
        source = open_source(camera.url("/cam?redirect=1", "me:pw@"))
        assert level(next(source.frames())) == 3 and other.seen == [("/cam", None)]
        source.close()
        for where in ("ftp://127.0.0.1/x", f"file://{tmp_path}", "data:image/jpeg,x", "gopher://x"):
            camera.answers = [to(where)]
            for query in ("", "?redirect=1"):
                with pytest.raises(PlanError, match=r"which is not followed$|answers 302"):
                    open_source(camera.url(f"/cam{query}"))
    finally:
        other.close()


def test_a_password_answers_the_challenge_and_stays_out_of_the_refusal(
    camera: WebCamera, pictures: list[bytes]
) -> None:
    def guarded(handler: BaseHTTPRequestHandler) -> None:
        good = "Basic " + base64.b64encode(b"me:p@ss w").decode()
        if handler.headers["Authorization"] == good:
            return body(pictures[6], length=len(pictures[6]))(handler)
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", 'Basic realm="cam"')
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return None

    camera.answers = [guarded]
    source = open_source(camera.url("/shot?channel=1&interval=3", "me:p%40ss%20w@"))
    assert level(next(source.frames())) == 6
    source.close()
    assert {path for path, _ in camera.seen} == {"/shot?channel=1"} and camera.seen[0][1] is None
    for user in ("", "me:hunter2@"):
        with pytest.raises(PlanError, match="refuses user or password") as caught:
            open_source(camera.url("/shot", user))
        assert "hunter2" not in str(caught.value)


def test_a_digest_challenge_is_answered(camera: WebCamera, pictures: list[bytes]) -> None:
    def guarded(handler: BaseHTTPRequestHandler) -> None:
        if 'username="me"' in (handler.headers["Authorization"] or ""):
            return body(pictures[3])(handler)
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", 'Digest realm="cam", nonce="abc", qop="auth", algorithm=MD5')
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return None

    camera.answers = [guarded]
    assert level(opened(camera, user="me:pw@").read(5.0)) == 3
    with pytest.raises(PlanError, match="refuses user or password"):
        opened(camera)


def test_a_camera_where_nothing_listens_is_refused_at_the_start(camera: WebCamera) -> None:
    gone = WebCamera()
    url = gone.url()
    gone.close()
    with pytest.raises(PlanError, match=r"cannot be reached \(Connection refused\): check address and network"):
        open_source(url)


def test_a_stream_that_closes_is_opened_anew_and_goes_on(camera: WebCamera, pictures: list[bytes]) -> None:
    camera.answers = [
        body(parts(pictures[1]), BOUNDARY),
        body(b"", code=503),
        then_wait(body(parts(pictures[2]), BOUNDARY), camera),
    ]
    now, box = [0.0], Mailbox()
    grabber = Grabber("cam", lambda: opened(camera), box, 10.0, lambda: now[0], lambda: 0.5)
    first = box.take(lambda: False)
    for _ in range(4):  # it ends; refused; opened; a frame
        now[0] += grabber.wait_s()
        grabber.turn()
    second = box.take(lambda: True) or box.take(lambda: False)
    grabber.close()
    assert first is not None and level(first.image) == 1
    assert second is not None and level(second.image) == 2 and second.at == now[0] and now[0] > 2.0


@examples(200)
@given(
    st.lists(st.tuples(st.binary(max_size=60).map(lambda b: b.replace(b"-", b"")), st.booleans()), max_size=6),
    st.lists(st.integers(1, 40), min_size=1, max_size=40),
)
def test_the_parts_do_not_depend_on_how_the_bytes_were_cut(bodies: list[tuple[bytes, bool]], sizes: list[int]) -> None:
    stream = b"preamble\r\n" + b"".join(
        b"--cut\r\n" + (b"Content-Length: %d\r\n" % len(b) if counted else b"A: b\r\n") + b"\r\n" + b + b"\r\n"
        for b, counted in bodies
    )
    stream += b"--cut\r\n"
    whole, pieces, at = Multipart("cut", 40).feed(stream), [], 0
    cutter = Multipart('"--cut"', 40)
    for i in range(len(stream)):
        pieces += cutter.feed(stream[at : at + sizes[i % len(sizes)]])
        at += sizes[i % len(sizes)]
    assert pieces == whole
    assert whole == [b for b, _ in bodies if 0 < len(b) <= 40] or any(len(b) > 38 for b, _ in bodies)


@examples(100)
@given(st.lists(st.tuples(st.binary(max_size=30).map(lambda b: b.replace(b"-", b"")), st.booleans()), max_size=6))
def test_headers_that_end_with_lf_alone_are_read_as_well(bodies: list[tuple[bytes, bool]]) -> None:
    def stream(end: bytes) -> bytes:
        heads = (b"Content-Length: %d" % len(b) if counted else b"A: b" for b, counted in bodies)
        told = (b"--cut" + end + head + end + end + b + end for head, (b, _) in zip(heads, bodies))
        return b"".join(told) + b"--cut" + end

    lf = Multipart("cut", 40).feed(stream(b"\n"))
    assert lf == [b if counted else b.removesuffix(b"\r") for b, counted in bodies if b and (counted or b != b"\r")]
    assert Multipart("cut", 40).feed(stream(b"\r\n")) == [b for b, _ in bodies if b]


@pytest.mark.parametrize("head", [b"A: b\r\n\r\n", b"Content-Length: %d\r\n\r\n" % (4 << 20)])
def test_a_part_in_small_pieces_costs_as_its_bytes_do(head: bytes) -> None:
    def seconds(pieces: int) -> float:
        cutter, begin = Multipart("cut", 4 << 20), time.process_time()
        cutter.feed(b"--cut\r\n" + head)
        for _ in range(pieces):
            cutter.feed(b"x" * 128)
        return time.process_time() - begin

    assert seconds(16384) < 32 * max(seconds(2048), 0.001)  # eight times as many; 64 where each is moved by the next


def test_no_stream_makes_it_hold_more_than_one_picture() -> None:
    for start in (b"", b"--cut\r\n", b"--cut\r\nA: b\r\n\r\n", b"--cut\r\nContent-Length: 5000\r\n\r\n"):
        cutter = Multipart("cut", 1000)
        cutter.feed(start)
        for _ in range(200):
            assert cutter.feed(b"y" * 100) == []
            assert len(cutter._held) < 6000
        assert cutter.feed(b"\r\n--cut\r\nContent-Length: 2\r\n\r\nok") == [b"ok"]


def test_a_picture_of_padding_alone_is_given_up_soon() -> None:
    begin = time.thread_time()
    for filling in (b"\xff", b"\xff\x01\x00\x00"):
        assert jpeg.pixels(b"\xff\xd8" + filling * (jpeg.MOST_BYTES // len(filling))) == 0
    assert time.thread_time() - begin < 1
