"""How a running gateway gets another plan: made and tried in a thread, it runs when the frames in flight have ended.

Law: one plan is made at a time, and one that somebody asks for comes before one that nobody did.
"""

import logging
import queue
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway_agent.controls import Request
from gateway_agent.replan import Replanner, better
from models.bundle import Bundle
from models.graph.effort import arithmetic
from models.graph.file import parse
from models.results.card import check_inputs
from models.running.engine import kernels, threads
from models.running.samples import arithmetics
from models.running.speed import measure_speed
from models.trial import try_bundle
from schemas.contract.chunks import chunk_count
from schemas.contract.errors import DtError, PlanError
from schemas.contract.messages import Register
from schemas.wire.codec import CONTROL_BYTES, PLAN_BYTES
from schemas.wire.pace import measure_messages

CHUNK_NAME_BYTES = 40  # that each chunk of a model adds to the plan's message
DRAIN_S = 15.0  # frames in flight have so long to end under the plan that they began with
Make: TypeAlias = Callable[[], Bundle | None]
_log = logging.getLogger(__name__)


def complete(bundle: Bundle) -> Bundle:
    """A model of which all inputs are known.

    Raises:
        PlanError: the card says nothing of one.
    """
    check_inputs(bundle.card, bundle.graph, bundle.path.with_suffix(".toml"))
    return bundle


def bind(bundle: Bundle) -> Bundle:
    """The bundle with its plan bound to this machine's kernels of the arithmetics that the edges use.

    Raises:
        PlanError: the plan is longer than the message that tells edges of it may be.
    """
    plan = bundle.plan.model_copy(update={"runtime": kernels(arithmetics(parse(bundle.edge_model)))})
    most = PLAN_BYTES - CONTROL_BYTES - CHUNK_NAME_BYTES * chunk_count(len(bundle.edge_model))
    if (length := len(plan.model_dump_json())) > most:
        raise PlanError(f"a plan of {length} bytes, its message carries {most}: choose a coarser grid")
    return replace(bundle, plan=plan)


@dataclass(frozen=True)
class Planned:
    """A plan that was asked for, or none: with ``error``, or because the present one is good enough."""

    request: Request | None
    bundle: Bundle | None
    error: str = ""


class Plans:
    """The next plan of a gateway. What its thread has made comes into ``inbox`` as ``Planned``, for ``made``."""

    def __init__(self, inbox: queue.Queue[object], cores: int | None) -> None:
        self._inbox, self._cores = inbox, cores
        self._making: Request | bool = False  # for whom, or True: for nobody
        self._wanted: tuple[Make, Request] | None = None
        self._replanner: Replanner | None = None
        self._objective = "latency"
        self._next: Bundle | None = None
        self._swap_at = float("inf")

    @property
    def automatic(self) -> bool:
        """Whether the gateway plans again by itself."""
        return self._replanner is not None

    @property
    def draining(self) -> bool:
        """Whether a plan waits for the frames in flight: sources open none."""
        return self._next is not None

    def replan(self, objective: str | None = None, replanner: Replanner | None = None) -> None:
        """From now on: plan again by ``objective`` (None: the one before) when nodes join, leave or turn slower."""
        self._replanner, self._objective = replanner or Replanner(), objective or self._objective

    def hear(self, register: Register) -> None:
        """A node's heartbeat."""
        if self._replanner is not None:
            self._replanner.hear(register)

    def tick(self, bundle: Bundle, nodes: Collection[str], now: float) -> None:
        """Makes a new plan, if the cluster has changed so much that ``bundle`` needs one. ``nodes``: who is here."""
        if self._replanner is None or self._making or self._next is not None:
            return
        members = self._replanner.due(nodes, now)
        if members is not None:
            self._replanner.planned(members, now)
            objective, own = self._objective, threads(self._cores)

            def plan() -> Bundle | None:
                speed = measure_speed(arithmetic(bundle.graph), own)
                return better(bundle, members, objective, speed, measure_messages())

            self.make(plan)

    def make(self, make: Make, request: Request | None = None) -> str | None:
        """Run what ``make`` returns (None: the same as before) as soon as the frames in flight have ended.

        ``make`` runs in a thread of its own, and what it returns is tried there in a child before anybody hears of it.
        Returns why not, or None: it is under way.
        """
        if self._making is True and request is not None and self._wanted is None:
            self._wanted = (make, request)
            return None
        if self._making:
            return "another plan is being made: try again"
        self._making = request or True

        def work() -> None:
            try:
                made = make()
                if made is not None:
                    made = bind(made)
                    try_bundle(made, threads(self._cores))
                self._inbox.put(Planned(request, made))
            except DtError as error:
                self._inbox.put(Planned(request, None, str(error)))
            except (OSError, MemoryError, ValueError, ArithmeticError) as error:  # the asker must hear, and others ask
                self._inbox.put(Planned(request, None, f"it cannot be planned: {type(error).__name__} {error}".strip()))

        threading.Thread(target=work, name="planner", daemon=True).start()
        return None

    def made(self, planned: Planned, now: float) -> bool:
        """What the thread has made. Returns whether it counts: it does not where somebody's own wish takes its place."""
        self._making = False
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self.make(*wanted)
            return False
        if planned.bundle is not None:
            self._next, self._swap_at = planned.bundle, now + DRAIN_S
        elif planned.error and planned.request is None:
            _log.error("no new plan: %s", planned.error)
        if planned.request is not None and planned.request.verb == "grid" and not planned.error:
            self._replanner = None  # whoever chooses by hand wants that
        return True

    def due(self, is_busy: bool, now: float) -> Bundle | None:
        """The plan that is to run from now on, once. ``is_busy``: frames are in flight."""
        if self._next is None or (is_busy and now < self._swap_at):
            return None
        bundle, self._next, self._swap_at = self._next, None, float("inf")
        return bundle
