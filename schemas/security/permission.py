"""The one line that lets a node in: where the gateway is, by what to know it, and a secret for one use. Or one who looks on,
by a secret that stays.

It knows the line's form. Law: a line that was cut or mistyped is refused as such; nothing in it is tried.
"""

import base64
import hashlib
from dataclasses import dataclass

from schemas.contract.errors import CredentialError
from schemas.contract.messages import is_name
from schemas.security.seal import derive

_PREFIX, _READS = "dtjoin1-", "dtread1-"
_CHECK_BYTES = 4


@dataclass(frozen=True)
class JoinToken:
    """``gateway``: the broker's address; ``authority``: SHA-256 of the certificate authority's DER in hexadecimal, empty
    where the system's authorities vouch or nothing is encrypted; ``node``: who may join, empty: anybody new.

    ``reads``: ``node`` is one who looks on, and enrolled already; ``secret`` is its own, ``permission`` its serial."""

    gateway: str
    root: str
    node: str
    permission: str
    secret: str
    authority: str = ""
    reads: bool = False

    def __str__(self) -> str:
        keys = bytes.fromhex(self.permission + self.secret + self.authority)
        body = bytes([len(keys)]) + keys + "\n".join((self.gateway, self.root, self.node)).encode()
        return (_READS if self.reads else _PREFIX) + base64.urlsafe_b64encode(_check(body) + body).decode().rstrip("=")

    @property
    def user(self) -> str:
        """The broker's user for the time of joining."""
        return joiner(self.permission)

    @property
    def password(self) -> str:
        return joiner_password(self.secret)

    @classmethod
    def parse(cls, text: str) -> "JoinToken":
        """What ``str`` gave.

        Raises:
            CredentialError: it is not whole.
        """
        text = "".join(text.split())
        try:
            reads = text.startswith(_READS)
            if not reads and not text.startswith(_PREFIX):
                raise ValueError
            raw = text[len(_PREFIX) :].encode()
            data = base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
            body = data[_CHECK_BYTES:]
            if data[:_CHECK_BYTES] != _check(body):
                raise ValueError
            keys, text = body[1 : 1 + body[0]].hex(), body[1 + body[0] :].decode()
            gateway, root, node = text.split("\n")
        except (ValueError, IndexError):
            raise CredentialError("--join: this is not the whole line that 'dt enroll' printed: copy it again") from None
        if not is_name(root) or (node and not is_name(node)) or len(keys) not in (72, 136):
            raise CredentialError("--join: a line of another version: update the older of gateway and edge")
        return cls(gateway, root, node, keys[:8], keys[8:72], keys[72:], reads)


def joiner(permission: str) -> str:
    """The broker's user name of those who join by this permission; no node can have it."""
    return f"join.{permission}"


def joiner_password(secret: str) -> str:
    """And its password, from the permission's secret."""
    return derive(bytes.fromhex(secret), "dt joiner")[:24].hex()


def _check(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECK_BYTES).digest()
