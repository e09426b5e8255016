"""How fast messages are handled: a figure of this machine, that halves where a message takes twice as long."""

import time

import pytest

from schemas.wire import codec, pace
from schemas.wire.pace import measure_messages


def test_who_takes_twice_as_long_for_a_message_is_half_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, real = [0.0], codec.decode

    def decode(*given: object) -> object:
        clock[0] += seconds
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(pace, "decode", decode)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    seconds = 1e-3
    slow = measure_messages()
    seconds = 5e-4
    assert measure_messages() == pytest.approx(2 * slow, rel=0.02) and slow == pytest.approx(pace._MESSAGE_S / 1e-3, rel=0.02)


def test_it_is_told_within_a_tenth_of_a_second_of_this_thread() -> None:
    assert 1e-3 < measure_messages() < 10
