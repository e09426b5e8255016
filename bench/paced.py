"""``dt`` with the engine of a slower board: ``python -m bench.paced FLOPS_S gateway ...``, or ``edge ...``.

Each run of an engine takes at least its graph's effort at this rate (operations a second, `models.graph.effort`); the
rest of that time it sleeps, for on the board other cores, or slower ones, would compute. Messages are not paced: the host's
share of a core does that. So kernels and Python slow down each by its own factor, as on a real board.
"""

import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.graph.effort import effort_of
from models.graph.file import Graph, parse
from models.running import engine

_load, _load_cached = engine.load, engine.load_cached


class Paced:
    """An engine that takes at least ``seconds`` a run."""

    def __init__(self, inner: engine.Engine, seconds: float) -> None:
        self._inner, self._seconds = inner, seconds

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        begun = time.perf_counter()
        made = self._inner.run(inputs)
        time.sleep(max(0.0, self._seconds - (time.perf_counter() - begun)))
        return made


def pace(flops_s: float) -> None:
    """From now on every engine of this process is as slow as that."""

    def seconds(graph: Graph) -> float:
        return effort_of(graph, range(len(graph.ops))) / flops_s

    def load(model: bytes, threads: int = 1) -> engine.Engine:
        return Paced(_load(model, threads), seconds(parse(model)))

    def load_cached(graph: Graph, cache: Path, threads: int = 1) -> engine.Engine:
        return Paced(_load_cached(graph, cache, threads), seconds(graph))

    engine.load, engine.load_cached = load, load_cached


def main() -> None:
    pace(float(sys.argv.pop(1)))
    runpy.run_module("dt_cli.main", run_name="__main__")


if __name__ == "__main__":
    main()
