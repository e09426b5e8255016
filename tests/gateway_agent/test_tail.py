"""Which frame the tail takes next, and a thread that takes them."""

import queue
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.assembly import Complete
from gateway_agent.node import Finish
from gateway_agent.tail import Finished, TailQueue, TailThread, Tensors
from models.bundle import Bundle, make_bundle
from models.graph.build import build

SOURCES = {"a": 5, "b": 0, "c": 0, "d": -3}


def whole(source: str, number: int, priority: int = 0) -> Finish:
    return Finish(Complete(f"{source}-11111111-{number}", {}, {}, {}, 0.0), (1, 1), priority)


def taken(waiting: TailQueue) -> list[str]:
    return [finish.complete.frame.replace("-11111111-", "") for finish in iter(waiting.take, None)]


def test_the_higher_priority_goes_first_and_of_equals_who_came_first() -> None:
    waiting = TailQueue()
    for source, number in [("d", 0), ("b", 0), ("c", 0), ("a", 0), ("b", 1), ("a", 1), ("c", 1), ("d", 1)]:
        assert waiting.put(whole(source, number, SOURCES[source])) is None
    assert taken(waiting) == ["a0", "a1", "b0", "c0", "b1", "c1", "d0", "d1"]


def test_frames_of_one_source_stay_in_order_when_its_priority_rises() -> None:
    waiting = TailQueue()
    for source, number, priority in [("a", 0, 0), ("b", 0, 1), ("a", 1, 2)]:
        waiting.put(whole(source, number, priority))
    assert taken(waiting) == ["a0", "a1", "b0"]


@given(st.lists(st.sampled_from([*SOURCES, None]), max_size=60), st.integers(1, 6))
def test_nothing_waits_twice_too_many_or_out_of_turn(steps: list[str | None], limit: int) -> None:
    waiting, model = TailQueue(limit), list[tuple[str, int]]()
    for number, source in enumerate(steps):
        if source is None:
            best = max((SOURCES[s] for s, _ in model), default=0)
            expected = next(((s, n) for s, n in model if SOURCES[s] == best), None)
            got = waiting.take()
        else:
            model.append((source, number))
            least = min(SOURCES[s] for s, _ in model)
            expected = next((s, n) for s, n in model if SOURCES[s] == least) if len(model) > limit else None
            got = waiting.put(whole(source, number, SOURCES[source]))
        assert (got.complete.frame if got else None) == (f"{expected[0]}-11111111-{expected[1]}" if expected else None)
        if expected is not None:
            model.remove(expected)
        assert len(waiting) == len(model) <= limit


def ready(bundle: Bundle, source: str, priority: int) -> Finish:
    """A frame of zeros."""
    block = bundle.plan.blocks[-1]
    tiles: dict[tuple[int, int], Tensors] = {
        (0, tile.home): {spec.name: np.zeros(tile.outputs[spec.name].shape, spec.dtype) for spec in block.cut}
        for tile in block.tiles
    }
    return Finish(Complete(f"{source}-11111111-0", tiles, {}, {}, 0.0), (96, 96), priority)


def test_the_thread_finishes_every_frame_by_priority_and_ends_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "mini.tflite"
    path.write_bytes(build("mini", size=96).to_bytes())
    bundle = make_bundle(path, (2, 2))
    inbox: queue.Queue[object] = queue.Queue(1)
    inbox.put(None)  # full: whoever is first in the tail waits there until all are submitted
    tail = TailThread(bundle, inbox)
    for source in ("x", "y", "z", "a"):
        assert tail.submit(ready(bundle, source, 9 if source == "a" else 0)) is None
    _, *done = [inbox.get(timeout=30) for _ in range(5)]
    assert all(isinstance(each, Finished) and not each.error for each in done)
    order = [each.frame[0] for each in done if isinstance(each, Finished)]
    assert order in (["x", "a", "y", "z"], ["a", "x", "y", "z"])
    tail.close()
    assert not tail._thread.is_alive()
