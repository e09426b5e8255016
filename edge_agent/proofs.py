"""Who may give parts of a frame: its source and those to whom it has lent a tile of it, and nobody else who has keys.

A frame has a token, drawn by its source, that travels with each of its tiles. Law: parts count only with a proof that their
sender knows the token, bound to its name, so that nobody proves with what another has said. Parts that come before the
token wait for it, bounded.
"""

import secrets
from collections.abc import Callable

from edge_agent.lanes import Part
from schemas.contract.messages import OverlapHeader
from schemas.security.seal import derive

FRAMES = 64  # whose tokens are remembered
WAITING_FRAMES, WAITING = 8, 64  # frames whose token has not come, and parts of each that wait for it


def _token() -> str:
    return secrets.token_hex(16)


class Proofs:
    """The tokens that the node ``name`` knows."""

    def __init__(self, name: str, new_token: Callable[[], str] = _token) -> None:
        self._name, self._new_token = name, new_token
        self._tokens: dict[str, str] = {}
        self._waiting: dict[str, list[tuple[OverlapHeader, Part]]] = {}

    def open(self, frame: str) -> None:
        """An own frame begins."""
        self.learn(frame, self._new_token())

    def learn(self, frame: str, token: str | None) -> list[Part]:
        """A tile of the frame came with this token; returns the parts that have waited for it and are proved."""
        if token is None:
            return []
        self._tokens[frame] = token
        for old in list(self._tokens)[:-FRAMES]:
            del self._tokens[old]
        return [part for header, part in self._waiting.pop(frame, []) if self._holds(header)]

    def token(self, frame: str) -> str | None:
        """What goes with a tile of it that is lent."""
        return self._tokens.get(frame)

    def prove(self, frame: str, layer: int, tile: int, maker: int) -> str:
        """For parts that this node gives; empty if it has nothing to do with the frame."""
        return self._proof(self._name, frame, layer, tile, maker)

    def admit(self, header: OverlapHeader, part: Part) -> bool:
        """Whether these parts count now; they may do so later if the frame's token is not known yet."""
        if header.frame in self._tokens:
            return self._holds(header)
        waiting = self._waiting.setdefault(header.frame, [])
        waiting.append((header, part))
        del waiting[:-WAITING]
        for old in list(self._waiting)[:-WAITING_FRAMES]:
            del self._waiting[old]
        return False

    def _holds(self, header: OverlapHeader) -> bool:
        wanted = self._proof(header.node, header.frame, header.layer, header.tile, header.maker)
        return secrets.compare_digest(wanted, header.proof)

    def _proof(self, sender: str, frame: str, layer: int, tile: int, maker: int) -> str:
        token = self._tokens.get(frame)
        if token is None:
            return ""
        return derive(bytes.fromhex(token), "dt part", sender, frame, f"{layer}/{tile}/{maker}", size=16).hex()
