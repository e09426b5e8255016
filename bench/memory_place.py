"""One place of a plan, in a process of its own: computes its tasks as an edge does and says what it holds.

``python -m bench.memory_place FOLDER PLACE KEEP CACHE``; FOLDER has ``plan.json`` and the edges' ``edge.tflite``. Prints one
JSON object, in bytes: ``ready``, what this process held when it had imported an edge and nothing ran, and after each task of
some frames ``own``, what it held beside the pages of files in FOLDER and CACHE, and ``weights``, the pages of those files that
it has touched so far, of each file the most, whether it is still mapped or not. Libraries count whoever else maps them: an
edge that is alone on its machine has them for itself (its USS), and here others come and go.
"""

import ctypes
import json
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from edge_agent import app as app
from edge_agent.lanes import Lanes, Part
from models.graph.file import load
from models.graph.runtime import installed
from models.running import engine
from models.running.runner import TileRunner
from models.tiling.tensor import exchange
from schemas.contract.plan import Plan
from schemas.host.process import return_memory

FRAMES = 3
_HEAD = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ (\d+) *(.*)")


class Held:
    """What this process holds, read from ``/proc/self/smaps``."""

    def __init__(self, *folders: str) -> None:
        self._folders = folders
        self._weights: dict[str, int] = {}

    def look(self) -> tuple[int, int]:
        """Bytes of its own, and bytes of weights touched so far."""
        own, now, path, inode = 0, dict[str, int](), "", ""
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if head := _HEAD.fullmatch(line):
                inode, path = head[1], head[2]
                continue
            name, _, rest = line.partition(":")
            is_weights = path.startswith(self._folders)
            if name == "Rss" and is_weights:
                now[inode] = now.get(inode, 0) + int(rest.split()[0]) * 1024
            elif name == "Rss":
                own += int(rest.split()[0]) * 1024
        for file, count in now.items():
            self._weights[file] = max(self._weights.get(file, 0), count)
        return own, sum(self._weights.values())


def main(folder: str, place: int, keep: int, cache: str) -> None:
    """Compute, and print what it took."""
    return_memory()
    engine.silence_runtime()
    module = installed()[1]
    with suppress(OSError):  # a runtime that has no such library
        ctypes.CDLL(str(Path(str(module.__file__)).parent / "libLiteRt.so"))
    plan = Plan.model_validate_json((Path(folder) / "plan.json").read_bytes())
    held = Held(folder, cache)
    ready, _ = held.look()
    after: list[tuple[int, int]] = []
    seconds: list[float] = []
    thread = threading.Thread(target=lambda: compute(plan, Path(folder), place, keep, Path(cache), held, after, seconds))
    thread.start()
    thread.join()
    rows = [{"own": own, "weights": weights} for own, weights in after]
    print(json.dumps({"runtime": engine.runtime(), "ready": ready, "tasks": rows, "seconds_a_frame": round(min(seconds), 3)}))


def compute(
    plan: Plan, folder: Path, place: int, keep: int, cache: Path, held: Held, after: list[tuple[int, int]], seconds: list[float]
) -> None:
    """The place's lane of some frames; what other lanes give it is zero."""
    runner = TileRunner(plan, load(folder / "edge.tflite"), cache, keep=keep)
    lanes, between = Lanes(plan), exchange(plan.blocks)
    dtypes = {spec.name: spec.dtype for block in plan.blocks for spec in block.cut}
    for number in range(FRAMES):
        frame = f"edge1-0123abcd-{number}"
        seconds.append(0.0)
        lanes.start(frame, place, runner.zeros(0, place) if plan.task(0, place) else {}, 0.0)
        for block in plan.steps[place]:
            for layer, maker in between.needs[block, place]:
                if maker != place:
                    boxes = between.gives[layer, maker][place]
                    parts = {name: np.zeros(box.shape, dtypes[name]) for name, box in boxes.items()}
                    lanes.hear(Part(frame, layer, place, maker, parts))
            work = lanes.take()
            assert work is not None  # its parts are here
            key, inputs = work
            begun = time.monotonic()
            outputs = runner.run(block, place, inputs, frame)
            seconds[-1] += time.monotonic() - begun
            lanes.computed(key, outputs, 0.0)
            del work, inputs, outputs
            after.append(held.look())
        lanes.end(frame)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
