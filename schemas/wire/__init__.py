"""The way of a message: its bytes, whom it is let in from, and the lines to the broker and to other edges.

May import ``contract`` and ``security``. Only ``link`` and ``direct`` do I/O. Law: what ``Guard`` did not admit
reaches no machine.
"""
