"""What a .tflite says of itself: TFLite's metadata in it, files behind it, and what YOLO's exporters leave there.

Publishers name classes, say how pixels become input values, and which task a YOLO was trained for. Law: what is damaged or of
another kind is passed over, for a model runs without it; nothing here is trusted beyond its size.
"""

import ast
import json
import mmap
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from models.graph.flatbuffer import Reader, Record
from models.graph.tflite_schema import tables
from schemas.contract.errors import PlanError

_NORMALIZATION = 1  # ProcessUnitOptions
_LABELS = (2, 3)  # AssociatedFileType: of an axis, of values
_MAX_FILES, _MAX_BYTES, _MAX_LABELS = 64, 2**20, 100_000
_TASKS = ("detect", "segment", "pose", "classify", "obb")

_TABLES = tables(
    """
Model - - - - buffers:[Buffer - metadata:[Metadata;
Buffer data:[B offset:Q size:Q;
Metadata name:s buffer:I;
ModelMetadata name:s description:s version:s subgraph_metadata:[SubGraphMetadata;
SubGraphMetadata name:s description:s input_tensor_metadata:[TensorMetadata output_tensor_metadata:[TensorMetadata;
TensorMetadata name:s description:s - - process_units:[ProcessUnit - associated_files:[AssociatedFile;
AssociatedFile name:s description:s type:b;
ProcessUnit options_type:B options:@;
Normalization mean:[f std:[f
"""
)


@dataclass(frozen=True)
class About:
    """What is known of a model: ``labels`` of its classes, ``scale`` and ``offset`` of its input values (pixel * scale +
    offset, one number or one a channel), and of a YOLO its ``task``, how many ``keypoints`` a body has, and whether it is
    ``end_to_end``."""

    labels: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    task: str = ""
    keypoints: int = 0
    end_to_end: bool = False


def about(path: Path) -> About:
    """What the model file says of itself.

    Raises:
        PlanError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            files = dict(_files(file))
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise PlanError(f"cannot read the model {path}: {error}") from error
    yolo = _yolo(files)
    if yolo:
        return yolo
    found = _metadata(data)
    inputs, outputs = found.get("input_tensor_metadata", []), found.get("output_tensor_metadata", [])
    scale, offset = _normalization(inputs[0]) if inputs else ((), ())
    named = [file["name"] for tensor in outputs for file in tensor.get("associated_files", [])
             if file.get("type") in _LABELS and file.get("name") in files]  # fmt: skip
    texts = [text for name, text in files.items() if name.endswith(".txt")]
    labels = files[named[0]] if named else texts[0] if len(texts) == 1 else ""
    return About(tuple(line.strip() for line in labels.splitlines() if line.strip())[:_MAX_LABELS], scale, offset)


def _files(model: BinaryIO) -> Iterator[tuple[str, str]]:
    """The text files behind the model, by name."""
    try:
        with zipfile.ZipFile(model) as folder:
            for file in folder.infolist()[:_MAX_FILES]:
                if file.file_size <= _MAX_BYTES:
                    yield file.filename, folder.read(file).decode("utf-8", "replace")
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError, EOFError):
        return


def _yolo(files: Mapping[str, str]) -> About | None:
    """Of the dictionary that Ultralytics' exporters append, as JSON or as Python prints it."""
    for text in files.values():
        try:
            told: Any = json.loads(text)
        except ValueError:
            try:
                told = ast.literal_eval(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
        if isinstance(told, dict) and isinstance(told.get("names"), dict | list):
            names = told["names"]
            labels = list(names.values() if isinstance(names, dict) else names)[:_MAX_LABELS]
            shape = told.get("kpt_shape")
            return About(
                tuple(str(label) for label in labels),
                task=told["task"] if told.get("task") in _TASKS else "",
                keypoints=shape[0] if isinstance(shape, list | tuple) and len(shape) == 2 and shape[1] == 3 else 0,
                end_to_end=told.get("end2end") is True,
            )
    return None


def _metadata(data: mmap.mmap) -> Record:
    """TFLite's own, of the first subgraph."""
    try:
        reader = Reader(memoryview(data), _TABLES)
        model = reader.table("Model", reader.offset(0))
        for entry in model.get("metadata", []):
            if entry.get("name") == "TFLITE_METADATA":
                held = memoryview(model["buffers"][entry.get("buffer", 0)]["data"])
                reader = Reader(held, _TABLES)
                subgraph = reader.table("ModelMetadata", reader.offset(0)).get("subgraph_metadata", [{}])[0]
                for tensor in subgraph.get("input_tensor_metadata", []):
                    for unit in tensor.get("process_units", []):
                        if unit.get("options_type") == _NORMALIZATION:
                            tensor["normalization"] = reader.table("Normalization", unit["options"])
                return dict(subgraph)
    except (*Reader.ERRORS, KeyError, TypeError, UnicodeDecodeError):
        pass
    return {}


def _normalization(tensor: Record) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale and offset of ``(pixel - mean) / std``."""
    told = tensor.get("normalization", {})
    mean, std = (np.asarray(told.get(key, ()), np.float64) for key in ("mean", "std"))
    if mean.shape != std.shape or mean.shape not in ((1,), (3,)) or not (np.isfinite(mean).all() and (std > 0).all()):
        return (), ()
    return tuple((1 / std).tolist()), tuple((0.0 - mean / std).tolist())
