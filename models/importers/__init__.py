"""Models of other formats become graphs: Darknet's.

May import ``graph`` and ``results`` (a card is written beside the model).
"""
