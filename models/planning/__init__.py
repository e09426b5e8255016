"""Which plan wins on a cluster: what a plan costs, and the search over all of them.

May import ``tiling`` and ``graph``. Knows no runtime: its numbers are given. Law: the same numbers give the same plan.
"""
