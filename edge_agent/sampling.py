"""Whether those who compute a source's tiles tell the truth: now and then it computes one again itself, and compares.

It knows the plan and names, no socket, thread or clock. Law: a source judges who computes its own frames, by its own engine,
and nobody's word judges anybody else. Where tiles give each other parts a wrong result may be the fault of any node of the
frame: these are tried one at a time, a frame each. A check takes the engine when it has nothing else to do, or waits
``PATIENCE_S``; all checks together take ``SHARE`` of its time, but for those of nodes that were never checked.
"""

import random
from collections import Counter
from collections.abc import Mapping

import numpy as np

from edge_agent.lanes import Lanes
from models.tiling.tensor import answer_of, crop, fingerprint
from schemas.contract.keys import TaskKey
from schemas.contract.plan import Plan

SHARE = 0.05
PATIENCE_S = 5.0
IDLE_FRAMES = 5  # a node that takes nothing of so many frames is not tried any longer
FRAMES = 64

Tensors = Mapping[str, np.ndarray]
Answer = tuple[int, int, str]  # block and lane of a task, and the node whose result it is


class Sampler:
    """What the node ``name`` knows of those who computed for it. ``liars``: whose bits were wrong; for ever, by name."""

    def __init__(self, name: str, plan: Plan, chance: random.Random | None = None) -> None:
        self.liars: set[str] = set()
        self.checks: Counter[str] = Counter()  # passed, by node
        self._name, self._plan, self._chance = name, plan, chance or random.Random()
        self._lanes = Lanes(plan)
        self._exchanges = self._lanes.is_exchanging
        self._answers: dict[str, dict[Answer, str]] = {}  # by frame: the fingerprint of each
        self._thieves: dict[str, set[str]] = {}
        self._trial: list[str] = []  # of these one gives wrong bits
        self._missed = 0
        self._checked: dict[Answer, str] = {}  # of the frame that is checked now
        self._suspected: list[str] = []  # its thieves
        self._wrong = False
        self._since, self._spent_s, self._next_at = 0.0, 0.0, float("-inf")

    def may_lend(self, thief: str) -> bool:
        """Whether it may compute for us now."""
        return thief not in self.liars and (not self._trial or thief == self._trial[0])

    def lent(self, frame: str, thief: str) -> None:
        """It got a tile of an own frame."""
        self._thieves.setdefault(frame, set()).add(thief)
        for old in list(self._thieves)[:-FRAMES]:
            self.forget(old)

    def wants(self, frame: str, now: float) -> bool:
        """Whether this frame may be checked when it has ended."""
        thieves = self._thieves.get(frame, set()) - self.liars
        if not thieves or len(self._lanes):
            return False
        if self._trial:
            return thieves == {self._trial[0]}
        return now >= self._next_at or any(not self.checks[thief] for thief in thieves)

    def answered(self, key: TaskKey, node: str, fingerprint: str) -> None:
        """The result of ``node`` for a task of an own frame."""
        frame, block, tile = key
        if frame in self._thieves:
            self._answers.setdefault(frame, {})[block, tile, node] = fingerprint

    def ended(self, frame: str, image: np.ndarray, now: float) -> None:
        """An own frame has ended: it may be checked."""
        wanted = self.wants(frame, now)
        answers, thieves = self._answers.pop(frame, {}), self._thieves.pop(frame, set())
        if self._trial and self._trial[0] not in thieves:
            self._missed += 1
            if self._missed >= IDLE_FRAMES:
                self._tried()
        if not wanted or not answers:
            return
        if not self._exchanges:
            answers = self._picked(answers)
        self._checked, self._suspected, self._wrong = answers, sorted(thieves - self.liars), False
        self._since, self._spent_s = now, 0.0
        for tile in range(self._plan.lanes) if self._exchanges else {tile for _, tile, _ in answers}:
            task = self._plan.task(0, tile)
            self._lanes.start(frame, tile, {n: crop(image, box) for n, box in task.inputs.items()} if task else {}, now)

    def take(self, idle: bool, now: float) -> tuple[TaskKey, Tensors] | None:
        """What to compute now for a check; ``idle``: the engine has nothing else."""
        return self._lanes.take() if len(self._lanes) and (idle or now >= self._since + PATIENCE_S) else None

    def computed(self, key: TaskKey, outputs: Tensors, seconds: float, now: float, error: str = "") -> list[str]:
        """The engine is through with a part of a check. Returns the nodes whose bits are found to be wrong now."""
        frame, layer, tile = key
        self._spent_s += seconds
        if error:  # nothing is known
            self._lanes = Lanes(self._plan)
            return []
        self._lanes.computed(key, outputs, now, seconds)
        given = [answer for (block, lane, _), answer in self._checked.items() if (block, lane) == (layer, tile)]
        if given:
            own = fingerprint({name: outputs[name] for name in answer_of(self._plan, layer, tile)})
            self._wrong = self._wrong or any(answer != own for answer in given)
        return [] if len(self._lanes) else self._judged(frame, now)

    def forget(self, frame: str) -> None:
        """Nothing of it will be checked."""
        self._answers.pop(frame, None)
        self._thieves.pop(frame, None)

    def _picked(self, answers: dict[Answer, str]) -> dict[Answer, str]:
        """One answer, of a node that was never checked if there is one, otherwise any."""
        others = [answer for answer in answers if answer[2] not in (*self.liars, self._name)]
        new = [answer for answer in others if not self.checks[answer[2]]]
        if not others:
            return {}
        chosen = self._chance.choice(new or others)
        return {chosen: answers[chosen]}

    def _judged(self, frame: str, now: float) -> list[str]:
        self._lanes.end(frame)
        self._next_at = now + self._spent_s / SHARE
        suspected = self._suspected if self._exchanges else [node for _, _, node in self._checked]
        if not self._wrong:
            self.checks.update(suspected)
        elif len(suspected) == 1:
            self.liars.add(suspected[0])
        elif not self._trial:
            self._trial, self._missed = suspected, 0
            return []
        if self._trial and self._trial[0] in suspected:
            self._tried()
        return suspected if self._wrong and len(suspected) == 1 else []

    def _tried(self) -> None:
        """The first of those that are tried is through."""
        self._trial, self._missed = self._trial[1:], 0
