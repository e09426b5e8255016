"""TOML of a stranger: parsed, or refused in a line, in time that grows with its length."""

import re
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_DEEP_KEY = re.compile(r"\.(?:[\w\"'\t -]*\.){100}")  # tomllib takes the square of a key's parts in time


def parse(text: str) -> dict[str, Any]:
    """The tables of a TOML document.

    Raises:
        ValueError: it is none; the message says where and what, in one line.
    """
    if _DEEP_KEY.search(text):
        raise ValueError("a key has more than 100 parts")
    try:
        said = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # int() of very many digits
        raise ValueError("a number has too many digits") from None
    except RecursionError:
        raise ValueError("arrays or tables are nested too deep") from None
    todo: list[Any] = [said]
    while todo:
        value = todo.pop()
        if isinstance(value, int) and not -(2**63) <= value < 2**63:  # of TOML's integers, and of what str() takes
            raise ValueError("a number has too many digits")
        todo += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return said
