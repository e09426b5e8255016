import concurrent.futures
import os
import socket
import sys
import types
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources import open_source
from edge_agent.sources.uri import parse
from schemas.contract.errors import PlanError
from schemas.contract.redact import redact
from tests.examples import examples


def refusal(uri: str) -> str:
    with pytest.raises(PlanError) as caught:
        open_source(uri)
    text = str(caught.value)
    assert "\n" not in text and caught.value.__cause__ is None
    return text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://admin:hunter2@cam/live", "rtsp://admin:***@cam/live"),
        ("rtsp://admin:hun:ter@2@cam:554/live", "rtsp://admin:***@cam:554/live"),
        ("rtsp://admin:hun/ter?2#x@cam/live", "rtsp://admin:***@cam/live"),
        ("http://:hunter2@cam/", "http://:***@cam/"),
        ("rtsp://TOKEN@cam/live", "rtsp://***@cam/live"),
        ("rtsp://TOKEN:@cam/live", "rtsp://***@cam/live"),
        ("rtsp://TO/KEN@cam/live", "rtsp://***@cam/live"),
        ("me:hunter2@cam/live", "me:***@cam/live"),
        ("rtsp:/me:hunter2@cam/live", "rtsp:***@cam/live"),
        ("rtsp://cam/user=admin_password=hunter2_channel=1", "rtsp://cam/user=admin_password=***"),
        ("http://cam/cgi?usr=me&loginpas=hun#ter;2&x=1", "http://cam/cgi?usr=me&loginpas=***&x=1"),
        ("dtjoin1-hunter2 hunter2", "dtjoin1-***"),
        ("/home/me@work/a:b.mp4", "/home/me@work/a:b.mp4"),
        ("http://cam/shot?user=me&pwd=hunter2&channel=1", "http://cam/shot?user=me&pwd=***&channel=1"),
        ("http://cam/shot?Password=hunter2", "http://cam/shot?Password=***"),
        ("http://cam/shot?a=1;access_token=hunter2", "http://cam/shot?a=1;access_token=***"),
        ("http://cam:8080/shot.jpg?interval=2", "http://cam:8080/shot.jpg?interval=2"),
        ("v4l2:///dev/video0?width=640", "v4l2:///dev/video0?width=640"),
        ("clips/a.mp4", "clips/a.mp4"),
    ],
)
def test_a_shown_uri_has_no_password(uri: str, shown: str) -> None:
    assert redact(uri) == shown and redact(shown) == shown


@examples(300)
@given(st.text(min_size=1, max_size=20), st.sampled_from(["rtsp", "rtsps", "http", "https", "rstp"]))
def test_no_refusal_holds_the_password(password: str, scheme: str) -> None:
    secret = f"qzx{password}xzq"
    for uri in (
        f"{scheme}://me:{secret}@[/x",
        f"{scheme}://me:{secret}@:99999/x?stall=x",
        f"{scheme}://me:{secret}@h?stall=0",
        f"{scheme}://{secret}@h?stall=0",
        f"{scheme}:/me:{secret}@h",
        f"me:{secret}@h",
        f"dir://me:{secret}@nas/share",
        f"v4l2://me:{secret}@cam",
    ):
        assert secret not in refusal(uri) and "xzq" not in refusal(uri)


def test_parameters_of_a_network_camera_that_are_not_ours_stay_in_its_address() -> None:
    where = parse("rtsp://me:pw@cam:554/h264?channel=1&stall=5&subtype=0&flag&motion=1")
    assert where.address == "rtsp://me:pw@cam:554/h264?channel=1&subtype=0&flag"
    assert where.query == {"stall": "5", "motion": "1"} and "pw" not in repr(where).replace("motion", "")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("rtsp://", "needs a host, as in rtsp://user:password@camera:port/path"),
        ("http:///shot.jpg", "needs a host"),
        ("http://cam:port/", "needs a host"),
        ("rtsp://me:Top#1@cam/x", "write %23 for #, %2F for /, %3F for ?, %40 for @"),
        ("rtsp://me:Top/1@cam/x", "write %23 for #"),
        ("rtsp://cam/live#video=copy", "it contains #: write %23 instead"),
        ("http://cam/a b", "write %20 for a space"),
        ("http://cam/?interval=0", "interval='0' must be a whole number from 1 to 86400"),
        ("rtsp://cam/?stall=0", "stall='0' must be a whole number from 1 to 3600"),
        ("rtsp://cam/?interval=3", "unknown parameter 'interval'; it takes stall, motion, still"),
        ("v4l2://", "needs a path, as in v4l2:///dev/video0"),
        ("v4l2:///dev/video0?size=3", "unknown parameter 'size'; it takes width, height, fps, stall, motion, still"),
        ("v4l2:///dev/nothing", "no device '/dev/nothing' (No such file or directory); see v4l2-ctl --list-devices"),
        ("v4l2:///dev/null", "does not open: it is in use or not a camera"),
        ("v4l2:///dev/video0?width=0", "width='0' must be"),
        ("picamera2://", "needs the number of a camera, as in picamera2://0"),
        ("picamera2://front", "needs the number of a camera"),
        ("picamera2://0?fps=0", "fps='0' must be"),
        ("gopher://cam", "unknown scheme 'gopher': use file://, dir://, synthetic://, v4l2://, picamera2://, rtsp://"),
    ],
)
def test_a_wrong_camera_is_refused_with_its_remedy(uri: str, said: str) -> None:
    pytest.importorskip("cv2")
    assert said in refusal(uri)


