"""Addresses of brokers and cameras: the one parser of all that options, variables and files may hold.

The law: what is not understood is refused, with how to write it, and no refusal holds a part of the address: whoever shows
one next to it shows what ``redact`` leaves.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from schemas.contract.errors import PlanError
from schemas.contract.redact import redact

ESCAPES = "in user and password write %23 for #, %2F for /, %3F for ?, %40 for @, %3A for :, %5B for [, %25 for %"
CAMERAS = ("http", "https", "rtsp", "rtsps")
_BROKER = "mqtt://[user:password@]host[:port]"


def split(text: str, form: str) -> SplitResult:
    """The parts of an address of this ``form``; its ``hostname`` is there, and ``port`` does not raise.

    Raises:
        ValueError: it is not of that form.
    """
    escapes = f"; {ESCAPES}" if "@" in text else ""
    if re.search(r"[\s\x00-\x1f\x7f]", text):
        raise ValueError(f"it holds a space or a control character: write %20 for a space, as in {form}{escapes}")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
        host.encode("idna")  # paho's thread dies of the UnicodeError that a bad name gives
    except ValueError:  # whose text may quote a password
        host = ""
    if not host:
        raise ValueError(f"it needs a host, as in {form}, and a port is a number up to 65535{escapes}")
    if "#" in text:
        raise ValueError(f"it contains #: write %23 instead, as in {form}{escapes}")
    return parts


@dataclass(frozen=True)
class Address:
    """Where a broker is and how to enter. ``str`` and ``repr`` hide user and password.

    ``authority``: the only certificate authority to believe, as PEM; it signs this broker alone, so that no name in its
    certificate is compared, and the broker may change its address. Without one, those of the system and the name count.
    """

    host: str
    port: int
    tls: bool = False
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    authority: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> "Address":
        """From ``mqtt://[user:password@]host[:port]``, ``mqtts://...`` or a bare ``host[:port]``.

        Raises:
            PlanError: it is none of these.
        """
        try:
            return broker(url)
        except ValueError as error:
            raise PlanError(f"broker address {redact(url)!r}: {error}") from None


def broker(url: str) -> Address:
    """``Address.parse`` for whoever names the address himself. Raises ValueError."""
    parts = split(url if "://" in url else f"mqtt://{url}", _BROKER)
    if parts.scheme not in ("mqtt", "mqtts") or parts.path.strip("/") or parts.query:
        raise ValueError(f"it is not of the form {_BROKER}" + (f"; {ESCAPES}" if "@" in url else ""))
    user, password = (None if text is None else unquote(text) for text in (parts.username, parts.password))
    tls = parts.scheme == "mqtts"
    return Address(parts.hostname or "", parts.port or (8883 if tls else 1883), tls, user, password)


def camera(url: str) -> SplitResult:
    """The parts of a network camera's address. Raises ValueError."""
    return split(url, f"{url.partition(':')[0].lower()}://user:password@camera:port/path")
