import queue

import numpy as np

from gateway_agent.painter import WAITING, Painted, Painter, paint
from models.results import jpeg
from schemas.contract.messages import Outcome
from schemas.contract.results import Detection, Result

GREY = jpeg.encode(np.full((100, 200, 3), 128, np.uint8), 960, quality=95)
BOX = Result(task="detect", detections=(Detection(label="car", index=2, score=0.9, box=(200.0, 100.0, 600.0, 300.0)),))


def outcome(number: int = 0, result: Result | None = BOX) -> Outcome:
    return Outcome(
        node="gateway", epoch="aaaaaaaa", frame=f"edge1-11111111-{number}", status="ok" if result else "failed",
        latency_s=0.1, picture=(400, 800), result=result,
    )  # fmt: skip


def test_boxes_of_a_large_image_are_drawn_at_the_pictures_size() -> None:
    painted = paint(GREY, outcome())
    assert painted is not None and painted.plain == GREY
    image = jpeg.decode(painted.annotated)
    assert image is not None and image.shape == (100, 200, 3)
    changed = np.abs(image.astype(int) - 128).max(axis=2) > 40
    assert changed[50, 48:53].any() and changed[50, 148:153].any()  # left and right edge of the box
    assert not changed[90:, :].any() and not changed[:, 170:].any()


def test_the_halves_of_a_pair_come_in_any_order() -> None:
    inbox: queue.Queue[object] = queue.Queue()
    painter = Painter(inbox)
    try:
        painter.picture("edge1-11111111-0", GREY)
        painter.outcome(outcome(0))
        painter.outcome(outcome(1))
        painter.picture("edge1-11111111-1", GREY)
        frames = [painted.frame for painted in (inbox.get(timeout=30), inbox.get(timeout=30)) if isinstance(painted, Painted)]
        assert frames == ["edge1-11111111-0", "edge1-11111111-1"]
    finally:
        painter.close()


def test_failed_frames_and_broken_pictures_come_to_nothing() -> None:
    inbox: queue.Queue[object] = queue.Queue()
    painter = Painter(inbox)
    try:
        painter.picture("edge1-11111111-0", GREY)
        painter.outcome(outcome(0, None))
        painter.picture("edge1-11111111-1", GREY[:50])
        painter.outcome(outcome(1))
        for number in range(2, 3 * WAITING):
            painter.picture(f"edge1-11111111-{number}", GREY)
        painter.outcome(outcome(2))  # its picture was given up
        painter.outcome(outcome(3 * WAITING - 1))
        painted = inbox.get(timeout=30)
        assert isinstance(painted, Painted) and painted.frame == f"edge1-11111111-{3 * WAITING - 1}"
        assert inbox.empty()
    finally:
        painter.close()
