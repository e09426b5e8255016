"""The dashboard over real HTTP, on a played cluster; and once on a real one."""

import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_agent.dashboard import door, server, stream
from gateway_agent.dashboard.watcher import Dashboard
from schemas.contract.errors import PlanError
from tests.gateway_agent.dashboard.played import Played, Site

ASK = {"content-type": "application/json", "x-dt-request": "1"}


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    made.turn()
    yield made
    made.dashboard.close()


@pytest.fixture
def closed_site(tmp_path: Path) -> Iterator[Site]:
    made = Site("0.0.0.0", tmp_path)
    made.turn()
    yield made
    made.dashboard.close()


def test_page_json_picture_and_metrics_are_served_under_a_strict_policy(site: Site) -> None:
    site.played.join(site.at)
    site.frame(picture=True)
    site.turn()
    assert site.json("/api/state")["totals"]["frames"] == 1 and len(site.json("/api/frames")) == 1
    assert site.json("/api/plan")["rows"] == 3
    for path, kind in (
        ("/", "text/html"), ("/static/main.js", "text/javascript"), ("/static/style.css", "text/css"),
        ("/picture/edge1", "image/jpeg"), ("/metrics", "text/plain"),
    ):  # fmt: skip
        status, headers, body = site.ask(path)
        assert status == 200 and headers["content-type"].startswith(kind) and body
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
    assert b"dt_frames_total" in site.ask("/metrics")[2]
    assert site.ask("/picture/edge1")[1]["x-frame"].startswith("edge1-")
    assert site.ask("/picture/edge2")[0] == site.ask("/static/../server.py")[0] == site.ask("/none")[0] == 404


def test_no_page_refers_to_another_machine_or_holds_a_script() -> None:
    static = Path(stream.__file__).parent / "static"
    for path in static.iterdir():
        text = path.read_text().replace("http://www.w3.org/", "")
        assert "//" not in [part for line in text.splitlines() for part in line.split('"') if part.startswith("http")]
        assert "http://" not in text and "https://" not in text, path
        assert " onclick=" not in text and "style=" not in text and "innerHTML" not in text, path
        assert "<script>" not in text


def test_health_is_whether_the_loop_turns_and_has_its_broker(site: Site) -> None:
    assert site.ask("/healthz")[0] == 200
    site.played.connected = False
    site.turn()
    status, _, body = site.ask("/healthz")
    assert status == 503 and json.loads(body)["reasons"] == ["the gateway is not connected to its broker"]
    site.played.connected = True
    site.turn()
    hub = site.dashboard.hub
    hub._clock = lambda: time.monotonic() + 60.0
    status, _, body = site.ask("/healthz")
    assert status == 503 and "has not turned for 60 s" in body.decode()
    site.turn()
    assert site.ask("/healthz")[0] == 200


def test_a_control_is_obeyed_refused_or_unknown(site: Site) -> None:
    assert site.ask("/api/control", "POST", {"verb": "grid", "value": "2x2"}, ASK)[0] == 200
    assert [(r.verb, r.value) for r in site.played.asked] == [("grid", "2x2")]
    site.turn()
    assert site.json("/api/state")["controls"]["grid"] == "2x2"
    status, _, body = site.ask("/api/control", "POST", {"verb": "grid", "value": "9x9"}, ASK)
    assert status == 409 and json.loads(body)["error"] == "a tile would be empty"
    unknown: list[object] = [
        {"verb": "format"},
        {"verb": "grid", "value": ["2x2"]},
        [],
        {"verb": "grid", "value": "x" * 9000},
    ]
    for asked in unknown:
        assert site.ask("/api/control", "POST", asked, ASK)[0] == 400
    assert len(site.played.asked) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json"},
        {"content-type": "text/plain", "x-dt-request": "1"},
        {**ASK, "origin": "http://evil.example"},
    ],
)
def test_a_control_from_another_page_is_refused(site: Site, headers: dict[str, str]) -> None:
    assert site.ask("/api/control", "POST", {"verb": "restart", "value": None}, headers)[0] == 403
    assert site.played.asked == []


def test_a_name_that_is_not_ours_is_refused(site: Site) -> None:
    assert site.ask("/api/state", headers={"host": "evil.example"})[0] == 421
    assert site.ask("/api/state", headers={"host": "localhost:1"})[0] == 200


def test_beyond_loopback_the_token_is_asked_for(closed_site: Site) -> None:
    site = closed_site
    token = site.dashboard.url.partition("#token=")[2]
    status, _, body = site.ask("/")
    assert status == 401 and b"login.js" in body
    for path in ("/api/state", "/metrics", "/events", "/picture/edge1", "/api/plan", "/static/main.js"):
        assert site.ask(path)[0] == 401, path
    assert site.ask("/healthz")[0] == site.ask("/static/login.js")[0] == 200
    assert site.ask("/api/control", "POST", {"verb": "restart", "value": None}, ASK)[0] == 401 and not site.played.asked
    assert site.ask("/login", "POST", {"token": "wrong"}, ASK)[0] == 403
    assert site.ask("/login", "POST", {"token": token})[0] == 403
    status, headers, _ = site.ask("/login", "POST", {"token": token}, ASK)
    cookie = headers["set-cookie"]
    assert status == 200 and "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and token not in cookie
    assert site.ask("/api/state", headers={"cookie": cookie.partition(";")[0]})[0] == 200
    assert site.ask("/metrics", headers={"authorization": f"Bearer {token}"})[0] == 200


