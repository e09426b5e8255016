"""The identity of one task, on every machine: frame id, index of the fused block in the plan, index of its tile."""

from typing import TypeAlias

Key: TypeAlias = tuple[str, int, int]
WHOLE = -1  # in the place of a tile's index: all of an undivided frame
