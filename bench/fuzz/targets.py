"""What is fuzzed: each target takes any bytes, and does with them what the program does with bytes of a stranger.

A target returns when it has taken the bytes and raises one of our own errors (``DtError``) when it refuses them. Every
other exception is a fault, and so is an answer that breaks the target's law, which it says by ``AssertionError``.
"""

import contextlib
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bench.fuzz.seeds import GRAPHS, bundle_folder, room
from models.bundle import open_bundle
from models.graph import flatbuffer
from models.graph.file import Graph, parse
from models.graph.ops import flops_of
from models.importers.darknet import import_darknet
from models.planning.planner import make_plan, tile_costs
from models.results.card import Card, check_card, complete, guess, read_card
from models.results.decode import decode as decode_outputs
from models.results.decode import quantization_of, segmentation_map
from models.tiling import rewrite
from models.tiling.partition import Partition
from schemas.contract import topics
from schemas.contract.errors import DtError, PlanError
from schemas.host import settings
from schemas.wire.codec import DTYPES, decode, encode

ROOT = "dt"
_FILL = 2**20  # bytes of a tensor message that a target supplies itself


@dataclass(frozen=True)
class Target:
    """``run`` takes any bytes; ``seeds`` are good ones to begin with."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    max_bytes: int = 4096


# --- the wire --------------------------------------------------------------------------------------------------------


def tensor_message(header: bytes, raw: bytes) -> bytes:
    """A tensor message around a header of JSON."""
    header += b" " * (-(8 + len(header)) % 16)
    return b"DT\1\0" + len(header).to_bytes(4, "little") + header + raw


def addressed(data: bytes) -> tuple[str, bytes]:
    """Bytes -> topic and payload. The first byte chooses the topic, the second how much of the form is given:
    0 none, 1 the preamble, 2 also as many bytes as the header's tensors claim, 3 also the topic's levels."""
    row, form, body = topics.TABLE[data[0] % len(topics.TABLE)], data[1] % 4, data[2:]
    header, _, raw = body.partition(b"\0")
    said: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(header)
    if row.tensors and form:
        claimed = _claimed(said) if form > 1 else 0
        body = tensor_message(header, raw[: claimed or None].ljust(claimed, b"\0"))
        said = said.get("message") if isinstance(said, dict) else None
    levels = {"node": "n", "frame": "n-01234567-0", "digest": "0" * 32, "n": "0", "layer": "0", "tile": "0", "source": "n",
              "verb": "v", "permission": "0000000a"}  # fmt: skip
    if form == 3 and isinstance(said, dict):
        levels |= {name: str(said[name])[:100] for name in levels if isinstance(said.get(name), (str, int))}
        levels["source"] = levels["frame"].rsplit("-", 2)[0]
    return row.path(ROOT, **levels), body


def _claimed(header: Any) -> int:
    total = 0
    try:
        for entry in header["tensors"]:
            total += entry.get("packed") or int(np.prod(entry["shape"])) * DTYPES[entry["dtype"]].itemsize
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return 0
    return total if isinstance(total, int) and 0 <= total <= _FILL else 0


def codec(data: bytes) -> None:
    """A message that is accepted is the message that its own encoding decodes to."""
    if len(data) < 2:
        return
    topic, payload = addressed(data)
    got = decode(ROOT, topic, payload)
    again = decode(ROOT, topic, encode(got.topic, got.message, got.tensors))
    assert again.message == got.message and list(again.tensors) == list(got.tensors)
    for name, array in got.tensors.items():
        assert array.shape == again.tensors[name].shape and array.tobytes() == again.tensors[name].tobytes()


# --- models ----------------------------------------------------------------------------------------------------------


def tflite(data: bytes) -> None:
    """A model that is accepted can be planned or is refused, and what is written of it can be read again."""
    graph = parse(data)
    again = parse(graph.to_bytes())
    assert [t.shape for t in again.tensors] == [t.shape for t in graph.tensors] and len(again.ops) == len(graph.ops)
    partition = Partition(graph)
    guessed = complete(guess(graph), graph)
    try:
        check_card(guessed, graph)
        quantization_of(graph)
    except PlanError:
        pass  # a card that was guessed need not fit: then a user writes one
    plan, cut, edge_model = make_plan(partition, "0" * 32, (2, 2), **Card(decoder="raw").pixels())
    tile_costs(partition, plan)
    flops_of(graph, range(len(graph.ops)))
    parse(edge_model)
    tail = rewrite.tail_graph(partition, cut)
    if tail is not None:
        parse(tail.to_bytes())


def darknet(data: bytes) -> None:
    """A cfg, and after a zero byte its weights; without them there are as many zeros as the cfg asks for."""
    text, given, weights = data.partition(b"\0")
    cfg, file = room() / "net.cfg", room() / "net.weights"
    cfg.write_bytes(text)
    file.write_bytes(weights)
    if not given:
        with file.open("wb") as sparse:
            sparse.truncate(2**28)
    try:
        graph, card = import_darknet(cfg, file)
    except PlanError as error:
        wanted = re.search(r"too long: expected (\d+) bytes", str(error))
        if given or not wanted:
            raise
        with file.open("r+b") as sparse:
            sparse.truncate(int(wanted[1]))
        graph, card = import_darknet(cfg, file)
    (room() / "net.toml").write_text(card)
    check_card(read_card(room() / "net.toml"), graph)
    if sum(t.data.size for t in graph.tensors if t.data is not None) < _FILL:
        parse(graph.to_bytes())


_ODD = (0, 1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 256, 65535, 2**24, 2**30, 2**31 - 1, -1, -2, -3, -128, -(2**31))
_FAR = (2**32 - 1, 2**53, 2**62, 2**63 - 1, -(2**63), 1e-40, 1e30, float("inf"), float("nan"))


def graph(data: bytes) -> None:
    """A drawn model with some of its numbers changed."""
    if not data:
        return
    try:
        file = changed(data)
    except (struct.error, IndexError, OverflowError, KeyError, TypeError, ValueError):
        return  # no file holds such a number
    tflite(file)


def changed(data: bytes) -> bytes:
    """The first byte chooses a drawn model; of each four that follow two choose a number in it, two another for it.

    Of a vector only the first elements are left.
    """
    made = flatbuffer.read(drawn(list(GRAPHS)[data[0] % len(GRAPHS)]).to_bytes())
    places = list(numbers(made))
    for at in range(1, len(data) - 3, 4):
        holder, key = places[int.from_bytes(data[at : at + 2], "little") % len(places)]
        odd = (*_ODD, *_FAR)
        value = odd[data[at + 3] % len(odd)] if data[at + 2] % 2 else int(data[at + 3]) % 8
        with contextlib.suppress(OverflowError, ValueError):  # a vector of int32 does not hold it
            holder[key] = holder[key][: data[at + 3] % 4] if np.ndim(holder[key]) else value
    return b"".join(flatbuffer.write(made))


def numbers(record: Any) -> Iterator[tuple[Any, Any]]:
    """Where the numbers of a model's tables stand, and its short vectors: what holds each, and its key there."""
    items = record.items() if isinstance(record, dict) else enumerate(record)
    for key, value in list(items):
        if isinstance(value, np.ndarray):
            if key != "data" or value.size <= 64:
                record[key] = value.copy()
                yield record, key
                yield from ((record[key], i) for i in range(min(value.size, 64)))
        elif isinstance(value, (dict, list)):
            yield from numbers(value)
        elif isinstance(value, (int, float)):
            yield record, key


