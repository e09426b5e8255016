"""A model with its plan: in memory for gateway and commands, on disk a folder of its plan, card and model.

Digests tie them together: a plan is never used with another model than the one it was made for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from models.graph.file import Graph, Tensor, file_digest, load
from models.graph.prepare import folded
from models.planning.planner import BlockChoices, in_parts, make_plan
from models.results.card import Card, check_card, load_card
from models.running import blocking, engine
from models.tiling import rewrite
from models.tiling.division import Channels
from models.tiling.partials import with_partials
from models.tiling.partition import Cut, Partition
from schemas.contract.errors import PlanError, unwritable
from schemas.contract.plan import Plan, Record, digest
from schemas.contract.text import one_line
from schemas.host.files import read_file, write_files

R = TypeVar("R", bound=Record)
_MAX_JSON_BYTES = 8 * 2**20


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model file, its partition, the plan and the edges' model."""

    path: Path
    partition: Partition
    plan: Plan
    cut: Cut
    edge_model: bytes
    card: Card
    card_guessed: bool

    @property
    def graph(self) -> Graph:
        return self.partition.graph

    @property
    def name(self) -> str:
        """What people call it."""
        return one_line(self.path.stem)


def make_bundle(
    path: Path,
    grid: tuple[int, int] = (3, 3),
    cut: str = "auto",
    blocks: BlockChoices | None = None,
    reuse: bool = True,
    partition: Partition | None = None,
    shares: Sequence[float] = (),
    card: Card | None = None,
    approximate: Mapping[str, int] | None = None,
) -> Bundle:
    """Plans a model file: one block of ``cut`` and ``grid``, or several (``models.planning.planner.make_plan``).

    ``partition`` and ``card`` are those of the file, where they are known already; ``approximate``: the layers that
    ``partition`` sums in parts.

    Raises:
        PlanError: the file, the grid or a cut is at fault.
    """
    if blocks is not None and any(isinstance(division, Channels) for _, division in blocks) and not approximate:
        graph = load(path)
        blocks, approximate = in_parts(graph, blocks)
        partition = Partition(with_partials(graph, approximate))
    partition = partition or Partition(load(path))
    card, guessed = (card, False) if card is not None else load_card(path, partition.graph)
    plan, chosen, edge_model = make_plan(
        partition, file_digest(path), grid, cut,
        blocks=blocks, reuse=reuse, shares=shares, approximate=approximate, **card.pixels(),
    )  # fmt: skip
    return Bundle(path, partition, plan, chosen, edge_model, card, guessed)


def open_bundle(path: Path, grid: tuple[int, int] | None = None, cut: str = "auto") -> Bundle:
    """A folder that ``save`` wrote, or a model file that is planned now (3x3 unless ``grid`` says otherwise).

    Raises:
        PlanError: as ``make_bundle``; or a folder whose parts do not belong together.
    """
    if not path.is_dir():
        return make_bundle(path, grid or (3, 3), cut)
    if grid is not None or cut != "auto":
        raise PlanError(f"{path} holds a plan already: give the model file to choose another grid or cut")
    plan, card = _read(Plan, path / "plan.json"), _read(Card, path / "card.json")
    return with_plan(path / "model.tflite", plan, card, str(path / "plan.json"))


def open_card(path: Path) -> Card:
    """The card of a model file, or of a folder that ``save`` wrote.

    Raises:
        PlanError: it is at fault.
    """
    return _read(Card, path / "card.json") if path.is_dir() else load_card(path)[0]


def with_plan(model: Path, plan: Plan, card: Card, where: str) -> Bundle:
    """A model file with the plan and the card that were made for it before and kept in ``where``.

    Raises:
        PlanError: they do not belong together.
    """
    partition = Partition(with_partials(load(model), plan.approximate))
    if file_digest(model) != plan.model:
        raise PlanError(f"{model} is not the model of {where} (digests differ): plan it again")
    chosen = partition.find("+".join(spec.name for spec in plan.ends))
    edge_model = rewrite.edge_graph(partition, chosen).to_bytes()
    if digest(edge_model) != plan.edge_model:
        raise PlanError(f"{where} was made by another version of this program: plan {model} again")
    check_card(card, partition.graph, f"{where}, card")
    return Bundle(model, partition, plan, chosen, edge_model, card, False)


def _read(kind: type[R], path: Path) -> R:
    try:
        return kind.model_validate_json(read_file(path, _MAX_JSON_BYTES, kind.__name__.lower()))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:60].encode("unicode_escape").decode() for part in first["loc"])
        if where == "version":
            raise PlanError(f"{path} was made by another version of this program: plan its model again") from error
        reason = first["msg"].removeprefix("Value error, ").splitlines()[0][:300]
        raise PlanError(f"{path} is no {kind.__name__.lower()}: {where}: {reason}") from error


