"""Tiles on the TFLite runtime: engines, their caches, probes of kernels, and speed.

May import ``tiling`` and ``graph``. Law: the same model, plan and kernels give the same bits.
"""
