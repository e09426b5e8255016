import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dt_cli.serving import endless
from edge_agent.sources import open_source
from edge_agent.sources.digits import truth
from edge_agent.sources.synthetic import Synthetic
from schemas.contract.errors import PlanError
from tests.examples import examples
from tests.paths import shared


@pytest.fixture
def cv2() -> Any:
    return pytest.importorskip("cv2")


@pytest.fixture
def pictures(tmp_path: Path, cv2: Any) -> Path:
    """b.png (5x7, red), a.jpg (8x6) and C.BMP (4x4), and a file that is none."""
    red = np.zeros((5, 7, 3), np.uint8)
    red[:, :, 2] = 255
    grain = np.random.RandomState(3).randint(0, 256, (8, 6, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "b.png"), red)
    cv2.imwrite(str(tmp_path / "a.jpg"), grain)
    cv2.imwrite(str(tmp_path / "C.bmp"), grain[:4, :4])
    (tmp_path / "C.bmp").rename(tmp_path / "C.BMP")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.fixture
def clip(tmp_path: Path, cv2: Any) -> Path:
    """Five frames of 48x64, each a brighter grey."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for level in range(0, 250, 50):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    return path


def frames(uri: str, limit: int = 50) -> list[NDArray[np.uint8]]:
    source = open_source(uri)
    found = list(islice(source.frames(), limit))
    source.close()
    return found


def refusal(uri: str) -> str:
    with pytest.raises(PlanError) as caught:
        frames(uri)
    text = str(caught.value)
    assert caught.value.exit_code == 2 and "\n" not in text
    return text


def test_a_folder_yields_its_pictures_by_name_as_rgb(pictures: Path) -> None:
    found = frames(f"dir://{pictures}")
    assert [image.shape for image in found] == [(4, 4, 3), (8, 6, 3), (5, 7, 3)]
    assert (found[2] == (255, 0, 0)).all() and found[2].dtype == np.uint8


def test_a_bare_path_of_a_folder_or_a_file_is_a_source(pictures: Path, clip: Path) -> None:
    assert len(frames(str(pictures))) == 3
    assert len(frames(str(pictures / "b.png"))) == 1
    assert len(frames(str(clip))) == 5
    assert len(frames(f"{clip}?loop=1", 12)) == 12


def test_a_glob_chooses_pictures_and_a_loop_repeats_them(pictures: Path) -> None:
    assert [image.shape for image in frames(f"dir://{pictures}?glob=*.jpg")] == [(8, 6, 3)]
    assert [len(image) for image in frames(f"dir://{pictures}?loop=1", 7)] == [4, 8, 5, 4, 8, 5, 4]
    assert len(frames(f"file://{pictures}/b.png?loop=1", 9)) == 9


def test_a_relative_uri_and_an_escaped_path_are_understood(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures)
    (pictures / "b.png").rename(pictures / "50% off?.png")
    assert len(frames("file://50%25%20off%3F.png")) == len(frames("50% off?.png")) == 1
    assert len(frames("dir://.?glob=*.png")) == 1


@pytest.mark.parametrize(
    "name", ["2026-12-01T10:00:00.avi", "rtsp:a.avi", "50%41#1?loop=1&x.avi", "me:pw@cam.avi", "tcp:127.0.0.1:1.avi", "-a.avi"]
)
def test_a_path_that_exists_is_a_file_whatever_is_in_its_name(
    name: str, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clip.parent)
    for folder in (Path(), Path("rtsp:/me:pw@cam"), Path("dir:/#2")):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_bytes(clip.read_bytes())
        for text in (str(path), str(path.absolute()), str(path).replace(":/", "://", 1) if folder.parts else str(path)):
            assert len(frames(text)) == 5
        assert len(frames(endless(str(path)).replace("&realtime=1", ""), 7)) == 7
        assert len(frames(f"file://{quote(str(path))}")) == 5


def test_a_video_yields_every_frame_in_order_and_again_for_a_loop(clip: Path) -> None:
    found = frames(f"file://{clip}")
    assert [round(float(image.mean()), -1) for image in found] == [0, 50, 100, 150, 200]
    assert {image.shape for image in found} == {(48, 64, 3)}
    looped = frames(f"file://{clip}?loop=1", 13)
    assert all((image == found[i % 5]).all() for i, image in enumerate(looped)) and len(looped) == 13


def test_a_video_is_rgb(tmp_path: Path, cv2: Any) -> None:
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    writer.write(np.full((48, 64, 3), (0, 0, 255), np.uint8))
    writer.release()
    (image,) = frames(str(path))
    assert image[..., 0].min() > 200 and image[..., 2].max() < 50


@pytest.mark.parametrize("name", ["car-detection.mp4", "bottle-detection.mp4", "one-by-one-person-detection.mp4"])
def test_a_real_video_decodes_twice_to_the_same_frames(name: str, cv2: Any) -> None:
    uri = f"file://{shared('data/video') / name}"
    first, second = frames(uri, 60), frames(uri, 60)
    assert len(first) == 60
    assert all((one == other).all() for one, other in zip(first, second, strict=True))
    assert not (first[0] == first[59]).all()


def test_real_pictures_are_read_whole(cv2: Any) -> None:
    assert [image.shape for image in frames(f"dir://{shared('data/images')}")][:2] == [(343, 512, 3), (341, 512, 3)]


def test_frames_belong_to_the_caller(pictures: Path, clip: Path) -> None:
    for uri in (f"{pictures / 'b.png'}?loop=1", f"{clip}?loop=1", "synthetic://?width=20&height=20"):
        source = open_source(uri)
        first, again = source.frames(), source.frames()
        next(first)[...] = 77
        assert not (next(again) == 77).all()


@pytest.mark.parametrize("kind", ["dir", "file", "synthetic"])
def test_a_closed_source_ends_also_when_it_loops(kind: str, pictures: Path, clip: Path) -> None:
    uris = {"dir": f"dir://{pictures}?loop=1", "file": f"file://{clip}?loop=1", "synthetic": "synthetic://"}
    source = open_source(uris[kind])
    running = source.frames()
    next(running)
    source.close()
    source.close()
    assert next(running, None) is None


@examples(40)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1), st.integers(0, 10**9 - 1))
def test_a_synthetic_frame_depends_on_size_seed_and_index_alone(width: int, height: int, seed: int, index: int) -> None:
    one, other = Synthetic(width, height, seed).draw(index), Synthetic(width, height, seed).draw(index)
    assert one.shape == (height, width, 3) and one.dtype == np.uint8
    assert (one == other).all()


def test_synthetic_frames_all_differ_and_have_texture() -> None:
    found = frames("synthetic://?width=64&height=48&seed=5&frames=40")
    assert len({image.tobytes() for image in found}) == len(found) == 40
    assert min(image.std() for image in found) > 20
    assert (frames("synthetic://?width=64&height=48&seed=6&frames=1")[0] != found[0]).any()


def test_a_synthetic_frame_is_the_same_in_every_version() -> None:
    image = Synthetic(40, 30, 1).draw(3)
    assert int(image.sum(dtype=np.uint64)) == 455079
    assert image[0, 0].tolist() == [215, 92, 217] and image[29, 39].tolist() == [46, 232, 40]


def test_synthetic_frames_need_no_opencv() -> None:
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "from edge_agent.sources import open_source\n"
        "print(len(list(open_source('synthetic://?frames=2').frames())))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "2\n"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "neither a path nor a URI"),
        ("gopher://x", "unknown scheme 'gopher'"),
        ("/nowhere/clip.mp4", "there is no file '/nowhere/clip.mp4'"),
        ("file:///nowhere/clip.mp4?loop=1", "there is no file '/nowhere/clip.mp4'"),
        ("dir:///nowhere", "'/nowhere' is not a folder"),
        ("file://", "needs a path"),
        ("file:///a%00b", "neither a path nor a URI"),
        ("file://[", "there is no file '['"),
        ("dir://folder/pics#2?glob=*.jpg", "contains #: write %23 instead"),
        ("file:///clip.mp4#t=10", "write %23 instead"),
        ("synthetic://#?frames=1", "write %23 instead"),
        ("/dev/null", "is a device; use v4l2:///dev/null"),
        ("x" * 300, "cannot be looked up: File name too long"),
        ("file:///" + "x" * 300, "cannot be looked up: File name too long"),
        ("synthetic:///clip", "takes no path"),
        ("synthetic://?width=0", "width='0' must be a whole number from 1 to 16384"),
        ("synthetic://?width=1e3", "width='1e3' must be"),
        ("synthetic://?seed=-1", "seed='-1' must be"),
        ("synthetic://?size=3", "unknown parameter 'size'; it takes scene, width, height, seed, frames"),
        ("synthetic://?width", "read name=value"),
        ("synthetic://?width=3&width=4", "given twice"),
    ],
)
def test_a_bad_uri_is_refused_by_its_value(uri: str, said: str) -> None:
    assert said in refusal(uri)


def test_bad_parameters_of_files_and_folders_are_refused(pictures: Path) -> None:
    assert "loop='yes' must be" in refusal(f"file://{pictures}/b.png?loop=yes")
    assert "unknown parameter 'glob'; it takes loop" in refusal(f"file://{pictures}/b.png?glob=*")
    assert "unknown parameter 'fps'; it takes glob, loop" in refusal(f"dir://{pictures}?fps=3")
    assert "is a folder; use dir://" in refusal(f"file://{pictures}")


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    assert "has no pictures (.bmp" in refusal(str(tmp_path))
    assert "has no pictures that match '*.jpg'" in refusal(f"dir://{tmp_path}?glob=*.jpg")


def damaged(folder: Path) -> Iterator[Path]:
    """Every way to spoil the fixture's pictures, one file at a time."""
    for name in ("a.jpg", "b.png", "C.BMP"):
        path = folder / name
        whole = path.read_bytes()
        for data in (b"", b"no picture " * 50, whole[: len(whole) // 2], whole[:-10]):
            path.write_bytes(data)
            yield path
        if name == "b.png":
            path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
            yield path
        path.write_bytes(whole)


def test_a_damaged_picture_is_refused_by_name_and_silently(pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in damaged(pictures):
        assert f"{str(path)!r} is damaged or not a picture" in refusal(f"dir://{pictures}")
        assert f"{str(path)!r} is damaged or not a picture" in refusal(f"file://{path}")
    assert capfd.readouterr() == ("", "")


def test_an_unreadable_video_is_refused_silently(tmp_path: Path, cv2: Any) -> None:
    code = "import sys; from edge_agent.sources import open_source; open_source(sys.argv[1])"
    spoilt = {"clip_001.mp4": b"a text file " * 500, "empty.mp4": b"", "half.avi": b"RIFF\0\0\0\0AVI LIST"}
    for name, data in spoilt.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert f"{str(path)!r} is not a readable video" in refusal(f"file://{path}")
        ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        lines = ran.stderr.splitlines()  # the PlanError and no word of OpenCV
        assert ran.stdout == "" and lines[0].startswith("Traceback") and "PlanError" in lines[-1]


def test_a_file_source_without_opencv_says_what_to_install(
    pictures: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    for uri in (str(pictures), str(clip)):
        assert "needs OpenCV: pip install 'deepthings-mqtt[camera]'" in refusal(uri)


def test_the_digits_scene_knows_its_readings() -> None:
    uri = "synthetic://?scene=digits&seed=3&frames=2&width=320&height=240"
    source = open_source(uri)
    images = list(source.frames())
    assert [image.shape for image in images] == [(240, 320, 3)] * 2
    readings = truth(uri, 1)
    assert readings is not None and len(readings) == 2 and all(reading.isdecimal() for reading in readings)
    assert truth("synthetic://?seed=3", 1) is None
    np.testing.assert_array_equal(images[1], list(open_source(uri).frames())[1])


def test_an_unknown_scene_is_refused() -> None:
    with pytest.raises(PlanError, match="there is no scene 'cats'; use shapes or digits"):
        open_source("synthetic://?scene=cats")


def claiming(height: int, width: int) -> bytes:
    """A PNG of one grey row that claims to have many."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(width + 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("height", "width"), [(40_000, 40_000), (1, 70_000), (70_000, 1)])
def test_a_picture_that_claims_to_be_giant_is_refused_before_it_takes_memory(
    tmp_path: Path, cv2: Any, height: int, width: int
) -> None:
    (tmp_path / "giant.png").write_bytes(claiming(height, width))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30));"
    code = f"{limit} from edge_agent.sources import open_source; open_source({str(tmp_path / 'giant.png')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("is damaged or not a picture: repair or remove it")


def test_a_file_that_is_too_large_for_a_picture_is_not_read(tmp_path: Path, cv2: Any) -> None:
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PlanError, match="larger than 268435456 bytes: no picture"):
        open_source(str(tmp_path / "sparse.png"))
