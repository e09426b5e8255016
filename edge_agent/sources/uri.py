"""Source URIs and their parameters. Every refusal names the URI, the value and what would be right."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from schemas.errors import PlanError


@dataclass(frozen=True)
class Uri:
    """A source URI in parts: ``text`` as it was given, ``scheme`` empty for a bare path."""

    text: str
    scheme: str
    path: Path
    query: dict[str, str]

    def word(self, name: str, default: str) -> str:
        """Parameter ``name`` as it stands."""
        return self.query.get(name, default)

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Parameter ``name`` as a decimal number of ``low..high``."""
        text = self.query.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise PlanError(f"source {self.text!r}: {name}={text!r} must be a whole number from {low} to {high}")
        return int(text)

    def flag(self, name: str) -> bool:
        """Parameter ``name``, 0 or 1; absent is 0."""
        return self.number(name, 0, 0, 1) == 1

    def refuse_others(self, *known: str) -> None:
        """Raise PlanError if the query has a parameter that is not ``known``."""
        for name in self.query:
            if name not in known:
                raise PlanError(f"source {self.text!r}: unknown parameter {name!r}; it takes {', '.join(known)}")


def parse(text: str) -> Uri:
    """Split a URI, or a bare path: that is taken literally if it exists, else up to the ``?`` of its parameters.

    Raises:
        PlanError: an empty or malformed URI, a parameter without value or given twice, a path or host out of place.
    """
    if not text or "\0" in unquote(text):
        raise PlanError(f"source {text!r} is no path and no URI: use file://, dir://, synthetic:// or a path")
    if "://" not in text:
        bare, _, query = (text, "", "") if _exists(text, Path(text)) else text.partition("?")
        return _checked(Uri(text, "", Path(bare), _parameters(text, query)))
    parts = _split(text)
    host = "" if parts.netloc == "localhost" else parts.netloc
    path = unquote(host + parts.path)
    if parts.scheme in ("file", "dir") and not path:
        raise PlanError(f"source {text!r} needs a path, as in {parts.scheme}:///home/me/clips")
    if parts.scheme == "synthetic" and path:
        raise PlanError(f"source {text!r}: synthetic:// takes no path, only parameters after '?'")
    return _checked(Uri(text, parts.scheme, Path(path), _parameters(text, parts.query)))


def _checked(uri: Uri) -> Uri:
    _exists(uri.text, uri.path)
    return uri


def _exists(text: str, path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # too long, or in a folder that this user may not enter
        raise PlanError(f"source {text!r} cannot be looked up: {error.strerror}") from error


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError as error:
        raise PlanError(f"source {text!r} is not a URI: {error}") from error


def _parameters(text: str, query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=16)
    except ValueError as error:
        raise PlanError(f"source {text!r}: parameters read name=value, joined by '&' ({error})") from error
    if len(dict(pairs)) != len(pairs):
        raise PlanError(f"source {text!r}: a parameter is given twice; give each once")
    return dict(pairs)