def test_the_token_is_told_once_on_a_terminal_and_else_where_it_is(closed_site: Site, tmp_path: Path) -> None:
    again = Dashboard(Played(), "0.0.0.0", 0, "dt", tmp_path)
    try:
        assert "token" in closed_site.dashboard.url and closed_site.dashboard.hint == ""
        assert "token" not in again.url and str(tmp_path / "dashboard-token") in again.hint
        token = closed_site.dashboard.url.partition("#token=")[2]
        assert closed_site.dashboard.told(terminal=True) == closed_site.dashboard.url
        for told in (closed_site.dashboard.told(terminal=False), again.told(True), again.told(False)):
            assert token not in told and told.endswith(f"/ (token: {tmp_path / 'dashboard-token'})")
    finally:
        again.close()


@pytest.fixture
def lines() -> Iterator[list[socket.socket]]:
    """Connections of a test, closed at its end."""
    held: list[socket.socket] = []
    yield held
    for line in held:
        line.close()


def idle(site: Site, lines: list[socket.socket], count: int, said: bytes = b"") -> None:
    for _ in range(count):
        lines.append(socket.create_connection(("127.0.0.1", site.port), timeout=20))
        lines[-1].sendall(said)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: loc", b"POST /login HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"])
def test_idle_connections_before_a_login_keep_nobody_out(closed_site: Site, lines: list[socket.socket], said: bytes) -> None:
    token = closed_site.dashboard.url.partition("#token=")[2]
    idle(closed_site, lines, 300, said)
    held = closed_site.dashboard.door
    for path in ("/healthz", "/metrics", "/", "/events"):
        connection = http.client.HTTPConnection("127.0.0.1", closed_site.port, timeout=20)
        connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
        assert connection.getresponse().status == 200, path
        lines.append(connection.sock or socket.socket())
        assert len(held) <= door.CONNECTIONS
    idle(closed_site, lines, 300, said)
    assert closed_site.ask("/healthz")[0] == 200 and closed_site.dashboard.hub.readers == 1  # nor throw anybody out


def test_who_is_not_let_in_holds_nothing_for_long_however_it_drips(
    closed_site: Site, lines: list[socket.socket]
) -> None:
    closed_site.dashboard.door._wait_s = 0.5
    for said in (b"", b"GET / HTTP/1.1\r\n", b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"):
        idle(closed_site, lines, 1, said)
    deadline = time.monotonic() + 30
    while len(closed_site.dashboard.door):
        assert time.monotonic() < deadline
        for line in lines:
            with contextlib.suppress(OSError):
                line.send(b"x")
        threading.Event().wait(0.05)


def test_an_answer_to_who_is_not_let_in_ends_its_connection(closed_site: Site) -> None:
    for path in ("/", "/healthz", "/api/state", "/static/login.js"):
        assert closed_site.ask(path)[1]["connection"] == "close", path


def test_a_body_that_drips_or_holds_what_cannot_be_read_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_S", 0.1)
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
    connection.putrequest("POST", "/api/control")
    for name, value in {**ASK, "content-length": "99"}.items():
        connection.putheader(name, value)
    connection.endheaders(b"{")
    assert connection.getresponse().status == 400
    for body in (b"[" * 4000, b'{"a":' * 800, b'{"token": "\\ud800"}', b"\xff", b"1" * 4001):
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
        connection.request("POST", "/login", body, ASK)
        assert connection.getresponse().status == 403
        connection.close()


def test_health_and_metrics_are_answered_while_all_places_are_taken(site: Site, lines: list[socket.socket]) -> None:
    site.dashboard.door._served = 2
    for _ in range(2):
        reader = Events(site)
        reader.until("state")
        lines.append(reader.connection.sock)
    assert [site.ask(path)[0] for path in ("/healthz", "/metrics", "/", "/api/state")] == [200, 200, 503, 503]


def test_malformed_requests_leave_no_line_in_the_log(site: Site, lines: list[socket.socket]) -> None:
    before = len(site.dashboard.hub.log.lines)
    head = b" / HTTP/1.1\r\nHost: localhost\r\n"
    for said in (
        b"\0\r\n\r\n",
        b"GET" + head + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST" + head + b"Transfer-Encoding: chunked\r\n\r\nno length\r\n",
    ):
        idle(site, lines, 1, said)
        assert lines[-1].recv(9) == b"HTTP/1.1 "
        lines[-1].close()
    asks = "".join(f"{name}: {value}\r\n" for name, value in ASK.items()).encode()
    idle(site, lines, 1, b"POST /login HTTP/1.1\r\nHost: localhost\r\n" + asks + b"Content-Length: 9\r\n\r\n{")
    until(lambda: len(site.dashboard.door) > 0, site.turn)
    lines[-1].close()  # in the middle of its body
    until(lambda: len(site.dashboard.door) == 0, site.turn)
    assert site.ask("/healthz")[0] == 200
    assert len(site.dashboard.hub.log.lines) == before


class Events:
    """A reader of ``/events``: (name, data) one by one."""

    def __init__(self, site: Site) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
        self.connection.sock = socket.socket()
        self.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # a slow reader is soon a stuck one
        self.connection.sock.settimeout(20)
        self.connection.sock.connect(("127.0.0.1", site.port))
        self.connection.request("GET", "/events")
        self.answer = self.connection.getresponse()

    def next(self) -> tuple[str, Any]:
        while not (line := self.answer.readline().decode()).startswith("event: "):
            assert line, "the stream has ended"
        data = self.answer.readline().decode()
        return line[7:].strip(), json.loads(data.partition(": ")[2])

    def until(self, name: str) -> Any:
        while (said := self.next())[0] != name:
            pass
        return said[1]


def test_a_reader_gets_plan_frames_events_and_log_once_and_each_state(site: Site) -> None:
    site.played.join(site.at)
    site.frame()
    site.turn()
    reader = Events(site)
    heard = dict(reader.next() for _ in range(4))
    assert set(heard) == {"plan", "frames", "events", "state"}
    assert [e["kind"] for e in heard["events"]] == ["joined"] * 3
    logging.getLogger("test").warning("edge2 %s", "stumbled")
    site.frame()
    site.turn()
    (frame,) = reader.until("frames")
    assert frame["number"] == 2 and reader.until("state")["totals"]["frames"] == 2
    (line,) = reader.until("log")
    assert line["text"] == "edge2 stumbled" and line["level"] == "warning"
    reader.connection.close()


def test_readers_are_few_and_one_that_leaves_makes_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "READERS", 2)
    readers = [Events(site), Events(site)]
    for reader in readers:
        reader.until("state")
    assert site.ask("/events")[0] == 503
    readers[0].answer.close()
    readers[0].connection.close()
    site.frame()
    until(lambda: site.dashboard.hub.readers < 2, site.turn)
    Events(site).until("state")


