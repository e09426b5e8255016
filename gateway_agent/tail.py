"""One thread that merges whole frames, runs the tail and decodes, so that the loop never waits for arithmetic.

A recurrent model's state is kept here, one per source and epoch: frames of one source must come in order.
"""

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gateway_agent.node import STATES, Finish
from models.bundle import Bundle, Tail, next_state
from models.decode import decode, quantization_of
from models.tensor import stitch
from schemas.errors import DtError
from schemas.messages import frame_source
from schemas.plan import digest
from schemas.results import Result

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Finished:
    """A frame's final outputs, what they say, and the digests of merged cut and outputs; or why there are none."""

    frame: str
    digests: Mapping[str, str] = field(default_factory=dict)
    outputs: Tensors = field(default_factory=dict)
    result: Result | None = None
    error: str = ""


class TailThread:
    """``submit`` frames; each comes back once, as ``Finished``, in ``inbox``."""

    def __init__(self, bundle: Bundle, inbox: "queue.Queue[object]", threads: int = 1) -> None:
        self._bundle = bundle
        self._inbox = inbox
        self._tail = Tail(bundle, threads)
        self._quantization = quantization_of(bundle.graph)
        self.threshold: float | None = None  # least score of a detection instead of the card's; may be set at any time
        self._states: OrderedDict[tuple[str, str], Tensors] = OrderedDict()
        self._work: queue.SimpleQueue[Finish | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tail", daemon=True)
        self._thread.start()

    def submit(self, finish: Finish) -> None:
        self._work.put(finish)

    def close(self) -> None:
        self._work.put(None)
        self._thread.join(5.0)

    def _run(self) -> None:
        while (finish := self._work.get()) is not None:
            try:
                done = self._finish(finish)
            except (DtError, MemoryError) as error:
                frame = finish.complete.frame
                logging.getLogger(__name__).error("frame %s: %s", frame, error)
                done = Finished(frame, error=f"model error on the gateway: {error or 'out of memory'}")
            self._inbox.put(done)

    def _finish(self, finish: Finish) -> Finished:
        bundle, complete = self._bundle, finish.complete
        last = len(bundle.plan.blocks) - 1
        block = bundle.plan.blocks[last]
        merged = {
            spec.name: stitch(
                spec, ((t.outputs[spec.name], complete.tiles[last, t.index][spec.name]) for t in block.tiles)
            )
            for spec in block.cut
        }
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


def digests(cut: Tensors, outputs: Tensors) -> dict[str, str]:
    """Digest of each tensor's bytes, by ``cut/NAME`` and ``output/NAME``."""
    named = {f"cut/{name}": array for name, array in cut.items()}
    named |= {f"output/{name}": array for name, array in outputs.items()}
    return {name: digest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data) for name, array in named.items()}
