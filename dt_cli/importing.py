"""`dt import`: other programs' networks as .tflite files with a card."""

from pathlib import Path

from dt_cli.output import console, size
from models import fixing
from models.graph.file import file_digest
from models.importers.darknet import import_darknet
from models.results.card import describe, load_card
from schemas.contract.errors import PlanError
from schemas.host.files import write_files


def darknet(cfg: Path, weights: Path, out: Path, names: Path | None) -> None:
    if out.suffix == ".toml":
        raise PlanError(f"--out {out} is the model, its card gets the suffix .toml: name it .tflite")
    graph, card = import_darknet(cfg, weights, names)
    beside = out.with_suffix(".toml")
    write_files({beside: [card.encode()], out: graph.pieces()})
    outputs = ", ".join("x".join(map(str, graph.tensors[t].shape)) for t in graph.outputs)
    console.print(
        f"{out}: {len(graph.ops)} operators, {size(out.stat().st_size)}, outputs {outputs}, digest {file_digest(out)}"
    )
    console.print(f"{beside}: {describe(load_card(out, graph)[0])}")


def fixed(model: Path, image: str, out: Path) -> None:
    height, _, width = image.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and min(int(height), int(width)) >= 1):
        raise PlanError(f"--size {image!r}: give height x width in pixels, such as 320x640")
    graph = fixing.fixed(model, int(height), int(width))
    write_files({out: graph.pieces()})
    shapes = ", ".join("x".join(map(str, graph.tensors[t].shape)) for t in graph.inputs)
    console.print(f"{out}: input {shapes}, {size(out.stat().st_size)}, digest {file_digest(out)}")
