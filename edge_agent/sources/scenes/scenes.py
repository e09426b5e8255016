"""Draws camera frames with known digits. The law: a scene is a function of its seed and index alone, on any machine
with the same fonts; ``moving_scene`` needs no font at all.

``Studio`` makes frames for training and evaluation, of faces and backgrounds of one side of the split. ``moving_scene``
makes the demo's film: panels that drift before one background and count.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.scenes import backgrounds, glyphs, panels
from edge_agent.sources.scenes.panels import DigitBox, Panel

Image = NDArray[np.uint8]
Random = np.random.Generator
_SMALLEST_SHARE = 0.7  # of a digit that must be in the frame to count


@dataclass(frozen=True, eq=False)
class Scene:
    """A frame (uint8 RGB), the boxes of its digits in pixels, and each panel's reading, panels from top to bottom."""

    image: Image
    boxes: list[DigitBox]
    readings: list[str]


@dataclass(frozen=True)
class Camera:
    """What scenes hold: number of panels, height of digits in pixels (log-uniform), how strong its faults are."""

    width: int
    height: int
    panels: tuple[int, int]
    digits: tuple[float, float]
    faults: float = 1.0


TRAINING = Camera(320, 320, (4, 9), (11, 90))
# A 640 x 480 camera that the model sees at half that size: digits of 16 to 70 pixels there.
VIEW = Camera(640, 480, (1, 2), (32, 140))


class Studio:
    """Scenes of one side of the split, from a seed."""

    def __init__(self, seed: int, split: glyphs.Split, fonts: bool = True) -> None:
        self.seed = seed
        self.kinds = backgrounds.kinds(split)
        self.families: dict[str, dict[str, list[glyphs.Face]]] = {}
        for face in glyphs.faces(split, fonts):
            self.families.setdefault(face.kind, {}).setdefault(face.family, []).append(face)

    def scene(self, index: int, camera: Camera = VIEW) -> Scene:
        """Scene number ``index``."""
        random = np.random.default_rng([self.seed, index])
        kind = self.kinds[random.integers(len(self.kinds))]
        image = backgrounds.KINDS[kind](random, camera.height, camera.width).astype(np.float32)
        low, high = np.log(camera.digits)
        boxes: list[DigitBox] = []
        placed: list[tuple[float, float, float, float, str]] = []
        for _ in range(int(random.integers(camera.panels[0], camera.panels[1] + 1))):
            size = float(np.exp(random.uniform(low, high)))
            for _ in range(3):
                panel = self.panel(random, max(round(size * _oversampling(size)), 8))
                found = _place(random, image, panel, size, [p[:4] for p in placed])
                if found is not None:
                    boxes += found[0]
                    placed.append((*found[1], panel.reading))
                    break
                size *= 0.75
                if size < camera.digits[0]:
                    break
        image = _light(random, image, camera.faults)
        placed.sort(key=lambda p: p[1] + p[3])
        return Scene(_sensor(random, image, camera.faults), boxes, [p[4] for p in placed])

    def panel(self, random: Random, height: int) -> Panel:
        """A panel of any look with digits of ``height`` pixels."""
        number = random.choice(len(panels.LOOKS), p=[look[2] for look in panels.LOOKS])
        look, kinds, _, (fewest, most) = panels.LOOKS[number]
        kind = random.choice([k for k in kinds if k in self.families])
        families = list(self.families[kind].values())
        family = families[random.integers(len(families))]
        face = family[random.integers(len(family))]
        text = "".join(random.choice(list(glyphs.DIGITS), random.integers(fewest, most + 1)))
        return look(random, face, text, height)


def _oversampling(size: float) -> float:
    """Patches are drawn larger than they are seen, small ones most."""
    return 2.0 if size < 30 else 1.5 if size < 60 else 1.0


def _corners(width: float, height: float) -> NDArray[np.float32]:
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)


