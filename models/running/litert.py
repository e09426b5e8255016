"""LiteRT's compiled model through its C interface: the one way to XNNPACK's weight cache that lets Python go on meanwhile.

The package's own Python wrapper holds the interpreter lock for the whole of a tile, so that an edge could neither lend nor
answer while it computes; it also makes an environment per model and loads GPU libraries. ``ctypes`` releases the lock.
The structures below are those of ``litert/c`` at the ``VERSIONS``; ``engine`` uses this module with no other.

The runtime believes the weights that it finds in a cache file: one flipped byte, and the answers are wrong without a word.
So a cache is built under another name and gets its own only when it is whole, and that name carries its digest. No file is
used whose bytes have another one; two processes may build at once, and one that dies leaves nothing that is believed.
"""

import ctypes as c
import functools
import hashlib
import importlib
import importlib.metadata
import mmap
import os
import re
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.graph.file import Graph
from schemas.contract.errors import EngineError, PlanError

# Checked to compute the interpreter's bits on x86-64, 2.3.0 on emulated Arm (make test-arm64: Cortex-A53, A72, A76), too; each
# node checks it again, for each arithmetic. 2.0.3 has no such library, 2.1.0 has other arguments: patches change the
# interface too, so that a version is here by its whole name.
VERSIONS = ("2.1.6", "2.2.0", "2.3.0")
ELEMENTS = {"float32": 1, "uint8": 3, "int8": 9}  # dtype -> LiteRtElementType
_CPU = 1  # LiteRtHwAccelerators
_AUTO_REGISTER, _INTEGER = 24, 2  # LiteRtEnvOptionTag, LiteRtAnyType: register no GPU, no NPU
_READ, _WRITE = 0, 1  # LiteRtTensorBufferLockMode


class _Any(c.Structure):
    _fields_ = (("type", c.c_int), ("value", c.c_uint64))


class _EnvironmentOption(c.Structure):
    _fields_ = (("tag", c.c_int), ("value", _Any))


class _Layout(c.Structure):
    _fields_ = (("rank", c.c_uint, 7), ("strided", c.c_uint, 1), ("dims", c.c_int32 * 8), ("strides", c.c_uint32 * 8))


class _TensorType(c.Structure):
    _fields_ = (("element", c.c_int), ("layout", _Layout))


@functools.cache
def _library() -> Any:
    package = importlib.import_module("ai_edge_litert")
    return c.CDLL(str(Path(str(package.__file__)).parent / "libLiteRt.so"))


def _call(name: str, *arguments: Any) -> None:
    """A function of the interface that returns a status.

    Raises:
        EngineError: the status is not 0.
    """
    status = getattr(_library(), name)(*arguments)
    if status:
        version = importlib.metadata.version("ai-edge-litert")
        raise EngineError(f"ai-edge-litert {version} failed: {name} ended with status {status}")


@functools.cache
def _environment() -> c.c_void_p:
    """One for the process; it lives as long."""
    made = c.c_void_p()
    option = _EnvironmentOption(_AUTO_REGISTER, _Any(_INTEGER, _CPU))
    _call("LiteRtCreateEnvironment", 1, c.byref(option), c.byref(made))
    return made


@functools.cache
def _libc() -> Any:
    libc = c.CDLL(None)
    libc.strdup.restype = c.c_void_p
    return libc


