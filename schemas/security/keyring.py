"""What must stay secret on its way: a node's keys for the others, and a newcomer's own secret, in boxes.

It knows which key comes from which secret, and the library's cipher (ChaCha20-Poly1305, X25519). Law: a node's secret is
known to it and to the gateway alone. From it, each node derives the key of everybody who speaks to it; the gateway does the
same and hands everybody their keys for speaking. A serial, a new one with each enrolment, goes into these keys, so that what
a revoked node knew is worth nothing when its name comes back.
"""

import base64
import hmac
import secrets
from typing import Annotated

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from pydantic import Field, ValidationError

from schemas.contract.errors import DecodeError
from schemas.contract.messages import Epoch, Hex32, JoinAnswer, JoinRequest, Name, RequestId
from schemas.contract.plan import Record
from schemas.security.rights import GATEWAY
from schemas.security.seal import Seal, derive

NONCE_BYTES = 12
MEMBERS = 256  # of a cluster: the keys for so many of the longest names fit one message


class NodeKey(Record):
    """About another node: our key for speaking to it, the serial of its enrolment, and its epoch if it is here."""

    send: Hex32
    serial: RequestId
    epoch: Epoch | None = None


class Ring(Record):
    """All other nodes of the cluster, by name."""

    nodes: Annotated[dict[Name, NodeKey], Field(max_length=MEMBERS)]


def speaking(sender: str, serial: str, receiver_secret: bytes) -> bytes:
    """The key with which ``sender`` (an edge or the gateway) speaks to the edge of this secret."""
    return derive(receiver_secret, "dt speak", sender, serial)


def reporting(secret: bytes) -> bytes:
    """The key with which the edge of this secret speaks to the gateway."""
    return derive(secret, "dt report")


def password(secret: bytes) -> str:
    """What the node of this secret tells the broker."""
    return base64.urlsafe_b64encode(derive(secret, "dt broker")[:24]).decode()


def edge_seal(name: str, epoch: str, secret: bytes) -> Seal:
    """What an edge seals with before it has a ring: it knows the gateway."""
    seal = Seal(name, epoch)
    seal.admit(GATEWAY, reporting(secret), speaking(GATEWAY, "", secret))
    return seal


def apply(ring: Ring, secret: bytes, seal: Seal) -> None:
    """Make the peers of an edge those of ``ring``."""
    for name in seal.peers:
        if name != GATEWAY and name not in ring.nodes:
            seal.dismiss(name)
    for name, key in ring.nodes.items():
        if name not in (GATEWAY, seal.name):
            seal.admit(name, bytes.fromhex(key.send), speaking(name, key.serial, secret))
            seal.meet(name, key.epoch or "")


def close_box(key: bytes, data: bytes, about: str) -> str:
    """``data`` encrypted; ``about`` is not hidden, but must be the same to open it."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return base64.b64encode(nonce + ChaCha20Poly1305(key).encrypt(nonce, data, about.encode())).decode()


def open_box(key: bytes, box: str, about: str) -> bytes:
    """What is in a box.

    Raises:
        DecodeError: it was closed with another key or about something else, or is damaged.
    """
    try:
        raw = base64.b64decode(box, validate=True)
        return ChaCha20Poly1305(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], about.encode())
    except (ValueError, InvalidTag):
        raise DecodeError("a sealed box that this node's key cannot open") from None


def close_ring(ring: Ring, secret: bytes, to: str) -> str:
    return close_box(derive(secret, "dt ring"), ring.model_dump_json().encode(), to)


def open_ring(box: str, secret: bytes, to: str) -> Ring:
    """The ring in a box that was closed for the epoch ``to`` of this node.

    Raises:
        DecodeError: it is not for this node, or not a ring.
    """
    try:
        return Ring.model_validate_json(open_box(derive(secret, "dt ring"), box, to), extra="ignore")
    except ValidationError:
        raise DecodeError("a keyring of an unknown version: update the older of gateway and edge") from None


# Joining. Both sides know the permission's secret; the keys of one attempt hide the answer from others who know it too.


class Attempt:
    """One side's X25519 key pair, for one attempt to join."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw().hex()

    def shared(self, theirs: str, secret: bytes) -> bytes:
        """The key that only the two sides of this attempt have.

        Raises:
            DecodeError: their public key is none.
        """
        try:
            agreed = self._private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(theirs)))
        except ValueError:
            raise DecodeError("not a valid public key") from None
        return derive(secret, "dt join", agreed)


def ask_proof(secret: bytes, node: str, epoch: str, permission: str, public: str) -> str:
    """What a newcomer proves its knowledge of the permission's secret with."""
    return derive(secret, "dt ask", node, epoch, permission, public).hex()


def answer_proof(secret: bytes, to: str, public: str, box: str, refused: str) -> str:
    """What the gateway proves its answer with."""
    return derive(secret, "dt answer", to, public, box, refused).hex()


def asks_rightly(request: JoinRequest, secret: bytes) -> bool:
    """Whether the sender of ``request`` knows the secret."""
    wanted = ask_proof(secret, request.node, request.epoch, request.permission, request.public)
    return hmac.compare_digest(wanted, request.proof)


def answers_rightly(answer: JoinAnswer, secret: bytes) -> bool:
    """Whether the sender of ``answer`` knows the secret."""
    return hmac.compare_digest(
        answer_proof(secret, answer.to, answer.public, answer.box, answer.refused), answer.proof
    )