def _place(
    random: Random, image: NDArray[np.float32], panel: Panel, size: float, taken: Sequence[tuple[float, ...]]
) -> tuple[list[DigitBox], tuple[float, float, float, float]] | None:
    """Draws the panel, turned and in perspective, where it overlaps no other; None if there is no room."""
    height, width = panel.patch.shape[:2]
    scale = 1 / _oversampling(size)
    quad = (_corners(width, height) - (width / 2, height / 2)) * scale * (random.uniform(0.85, 1.1), 1)
    angle = np.deg2rad(np.clip(random.normal(0, 5), -15, 15))
    quad[:, 0] += quad[:, 1] * random.normal(0, 0.08)
    quad *= 1 + random.normal(0, 0.035, (4, 1))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    quad = (quad @ turn).astype(np.float32)
    quad -= quad.min(axis=0)
    room = np.array(image.shape[1::-1]) - quad.max(axis=0) - 2
    if (room < 1).any():
        return None
    keep_off = 0.9 * size
    for _ in range(8):
        corner = random.uniform(1, room)
        x0, y0 = corner
        x1, y1 = corner + quad.max(axis=0)
        if all(x1 + keep_off < a or c + keep_off < x0 or y1 + keep_off < b or d + keep_off < y0 for a, b, c, d in taken):
            boxes = draw(image, panel, (quad + corner).astype(np.float32))
            return boxes, (float(x0), float(y0), float(x1), float(y1))
    return None


def draw(image: NDArray[np.float32], panel: Panel, quad: NDArray[np.float32]) -> list[DigitBox]:
    """Draws the panel into the quadrilateral (clockwise from top left); its digits' boxes in the image."""
    height, width = panel.patch.shape[:2]
    x0, y0 = np.maximum(np.floor(quad.min(axis=0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(quad.max(axis=0)).astype(int) + 1, image.shape[1::-1])
    warp = cv2.getPerspectiveTransform(_corners(width, height), quad - np.array([x0, y0], np.float32))
    size = (int(x1 - x0), int(y1 - y0))
    # Averaged first, else fine strokes alias.
    grown = max(width / max(np.hypot(*(quad[1] - quad[0])), 1), 1)
    source = np.dstack([panel.patch, panel.opacity])
    if grown > 1.6:
        source = cv2.blur(source, (2, 2))
    layer = cv2.warpPerspective(source, warp, size, flags=cv2.INTER_LINEAR)
    inside = cv2.warpPerspective(np.ones((height, width), np.float32), warp, size, flags=cv2.INTER_LINEAR)
    opacity = (layer[..., 3] * inside)[..., None]
    part = image[y0:y1, x0:x1]
    part += opacity * (layer[..., :3] - part)
    boxes = []
    for char, bx0, by0, bx1, by1 in panel.boxes:
        # Middles of the sides, not corners: the hull of a turned box's corners is larger than its digit.
        mx, my = (bx0 + bx1) / 2, (by0 + by1) / 2
        points = np.array([[[bx0, my], [bx1, my], [mx, by0], [mx, by1], [bx0, by0], [bx1, by1], [bx1, by0], [bx0, by1]]])
        seen = cv2.perspectiveTransform(points.astype(np.float32), warp)[0] + (x0, y0)
        low = (seen[:4].min(axis=0) + seen.min(axis=0)) / 2
        high = (seen[:4].max(axis=0) + seen.max(axis=0)) / 2
        boxes.append((char, float(low[0]), float(low[1]), float(high[0]), float(high[1])))
    return boxes


def _light(random: Random, image: NDArray[np.float32], faults: float) -> NDArray[np.float32]:
    """Uneven light, a shadow's edge, a reflection, a cast of colour, contrast."""
    height, width = image.shape[:2]
    small = np.ones((24, 24), np.float32)
    y, x = np.mgrid[-1:1:24j, -1:1:24j].astype(np.float32)
    angle = random.uniform(0, 2 * np.pi)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    small += along * np.float32(random.uniform(0, 0.4) * faults)
    if random.random() < 0.3 * faults:
        small *= 1 - np.float32(random.uniform(0.2, 0.5)) / (1 + np.exp(-20 * (along - np.float32(random.uniform(-0.6, 0.6)))))
    gain = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    cast = 1 + random.normal(0, 0.06 * faults, 3)
    image = image * (gain * cast.astype(np.float32))
    if random.random() < 0.2 * faults:
        cx, cy, r = random.uniform(-1, 1), random.uniform(-1, 1), random.uniform(0.1, 0.4)
        spot = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / np.float32(r * r)) * np.float32(random.uniform(30, 110))
        image += cv2.resize(spot.astype(np.float32), (width, height))[..., None]
    contrast = random.uniform(1 - 0.4 * faults, 1 + 0.2 * faults)
    image -= np.float32(128)
    image *= np.float32(contrast)
    image += np.float32(128 + random.normal(0, 18) * faults)
    return image


def _sensor(random: Random, image: NDArray[np.float32], faults: float) -> Image:
    """Lens and sensor: blur, noise, compression."""
    scale = image.shape[1] / 320
    kind = random.random()
    if kind < 0.55 * faults:
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.3, 1.2) * scale)
    elif kind < 0.65 * faults:
        kernel = np.zeros((7, 7), np.float32)
        end = random.integers(0, 7, 2)
        cv2.line(kernel, (3, 3), (int(end[0]), int(end[1])), 1.0, 1)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    if random.random() < 0.7 * faults:
        image += _grain(image.shape[0], image.shape[1], int(random.integers(8))) * np.float32(random.uniform(1, 11))
    out = np.clip(image, 0, 255).astype(np.uint8)
    if random.random() < 0.3 * faults:
        _, packed = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(35, 90))])
        out = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return out


