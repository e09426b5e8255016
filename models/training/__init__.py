"""Makes the model that ships: scenes with digits, training on PyTorch, export by our own writer, int8, evaluation.

``python -m models.training`` does all of it. Nothing here is needed to run a cluster, except ``scenes.moving_scene``,
which the demo's camera shows.
"""
