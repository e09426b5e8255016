"""What a Home Assistant device is made of beside the board: settings of the user, and what the gateway says of itself."""

from dataclasses import dataclass

from gateway_agent.controls import State
from gateway_agent.homeassistant.discovery import PREFIX, Mode
from schemas.contract.results import Task
from schemas.wire.link import Address

FEW = 16  # labels; so many have their entities at once


@dataclass(frozen=True)
class Settings:
    """``broker``: the one to which Home Assistant listens; ``labels``: those that have entities, none: see
    ``labels_of``; ``cluster`` keeps several clusters apart in one Home Assistant.
    """

    broker: str | Address = ""
    prefix: str = PREFIX
    discovery: Mode = "device"
    labels: tuple[str, ...] = ()
    cluster: str = ""


@dataclass(frozen=True)
class Facts:
    """``models``: what the model may be changed to; ``labels``: all that the model knows, best if few; ``broker``: the
    cluster's, without secrets; ``threshold``: least score of what is seen at all.
    """

    controls: State
    models: tuple[str, ...]
    task: Task
    labels: tuple[str, ...]
    threshold: float
    broker: str
    connected: bool
    version: str

    @property
    def reads(self) -> bool:
        """Whether the model sees digits, of which rows make a reading."""
        return bool(self.labels) and set(self.labels) <= set("0123456789")


def labels_of(facts: Facts, asked: tuple[str, ...], seen: set[str]) -> tuple[str, ...]:
    """The labels that have entities: those asked for; else all if they are few, and those seen if they are many."""
    if facts.task == "raw":
        return ()
    if asked:
        return asked
    return facts.labels if facts.labels and len(facts.labels) <= FEW else tuple(sorted(seen))
