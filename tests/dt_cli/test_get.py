"""Models from a publisher: whole, checked, resumed, with a card; from a server on loopback."""

import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dt_cli import get as command
from dt_cli.demo import DIGITS
from dt_cli.download import check_url, download, verify
from schemas.contract.errors import DtError, PlanError, UnreachableError
from tests.test_commands import dt

DATA = DIGITS.read_bytes()
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
GIT = f"git:{hashlib.sha1(b'blob %d%c' % (len(DATA), 0) + DATA).hexdigest()}"


class Publisher(http.server.ThreadingHTTPServer):
    """Gives ``data`` at any path but /away, which leads to ``away``; after ``breaks`` bytes the line breaks, once."""

    data, etag, away, breaks = DATA, '"1"', "", 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", server.away)
            self.end_headers()
            return
        if self.path == "/missing":
            return self.send_error(404)
        start = int(asked[6:-1]) if asked and self.headers.get("If-Range") == server.etag else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.data) - start))
        self.send_header("ETag", server.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        self.end_headers()
        breaks, server.breaks = server.breaks, 0
        self.wfile.write(server.data[start : breaks or None])

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("digest", ["", SHA256, GIT])
def test_a_file_comes_whole_and_nothing_else_stays(publisher: Publisher, tmp_path: Path, digest: str) -> None:
    seen: list[tuple[int, int | None]] = []
    download(f"{publisher.url}/a", tmp_path / "a", digest, lambda here, total: seen.append((here, total)))
    assert (tmp_path / "a").read_bytes() == DATA and [path.name for path in tmp_path.iterdir()] == ["a"]
    assert seen[-1] == (len(DATA), len(DATA))


@pytest.mark.parametrize("changes", [False, True])
def test_a_broken_line_is_taken_up_where_it_broke_unless_the_file_has_changed(
    publisher: Publisher, tmp_path: Path, changes: bool
) -> None:
    publisher.breaks = 1000
    with pytest.raises(UnreachableError, match="broke after 1000 of"):
        download(f"{publisher.url}/a", tmp_path / "a", SHA256)
    assert not (tmp_path / "a").exists()
    publisher.etag = '"2"' if changes else '"1"'
    download(f"{publisher.url}/a", tmp_path / "a", SHA256)
    assert (tmp_path / "a").read_bytes() == DATA and publisher.ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize("digest", [SHA256, GIT])
def test_another_file_than_it_should_be_is_not_kept(publisher: Publisher, tmp_path: Path, digest: str) -> None:
    publisher.data = DATA[:-1] + b"x"
    with pytest.raises(DtError, match="nothing is kept"):
        download(f"{publisher.url}/a", tmp_path / "a", digest)
    assert not list(tmp_path.iterdir())


def test_a_refusal_and_a_silence_are_told_by_host(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(DtError, match=r"127\.0\.0\.1 refuses .*404"):
        download(f"{publisher.url}/missing", tmp_path / "a")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(UnreachableError, match=r"cannot fetch from 127\.0\.0\.1"):
        download(f"http://127.0.0.1:{port}/a", tmp_path / "a")


def test_a_redirect_leads_nowhere_where_others_could_change_the_file(publisher: Publisher, tmp_path: Path) -> None:
    publisher.away = f"{publisher.url}/a"
    download(f"{publisher.url}/away", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA
    publisher.away = "http://example.invalid/a"
    with pytest.raises(PlanError, match="https"):
        download(f"{publisher.url}/away", tmp_path / "b")


def test_the_users_proxy_is_asked(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", publisher.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    download("http://127.0.0.2:9/a", tmp_path / "a", SHA256)
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize("url", ["http://example.com/a", "ftp://example.com/a", "https://", "https://a b/", "file:///etc/passwd"])
def test_an_address_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(PlanError):
        check_url(url)


def test_a_model_is_fetched_carded_and_tried_and_found_again(publisher: Publisher, tmp_path: Path) -> None:
    url = f"{publisher.url}/digits.tflite"
    for text in ("digits.tflite: whatever licence", "is there already"):
        done = dt("get", url, "--out", tmp_path, "--sha256", SHA256[7:])
        assert done.returncode == 0 and text in done.stdout, done.stderr
    assert (tmp_path / "digits.tflite").read_bytes() == DATA and len(publisher.ranges) == 1
    told = dt("get", url, "--out", tmp_path).stdout
    assert "not verified" in told and SHA256[7:] in told
    wrong = dt("get", url, "--out", tmp_path, "--sha256", "0" * 64)
    assert wrong.returncode == 2 and "another file" in wrong.stderr and wrong.stderr.count("\n") == 1


def test_what_is_no_model_fails_and_says_so(publisher: Publisher, tmp_path: Path) -> None:
    publisher.data = b"no model" * 100
    done = dt("get", f"{publisher.url}/a.tflite", "--out", tmp_path)
    assert done.returncode and done.stderr.startswith("dt: ") and done.stderr.count("\n") == 1
    assert "no name of a model" in dt("get", f"{publisher.url}/a.onnx", "--out", tmp_path).stderr


def test_a_model_of_the_list_gets_its_labels(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = command.Entry(
        sees="digits", publisher="us", license="MIT", url=f"{publisher.url}/x", card={"decoder": "raw"}, labels="coco",
        digest=GIT,
    )  # fmt: skip
    (tmp_path / "coco_labels.txt").write_text("a\nb\n")
    monkeypatch.setattr(command, "catalog", lambda: {"ours": entry})
    command.get("ours", None, tmp_path)
    assert (tmp_path / "ours.toml").read_text() == 'decoder = "raw"\nlabels = "coco_labels.txt"\n'
    told = capsys.readouterr().out
    assert "MIT, by us" in told and "not verified" not in told


def test_without_a_network_it_is_said_what_to_copy_where(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/a.tflite"
    done = dt("get", url, "--out", tmp_path, NO_PROXY="127.0.0.1")
    assert done.returncode == 69 and f"fetch {url} on another machine, copy it to {tmp_path}/a.tflite" in done.stderr


def test_the_list_names_licence_publisher_and_a_digest_or_says_that_there_is_none() -> None:
    told = dt("get").stdout
    for name, entry in command.catalog().items():
        assert name in told and entry.license and entry.publisher and entry.sees
        assert check_url(entry.url).startswith("https://")
        kind, _, digest = entry.digest.partition(":")
        assert (kind, len(digest)) in (("", 0), ("sha256", 64), ("git", 40))
        assert not entry.labels or entry.labels in command.LABELS
    assert "not verified" in told
    assert dt("get", "nothing").stderr.startswith("dt: there is no model 'nothing' in the list")


def test_a_digest_is_compared_without_regard_to_case(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    assert verify(tmp_path / "a", SHA256.replace(SHA256[7:], SHA256[7:].upper())) == ""
