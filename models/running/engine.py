"""The TFLite runtime: ``ai-edge-litert``, or ``tflite-runtime`` where that has no wheel. Only ``litert`` knows it, too.

Exactness holds within one kernel family, so ``kernels()`` says what runs here: nodes whose answers differ in an arithmetic
compute different bits of a model that uses it, and must not be mixed then.
"""

import functools
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from models.graph.file import Graph
from models.graph.runtime import installed
from models.graph.runtime import runtime as runtime
from models.running import litert
from models.running.samples import ARITHMETICS, arithmetics, long_sums, sample
from schemas.contract.errors import EngineError, PlanError
from schemas.contract.plan import digest
from schemas.host.cgroup import cores

_log = logging.getLogger(__name__)

_CPUINFO = Path("/proc/cpuinfo")
_KINDS = (  # its lines that tell a core's kind
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
)  # fmt: skip


class Engine(Protocol):
    """A graph that is ready to run, on one thread of the caller's."""

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Inputs in the graph's order, of its shapes and dtypes -> outputs, in the graph's order, owned by the caller.

        Raises:
            EngineError: the runtime failed; the message says at which operator.
        """
        ...


def kernels(of: Sequence[str] = ARITHMETICS) -> str:
    """Runtime, machine and, for each arithmetic, a digest of the bits that its kernels compute on a small network.

    Equal lines mean equal bits, as far as one network each can tell: kernels are chosen by the processor's features and
    part number, which no version number shows. ``schemas.contract.kernels`` compares lines.
    """
    return " ".join((runtime(), platform.machine(), *(f"{a}={digest(b''.join(_bits(a)))[:8]}" for a in of)))


@functools.cache
def here() -> str:
    """``kernels`` and this very processor, in a digest: the name of what is kept on a disk, which may move on.

    Two processors with equal bits have different speeds, and pack weights for other kernels.
    """
    try:
        lines = _CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    told = sorted({line for line in lines if line.partition(":")[0].strip() in _KINDS})
    return digest("\n".join([kernels(), *told]).encode())


@functools.cache
def _bits(arithmetic: str) -> tuple[bytes, ...]:
    """All maps of an arithmetic's sample, as this runtime's interpreter makes them."""
    graph, image = sample(arithmetic)
    return tuple(made.tobytes() for made in load(graph.to_bytes()).run([image]))


@functools.cache
def threads(asked: int | None = None) -> int:
    """How many an engine here is to have: ``asked``, or as many as this process may keep busy, up to 64.

    One, where the bits depend on it: XNNPACK's do not, those of a runtime's own float convolutions do.
    """
    wanted = min(asked or cores(), 64)
    graph, image = long_sums()
    one, many = ([made.tobytes() for made in load(graph.to_bytes(), n).run([image])] for n in (1, wanted))
    if one == many:
        return wanted
    _log.warning("%d threads compute different bits from one with %s: using one thread", wanted, runtime())
    return 1


def load(model: bytes, threads: int = 1) -> Engine:
    """An engine for a .tflite held in memory, by the interpreter.

    Raises:
        EngineError: the runtime refuses the model.
    """
    return _Interpreter(model, threads)


def load_cached(graph: Graph, cache: Path, threads: int = 1) -> Engine:
    """An engine whose packed weights live in the file ``cache``, shared by all tile classes of one model.

    10-15 MB private memory for YOLOv2's 16 layers instead of 41. Where that cannot be had (tflite-runtime, a dtype or a
    version of LiteRT that ``models.running.litert`` does not know) this is the interpreter over a model that is mapped
    from a file which nobody else sees: 14 MB less than over one in memory. The name of ``cache`` must carry the model's
    digest: the runtime knows weights by their buffer's number alone.

    Raises:
        EngineError: the runtime refuses the model.
        PlanError: the cache's folder cannot be written.
    """
    if shares_weights(graph):
        return litert.CompiledGraph(graph, cache, threads)
    try:
        with tempfile.NamedTemporaryFile(dir=cache.parent, prefix="class-", suffix=".tflite") as file:
            file.writelines(graph.pieces())
            file.flush()
            return _Interpreter(file.name, threads)
    except OSError as error:
        raise PlanError(f"cannot write to the cache folder {cache.parent}: {error.strerror}") from error


def shares_weights(graph: Graph) -> bool:
    """Whether engines of ``load_cached`` share this graph's packed weights with others of its model."""
    ends = {graph.tensors[t].dtype for t in (*graph.inputs, *graph.outputs)}
    return ends <= set(litert.ELEMENTS) and all(map(_has_cache, arithmetics(graph)))


@functools.cache
def _has_cache(arithmetic: str) -> bool:
    """Whether this runtime's C interface is one that we know, and computes the interpreter's bits of an arithmetic by it.

    The second is tried, not believed: a runtime that ignored our options would use other kernels without a word.
    """
    name, _, version = runtime().partition(" ")
    if name != "ai-edge-litert" or version not in litert.VERSIONS:
        reason = "its version is not known"
    else:
        graph, image = sample(arithmetic)
        try:
            with tempfile.TemporaryDirectory(prefix="dt-engine-") as folder:
                made = litert.CompiledGraph(graph, Path(folder) / "sample.xnnpack", 1).run([image])
            equal = tuple(array.tobytes() for array in made) == _bits(arithmetic)
            reason = "" if equal else "its compiled kernels differ from the interpreter's"
        except (EngineError, OSError, AttributeError) as error:
            reason = str(error)
    if reason:
        _log.info("no weight cache for %s with %s: %s", arithmetic, runtime(), reason)
    return not reason


class _Interpreter:
    def __init__(self, model: bytes | str, threads: int) -> None:
        """``model``: in memory, or the path of a file, which is mapped and may be deleted afterwards."""
        given = {"model_path" if isinstance(model, str) else "model_content": model}
        try:
            self._interpreter = installed()[1].Interpreter(num_threads=threads, **given)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{runtime()} refuses the model: {_first_line(error)}") from error
        self._inputs = [(d["index"], tuple(d["shape"]), d["dtype"]) for d in self._interpreter.get_input_details()]
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            for (index, _, _), array in zip(self._inputs, inputs, strict=True):
                self._interpreter.set_tensor(index, array)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._outputs]
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{runtime()} failed: {_first_line(error)}") from error


def shapes(model: bytes, image: int, shape: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """The shape of each tensor, by its number, if the input at place ``image`` has ``shape``; found by running it on zeros.

    Raises:
        EngineError: the runtime refuses the model, or this shape.
    """
    try:
        module = installed()[1]
        plain = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # XNNPACK does not tell of what is inside
        interpreter = module.Interpreter(model_content=model, experimental_op_resolver_type=plain)
        interpreter.resize_tensor_input(interpreter.get_input_details()[image]["index"], list(shape))
        interpreter.allocate_tensors()
        for given in interpreter.get_input_details():
            interpreter.set_tensor(given["index"], np.zeros(given["shape"], given["dtype"]))
        interpreter.invoke()
        return {d["index"]: tuple(map(int, d["shape"])) for d in interpreter.get_tensor_details()}
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"{runtime()} refuses the model with an input of {tuple(shape)}: {_first_line(error)}") from error


def silence_runtime() -> None:
    """Sends what the runtime's C++ code writes to file descriptor 2 nowhere; Python's own stderr goes on as before.

    For the start of a command: the runtime reports every accelerator it does not find as information.
    """
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
