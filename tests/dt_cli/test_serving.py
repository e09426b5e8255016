import pytest

from dt_cli.serving import endless
from edge_agent.sources import open_source


@pytest.mark.parametrize(
    ("uri", "without_end"),
    [
        ("synthetic://", "synthetic://?fps=4"),
        ("synthetic://?scene=digits&frames=8", "synthetic://?fps=4&scene=digits"),
        ("synthetic://?fps=9", "synthetic://?fps=9"),
        ("file:///clip.mp4", "file:///clip.mp4?loop=1&realtime=1"),
        ("file:///one.jpg", "file:///one.jpg?loop=1"),
        ("clip.mp4", "clip.mp4?loop=1&realtime=1"),
        ("dir:///images?glob=*.jpg", "dir:///images?loop=1&glob=*.jpg"),
        ("v4l2:///dev/video0", "v4l2:///dev/video0"),
        ("rtsp://me:secret@camera/stream", "rtsp://me:secret@camera/stream"),
    ],
)
def test_a_source_without_end_is_the_same_source(uri: str, without_end: str) -> None:
    assert endless(uri) == without_end


def test_a_drawn_scene_without_end_is_live() -> None:
    source = open_source(endless("synthetic://?frames=1&width=64&height=64"))
    frames = source.frames()
    assert (next(frames) != next(frames)).any()
    source.close()
