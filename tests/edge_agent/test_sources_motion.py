from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

from edge_agent.sources import open_source
from edge_agent.sources.frame import Image, Shot, is_live
from edge_agent.sources.motion import MotionFilter
from schemas.contract.errors import PlanError
from tests.paths import shared

pytest.importorskip("cv2")


def scene(square_at: int | None, seed: int) -> Image:
    """A textured room of 120x160 with the noise of a sensor, and a square of 20 pixels in it, or none."""
    room = np.random.RandomState(1).randint(40, 200, (12, 16, 3)).repeat(10, axis=0).repeat(10, axis=1)
    image = np.clip(room + np.random.RandomState(seed).normal(0, 4, room.shape), 0, 255).astype(np.uint8)
    if square_at is not None:
        image[50:70, square_at : square_at + 20] = 255
    return image


class Room:
    """A live camera in a room: a frame a second; the square crosses from frame 30 to 39."""

    live = True

    def shots(self, stopped: Callable[[], bool]) -> Iterator[Shot]:
        for i in range(100):
            yield Shot(scene(10 * (i - 30) if 30 <= i < 40 else None, i), float(i), 1e9, dropped=3)

    def frames(self) -> Iterator[Image]:
        return (shot.image for shot in self.shots(lambda: False))

    def close(self) -> None: ...


def test_a_still_scene_passes_once_then_with_motion_then_once_in_a_while() -> None:
    passed = [(shot.at, shot.skipped) for shot in MotionFilter(Room(), 25.0).shots(lambda: False)]
    times = [at for at, _ in passed]
    assert times[:2] == [0.0, 25.0] and set(range(30, 40)) <= set(times)
    assert not set(times) & {*range(1, 25), *range(26, 30), *range(45, 60)}
    assert all(skipped == at - i for i, (at, skipped) in enumerate(passed))
    assert times[-1] >= 75 and max(np.diff(times)) == 25.0


def test_the_gate_keeps_what_the_source_says_of_a_frame() -> None:
    gate = MotionFilter(Room(), 25.0)
    assert is_live(gate) and next(gate.shots(lambda: False)).dropped == 3
    assert not is_live(MotionFilter(open_source("synthetic://"), 25.0))


def test_the_gate_of_a_real_video_passes_the_same_frames_every_time() -> None:
    uri = f"file://{shared('data/video')}/one-by-one-person-detection.mp4?motion=1&still=2"
    first, second = (list(islice(open_source(uri).frames(), 40)) for _ in range(2))
    assert len(first) == 40 and all((one == other).all() for one, other in zip(first, second, strict=True))


def test_an_empty_hall_is_not_offered_and_a_person_is() -> None:
    path = shared("data/video") / "one-by-one-person-detection.mp4"
    source: Any = open_source(f"file://{path}?motion=1&still=86400")
    shots = list(islice(source.shots(lambda: False), 100))
    assert shots[-1].skipped > 0 and len(shots) == 100
    source.close()


def test_motion_is_an_option_of_every_source_and_still_belongs_to_it() -> None:
    assert len(list(open_source("synthetic://?frames=9&motion=1").frames())) == 9
    for uri, said in (
        ("synthetic://?motion=2", "motion='2' must be"),
        ("synthetic://?still=5", "still= belongs to motion=1; add it"),
        ("synthetic://?motion=1&still=0", "still='0' must be a whole number from 1 to 86400"),
    ):
        with pytest.raises(PlanError) as caught:
            open_source(uri)
        assert said in str(caught.value)
