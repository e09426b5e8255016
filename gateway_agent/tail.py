"""One thread that merges whole frames and runs the tail, so that the loop never waits for arithmetic."""

import logging
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gateway_agent.assembly import Complete
from models.bundle import Bundle, Tail
from models.tensor import stitch
from schemas.errors import DtError
from schemas.plan import digest


@dataclass(frozen=True)
class Finished:
    """A frame's final outputs by tensor name, and the digests of merged cut and outputs; or why there are none."""

    frame: str
    digests: Mapping[str, str]
    outputs: Mapping[str, np.ndarray]
    error: str = ""


class TailThread:
    """``submit`` frames; each comes back once, as ``Finished``, in ``inbox``."""

    def __init__(self, bundle: Bundle, inbox: "queue.Queue[object]", threads: int = 1) -> None:
        self._bundle = bundle
        self._inbox = inbox
        self._tail = Tail(bundle, threads)
        self._work: queue.SimpleQueue[Complete[Mapping[str, np.ndarray]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tail", daemon=True)
        self._thread.start()

    def submit(self, complete: Complete[Mapping[str, np.ndarray]]) -> None:
        self._work.put(complete)

    def close(self) -> None:
        self._work.put(None)
        self._thread.join(5.0)

    def _run(self) -> None:
        while (complete := self._work.get()) is not None:
            self._inbox.put(self._finish(complete))

    def _finish(self, complete: Complete[Mapping[str, np.ndarray]]) -> Finished:
        block = self._bundle.plan.blocks[-1]
        last = len(self._bundle.plan.blocks) - 1
        try:
            merged = {
                spec.name: stitch(
                    spec, ((t.outputs[spec.name], complete.tiles[last, t.index][spec.name]) for t in block.tiles)
                )
                for spec in block.cut
            }
            outputs = self._tail.run(merged)
        except (DtError, MemoryError) as error:
            logging.getLogger(__name__).error("frame %s: %s", complete.frame, error)
            return Finished(complete.frame, {}, {}, f"model error on the gateway: {error}")
        return Finished(complete.frame, digests(merged, outputs), outputs)


def digests(cut: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Digest of each tensor's bytes, by ``cut/NAME`` and ``output/NAME``."""
    named = {f"cut/{name}": array for name, array in cut.items()}
    named |= {f"output/{name}": array for name, array in outputs.items()}
    return {name: digest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data) for name, array in named.items()}
