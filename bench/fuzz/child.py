"""One instrumented process of a campaign: runs a target on what libFuzzer makes up, and writes down what it finds.

A fault is kept by where it arose, so that one that is met often does not end the run; a hang or a crash of native code
does, and the campaign starts the next process.
"""

import argparse
import json
import os
import re
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import atheris

HANG_S = 20  # by the clock: a busy machine gives a process in the background little
ALLOCATED_BYTES = 512 * 2**20  # beyond what the process has when it starts
_OURS = ("schemas", "models", "edge_agent", "gateway_agent", "dt_cli", "bench")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.fuzz.child")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--found", type=Path, required=True)
    given = parser.parse_args()
    with atheris.instrument_imports(include=list(_OURS)):
        from bench.fuzz.__main__ import LAST
        from bench.fuzz.table import TARGETS
        from schemas.contract.errors import DtError

        target = TARGETS[given.target]  # which imports more
    for i, seed in enumerate(target.seeds()):
        (given.corpus / f"seed-{i}").write_bytes(seed)
    limit_memory()
    counts: Counter[str] = Counter()
    told = time.monotonic()

    held = (given.found / LAST).open("w+b", buffering=0)  # the kernel keeps it, however this process ends

    def one(data: bytes) -> None:
        nonlocal told
        counts["runs"] += 1
        os.pwrite(held.fileno(), len(data).to_bytes(4, "little") + data, 0)
        try:
            target.run(data)
            counts["taken"] += 1
        except DtError:
            counts["refused"] += 1
        except Exception as error:
            counts["faults"] += 1
            keep(given.found, given.target, data, error)
        if time.monotonic() - told > 1:
            told = time.monotonic()
            (given.found / "counts.json").write_text(json.dumps(counts))

    options = [
        f"-max_total_time={given.seconds}", f"-timeout={HANG_S}", f"-max_len={target.max_bytes}", "-rss_limit_mb=0",
        f"-artifact_prefix={tempfile.gettempdir()}/", "-use_value_profile=1",
        "-handle_xfsz=0",  # a full disk is a target's own business
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(given.corpus)], one)
    atheris.Fuzz()


def limit_memory() -> None:
    """From now on a claim beyond ``ALLOCATED_BYTES`` is a MemoryError, which no target may raise."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + ALLOCATED_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def keep(found: Path, target: str, data: bytes, error: Exception) -> None:
    """The shortest bytes of each fault, with the trace and the command that repeats it."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent.name in _OURS]
    where = f"{Path(ours[-1].filename).stem}-{ours[-1].lineno}" if ours else "outside"
    name = re.sub(r"[^\w-]", "_", f"{target}-{type(error).__name__}-{where}")
    path = found / f"{name}.bin"
    if path.exists() and path.stat().st_size <= len(data):
        return
    path.write_bytes(data)
    trace = "".join(traceback.format_exception(error))
    path.with_suffix(".txt").write_text(f"python -m bench.fuzz {target} --replay {path}\n\n{trace}")


if __name__ == "__main__":
    main()
