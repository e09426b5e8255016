"""Who may hold a connection to the dashboard, and for how long. Knows no socket and no clock.

The law: no more than ``most`` connections are open at once, a new one always gets in, and so long as a client has not been
let in by its request, it holds nothing for longer than ``wait_s``, however it drips. Where there is no room, the client host
that holds the most gives up the connection that has waited longest. Those that are served are never given up for others,
and are so few that there is always one which is not.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Generic, TypeVar

CONNECTIONS, SERVED = 64, 48
WAIT_S = 10.0  # for a request, its body and its answer
STALLED_S = 20.0  # that a reader takes nothing

Client = tuple[str, int]
Connection = TypeVar("Connection")


@dataclass
class _Held(Generic[Connection]):
    line: Connection
    since: float  # it waits, for a request or to be rid of an answer
    served: bool = False
    stalled: float | None = None


class Door(Generic[Connection]):
    """The connections, by their client's host and port; what is returned is to be cut."""

    def __init__(self, most: int = CONNECTIONS, served: int = SERVED, wait_s: float = WAIT_S) -> None:
        self._most, self._served, self._wait_s = most, served, wait_s
        self._held: dict[Client, _Held[Connection]] = {}  # those that have waited longest first

    def __len__(self) -> int:
        return len(self._held)

    def opened(self, client: Client, line: Connection, now: float) -> list[Connection]:
        """A new connection."""
        given_up = []
        while len(self._held) >= self._most:
            waiting = [one for one, held in self._held.items() if not held.served]
            crowd = Counter(host for host, _ in waiting)
            given_up.append(self._held.pop(max(waiting, key=lambda one: crowd[one[0]])).line)
        self._held[client] = _Held(line, now)
        return given_up

    def closed(self, client: Client, line: Connection) -> None:
        """It is gone."""
        if client in self._held and self._held[client].line is line:
            del self._held[client]

    def serve(self, client: Client) -> bool:
        """Whether a request that is let in has a place, which it keeps until it is ``done``."""
        held = self._held.get(client)
        if held is None or sum(one.served for one in self._held.values()) >= self._served:
            return False
        held.served = True
        return True

    def done(self, client: Client, now: float) -> None:
        """The request is answered; the connection waits again, as the last in line."""
        held = self._held.pop(client, None)
        if held is not None:
            held.since, held.served = now, False
            self._held[client] = held

    def stalled(self, client: Client, now: float | None) -> None:
        """Since ``now`` it takes nothing more; None: it does again."""
        if client in self._held:
            self._held[client].stalled = now

    def overdue(self, now: float) -> list[Connection]:
        """Those whose time is over."""
        return [
            held.line
            for held in self._held.values()
            if (not held.served and now >= held.since + self._wait_s)
            or (held.stalled is not None and now >= held.stalled + STALLED_S)
        ]
