"""What a model's outputs mean: cards, decoders, places in the source image, pictures.

May import ``tiling`` and ``graph``. Law: no guess without evidence; else the result is raw.
"""
