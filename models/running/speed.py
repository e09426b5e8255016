"""How fast the engine computes here: effort a second, by a small stack of convolutions."""

import time
from dataclasses import replace

import numpy as np

from models.graph.build import Network
from models.graph.effort import FLOAT, effort_of
from models.graph.file import Graph, Quantization, Tensor
from models.running import engine

_MEASURED_S = 0.3


def measure_speed(dtype: str = FLOAT, threads: int = 1) -> float:
    """Effort a second of so many threads here: a small stack of convolutions on the engine, in this one of
    ``models.graph.effort.ARITHMETICS``, a third of a second. In float32 it is FLOP/s.

    The mean and not the best: a processor that is shared, or has a quota, is as fast as that for tiles.
    """
    graph = _stack(dtype)
    effort = effort_of(graph, range(len(graph.ops)))
    image = graph.tensors[graph.inputs[0]]
    runner, given = engine.load(graph.to_bytes(), threads), [np.ones(image.shape, image.dtype)]
    runner.run(given)
    runs, begun = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begun) < _MEASURED_S:
        runner.run(given)
        runs += 1
    return effort * runs / seconds


def _stack(dtype: str) -> Graph:
    network = Network((76, 76, 64), seed=1)
    for filters, kernel in ((128, 3), (64, 1), (128, 3)):
        network.add(("linear", filters, kernel, 1))
    graph = network.graph()
    return graph if dtype == FLOAT else replace(graph, tensors=tuple(_quantized(t, dtype) for t in graph.tensors))


def _quantized(tensor: Tensor, dtype: str) -> Tensor:
    """The same in integers, of no particular values: maps and filters in ``dtype``, biases in int32."""
    if tensor.data is None:
        return replace(tensor, dtype=dtype, quantization=Quantization((0.1,), (0,)))
    kind, scale = ("int32", 0.001) if len(tensor.shape) == 1 else (dtype, 0.01)
    data = np.ones(tensor.shape, kind).reshape(-1).view(np.uint8)
    return replace(tensor, dtype=kind, quantization=Quantization((scale,), (0,)), data=data)
