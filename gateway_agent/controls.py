"""What people and programs may ask of a running gateway: the one list of verbs behind bridge, Home Assistant, dashboard.

A request comes through the gateway's inbox and is answered once, in the gateway's own thread, so that no asker needs a
lock and none waits: ``answer`` is called with an empty text, or with why it was refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Verb: TypeAlias = Literal["detection", "threshold", "grid", "model", "remove", "restart"]
VERBS: tuple[Verb, ...] = get_args(Verb)
Value: TypeAlias = bool | float | str | None
AUTO = "auto"  # a grid: the gateway chooses, and again when the cluster changes


@dataclass(frozen=True)
class Request:
    """``detection``: bool, whether sources open frames; ``threshold``: least score of a detection, 0 to 1; ``grid``: tiles
    such as "3x3", planned again and kept, or "auto"; ``model``: one of the gateway's folder of models, by its file's
    stem, with the grid of now; ``remove``: a node that is gone, shown no more; ``restart``: the process ends with success
    and its service starts it again.
    """

    verb: Verb
    value: Value
    answer: Callable[[str], None]


@dataclass(frozen=True)
class State:
    """What the controls are set to. ``threshold`` is None if the model's decoder has none; ``automatic``: the gateway
    chose ``grid``, and will again; ``exactness``: whether answers have the model's own bits.
    """

    detection: bool
    threshold: float | None
    grid: str
    model: str
    automatic: bool = False
    exactness: str = "exact"
