"""Networks by the layer tables of their papers, in the rows that ``models.graph.build.Network.add`` takes.

A row is a kind and what it needs: ("conv", filters, kernel, stride) with batch norm and a leaky ReLU, ("relu", ...) with a
ReLU and without batch norm, ("norm", ...) with batch norm alone, ("linear", ...) with neither; a fourth number is the
padding (half the kernel if it is not there). ("max", kernel, stride[, padding]), ("route", layers...) and ("add", layers...)
count back from the row; ("separable", filters) is a depthwise 3x3 and a 1x1 with batch norm, ("dense", units[, "relu"]) reads
the map flat; ("conv3d", filters) is a 3x3x3 with a ReLU, ("max3d", frames[, padding]) a pool of 2x2 pixels. Sources:
YOLOv2, Redmon and Farhadi, CVPR 2017; AlexNet, Krizhevsky et al., NIPS 2012, with one column and its local response
normalization; VGG16, Simonyan and Zisserman, ICLR 2015; Extraction, Darknet's extraction.cfg; Xception, Chollet, CVPR
2017, figure 5; C3D, Tran et al., ICCV 2015, for the 101 classes of UCF101.
"""

from typing import Any, TypeAlias

Layer: TypeAlias = tuple[Any, ...]


def _conv(filters: int, kernel: int) -> Layer:
    return ("conv", filters, kernel, 1)


def _relu(filters: int) -> Layer:
    return ("relu", filters, 3, 1)


_MAX: Layer = ("max", 2, 2)
_POOL: Layer = ("max", 2, 2, 0)

YOLOV2: tuple[Layer, ...] = (
    *(_conv(32, 3), _MAX, _conv(64, 3), _MAX),
    *(_conv(128, 3), _conv(64, 1), _conv(128, 3), _MAX),
    *(_conv(256, 3), _conv(128, 1), _conv(256, 3), _MAX),
    *(_conv(512, 3), _conv(256, 1), _conv(512, 3), _conv(256, 1), _conv(512, 3), _MAX),
    *(_conv(1024, 3), _conv(512, 1), _conv(1024, 3), _conv(512, 1), _conv(1024, 3)),
    *(_conv(1024, 3), _conv(1024, 3), ("route", -9), _conv(64, 1), ("reorg", 2), ("route", -1, -4)),
    *(_conv(1024, 3), ("linear", 425, 1, 1)),
)  # fmt: skip

MINI: tuple[Layer, ...] = (
    *(_conv(16, 3), _MAX, _conv(32, 3), _MAX),
    *(_conv(64, 3), _conv(32, 1), _conv(64, 3), _MAX),
    *(_conv(128, 3), _conv(64, 1), _conv(128, 3), _MAX),
    *(_conv(256, 3), _conv(128, 1), _conv(256, 3), ("route", -5), _conv(32, 1), ("reorg", 2), ("route", -1, -4)),
    *(_conv(256, 3), ("linear", 75, 1, 1)),
)  # fmt: skip

ALEXNET: tuple[Layer, ...] = (
    *(("relu", 96, 11, 4, 0), ("lrn",), ("max", 3, 2, 0), ("relu", 256, 5, 1), ("lrn",), ("max", 3, 2, 0)),
    *(_relu(384), _relu(384), _relu(256), ("max", 3, 2, 0)),
    *(("dense", 4096, "relu"), ("dense", 4096, "relu"), ("dense", 1000), ("softmax",)),
)  # fmt: skip

VGG16: tuple[Layer, ...] = (
    *(_relu(64), _relu(64), _POOL, _relu(128), _relu(128), _POOL, *[_relu(256)] * 3, _POOL),
    *(*[_relu(512)] * 3, _POOL, *[_relu(512)] * 3, _POOL),
    *(("dense", 4096, "relu"), ("dense", 4096, "relu"), ("dense", 1000), ("softmax",)),
)  # fmt: skip

EXTRACTION: tuple[Layer, ...] = (
    *(("conv", 64, 7, 2), _POOL, _conv(192, 3), _POOL),
    *(_conv(128, 1), _conv(256, 3), _conv(256, 1), _conv(512, 3), _POOL),
    *(*(_conv(256, 1), _conv(512, 3)) * 4, _conv(512, 1), _conv(1024, 3), _POOL),
    *(*(_conv(512, 1), _conv(1024, 3)) * 2, ("linear", 1000, 1, 1), ("mean",), ("softmax",)),
)  # fmt: skip


def _entry(filters: int, begins: bool = False) -> tuple[Layer, ...]:
    """A block of the entry flow: two separable convolutions and a pool beside a 1x1 of stride 2."""
    first: tuple[Layer, ...] = () if begins else (("act", "relu"),)
    back = -5 - len(first)  # to what the block reads
    return (*first, ("separable", filters), ("act", "relu"), ("separable", filters), ("max", 3, 2),
            ("norm", filters, 1, 2, 0, back), ("add", -1, -2))  # fmt: skip


_MIDDLE: tuple[Layer, ...] = (*(("act", "relu"), ("separable", 728)) * 3, ("add", -1, -7))
XCEPTION: tuple[Layer, ...] = (
    *(("norm", 32, 3, 2, 0), ("act", "relu"), ("norm", 64, 3, 1, 0), ("act", "relu")),
    *(*_entry(128, begins=True), *_entry(256), *_entry(728), *_MIDDLE * 8),
    *(("act", "relu"), ("separable", 728), ("act", "relu"), ("separable", 1024), ("max", 3, 2)),
    *(("norm", 1024, 1, 2, 0, -6), ("add", -1, -2)),
    *(("separable", 1536), ("act", "relu"), ("separable", 2048), ("act", "relu"), ("mean",), ("dense", 1000), ("softmax",)),
)  # fmt: skip

C3D: tuple[Layer, ...] = (
    *(("conv3d", 64), ("max3d", 1), ("conv3d", 128), ("max3d", 2), *[("conv3d", 256)] * 2, ("max3d", 2)),
    *(*[("conv3d", 512)] * 2, ("max3d", 2), *[("conv3d", 512)] * 2, ("max3d", 2, 1)),
    *(("dense", 4096, "relu"), ("dense", 4096, "relu"), ("dense", 101), ("softmax",)),
)  # fmt: skip

CLIPS = {"c3d": 16}  # frames of the networks that see so many at once

# Rows, side of the square image, and what a side must be a multiple of (0: it is as it is, for dense layers follow).
NETWORKS: dict[str, tuple[tuple[Layer, ...], int, int]] = {
    "yolov2": (YOLOV2, 608, 32),
    "mini": (MINI, 320, 32),
    "alexnet": (ALEXNET, 227, 1),
    "vgg16": (VGG16, 224, 32),
    "extraction": (EXTRACTION, 224, 32),
    "xception": (XCEPTION, 299, 1),
    "c3d": (C3D, 112, 16),
}
