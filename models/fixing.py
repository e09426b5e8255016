"""Models whose input may have any height and width, with one of their own: what a plan needs."""

from dataclasses import replace
from pathlib import Path

from models.graph.file import Graph, load
from models.graph.prepare import image_input, prepared
from models.running import engine


def fixed(path: Path, height: int, width: int) -> Graph:
    """The model of ``path`` for images of this size; the runtime tells the shapes of all its tensors.

    Raises:
        PlanError: no model, or one without an image.
        EngineError: the runtime refuses it at this size.
    """
    graph = load(path, is_open=True)
    seen = prepared(graph)
    image = image_input(seen)
    batch, _, _, depth = seen.tensors[image].shape
    is_nchw = seen.tensors[image].shape != graph.tensors[image].shape
    shape = (batch, depth, height, width) if is_nchw else (batch, height, width, depth)
    shapes = engine.shapes(path.read_bytes(), graph.inputs.index(image), shape)
    tensors = [t if t.data is not None or i not in shapes else replace(t, shape=shapes[i]) for i, t in enumerate(graph.tensors)]
    return Graph(tensors, graph.ops, graph.inputs, graph.outputs)
