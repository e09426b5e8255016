"""One of our models at work on a machine of its own: letterbox, run, decode, as a cluster does it."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.graph import file as graph
from models.results.card import load_card
from models.results.decode import decode, quantization_of
from models.results.geometry import placed
from models.running import engine
from models.tiling.tensor import to_input
from schemas.contract.plan import Pixels
from schemas.contract.results import Detection

_BORDER = 114  # the grey of YOLO's letterbox


def letterbox(image: NDArray[np.uint8], pixels: Pixels) -> NDArray[np.uint8]:
    """The frame (height, width, 3) as the edges' sources fit it: (1, pixels.height, pixels.width, 3)."""
    where = placed(image.shape[0], image.shape[1], pixels)
    how = cv2.INTER_AREA if where.height <= image.shape[0] else cv2.INTER_LINEAR
    canvas = np.full((1, pixels.height, pixels.width, 3), _BORDER, np.uint8)
    canvas[0, where.y0 : where.y1, where.x0 : where.x1] = cv2.resize(image, (where.width, where.height), interpolation=how)
    return canvas


def square(size: int) -> Pixels:
    """The picture of a float model of ``size`` pixels."""
    return Pixels(tensor="image", height=size, width=size, dtype="float32")


class Reader:
    """A .tflite with the card beside it, run by the engine. ``least``: another threshold than the card's."""

    def __init__(self, path: Path, least: float | None = None) -> None:
        model = graph.load(path)
        card, _ = load_card(path, model)
        image = model.tensors[model.inputs[0]]
        self.threshold = card.threshold
        self._card = card if least is None else card.model_copy(update={"score_threshold": least, "max_detections": 1000})
        self._pixels = Pixels.model_validate(
            {"tensor": image.name, "height": image.shape[1], "width": image.shape[2], "dtype": image.dtype, **card.pixels()}
        )
        self._engine = engine.load(path.read_bytes())
        self._outputs, self._quantization = [model.tensors[t].name for t in model.outputs], quantization_of(model)

    def read(self, image: NDArray[np.uint8]) -> tuple[Detection, ...]:
        """The digits of a frame of any size, in its pixels, best first."""
        made = self._engine.run([to_input(letterbox(image, self._pixels), self._pixels)])
        outputs = dict(zip(self._outputs, made, strict=True))
        picture = image.shape[0], image.shape[1]
        return decode(self._card, outputs, self._quantization, picture, self._pixels).detections
