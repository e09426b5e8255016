"""What carries digits: odometers, displays, LCDs, house numbers, plates and printed meters, seen from the front.

A panel is a patch with its own transparency; the digits' boxes are those of their ink, but at least ``NARROWEST`` of
their height wide, for a box around a lone "1" of a display would be a line.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.scenes.backgrounds import colour
from edge_agent.sources.scenes.glyphs import HEIGHT, LETTERS, Face, Mask

Patch = NDArray[np.float32]
Random = np.random.Generator
NARROWEST = 0.4
DigitBox = tuple[str, float, float, float, float]
"""Digit and the box x0, y0, x1, y1."""


@dataclass(frozen=True, eq=False)
class Panel:
    """Pixels (height, width, 3), opacity (height, width; 0 to 1), digits and their reading."""

    patch: Patch
    opacity: Patch
    boxes: list[DigitBox]
    reading: str


def _fitted(mask: Mask, height: int) -> Mask:
    width = max(round(mask.shape[1] * height / mask.shape[0]), 1)
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _row(face: Face, text: str, height: int, gap: float, cell: int = 0) -> tuple[Mask, list[DigitBox], list[int]]:
    """The text as one mask, its boxes and where its cells begin; ``cell``: a fixed pitch in pixels."""
    masks, boxes, starts, x = [], [], [], 0
    for char in text:
        glyph = face.glyph(char)
        mask = _fitted(glyph.mask, height)
        left = (cell - mask.shape[1]) // 2 if cell else 0
        x0, y0, x1, y1 = (v * height / HEIGHT + shift for v, shift in zip(glyph.ink, (x + left, 0, x + left, 0)))
        boxes.append((char, x0, y0, x1, y1))
        masks.append((x + left, mask))
        starts.append(x)
        x += cell or max(round(mask.shape[1] + gap * height), 1)
    line = np.zeros((height, x + height // 2), np.uint8)
    for left, mask in masks:
        start, skip = max(left, 0), max(-left, 0)
        part = line[:, start : left + mask.shape[1]]
        np.maximum(part, mask[:, skip : skip + part.shape[1]], out=part)
    return line[:, : max(x, 1)], boxes, starts


def _paint(patch: Patch, mask: Mask | Patch, tone: NDArray[np.float32], x: int, y: int, strength: float = 1.0) -> None:
    height, width = min(mask.shape[0], patch.shape[0] - y), min(mask.shape[1], patch.shape[1] - x)
    part = patch[y : y + height, x : x + width]
    part += (mask[:height, :width, None] * np.float32(strength / 255)) * (tone - part)


def _moved(boxes: list[DigitBox], x: float, y: float) -> list[DigitBox]:
    moved = []
    for char, x0, y0, x1, y1 in boxes:
        grow = max(NARROWEST * (y1 - y0) - (x1 - x0), 0) / 2
        moved.append((char, x0 + x - grow, y0 + y, x1 + x + grow, y1 + y))
    return moved


def _plain(height: int, width: int, tone: NDArray[np.float32]) -> Patch:
    return np.full((height, width, 3), tone, np.float32)


def _contrast(random: Random, tone: NDArray[np.float32], least: float = 70) -> NDArray[np.float32]:
    """A colour that is lighter or darker than ``tone`` by at least that much."""
    grey = float(tone.mean())
    other = colour(random)
    room = [d for d in (-1, 1) if 0 <= grey + d * least <= 255] or [1 if grey < 128 else -1]
    side = random.choice(room)
    wanted = grey + side * random.uniform(least, max(least + 1, 255 - grey if side > 0 else grey))
    return np.asarray(np.clip(other - other.mean() + wanted, 0, 255), np.float32)


def _opaque(patch: Patch, boxes: list[DigitBox], reading: str) -> Panel:
    return Panel(patch, np.ones(patch.shape[:2], np.float32), boxes, reading)


def display(random: Random, face: Face, reading: str, height: int) -> Panel:
    """Glowing digits on a dark pane, unlit segments faintly visible."""
    gap = random.uniform(0.0, 0.25)
    line, boxes, _ = _row(face, reading, height, gap)
    margin = round(height * random.uniform(0.15, 0.5))
    glow = [(255, 40, 20), (40, 255, 70), (60, 150, 255), (255, 170, 20), (245, 245, 255), (60, 255, 230)]
    tone = np.array(glow[random.integers(len(glow))], np.float32) * np.float32(random.uniform(0.7, 1))
    patch = _plain(height + 2 * margin, line.shape[1] + 2 * margin, np.array(random.uniform(0, 38, 3), np.float32))
    if random.random() < 0.5 and face.kind != "strokes" and face.kind != "font":
        ghost, _, _ = _row(face, "*" * len(reading), height, gap)
        _paint(patch, ghost, tone, margin, margin, random.uniform(0.03, 0.14))
    if random.random() < 0.6:
        reach = max(height // 5, 2)
        halo = cv2.blur(np.pad(line, margin).astype(np.float32), (reach, reach))
        _paint(patch, halo, tone, 0, 0, random.uniform(0.2, 0.55))
    _paint(patch, line, np.clip(tone + random.uniform(0, 90), 0, 255), margin, margin)
    _frame(random, patch)
    return _opaque(patch, _moved(boxes, margin, margin), reading)


def lcd(random: Random, face: Face, reading: str, height: int) -> Panel:
    """Dark digits on greenish grey, their shadow beneath; sometimes lit from behind and inverted."""
    gap = random.uniform(0.0, 0.25)
    line, boxes, _ = _row(face, reading, height, gap)
    margin = round(height * random.uniform(0.15, 0.6))
    ground = np.array([random.uniform(90, 200), random.uniform(110, 215), random.uniform(80, 190)], np.float32)
    ink = ground * np.float32(random.uniform(0.08, 0.5))
    if random.random() < 0.15:
        ground, ink = ink * np.float32(0.6), ground
    patch = _plain(height + 2 * margin, line.shape[1] + 2 * margin, ground)
    if random.random() < 0.4 and face.kind in ("segments", "dots"):
        ghost, _, _ = _row(face, "*" * len(reading), height, gap)
        _paint(patch, ghost, ink, margin, margin, random.uniform(0.03, 0.13))
    shift = max(height // 18, 1)
    if random.random() < 0.6 and margin > shift:
        _paint(patch, line, ink, margin + shift, margin + shift, random.uniform(0.1, 0.25))
    _paint(patch, line, ink, margin, margin)
    _frame(random, patch)
    return _opaque(patch, _moved(boxes, margin, margin), reading)


def odometer(random: Random, face: Face, reading: str, height: int) -> Panel:
    """Drums: each digit on a curved strip, the last perhaps slightly turned so that slivers of its neighbours show."""
    cell = round(height * random.uniform(0.78, 1.15))
    window = round(height * random.uniform(1.2, 1.55))
    light_on_dark = random.random() < 0.65
    dark, light = np.float32(random.uniform(8, 55)), np.float32(random.uniform(185, 250))
    red = np.array([random.uniform(140, 210), random.uniform(10, 50), random.uniform(10, 50)], np.float32)
    last_red = random.random() < 0.4
    rim = round(height * random.uniform(0.08, 0.3))
    patch = _plain(window + 2 * rim, cell * len(reading) + 2 * rim, np.array([random.uniform(10, 220)] * 3, np.float32))
    shade = np.sin(np.linspace(0.35, np.pi - 0.35, window, dtype=np.float32))[:, None, None] ** np.float32(0.8)
    boxes: list[DigitBox] = []
    for place, digit in enumerate(reading):
        last = place == len(reading) - 1
        ground, ink = (dark, light) if light_on_dark else (light, dark)
        base = red if last_red and last else np.full(3, ground, np.float32)
        drum = _plain(window, cell, base)
        turn = random.normal(0, 0.02) + (random.uniform(-0.16, 0.16) if last else 0)
        pitch = height * 1.45
        for step in (-1, 0, 1):
            char = str((int(digit) + step) % 10)
            line, found, _ = _row(face, char, height, 0, cell)
            y = round((window - height) / 2 + (step + turn) * pitch)
            rows = slice(max(-y, 0), max(min(height, window - y), 0))
            if line[rows].shape[0]:
                tone = np.full(3, 240 if last_red and last else ink, np.float32)
                _paint(drum, line[rows], tone, 0, max(y, 0))
            if step == 0:
                boxes += _moved(found, rim + place * cell, rim + y)
        drum *= shade
        drum[:, :1] *= np.float32(0.4)
        x = rim + place * cell
        patch[rim : rim + window, x : x + cell] = drum
        edge = max(round(cell * 0.06), 1)
        patch[rim : rim + window, x : x + edge] = patch[0, 0] if random.random() < 0.8 else 20
    return _opaque(patch, boxes, reading)


def house_number(random: Random, face: Face, reading: str, height: int) -> Panel:
    """Digits fixed to a wall, with a shadow, or on an enamelled plate."""
    line, boxes, _ = _row(face, reading, height, random.uniform(0.02, 0.25))
    margin = round(height * random.uniform(0.15, 0.5))
    size = (height + 2 * margin, line.shape[1] + 2 * margin)
    inside = np.pad(line, margin)
    if random.random() < 0.5:
        ground = colour(random)
        ink = _contrast(random, ground, 90)
        patch = _plain(*size, ground)
        if random.random() < 0.6:
            edge = max(margin // 3, 1)
            cv2.rectangle(patch, (edge, edge), (size[1] - edge, size[0] - edge), ink.tolist(), max(height // 20, 1))
        _paint(patch, inside, ink, 0, 0)
        return _opaque(patch, _moved(boxes, margin, margin), reading)
    ink = np.array([random.choice([random.uniform(0, 40), random.uniform(215, 255)])] * 3, np.float32)
    if random.random() < 0.3:
        ink = colour(random)
    patch = _plain(*size, ink)
    opacity = inside.astype(np.float32) / 255
    # A shadow, or an outline of the other brightness, keeps the digits readable before any wall.
    reach = max(height // 10, 1)
    other = np.float32(255 if ink.mean() < 110 else 0)
    outline = cv2.dilate(inside, np.ones((reach + 1, reach + 1), np.uint8))
    around = outline.astype(np.float32) / 255 * np.float32(random.uniform(0.6, 1))
    patch += (other - patch) * (1 - opacity[..., None])
    return Panel(patch, np.maximum(opacity, around), _moved(boxes, margin, margin), reading)


def plate(random: Random, face: Face, reading: str, height: int) -> Panel:
    """A number plate or a name plate: letters, then the digits, on one colour with a border."""
    ground = np.array([[235, 235, 235], [235, 200, 30], [30, 50, 140], [25, 25, 28], [200, 205, 200]][random.integers(5)])
    ground = np.clip(ground + random.normal(0, 12), 0, 255).astype(np.float32)
    ink = _contrast(random, ground, 110)
    line, boxes, _ = _row(face, reading, height, random.uniform(0.0, 0.2))
    margin = round(height * random.uniform(0.2, 0.5))
    word = _word(random, face, height) if random.random() < 0.7 else np.zeros((height, 1), np.uint8)
    space = round(height * random.uniform(0.25, 0.6)) if word.shape[1] > 1 else 0
    patch = _plain(height + 2 * margin, word.shape[1] + space + line.shape[1] + 2 * margin, ground)
    after = random.random() < 0.25
    at_line, at_word = (margin, margin + line.shape[1] + space) if after else (margin + word.shape[1] + space, margin)
    _paint(patch, word, ink, at_word, margin)
    _paint(patch, line, ink, at_line, margin)
    if random.random() < 0.7:
        edge = max(margin // 4, 1)
        cv2.rectangle(patch, (edge, edge), (patch.shape[1] - edge, patch.shape[0] - edge), ink.tolist(), max(height // 16, 1))
    return _opaque(patch, _moved(boxes, at_line, margin), reading)


def printed(random: Random, face: Face, reading: str, height: int) -> Panel:
    """A printed face: the digits, a unit and small words above or below."""
    ground = colour(random) if random.random() < 0.4 else np.full(3, random.uniform(170, 250), np.float32)
    ink = _contrast(random, ground, 80)
    line, boxes, _ = _row(face, reading, height, random.uniform(0.0, 0.3))
    margin, above = round(height * random.uniform(0.2, 0.5)), round(height * random.uniform(0.3, 0.9))
    patch = _plain(height + 2 * margin + above, line.shape[1] + 3 * margin + 2 * height, ground)
    top = margin + (above if random.random() < 0.5 else 0)
    _paint(patch, line, ink, margin, top)
    if random.random() < 0.7:
        unit = _word(random, face, max(round(height * random.uniform(0.4, 0.8)), 6))
        _paint(patch, unit, ink, 2 * margin + line.shape[1], top)
    for _ in range(int(random.integers(0, 3))):
        small = _word(random, face, max(round(above * 0.6), 5))
        y = 2 if top > margin else top + height + margin // 2
        _paint(patch, small, ink, int(random.integers(1, max(patch.shape[1] // 2, 2))), y, 0.8)
    return _opaque(patch, _moved(boxes, margin, top), reading)


def _word(random: Random, face: Face, height: int) -> Mask:
    """One to four letters, in the face if it has letters, else in OpenCV's."""
    text = "".join(random.choice(list(LETTERS), random.integers(1, 5)))
    if face.kind == "font":
        masks = [_fitted(face.glyph(c).mask, height) for c in text[:3]]
        return np.concatenate(masks, axis=1)
    (width, high), base = cv2.getTextSize(text, 0, 1.0, 2)
    mask = np.zeros((high + base + 4, width + 4), np.uint8)
    cv2.putText(mask, text, (2, high + 2), 0, 1.0, 255, int(random.integers(1, 4)), cv2.LINE_AA)
    return _fitted(mask, height)


def _frame(random: Random, patch: Patch) -> None:
    if random.random() < 0.6:
        size = (patch.shape[1] - 1, patch.shape[0] - 1)
        cv2.rectangle(patch, (0, 0), size, colour(random).tolist(), max(round(patch.shape[0] * 0.05), 1))


# Look, the kinds of face that suit it, how often, and how many digits it has.
Look = Callable[[Random, Face, str, int], Panel]
LOOKS: list[tuple[Look, tuple[str, ...], float, tuple[int, int]]] = [
    (display, ("segments", "segments", "dots", "strokes"), 0.22, (1, 6)),
    (lcd, ("segments", "segments", "dots", "font"), 0.18, (2, 8)),
    (odometer, ("font", "font", "strokes"), 0.2, (4, 7)),
    (house_number, ("font", "font", "strokes"), 0.14, (1, 4)),
    (plate, ("font", "font", "strokes"), 0.13, (2, 5)),
    (printed, ("font", "strokes"), 0.13, (1, 8)),
]
