"""Which room imports which: `make map` prints it, and fails where an arrow runs up or files import each other in a circle.

A room is a folder with an ``__init__.py``. Imports inside of functions count, too. It takes Python alone.
"""

import ast
import functools
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"schemas": 0, "models": 1, "edge_agent": 2, "gateway_agent": 2, "dt_cli": 3, "bench": 3, "training": 3,
          "deepthings": 4}  # fmt: skip


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name, and each room by its own."""
    files = [path for top in FLOORS for path in sorted((ROOT / top).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@functools.cache
def imports() -> dict[str, set[str]]:
    """The modules of ours that each module imports."""
    return {name: set(_named(path)) & modules().keys() - {name} for name, path in modules().items()}


def rooms() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    found: dict[str, set[str]] = {}
    for name, targets in imports().items():
        found.setdefault(_room(name), set()).update({_room(target) for target in targets} - {_room(name)})
    return found


def _room(module: str) -> str:
    return module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]


def _named(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in modules() else node.module for name in inner)


if __name__ == "__main__":
    for name, targets in rooms().items():
        print(f"{name:28} -> {', '.join(sorted(targets)) or 'nothing of ours'}")
        if up := [target for target in targets if FLOORS[target.split(".")[0]] > FLOORS[name.split(".")[0]]]:
            sys.exit(f"an arrow that runs up: {name} -> {', '.join(up)}")
    try:
        graphlib.TopologicalSorter(imports()).prepare()
    except graphlib.CycleError as error:
        sys.exit(f"files that import each other: {' <- '.join(error.args[1])}")
