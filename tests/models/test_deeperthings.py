"""The published choice of how to divide weights, reproduced: the worked example and the totals of four networks."""

import pytest

from models.graph.networks import ALEXNET, EXTRACTION, VGG16, YOLOV2
from models.graph.networks import Layer as Row
from models.planning.deeperthings import Layer, Way, best

LOP: list[Way] = ["LOP"]


def layers_of(rows: tuple[Row, ...], size: int, first: int, kinds: tuple[str, ...]) -> list[Layer]:
    """The layers of these kinds from row ``first`` on: elements in and out, and whether each follows the one before it."""
    found: list[Layer] = []
    maps: list[tuple[int, int]] = []
    side, depth, follows = size, 3, False
    for number, (kind, *rest) in enumerate(rows):
        before = side * side * depth
        if kind in ("conv", "relu", "linear"):
            pad = rest[3] if len(rest) > 3 else rest[1] // 2
            side, depth = (side + 2 * pad - rest[1]) // rest[2] + 1, rest[0]
        elif kind == "max":
            side = (side - rest[0]) // rest[1] + 1
        elif kind == "route":
            side, depth = maps[rest[0]][0], sum(maps[i][1] for i in rest)
        elif kind == "reorg":
            side, depth = side // 2, depth * 4
        elif kind == "dense":
            side, depth = 1, rest[0]
        if kind in kinds and number >= first:
            found.append(Layer(before, side * side * depth, follows))
        follows = kind in kinds
        maps.append((side, depth))
    return found


def test_the_worked_example_costs_34_by_outputs_alone_and_22_at_best() -> None:
    layers = [Layer(4, 8, False), Layer(8, 16), Layer(16, 4), Layer(4, 4)]
    assert best(layers, 2, LOP)[0] == 34 and best(layers, 2, ["LIP"])[0] == 48
    assert best(layers, 2) == (22, ["LOP", "FUSE1", "FUSE2", "LOP"])


CONVOLUTIONS = ("conv", "relu", "linear")
PUBLISHED = {  # devices -> MB in float32, by LOP with reuse and at best
    "yolov2": (layers_of(YOLOV2, 608, 12, CONVOLUTIONS),
               {2: (27.5, 19.8), 3: (53.1, 37.7), 4: (78.4, 55.1), 6: (128.4, 89.3), 8: (178.1, 123.3)}),
    "vgg16": (layers_of(VGG16, 224, 6, CONVOLUTIONS),
              {2: (15.9, 13.2), 3: (30.0, 26.5), 4: (43.7, 39.7), 6: (70.6, 66.2), 8: (97.3, 92.7)}),
    "extraction": (layers_of(EXTRACTION, 224, 4, CONVOLUTIONS),
                   {2: (7.9, 7.1), 3: (15.0, 13.2), 4: (21.8, 19.0), 6: (35.3, 30.1), 8: (48.6, 41.1)}),
    "alexnet": (layers_of(ALEXNET, 227, 3, CONVOLUTIONS),
                {2: (1.4, 1.3), 3: (2.6, 2.3), 4: (3.6, 3.2), 6: (5.6, 5.1), 8: (7.6, 6.9)}),
}  # fmt: skip
DENSE = {
    "alexnet": (layers_of(ALEXNET, 227, 0, ("dense",)), {2: (0.072, 0.055), 4: (0.212, 0.138), 6: (0.351, 0.215)}),
    "vgg16": (layers_of(VGG16, 224, 0, ("dense",)), {2: (0.135, 0.087), 4: (0.402, 0.186), 6: (0.669, 0.267)}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_convolutions_cost_what_was_published(name: str) -> None:
    layers, published = PUBLISHED[name]
    found = {n: (round(best(layers, n, LOP)[0] * 4e-6, 1), round(best(layers, n)[0] * 4e-6, 1)) for n in published}
    assert found == published


@pytest.mark.parametrize("name", DENSE)
def test_dense_layers_cost_what_was_published(name: str) -> None:
    layers, published = DENSE[name]
    found = {n: (round(best(layers, n, LOP)[0] * 4e-6, 3), round(best(layers, n)[0] * 4e-6, 3)) for n in published}
    assert found == published
