"""Sparse constants as dense ones. Source: TensorFlow's schema.fbs, SparsityParameters."""

from typing import Any

import numpy as np

_CSR = 1  # DimensionType; the other is dense


def densified(values: np.ndarray, shape: tuple[int, ...], sparsity: dict[str, Any]) -> np.ndarray:
    """The dense array of ``shape`` of the values that are stored, in the order of the traversal.

    Dimensions behind those of ``shape`` are of blocks: ``block_map`` tells which dimension each divides.

    Raises:
        ValueError: the table does not hold together.
    """
    order, levels = sparsity.get("traversal_order", ()), sparsity.get("dim_metadata", [])
    blocks = [int(d) for d in sparsity.get("block_map", ())]
    if sorted(map(int, order)) != list(range(len(shape) + len(blocks))) or len(levels) != len(order):
        raise ValueError("a sparse tensor's dimensions are not all described, each once")
    found: dict[int, np.ndarray] = {}
    sizes: dict[int, int] = {}
    count = 1
    for dimension, level in zip(map(int, order), levels):
        if level.get("format", 0) == _CSR:
            segments, places = (level.get(f"array_{name}", {}).get("values", ()) for name in ("segments", "indices"))
            ends = np.asarray(segments, np.int64)
            repeats: np.ndarray = ends[1:] - ends[:-1]
            if len(repeats) != count or (repeats < 0).any() or int(repeats.sum()) != len(places):
                raise ValueError("a sparse tensor's segments do not fit its indices")
            own = np.asarray(places, np.int64)
        else:
            sizes[dimension] = size = int(level.get("dense_size", 0))
            if not 0 < size <= len(values):
                raise ValueError("a sparse tensor has a dimension without a size")
            repeats, own = np.full(count, size), np.tile(np.arange(size), count)
        found = {d: np.repeat(where, repeats) for d, where in found.items()} | {dimension: own}
        count = len(own)
        if count > len(values):
            raise ValueError("a sparse tensor describes more values than it has")
    if count != len(values):
        raise ValueError(f"a sparse tensor has {len(values)} values, not {count}")
    for block, dimension in enumerate(blocks):
        found[dimension] = found[dimension] * sizes[len(shape) + block] + found[len(shape) + block]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(found[d] for d in range(len(shape)))] = values
    return dense
