"""What is known of one source between two frames: its objects, when it was last seen, and whether that still holds.

It knows no socket, thread or clock.
"""

from gateway_agent.cluster_view import NodeView, SourceView
from gateway_agent.homeassistant.facts import Facts
from gateway_agent.homeassistant.sources import HOLD_S
from gateway_agent.homeassistant.tracker import Change, Tracker, sights
from schemas.contract import messages as m
from schemas.contract.results import Result

SILENT_S = 180.0  # without a sign of the camera: more than the longest usual pause of one that shows no motion
PICTURES = 32  # frames with objects whose picture may still come


class Scene:
    """``labels``: those that were ever there. ``result``: the last one, None before the first."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self.labels: set[str] = set()
        self.result: Result | None = None
        self._fresh = False  # the last result still says something
        self._ill_since: float | None = None
        self._sign: tuple[int, ...] = ()
        self._sign_at = 0.0
        self._shown: dict[str, bool] = {}  # frame -> whether anything is on it

    def outcome(self, outcome: m.Outcome, facts: Facts, now: float) -> list[Change]:
        """A frame has ended. One that failed says nothing of what is there."""
        if outcome.result is None:
            return []
        self.result, self._fresh = outcome.result, True
        seen = sights(outcome.result, facts.threshold)
        self._shown[outcome.frame] = bool(seen)
        while len(self._shown) > PICTURES:
            del self._shown[next(iter(self._shown))]
        changes = self.tracker.see(outcome.frame, seen, now)
        self.labels.update(self.tracker.counts)
        return changes

    def shows(self, frame: str) -> bool:
        """Whether there is an object on this frame."""
        return self._shown.get(frame, False)

    def judge(self, view: SourceView, node: NodeView | None, facts: Facts, now: float) -> tuple[str, bool]:
        """Why the source is degraded (empty if it is not), and whether what was seen may still be shown."""
        reason = self._reason(view, node, facts, now)
        if (reason and reason != view.degraded) or not facts.controls.detection:
            self._fresh = False
        if not reason:
            self._ill_since = None
        elif self._ill_since is None:
            self._ill_since = now
        return reason, self._fresh and (self._ill_since is None or now < self._ill_since + HOLD_S)

    def _reason(self, view: SourceView, node: NodeView | None, facts: Facts, now: float) -> str:
        if node is None or not node.online:
            return "the node is gone"
        if not node.camera:
            return "the node has no source now"
        status = node.status
        if status is not None and status.finished:
            return "the source has ended"
        sign = (view.frames, view.failed, status.frames if status else 0, status.still if status else 0)
        if sign != self._sign or not facts.controls.detection:
            self._sign, self._sign_at = sign, now
        if now >= self._sign_at + SILENT_S:
            return f"no frame for {SILENT_S:.0f} s"
        return view.degraded
