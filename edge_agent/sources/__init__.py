"""Where frames come from. A source yields uint8 RGB images in order; a URI says which kind it is and how it is set.

The law: what a file, a folder or a drawn source yields depends on its URI and the files alone, so opening it twice
gives equal frames; a live source gives its newest frame, or all in order if it is told to (``drop``). No message holds a
password. OpenCV is imported by the kinds that need it, when they are opened, and by nothing else.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from edge_agent.sources.frame import Image, Source
from edge_agent.sources.uri import Uri, parse
from schemas.contract.config import Drop
from schemas.contract.errors import PlanError
from schemas.contract.redact import redact

if TYPE_CHECKING:
    from edge_agent.sources.synthetic import Drawn
    from edge_agent.sources.video import Video

__all__ = ["Image", "Source", "open_source"]

STALL_S, STILL_S = 10, 60


def open_source(uri: str, drop: Drop | None = None) -> Source:
    """The source that ``uri`` names; its first frame has been read or is certain.

    ``drop``: which frames of a live source are dropped when they come while there is no room: all but the ``latest``, or,
    where ``all`` are kept in order, the oldest once too many wait. Of files and folders none ever is.

    Lossless and in order: ``file:///clip.mp4?loop=1`` (a video or one picture), ``dir:///images?glob=*.jpg&loop=1``
    (pictures by name), ``synthetic://?scene=digits&width=640&height=480&seed=1&frames=8`` (drawn; endless without
    ``frames``), or the bare path of a file or folder. ``file://clip.mp4`` is a relative path.

    Live: ``synthetic://?fps=5``, ``v4l2:///dev/video0?width=1280&height=720&fps=15``, ``picamera2://0?width=640&height=480&fps=15``,
    ``rtsp://user:password@camera/stream``, ``http://camera/snapshot.jpg?interval=1`` (seconds) or an MJPEG stream
    (``redirect=1``: follow it to other hosts and schemes), and a video at its own pace, ``file:///clip.mp4?realtime=1``.
    ``stall=10``: so many seconds without a frame and a camera is opened anew. Parameters of a network camera that are not
    ours go to the camera.

    Asked: ``frigate://127.0.0.1:5555?timeout=200`` takes pictures from Frigate's detectors and answers them
    (``frigate.open_frigate``).

    All: ``motion=1`` leaves out frames without motion, but for one every ``still=60`` seconds.

    Raises:
        PlanError: unknown scheme or parameter, a missing or unreadable file, a camera that does not open, no OpenCV, or
            ``latest`` of a source that waits.
    """
    where = parse(uri)
    kind = where.scheme or ("dir" if where.path.is_dir() else "file")
    if kind not in _KINDS:
        known = ", ".join(f"{name}://" for name in _KINDS)
        raise PlanError(f"source {where.text!r} has the unknown scheme {kind!r}: use {known} or a path")
    gated, still_s = where.flag("motion"), where.number("still", STILL_S, 1, 86400)
    if "still" in where.query and not gated:
        raise PlanError(f"source {where.text!r}: still= belongs to motion=1; add it")
    source = _dropping(where, _KINDS[kind](where), drop)
    return _gate(source, still_s) if gated else source


def _dropping(where: Uri, source: Source, drop: Drop | None) -> Source:
    from edge_agent.sources.live import Live

    if isinstance(source, Live):
        if drop == "all":
            source.keep_all()
    elif drop == "latest":
        source.close()
        raise PlanError(
            f"source {where.text!r} waits until there is room, so that --drop latest has nothing to drop: leave it out, or "
            "play the source at a camera's pace (fps=5 for synthetic, realtime=1 for a video)"
        )
    return source


def _gate(source: Source, still_s: int) -> Source:
    from edge_agent.sources.motion import MotionFilter
    from edge_agent.sources.video import Video

    try:
        return MotionFilter(source, still_s, source.rate if isinstance(source, Video) else 1.0)
    except PlanError:
        source.close()
        raise


def _synthetic(where: Uri) -> Source:
    scene, rate = where.word("scene", "shapes"), where.number("fps", 0, 1, 240)
    if scene not in ("shapes", "digits"):
        raise PlanError(f"source {where.text!r}: there is no scene {scene!r}; use shapes or digits")
    drawn: Drawn
    if scene == "digits":
        from edge_agent.sources.digits import Digits

        drawn = Digits.of(where)
    else:
        from edge_agent.sources.synthetic import Synthetic

        drawn = Synthetic.of(where)
    return _paced(where, drawn, rate) if rate else drawn


def _folder(where: Uri) -> Source:
    if not where.path.is_dir():
        raise PlanError(f"source {where.text!r}: {redact(str(where.path))!r} is not a folder; name one that exists")
    from edge_agent.sources.folder import Folder, pictures_in

    pattern = where.word("glob", "")
    loop = where.flag("loop")
    where.refuse_others("glob", "loop")
    return Folder(pictures_in(where.path, pattern), loop)


def _file(where: Uri) -> Source:
    from edge_agent.sources.folder import SUFFIXES, Folder
    from edge_agent.sources.video import Video

    _expect_file(where.text, where.path)
    loop, realtime = where.flag("loop"), where.flag("realtime")
    if where.path.suffix.lower() in SUFFIXES:
        where.refuse_others("loop")
        return Folder([where.path], loop)
    where.refuse_others("loop", "realtime")
    video = Video(where.path, loop)
    return _paced(where, video, video.rate) if realtime else video


def _expect_file(text: str, path: Path) -> None:
    if path.is_dir():
        raise PlanError(f"source {text!r} is a folder; use dir://{quote(str(path))}")
    if path.is_char_device():
        raise PlanError(f"source {text!r} is a device; use v4l2://{quote(str(path.absolute()))}")
    if not path.is_file():
        raise PlanError(f"source {text!r}: there is no file {redact(str(path))!r}; check the path")


def _paced(where: Uri, clip: "Video | Drawn", rate: float) -> Source:
    """``clip`` as a camera of ``rate`` frames a second."""
    from edge_agent.sources.live import Live
    from edge_agent.sources.opened import Clip

    return Live(where.text, lambda: Clip(clip, rate), STALL_S)


def _device(where: Uri) -> Source:
    from edge_agent.sources.live import Live
    from edge_agent.sources.opened import open_device

    width, height = where.number("width", 0, 1, 16384), where.number("height", 0, 1, 16384)
    fps, stall_s = where.number("fps", 0, 1, 1000), where.number("stall", STALL_S, 1, 3600)
    where.refuse_others("width", "height", "fps", "stall")
    return Live(where.text, lambda: open_device(where.path, where.text, width, height, fps), stall_s)


def _picamera(where: Uri) -> Source:
    from edge_agent.sources.live import Live
    from edge_agent.sources.picamera import PiCamera

    number = str(where.path)
    if number not in {str(known) for known in range(8)}:
        raise PlanError(f"source {where.text!r} needs the number of a camera, as in picamera2://0")
    width, height = where.number("width", 640, 32, 16384), where.number("height", 480, 32, 16384)
    fps, stall_s = where.number("fps", 0, 1, 1000), where.number("stall", STALL_S, 1, 3600)
    where.refuse_others("width", "height", "fps", "stall")
    return Live(where.text, lambda: PiCamera(int(number), where.text, width, height, fps), stall_s)


def _rtsp(where: Uri) -> Source:
    from edge_agent.sources.live import Live
    from edge_agent.sources.opened import open_stream

    stall_s = where.number("stall", STALL_S, 1, 3600)
    where.refuse_others("stall")
    return Live(where.text, lambda: open_stream(where.address, where.text, stall_s), stall_s)


def _http(where: Uri) -> Source:
    from edge_agent.sources import web
    from edge_agent.sources.live import Live

    interval_s, stall_s = where.number("interval", 1, 1, 86400), where.number("stall", STALL_S, 1, 3600)
    redirect = where.flag("redirect")
    where.refuse_others("interval", "stall", "redirect")
    address = web.Address(where.address, where.text, redirect)
    return Live(where.text, lambda: web.connect(address, stall_s, interval_s), stall_s)


def _frigate(where: Uri) -> Source:
    from edge_agent.sources.frigate import open_frigate

    return open_frigate(where)


_KINDS: dict[str, Callable[[Uri], Source]] = {
    "file": _file, "dir": _folder, "synthetic": _synthetic, "v4l2": _device, "picamera2": _picamera,
    "rtsp": _rtsp, "rtsps": _rtsp, "http": _http, "https": _http,
    "frigate": _frigate,
}  # fmt: skip
