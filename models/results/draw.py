"""Annotated pictures: boxes, labels, skeletons, classes of pixels, and the tiles with the nodes that computed them.

A picture keeps its size. Colours are functions of the class's number and of the node's name, so they stay the same from
frame to frame and from run to run; text stands on plates of their own, so that it can be read on any background.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from models.results import opencv
from schemas.contract.results import Detection, Keypoint, Result, Segment

Colour: TypeAlias = tuple[int, int, int]  # RGB
Box: TypeAlias = tuple[float, float, float, float]

_GOLDEN = 137.508  # degrees: consecutive numbers get hues far apart
_TINT, _TILE_TINT, _PLATE = 0.5, 0.22, 0.72  # how much of the picture a colour covers
_SEEN = 0.2  # least score of a keypoint that is drawn
_DARK: Final[Colour] = (24, 24, 24)
_LEGEND_ROWS = 12
_FEW = 40  # points; more of them, such as a face's mesh, are drawn smaller

# Pairs of COCO's keypoints that bones join; a skeleton is drawn of those that a result has.
_BONES: Final = tuple(
    tuple(pair.split("-"))
    for pair in (
        "nose-left_eye nose-right_eye left_eye-left_ear right_eye-right_ear left_shoulder-right_shoulder "
        "left_shoulder-left_elbow left_elbow-left_wrist right_shoulder-right_elbow right_elbow-right_wrist "
        "left_shoulder-left_hip right_shoulder-right_hip left_hip-right_hip left_hip-left_knee left_knee-left_ankle "
        "right_hip-right_knee right_knee-right_ankle"
    ).split()
)


class DrawnTile(NamedTuple):
    """A tile's share of the source image (pixels, see ``geometry.tile_boxes``) and the node that computed it."""

    box: Box
    node: str
    stolen: bool


def draw(
    image: np.ndarray, result: Result, *, tiles: Sequence[DrawnTile] = (), mask: np.ndarray | None = None
) -> np.ndarray:
    """``image`` (height, width, 3; uint8 RGB, left as it is) with its result drawn on a copy.

    ``tiles`` are tinted by node, stolen ones hatched. ``mask`` (height, width; uint8) is a ``segmentation_map``: its
    classes other than 0 are tinted, with a legend; of detections they are one more than the model's.

    Raises:
        PlanError: OpenCV is missing.
    """
    canvas = _Canvas(image)
    if mask is not None:
        found = [(segment.index, class_colour(segment.index)) for segment in result.segments]
        found += [(d.index + 1, class_colour(d.index)) for d in result.detections]
        canvas.tint_classes(mask, dict(found))
    if tiles:
        canvas.tiles(tiles)
    for detection in reversed(result.detections):  # the best on top
        canvas.box(detection)
    for keypoints in (*(d.keypoints for d in reversed(result.detections)), result.keypoints):
        canvas.skeleton(keypoints)
    canvas.label(result.detections)
    if result.classes:
        rows = [(f"{c.score:.1%}  {_short(c.label)}", class_colour(c.index)) for c in result.classes]
        canvas.panel(rows, left=True, top=True)
    if result.segments:
        rows = [(f"{s.share:.1%}  {_short(s.label)}", _segment_colour(s)) for s in result.segments[:_LEGEND_ROWS]]
        canvas.panel(rows, left=False, top=True)
    if tiles:
        canvas.panel(_nodes(tiles), left=True, top=False)
    return canvas.picture


def class_colour(index: int) -> Colour:
    """The colour of a class."""
    return _hue(20.0 + _GOLDEN * index, 0.85 if index % 2 else 0.65, 0.95)


def node_colour(node: str) -> Colour:
    """The colour of a node: by its name, and far apart for names that differ in their last number (edge1, edge2)."""
    name, number = re.fullmatch(r"(.*?)(\d*)", node, re.DOTALL).groups()  # type: ignore[union-attr]
    start = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=2).digest(), "big") % 360
    return _hue(start + _GOLDEN * int(number[-6:] or 0), 0.75, 0.95)


