"""Files from their publishers: over HTTPS, through the user's proxy, resumed where they stopped, and only as their digest says.

The law: a file appears under its name whole and checked, or not at all. What has come so far waits beside it as ``NAME.part``.
Plain HTTP is for this machine alone.
"""

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from schemas.contract.config import is_loopback
from schemas.contract.errors import DtError, PlanError, UnreachableError, unwritable
from schemas.contract.text import one_line

MOST_BYTES = 1 << 30
PATIENCE_S = 30.0
_PIECE = 1 << 18
Progress = Callable[[int, int | None], object]  # bytes that are here, and of how many


def check_url(url: str) -> str:
    """``url`` itself.

    Raises:
        PlanError: it is no address of a file on the web, or others could read and change what comes.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if not host or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise PlanError(f"{url[:200]!r} is no address: give https://HOST/PATH")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise PlanError(f"{url[:200]!r}: give an https:// address, others let anybody on the way change the file")
    return url


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        return super().redirect_request(req, fp, code, msg, headers, check_url(newurl))


def download(url: str, path: Path, digest: str = "", progress: Progress = lambda here, total: None) -> None:
    """Bring ``url`` to ``path``; ``digest`` as in ``verify``, empty: whatever comes is taken.

    Raises:
        UnreachableError: the publisher cannot be reached, or the line broke; the next call goes on from there.
        DtError: it refuses, the file is too large or not the one that it should be, the disk is full.
    """
    part, mark = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.etag")
    try:
        here = part.stat().st_size if part.exists() and mark.exists() else 0
        headers = {"User-Agent": "deepthings-mqtt", "Accept-Encoding": "identity"}
        request = urllib.request.Request(check_url(url), headers=headers)
        if here:
            request.add_header("Range", f"bytes={here}-")
            request.add_header("If-Range", mark.read_text())
        with urllib.request.build_opener(_Redirects()).open(request, timeout=PATIENCE_S) as answer:
            here = here if answer.status == 206 and _starts(answer) == here else 0
            etag = answer.headers.get("ETag", "")
            if etag.startswith('"'):  # a strong one: the same bytes
                mark.write_text(etag)
            else:
                mark.unlink(missing_ok=True)
            _receive(answer, part, here, progress)
    except urllib.error.HTTPError as error:
        part.unlink(missing_ok=True) if error.code == 416 else None
        raise DtError(f"{_host(url)} refuses {url}: {error.code} {one_line(str(error.reason))}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = one_line(str(getattr(error, "reason", "") or error))
        raise UnreachableError(f"cannot fetch from {_host(url)} ({reason})") from None
    except OSError as error:
        raise unwritable(path, error) from error
    if wrong := digest and verify(part, digest):
        part.unlink()
        mark.unlink(missing_ok=True)
        raise DtError(f"{url}: what came {wrong}: it was damaged on the way or the publisher changed it; nothing is kept")
    part.replace(path)
    mark.unlink(missing_ok=True)


def verify(path: Path, digest: str) -> str:
    """What is wrong with a file; empty: nothing. ``digest``: ``sha256:`` in hexadecimal, or ``git:`` and the id of a blob."""
    kind, _, wanted = digest.partition(":")
    found = digest_of(path, kind)
    return "" if found == wanted.lower() else f"has the digest {kind}:{found}, not {digest}"


def digest_of(path: Path, kind: str) -> str:
    """In hexadecimal; ``kind`` as in ``verify``."""
    made = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            made.update(piece)
    return made.hexdigest()


def _receive(answer: Any, part: Path, here: int, progress: Progress) -> None:
    length = answer.headers.get("Content-Length", "")
    total = here + int(length) if length.isdecimal() else None
    if total is not None and total > MOST_BYTES:
        raise DtError(f"the file has {total} bytes, the most that is fetched are {MOST_BYTES}")
    with part.open("ab" if here else "wb") as file:
        while piece := answer.read(_PIECE):
            file.write(piece)
            here += len(piece)
            if here > MOST_BYTES:
                raise DtError(f"the file has more than {MOST_BYTES} bytes, the most that is fetched")
            progress(here, total)
    if total is not None and here < total:
        raise UnreachableError(f"the line broke after {here} of {total} bytes: say it again to go on from there")


def _starts(answer: Any) -> int:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
