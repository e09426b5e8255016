"""Arrays: crop a box, stitch boxes together, turn pixels into the model's input. NHWC everywhere.

What a task makes parts into what each lane needs of it later, and a task's inputs are assembled of such parts; both follow
from the plan alone, so that sender and receiver agree without a word.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from schemas.contract.errors import DecodeError, PlanError
from schemas.contract.plan import Block, Box, Pixels, Plan, TensorSpec, hasher

Boxes: TypeAlias = Mapping[str, Box]
Task: TypeAlias = tuple[int, int]  # block and lane


def fingerprint(tensors: Mapping[str, np.ndarray]) -> str:
    """Digest of tensors' names and bits, in 32 hexadecimal digits: who computes the same has the same."""
    hashed = hasher()
    for name in sorted(tensors):
        hashed.update(name.encode())
        hashed.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """A part of an array, as a view."""
    part: np.ndarray = array[box.slices()]
    return part


def stitch(spec: TensorSpec, parts: Iterable[tuple[Box, np.ndarray]]) -> np.ndarray:
    """The whole tensor of boxes that partition it.

    Raises:
        PlanError: the boxes do not cover it exactly once.
    """
    array = np.empty(spec.shape, spec.dtype)
    found = list(parts)
    for box, part in found:
        crop(array, box)[...] = part
    if sum(prod(box.shape) for box, _ in found) != array.size or not _covers(spec.box, [box for box, _ in found]):
        raise PlanError(f"tiles cover elements of {spec.name} not at all or twice")
    return array


def _covers(whole: Box, boxes: Sequence[Box]) -> bool:
    """Whether the boxes hold every element of ``whole`` between them."""
    if whole in boxes:
        return True
    cuts = [sorted({end for box in (whole, *boxes) for end in box[axis]}) for axis in range(len(whole))]
    covered = np.zeros([len(lines) - 1 for lines in cuts], bool)
    for box in boxes:
        covered[tuple(slice(lines.index(a), lines.index(b)) for lines, (a, b) in zip(cuts, box))] = True
    inside = tuple(slice(lines.index(a), lines.index(b)) for lines, (a, b) in zip(cuts, whole))
    return bool(covered[inside].all())


@dataclass(frozen=True)
class Exchange:
    """What tasks give each other. ``gives``: by maker and lane, the box of each tensor; ``needs``: each task's makers.

    A lane's tasks may need different boxes of what one task made: their hull is given once.
    """

    gives: Mapping[Task, Mapping[int, Boxes]]
    needs: Mapping[Task, frozenset[Task]]


Pairs: TypeAlias = dict[tuple[int, int], tuple[Block, Block, list[tuple[int, int, str, Box]]]]


def exchange(blocks: Sequence[Block], known: Pairs | None = None) -> Exchange:
    """The exchange between the tasks of these blocks. The image, which nobody makes, is not in it.

    ``known`` remembers what pairs of blocks give each other, for who asks for many plans of the same blocks.
    """
    gives: dict[Task, dict[int, dict[str, Box]]] = {(i, t.home): {} for i, block in enumerate(blocks) for t in block.tiles}
    needs: dict[Task, set[Task]] = {task: set() for task in gives}
    makers = {spec.name: i for i, block in enumerate(blocks) for spec in block.cut}
    known = {} if known is None else known
    for i, block in enumerate(blocks):
        for layer in {makers[spec.name]: None for spec in block.inputs if spec.name in makers}:
            key = id(blocks[layer]), id(block)
            if key not in known:  # the blocks, too: while they are kept no others have their ids
                known[key] = blocks[layer], block, _met(blocks[layer], block)
            for maker, taker, name, box in known[key][2]:
                given = gives[layer, maker].setdefault(taker, {})
                given[name] = given[name].hull(box) if name in given else box
                needs[i, taker].add((layer, maker))
    return Exchange(gives, {task: frozenset(of) for task, of in needs.items()})


def _met(layer: Block, block: Block) -> list[tuple[int, int, str, Box]]:
    """What each task of ``block`` needs of each of ``layer``: homes of maker and taker, tensor and box."""
    names = {spec.name for spec in layer.cut}.intersection(spec.name for spec in block.inputs)
    found = [
        (maker.home, taker.home, name, maker.outputs[name].common(taker.inputs[name]))
        for name in sorted(names) for maker in layer.tiles for taker in block.tiles
    ]  # fmt: skip
    return [(maker, taker, name, box) for maker, taker, name, box in found if box is not None]


