"""Source URIs and their parameters. Every refusal names the URI, the value and what would be right."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from schemas.errors import PlanError
from schemas.redact import redact

NETWORK = ("http", "https", "rtsp", "rtsps")
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
    """Split a URI, or a bare path: that is taken literally if it exists, else up to the ``?`` of its parameters.

    Raises:
        PlanError: an empty or malformed URI, a parameter without value or given twice, a path or host out of place.
    """
    name = redact(text)
    if not text or "\0" in unquote(text):
        raise PlanError(f"source {name!r} is no path and no URI: use file://, dir://, synthetic:// or a path")
    if "://" not in text:
        bare, _, query = (text, "", "") if _exists(text, Path(text)) else text.partition("?")
        return _checked(Uri(name, "", Path(bare), _parameters(name, query)))
    parts = _split(text)
    if parts.scheme in NETWORK:
        return _network(name, parts)
    host = "" if parts.netloc == "localhost" else parts.netloc
    path = unquote(host + parts.path)
    if parts.scheme in ("file", "dir", "v4l2") and not path:
        example = "v4l2:///dev/video0" if parts.scheme == "v4l2" else f"{parts.scheme}:///home/me/clips"
        raise PlanError(f"source {name!r} needs a path, as in {example}")
    if parts.scheme == "synthetic" and path:
        raise PlanError(f"source {name!r}: synthetic:// takes no path, only parameters after '?'")
    return _checked(Uri(name, parts.scheme, Path(path), _parameters(name, parts.query)))


def _network(name: str, parts: SplitResult) -> Uri:
    """A camera's URL has parameters of its own: ours are taken out, the others stay in it untouched."""
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or re.search(r"[\s\x00-\x1f]", parts.geturl()):
        raise PlanError(f"source {name!r} needs a host, as in {parts.scheme}://user:password@camera:port/path")
    pairs = parts.query.split("&") if parts.query else []
    known = _WEB if parts.scheme.startswith("http") else _OURS
    ours = [pair for pair in pairs if pair.partition("=")[0] in known]
    rest = "&".join(pair for pair in pairs if pair not in ours)
    return Uri(name, parts.scheme, Path(), _parameters(name, "&".join(ours)), parts._replace(query=rest).geturl())


def _checked(uri: Uri) -> Uri:
    _exists(uri.text, uri.path)
    return uri


def _exists(text: str, path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # too long, or in a folder that this user may not enter
        raise PlanError(f"source {redact(text)!r} cannot be looked up: {error.strerror}") from error


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:  # whose text may quote a password
        raise PlanError(f"source {redact(text)!r} is not a URI: check its host") from None


def _parameters(text: str, query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=16)
    except ValueError:
        raise PlanError(f"source {text!r}: parameters read name=value, joined by '&', at most 16") from None
    if len(dict(pairs)) != len(pairs):
        raise PlanError(f"source {text!r}: a parameter is given twice; give each once")
    return dict(pairs)