class CompiledGraph:
    """An engine (``engine.Engine``) whose packed weights live in a file beside ``cache``: its name with a digest in it."""

    def __init__(self, graph: Graph, cache: Path, threads: int) -> None:
        """Raises PlanError where the cache's folder cannot be written, EngineError where the runtime fails."""
        self._model, self._compiled = c.c_void_p(), c.c_void_p()
        self._buffers: list[c.c_void_p] = []
        environment = _environment()
        # Destroyed in the order of use: buffers, compiled model, model. The environment outlives them all.
        self._files: list[mmap.mmap] = []
        weakref.finalize(self, _destroy, self._buffers, self._compiled, self._model, self._files)
        try:
            with tempfile.TemporaryDirectory(dir=cache.parent, prefix="class-") as room:
                file, weights = Path(room) / "class.tflite", Path(room) / "weights"
                with file.open("wb") as model:
                    model.writelines(graph.pieces())
                self._map(environment, file)
                self._compile(_whole(cache) or weights, threads)
                self._files[0].madvise(mmap.MADV_DONTNEED)  # what was packed is not read again
                if weights.exists():
                    weights.replace(_named(cache, _digest(weights)))
        except OSError as error:
            raise PlanError(f"cannot write to the cache folder {cache.parent}: {error.strerror}") from error
        self._inputs = [self._buffer(graph, t, i, "Input") for i, t in enumerate(graph.inputs)]
        self._outputs = [self._buffer(graph, t, i, "Output") for i, t in enumerate(graph.outputs)]

    def _map(self, environment: c.c_void_p, file: Path) -> None:
        """The model over the file's pages: of weights that are packed already none is read. From a file it would be a copy."""
        with file.open("rb") as handle:
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
        self._files.append(mapped)
        start = c.c_void_p(c.addressof(c.c_char.from_buffer(mapped)))
        _call("LiteRtCreateModelFromBuffer", environment, start, c.c_size_t(len(mapped)), c.byref(self._model))

    def _compile(self, cache: Path, threads: int) -> None:
        """Kernel mode 0 is XNNPACK with the flags of the interpreter's default delegate."""
        if "\n" in str(cache):  # which the runtime would take for no cache and other kernels, without a word
            raise PlanError(f"the name of the cache folder {str(cache.parent)!r} has a line break")
        settings = b'num_threads = %d\nkernel_mode = 0\nweight_cache_file_path = "%b"\n' % (threads, os.fsencode(cache))
        options, opaque = c.c_void_p(), c.c_void_p()
        _call("LiteRtCreateOptions", c.byref(options))
        try:
            _call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
            text, free = c.c_void_p(_libc().strdup(settings)), c.cast(_libc().free, c.c_void_p)
            _call("LiteRtCreateOpaqueOptions", b"xnnpack", text, free, c.byref(opaque))
            _call("LiteRtAddOpaqueOptions", options, opaque)  # which owns them from now on
            _call("LiteRtCreateCompiledModel", _environment(), self._model, options, c.byref(self._compiled))
        finally:
            _library().LiteRtDestroyOptions(options)

    def _buffer(
        self, graph: Graph, tensor: int, index: int, end: str
    ) -> tuple[c.c_void_p, tuple[int, ...], np.dtype[Any]]:
        """A host buffer for one input or output, with its shape and dtype."""
        spec = graph.tensors[tensor]
        layout = _Layout(len(spec.shape), 0, (c.c_int32 * 8)(*spec.shape))
        kind = _TensorType(ELEMENTS[spec.dtype], layout)
        needs, buffer, size = c.c_void_p(), c.c_void_p(), c.c_size_t()
        place = (c.c_size_t(0), c.c_size_t(index))
        _call(f"LiteRtGetCompiledModel{end}BufferRequirements", self._compiled, *place, c.byref(needs))
        _call("LiteRtCreateManagedTensorBufferFromRequirements", _environment(), c.byref(kind), needs, c.byref(buffer))
        self._buffers.append(buffer)
        _call("LiteRtGetTensorBufferSize", buffer, c.byref(size))
        if size.value < spec.nbytes:
            raise EngineError(f"LiteRT's buffer for {spec.name} has {size.value} bytes, the tensor {spec.nbytes}")
        return buffer, spec.shape, np.dtype(spec.dtype)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See ``engine.Engine.run``."""
        if len(inputs) != len(self._inputs):
            raise EngineError(f"{len(inputs)} inputs for a graph of {len(self._inputs)}")
        for (buffer, shape, dtype), array in zip(self._inputs, inputs):
            if array.shape != shape or array.dtype != dtype:
                raise EngineError(f"an input is {array.dtype}{array.shape}, the graph takes {dtype}{shape}")
            with _Locked(buffer, shape, dtype, _WRITE) as view:
                view[...] = array
        given = (c.c_void_p * len(self._inputs))(*(buffer.value for buffer, _, _ in self._inputs))
        made = (c.c_void_p * len(self._outputs))(*(buffer.value for buffer, _, _ in self._outputs))
        counts = c.c_size_t(len(given)), c.c_size_t(len(made))
        _call("LiteRtRunCompiledModel", self._compiled, c.c_size_t(0), counts[0], given, counts[1], made)
        outputs = []
        for buffer, shape, dtype in self._outputs:
            with _Locked(buffer, shape, dtype, _READ) as view:
                outputs.append(view.copy())
        return outputs


class _Locked:
    """A buffer's memory as an array, for as long as the lock is held."""

    def __init__(self, buffer: c.c_void_p, shape: tuple[int, ...], dtype: np.dtype[Any], mode: int) -> None:
        self._buffer, self._shape, self._dtype, self._mode = buffer, shape, dtype, mode

    def __enter__(self) -> np.ndarray:
        address = c.c_void_p()
        _call("LiteRtLockTensorBuffer", self._buffer, c.byref(address), self._mode)
        if address.value is None:
            raise EngineError("LiteRT's buffer has no memory")
        count = int(np.prod(self._shape)) * self._dtype.itemsize
        memory = (c.c_char * count).from_address(address.value)
        view: np.ndarray = np.frombuffer(memory, self._dtype).reshape(self._shape)  # type: ignore[call-overload]
        return view

    def __exit__(self, *_: object) -> None:
        _call("LiteRtUnlockTensorBuffer", self._buffer)


def _destroy(
    buffers: list[c.c_void_p], compiled: c.c_void_p, model: c.c_void_p, files: list[mmap.mmap]
) -> None:
    """In this order; the model reads its file as long as it is there."""
    for buffer in buffers:
        _library().LiteRtDestroyTensorBuffer(buffer)
    if compiled:
        _library().LiteRtDestroyCompiledModel(compiled)
    if model:
        _library().LiteRtDestroyModel(model)
    files.clear()


def _whole(cache: Path) -> Path | None:
    """The file of ``cache`` whose bytes have the digest in its name; others of that name are deleted."""
    name = re.compile(f"{re.escape(cache.stem)}-[0-9a-f]{{32}}{re.escape(cache.suffix)}")
    for path in [path for path in cache.parent.iterdir() if name.fullmatch(path.name)]:
        if path == _named(cache, _digest(path)):
            return path
        path.unlink(missing_ok=True)
    return None


def _named(cache: Path, digest: str) -> Path:
    return cache.with_name(f"{cache.stem}-{digest}{cache.suffix}")


def _digest(path: Path) -> str:
    now = path.stat()
    return _digest_of(path, now.st_ino, now.st_size, now.st_mtime_ns)


@functools.lru_cache(16)
def _digest_of(path: Path, *_state: int) -> str:
    """BLAKE2b, 128 bits, of a file in this state: its number, size and time of change. Read by parts, not mapped."""
    found, part = hashlib.blake2b(digest_size=16), bytearray(1 << 18)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(part):
            found.update(memoryview(part)[:count])
    return found.hexdigest()
