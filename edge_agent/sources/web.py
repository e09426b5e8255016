"""Cameras that speak HTTP: a JPEG that is asked for again and again, or one answer that never ends (MJPEG).

The law: which of the two it is, the camera's Content-Type says; no answer makes this process hold more than one picture
of ``MOST_BYTES``; and user and password go to the address that the user named, in answer to its challenge, never into a
message.
"""

import time
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from edge_agent.sources.frame import Image
from edge_agent.sources.live import Camera
from edge_agent.sources.multipart import Multipart
from models.jpeg import MOST_BYTES, decode
from schemas.errors import PlanError
from schemas.link import outside_time

CHUNK = 1 << 16
PICTURES = ("image/jpeg", "image/jpg", "image/pjpeg", "application/octet-stream")


class Address:
    """A camera's URL and the credentials in it. ``name`` is the URL as it may be shown."""

    def __init__(self, url: str, name: str) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self.name, self._url = name, parts._replace(netloc=host, fragment="").geturl()
        passwords = request.HTTPPasswordMgrWithDefaultRealm()
        if parts.username is not None:
            passwords.add_password(None, self._url, unquote(parts.username), unquote(parts.password or ""))
        known = (request.HTTPBasicAuthHandler(passwords), request.HTTPDigestAuthHandler(passwords))
        handlers = known if parts.username is not None else ()
        self._opener = request.build_opener(request.ProxyHandler({}), *handlers)  # a camera is not behind a proxy

    def ask(self, timeout_s: float) -> HTTPResponse:
        """The camera's answer, to be closed. No word from it for ``timeout_s`` is an error.

        Raises:
            PlanError: it cannot be reached or refuses.
        """
        try:
            answer: HTTPResponse = self._opener.open(self._url, timeout=timeout_s)
        except HTTPError as error:
            error.close()
            raise self.failure(_refusal(error.code)) from None
        except URLError as error:
            reason = outside_time(error.reason) or getattr(error.reason, "strerror", None) or error.reason
            raise self.failure(f"cannot be reached ({reason}): check address and network") from None
        except (OSError, HTTPException, ValueError) as error:
            raise self.failure(f"does not answer as HTTP ({type(error).__name__}): check the address") from None
        return answer

    def failure(self, text: str) -> PlanError:
        return PlanError(f"source {self.name!r} {text}")


def _refusal(code: int) -> str:
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"refuses user or password ({code}): write http://user:password@camera/..."
    return f"answers {code}: check the path of the camera's address"


def connect(address: Address, timeout_s: float, interval_s: float) -> Camera:
    """Ask once and tell the kind of the camera by its answer; a snapshot is asked for every ``interval_s``.

    Raises:
        PlanError: it cannot be reached, refuses, or sends neither JPEG nor MJPEG.
    """
    answer = address.ask(timeout_s)
    kind = answer.headers.get_content_type()
    if kind.startswith("multipart/"):
        return Stream(answer, address)
    if kind in PICTURES:
        return Snapshot(answer, address, timeout_s, interval_s)
    answer.close()
    raise address.failure(
        f"sends {kind}, neither image/jpeg nor multipart/x-mixed-replace: name its snapshot or MJPEG path"
    )


class Snapshot:
    """A picture for each question; the first answer is there already."""

    def __init__(self, answer: HTTPResponse, address: Address, timeout_s: float, interval_s: float) -> None:
        self._answer: HTTPResponse | None = answer
        self._address, self._timeout_s, self.period_s = address, timeout_s, interval_s

    def read(self, timeout_s: float) -> Image | None:
        """The next picture; see ``Camera``."""
        answer, self._answer = self._answer or self._address.ask(self._timeout_s), None
        with answer:
            data = _whole(answer, self._address, time.monotonic() + timeout_s)
        if data is None:
            return None
        image = decode(data)
        if image is None:
            raise self._address.failure(f"sent {len(data)} bytes that are no whole JPEG picture: check the camera")
        return image

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()


class Stream:
    """MJPEG: the parts of one answer. Damaged pictures in it are passed over."""

    period_s = 0.0

    def __init__(self, answer: HTTPResponse, address: Address) -> None:
        self._answer, self._address = answer, address
        self._parts = Multipart(_boundary(answer.headers, address), MOST_BYTES)
        self._ready: list[bytes] = []

    def read(self, timeout_s: float) -> Image | None:
        """The next whole picture; see ``Camera``."""
        until = time.monotonic() + timeout_s
        while True:
            while self._ready:
                image = decode(self._ready.pop(0))
                if image is not None:
                    return image
            if time.monotonic() >= until:
                return None
            data = _some(self._answer, self._address)
            if not data:
                raise self._address.failure("has ended its stream: check the camera")
            self._ready = self._parts.feed(data)

    def close(self) -> None:
        self._answer.close()


def _boundary(headers: Message, address: Address) -> str:
    boundary = headers.get_boundary()
    if not boundary:
        raise address.failure("sends multipart without a boundary: name its snapshot path instead")
    return boundary


def _whole(answer: HTTPResponse, address: Address, until: float) -> bytes | None:
    """The body; None if it takes longer than ``until`` (monotonic seconds)."""
    expected, data = answer.length, b""
    while piece := _some(answer, address):
        data += piece
        if len(data) > MOST_BYTES:
            raise address.failure(
                f"sends a picture of more than {MOST_BYTES >> 20} MiB: choose a smaller one in the camera"
            )
        if time.monotonic() >= until:
            return None
    if expected is not None and len(data) < expected:
        raise address.failure(f"sent {len(data)} of {expected} bytes: check camera and network")
    return data


def _some(answer: HTTPResponse, address: Address) -> bytes:
    try:
        return answer.read1(CHUNK)
    except TimeoutError:
        raise address.failure("sends nothing any more: check camera and network") from None
    except (OSError, HTTPException, ValueError) as error:
        raise address.failure(f"broke off ({type(error).__name__}): check camera and network") from None
