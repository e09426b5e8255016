"""The cluster for scripts and notebooks: open a model, plan it, and run frames on a cluster of processes on this machine.

What this module names is public: it stays as it is, or CHANGELOG.md says so. All else of the project may change at any time.
Results, plans and errors are the project's own records. docs/PYTHON.md shows all of it, and is run as a test.
"""

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dt_cli.cluster import PrivateCluster, Setup
from edge_agent.sources.fit import fit
from models.bundle import Reference, open_bundle
from models.planning.planner import parse_grid
from models.results.card import check_inputs
from models.results.decode import decode, quantization_of
from models.tiling.tensor import to_input
from models.trial import try_bundle
from schemas.contract import messages as m
from schemas.contract.errors import DtError, PlanError
from schemas.contract.plan import Plan
from schemas.contract.results import Detection, Result
from schemas.host.packages import install

__all__ = ["Cluster", "Detection", "DtError", "Model", "Plan", "PlanError", "Result", "Seen"]

FRAME_S = 60.0


@dataclass(frozen=True)
class Seen:
    """What became of a frame: ``result`` in pixels of the picture, the model's ``outputs`` by name, and its tiles' nodes."""

    result: Result
    outputs: Mapping[str, NDArray[Any]]
    workers: tuple[str, ...] = ()
    latency_s: float = 0.0


class Model:
    """A ``.tflite`` file, or a folder that ``dt plan`` wrote; ``grid`` ("3x3") and ``cut`` (a tensor's name) as of ``dt plan``.

    Raises:
        PlanError: the file is no model, or cannot be divided so.
    """

    def __init__(self, path: Path | str, grid: str | None = None, cut: str = "auto") -> None:
        self.path, self.grid, self.cut = Path(path), grid, cut
        self._bundle = bundle = open_bundle(self.path, parse_grid(grid) if grid else None, cut)
        check_inputs(bundle.card, bundle.graph, bundle.path.with_suffix(".toml"))

    @property
    def plan(self) -> Plan:
        """Blocks, tiles and their boxes."""
        return self._bundle.plan

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names, as far as they are known."""
        return self._bundle.card.labels

    def run(self, image: NDArray[np.uint8]) -> Seen:
        """The undivided model on an RGB picture (height, width, 3), in this process.

        Raises:
            DtError: the runtime fails, or the outputs are not what the card says.
        """
        bundle, pixels = self._bundle, self._bundle.plan.pixels
        _, outputs = self._reference.run(to_input(fit(_checked(image), pixels), pixels))
        picture = (image.shape[0], image.shape[1])
        return Seen(decode(bundle.card, outputs, quantization_of(bundle.graph), picture, pixels), outputs)

    @cached_property
    def _reference(self) -> Reference:
        return Reference(self._bundle)


class Cluster:
    """A gateway and ``edges`` as processes on this machine, from ``with`` to its end; nothing is left behind.

    Raises:
        PlanError: pyzmq, by which frames get there, is not installed.
        DtError: a process does not start.
    """

    def __init__(self, model: Model, edges: int = 3) -> None:
        self._model, self._edges = model, edges
        self._open = ExitStack()

    def __enter__(self) -> "Cluster":
        try:
            import zmq
        except ImportError:
            raise PlanError(f"a cluster for Python needs pyzmq: {install('frigate')}") from None
        try_bundle(self._model._bundle)
        with ExitStack() as stack:
            room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dt-python-")))
            source = f"frigate://{room}/frames?timeout={round(1000 * FRAME_S)}"
            setup = Setup(self._model.path, self._edges, [source], None, self._model.grid, self._model.cut, outputs=True)
            self._ended: list[tuple[m.Outcome, Mapping[str, NDArray[Any]]]] = []
            cluster = PrivateCluster(setup, self._model._bundle, room, self._end)
            self._outputs = cluster.outputs
            stack.enter_context(cluster)
            context: zmq.Context[Any] = zmq.Context()
            stack.callback(context.destroy, 0)
            self._socket = context.socket(zmq.DEALER)
            self._socket.connect(f"ipc://{room}/frames")
            self._news = cluster.watch()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def run(self, image: NDArray[np.uint8]) -> Seen:
        """An RGB picture (height, width, 3), divided among the edges.

        Raises:
            DtError: the frame failed, and why; or a process of the cluster has ended.
        """
        pixels = np.ascontiguousarray(_checked(image))
        header = {"shape": list(pixels.shape), "dtype": "uint8"}
        self._ended.clear()
        self._socket.send_multipart([b"", json.dumps(header).encode(), pixels.tobytes()])
        while not self._ended:
            next(self._news)
        outcome, outputs = self._ended[0]
        if outcome.result is None:
            raise DtError(f"the frame failed: {outcome.reason}")
        return Seen(outcome.result, outputs, outcome.workers, outcome.latency_s)

    def _end(self, outcome: m.Outcome) -> None:
        self._ended.append((outcome, self._outputs.get(outcome.frame, {})))


def _checked(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise PlanError(f"a picture of {image.dtype} {image.shape}: give uint8 RGB of (height, width, 3)")
    return image
