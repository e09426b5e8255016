"""Words that others wrote, made fit for a log and a terminal: a model's names, a label, a node's reason."""

from typing import Annotated, TypeAlias

from pydantic import AfterValidator


def one_line(text: str) -> str:
    """``text`` with blanks for what would break a line, move the cursor or turn the direction of writing."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


OneLine: TypeAlias = Annotated[str, AfterValidator(one_line)]
