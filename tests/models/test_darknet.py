"""Imported networks against OpenCV 4's Darknet importer, an independent implementation, and errors one by one."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dt_cli.main import app
from models.bundle import make_bundle
from models.graph.build import Network
from models.graph.file import Graph, parse
from models.importers.darknet import import_darknet, parse_cfg
from models.results.card import load_card
from models.results.decode import decode
from models.running import engine
from models.verify import Verifier
from schemas.contract.errors import DtError, PlanError
from schemas.contract.plan import Pixels
from tests.examples import examples

CLASSES = 4
THRESHOLD = 0.5  # above one half, a softmax leaves each box one class
Rows = list[tuple[str, dict[str, Any]]]


def conv(filters: int, size: int, stride: int = 1, **more: Any) -> tuple[str, dict[str, Any]]:
    shape = {"filters": filters, "size": size, "stride": stride, "pad": 1}
    return "convolutional", {"batch_normalize": 1, **shape, "activation": "leaky", **more}


def linear(filters: int) -> tuple[str, dict[str, Any]]:
    return "convolutional", {"filters": filters, "size": 1, "stride": 1, "pad": 1, "activation": "linear"}


def pool(stride: int = 2) -> tuple[str, dict[str, Any]]:
    return "maxpool", {"size": 2, "stride": stride}


def route(*layers: int) -> tuple[str, dict[str, Any]]:
    return "route", {"layers": ", ".join(map(str, layers))}


def region(*anchors: float) -> Rows:
    """The last convolution and the head. OpenCV's layer drops scores below ``thresh`` and what overlaps by 0.4."""
    num = len(anchors) // 2
    head = {"anchors": ",  ".join(map(str, anchors)), "classes": CLASSES, "coords": 4, "num": num, "softmax": 1}
    return [linear(num * (5 + CLASSES)), ("region", {**head, "thresh": THRESHOLD})]


