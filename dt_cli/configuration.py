"""`dt config`: whether the configuration is right, and what it says in the end."""

import json as jsonlib
from pathlib import Path

from dt_cli.output import console, table
from schemas.host.settings import load


def check(file: Path | None) -> None:
    """Says which files count. Raises what ``load`` raises."""
    files = load(config=file).files
    told = ", ".join(str(path) for path in files) or "no file: flags, environment and defaults alone"
    console.print(f"good: {told}", soft_wrap=True, markup=False)


def show(config: Path | None, json: bool) -> None:
    """Every key with its value, as far as it may be shown, and its origin."""
    rows = list(load(config=config).rows())
    if json:
        print(jsonlib.dumps({key: {"value": value, "from": origin} for key, value, origin in rows}, indent=1))
        return
    shown = table("", "key", "value", "from", left=("key", "value", "from"))
    for key, value, origin in rows:
        shown.add_row(key, "-" if value is None else str(value), origin)
    console.print(shown, markup=False)
