"""What keeps a cluster of this machine alive for people to look at: sources without end, and whether there is a page."""

from importlib.util import find_spec
from urllib.parse import quote

from edge_agent.sources.folder import SUFFIXES
from edge_agent.sources.uri import parse

FPS = 4  # of a drawn scene: two cores can follow
_NEEDS = ("prometheus_client", "starlette", "uvicorn")  # the extra "dashboard"


def endless(uri: str) -> str:
    """The same source without an end: clips and folders begin anew, a video at its own rate, drawn scenes at ``FPS``.

    A camera has no end.
    """
    where = parse(uri)
    kind = where.scheme or ("dir" if where.path.is_dir() else "file")
    if kind not in ("synthetic", "file", "dir"):
        return uri
    more = {"fps": str(FPS)} if kind == "synthetic" else {"loop": "1"}
    if kind == "file" and where.path.suffix.lower() not in SUFFIXES:
        more["realtime"] = "1"
    query = {name: value for name, value in where.query.items() if name != "frames"}
    base = uri.partition("?")[0] if where.query else uri
    if where.path.exists() and not where.scheme:  # its name may hold what means something in a URI
        base = f"{kind}://{quote(str(where.path.absolute()))}"
    joined = "&".join(f"{name}={value}" for name, value in {**more, **query}.items())
    return f"{base}?{joined}"


def has_dashboard() -> bool:
    """Whether the extra ``dashboard`` is installed."""
    return all(find_spec(name) is not None for name in _NEEDS)
