"""Coverage-guided fuzzing of everything that reads bytes of others: ``python -m bench.fuzz TARGET --minutes N``."""
