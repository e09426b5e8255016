"""`dt import`: other programs' networks as .tflite files with a card."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from dt_cli.output import console, size
from models.card import describe, load_card
from models.darknet import import_darknet
from models.graph import file_digest
from schemas.errors import PlanError


def darknet(cfg: Path, weights: Path, out: Path, names: Path | None) -> None:
    if out.suffix == ".toml":
        raise PlanError(f"--out {out} is the model, its card gets the suffix .toml: name it .tflite")
    graph, card = import_darknet(cfg, weights, names)
    beside = out.with_suffix(".toml")
    _write({beside: [card.encode()], out: graph.pieces()})
    outputs = ", ".join("x".join(map(str, graph.tensors[t].shape)) for t in graph.outputs)
    console.print(
        f"{out}: {len(graph.ops)} operators, {size(out.stat().st_size)}, outputs {outputs}, digest {file_digest(out)}"
    )
    console.print(f"{beside}: {describe(load_card(out, graph)[0])}")


def _write(files: dict[Path, Iterable[bytes | memoryview]]) -> None:
    """Writes files that belong together: none appears before all are written.

    Raises:
        PlanError: one cannot be written.
    """
    for path in files:
        if path.is_dir():
            raise PlanError(f"cannot write {path}: it is a folder")
    with ExitStack() as cleanup:
        written = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
        for path, pieces in files.items():
            cleanup.callback(written[path].unlink, missing_ok=True)
            try:
                with written[path].open("wb") as file:
                    file.writelines(pieces)
            except OSError as error:
                raise PlanError(f"cannot write {path}: {error.strerror}") from error
        for path, temporary in written.items():
            try:
                temporary.replace(path)
            except OSError as error:
                raise PlanError(f"cannot write {path}: {error.strerror}") from error