def yolo(anchors: Sequence[int], *mask: int) -> Rows:
    head = {"mask": ",".join(map(str, mask)), "anchors": ", ".join(map(str, anchors)), "classes": CLASSES}
    more = {"num": len(anchors) // 2, "thresh": THRESHOLD, "nms_threshold": 0}
    return [linear(len(mask) * (5 + CLASSES)), ("yolo", {**head, **more})]


def yolov2(width: Callable[[int], int]) -> Rows:
    def c(filters: int, size: int) -> tuple[str, dict[str, Any]]:
        return conv(width(filters), size)

    return [
        *(c(32, 3), pool(), c(64, 3), pool(), c(128, 3), c(64, 1), c(128, 3), pool()),
        *(c(256, 3), c(128, 1), c(256, 3), pool(), c(512, 3), c(256, 1), c(512, 3), c(256, 1), c(512, 3), pool()),
        *(c(1024, 3), c(512, 1), c(1024, 3), c(512, 1), c(1024, 3), c(1024, 3), c(1024, 3)),
        *(route(-9), c(64, 1), ("reorg", {"stride": 2}), route(-1, -4), c(1024, 3)),
        *region(0.57273, 0.677385, 1.87446, 2.06253, 3.33843, 5.47434, 7.88282, 3.52778, 9.77052, 9.16828),
    ]


def yolov2_tiny(width: Callable[[int], int]) -> Rows:
    body = [row for filters in (16, 32, 64, 128, 256) for row in (conv(width(filters), 3), pool())]
    top = [conv(width(512), 3), pool(stride=1), conv(width(1024), 3), conv(width(1024), 3)]
    return [*body, *top, *region(1.08, 1.19, 3.42, 4.41, 6.63, 11.38, 9.42, 5.11, 16.62, 10.52)]


def yolov3_tiny(width: Callable[[int], int]) -> Rows:
    anchors = (10, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319)
    body = [row for filters in (16, 32, 64, 128, 256) for row in (conv(width(filters), 3), pool())]
    return [
        *(*body, conv(width(512), 3), pool(stride=1), conv(width(1024), 3), conv(width(256), 1), conv(width(512), 3)),
        *(*yolo(anchors, 3, 4, 5), route(-4), conv(width(128), 1), ("upsample", {"stride": 2}), route(-1, 8)),
        *(conv(width(256), 3), *yolo(anchors, 0, 1, 2)),
    ]


def yolov3(width: Callable[[int], int], blocks: Sequence[int] = (1, 2, 8, 8, 4)) -> Rows:
    """Darknet-53 (``blocks`` residuals at each size) and three heads."""
    anchors = (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)
    rows, last = [conv(width(32), 3)], []
    for level, count in enumerate(blocks):
        filters = 64 << level
        rows.append(conv(width(filters), 3, stride=2))
        for _ in range(count):
            rows += [conv(width(filters // 2), 1), conv(width(filters), 3)]
            rows.append(("shortcut", {"from": -3, "activation": "linear"}))
        last.append(len(rows) - 1)
    for filters, back, mask in ((512, -1, (6, 7, 8)), (256, last[3], (3, 4, 5)), (128, last[2], (0, 1, 2))):
        if back >= 0:
            rows += [route(-4), conv(width(filters), 1), ("upsample", {"stride": 2}), route(-1, back)]
        rows += [row for _ in range(3) for row in (conv(width(filters), 1), conv(width(2 * filters), 3))]
        rows += yolo(anchors, *mask)
    return rows


def windows() -> Rows:
    """Kernels, strides and paddings that no YOLO has, and layers named from the front."""
    return [
        *(conv(8, 3, stride=2), conv(8, 5, stride=2), conv(8, 3, pad=0, padding=2), conv(8, 3, pad=0), conv(8, 2)),
        *(("maxpool", {"size": 3, "stride": 1}), ("maxpool", {"size": 3, "stride": 2}), conv(8, 2, 2), pool()),
        *(conv(8, 1, activation="logistic"), ("shortcut", {"from": 8, "activation": "leaky"}), route(-1, 8, 9)),
        *(("maxpool", {"size": 3, "stride": 1, "padding": 0}), ("maxpool", {"size": 5, "stride": 1, "padding": 3})),
        *region(1, 2, 3, 4),
    ]


def cfg_text(rows: Rows, height: int, width: int) -> str:
    net = f"[net]\n# Testing\nbatch=1\nwidth={width}\nheight = {height}\nchannels=3\n\n"
    return net + "\n".join(
        f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in values.items()) for kind, values in rows
    )


def floats_of(rows: Rows, seed: int, channels: int = 3) -> Iterator[np.ndarray]:
    """Random weights in the file's order."""
    depths: list[int] = []
    for number, (kind, values) in enumerate(rows):
        depth = depths[-1] if depths else channels
        if kind == "convolutional":
            random, filters, size = np.random.default_rng([seed, number]), values["filters"], values["size"]
            kernel = random.standard_normal((filters, depth, size, size), np.float32)
            yield np.asarray(random.normal(0, 0.3, filters))
            if values.get("batch_normalize"):
                yield np.asarray(random.uniform(0.6, 1.2, filters))
                yield np.asarray(random.normal(0, 0.1, filters))
                yield np.asarray(random.uniform(0.5, 2, filters))
            if not values.get("batch_normalize"):  # before a head: scores from 0 to 1
                kernel[np.arange(filters) % (5 + CLASSES) > 3] *= 6
            yield kernel * np.float32((1.5 / (depth * size * size)) ** 0.5)
            depth = filters
        elif kind == "route":
            given = [int(text) for text in values["layers"].split(",")]
            depth = sum(depths[layer] for layer in given)
        elif kind == "reorg":
            depth *= values["stride"] ** 2
        depths.append(depth)


def weights_bytes(rows: Rows, seed: int = 1, version: tuple[int, int] = (0, 2), channels: int = 3) -> bytes:
    seen = np.int64(32_013_312).tobytes() if version >= (0, 2) else np.int32(100).tobytes()
    header = np.array([*version, 0], "<i4").tobytes() + seen
    return header + b"".join(part.astype("<f4").tobytes() for part in floats_of(rows, seed, channels))


@dataclass(frozen=True)
class Files:
    cfg: Path
    weights: Path

    def load(self) -> tuple[Graph, str]:
        return import_darknet(self.cfg, self.weights)


def write(folder: Path, rows: Rows, height: int = 96, width: int = 96, **given: Any) -> Files:
    files = Files(folder / "net.cfg", folder / "net.weights")
    files.cfg.write_text(cfg_text(rows, height, width))
    files.weights.write_bytes(weights_bytes(rows, **given))
    return files


def quarter(filters: int) -> int:
    return filters // 4


NETWORKS: dict[str, tuple[Rows, int, int]] = {
    "yolov2": (yolov2(quarter), 96, 128),
    "yolov2-tiny": (yolov2_tiny(quarter), 160, 96),
    "yolov3-tiny": (yolov3_tiny(quarter), 96, 160),
    "yolov3, fewer blocks": (yolov3(quarter, (1, 1, 1, 2, 1)), 96, 128),
    "yolov3": (yolov3(lambda filters: filters // 8), 96, 96),
    "windows, odd and even": (windows(), 357, 262),
    "windows, even and odd": (windows(), 266, 351),
}


def run(graph: Graph, image: np.ndarray) -> list[np.ndarray]:
    return engine.load(graph.to_bytes()).run([image])


def heads_of(rows: Rows) -> list[int]:
    return [number for number, (kind, _) in enumerate(rows) if kind in ("region", "yolo")]


def opencv_net(files: Files) -> Any:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip(f"OpenCV {cv2.__version__} has no Darknet importer, OpenCV 4 has: see 'make test-tflite-runtime'")
    return cv2.dnn.readNetFromDarknet(str(files.cfg), str(files.weights))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_map_before_each_head_is_opencvs(name: str, tmp_path: Path) -> None:
    rows, height, width = NETWORKS[name]
    files = write(tmp_path, rows, height, width)
    net, image = opencv_net(files), picture(height, width)
    net.setInput(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
    wanted = net.forward([f"conv_{number - 1}" for number in heads_of(rows)])
    made = run(files.load()[0], image)
    assert len(made) == len(wanted)
    for got, want in zip(made, (want.transpose(0, 2, 3, 1) for want in wanted)):
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()  # seen: 1.1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_the_boxes_after_the_head_are_opencvs(name: str, tmp_path: Path) -> None:
    rows, height, width = NETWORKS[name]
    files = write(tmp_path, rows, height, width)
    net, image, numbers = opencv_net(files), picture(height, width), heads_of(rows)
    kind = rows[numbers[0]][0]
    net.setInput(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
    wanted = net.forward(["detection_out"] if kind == "region" else [f"yolo_{number}" for number in numbers])
    boxes = np.concatenate([want.reshape(-1, 5 + CLASSES) for want in wanted])
    want = sorted(detections(boxes, height, width))

    graph, text = files.load()
    (tmp_path / "net.tflite").write_bytes(graph.to_bytes())
    (tmp_path / "net.toml").write_text(text)
    card, guessed = load_card(tmp_path / "net.tflite")
    assert not guessed
    iou = 0.4 if kind == "region" else 1.0
    card = card.model_copy(update={"score_threshold": THRESHOLD, "iou_threshold": iou, "max_detections": 1000})
    outputs = {graph.tensors[t].name: made for t, made in zip(graph.outputs, run(graph, image))}
    pixels = Pixels(tensor="image", height=height, width=width, dtype="float32", **card.pixels())
    result = decode(card, outputs, {}, (height, width), pixels)
    got = sorted((d.index, d.score, *d.box) for d in result.detections)

    assert len(got) == len(want) > 2
    assert {d.label for d in result.detections} <= {f"class{i}" for i in range(CLASSES)}
    for one, other in zip(got, want):
        assert one == pytest.approx(other, rel=1e-3, abs=0.02)  # ours are rounded to 0.01 pixels


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).random((1, height, width, 3), np.float32)


def detections(rows: np.ndarray, height: int, width: int) -> Iterator[tuple[float, ...]]:
    """OpenCV's rows (centre x, y, w, h relative, objectness, class scores) -> class, score, corners in the picture."""
    for x, y, w, h, _, *scores in rows.tolist():
        score = max(scores)
        corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        x0, y0, x1, y1 = (min(max(c, 0), limit) for c, limit in zip(corners, (width, height) * 2))
        if score > 0 and round(x0, 2) < round(x1, 2) and round(y0, 2) < round(y1, 2):
            yield scores.index(score), round(score, 4), x0, y0, x1, y1


@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_of_an_imported_network_equal_it_bit_for_bit(name: str, tmp_path: Path) -> None:
    rows, height, width = NETWORKS[name]
    model = tmp_path / "net.tflite"
    model.write_bytes(write(tmp_path, rows, height, width).load()[0].to_bytes())
    image = np.random.default_rng(5).integers(0, 256, (1, height, width, 3), np.uint8)
    cuts = make_bundle(model, (2, 2)).partition.cuts
    for cut in ("auto", cuts[-1].name, cuts[len(cuts) // 2].name):
        merged, outputs = Verifier(make_bundle(model, (2, 2), cut)).check(image)
        assert not any(difference.differing for difference in merged + outputs), cut


# --- single layers, against transcriptions of Darknet's loops: these need no OpenCV ------------------------------------

ONE_CLASS = ("region", {"anchors": "1,1", "num": 1, "classes": 1, "softmax": 1})  # takes 6 channels
sizes = st.integers(1, 9)


def ramp(height: int, width: int, channels: int) -> np.ndarray:
    """A map of different values, most of them negative: padding that counts as a value would show."""
    values = np.random.default_rng(0).permutation(height * width * channels).astype(np.float32)
    return ((values - 0.8 * values.size) / np.float32(values.size)).reshape(1, height, width, channels)


def imported(folder: Path, rows: Rows, image: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
    """The map (1, h, w, c) before the head of a network."""
    files = Files(folder / "net.cfg", folder / "net.weights")
    files.cfg.write_text(cfg_text(rows, *image.shape[1:3]))
    header = np.array([0, 1, 0, 0], "<i4").tobytes()
    files.weights.write_bytes(header + b"".join(part.astype("<f4").tobytes() for part in weights))
    return run(files.load()[0], image)[0]


def maxpool_loops(x: np.ndarray, size: int, stride: int, pad: int) -> np.ndarray:
    """forward_maxpool_layer of Darknet's maxpool_layer.c; ``x`` is h x w x c."""
    height, width, channels = x.shape
    out = np.full(
        ((height + pad - size) // stride + 1, (width + pad - size) // stride + 1, channels), -np.inf, np.float32
    )
    for i, j in np.ndindex(out.shape[:2]):
        for n, m in np.ndindex(size, size):
            row, col = i * stride + n - pad // 2, j * stride + m - pad // 2
            if 0 <= row < height and 0 <= col < width:
                out[i, j] = np.maximum(out[i, j], x[row, col])
    return out


def convolution_loops(x: np.ndarray, kernel: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """im2col_cpu and gemm of Darknet's convolutional_layer.c; ``kernel`` is out x in x h x w."""
    height, width, _ = x.shape
    size = kernel.shape[2]
    rows, cols = ((side + 2 * pad - size) // stride + 1 for side in (height, width))
    out = np.zeros((rows, cols, kernel.shape[0]), np.float32)
    for i, j in np.ndindex(rows, cols):
        for n, m in np.ndindex(size, size):
            row, col = i * stride + n - pad, j * stride + m - pad
            if 0 <= row < height and 0 <= col < width:
                out[i, j] += kernel[:, :, n, m] @ x[row, col]
    return out


def reorg_loops(x: np.ndarray, stride: int) -> np.ndarray:
    """reorg_cpu of Darknet's blas.c with forward = 0, as its reorg layer calls it; ``x`` is c x h x w."""
    c, h, w = x.shape
    source, out, out_c = x.reshape(-1), np.zeros(x.size, x.dtype), c // (stride * stride)
    for k, j, i in np.ndindex(c, h, w):
        in_index = i + w * (j + h * k)
        c2, offset = k % out_c, k // out_c
        w2, h2 = i * stride + offset % stride, j * stride + offset // stride
        out[in_index] = source[w2 + w * stride * (h2 + h * stride * c2)]
    return out.reshape(c * stride * stride, h // stride, w // stride)


@examples(60)
@given(st.data(), sizes, sizes, st.integers(1, 5), st.integers(1, 3))
def test_maxpool_is_darknets(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, height: int, width: int, size: int, stride: int
) -> None:
    pad = data.draw(st.integers(max(0, size - min(height, width)), 2 * size - 2) if size > 1 else st.just(0))
    row = ("maxpool", {"size": size, "stride": stride, **({} if pad == size - 1 else {"padding": pad})})
    image, identity = ramp(height, width, 3), np.eye(6, 3)
    got = imported(tmp_path_factory.mktemp("pool"), [row, linear(6), ONE_CLASS], image, [np.zeros(6), identity])
    np.testing.assert_array_equal(got[0, :, :, :3], maxpool_loops(image[0], size, stride, pad))


@examples(60)
@given(st.data(), sizes, sizes, st.integers(1, 5), st.integers(1, 3))
def test_convolution_is_darknets(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, height: int, width: int, size: int, stride: int
) -> None:
    least = max(0, -(-(size - min(height, width)) // 2))
    half = data.draw(st.booleans()) if size // 2 >= least else False
    pad = size // 2 if half else data.draw(st.integers(least, 4))
    values = {"filters": 6, "size": size, "stride": stride, "activation": "linear"}
    row = ("convolutional", {**values, **({"pad": 1} if half else {"padding": pad})})
    image = ramp(height, width, 3)
    kernel = np.random.default_rng(1).standard_normal((6, 3, size, size)).astype(np.float32)
    got = imported(tmp_path_factory.mktemp("conv"), [row, ONE_CLASS], image, [np.zeros(6), kernel])
    np.testing.assert_allclose(got[0], convolution_loops(image[0], kernel, stride, pad), rtol=1e-4, atol=1e-5)


def test_a_convolution_whose_windows_leave_gaps_does_not_rely_on_same(tmp_path: Path) -> None:
    """tflite-runtime 2.14 answers zeros to SAME here, though SAME pads nothing."""
    row = ("convolutional", {"filters": 6, "size": 2, "stride": 3, "activation": "linear"})
    image, kernel = ramp(2, 3, 3), np.random.default_rng(1).standard_normal((6, 3, 2, 2)).astype(np.float32)
    got = imported(tmp_path, [row, ONE_CLASS], image, [np.zeros(6), kernel])
    np.testing.assert_allclose(got[0], convolution_loops(image[0], kernel, 3, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_reorg_has_darknets_order(stride: int) -> None:
    network = Network((2 * stride, 3 * stride, 5 * stride**2))
    network.layers.append(network.reorg("reorg0", 0, stride))
    x = ramp(2 * stride, 3 * stride, 5 * stride**2)
    got = run(network.graph(), x)[0][0].transpose(2, 0, 1)
    np.testing.assert_array_equal(got, reorg_loops(x[0].transpose(2, 0, 1), stride))


@pytest.mark.parametrize("factor", [2, 4])
def test_upsample_repeats_pixels(factor: int) -> None:
    network = Network((3, 5, 2))
    network.layers.append(network.upsample("upsample0", 0, factor))
    x = ramp(3, 5, 2)
    np.testing.assert_array_equal(run(network.graph(), x)[0], x.repeat(factor, axis=1).repeat(factor, axis=2))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "relu": lambda x: np.maximum(x, 0),
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "": lambda x: 1 / (1 + np.exp(-x)),  # Darknet's default
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_batch_norm_are_darknets(name: str, tmp_path: Path) -> None:
    image, random = ramp(4, 5, 3), np.random.default_rng(2)
    values = {"batch_normalize": 1, "filters": 6, "size": 1, **({"activation": name} if name else {})}
    beta, gamma, mean = random.standard_normal((3, 6))
    variance, kernel = random.uniform(0.5, 2, 6), random.standard_normal((6, 3, 1, 1))
    weights = [beta, gamma, mean, variance, kernel]
    got = imported(tmp_path, [("convolutional", values), ONE_CLASS], image, weights)
    x = (image @ kernel[:, :, 0, 0].T - mean) / (np.sqrt(variance) + 1e-6) * gamma + beta
    np.testing.assert_allclose(got, ACTIVATIONS[name](x), rtol=1e-4, atol=1e-5)


# --- files ------------------------------------------------------------------------------------------------------------

SMALL: Rows = [conv(8, 3, stride=2), conv(8, 1), ("shortcut", {"from": -2}), pool(), *yolo((1, 2, 3, 4), 0, 1)]


@pytest.mark.parametrize("version", [(0, 1), (0, 2), (1, 0), (2, 5), (1001, 0)])
def test_the_header_has_32_or_64_bits_of_images_seen_by_version(version: tuple[int, int], tmp_path: Path) -> None:
    image = picture(32, 32)
    want = run(write(tmp_path, SMALL, 32, 32).load()[0], image)[0]
    files = Files(tmp_path / "net.cfg", tmp_path / "net.weights")
    seen = bytes(8 if version in ((0, 2), (1, 0), (2, 5)) else 4)
    body = weights_bytes(SMALL)[20:]
    files.weights.write_bytes(np.array([*version, 7], "<i4").tobytes() + seen + body)
    np.testing.assert_array_equal(run(files.load()[0], image)[0], want)


def test_the_card_gives_each_output_the_anchors_of_its_mask(tmp_path: Path) -> None:
    files = write(tmp_path, yolov3_tiny(lambda filters: filters // 8), 64, 64)
    (tmp_path / "some.names").write_text('ant\nbee\n"c\\at"\ndög\x7f\n')
    graph, text = import_darknet(files.cfg, files.weights, tmp_path / "some.names")
    (tmp_path / "net.tflite").write_bytes(graph.to_bytes())
    (tmp_path / "net.toml").write_text(text)
    card, guessed = load_card(tmp_path / "net.tflite")
    assert (card.task, card.decoder, guessed) == ("detect", "yolov3", False)
    assert card.anchors == ((81, 82), (135, 169), (344, 319), (10, 14), (23, 27), (37, 58))
    assert card.labels == ("ant", "bee", '"c\\at"', "dög ")
    assert card.outputs == ("conv15", "conv22")
    assert [graph.tensors[t].shape for t in graph.outputs] == [(1, 2, 2, 27), (1, 4, 4, 27)]


def test_spaces_comments_and_repeated_keys_are_read_as_darknet_reads_them() -> None:
    text = "\ufeff# a comment\n ; another\n [ net ] \n width = 32 # pixels\nheight=64\nwidth=999\n\n[route]\nlayers=-1, 8\n"
    net, route = parse_cfg(text.lstrip("\ufeff"))
    assert (net.kind, net.line, net.values) == ("net", 3, {"width": "32", "height": "64"})
    assert (route.number, route.kind, route.line) == (1, "route", 8)
    assert route.integers("layers") == [-1, 8]


# --- errors -----------------------------------------------------------------------------------------------------------


def refusal(tmp_path: Path, cfg: str, weights: bytes | bytearray | None = None) -> str:
    files = Files(tmp_path / "net.cfg", tmp_path / "net.weights")
    files.cfg.write_text(cfg)
    files.weights.write_bytes(weights_bytes(SMALL) if weights is None else weights)
    with pytest.raises(PlanError) as caught:
        files.load()
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    return str(caught.value)


def changed(number: int, **values: Any) -> str:
    """SMALL with other options in a section; None takes one out."""
    rows = [(kind, dict(given)) for kind, given in SMALL]
    rows[number][1].update(values)
    return cfg_text([(kind, {k: v for k, v in given.items() if v is not None}) for kind, given in rows], 32, 32)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ("", "does not begin with a [net] section"),
        ("[convolutional]\n", "does not begin with a [net] section"),
        ("width=3\n[net]", "line 1: 'width=3' is no [section], no key=value in a section"),
        ("[net]\nwidth 32\n", "line 2: 'width 32' is no [section]"),
        ("[net]\n" * 1001, "line 1001: more than 1000 sections"),
        ("[net]\nheight=32\n", "section 0 [net] (line 1): width is missing"),
        ("[net]\nheight=32\nwidth=4097\n", "section 0 [net] (line 1): width=4097: it must be a whole number from 1 to 4096"),
        ("[net]\nheight=0\nwidth=32\n", "height=0: it must be"),
        ("[net]\nheight=1e3\nwidth=32\n", "height=1e3: it must be"),
        ("[net]\nheight=32\nwidth=32\nchannels=2", "channels=2"),
        (cfg_text([("lstm", {})], 32, 32), "section 1 [lstm] (layer 0, line 8): unknown section: only net, convolutional,"),
        (changed(0, activation="mish"), "section 1 [convolutional] (layer 0, line 8): activation=mish is not supported"),
        (changed(1, filters=0), "section 2 [convolutional] (layer 1, line 16): filters=0: it must"),
        (changed(0, groups=2), "groups=2 is not supported"),
        (changed(0, stride_x=1), "stride_x=1 is not supported"),
        (changed(0, size=64, pad=0), "size=64 is larger than its 32x32 input with padding 0"),
        (changed(0, size=10**12), "size=1000000000000: it must be"),
        (changed(0, size="1" * 5000), "size=1111111111111111111111111111111111111111: it must be"),
        (changed(2, **{"from": "-3"}), "section 3 [shortcut] (layer 2, line 24): layer -3 is none of the 2 layers before it"),
        (changed(2, **{"from": 2}), "layer 2 is none of the 2 layers"),
        (changed(2, **{"from": None}), "from=: it must name one layer"),
        (changed(2, **{"from": "-1,-2"}), "from=-1,-2: it must name one layer"),
        (changed(2, **{"from": "x"}), "from=x: no list of numbers"),
        (changed(2, **{"from": "0.5"}), "from=0.5: not all whole numbers"),
        (changed(3, padding=9), "padding=9: it must be a whole number from 0 to 2"),
        (changed(5, anchors="1,2,3"), "num=2 anchors are 4 positive numbers, found 3 numbers"),
        (changed(5, anchors="1,2,3,-4"), "num=2 anchors are 4 positive numbers"),
        (changed(5, anchors="1,2,3,inf"), "not finite"),
        (changed(5, mask="0,2"), "mask=0,2: it must name anchors from 0 to 1 once"),
        (changed(5, mask="0"), "section 6 [yolo] (layer 5, line 38): 1 anchors and 4 classes take 9 channels, its"),
        (changed(5, classes=5), "2 anchors and 5 classes take 20 channels, its input has 18"),
        (changed(5, scale_x_y=1.05), "scale_x_y=1.05 is not supported"),
        (cfg_text(SMALL[:-1], 32, 32), "no [region] and no [yolo] section"),
        (cfg_text([*SMALL, ("upsample", {})], 32, 32), "it reads layer 5, the output of section 6 [yolo]"),
        (cfg_text([*SMALL, ("route", {})], 32, 32), "section 7 [route] (layer 6, line 46): layers is missing"),
        (cfg_text([*SMALL, route(0, 3)], 32, 32), "it joins maps of different sizes: 8x8, 16x16"),
        (cfg_text([*SMALL, route(0), ("shortcut", {"from": 3})], 32, 32), "different shapes: (16, 16, 8) and (8, 8, 8)"),
        (cfg_text([*SMALL, route(0), ("reorg", {"stride": 3})], 32, 32), "stride=3 does not divide its 16x16x8 input"),
        (cfg_text([*SMALL, route(0), ("upsample", {"stride": 3})], 32, 32), "stride=3 on a 16x16 map: only 2, 4 and 8"),
        (cfg_text([*SMALL, route(0), *[("upsample", {"stride": 8})] * 3], 32, 32), "stride=8 on a 1024x1024 map"),
        (cfg_text([*SMALL, route(-2), SMALL[-1]], 32, 32), "it decodes the same map as section 6 [yolo]"),
        (cfg_text([*SMALL, route(-2), ("region", {**SMALL[-1][1], "softmax": 1})], 32, 32), "a second head beside"),
        (cfg_text([*SMALL, route(-2), ("region", SMALL[-1][1])], 32, 32), "softmax=0 is not supported"),
    ],
)  # fmt: skip
def test_a_cfg_that_cannot_be_imported_is_refused_with_its_section(cfg: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, cfg)


def test_a_map_too_large_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    rows: Rows = [("convolutional", {"filters": 64, "size": 1, "activation": "linear"})]
    message = refusal(tmp_path, cfg_text(rows, 4096, 4096), weights_bytes(rows))
    assert "section 1 [convolutional] (layer 0, line 8): its map (1, 4096, 4096, 64) has more than 536870912" in message


def test_filters_that_the_file_cannot_hold_are_not_allocated(tmp_path: Path) -> None:
    rows: Rows = [conv(65536, 64), conv(65536, 64)]
    assert "expected 3222274064 bytes" in refusal(tmp_path, cfg_text(rows, 1, 1), bytes(100))


def test_every_short_weights_file_is_refused_with_section_and_byte_counts(tmp_path: Path) -> None:
    whole = weights_bytes(SMALL)
    ends = list(itertools.accumulate((4 * (4 * 8 + 8 * 27), 4 * (4 * 8 + 64), 4 * (18 + 18 * 8)), initial=20))
    assert ends[-1] == len(whole)
    for number, start, end in ((1, ends[0], ends[1]), (2, ends[1], ends[2]), (5, ends[2], ends[3])):
        for size in (start, start + 1, end - 4, end - 1):
            message = refusal(tmp_path, cfg_text(SMALL, 32, 32), whole[:size])
            assert f"section {number} [convolutional]" in message
            assert f"expected {end} bytes up to this section, found {size}" in message
    assert "expected at least 16 bytes, found 15" in refusal(tmp_path, cfg_text(SMALL, 32, 32), whole[:15])
    assert "expected at least 16 bytes, found 0" in refusal(tmp_path, cfg_text(SMALL, 32, 32), b"")


@pytest.mark.parametrize("more", [1, 4, 4000])
def test_a_long_weights_file_is_refused_with_section_and_byte_counts(more: int, tmp_path: Path) -> None:
    whole = weights_bytes(SMALL)
    message = refusal(tmp_path, cfg_text(SMALL, 32, 32), whole + bytes(more))
    assert f"expected {len(whole)} bytes up to the last section, 6, found {len(whole) + more}" in message


def test_weights_that_are_no_numbers_are_refused_but_a_wrong_size_is_told_first(tmp_path: Path) -> None:
    whole = bytearray(weights_bytes(SMALL))
    whole[20 + 4 * 24 : 20 + 4 * 25] = np.float32(-1).tobytes()  # a variance
    assert "section 1 [convolutional] (layer 0, line 8): its weights are not finite" in refusal(
        tmp_path, changed(0), whole
    )
    assert "too long" in refusal(tmp_path, changed(0), whole + b"more")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    files = write(tmp_path, SMALL, 32, 32)
    for cfg, weights, names in (
        (tmp_path / "no", files.weights, None),
        (tmp_path, files.weights, None),
        (files.cfg, tmp_path / "no", None),
        (files.cfg, tmp_path, None),
        (files.cfg, files.weights, tmp_path / "no"),
    ):
        with pytest.raises(PlanError, match="cannot read the"):
            import_darknet(cfg, weights, names)
    (tmp_path / "huge.cfg").write_bytes(bytes(2**20 + 1))
    with pytest.raises(PlanError, match="larger than 1048576 bytes"):
        import_darknet(tmp_path / "huge.cfg", files.weights)
    (tmp_path / "few.names").write_text("one\ntwo\n")
    with pytest.raises(PlanError, match="has 2 labels, the network 4 classes"):
        import_darknet(files.cfg, files.weights, tmp_path / "few.names")


LINES = cfg_text([*SMALL, route(-3), ("reorg", {"stride": 2}), ("upsample", {})], 32, 32).splitlines()
VALUES = st.one_of(
    st.integers(-70, 70).map(str), st.integers().map(str), st.text(max_size=8), st.sampled_from(["1e999", "nan"])
)
CHANGES = st.lists(
    st.tuples(
        st.integers(0, len(LINES) - 1),
        st.one_of(
            st.none(),
            VALUES,
            st.sampled_from(
                [f"[{kind}]" for kind in ("net", "convolutional", "route", "reorg", "yolo", "region", "x")]
            ),
            st.sampled_from(["groups=", "coords=9", "mask=,", "anchors=", "layers=0,1,2", "stride=8"]),
        ),
    ),
    max_size=4,
)


@examples(400)
@given(CHANGES, st.binary(max_size=64), st.just(0) | st.integers(-200, 8))
def test_no_cfg_and_no_weights_do_more_than_be_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, str | None]], noise: bytes, cut: int
) -> None:
    lines: list[str] = list(LINES)
    for number, change in changes:
        key, equals, _ = lines[number].partition("=")
        if change is None:
            lines[number] = ""
        elif equals and "=" not in change and "[" not in change:
            lines[number] = f"{key}={change}"
        else:
            lines[number] += "\n" + change
    whole = weights_bytes(SMALL)
    weights = noise + whole[len(noise) :]
    survives_or_is_refused(
        tmp_path_factory, "\n".join(lines).encode("utf-8", "replace"), weights[:cut] if cut else weights
    )


@examples(200)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)), st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(tmp_path_factory: pytest.TempPathFactory, cfg: bytes, weights: bytes) -> None:
    survives_or_is_refused(tmp_path_factory, cfg, weights)
    survives_or_is_refused(tmp_path_factory, b"[net]\nwidth=32\nheight=32\n" + cfg, weights)


def test_what_the_fuzzing_starts_from_can_be_imported(tmp_path: Path) -> None:
    files = write(tmp_path, SMALL, 32, 32)
    files.cfg.write_text("\n".join(LINES))
    assert len(files.load()[0].outputs) == 1


def survives_or_is_refused(folders: pytest.TempPathFactory, cfg: bytes, weights: bytes) -> None:
    folder = folders.getbasetemp()
    (folder / "fuzz.cfg").write_bytes(cfg)
    (folder / "fuzz.weights").write_bytes(weights)
    try:
        graph, _ = import_darknet(folder / "fuzz.cfg", folder / "fuzz.weights")
    except PlanError:
        return
    assert parse(graph.to_bytes()).outputs


# --- dt import darknet ------------------------------------------------------------------------------------------------


def test_dt_import_darknet_writes_model_and_card(tmp_path: Path) -> None:
    files, out = write(tmp_path, SMALL, 32, 32), tmp_path / "some.tflite"
    done = CliRunner().invoke(app, ["import", "darknet", str(files.cfg), str(files.weights), "--out", str(out)])
    assert done.exit_code == 0, done.output
    card, guessed = load_card(out)
    assert card.decoder == "yolov3" and not guessed
    assert {p.name for p in tmp_path.iterdir()} == {"net.cfg", "net.weights", "some.tflite", "some.toml"}


def test_dt_import_darknet_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    files = write(tmp_path, SMALL, 32, 32)
    before = {p.name for p in tmp_path.iterdir()}
    (tmp_path / "folder.tflite").mkdir()
    (tmp_path / "folder.tflite" / "x").touch()
    for out, weights in (
        ("folder.tflite", files.weights),
        ("a.toml", files.weights),
        ("no/a.tflite", files.weights),
        ("a", files.cfg),
    ):
        with pytest.raises(PlanError):
            CliRunner().invoke(
                app,
                ["import", "darknet", str(files.cfg), str(weights), "--out", str(tmp_path / out)],
                catch_exceptions=False,
            )
    assert {p.name for p in tmp_path.iterdir()} == {*before, "folder.tflite"}


def test_dt_import_darknet_leaves_nothing_behind_when_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    files = write(tmp_path, SMALL, 32, 32)
    before = {p.name for p in tmp_path.iterdir()}
    monkeypatch.setattr(Path, "replace", fail)
    arguments = ["import", "darknet", str(files.cfg), str(files.weights), "--out", str(tmp_path / "a.tflite")]
    with pytest.raises(DtError, match="No space left on device"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert {p.name for p in tmp_path.iterdir()} == before
