"""The yardstick itself: AP50 of known detections, readings of known frames."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from edge_agent.sources.scenes.scenes import Scene
from schemas.contract.results import Detection
from training.evaluate import average_precision, readings_right


def digit(label: str, score: float, x: float, width: float = 20) -> Detection:
    return Detection(label=label, index=int(label), score=score, box=(x, 0, x + width, 40))


TRUTH = [[("1", 0.0, 0.0, 20.0, 40.0), ("1", 40.0, 0.0, 60.0, 40.0)], [("2", 0.0, 0.0, 20.0, 40.0)]]


def test_all_found_is_1_and_nothing_found_is_0() -> None:
    assert average_precision([[digit("1", 0.9, 1), digit("1", 0.8, 41)], []], TRUTH, "1") == 1.0
    assert average_precision([[], []], TRUTH, "1") == 0.0


def test_a_false_alarm_that_scores_higher_costs_and_one_that_scores_lower_does_not() -> None:
    found = [digit("1", 0.9, 0), digit("1", 0.8, 40)]
    assert average_precision([found, [digit("1", 0.1, 0)]], TRUTH, "1") == 1.0
    assert average_precision([found, [digit("1", 0.99, 0)]], TRUTH, "1") == pytest.approx(2 / 3)


def test_a_digit_found_twice_or_badly_placed_is_a_false_alarm() -> None:
    assert average_precision([[digit("1", 0.9, 0), digit("1", 0.8, 1)], []], TRUTH, "1") == 0.5
    assert average_precision([[digit("1", 0.9, 15)], []], TRUTH, "1") == 0.0


def test_readings_are_right_whole_or_not_at_all() -> None:
    scene = Scene(np.zeros((1, 1, 3), np.uint8), [], ["12", "7"])
    assert readings_right([digit("1", 1, 0), digit("2", 1, 24), digit("7", 1, 300)], scene) == (2, 0)
    assert readings_right([digit("1", 1, 0), digit("3", 1, 24), digit("7", 1, 300)], scene) == (1, 1)
    assert readings_right([], scene) == (0, 0)