def test_a_file_is_no_device(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "video0").write_bytes(b"no device")
    assert "is not a device" in refusal(f"v4l2://{tmp_path}/video0")


def test_an_rtsp_camera_where_nothing_listens_is_refused_silently(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        said = refusal(f"rtsp://me:hunter2@127.0.0.1:{taken.getsockname()[1]}/live?stall=1")
    assert "rtsp://me:***@127.0.0.1" in said and "does not open: check host, port, path, user and password" in said
    assert capfd.readouterr() == ("", "")


def test_rtsp_goes_over_tcp_and_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2: Any = pytest.importorskip("cv2")
    seen = []
    real = cv2.VideoCapture

    def capture(*args: Any) -> Any:
        seen.append((os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS"), args[2]))
        return real()

    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", raising=False)
    monkeypatch.setattr(cv2, "VideoCapture", capture)
    refusal("rtsp://127.0.0.1:9/live?stall=3")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 3000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 3000]
    assert seen == [("rtsp_transport;tcp", limits)] and "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;udp")
    refusal("rtsp://127.0.0.1:9/live?stall=3")
    assert seen[1][0] == os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] == "rtsp_transport;udp"


class FakeJob:
    def __init__(self, image: Any) -> None:
        self._image = image

    def get_result(self, timeout: float) -> Any:
        if isinstance(self._image, Exception):
            raise self._image
        return self._image


class FakePicamera2:
    """What picamera2 is to us, at the boundary."""

    made: "list[FakePicamera2]" = []
    script: "list[Any]" = []

    def __init__(self, number: int) -> None:
        if number == 7:
            raise IndexError("list index out of range")
        self.calls: list[Any] = [number]
        self.made.append(self)

    def create_video_configuration(self, main: Any, controls: Any) -> Any:
        return main, controls

    def configure(self, configuration: Any) -> None:
        self.calls.append(configuration)

    def start(self) -> None:
        if self.script and isinstance(self.script[0], str):
            raise RuntimeError(self.script.pop(0))
        self.calls.append("start")

    def capture_array(self, stream: str, wait: bool) -> FakeJob:
        assert stream == "main" and not wait
        return FakeJob(self.script.pop(0) if self.script else np.full((480, 640, 3), (1, 2, 3), np.uint8))

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def picamera(monkeypatch: pytest.MonkeyPatch) -> type[FakePicamera2]:
    module = types.ModuleType("picamera2")
    monkeypatch.setattr(module, "Picamera2", FakePicamera2, raising=False)
    monkeypatch.setitem(sys.modules, "picamera2", module)
    FakePicamera2.made, FakePicamera2.script = [], []
    return FakePicamera2


def test_picamera2_is_started_as_the_uri_says_and_stopped(picamera: type[FakePicamera2]) -> None:
    source = open_source("picamera2://1?width=320&height=240&fps=15")
    (image,) = islice(source.frames(), 1)
    source.close()
    assert image[0, 0].tolist() == [1, 2, 3]
    (camera,) = picamera.made
    assert camera.calls[:2] == [1, ({"size": (320, 240), "format": "BGR888"}, {"FrameRate": 15.0})]
    assert camera.calls[2:] == ["start", "stop", "close"]


def test_picamera2_that_is_missing_absent_busy_or_silent_is_refused_with_the_remedy(
    picamera: type[FakePicamera2], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does not open (list index out of range): see rpicam-hello --list-cameras" in refusal("picamera2://7")
    picamera.script[:] = ["Camera in use\nby somebody"]
    assert "does not open (Camera in use)" in refusal("picamera2://0")
    assert picamera.made[-1].calls[-1] == "close"
    picamera.script[:] = [concurrent.futures.TimeoutError()]
    assert "gave no frame for 4 s" in refusal("picamera2://0?stall=4")
    assert picamera.made[-1].calls[-1] == "close"
    picamera.script[:] = [RuntimeError("camera frontend timeout")]
    assert "gives no more frames (camera frontend timeout): check its cable" in refusal("picamera2://0")
    monkeypatch.setitem(sys.modules, "picamera2", None)
    assert "sudo apt install python3-picamera2, in a venv made with --system-site-packages" in refusal("picamera2://0")
