"""One row of ``bench.memory``, in a process of its own: computes every tile of a plan as an edge does and says what it holds.

``python -m bench.memory_row FOLDER KEEP [CACHE]``; FOLDER is what ``dt plan`` wrote. Prints one JSON object of marks:
``bare`` before the first import, ``runtime`` with numpy and the TFLite runtime imported, ``ready`` with all imported
that computes a tile, ``end`` after the last tile and ``most``, the largest after any tile. A mark is in kB, from the
kernel's ``/proc/self/smaps_rollup``: ``private`` is Anonymous, memory that no file can give back; ``uss`` adds the pages
of files that nobody else maps at the moment (Private_Clean + Private_Dirty); ``resident`` is Rss. It needs numpy,
pydantic and a runtime alone.
"""

import sys

Mark = dict[str, int]


def mark() -> Mark:
    """What this process holds now, in kB."""
    kept = {}
    with open("/proc/self/smaps_rollup") as lines:  # noqa: PTH123 (pathlib would be part of the first mark)
        for line in lines:
            name, _, rest = line.partition(":")
            if rest.endswith("kB\n"):
                kept[name] = int(rest[:-3])
    uss = kept["Private_Clean"] + kept["Private_Dirty"]
    return {"private": kept["Anonymous"], "uss": uss, "resident": kept["Rss"]}


def main(folder: str, keep: int, cache: str | None) -> None:
    """Import step by step, compute, print."""
    marks = {"bare": mark()}
    import ctypes
    import importlib
    from importlib.util import find_spec
    from pathlib import Path

    import numpy as np

    runtime = "ai_edge_litert" if find_spec("ai_edge_litert") else "tflite_runtime"
    module = importlib.import_module(f"{runtime}.interpreter")
    if runtime == "ai_edge_litert":
        ctypes.CDLL(str(Path(str(module.__file__)).parent / "libLiteRt.so"))
    marks["runtime"] = mark()

    import json
    import threading
    import time

    from models.graph.file import load
    from models.running import engine
    from models.running.runner import TileRunner
    from schemas.contract.plan import Plan
    from schemas.host.process import return_memory

    return_memory()
    engine.silence_runtime()
    plan = Plan.model_validate_json((Path(folder) / "plan.json").read_bytes())
    marks["ready"] = mark()
    after: list[Mark] = []
    seconds: list[float] = []

    def compute() -> None:
        runner = TileRunner(plan, load(Path(folder) / "model.tflite"), Path(cache) if cache else None, keep=keep)
        [spec] = plan.blocks[0].inputs
        for tile in plan.blocks[0].order:
            box = plan.blocks[0].by_home[tile].inputs[spec.name]
            crop = np.resize(np.arange(251, dtype=np.uint8), box.shape)
            start = time.monotonic()
            runner.run(0, tile, {spec.name: crop})
            seconds.append(time.monotonic() - start)
            after.append(mark())

    thread = threading.Thread(target=compute)  # an edge computes in a thread, whose heap is another one
    thread.start()
    thread.join()
    marks["end"] = after[-1]
    marks["most"] = {name: max(m[name] for m in after) for name in after[0]}
    print(json.dumps({"runtime": engine.runtime(), "marks": marks, "seconds": sum(seconds)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
