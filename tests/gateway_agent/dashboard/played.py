"""A cluster that is played on a board: three nodes, the first with a camera, and whatever frames a test wants."""

import contextlib
import http.client
import json
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import models
from gateway_agent.cluster_view import ClusterView
from gateway_agent.controls import Request, State
from gateway_agent.dashboard.watcher import Dashboard
from models.bundle import Bundle, make_bundle
from models.results import jpeg
from schemas.contract import messages as m
from schemas.contract.results import Detection, Result

EPOCH = "0123abcd"
SPEED = 2e10
NODES = ("edge1", "edge2", "edge3")
DIGITS = Path(models.__file__).parent / "zoo" / "digits.tflite"


@cache
def digits() -> Bundle:
    """The digit reader at 3x3."""
    return make_bundle(DIGITS, (3, 3))


class Played:
    """What the dashboard needs of a gateway. Requests are obeyed at once; grid ``9x9`` is refused."""

    address = "127.0.0.1:1883"

    def __init__(self) -> None:
        self.board = ClusterView()
        self.models: dict[str, Path] = {}
        self.bundle = digits()
        self.controls = State(True, 0.5, "3x3", "digits")
        self.connected = True
        self.asked: list[Request] = []
        self.frames = 0
        self.pictures_s = 1.0

    def want_pictures(self, watcher: object, pictures_s: float) -> None:
        self.pictures_s = pictures_s

    def ask(self, request: Request) -> None:
        self.asked.append(request)
        if request.value == "9x9":
            return request.answer("a tile would be empty")
        if request.value == "auto":
            self.controls = replace(self.controls, automatic=True)
        elif request.verb != "restart":
            self.controls = State(**{**vars(self.controls), request.verb: request.value})
        request.answer("")

    def join(self, now: float) -> None:
        for name in NODES:
            self.board.hear(
                m.Register(
                    node=name, epoch=EPOCH, seq=0, runtime="r", camera=name == "edge1", flops_s=SPEED, bytes_s=1e7
                ),
                now,
            )
            vitals = m.Vitals(cpu=0.4, temperature_c=48.0, memory_bytes=90_000_000, throttled=False, uptime_s=60.0)
            self.board.hear(
                m.Status(
                    node=name, epoch=EPOCH, tile_s=0.03, missed=5, bytes_out=1000, bytes_in=500, vitals=vitals,
                    straight=tuple(other for other in NODES[:2] if other != name), straight_out=700, straight_in=300,
                    dropped={"no message": 2}, source="synthetic://" if name == "edge1" else "",
                ),
                now,
            )  # fmt: skip
        self.board.alive(NODES, now)

    def frame(self, now: float, latency_s: float = 0.2, reason: str = "") -> m.Outcome:
        """One frame of edge1: nine tiles, three a node, ended at ``now``; failed if there is a ``reason``."""
        name = m.frame_id("edge1", EPOCH, self.frames)
        self.frames += 1
        begun = now - latency_s
        self.board.hear(
            m.Register(node="edge1", epoch=EPOCH, seq=1, runtime="r", camera=True, frames=(name,), flops_s=SPEED), begun
        )
        workers = tuple(NODES[i % 3] for i in range(9))
        if not reason:
            for i, worker in enumerate(workers):
                end = begun + latency_s * (i + 1) / 10
                self.board.hear(
                    m.ResultHeader(
                        node=worker, epoch=EPOCH, plan="0" * 32, frame=name, block=0, tile=i,
                        compute_s=latency_s / 12, stolen=worker != "edge1",
                    ),
                    end,
                )  # fmt: skip
        found = Detection(label="7", index=7, score=0.96, box=(200.0, 100.0, 260.0, 220.0))
        ok: dict[str, object] = {
            "status": "ok", "computed": dict.fromkeys(NODES, 3), "stolen": {"edge2": 3, "edge3": 3},
            "workers": workers, "stolen_tiles": tuple(i for i in range(9) if i % 3), "picture": (480, 640),
            "result": Result(task="detect", detections=(found,)),
        }  # fmt: skip
        outcome = m.Outcome.model_validate(
            {"node": "gateway", "epoch": EPOCH, "frame": name, "latency_s": latency_s, "reason": reason}
            | ({"status": "failed"} if reason else ok)
        )
        self.board.outcome(outcome, now)
        return outcome

    def picture(self, outcome: m.Outcome) -> None:
        """A picture of its frame, half the size of the source's image."""
        y, x = np.mgrid[:240, :320]
        image = np.stack([y % 256, x % 256, (x + y) % 256], axis=-1).astype(np.uint8)
        data = jpeg.encode(image, 1280)
        self.board.pictured(outcome.frame, data, data)


class Site:
    """A dashboard of a played cluster, and how to ask it. ``turn`` is a turn of the gateway's loop at second ``at``."""

    def __init__(self, host: str = "127.0.0.1", state: Path | None = None) -> None:
        self.played = Played()
        self.dashboard = Dashboard(self.played, host, 0, "dt", state)
        self.host, number = self.dashboard.url.split("/")[2].rsplit(":", 1)
        self.port = int(number)
        self.at = time.monotonic()

    def reopen(self) -> None:
        """Another process of the gateway, with a board of its own, at the same place."""
        self.played = Played()
        self.dashboard = Dashboard(self.played, "127.0.0.1", self.port, "dt")

    def turn(self, seconds: float = 10.0) -> None:
        self.at += seconds
        self.dashboard.tick(self.at)

    def frame(self, reason: str = "", picture: bool = False) -> None:
        outcome = self.played.frame(self.at, 0.2, reason)
        self.dashboard.outcome(outcome, self.at)
        if picture:
            self.played.picture(outcome)
            self.dashboard.pictured(outcome.frame, self.at)

    def ask(
        self, path: str, method: str = "GET", body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers or {})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def json(self, path: str, **more: Any) -> Any:
        return json.loads(self.ask(path, **more)[2])
