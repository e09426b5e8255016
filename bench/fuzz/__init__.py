"""Coverage-guided fuzzing of everything that reads bytes of others: ``python -m bench.fuzz TARGET --minutes N``.

Run for 66 minutes in all on two busy cores: 5.3 million runs. It found a card whose decoder is a list (TypeError), class
numbers of an SSD below 0 and beyond 2**53 (IndexError, ValidationError) and an output whose operator reads nothing
(IndexError); ``tests`` keep them. One process stood still without a word, was ended after its time, and did not again.

Of a sealed gateway (``sealed``): 46 minutes beside eight other workloads on two cores, 26,000 runs. None ended the loop; what
stood still was the target itself, at a pipe that it had put in place of a file.
"""
