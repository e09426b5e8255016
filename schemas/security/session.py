"""The keys of one straight connection between two nodes of a sealed cluster, agreed on as it opens.

    dialler -> hello: names, epochs, a public key of this connection (X25519), a proof under the pair's key
    answerer -> hello: the same, and its proof covers both public keys

It knows keys and no socket, and keeps three laws. Both sides have proved the key that only this pair and the gateway have. The
keys of a connection are made of what both sides agree on in it, so that nobody reads later what was recorded, not even with
a secret that was found since; and what was recorded opens no other connection. A frame opens once, in its place.
"""

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from schemas.contract.errors import DecodeError
from schemas.contract.messages import Hello
from schemas.security.keyring import Attempt
from schemas.security.seal import Seal, derive

TAG_BYTES = 16


class Cipher:
    """One direction of a connection: frames are numbered from 0, and the number is the nonce."""

    def __init__(self, key: bytes) -> None:
        self._cipher, self._count = ChaCha20Poly1305(key), 0

    def _nonce(self) -> bytes:
        self._count += 1
        return (self._count - 1).to_bytes(12, "little")

    def close(self, frame: bytes) -> bytes:
        return self._cipher.encrypt(self._nonce(), frame, None)

    def open(self, closed: memoryview) -> bytes:
        """
        Raises:
            DecodeError: it was altered, or is not the next frame of this connection.
        """
        try:
            return self._cipher.decrypt(self._nonce(), closed, None)
        except InvalidTag:
            raise DecodeError("a frame that the keys of its connection do not open") from None


class Session:
    """One side of one connection: ``mine`` is what it says of itself, ``send`` and ``receive`` are there after ``agree``."""

    def __init__(self, keys: Seal, mine: Hello, dialled: bool) -> None:
        """``mine``: from us and to whom; ``dialled``: this side opened the connection.

        Raises:
            Unsealed: the peer is not enrolled here.
        """
        self._dialled, self._attempt = dialled, Attempt()
        self._send_key, self._receive_key = keys.pair(mine.to)
        self.mine = mine.model_copy(update={"public": self._attempt.public})
        if dialled:
            self.mine = _proved(self.mine, self._send_key, "")

    def agree(self, theirs: Hello) -> tuple[Cipher, Cipher]:
        """What we send and what we receive is closed with, after their hello. The answerer's ``mine`` has its proof then.

        Raises:
            DecodeError: their hello is not theirs, or was made for another connection.
        """
        heard = self.mine.public if self._dialled else ""
        if not hmac.compare_digest(_proved(theirs, self._receive_key, heard).proof, theirs.proof):
            raise DecodeError(f"a hello that {theirs.node} did not make for this connection")
        if not self._dialled:
            self.mine = _proved(self.mine, self._send_key, theirs.public)
        publics = (self.mine.public, theirs.public) if self._dialled else (theirs.public, self.mine.public)
        ours = derive(self._attempt.shared(theirs.public, self._send_key), "dt straight", *publics)
        their = derive(self._attempt.shared(theirs.public, self._receive_key), "dt straight", *publics)
        return Cipher(ours), Cipher(their)


def _proved(hello: Hello, key: bytes, heard: str) -> Hello:
    """With its proof; ``heard`` is the public key that it answers, empty for the first."""
    about = (hello.node, hello.epoch, hello.to, hello.to_epoch, hello.public, heard)
    return hello.model_copy(update={"proof": derive(key, "dt hello", *about).hex()})
