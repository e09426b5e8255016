"""The identity of what nodes compute, on every machine: a lane of a frame, and a task of it, which is one block's."""

from typing import TypeAlias

LaneKey: TypeAlias = tuple[str, int]  # frame id, lane
TaskKey: TypeAlias = tuple[str, int, int]  # frame id, index of the block in the plan, lane
WHOLE = -1  # in the place of a lane: all of an undivided frame
