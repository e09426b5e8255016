"""Export: the written file computes what PyTorch computes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.export import difference, to_graph  # noqa: E402
from training.network import Detector  # noqa: E402


def test_the_exported_model_equals_the_trained_one() -> None:
    torch.manual_seed(3)
    network = Detector()
    with torch.no_grad():  # a few steps of batch norm, so that folding has something to fold
        for _ in range(3):
            network(torch.rand(2, 3, 64, 64))
        network.head.weight.normal_()
    images = [np.random.default_rng(i).integers(0, 256, (1, 64, 96, 3), np.uint8) for i in range(2)]
    square = [image[:, :, :64] for image in images]
    assert difference(network, to_graph(network, 64), square) < 1e-4


def test_a_wrong_export_is_refused() -> None:
    torch.manual_seed(4)
    network = Detector()
    graph = to_graph(network.eval(), 32)
    with torch.no_grad():
        network.head.bias.add_(1.0)
    with pytest.raises(ValueError, match="differs from PyTorch"):
        difference(network, graph, [np.zeros((1, 32, 32, 3), np.uint8)])