def _hue(degrees: float, saturation: float, value: float) -> Colour:
    def channel(n: int) -> int:
        k = (n + degrees / 60.0) % 6.0
        return round(255 * value * (1.0 - saturation * max(0.0, min(k, 4.0 - k, 1.0))))

    return channel(5), channel(3), channel(1)


def _segment_colour(segment: Segment) -> Colour:
    return class_colour(segment.index) if segment.index else (90, 90, 90)


def _short(label: str) -> str:
    """A label's first name: ``tabby, tabby cat`` -> tabby."""
    return label.partition(",")[0][:40]


def _nodes(tiles: Sequence[DrawnTile]) -> list[tuple[str, Colour]]:
    rows = []
    for node in sorted({tile.node for tile in tiles}):
        own = [tile.stolen for tile in tiles if tile.node == node]
        stolen = f", {sum(own)} stolen" if any(own) else ""
        rows.append((f"{node}: {len(own)} tile{'s' * (len(own) > 1)}{stolen}", node_colour(node)))
    return rows


class _Canvas:
    """A picture under work; ``unit`` is the width of a thin line, ``text`` the height of capital letters, in pixels."""

    def __init__(self, image: np.ndarray) -> None:
        self._cv2: Any = opencv.load("drawing results")
        self.picture = np.array(image, np.uint8, order="C")
        self.height, self.width = image.shape[:2]
        side = min(self.height, self.width)
        self.unit = max(1, round(side / 360))
        self.text = max(9, round(side / 40))
        self._font = self._cv2.FONT_HERSHEY_SIMPLEX
        self._weight = max(1, round(self.text / 9))
        self._scale = self.text / self._capital()

    def _capital(self) -> int:
        """Height of a capital letter at scale 1: by its ink, for OpenCV 5 draws another font than 4."""
        scratch = np.zeros((80, 80), np.uint8)
        self._cv2.putText(scratch, "H", (10, 60), self._font, 1.0, 255, 1)
        return max(1, int((scratch > 127).any(axis=1).sum()))

    def _blend(self, where: tuple[slice, slice], colour: Colour, share: float, mask: np.ndarray | None = None) -> None:
        part = self.picture[where]
        mixed = (part * (1.0 - share) + np.array(colour) * share).astype(np.uint8)
        part[...] = mixed if mask is None else np.where(mask[..., None], mixed, part)

    def _slices(self, box: Box) -> tuple[slice, slice]:
        x0, y0, x1, y1 = (max(0, round(v)) for v in box)
        return slice(y0, y1), slice(x0, x1)

    def _length(self, text: str) -> int:
        (width, _), _ = self._cv2.getTextSize(text, self._font, self._scale, self._weight)
        return int(width)

    def _write(self, text: str, x: int, base: int, colour: Colour) -> None:
        self._cv2.putText(
            self.picture, text, (x, base), self._font, self._scale, colour, self._weight, self._cv2.LINE_AA
        )

    def box(self, detection: Detection) -> None:
        corners = [round(v) for v in detection.box]
        for colour, line in ((_DARK, 2 * self.unit + 2), (class_colour(detection.index), 2 * self.unit)):
            self._cv2.rectangle(self.picture, corners[:2], corners[2:], colour, line)

    def label(self, detections: Sequence[Detection]) -> None:
        """Label and score of each box beside it, the best first; where neighbours are in the way, the label alone."""
        taken: list[tuple[int, int, int, int]] = []
        for detection in detections:
            label = _short(detection.label)
            plates = [
                self._plate(detection.box, text, above)
                for text in (f"{label} {detection.score:.2f}", label)
                for above in (True, False)
            ]
            free = [plate for plate in plates if not any(_overlap(plate[0], other) for other in taken)]
            where, text = free[0] if free else plates[2]
            taken.append(where)
            self._draw_plate(where, text, class_colour(detection.index))

    def _plate(self, box: Box, text: str, above: bool) -> tuple[tuple[int, int, int, int], str]:
        """Where a plate with ``text`` stands: on the box's upper edge or under its lower one, inside the picture."""
        pad = max(2, self.text // 3)
        high, wide = self.text + 2 * pad, self._length(text) + 2 * pad
        x = max(0, min(round(box[0]) - self.unit, self.width - wide))
        y = max(0, min(round(box[1]) - high if above else round(box[3]), self.height - high))
        return (x, y, x + wide, y + high), text

    def _draw_plate(self, where: tuple[int, int, int, int], text: str, colour: Colour) -> None:
        pad = max(2, self.text // 3)
        self._cv2.rectangle(self.picture, where[:2], where[2:], colour, -1)
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 120
        self._write(text, where[0] + pad, where[3] - pad, (0, 0, 0) if bright else (255, 255, 255))

    def skeleton(self, keypoints: Sequence[Keypoint]) -> None:
        seen = {k.name: (round(k.x), round(k.y)) for k in keypoints if k.score >= _SEEN}
        bones = [(seen[a], seen[b], a) for a, b in _BONES if a in seen and b in seen]
        for widths, dark in ((3 * self.unit + 2, True), (2 * self.unit, False)):
            for start, end, name in bones:
                self._cv2.line(self.picture, start, end, _DARK if dark else _side(name), widths, self._cv2.LINE_AA)
        radius = (3 if len(seen) <= _FEW else 1) * self.unit
        for name, place in seen.items():
            self._cv2.circle(self.picture, place, radius + 2, _DARK, -1, self._cv2.LINE_AA)
            self._cv2.circle(self.picture, place, radius, _side(name), -1, self._cv2.LINE_AA)

    def tint_classes(self, mask: np.ndarray, colours: Mapping[int, Colour]) -> None:
        """What is 0 stays as it is."""
        for index, colour in colours.items():
            if index:
                chosen = mask == index
                self._blend((slice(None), slice(None)), colour, _TINT, chosen)
                outlines, _ = self._cv2.findContours(
                    chosen.astype(np.uint8), self._cv2.RETR_LIST, self._cv2.CHAIN_APPROX_NONE
                )
                self._cv2.drawContours(self.picture, outlines, -1, colour, self.unit)

    def tiles(self, tiles: Sequence[DrawnTile]) -> None:
        period = max(10, self.text)
        diagonal = np.add.outer(np.arange(self.height), np.arange(self.width)) % period < max(2, period // 6)
        for tile in tiles:
            where, colour = self._slices(tile.box), node_colour(tile.node)
            self._blend(where, colour, _TILE_TINT)
            if tile.stolen:
                self._blend(where, colour, 0.55, diagonal[where])
        for tile in tiles:
            x0, y0, x1, y1 = (round(v) for v in tile.box)
            self._cv2.rectangle(self.picture, (x0, y0), (x1 - 1, y1 - 1), (255, 255, 255), self.unit)

    def panel(self, rows: Sequence[tuple[str, Colour]], *, left: bool, top: bool) -> None:
        """Lines of text, each with a swatch of its colour, on a dark plate in a corner."""
        pad, step = self.text, round(self.text * 1.9)
        wide = max(self._length(text) for text, _ in rows) + 3 * pad + self.text
        high = step * len(rows) + pad
        x0 = 0 if left else max(0, self.width - wide)
        y0 = 0 if top else max(0, self.height - high)
        self._blend((slice(y0, y0 + high), slice(x0, x0 + wide)), _DARK, _PLATE)
        for i, (text, colour) in enumerate(rows):
            base = y0 + pad // 2 + step * i + (step + self.text) // 2
            swatch = (x0 + pad, base - self.text), (x0 + pad + self.text, base)
            self._cv2.rectangle(self.picture, *swatch, colour, -1)
            self._write(text, x0 + 2 * pad + self.text, base, (255, 255, 255))


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _side(keypoint: str) -> Colour:
    """Left limbs orange, right ones blue, the middle white."""
    return (
        (255, 150, 40)
        if keypoint.startswith("left")
        else (60, 170, 255)
        if keypoint.startswith("right")
        else (255,) * 3
    )
