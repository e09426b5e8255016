"""How much is tried: ``@examples(200)`` draws so many in `make test-all`, a share in `make test`, and so does ``share``.

$DT_EXAMPLES names the profile: few (the default) or all. No example is timed: beside other work any of them may be slow.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")
SHARES = {"few": 20, "all": 100}  # percent; Hypothesis draws 100 examples where a test names no number


def register() -> None:
    """Make the profile of this run the one that counts, before any test is read."""
    for name, percent in SHARES.items():
        slow = [HealthCheck.too_slow]
        settings.register_profile(name, max_examples=percent, deadline=None, suppress_health_check=slow, print_blob=True)
    settings.load_profile(os.environ.get("DT_EXAMPLES") or "few")


def examples(count: int, **more: Any) -> settings:
    """Settings for a property whose whole number of examples is ``count``."""
    return settings(max_examples=max(count * settings().max_examples // 100, 5), **more)


def share(values: Sequence[T], few: int) -> Sequence[T]:
    """All of what is costly to try, or the first ``few``."""
    return values if settings().max_examples == SHARES["all"] else values[:few]
