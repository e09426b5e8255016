"""The public way of a stranger's model: ``dt inspect``, ``plan`` and ``verify`` as processes, on files that are spoilt.

Most are spoilt in their numbers, so that our reader takes them and the runtime gets to see them; some in their bytes. A
command ends with 0, 1 or 2 and, if it fails, one line: a signal, a traceback or silence is a fault.
"""

import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.fuzz.targets import changed, drawn

COMMANDS = (("inspect",), ("plan", "--grid", "2x2"), ("verify", "--grid", "2x2"), ("verify", "--grid", "1x2"))
LONGEST_S = 150.0  # a trial's own limit, twice, and the command


def spoilt(seed: int) -> bytes:
    """A file that this number chooses."""
    from bench.fuzz.seeds import GRAPHS

    choice = random.Random(seed)
    kind = choice.randrange(len(GRAPHS))
    if choice.random() < 0.2:
        file = bytearray(drawn(list(GRAPHS)[kind]).to_bytes())
        for _ in range(choice.randint(1, 8)):
            file[choice.randrange(len(file))] = choice.randrange(256)
        return bytes(file)
    try:
        return changed(bytes((kind,)) + choice.randbytes(4 * choice.randint(1, 3)))
    except (struct.error, IndexError, OverflowError, KeyError, TypeError, ValueError):
        return spoilt(seed + 2**32)  # no file holds such a number


def run(seed: int, folder: Path) -> tuple[str, str]:
    """What a command made of the file of this seed: "taken" or "refused", and the fault, if there is one."""
    model = folder / "spoilt.tflite"
    model.write_bytes(spoilt(seed))
    words = COMMANDS[seed % len(COMMANDS)]
    command = [sys.executable, "-m", "dt_cli.main", words[0], str(model), *words[1:]]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, env=environment)
    except subprocess.TimeoutExpired:
        return "refused", f"{words[0]} did not end in {LONGEST_S:.0f} s"
    lines = done.stderr.strip().splitlines()
    if done.returncode not in (0, 1, 2):
        return "refused", f"{words[0]} ended with {done.returncode}: {lines[-1:]}"
    if len(lines) > 1 or (done.returncode == 2 and not lines):
        return "refused", f"{words[0]} ended with {done.returncode} and {len(lines)} lines: {lines[-1:]}"
    if lines and done.returncode and not lines[0].startswith("dt: "):
        return "refused", f"{words[0]}: {lines[0]}"
    return ("refused" if lines else "taken"), ""


def campaign(seconds: float, found: Path, seed: int) -> dict[str, Any]:
    """The figures of so many seconds, from the file of ``seed`` on; what is at fault goes to ``found``."""
    found.mkdir(parents=True, exist_ok=True)
    started, counts = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="dt-fuzz-") as folder:
        while time.monotonic() - started < seconds:
            ended, fault = run(seed, Path(folder))
            counts.update(("runs", ended, *(("faults",) if fault else ())))
            if fault:
                (found / f"commands-{seed}.txt").write_text(f"python -m bench.fuzz commands --seed {seed}\n\n{fault}\n")
            seed += 1
    return {
        "seconds": round(time.monotonic() - started), **{k: counts[k] for k in ("runs", "taken", "refused", "faults")},
        "ends": 0, "edges": 0, "corpus": 0, "found": sorted(path.name for path in found.glob("commands-*.txt")),
    }  # fmt: skip
