"""Plants one bug after the other in a copy of the machines and shows which check of the simulation finds it.

`python -m tests.simulation.plant [NAME ...]`; not part of the ordinary run. Exit code 1 if one survives.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUGS = {
    "a counter instead of a dict of tiles": (
        "gateway_agent/assembly.py",
        'if isinstance(state, Finishing) or (block, tile) in state.parts:\n            self.ignored["result: repeated"] += 1\n'
        "            return Verdict(accepted=True)\n        state.parts[block, tile] =",
        'if isinstance(state, Finishing):\n            self.ignored["result: repeated"] += 1\n'
        "            return Verdict(accepted=True)\n        state.parts[block, len(state.parts)] =",
    ),
    "a lease never ends": ("edge_agent/tiles.py", "if lease.until <= now]", "if False]"),
    "an ended frame opens again": (
        "gateway_agent/assembly.py", "if self.has_ended(frame):\n            self.ign", "if False:\n            self.ign"
    ),
    "a result is sent once": ("edge_agent/outbox.py", "Held(now + backoff_s,", "Held(float('inf'),"),
    "an older epoch is believed": ("edge_agent/node.py", "if accepted.epoch != self.heartbeat.gateway:", "if False:"),
    "a gateway's restart is not noticed": (
        "edge_agent/node.py", "        if restarted:", "        if False:"
    ),
    "the ring never forgets the dead": (
        "gateway_agent/victims.py", "if member.seen + self._dead_s <= now]", "if False]"
    ),
    "parts of lanes are mixed between frames": (
        "edge_agent/lanes.py",
        "self._remember(part.frame)\n        self._keep(part)",
        "self._remember(part.frame)\n        for frame in self._parts:\n            self._keep(part._replace(frame=frame))",
    ),
    "a source drops a frame before it has ended": (
        "edge_agent/tiles.py", "        if ended:\n            del", "        if ended or tiles:\n            del"
    ),
    "a thief forgets its request's id": (
        "edge_agent/thief.py", "if self._requests.pop(request, None) is None:", "if False:"
    ),
    "silence of the gateway is not doubted": (
        "edge_agent/heartbeat.py", "if now < self._echoed_at +", "if True or now < self._echoed_at +"
    ),
    "an undivided frame's last verdict counts for all": (
        "gateway_agent/node.py", "for verdict in verdicts if verdict.complete]",
        "for verdict in verdicts[-1:] if verdict.complete]",
    ),
    "how a frame ended is forgotten": (
        "gateway_agent/node.py", "self.assembly.remember(before.ended, before.forgotten)", "pass"
    ),
    "a state that begins anew is not named": ("gateway_agent/node.py", "actions += self.failed(frame, reason, now)", "pass"),
}  # fmt: skip


def main() -> int:
    wanted = sys.argv[1:] or list(BUGS)
    survived = [name for name in wanted if not _found(name)]
    return 1 if survived else 0


def _found(name: str) -> bool:
    path, good, bad = BUGS[name]
    with tempfile.TemporaryDirectory(prefix="dt-plant-") as folder:
        copy = Path(folder)
        for room in ("schemas", "models", "edge_agent", "gateway_agent", "tests"):
            shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__", "zoo"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        text = (copy / path).read_text()
        if text.count(good) != 1:
            raise SystemExit(f"{name}: {path} has changed: {text.count(good)} places to plant it")
        (copy / path).write_text(text.replace(good, bad))
        tests = [f"tests/simulation/test_{name}.py" for name in ("long_runs", "good_days", "any_message", "any_fault")]
        command = [sys.executable, "-m", "pytest", "-x", "-q", *tests]
        env = {**os.environ, "DT_SIMULATION_HOURS": "4", "PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, check=False)
    errors = re.findall(r"^E +(\w*(?:Error|Exception).*)$", done.stdout, re.MULTILINE)
    failed = re.findall(r"^FAILED .*::(.*?)(?: - |$)", done.stdout, re.MULTILINE)
    found = done.returncode == 1 and bool(failed)
    print(f"{'found   ' if found else 'SURVIVED'}  {name}: {failed[:1]} {[e[:100] for e in errors[:1]]}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
