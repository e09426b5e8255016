"""What a node may answer: tiles that were lent to it. The gateway does not see who lends what, but it passes requests on.

Law: another's tile is answered for only under a request of one's own that went to the frame's source, and each request brings
one tile, as ``edge_agent.thief`` says. What a gateway before this one has passed on is not known: the source asks anew.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway_agent.victims import Forward
from schemas.contract.keys import LaneKey
from schemas.contract.messages import frame_source

REQUESTS = 64  # of each node that are remembered: it holds a few tiles at a time
NODES = 256


@dataclass
class _Grant:
    sources: set[str] = field(default_factory=set)  # two, if a forward seemed lost
    key: LaneKey | None = None  # of the lane that it brought


class Grants:
    """The requests that were passed on, by node and id."""

    def __init__(self) -> None:
        self._given: dict[str, dict[str, _Grant]] = {}

    def add(self, forwards: Iterable[Forward]) -> None:
        """These requests are passed on."""
        for f in forwards:
            own = self._given[f.thief] = self._given.pop(f.thief, {})
            own.setdefault(f.request, _Grant()).sources.add(f.victim)
            for old in list(own)[:-REQUESTS]:
                del own[old]
            for gone in list(self._given)[:-NODES]:
                del self._given[gone]

    def admits(self, node: str, request: str | None, key: LaneKey) -> bool:
        """Whether ``node`` may answer for this lane; its request is used up for any other."""
        source = frame_source(key[0])[0]
        if node == source:
            return True
        grant = self._given.get(node, {}).get(request or "")
        if grant is None or source not in grant.sources or grant.key not in (None, key):
            return False
        grant.key = key
        return True
