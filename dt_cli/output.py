"""What all commands print with: one console, JSON files that appear whole, numbers for people."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from schemas.contract.text import one_line
from schemas.host.files import write_files


class _Plain(Console):
    """Shows words as they are: names of files, tensors and labels are no commands, neither to it nor to the terminal."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, width=width)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else "\n".join(map(one_line, text.split("\n"))), style, control)


console = _Plain()
if not console.is_terminal:  # a pipe or a file has no width: let no line of ours be folded there
    console = _Plain(width=160)


def table(title: str, *columns: str, left: tuple[str, ...] = ()) -> Table:
    """A plain table; columns named in ``left`` hold words, the others numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(name, justify="left" if name in left else "right", overflow="fold")
    return made


def write_json(path: Path | None, value: dict[str, Any]) -> None:
    """Writes ``value`` to ``path`` (if there is one), whole or not at all.

    Raises:
        PlanError, DtError: the file cannot be written.
    """
    if path is None:
        return
    write_files({path: [json.dumps(value, indent=1).encode() + b"\n"]})


def size(count: float) -> str:
    """Bytes for people: 1.5 MB (powers of ten, as links are rated)."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def short(name: str, width: int = 40) -> str:
    """A name of at most ``width`` characters, its end kept: exporters put what matters last."""
    return name if len(name) <= width else "..." + name[3 - width :]
