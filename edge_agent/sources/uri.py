"""Source URIs and their parameters. Every refusal names the URI, the value and what would be right."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from schemas.contract import address
from schemas.contract.errors import PlanError
from schemas.contract.redact import redact

GATE = ("motion", "still")  # parameters that every source takes
_OURS = ("interval", "stall", *GATE)  # of a network camera's parameters; the others are the camera's own
_WEB = (*_OURS, "redirect")  # and of one that speaks HTTP


@dataclass(frozen=True)
class Uri:
    """A source URI in parts: ``text`` as it may be shown, ``scheme`` empty for a bare path.

    ``address`` is a network camera's URL, with its password and without the parameters that are ours.
    """

    text: str
    scheme: str
    path: Path
    query: dict[str, str]
    address: str = field(default="", repr=False)

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
        known += GATE
        for name in self.query:
            if name not in known:
                raise PlanError(f"source {self.text!r}: unknown parameter {name!r}; it takes {', '.join(known)}")


def parse(text: str) -> Uri:
    """A path that exists, whatever is in its name; else a URI, or a bare path up to the ``?`` of its parameters.

    Raises:
        PlanError: an empty or malformed URI, a parameter without value or given twice, a path or host out of place.
    """
    name = redact(text)
    if not text or "\0" in unquote(text):
        raise PlanError(f"source {name!r} is neither a path nor a URI: use file://, dir://, synthetic:// or a path")
    scheme, mark, rest = text.partition("://")
    scheme = scheme.lower()
    if _exists(name, Path(text), mark):
        return Uri(text, "", Path(text), {})
    if not mark:
        bare, _, query = text.partition("?")
        return _checked(Uri(name, "", Path(bare), _parameters(name, query)))
    if scheme in address.CAMERAS:
        return _network(name, text)
    if "#" in rest:
        raise PlanError(f"source {name!r} contains #: write %23 instead")
    path, _, query = rest.partition("?")
    path = unquote(path.removeprefix("localhost") if path.startswith("localhost/") else path)
    if scheme in ("file", "dir", "v4l2") and not path:
        example = "v4l2:///dev/video0" if scheme == "v4l2" else f"{scheme}:///home/me/clips"
        raise PlanError(f"source {name!r} needs a path, as in {example}")
    if scheme == "synthetic" and path:
        raise PlanError(f"source {name!r}: synthetic:// takes no path, only parameters after '?'")
    return _checked(Uri(name, scheme, Path(path), _parameters(name, query)))


def _network(name: str, text: str) -> Uri:
    """A camera's URL has parameters of its own: ours are taken out, the others stay in it untouched."""
    try:
        parts = address.camera(text)
    except ValueError as error:
        raise PlanError(f"source {name!r}: {error}") from None
    pairs = parts.query.split("&") if parts.query else []
    known = _WEB if parts.scheme.startswith("http") else _OURS
    ours = [pair for pair in pairs if pair.partition("=")[0] in known]
    rest = "&".join(pair for pair in pairs if pair not in ours)
    return Uri(name, parts.scheme, Path(), _parameters(name, "&".join(ours)), parts._replace(query=rest).geturl())


def _checked(uri: Uri) -> Uri:
    _exists(uri.text, uri.path)
    return uri


def _exists(name: str, path: Path, doubt: str = "") -> bool:
    """``doubt``: it may be no path at all, so that what cannot be looked up does not exist."""
    try:
        return path.exists()
    except OSError as error:  # too long, or in a folder that this user may not enter
        if doubt:
            return False
        raise PlanError(f"source {name!r} cannot be looked up: {error.strerror}") from error


def _parameters(text: str, query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=16)
    except ValueError:
        raise PlanError(f"source {text!r}: parameters read name=value, joined by '&', at most 16") from None
    if len(dict(pairs)) != len(pairs):
        raise PlanError(f"source {text!r}: a parameter is given twice; give each once")
    return dict(pairs)
