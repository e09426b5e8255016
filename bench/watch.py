"""Writes what a cluster publishes of its frames and nodes, one JSON line a message: `python -m bench.watch URL FILE`."""

import json
import queue
import sys
import time
from pathlib import Path
from typing import Any

from schemas.contract import topics
from schemas.wire.codec import decode
from schemas.wire.link import Arrived, Link


def main() -> None:
    url, file = sys.argv[1], Path(sys.argv[2])
    inbox: queue.Queue[Any] = queue.Queue(4096)
    link = Link(url, "dt", "watch", inbox)
    for topic in (topics.OUTCOME, topics.STATUS):
        link.subscribe(topic)
    link.connect()
    with file.open("w", buffering=1) as out:
        out.write(json.dumps({"kind": "ready"}) + "\n")
        while True:
            event = inbox.get()
            if isinstance(event, Arrived):
                message = decode("dt", event.topic, event.payload).message
                told = {
                    "kind": type(message).__name__,
                    "at": time.monotonic(),
                    **message.model_dump(exclude={"result"}),
                }
                out.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