def box_bytes(spec: TensorSpec, box: Box) -> int:
    """Bytes of a part of a tensor."""
    return prod(box.shape) * np.dtype(spec.dtype).itemsize


def assemble(specs: Iterable[TensorSpec], needs: Boxes, given: Iterable[tuple[str, Box, np.ndarray]]) -> dict[str, np.ndarray]:
    """The inputs of a task (``needs``) from parts: tensor, its box and values. Repeats do no harm.

    A single part that is all of an input is used as it is, not copied.

    Raises:
        PlanError: the parts do not cover what the task needs.
    """
    dtypes = {spec.name: spec.dtype for spec in specs}
    found: dict[str, list[tuple[Box, np.ndarray]]] = {name: [] for name in needs}
    for name, box, array in given:
        if name in needs and (common := box.common(needs[name])) is not None:
            found[name].append((common, array if common == box else crop(array, common.within(box))))
    return {name: _joined(name, dtypes[name], needs[name], pieces) for name, pieces in found.items()}


def _joined(name: str, dtype: str, need: Box, pieces: Sequence[tuple[Box, np.ndarray]]) -> np.ndarray:
    for box, array in pieces:
        if box == need:
            return array
    if not _covers(need, [box for box, _ in pieces]):
        raise PlanError(f"parts leave elements of {name} {tuple(need)} uncovered")
    array = np.empty(need.shape, dtype)
    for box, piece in pieces:
        crop(array, box.within(need))[...] = piece
    return array


def to_input(image: np.ndarray, pixels: Pixels) -> np.ndarray:
    """uint8 pixels (any crop, NHWC) as the model's input values; element by element, so crops stay exact."""
    if pixels.dtype == "uint8":
        return image
    if pixels.dtype == "int8":
        return (image ^ 0x80).view(np.int8)
    values: np.ndarray = np.multiply(image, np.asarray(pixels.scale, np.float32), dtype=np.float32)
    if np.any(pixels.offset):
        values += np.asarray(pixels.offset, np.float32)
    return values


def check_inputs(plan: Plan, lane: int, tensors: Mapping[str, np.ndarray]) -> None:
    """Whether ``tensors`` are what a lane is lent with: its task's part of the image, or nothing.

    Raises:
        DecodeError: they are not, or there is no such lane.
    """
    if lane >= plan.lanes:
        raise DecodeError(f"there is no lane {lane} in the plan")
    task = plan.task(0, lane)
    _check(f"lane {lane}", plan, task.inputs if task else {}, plan.blocks[0].inputs, tensors)


def answer_of(plan: Plan, block: int, lane: int) -> Boxes:
    """What the gateway gets of a task: those of its outputs that it merges."""
    ends, task = {spec.name for spec in plan.ends}, plan.task(block, lane)
    return {} if task is None else {name: box for name, box in task.outputs.items() if name in ends}


def check_answer(plan: Plan, block: int, lane: int, tensors: Mapping[str, np.ndarray]) -> None:
    """Whether ``tensors`` are what the gateway gets of a task: names, shapes and dtypes.

    Raises:
        DecodeError: they are not, or no such task answers.
    """
    wanted = answer_of(plan, block, lane)
    if not wanted:
        raise DecodeError(f"tile {lane} of block {block} answers for nothing in the plan")
    _check(f"tile {lane} of block {block}", plan, wanted, plan.ends, tensors)


def check_whole(plan: Plan, tensors: Mapping[str, np.ndarray]) -> None:
    """Whether ``tensors`` are all that the gateway merges, undivided.

    Raises:
        DecodeError: they are not.
    """
    _check("the whole frame", plan, {spec.name: spec.box for spec in plan.ends}, plan.ends, tensors)


def _check(what: str, plan: Plan, boxes: Boxes, specs: Iterable[TensorSpec], tensors: Mapping[str, np.ndarray]) -> None:
    if tensors.keys() != boxes.keys():
        raise DecodeError(f"{what} has tensors {sorted(tensors)}, not {sorted(boxes)}"[:300])
    dtypes = {spec.name: "uint8" if spec.name == plan.pixels.tensor else spec.dtype for spec in specs}
    for name, box in boxes.items():
        array = tensors[name]
        if array.shape != box.shape or array.dtype != dtypes[name]:
            told = f"{array.dtype}{array.shape}, not {dtypes[name]}{box.shape}"
            raise DecodeError(f"tensor {name} of {what} is {told}"[:300])
