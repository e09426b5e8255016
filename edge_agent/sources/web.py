"""Cameras that speak HTTP: a JPEG that is asked for again and again, or one answer that never ends (MJPEG).

The law: which of the two it is, the camera's Content-Type says; no answer makes this process hold more than one picture
of ``MOST_BYTES``; each exchange has one deadline, from the first connection to the last byte of a picture, which nothing
that the camera sends puts off; user and password go to the address that the user named, in answer to its challenge, never
into a message; and where a camera points elsewhere, this process follows only if the user has said so.
"""

import io
import socket
import ssl
import time
from email.message import Message
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse
from typing import IO, Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit

from edge_agent.sources.frame import Image
from edge_agent.sources.live import Camera
from edge_agent.sources.multipart import Multipart
from models.results.jpeg import MOST_BYTES, decode
from schemas.contract.errors import PlanError
from schemas.contract.redact import redact
from schemas.wire.link import outside_time

CHUNK = 1 << 16
PICTURES = ("image/jpeg", "image/jpg", "image/pjpeg", "application/octet-stream")
_LONGER = "check camera and network, or give it longer by stall="
_PORTS = {"http": 80, "https": 443}


class Deadline:
    """Of the exchange that is under way; whatever waits for the camera waits for what is ``left``."""

    def __init__(self) -> None:
        self._at = 0.0

    def set(self, seconds: float) -> None:
        """From now."""
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds. Raises TimeoutError if there are none."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


class _Pipe(io.RawIOBase):
    """What a connection reads."""

    def __init__(self, line: socket.socket, deadline: Deadline) -> None:
        self._line, self._deadline, self._raw = line, deadline, line.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._line.settimeout(self._deadline.left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Line:
    """A socket as ``http.client`` uses one."""

    def __init__(self, line: socket.socket, deadline: Deadline) -> None:
        self._line, self._deadline = line, deadline

    def sendall(self, data: bytes) -> None:
        self._line.settimeout(self._deadline.left())
        self._line.sendall(data)

    def makefile(self, _: str) -> IO[bytes]:
        return io.BufferedReader(_Pipe(self._line, self._deadline))

    def close(self) -> None:
        self._line.close()


class _Connection(HTTPConnection):
    def __init__(self, deadline: Deadline, tls: ssl.SSLContext | None, host: str, timeout: float) -> None:
        self.default_port = _PORTS["https" if tls else "http"]
        self._deadline, self._tls = deadline, tls
        super().__init__(host, timeout=timeout)

    def connect(self) -> None:
        line = _reach(self.host, self.port, self._deadline)
        if self._tls is not None:
            line.settimeout(self._deadline.left())
            line = self._tls.wrap_socket(line, server_hostname=self.host)  # which closes it where that fails
        self.sock: Any = _Line(line, self._deadline)


def _reach(host: str, port: int, deadline: Deadline) -> socket.socket:
    """A connection to one of the host's addresses, each of which has its share of the time."""
    found, failure = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), OSError("it has no address")
    for number, (family, kind, protocol, _, where) in enumerate(found):
        line = socket.socket(family, kind, protocol)
        try:
            line.settimeout(deadline.left() / (len(found) - number))
            line.connect(where)
            return line
        except OSError as error:
            line.close()
            failure = error
    raise failure


class _Handler(request.HTTPHandler, request.HTTPSHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: request.Request) -> HTTPResponse:
        return self.do_open(partial(_Connection, self._deadline, None), req)

    def https_open(self, req: request.Request) -> HTTPResponse:
        return self.do_open(partial(_Connection, self._deadline, ssl.create_default_context()), req)


class _Redirects(request.HTTPRedirectHandler):
    """Follows within the address that the user named; ``anywhere`` by HTTP if he wants that."""

    def __init__(self, address: "Address", url: str, anywhere: bool) -> None:
        self._address, self._origin, self._anywhere = address, _origin(urlsplit(url)), anywhere

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        fp.close()  # its body may have no end
        parts = urlsplit(newurl)
        if parts.scheme not in _PORTS or not (self._anywhere or _origin(parts) == self._origin):
            way = "" if parts.scheme not in _PORTS else ": name that address if it is right, or add redirect=1"
            raise self._address.failure(f"redirects to {redact(newurl)[:200]!r}, which is not followed{way}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


class Address:
    """A camera's URL and the credentials in it. ``name`` is it as it may be shown; ``redirect``: it may point elsewhere."""

    def __init__(self, url: str, name: str, redirect: bool = False) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self.name, self._url, self.deadline = name, parts._replace(netloc=host, fragment="").geturl(), Deadline()
        passwords = request.HTTPPasswordMgrWithDefaultRealm()
        if parts.username is not None:
            passwords.add_password(None, self._url, unquote(parts.username), unquote(parts.password or ""))
        known = (request.HTTPBasicAuthHandler(passwords), request.HTTPDigestAuthHandler(passwords))
        handlers = known if parts.username is not None else ()
        self._opener = request.build_opener(
            request.ProxyHandler({}), _Handler(self.deadline), _Redirects(self, url, redirect), *handlers
        )  # a camera is not behind a proxy

    def ask(self, timeout_s: float) -> HTTPResponse:
        """The camera's answer, to be closed; its body is under the same deadline, in ``timeout_s`` from now.

        Raises:
            PlanError: it cannot be reached, refuses or takes too long.
        """
        self.deadline.set(timeout_s)
        try:
            answer: HTTPResponse = self._opener.open(self._url, timeout=timeout_s)
        except HTTPError as error:
            error.close()
            raise self.failure(_refusal(error.code)) from None
        except URLError as error:
            reason = outside_time(error.reason) or getattr(error.reason, "strerror", None) or error.reason
            raise self.failure(f"cannot be reached ({reason}): check address and network") from None
        except TimeoutError:
            raise self.failure(f"does not answer within {timeout_s:.3g} s: {_LONGER}") from None
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
        return Snapshot(answer, address, interval_s)
    answer.close()
    raise address.failure(
        f"sends {kind}, neither image/jpeg nor multipart/x-mixed-replace: name its snapshot or MJPEG path"
    )


class Snapshot:
    """A picture for each question; the first answer is there already."""

    def __init__(self, answer: HTTPResponse, address: Address, interval_s: float) -> None:
        self._answer: HTTPResponse | None = answer
        self._address, self.period_s = address, interval_s

    def read(self, timeout_s: float) -> Image | None:
        """The next picture; see ``Camera``."""
        answer, self._answer = self._answer or self._address.ask(timeout_s), None
        with answer:
            data = _whole(answer, self._address)
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
        self._address.deadline.set(timeout_s)
        while True:
            while self._ready:
                image = decode(self._ready.pop(0))
                if image is not None:
                    return image
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


def _whole(answer: HTTPResponse, address: Address) -> bytes:
    expected, data = answer.length, bytearray()
    while piece := _some(answer, address):
        data += piece
        if len(data) > MOST_BYTES:
            raise address.failure(
                f"sends a picture of more than {MOST_BYTES >> 20} MiB: choose a smaller one in the camera"
            )
    if expected is not None and len(data) < expected:
        raise address.failure(f"sent {len(data)} of {expected} bytes: check camera and network")
    return bytes(data)


def _some(answer: HTTPResponse, address: Address) -> bytes:
    try:
        address.deadline.left()  # what has been read ahead does not look at it
        return answer.read1(CHUNK)
    except TimeoutError:
        raise address.failure(f"gives no whole picture in time: {_LONGER}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise address.failure(f"broke off ({type(error).__name__}): check camera and network") from None
