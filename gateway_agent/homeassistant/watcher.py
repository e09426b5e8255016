"""Home Assistant watches the gateway: the thin part, between the mirror, which decides, and the client, which speaks."""

import logging
import queue
import random
from datetime import datetime, timezone

from gateway_agent.controls import Request
from gateway_agent.homeassistant import cluster
from gateway_agent.homeassistant.client import Client, Down, Heard, Up
from gateway_agent.homeassistant.cluster import GATEWAY
from gateway_agent.homeassistant.discovery import Tree, cluster_id
from gateway_agent.homeassistant.facts import Facts, Settings
from gateway_agent.homeassistant.mirror import CAMERA_S, Mirror, Said
from gateway_agent.watchers import Watched
from models.results.card_file import Card
from schemas.contract import messages as m
from schemas.contract.config import GatewayOptions
from schemas.host.process import version
from schemas.wire.link import Address

BIRTH_S = (1.0, 5.0)  # after Home Assistant's birth message, so that not all devices speak at once
PICTURES_S = CAMERA_S
WHOLE = 0.5  # least score of a whole picture's label, unless the card says
_log = logging.getLogger(__name__)


class HomeAssistant:
    """A ``gateway_agent.watchers.Watcher``. ``settings.broker`` is the address of Home Assistant's broker."""

    def __init__(self, gateway: Watched, settings: Settings) -> None:
        self._gateway = gateway
        self._mirror = Mirror(settings)
        self._birth = f"{settings.prefix}/status"
        self._tree = Tree(settings.cluster)
        will = Said(self._tree.of(GATEWAY, "availability"), b"offline")
        filters = (self._birth, self._tree.set("+"), f"{self._tree.base}/roster")
        self._client = Client(settings.broker, "deepthings-ha", filters, will)
        self._up: bool | None = None
        self._client.start()

    def outcome(self, outcome: m.Outcome, now: float) -> None:
        self._mirror.outcome(outcome, self._facts(), now)

    def pictured(self, frame: str, now: float) -> None:
        view = self._gateway.board.source(m.frame_source(frame)[0])
        self._mirror.pictured(frame, view.jpeg, now)

    def tick(self, now: float) -> None:
        while True:
            try:
                self._hear(self._client.heard.get_nowait(), now)
            except queue.Empty:
                break
        for said in self._mirror.tick(self._gateway.board, self._facts(), now, datetime.now(timezone.utc)):
            if not self._client.say(said):
                self._mirror.unsent(said.topic)

    def close(self) -> None:
        self._client.close(self._mirror.close())

    def _facts(self) -> Facts:
        gateway = self._gateway
        card = gateway.bundle.card
        threshold = WHOLE if card.score_threshold is None else card.score_threshold
        return Facts(gateway.controls, tuple(gateway.models), card.task, _labels(card), threshold, gateway.address,
                     gateway.connected, version())  # fmt: skip

    def _hear(self, event: Heard | Up | Down, now: float) -> None:
        if isinstance(event, Up):
            _log.info("Home Assistant's broker is at %s", self._client.address)
            self._up = True
            self._mirror.connected(now)
        elif isinstance(event, Down):
            if self._up is not False:
                _log.warning("no connection to Home Assistant's broker at %s: %s; retrying", self._client.address, event.reason)
            self._up = False
            self._mirror.lost()
        elif event.topic == self._birth:
            if event.payload == b"online" and not event.retained:
                self._mirror.birth(now + random.uniform(*BIRTH_S))
        elif event.topic.endswith("/roster"):
            self._mirror.learn(event.payload)
        elif not event.retained:  # a command that waits on the broker was meant for another day
            self._ask(event.topic.rpartition("/")[2], event.payload)

    def _ask(self, verb: str, payload: bytes) -> None:
        asked = cluster.command(verb, payload)
        if asked is None:
            _log.warning("ignoring an unknown command from Home Assistant: %s %r", verb[:50], payload[:50])
            self._mirror.echo()
            return

        def answer(refused: str) -> None:
            if refused:
                _log.warning("Home Assistant asked for %s: %s", verb, refused)
            self._mirror.echo()

        self._gateway.ask(Request(*asked, answer))


def settings_of(options: GatewayOptions, own: str | Address) -> Settings:
    """What the user asked for, completed: the cluster's ``own`` broker, and a name that stays."""
    labels = (label.strip() for label in (options.ha_labels or "").split(","))
    chosen = tuple(dict.fromkeys(label for label in labels if label))
    cluster = cluster_id(options.root)
    return Settings(options.ha_broker or own, options.ha_prefix, options.ha_discovery, chosen, cluster)


def _labels(card: Card) -> tuple[str, ...]:
    if card.task == "pose":
        return ("person",)
    return card.labels[1:] if card.has_background else card.labels