def save(bundle: Bundle, folder: Path) -> None:
    """Writes plan and model, whole or not at all.

    Raises:
        PlanError, DtError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        here = (folder / "model.tflite").exists() and bundle.path.samefile(folder / "model.tflite")
    except OSError as error:
        raise unwritable(folder, error) from error
    model: dict[Path, list[bytes]] = {} if here else {folder / "model.tflite": [bundle.path.read_bytes()]}
    card, plan = (record.model_dump_json(indent=1).encode() + b"\n" for record in (bundle.card, bundle.plan))
    write_files({**model, folder / "card.json": [card], folder / "plan.json": [plan]})


def first_state(tensor: Tensor) -> np.ndarray:
    """What an input holds before anything was fed back: the number zero, in its quantization."""
    zero = tensor.quantization.zero_point[0] if tensor.quantization and tensor.quantization.zero_point else 0
    return np.full(tensor.shape, zero, tensor.dtype)


def first_value(card: Card, tensor: Tensor) -> np.ndarray:
    """What an input beside the image gets before anything was fed back: what the card gives it, else zero."""
    if tensor.name not in card.inputs:
        return first_state(tensor)
    values = np.broadcast_to(np.asarray(card.inputs[tensor.name], np.float64).reshape(-1), (prod(tensor.shape),))
    if tensor.quantization and tensor.dtype != "float32":
        zero = tensor.quantization.zero_point[0] if tensor.quantization.zero_point else 0
        values = np.clip(np.round(values / tensor.quantization.scale[0]) + zero, *_range(tensor.dtype))
    return values.reshape(tensor.shape).astype(tensor.dtype)


def _range(dtype: str) -> tuple[int, int]:
    kind = np.iinfo(dtype)
    return int(kind.min), int(kind.max)


def next_state(card: Card, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the outputs of one frame feed into the next one of the same source, by input."""
    return {given: outputs[made] for made, given in card.state.items()}


class Tail:
    """What remains after the cut, on one node: merged cut tensors -> the model's outputs."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        graph = rewrite.tail_graph(bundle.partition, bundle.cut)
        self._outputs = [spec.name for spec in bundle.plan.outputs]
        self._engine = None if graph is None else engine.load(_blocked(graph).to_bytes(), threads)
        self._inputs = [] if graph is None else [graph.tensors[t] for t in graph.inputs]
        self._card = bundle.card
        self._made = [] if graph is None else [graph.tensors[t].name for t in graph.outputs]

    def run(
        self, cut: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Merged maps by name -> all outputs of the model by name. ``state`` gives its other inputs, or the card does; what is
        left is zero.

        Raises:
            EngineError: the runtime failed.
        """
        made: dict[str, np.ndarray] = dict(cut)
        known = {**cut, **(state or {})}
        if self._engine is not None:
            given = [known[t.name] if t.name in known else first_value(self._card, t) for t in self._inputs]
            made.update(zip(self._made, self._engine.run(given), strict=True))
        return {name: made[name] for name in self._outputs}


def _blocked(graph: Graph) -> Graph:
    return blocking.blocked(graph, blocking.part_bytes(), blocking.numbers(graph))


class Reference:
    """The unpartitioned model on one node: what every answer of a cluster is compared with.

    ``cuts`` names the tensors that are given besides the outputs; the deepest cut's unless told otherwise. Of an approximate
    plan it is the model with its layers summed in parts, as every node sums them; ``own``: the file's, nevertheless. A file
    that works with shapes (its batch may be open) gives the runtime tensors of unknown sizes, which other kernels compute:
    compared is the model with its shapes fixed.
    """

    def __init__(
        self, bundle: Bundle, threads: int = 1, cuts: Iterable[str] | None = None, own: bool = False
    ) -> None:
        graph = bundle.graph
        self._image, self._card = bundle.partition.image, bundle.card
        self._inputs = [graph.tensors[t] for t in graph.inputs]
        self._names = [graph.tensors[t].name for t in graph.outputs]
        names = [graph.tensors[t].name for t in bundle.cut.tensors]
        self._cut_names = names if cuts is None else list(dict.fromkeys(cuts))
        file = load(bundle.path)
        is_open = folded(file) is not file or bool(bundle.plan.approximate and not own)
        self._whole = engine.load(bundle.graph.to_bytes() if is_open else bundle.path.read_bytes(), threads)
        self._prefix = engine.load(self._prefix_model(bundle, names), threads)
        self._image_name = graph.tensors[self._image].name
        self._is_nchw = not is_open and file.tensors[self._image].shape != graph.tensors[self._image].shape

    def _prefix_model(self, bundle: Bundle, deepest: list[str]) -> bytes:
        if self._cut_names == deepest:
            return bundle.edge_model
        tensors = tuple(bundle.graph.by_name[name] for name in self._cut_names)
        return rewrite.edge_graph(bundle.partition, replace(bundle.cut, tensors=tensors)).to_bytes()

    def run(
        self, image: np.ndarray, state: Mapping[str, np.ndarray] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The model's input values -> (cut tensors, outputs) by name. ``state`` as in ``Tail.run``."""
        whole = np.ascontiguousarray(image.transpose(0, 3, 1, 2)) if self._is_nchw else image
        known = {self._image_name: whole, **(state or {})}
        given = [known[t.name] if t.name in known else first_value(self._card, t) for t in self._inputs]
        cut = dict(zip(self._cut_names, self._prefix.run([image]), strict=True))
        return cut, dict(zip(self._names, self._whole.run(given), strict=True))
