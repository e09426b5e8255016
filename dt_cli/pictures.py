"""Annotated pictures of frames: what the model says, and which node computed which tile."""

from pathlib import Path

import numpy as np

from models.bundle import Bundle
from models.results.decode import quantization_of, segmentation_map
from models.results.draw import DrawnTile, draw
from models.results.geometry import answer_boxes
from models.results.opencv import load as load_opencv
from schemas.contract.errors import PlanError, unwritable
from schemas.contract.messages import Outcome, frame_source
from schemas.host.files import write_files


class Pictures:
    """Writes one PNG a frame into ``folder``."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self._folder, self._bundle = folder, bundle
        self._quantization = quantization_of(bundle.graph)
        self._cv2 = load_opencv("pictures")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error

    def write(self, image: np.ndarray, outcome: Outcome, outputs: dict[str, np.ndarray] | None = None) -> Path:
        """``image`` is the source's own (RGB); ``outputs`` are needed for a segmentation's tint."""
        if outcome.result is None:
            raise PlanError(f"frame {outcome.frame} has no result to draw: {outcome.reason}")
        size, plan = (image.shape[0], image.shape[1]), self._bundle.plan
        boxes = answer_boxes(plan, size)
        tiles = [
            DrawnTile(box, node, i in outcome.stolen_tiles) for i, (box, node) in enumerate(zip(boxes, outcome.workers))
        ]
        mask = None
        if outputs:
            mask = segmentation_map(self._bundle.card, outputs, self._quantization, size, plan.pixels)
        drawn = draw(image, outcome.result, tiles=tiles, mask=mask)
        source, _, number = frame_source(outcome.frame)
        path = self._folder / f"{source}-{number:05d}.png"
        encoded = self._cv2.imencode(".png", np.ascontiguousarray(drawn[..., ::-1]))[1]
        write_files({path: [encoded.tobytes()]})
        return path