def test_a_reader_that_takes_nothing_holds_nobody_up_and_is_let_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STALLED_S", 0.2)
    site.played.join(site.at)
    stuck = Events(site)  # reads the head and no more
    for _ in range(64):
        site.frame()
    until(lambda: site.dashboard.hub.readers == 1, site.turn)
    longest = 0.0

    def turn() -> None:
        nonlocal longest
        begun = time.perf_counter()
        site.turn()
        longest = max(longest, time.perf_counter() - begun)

    until(lambda: site.dashboard.hub.readers == 0, turn)
    assert longest < 0.5
    stuck.connection.close()


def until(true: Callable[[], bool], turn: Callable[[], None]) -> None:
    """Turns the gateway's loop until it is so."""
    deadline = time.monotonic() + 30.0
    while not true():
        assert time.monotonic() < deadline
        turn()
        threading.Event().wait(0.005)


def test_a_port_that_is_taken_is_one_line(site: Site) -> None:
    with pytest.raises(PlanError, match="choose another port"):
        Dashboard(Played(), "127.0.0.1", site.port, "dt")


def test_the_end_is_told_to_readers_and_leaves_no_thread(tmp_path: Path) -> None:
    site = Site()
    site.turn()
    reader = Events(site)
    reader.until("state")
    site.dashboard.close()
    reader.until("end")
    assert not any(thread.name == "dashboard" for thread in threading.enumerate())


def test_at_most_two_snapshots_a_second_are_made_and_fewer_while_nobody_looks(site: Site) -> None:
    def made_in_ten_seconds() -> int:
        before = site.dashboard.hub.latest
        for _ in range(1000):
            site.turn(0.01)
        after = site.dashboard.hub.latest
        assert before is not None and after is not None
        return after.number - before.number

    assert 4 <= made_in_ten_seconds() <= 6
    reader = Events(site)
    reader.until("state")
    assert 18 <= made_in_ten_seconds() <= 21
    reader.connection.close()


def test_cameras_send_pictures_only_while_somebody_looks(site: Site) -> None:
    assert site.played.pictures_s == 0.0
    site.ask("/healthz")
    site.ask("/metrics")
    site.turn()
    assert site.played.pictures_s == 0.0
    for path in ("/api/state", "/picture/edge1"):
        site.ask(path)
        site.turn()
        assert site.played.pictures_s == 1.0
        site.dashboard.hub._looked_at -= 11.0
        site.turn()
        assert site.played.pictures_s == 0.0
    reader = Events(site)
    reader.until("state")
    site.turn()
    assert site.played.pictures_s == 1.0


def test_the_log_keeps_its_last_lines_and_cuts_long_ones(site: Site) -> None:
    for i in range(300):
        logging.getLogger("test").warning("line %d %s", i, "x" * 1000)
    lines = [json.loads(line.json) for line in site.dashboard.hub.log.since(0)]
    assert len(lines) == 200 and lines[-1]["text"].startswith("line 299") and len(lines[-1]["text"]) == 600
    assert site.dashboard.hub.log.since(lines[-1]["number"]) == []
