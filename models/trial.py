"""What only the TFLite runtime can judge of a model is tried in a child process first: its death is an answer, not ours.

The reader (``models.graph.flatbuffer``, ``models.graph.file``) refuses what does not hold together; kernels may still crash on
numbers that do. So the first time that a model comes here, a child loads every graph that this process would load by its
plan and runs it once on zeros, with a limit of time and memory. The verdict is remembered in a folder, by the digest of the
model and of runtime and processor: a good one alone, since a lack of memory may pass. Another plan of a good model is made of
its parts.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from models.bundle import Bundle, first_state
from models.graph.file import Graph, load, parse
from models.running import engine
from models.running.runner import TileRunner
from models.tiling import rewrite
from models.tiling.partials import with_partials
from models.tiling.partition import Cut, Partition
from models.tiling.tensor import check_whole
from schemas.contract.errors import DecodeError, DtError, EngineError
from schemas.contract.plan import Plan
from schemas.contract.plan import digest as digest_of
from schemas.host.cgroup import free_bytes
from schemas.host.files import cache_folder

LIMIT_S, SLOW_FLOPS_S, LONGEST_S = 60.0, 1e8, 600.0
LEAST_MEMORY, TIMES_MEMORY = 2**30, 4  # bytes that every model may take, and how often those of its own tensors
KEEP = 256  # verdicts
_PR_SET_PDEATHSIG = 1  # prctl(2)
_REFUSED = 3  # the child's exit code where it says why
_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from models.trial import child; child()"


def try_bundle(bundle: Bundle, threads: int = 1, folder: Path | None = None, limit_s: float | None = None) -> None:
    """Tries a model with its plan, unless ``folder`` (the user's cache) remembers that they are good.

    Raises:
        EngineError: the runtime refuses the model or dies of it, or takes too long.
    """
    memory, kinds = Verdicts(folder or cache_folder()), TileRunner(bundle.plan, parse(bundle.edge_model)).kinds
    knows = memory.knows(bundle.plan.model)
    if knows and memory.knows(kinds):
        return
    with Trial(bundle.path, bundle.plan, threads, limit_s=limit_s, knows=knows) as trial:
        verdict = trial.verdict(wait=True)
    if verdict:
        raise EngineError(f"{bundle.path}: {verdict}")
    memory.add(bundle.plan.model)
    memory.add(kinds)


class Verdicts:
    """The models, and the kinds of their tiles (``TileRunner.kinds``), that have been tried in ``folder``, as empty files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tried"

    def knows(self, digest: str) -> bool:
        """Whether it has been good, on this runtime and processor."""
        path = self._path(digest)
        with contextlib.suppress(OSError):
            os.utime(path)
        return os.path.isfile(path)  # noqa: PTH113 - where nobody may look, there is none

    def add(self, digest: str) -> None:
        """It is good. A folder that cannot be written means that it is tried again."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path(digest).touch()
            for path in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEEP]:
                path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._folder / digest_of(f"{digest} {engine.here()}".encode())


class Trial:
    """A child that tries a model: begun at once, ended with ``close``.

    Without ``weights`` it tries all that a gateway or a command loads of a whole model; with that folder, what an edge
    loads of the edges' model, whose packed weights it leaves there as ``models.running.runner`` would. Of a model that one
    ``knows`` it tries no more than what the plan's tiles rely on.
    """

    def __init__(
        self,
        model: Path,
        plan: Plan,
        threads: int = 1,
        weights: Path | None = None,
        limit_s: float | None = None,
        knows: bool = False,
    ) -> None:
        effort = sum(tile.effort for block in plan.blocks for tile in block.tiles)
        self._limit_s = min(LIMIT_S + 4 * effort / SLOW_FLOPS_S, LONGEST_S) if limit_s is None else limit_s
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the child
        with tempfile.TemporaryFile() as told:
            told.write(plan.model_dump_json().encode())
            told.seek(0)
            given = [str(model), str(threads), str(self._limit_s), str(weights or ""), "knows" if knows else ""]
            self._child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, json.dumps(sys.path), *given],
                stdin=told,
                stdout=self._said,
                stderr=subprocess.DEVNULL,
            )

    def verdict(self, wait: bool = False) -> str | None:
        """None while it runs (its own limit ends it), "" if the model is good, or what is wrong with it."""
        try:
            code = self._child.wait(self._limit_s + LIMIT_S) if wait else self._child.poll()
        except subprocess.TimeoutExpired:  # its alarm has not ended it: it is stopped, or waits in the kernel
            return f"trying it in a child process took more than {self._limit_s + LIMIT_S:.0f} s"
        if code is None or code == 0:
            return None if code is None else ""
        if code == _REFUSED:
            self._said.seek(0)
            return self._said.read(1000).decode("utf-8", "replace").strip().replace("\n", " ")
        if code == -signal.SIGALRM:
            return f"trying it in a child process took more than {self._limit_s:.0f} s"
        if code == -signal.SIGKILL:
            return "trying it in a child process was ended by force, as the kernel does where memory is short: give it more"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"the TFLite runtime dies of it ({name} in a child process): it is damaged, crafted, or too large"
        return f"trying it in a child process ended with exit code {code}"

    @property
    def ended(self) -> bool:
        """Whether no child is left."""
        return self._child.returncode is not None

    def close(self) -> None:
        """Ends the child, if it still runs."""
        self._child.kill()
        self._child.wait()
        self._said.close()

    def __enter__(self) -> "Trial":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# --- in the child ----------------------------------------------------------------------------------------------------


def child() -> None:
    """Model, threads, limit in seconds, a folder for packed weights and "knows" as arguments, the plan on stdin."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # whoever wants the verdict may be gone before it
    model, threads, limit_s, weights, knows = sys.argv[1:]
    signal.setitimer(signal.ITIMER_REAL, float(limit_s))  # whose signal ends the process, wherever it is
    try:
        plan, graph = Plan.model_validate_json(sys.stdin.buffer.read()), load(model)
        graph = graph if weights else with_partials(graph, plan.approximate)
        _limit_memory(graph)
        edges = graph if weights else _edges(plan, graph)
        if not knows:
            if not weights:
                _try_whole(plan, graph, Path(model), int(threads))
            _try_tiles(plan, edges, Path(weights) if weights else None, int(threads))
        if fault := TileRunner(plan, edges).fault():
            raise EngineError(fault)
    except (DtError, MemoryError) as error:
        print(str(error) or "there is not enough memory for it", flush=True)
        os._exit(_REFUSED)
    os._exit(0)  # what the runtime does at the end of a process is of no interest


def _limit_memory(graph: Graph) -> None:
    """No core file, and no more data than the graph's tensors explain or the machine has."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    explained = LEAST_MEMORY + TIMES_MEMORY * sum(tensor.nbytes for tensor in graph.tensors)
    for which, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, min(machine, explained))):
        with contextlib.suppress(ValueError, OSError):  # a lower limit holds already
            resource.setrlimit(which, (most, most))


def _cut(plan: Plan, partition: Partition) -> Cut:
    return partition.find("+".join(spec.name for spec in plan.ends))


def _edges(plan: Plan, whole: Graph) -> Graph:
    """The edges' part of a model."""
    partition = Partition(whole)
    return parse(rewrite.edge_graph(partition, _cut(plan, partition)).to_bytes())


def _try_whole(plan: Plan, whole: Graph, model: Path, threads: int) -> None:
    partition = Partition(whole)
    edges, tail = (make(partition, _cut(plan, partition)) for make in (rewrite.edge_graph, rewrite.tail_graph))
    _run(whole, model.read_bytes(), threads)
    for part in (edges, tail):
        if part is not None:
            _run(part, part.to_bytes(), threads)


def _run(graph: Graph, model: bytes, threads: int) -> None:
    """One run on zeros. Shapes that the file does not tell (()) are the runtime's business."""
    outputs = engine.load(model, threads).run([first_state(graph.tensors[t]) for t in graph.inputs])
    for spec, array in zip((graph.tensors[t] for t in graph.outputs), outputs, strict=True):
        if spec.shape and (array.shape, str(array.dtype)) != (spec.shape, spec.dtype):
            found = f"{array.dtype}{array.shape}"
            raise EngineError(f"the runtime makes {found} of output {spec.name!r}, its file says {spec.dtype}{spec.shape}")


def _try_tiles(plan: Plan, model: Graph, weights: Path | None, threads: int) -> None:
    """One tile of each class, and a frame undivided where the plan allows that."""
    runner = TileRunner(plan, model, weights, threads, free=free_bytes)
    try:
        for index, block in enumerate(plan.blocks):
            for tile in {tile.tile_class: tile for tile in reversed(block.tiles)}.values():
                outputs = runner.run(index, tile.home, runner.zeros(index, tile.home))
                found = {name: array.shape for name, array in outputs.items()}
                if found != (wanted := {name: box.shape for name, box in tile.outputs.items()}):
                    raise EngineError(f"the runtime makes other shapes than the model says: {found}, not {wanted}"[:300])
        if plan.undivided and weights is not None and runner.fits_whole:
            image = plan.blocks[0].inputs[0]
            check_whole(plan, runner.run_whole({image.name: np.zeros(image.shape, np.uint8)}))
    except DecodeError as error:
        raise EngineError(f"the runtime makes other shapes than the model says: {error}") from None
