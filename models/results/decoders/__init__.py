"""Decoders, one file a family: a model's outputs become results in the source image's coordinates."""
