"""Which TFLite runtime is installed: ``ai-edge-litert``, or ``tflite-runtime`` where that has no wheel."""

import functools
import importlib
from typing import Any

from schemas.contract.errors import EngineError

RUNTIMES = ("ai_edge_litert", "tflite_runtime")


@functools.cache
def installed() -> tuple[str, Any]:
    """Name with version, and the interpreter module, of the first runtime that is installed."""
    for name in RUNTIMES:
        try:
            module = importlib.import_module(f"{name}.interpreter")
            version = importlib.import_module("importlib.metadata").version(name.replace("_", "-"))
        except ImportError:
            continue
        return f"{name.replace('_', '-')} {version}", module
    raise EngineError("no TFLite runtime is installed: pip install ai-edge-litert (or tflite-runtime on 32-bit Arm)")


def runtime() -> str:
    """Name and version of the TFLite runtime, such as ``ai-edge-litert 2.3.0``."""
    return installed()[0]
