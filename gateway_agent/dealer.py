"""The baseline to stealing: the gateway deals each frame's tiles equally to all nodes, one frame after another.

DeepThings (2018) calls it work sharing (FTP-WSH). Nobody asks and nobody takes over what another is slow with; only a
lease that ends gives a tile back. It is here to be measured against.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway_agent.victims import Forward
from schemas.contract.messages import frame_source, new_epoch


@dataclass
class Dealer:
    """``tiles`` of each frame. A frame is dealt once, when the one before it has ended."""

    tiles: int
    _dealt: dict[str, None] = field(default_factory=dict)

    def deal(self, frames: Sequence[str], nodes: dict[str, str]) -> list[Forward]:
        """What the sources are to lend now. ``frames`` are open, oldest first; ``nodes`` are the living and their epochs."""
        self._dealt = {frame: None for frame in self._dealt if frame in frames}
        if self._dealt or not frames:
            return []
        frame = frames[0]
        source, epoch, _ = frame_source(frame)
        if nodes.get(source) != epoch:
            return []
        self._dealt[frame] = None
        hands = [source, *(node for node in nodes if node != source)]
        takers = (hands[tile % len(hands)] for tile in range(self.tiles))
        return [
            Forward(source, epoch, taker, nodes[taker], new_epoch(), ahead=False) for taker in takers if taker != source
        ]