# --- text files ------------------------------------------------------------------------------------------------------


def card(data: bytes) -> None:
    """A card in TOML, and after a zero byte its labels file."""
    text, _, labels = data.partition(b"\0")
    (room() / "card.toml").write_bytes(text)
    (room() / "labels.txt").write_bytes(labels)
    try:
        found = read_card(room() / "card.toml")
        check_card(found, drawn("detector"), "the card")
    except DtError as error:
        assert "\n" not in str(error), "one line"
        raise
    complete(found, drawn("detector"))


@cache
def drawn(name: str) -> Graph:
    """The small graph of a seed."""
    return GRAPHS[name]()


def config(data: bytes) -> None:
    """A configuration file, as ``--config`` names it."""
    path = room() / "config.toml"
    path.write_bytes(data)
    loaded = settings.load(config=path)
    assert all(len(row) == 3 for row in loaded.rows())


def bundle(data: bytes) -> None:
    """A folder of a plan: its plan.json, and after a zero byte its card.json."""
    folder = bundle_folder()
    plan, _, described = data.partition(b"\0")
    (folder / "plan.json").write_bytes(plan)
    (folder / "card.json").write_bytes(described)
    open_bundle(folder)


# --- decoders --------------------------------------------------------------------------------------------------------

_SHAPES: tuple[tuple[str, list[tuple[int, ...]]], ...] = (
    ("yolov2", [(1, 3, 3, 35)]),
    ("yolov3", [(1, 2, 2, 21), (1, 4, 4, 21)]),
    ("yolov5", [(1, 12, 8)]),
    ("yolov8", [(1, 7, 12)]),
    ("ssd", [(1, 6, 4), (1, 6), (1, 6), (1,)]),
    ("grid", [(1, 3, 4, 8)]),
    ("top_k", [(1, 9)]),
    ("segmentation", [(1, 4, 4, 3)]),
    ("segmentation", [(1, 4, 4)]),
    ("movenet", [(1, 1, 17, 3)]),
    ("heatmaps", [(1, 3, 3, 17), (1, 3, 3, 34)]),
    ("yolov8", [(1, 12, 40), (1, 16, 24, 6)]),
    ("yolo_end_to_end", [(1, 9, 8), (1, 16, 24, 2)]),
    ("ssd_anchors", [(1, 138, 4), (1, 138, 3)]),
    ("efficientdet", [(1, 1161, 4), (1, 1161, 2)]),
    ("blaze", [(1, 768, 8), (1, 768, 1)]),
    ("landmarks", [(1, 30), (1, 1)]),
    ("raw", [(1, 4)]),
)
_ANCHORS = {"yolov2": 5, "yolov3": 6, "grid": 1}


