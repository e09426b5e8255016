"""What edges fetch from the gateway: the chunks of their model, to each the few that it has asked for, in turn.

The broker keeps none of them. It knows no socket and no clock, and keeps one law: a chunk that waits already to be sent to
a node is not sent twice for being asked for twice.
"""

from schemas.contract import messages as m
from schemas.contract import topics
from schemas.contract.chunks import chunk, chunk_digests
from schemas.contract.topics import Publish

NODES = 256  # that may wait at once


class ModelUpload:
    """The edges' model ``model`` with this digest."""

    def __init__(self, node: str, digest: str, model: bytes) -> None:
        self._node, self.digest, self._model = node, digest, model
        self.chunks = chunk_digests(model)
        self._wanted: dict[str, dict[int, None]] = {}  # by node, in the order of their turns

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._wanted)

    def asked(self, request: m.ChunkRequest) -> None:
        """A node wants chunks. Those of another model, as of a plan before this one, are not here."""
        numbers = [n for n in request.chunks if n < len(self.chunks)]
        if request.digest == self.digest and numbers and (request.node in self._wanted or len(self._wanted) < NODES):
            self._wanted.setdefault(request.node, {}).update(dict.fromkeys(numbers))

    def next(self, epoch: str) -> Publish:
        """The chunk whose turn it is; ``epoch``: the gateway's."""
        node, numbers = next(iter(self._wanted.items()))
        n = next(iter(numbers))
        del self._wanted[node], numbers[n]
        if numbers:
            self._wanted[node] = numbers
        header = m.ChunkHeader(node=self._node, epoch=epoch, digest=self.digest, n=n)
        return Publish(topics.MODEL, header, {"node": node}, {"chunk": chunk(self._model, n)})
