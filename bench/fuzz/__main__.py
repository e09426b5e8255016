"""``python -m bench.fuzz TARGET [TARGET...] --minutes N``: fuzzes one target after the other and says what it found.

Each target gets its share of the minutes in a process of its own, which is started again after a hang or a crash. What
breaks a target is kept in a folder, as bytes and as a text whose first line repeats it. Exit code 0 only if nothing did.
"""

import argparse
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.fuzz import commands
from bench.fuzz.table import TARGETS
from schemas.contract.errors import DtError

LAST = "last"  # where a child writes what it runs
_SPARE_S = 120.0  # what a process may take beyond its time, to start and to end on a busy machine


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.fuzz", description=__doc__.partition("\n")[0])
    known = [*TARGETS, "commands"]
    parser.add_argument("targets", nargs="+", metavar="TARGET", help=f"all, or some of: {', '.join(known)}")
    parser.add_argument("--minutes", type=float, default=1.0, help="of all targets together [1]")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="folder for what breaks a target [fuzz-found]")
    parser.add_argument("--corpus", type=Path, help="folder of bytes to go on from, and to leave new ones in")
    parser.add_argument("--replay", type=Path, help="run the target on this file, once, without atheris")
    parser.add_argument("--seed", type=int, help="of commands: run the one command of this number, once")
    parser.add_argument("--json", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    names = known if given.targets == ["all"] else given.targets
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no target {unknown[0]!r}: choose all, or some of {', '.join(known)}")
    if given.seed is not None:
        return repeat(given.seed)
    if given.replay:
        return replay(names[0], given.replay)
    if importlib.util.find_spec("atheris") is None and names != ["commands"]:
        print("bench.fuzz needs atheris: pip install 'deepthings-mqtt[fuzz]' (Linux on x86-64, Python 3.11 to 3.13)")
        return 2
    share_s = max(1.0, given.minutes * 60 / len(names))
    with tempfile.TemporaryDirectory(prefix="dt-fuzz-") as folder:
        rows = {name: campaign(name, share_s, (given.corpus or Path(folder)) / name, given.found / name) for name in names}
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["found"] for row in rows.values()) else 0


def replay(name: str, path: Path) -> int:
    try:
        TARGETS[name].run(path.read_bytes())
    except DtError as error:
        print(f"refused: {error}")
    else:
        print("taken")
    return 0


def repeat(seed: int) -> int:
    with tempfile.TemporaryDirectory(prefix="dt-fuzz-") as folder:
        ended, fault = commands.run(seed, Path(folder))
    print(fault or ended)
    return 1 if fault else 0


def campaign(name: str, seconds: float, corpus: Path, found: Path) -> dict[str, Any]:
    """Fuzzes one target for so long; its figures."""
    if name == "commands":
        return commands.campaign(seconds, found, random.randrange(2**31))
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    (found / "counts.json").unlink(missing_ok=True)
    total: Counter[str] = Counter()
    started, covered, kept = time.monotonic(), 0, 0
    while (left := seconds - (time.monotonic() - started)) >= 1:
        command = [sys.executable, "-m", "bench.fuzz.child", name, "--seconds", str(int(left))]
        command += ["--corpus", str(corpus), "--found", str(found)]
        log = found / "log.txt"
        with log.open("wb") as said, tempfile.TemporaryDirectory(prefix="dt-fuzz-") as room:  # it cleans up nothing itself
            ended = run(command, said.fileno(), left + _SPARE_S, room)
        covered, kept = max((covered, kept), _progress(log))
        total.update(_counts(found))
        if ended != 0:  # libFuzzer's own copy of the bytes may be cut, where a target has filled the disk
            total["ends"] += 1
            told = f"ended with {ended}\n".encode() + log.read_bytes()[-4000:]
            (found / f"end-{total['ends']}.txt").write_bytes(told)
            (found / f"end-{total['ends']}.bin").write_bytes(last(found))
        (found / LAST).unlink(missing_ok=True)
    faults = sorted(path.name for path in found.glob("*.bin"))
    return {
        "seconds": round(time.monotonic() - started), **{k: total[k] for k in ("runs", "taken", "refused", "faults", "ends")},
        "edges": covered, "corpus": kept, "found": faults,
    }  # fmt: skip


def run(command: list[str], output: int, limit_s: float, room: str) -> int:
    """A child's exit code; it is killed after ``limit_s``. ``room``: the folder of its temporary files."""
    environment = {**os.environ, "TMPDIR": room}
    with subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment) as child:
        try:
            return child.wait(limit_s)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()
        except BaseException:
            child.kill()
            raise


def last(found: Path) -> bytes:
    """What the child ran when it ended."""
    try:
        held = (found / LAST).read_bytes()
    except OSError:
        return b""
    return held[4 : 4 + int.from_bytes(held[:4], "little")]


def _progress(log: Path) -> tuple[int, int]:
    """Edges covered and inputs kept, by libFuzzer's last word of them."""
    told = re.findall(rb"cov: (\d+) ft: \d+ corp: (\d+)", log.read_bytes())
    return (int(told[-1][0]), int(told[-1][1])) if told else (0, 0)


def _counts(found: Path) -> dict[str, int]:
    try:
        counts: dict[str, int] = json.loads((found / "counts.json").read_text())
    except (OSError, ValueError):
        return {}
    (found / "counts.json").unlink()
    return counts


def show(rows: dict[str, dict[str, Any]]) -> None:
    console = Console(highlight=False)
    table = Table(title="fuzzing", title_justify="left")
    for column in ("target", "s", "runs", "taken", "refused", "edges", "corpus", "found"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for name, row in rows.items():
        figures = [row[k] for k in ("seconds", "runs", "taken", "refused", "edges", "corpus")]
        table.add_row(name, *map(str, [*figures, len(row["found"])]))
    console.print(table)
    for name, row in rows.items():
        for found in row["found"]:
            console.print(f"{name}: {found}")


if __name__ == "__main__":
    sys.exit(main())