def decoder(data: bytes) -> None:
    """The first bytes choose decoder, dtype, threshold and picture, the rest are the outputs' own bytes."""
    from models.results.geometry import clipped  # noqa: F401 - what the law below speaks of
    from schemas.contract.plan import Pixels

    if len(data) < 8:
        return
    name, shapes = _SHAPES[data[0] % len(_SHAPES)]
    integer = name == "segmentation" and len(shapes[0]) == 3
    dtype = np.dtype("int32" if integer else ("float32", "float16", "int8", "uint8")[data[1] % 4 if name != "ssd" else 0])
    size = np.frombuffer(data[2:6], "<u2")
    picture = (int(size[0]) % 2000 + 1, int(size[1]) % 2000 + 1)
    outputs, quantization, body = {}, {}, data[8:] or b"\0"
    for i, shape in enumerate(shapes):
        count = int(np.prod(shape)) * dtype.itemsize
        raw, body = (body * (count // len(body) + 1))[:count], body[count:] or body
        outputs[f"o{i}"] = np.frombuffer(raw, dtype).reshape(shape)
        if dtype.kind in "iu" and not integer:
            quantization[f"o{i}"] = (float(data[6]) / 16, int(data[7]))
    made = Card(
        decoder=name,  # type: ignore[arg-type]
        outputs=tuple(outputs),
        score_threshold=data[6] / 255,
        anchors=((1.5, 2.5),) * _ANCHORS.get(name, 0),
        strides=(8, 8, 8, 8) if name == "blaze" else (),
        logits=bool(data[7] & 1),
        box_units=(None, "pixels", "normalized")[data[7] // 2 % 3],
    )
    pixels = Pixels(
        tensor="x", height=64, width=96, dtype="float32", fit=("letterbox", "stretch")[data[7] // 8 % 2]
    )
    decode_outputs(made, outputs, quantization, picture, pixels)
    mask = segmentation_map(made, outputs, quantization, picture, pixels)
    assert mask is None or mask.shape == picture
