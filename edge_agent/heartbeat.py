"""When an edge calls the gateway, and what the gateway's echoes say: who is there, and whether it has restarted."""

from schemas.contract import messages as m
from schemas.contract.errors import EngineError

HEARTBEAT_S = 2.0
FIRST_HEARTBEAT_S = 0.25  # after a connection, and twice as long each time until the gateway answers: it may be slower than we
MISSED_ECHOES = 3


class Heartbeat:
    """Counts the calls of ``name`` in ``epoch``."""

    def __init__(self, name: str, epoch: str) -> None:
        self._name, self._epoch = name, epoch
        self.gateway = ""  # its epoch; empty: it has not answered yet
        self._seq = self._echoed_seq = 0
        self._at, self._every_s = float("-inf"), HEARTBEAT_S
        self._echoed_at = float("inf")  # no echo is awaited before the broker is there

    def connected(self, now: float) -> None:
        """The broker is there (again)."""
        self._at, self._every_s = float("-inf"), FIRST_HEARTBEAT_S / 2
        self._echoed_at = now

    def deadline(self) -> float:
        """When the next call is due."""
        return self._at + self._every_s

    def beat(self, now: float) -> int:
        """A call goes out: its number."""
        self._seq += 1
        self._at, self._every_s = now, min(2 * self._every_s, HEARTBEAT_S)
        return self._seq

    def missed(self, now: float) -> bool:
        """Whether the gateway has not answered for too long, once: the broker may have lost our subscriptions."""
        if now < self._echoed_at + (MISSED_ECHOES + 1) * HEARTBEAT_S:
            return False
        self._echoed_at = now
        return True

    def echo(self, echo: m.Echo, now: float) -> bool | None:
        """The gateway answers. Returns whether it has restarted, None for an answer of another time.

        Raises:
            EngineError: the gateway refuses this node.
        """
        if echo.to_epoch != self._epoch or echo.seq <= self._echoed_seq:
            return None
        self._echoed_seq = echo.seq
        if echo.refused:
            raise EngineError(f"the gateway refuses {self._name}: {echo.refused}")
        self._echoed_at, self._every_s = now, HEARTBEAT_S
        before, self.gateway = self.gateway, echo.epoch
        return bool(before) and before != echo.epoch
