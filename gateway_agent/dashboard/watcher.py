"""The dashboard's side of the gateway's thread: takes snapshots and lays them down for the server."""

import logging
import socket
import time
from pathlib import Path

from gateway_agent.dashboard.access import TOKEN_FILE, Access, kept_token
from gateway_agent.dashboard.hub import Hub
from gateway_agent.dashboard.record import Recorder
from gateway_agent.dashboard.server import Server
from gateway_agent.watchers import Watched
from schemas.contract.config import is_loopback
from schemas.contract.messages import Outcome
from schemas.host.process import version
from schemas.host.state import state_folder

WATCHED_S = 0.5  # from one snapshot to the next while somebody looks
UNWATCHED_S = 2.0
PICTURES_S = 1.0


class Dashboard:
    """A watcher of the gateway. ``url`` is where people find it, with the token when that is new; ``hint`` says where
    an older one is.
    """

    def __init__(self, gateway: Watched, host: str, port: int, root: str, state: Path | None = None) -> None:
        """Raises PlanError if the port cannot be had, DtError if the token cannot be kept."""
        token, is_new, self.hint, self._place = None, False, "", ""
        if not is_loopback(host):
            folder = state_folder(state, root)
            token, is_new = kept_token(folder)
            self._place = f" (token: {folder / TOKEN_FILE})"
            self.hint = "" if is_new else self._place
        self._gateway, self._root = gateway, root
        self.recorder = Recorder(gateway.board)
        self.hub = Hub()
        self._server = Server(self.hub, Access(token), gateway.ask, host, port)
        self.door = self._server.door
        self._next_at = 0.0
        self._watched = True  # as ``Gateway.watch`` was told; the first turn knows better
        logging.getLogger().addHandler(self.hub.log)
        self._server.start()
        shown, number = self._server.address
        if shown in ("0.0.0.0", "::"):
            shown = socket.gethostname()
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{number}/" + (f"#token={token}" if is_new else "")

    def told(self, terminal: bool) -> str:
        """Where it is, for people. A token is shown on a ``terminal`` alone: what goes elsewhere, a journal keeps."""
        return f"{self.url}{self.hint}" if terminal else f"{self.url.partition('#')[0]}{self._place}"

    def outcome(self, outcome: Outcome, now: float) -> None:
        """A frame has ended; the board knows."""
        self.recorder.outcome(outcome, now, time.time() - now)

    def pictured(self, frame: str, now: float) -> None:
        """The board has a new picture, of this frame."""
        self.recorder.pictured(frame)

    def tick(self, now: float) -> None:
        """After every event, and at least once a second."""
        self.hub.beat(self._gateway.connected)
        watched = self.hub.watched
        if watched != self._watched:
            self._watched = watched
            self._next_at = min(self._next_at, now + WATCHED_S)  # who begins to look need not wait for a slow turn
            self._gateway.want_pictures(self, PICTURES_S if watched else 0.0)
        if now >= self._next_at:
            self._next_at = now + (WATCHED_S if watched else UNWATCHED_S)
            about = {
                "version": version(), "root": self._root, "connected": self._gateway.connected,
                "broker": self._gateway.address,
            }  # fmt: skip
            self.hub.publish(
                self.recorder.snapshot(self._gateway.controls, self._gateway.bundle, about, now, time.time() - now)
            )

    def close(self) -> None:
        """The gateway ends."""
        logging.getLogger().removeHandler(self.hub.log)
        self._server.close()
