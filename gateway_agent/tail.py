"""One thread that merges whole frames, runs the tail and decodes, so that the loop never waits for arithmetic.

A recurrent model's state is kept here, one per source and epoch: frames of one source must come in order. They do,
whatever waits: the source with the highest priority is next, and of its frames the one that came first.
"""

import itertools
import logging
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gateway_agent.node import STATES, Finish
from models.bundle import Bundle, Tail, next_state
from models.results.decode import decode, quantization_of
from models.tiling.tensor import stitch
from schemas.contract.errors import DtError
from schemas.contract.messages import frame_source
from schemas.contract.plan import Plan, digest
from schemas.contract.results import Result

WAITING = 256  # frames that wait for the tail: eight sources with the widest window

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Finished:
    """A frame's final outputs, what they say, and the digests of merged cut and outputs; or why there are none."""

    frame: str
    digests: Mapping[str, str] = field(default_factory=dict)
    outputs: Tensors = field(default_factory=dict)
    result: Result | None = None
    error: str = ""


class TailQueue:
    """Whole frames that wait, by source in the order in which they came; at most ``limit``.

    A source has the priority that came with its newest frame. Sources of the same one share: first come, first served.
    """

    def __init__(self, limit: int = WAITING) -> None:
        self._limit = limit
        self._order = itertools.count()
        self._sources: dict[str, deque[tuple[int, Finish]]] = {}
        self._priorities: dict[str, int] = {}

    def put(self, finish: Finish) -> Finish | None:
        """Let a frame wait. Returns the one that had to make room: of the lowest priority the one that waits longest."""
        source = frame_source(finish.complete.frame)[0]
        self._sources.setdefault(source, deque()).append((next(self._order), finish))
        self._priorities[source] = finish.priority
        return self._pop(highest=False) if len(self) > self._limit else None

    def take(self) -> Finish | None:
        """The next frame for the tail."""
        return self._pop(highest=True) if self._sources else None

    def __len__(self) -> int:
        return sum(len(frames) for frames in self._sources.values())

    def _pop(self, highest: bool) -> Finish:
        sign = -1 if highest else 1
        source = min(self._sources, key=lambda name: (sign * self._priorities[name], self._sources[name][0][0]))
        _, finish = self._sources[source].popleft()
        if not self._sources[source]:
            del self._sources[source], self._priorities[source]
        return finish


class TailThread:
    """``submit`` frames; each that is taken comes back once, as ``Finished``, in ``inbox``."""

    def __init__(self, bundle: Bundle, inbox: "queue.Queue[object]", threads: int = 1) -> None:
        self._bundle = bundle
        self._inbox = inbox
        self._tail = Tail(bundle, threads)
        self._quantization = quantization_of(bundle.graph)
        self.threshold: float | None = None  # least score of a detection instead of the card's; may be set at any time
        self._states: OrderedDict[tuple[str, str], Tensors] = OrderedDict()
        self._waiting, self._changed, self._closed = TailQueue(), threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="tail", daemon=True)
        self._thread.start()

    def submit(self, finish: Finish) -> str | None:
        """Returns the frame that had to make room; it does not come back."""
        with self._changed:
            dropped = self._waiting.put(finish)
            self._changed.notify()
        return None if dropped is None else dropped.complete.frame

    def close(self) -> None:
        """The frame in the tail may end; none follows."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(5.0)

    def _next(self) -> Finish | None:
        with self._changed:
            while not self._closed:
                if (finish := self._waiting.take()) is not None:
                    return finish
                self._changed.wait()
        return None

    def _run(self) -> None:
        while (finish := self._next()) is not None:
            try:
                done = self._finish(finish)
            except (DtError, MemoryError) as error:
                frame = finish.complete.frame
                logging.getLogger(__name__).error("frame %s: %s", frame, error)
                done = Finished(frame, error=f"model error on the gateway: {error or 'out of memory'}")
            self._inbox.put(done)

    def _finish(self, finish: Finish) -> Finished:
        bundle, complete = self._bundle, finish.complete
        merged = merge(bundle.plan, complete.tiles)
        source, epoch, _ = frame_source(complete.frame)
        outputs = self._tail.run(merged, self._states.get((source, epoch)))
        if bundle.card.state:
            self._states[source, epoch] = next_state(bundle.card, outputs)
            self._states.move_to_end((source, epoch))
            while len(self._states) > STATES:
                self._states.popitem(last=False)
        picture = finish.picture if min(finish.picture) > 0 else (bundle.plan.pixels.height, bundle.plan.pixels.width)
        card = bundle.card
        if self.threshold is not None:
            card = card.model_copy(update={"score_threshold": self.threshold})
        result = decode(card, outputs, self._quantization, picture, bundle.plan.pixels)
        return Finished(complete.frame, digests(merged, outputs), outputs, result)


def merge(plan: Plan, tiles: Mapping[tuple[int, int], Tensors]) -> dict[str, np.ndarray]:
    """What the blocks give to the gateway, of the results of the tasks that answer, by block and lane."""
    found = {}
    for spec in plan.ends:
        block = plan.makers[spec.name]
        found[spec.name] = stitch(
            spec, ((task.outputs[spec.name], tiles[block, task.home][spec.name]) for task in plan.blocks[block].tiles)
        )
    return found


def digests(cut: Tensors, outputs: Tensors) -> dict[str, str]:
    """Digest of each tensor's bytes, by ``cut/NAME`` and ``output/NAME``."""
    named = {f"cut/{name}": array for name, array in cut.items()}
    named |= {f"output/{name}": array for name, array in outputs.items()}
    return {name: digest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data) for name, array in named.items()}
