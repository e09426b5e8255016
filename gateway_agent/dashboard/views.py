"""What the board knows, as JSON for people: one function a thing. Times that leave are UTC; unknown values are None.

``wall`` is what lies between monotonic seconds and UTC.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from gateway_agent.cluster_view import ClusterView, Event, NodeView, Timeline
from models.bundle import Bundle
from models.results.draw import class_colour, node_colour
from models.results.geometry import answer_boxes, halo_boxes
from models.results.readings import read_panels
from schemas.contract.messages import Outcome, Picture, Status, frame_source
from schemas.contract.plan import Plan
from schemas.contract.results import Result, sentence

REASONS: Final = {  # how reasons begin -> their class: text of an engine's error would be a label of its own each time
    "source lost": "source lost",
    "source restarted": "source lost",
    "deadline": "deadline",
    "model error": "model error",
    "the plan has changed": "plan changed",
}


def node_view(view: NodeView, now: float, wall: float) -> dict[str, Any]:
    """A node for people. Rates are per second; what is not known is None."""
    return {
        "name": view.name,
        "colour": hexadecimal(node_colour(view.name)),
        "online": view.online,
        "since": view.since + wall,
        "camera": view.camera,
        "runtime": view.runtime,
        "waiting": view.waiting,
        "computed": view.computed,
        "stolen": view.stolen,
        "flops_s": view.flops_s,
        "bytes_s": view.bytes_s,
        "message_speed": view.message_speed,
        "fetched": None if view.online else view.fetched(now),
        "rate": round(view.tiles.per_second(now), 3) if view.online else 0.0,
        **status_view(view.status),
    }


def status_view(status: Status | None) -> dict[str, Any]:
    """What a node, or the gateway, tells of itself; ``status`` is False before it has."""
    if status is None:
        return {"status": False}
    vitals = status.vitals
    return {
        "status": True, "version": status.version, "tile_s": status.tile_s, "lent": status.lent,
        "cpu": vitals.cpu, "temperature_c": vitals.temperature_c, "memory_bytes": vitals.memory_bytes,
        "throttled": vitals.throttled, "uptime_s": vitals.uptime_s, "bytes_in": status.bytes_in,
        "bytes_out": status.bytes_out, "straight": status.straight, "straight_out": status.straight_out,
        "straight_in": status.straight_in, "rejected": dict(status.dropped),
    }  # fmt: skip


def totals(board: ClusterView, now: float) -> dict[str, Any]:
    """Of all sources together."""
    return {
        "frames": board.frames, "failed": board.failed, "tiles": board.tiles, "stolen": board.stolen,
        "fps": round(board.rate.per_second(now), 3), "latency_s": rounded(board.latency_s()),
        "online": len(board.online), "nodes": len(board.nodes),
        "fetching": sum(not view.online and view.fetched(now) is not None for view in board.nodes.values()),
    }  # fmt: skip


def frame_view(timeline: Timeline, number: int, wall: float) -> dict[str, Any]:
    """A frame and its tiles: ``tiles`` are [tile, node, stolen, start, end], in seconds since its first word."""
    outcome = timeline.outcome
    source, _, count = frame_source(outcome.frame)
    return {
        "number": number, "frame": outcome.frame, "source": source, "count": count, "at": timeline.at + wall,
        "status": outcome.status, "reason": outcome.reason, "latency_s": rounded(outcome.latency_s),
        "tiles": [[s.tile, s.node, s.stolen, rounded(s.start), rounded(s.end)] for s in timeline.spans],
        "workers": outcome.workers, "stolen": outcome.stolen_tiles,
        "says": says(outcome.result) if outcome.result is not None else "",
    }  # fmt: skip


def event_view(event: Event, wall: float) -> dict[str, Any]:
    """An event for people."""
    at = event.at + wall
    return {"number": event.number, "at": at, "kind": event.kind, "about": event.about, "text": event.text}


def picture_view(source: str, outcome: Outcome) -> dict[str, Any]:
    """Where a picture is, its frame's size, and what is seen in it, in pixels of that size."""
    height, width = outcome.picture
    return {
        "url": f"picture/{source}?frame={outcome.frame}", "frame": outcome.frame, "width": width, "height": height,
        "seen": seen(outcome.result) if outcome.result is not None else None,
    }  # fmt: skip


def seen(result: Result) -> dict[str, Any]:
    """A result with the colours of its classes and one line that says it."""
    view = result.model_dump()
    for kind in ("detections", "classes", "segments"):
        for one in view[kind]:
            one["colour"] = hexadecimal(class_colour(one["index"]))
    return {**view, "says": says(result)}


def says(result: Result) -> str:
    """A result in a few words: readings, or how many of each label; other tasks as everywhere."""
    if result.task != "detect":
        return sentence(result)
    labels = Counter(detection.label for detection in result.detections)
    if labels and all(len(label) == 1 and label in "0123456789" for label in labels):
        return "reads " + ", ".join(read_panels(result.detections))
    return (
        ", ".join(f"{count} {label}" if count > 1 else label for label, count in labels.most_common()) or "nothing seen"
    )


def plan_view(bundle: Bundle, sizes: Iterable[Picture]) -> dict[str, Any]:
    """The plan: its tiles, and for each size of picture (``WxH``) their shares and halos in its pixels."""
    plan = bundle.plan
    last = plan.blocks[plan.answers[-1][0]]
    return {
        "digest": plan.digest(), "model": bundle.name, "task": bundle.card.task, "undivided": plan.undivided,
        "exactness": plan.exactness,
        "rows": last.rows, "cols": last.cols, "width": plan.pixels.width, "height": plan.pixels.height,
        "blocks": [
            {"cut": block.name, "split": block.kind, "reuse": block.reuse,
             "flops": sum(tile.flops for tile in block.tiles)}
            for block in plan.blocks
        ],
        "flops": plan_flops(plan),
        "views": {
            f"{size[1]}x{size[0]}": {
                "shares": _boxes(answer_boxes(plan, size)),
                "halos": _boxes(halo_boxes(plan, size)),
            }
            for size in sizes
        },
    }  # fmt: skip


def plan_flops(plan: Plan) -> list[int]:
    """Operations of each task that answers, and of those of its lane; where other lanes work for it, of all of them."""
    found = []
    for block, lane in plan.answers:
        own = [lane] if plan.blocks[block].split == "tiles" else range(plan.lanes)
        found.append(sum(task.flops for i in range(block + 1) for home in own if (task := plan.task(i, home))))
    return found


def _boxes(boxes: Iterable[tuple[float, ...]]) -> list[list[float]]:
    return [[round(value, 1) for value in box] for box in boxes]


def reason_class(reason: str) -> str:
    """One of few words for why a frame failed."""
    return next((kind for start, kind in REASONS.items() if reason.startswith(start)), "other")


def hexadecimal(colour: tuple[int, int, int]) -> str:
    """RGB as the page's ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def rounded(seconds: float | None) -> float | None:
    """To a tenth of a millisecond: what is shown at most."""
    return None if seconds is None else round(seconds, 4)
