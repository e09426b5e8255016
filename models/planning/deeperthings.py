"""DeeperThings' own choice of how each layer is divided, by its formula for traffic: what our plans are measured against.

Stahl et al., "Fully Distributed Deep Learning Inference on Resource-Constrained Edge Devices" (SAMOS 2019) and
"DeeperThings" (IJPP 2021). Weights are divided by outputs (LOP), by inputs (LIP), or in a pair: one layer by its outputs and
the next by its inputs, with nothing exchanged between. All traffic passes a hub, which is one of the devices.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

Way: TypeAlias = Literal["LOP", "LIP", "FUSE1", "FUSE2"]
WAYS: tuple[Way, ...] = ("LOP", "LIP", "FUSE1", "FUSE2")


class Layer(NamedTuple):
    """Elements of what a layer reads and makes; ``follows``: it reads just what the layer before it makes, as it is; ``ways``
    in which it can be divided.
    """

    inputs: int
    outputs: int
    follows: bool = True
    ways: tuple[Way, ...] = WAYS


def traffic(layer: Layer, way: Way, before: Way | None, devices: int) -> float:
    """Elements that a layer moves when it is divided so, over all links (equations of IJPP 2021, section 4).

    A slice that the layer before has made by LOP stays where it is.
    """
    n, (m, k, follows, _) = devices, layer
    own = m / n if follows and before == "LOP" else 0.0
    if way == "LOP":
        return (m - own) * (n - 1) + k * (n - 1) / n
    if way == "LIP":
        return m * (n - 1) / n + k * (n - 1)
    return (m - own) * (n - 1) if way == "FUSE1" else float(k * (n - 1))


def best(layers: Sequence[Layer], devices: int, ways: Sequence[Way] = WAYS) -> tuple[float, list[Way]]:
    """The least traffic in elements and each layer's way: dynamic programming over the way of the last layer."""
    found: dict[Way | None, tuple[float, list[Way]]] = {None: (0.0, [])}
    for i, layer in enumerate(layers):
        pairs = i + 1 < len(layers) and layers[i + 1].follows and "FUSE2" in layers[i + 1].ways
        reached: dict[Way | None, tuple[float, list[Way]]] = {}
        for before, (spent, chosen) in found.items():
            for way in ways:
                if way not in layer.ways or (way == "FUSE2") != (before == "FUSE1") or (way == "FUSE1" and not pairs):
                    continue
                total = spent + traffic(layer, way, before, devices)
                if way not in reached or total < reached[way][0]:
                    reached[way] = total, [*chosen, way]
        found = reached
    return min(found.values(), key=lambda choice: choice[0])
