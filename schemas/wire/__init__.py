"""The way of a message: its bytes, whom it is let in from, and the line to the broker.

May import ``contract`` and ``security``. Only ``link`` does I/O. Law: what ``Guard`` did not admit reaches no machine.
"""
