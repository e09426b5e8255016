"""Who may see the dashboard, and who may set something.

On loopback whoever is on this machine. Beyond it whoever has the token, which stands in a file of the state folder, and
in the link that is printed when it is made: as ``Authorization: Bearer TOKEN`` (Prometheus), or as the cookie that a
login with it gives.
Three laws hold everywhere: a request for a name that is not this machine's is refused (a page elsewhere cannot point a
name of its own here: DNS rebinding), so is one that would set something and does not come from our page (CSRF), and no
answer may be framed or run a script that is not ours.
"""

import hashlib
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from schemas.contract.errors import DtError
from schemas.host import state

COOKIE = "dt_session"
TOKEN_FILE = "dashboard-token"
ASKS = "x-dt-request"  # a header that no form and no page of another origin can send unasked
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """``names``: what this machine is called, but for addresses. ``token``: None where none is asked for."""

    token: str | None
    names: frozenset[str] = field(default_factory=lambda: own_names())

    @property
    def session(self) -> str:
        """What the cookie holds: nobody gets the token back from it."""
        return hashlib.blake2b((self.token or "").encode(), digest_size=24, person=b"dt session").hexdigest()

    def knows(self, host: str) -> bool:
        """Whether a request's Host header may name this machine: an address, or a name of its own."""
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        return is_address(name) or name.lower().rstrip(".") in self.names

    def admits(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether a request may see anything."""
        if self.token is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return (scheme.lower() == "bearer" and self.is_token(token.strip())) or secrets.compare_digest(
            cookies.get(COOKIE, "").encode(), self.session.encode()
        )

    def is_token(self, token: str) -> bool:
        said = token.encode(errors="surrogatepass")  # JSON may hold halves of characters
        return self.token is not None and secrets.compare_digest(said, self.token.encode())


def is_ours(headers: Mapping[str, str]) -> bool:
    """Whether a request that sets something comes from our page, or from no page at all."""
    origin = headers.get("origin")
    same = origin is None or origin.partition("://")[2] == headers.get("host", "")
    return same and ASKS in headers and headers.get("content-type", "").partition(";")[0] == "application/json"


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def own_names() -> frozenset[str]:
    """What this machine is called: its host name, bare, in its domain and in mDNS's."""
    name = socket.gethostname().lower()
    return frozenset({"localhost", name, name.partition(".")[0], f"{name.partition('.')[0]}.local"})


def kept_token(folder: Path) -> tuple[str, bool]:
    """The token in ``folder``, the same over restarts, and whether it has just been made.

    Raises:
        DtError: the folder cannot be written, or the file holds something else.
    """
    path = folder / TOKEN_FILE
    data = state.read(path)
    if data is None:
        token = secrets.token_urlsafe(24)
        state.write(path, token.encode())
        return token, True
    token = data.decode(errors="replace").strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable():
        raise DtError(f"{path} holds no token: delete it, and a new one is made")
    return token, False
