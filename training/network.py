"""The network: 3 x 3 and 1 x 1 convolutions with batch norm and ReLU6, 2 x 2 max-pools, one linear head; stride 8.

A chain, for chains tile well, and ReLU6, for its range is known: int8 loses little. Fully convolutional: trained on
crops, run on whole frames.
"""

from typing import Any

import torch
from torch import nn

from training.decode import CHANNELS

# Filters and kernel of convolutions; "max" is a 2 x 2 max-pool.
LAYERS: tuple[Any, ...] = (
    *((8, 3), "max", (16, 3), "max"),
    *((32, 3), (32, 3), "max"),
    *((96, 3), (48, 1), (96, 3), (48, 1), (96, 3), (64, 1), (96, 3)),
)
INPUT = 320


class Detector(nn.Module):  # type: ignore[misc]  # torch is not there where mypy runs
    """Images (batch, 3, height, width) in [0, 1] -> maps (batch, 15, height / 8, width / 8), raw."""

    def __init__(self) -> None:
        super().__init__()
        rows: list[nn.Module] = []
        depth = 3
        for layer in LAYERS:
            if layer == "max":
                rows.append(nn.MaxPool2d(2, 2))
                continue
            filters, kernel = layer
            rows += [
                nn.Conv2d(depth, filters, kernel, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(filters, momentum=0.03),
                nn.ReLU6(inplace=True),
            ]
            depth = filters
        self.body = nn.Sequential(*rows)
        self.head = nn.Conv2d(depth, CHANNELS, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        nn.init.constant_(self.head.bias[:1], -4.5)  # few cells hold a digit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))
