"""Where a graph may be cut, how a block is divided, and the graph of each part.

May import ``graph``. Law: the parts of a cut's tensors cover them, each element once.
"""