@functools.lru_cache(maxsize=16)
def _grain(height: int, width: int, number: int) -> NDArray[np.float32]:
    return np.random.default_rng([3, number]).standard_normal((height, width, 3), np.float32)


@functools.lru_cache(maxsize=4)
def _stage(seed: int, width: int, height: int) -> tuple[Studio, NDArray[np.float32], list[tuple[panels.Look, glyphs.Face]]]:
    studio = Studio(seed, "train", fonts=False)
    random = np.random.default_rng([seed, 0])
    kind = studio.kinds[random.integers(len(studio.kinds))]
    image = backgrounds.KINDS[kind](random, height, width).astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), height / 160)  # out of focus, as what lies behind is
    cast = []
    for look, kinds, _, _ in (panels.LOOKS[i] for i in random.choice(4, 2, replace=False)):
        drawn = [k for k in kinds if k in studio.families]
        families = list(studio.families[drawn[0]].values())
        cast.append((look, families[random.integers(len(families))][0]))
    return studio, image, cast


def moving_scene(seed: int, index: int, width: int = 640, height: int = 480) -> Scene:
    """Frame ``index`` of a film: two panels drift before a background and count up, one by sevens, one by ones.

    Digits are a tenth of the frame's height or more; readings change every third frame. No font file, no Pillow: numpy
    and OpenCV alone.
    """
    _, stage, cast = _stage(seed, width, height)
    image = stage.copy()
    boxes: list[DigitBox] = []
    readings = []
    for row, (look, face) in enumerate(cast):
        random = np.random.default_rng([seed, 1, row])  # the same every frame: only place and reading change
        size = height * random.uniform(0.105, 0.15)
        digits, step = (5, 7) if row == 0 else (4, 1)
        value = int(random.integers(10**digits)) + (index // 3) * step
        reading = f"{value % 10**digits:0{digits}d}"
        panel = look(random, face, reading, round(size * 1.5))
        phase, speed = random.uniform(0, 2 * np.pi), random.uniform(0.02, 0.05)
        high, wide = (n / 1.5 for n in panel.patch.shape[:2])
        shrink = min(1.0, 0.9 * width / wide, 0.44 * height / high)
        quad = (_corners(wide, high) - (wide / 2, high / 2)) * shrink
        angle = np.deg2rad(4 * np.sin(index * speed * 1.3 + phase))
        quad = quad @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        room = np.array([width, height / 2]) - (np.ptp(quad, axis=0) + 4)
        sway = np.array([np.sin(index * speed + phase), np.cos(index * speed * 0.7 + phase)])
        centre = np.array([width / 2, height * (0.25 + 0.5 * row)]) + np.maximum(room, 0) / 2 * sway
        boxes += draw(image, panel, (quad + centre).astype(np.float32))
        readings.append(reading)
    noise = _grain(height, width, index % 8) * np.float32(3)
    return Scene(np.clip(image + noise, 0, 255).astype(np.uint8), boxes, readings)
