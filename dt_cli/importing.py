"""`dt import`: other programs' networks as .tflite files with a card."""

from pathlib import Path

from dt_cli.output import console, size
from models.card import describe, load_card
from models.darknet import import_darknet
from models.files import write_files
from models.graph import file_digest
from schemas.errors import PlanError


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
