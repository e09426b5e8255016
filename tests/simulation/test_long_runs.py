"""Hours of cluster time under faults, drawn from a seed: eight in an ordinary run, more by DT_SIMULATION_HOURS.

Another DT_SIMULATION_SEED gives other hours. A failure names its seed, and the same seed fails again.
"""

import os
import random

import pytest

from tests.simulation.cluster import FAULTS, Cluster, Fault, Setup

HOURS = float(os.environ.get("DT_SIMULATION_HOURS", "8"))
SEED = int(os.environ.get("DT_SIMULATION_SEED", "5"))
CLUSTERS = {
    "one source": Setup("one block", sources=1, helpers=3, period_s=4.0),
    "two sources": Setup("one block", sources=2, helpers=2, period_s=6.0, straight=1.0),
    "all sources": Setup("undivided", sources=3, helpers=1, period_s=6.0),
    "reuse": Setup("reuse", sources=1, helpers=2, period_s=5.0),
    "lanes": Setup("three blocks", sources=1, helpers=3, period_s=8.0, straight=0.5),
    "lanes of two sources": Setup("three blocks, undivided", sources=2, helpers=2, period_s=12.0),
    "whole end": Setup("two blocks, two whole", sources=1, helpers=3, period_s=8.0, straight=1.0),
    "whole ends of two sources": Setup("whole end, undivided", sources=2, helpers=2, period_s=12.0),
    "recurrent": Setup("one block", sources=2, helpers=2, period_s=6.0, ordered=True),
    "impatient": Setup("one block", sources=2, helpers=1, period_s=5.0, deadline_s=8.0),
}
REST_S = 20.0  # between two faults, on average


@pytest.mark.parametrize("name", CLUSTERS)
def test_hours_of_faults_lose_nothing(name: str) -> None:
    setup = CLUSTERS[name]
    setup.seed = SEED
    chance, cluster = random.Random(f"{SEED} {name}"), Cluster(setup)
    while cluster.world.now < HOURS / len(CLUSTERS) * 3600:
        cluster.run(chance.expovariate(1 / REST_S))
        cluster.do(
            Fault(
                chance.choice(FAULTS),
                chance.randrange(12),
                chance.choice([0.1, 1.0, 4.0, 10.0, 40.0]),
                chance.choice([-1, -1, 0, 1, 2, 5, 9]),
            )
        )
    cluster.heal()
    ended = cluster.truth.reasons
    assert ended["ok"] > 0.5 * sum(ended.values()), ended
    assert setup.deadline_s < 60 or not ended["deadline"], ended
