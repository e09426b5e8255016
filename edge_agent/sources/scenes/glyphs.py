"""Digits as masks: seven segments, dot matrices, strokes, and the TrueType fonts found on this machine.

A face draws a text as one mask per character, all of one height, with the box of its ink. Faces are split into those
for training and those held out by a hash of their family's name alone, so that the split is the same on every machine.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
Split = Literal["train", "test"]
HEIGHT = 64  # of a mask, in pixels
DIGITS = "0123456789"
# Clutter is written in letters that nobody takes for a digit.
LETTERS = "ACEFHJKLMNPRTUVWXYacefhkmnrtuvwxy"

_FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts", "/Library/Fonts")
_NO_DIGIT_FONTS = "symbol dingbat emoji math braille icon awesome music nastaliq barcode weather battery".split()


@dataclass(frozen=True, eq=False)
class Glyph:
    """A character's mask (0 to 255, ``HEIGHT`` rows, as wide as its advance) and its ink: x0, y0, x1, y1."""

    mask: Mask
    ink: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Face:
    """A way to draw digits. A display's face also draws ``*``: everything lit."""

    name: str
    family: str
    kind: Literal["segments", "dots", "strokes", "font"]
    draw: Callable[[str], Mask]
    _glyphs: dict[str, Glyph] = field(default_factory=dict)

    def glyph(self, char: str) -> Glyph:
        if char not in self._glyphs:
            mask = self.draw(char)
            self._glyphs[char] = Glyph(mask, _ink(mask))
        return self._glyphs[char]


def split_of(name: str, held_out: float) -> Split:
    """``test`` for the share ``held_out`` of all names."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return "test" if number < held_out * 2**32 else "train"


def _ink(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.max(axis=1) > 96), np.flatnonzero(mask.max(axis=0) > 96)
    if not len(rows):
        return 0, 0, mask.shape[1], mask.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# Segments a to g: top, upper right, lower right, bottom, lower left, upper left, middle.
_SEGMENTS = dict(zip(DIGITS, "abcdef bc abged abgcd fgbc afgcd afgedc abc abcdefg abcdfg".split()))
_VARIANTS = {"6": "fgedc", "7": "fabc", "9": "abcfg"}


def segment_faces() -> list[Face]:
    """Seven-segment displays of 48 builds: slant, thickness, gap, ends, tails."""
    faces = []
    for number in range(48):
        random = np.random.default_rng([7, number])
        shape: dict[str, Any] = {
            "slant": float(random.choice([0.0, 0.0, 0.08, 0.14, 0.2])),
            "thick": float(random.uniform(0.09, 0.18)),
            "gap": float(random.uniform(0.0, 0.035)),
            "aspect": float(random.uniform(0.48, 0.66)),
            "mitre": bool(random.random() < 0.7),
        }
        table = _SEGMENTS | {d: v for d, v in _VARIANTS.items() if random.random() < 0.3} | {"*": "abcdefg"}
        faces.append(Face(f"segments-{number}", f"segments-{number}", "segments", _segments(table, **shape)))
    return faces


def _segments(
    table: dict[str, str], slant: float, thick: float, gap: float, aspect: float, mitre: bool
) -> Callable[[str], Mask]:
    h, w, t, g = 1.0, aspect, thick, gap
    half, inset = t / 2, (t / 2 if mitre else 0.0)

    def bar(xa: float, ya: float, xb: float, yb: float) -> NDArray[np.float64]:
        """A segment's outline from one end to the other of its middle line."""
        along = np.array([xb - xa, yb - ya])
        along /= np.hypot(*along)
        across = np.array([-along[1], along[0]]) * half
        a, b = np.array([xa, ya]) + along * g, np.array([xb, yb]) - along * g
        points = [a, a + along * inset + across, b - along * inset + across, b, b - along * inset - across]
        return np.array([*points, a + along * inset - across])

    x0, x1, y0, y1, ym = half, w - half, half, h - half, h / 2
    bars = {
        "a": bar(x0, y0, x1, y0), "b": bar(x1, y0, x1, ym), "c": bar(x1, ym, x1, y1), "d": bar(x0, y1, x1, y1),
        "e": bar(x0, ym, x0, y1), "f": bar(x0, y0, x0, ym), "g": bar(x0, ym, x1, ym),
    }  # fmt: skip

    def draw(char: str) -> Mask:
        mask = np.zeros((HEIGHT, round((w + slant + 0.14) * HEIGHT)), np.uint8)
        for name in table[char]:
            points = bars[name] + [0.07, 0]
            points[:, 0] += slant * (1 - points[:, 1])
            cv2.fillPoly(mask, [np.round(points * HEIGHT * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        return mask

    return draw


_DOTS = dict(
    zip(
        DIGITS,
        [
            "01110 10001 10011 10101 11001 10001 01110",
            "00100 01100 00100 00100 00100 00100 01110",
            "01110 10001 00001 00010 00100 01000 11111",
            "01110 10001 00001 00110 00001 10001 01110",
            "00010 00110 01010 10010 11111 00010 00010",
            "11111 10000 11110 00001 00001 10001 01110",
            "00110 01000 10000 11110 10001 10001 01110",
            "11111 00001 00010 00100 01000 01000 01000",
            "01110 10001 10001 01110 10001 10001 01110",
            "01110 10001 10001 01111 00001 00010 01100",
        ],
    )
)
_PLAIN_ZERO = "01110 10001 10001 10001 10001 10001 01110"


def dot_faces() -> list[Face]:
    """Dot matrices, 5 x 7: round or square dots of several sizes, zero with and without its stroke."""
    faces = []
    for number in range(12):
        radius, square, plain = 0.34 + 0.055 * (number % 4), number % 3 == 0, number % 2 == 0
        table = _DOTS | ({"0": _PLAIN_ZERO} if plain else {}) | {"*": " ".join(["11111"] * 7)}
        faces.append(Face(f"dots-{number}", f"dots-{number}", "dots", _dots(table, radius, square, 0.8 + 0.2 * (number % 2))))
    return faces


def _dots(table: dict[str, str], radius: float, square: bool, aspect: float) -> Callable[[str], Mask]:
    pitch = HEIGHT / 7

    def draw(char: str) -> Mask:
        mask = np.zeros((HEIGHT, round(6 * pitch * aspect)), np.uint8)
        for row, bits in enumerate(table[char].split()):
            for column in (c for c, bit in enumerate(bits) if bit == "1"):
                x, y = (column + 1.0) * pitch * aspect * 16, (row + 0.5) * pitch * 16
                r = radius * pitch * 16
                if square:
                    corners = (round(x - r * aspect), round(y - r)), (round(x + r * aspect), round(y + r))
                    cv2.rectangle(mask, *corners, 255, -1, cv2.LINE_AA, 4)
                else:
                    cv2.circle(mask, (round(x), round(y)), round(r * aspect), 255, -1, cv2.LINE_AA, 4)
        return mask

    return draw


def stroke_faces() -> list[Face]:
    """Digits of strokes, as signs and engravings have them: 24 weights, widths and slants."""
    faces = []
    for number in range(24):
        random = np.random.default_rng([9, number])
        shape: dict[str, Any] = {
            "thick": float(random.uniform(0.07, 0.18)),
            "aspect": float(random.uniform(0.42, 0.66)),
            "slant": float(random.choice([0.0, 0.0, 0.0, 0.12, 0.2])),
            "foot": bool(random.random() < 0.4),
        }
        faces.append(Face(f"strokes-{number}", f"strokes-{number}", "strokes", _strokes(**shape)))
    return faces


def _arc(x: float, y: float, rx: float, ry: float, start: int, end: int) -> list[tuple[float, float]]:
    """Points of an ellipse's arc, degrees clockwise from the right."""
    angles = np.deg2rad(np.arange(start, end + 1, 6))
    return list(zip(x + rx * np.cos(angles), y + ry * np.sin(angles)))


_SIX = [_arc(0.5, 0.69, 0.5, 0.31, 0, 360), [*_arc(0.86, 0.66, 0.86, 0.66, 180, 270)]]
_STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "0": [_arc(0.5, 0.5, 0.5, 0.5, 0, 360)],
    "1": [[(0.12, 0.24), (0.56, 0), (0.56, 1)]],
    "2": [[*_arc(0.5, 0.29, 0.48, 0.29, 180, 390), (0.02, 1), (1, 1)]],
    "3": [[*_arc(0.48, 0.25, 0.45, 0.25, 205, 450)], [*_arc(0.48, 0.75, 0.52, 0.25, 270, 515)]],
    "4": [[(0.74, 1), (0.74, 0), (0, 0.7), (1, 0.7)]],
    "5": [[(0.92, 0), (0.16, 0), (0.08, 0.46), *_arc(0.48, 0.68, 0.5, 0.32, 226, 510)]],
    "6": _SIX,
    "7": [[(0, 0), (1, 0), (0.36, 1)]],
    "8": [_arc(0.5, 0.245, 0.42, 0.245, 0, 360), _arc(0.5, 0.745, 0.5, 0.255, 0, 360)],
    "9": [[(1 - x, 1 - y) for x, y in line] for line in _SIX],
}


def _strokes(thick: float, aspect: float, slant: float, foot: bool) -> Callable[[str], Mask]:
    def draw(char: str) -> Mask:
        mask = np.zeros((HEIGHT, round((aspect + slant + 0.2) * HEIGHT)), np.uint8)
        lines = _STROKES[char] + ([[(0.2, 1.0), (0.92, 1.0)]] if char == "1" and foot else [])
        for line in lines:
            x, y = np.array(line).T
            y = thick / 2 + y * (1 - thick)
            x = 0.1 + thick / 2 + x * (aspect - thick) + slant * (1 - y)
            points = np.round(np.stack([x, y], axis=1) * HEIGHT * 16).astype(np.int32)
            cv2.polylines(mask, [points], False, 255, max(round(thick * HEIGHT), 1), cv2.LINE_AA, 4)
        return mask

    return draw


def drawn_faces() -> list[Face]:
    """All faces that need no font file."""
    return [*segment_faces(), *dot_faces(), *stroke_faces()]


def font_files(folders: Sequence[str] = _FONT_FOLDERS) -> list[Path]:
    """TrueType and OpenType files of this machine, sorted by name."""
    found = (path for folder in folders for path in Path(folder).expanduser().rglob("*.[to]t[fc]"))
    return sorted((p for p in found if not any(word in p.name.lower() for word in _NO_DIGIT_FONTS)), key=lambda p: p.name)


def font_faces(files: Iterable[Path]) -> list[Face]:
    """The fonts whose digits look like digits; fonts with equal digits count once."""
    found: dict[bytes, Face] = {}
    for path in files:
        try:
            family, draw = _open_font(path)
            face = Face(path.stem, family.split()[0].lower(), "font", draw)
            digits = [_normal(face.glyph(d)) for d in DIGITS]
        except (OSError, ValueError):
            continue
        if len({d.tobytes() for d in digits}) == len(DIGITS):
            found.setdefault(np.concatenate(digits).tobytes(), face)
    return _sane(list(found.values()))


def _open_font(path: Path) -> tuple[str, Callable[[str], Mask]]:
    from PIL import Image, ImageDraw, ImageFont

    font: Any = ImageFont.truetype(str(path), 64)
    boxes = [font.getbbox(d) for d in DIGITS]
    top, bottom = min(b[1] for b in boxes), max(b[3] for b in boxes)
    if bottom - top < 16 or bottom - top > 128:
        raise ValueError(f"{path} has no digits")
    font = ImageFont.truetype(str(path), round(64 * (HEIGHT - 2) / (bottom - top)))
    boxes = [font.getbbox(d) for d in DIGITS]
    top, bottom = min(b[1] for b in boxes), max(b[3] for b in boxes)

    def draw(char: str) -> Mask:
        left, high, right, low = font.getbbox(char)
        width = max(round(font.getlength(char)), right - min(left, 0))
        rows = (min(top, high), max(bottom, low)) if char not in DIGITS else (top, bottom)
        image = Image.new("L", (width + 2, max(rows[1] - rows[0], 1)))
        ImageDraw.Draw(image).text((1 - min(left, 0), -rows[0]), char, 255, font=font)
        mask = np.asarray(image)
        return np.asarray(cv2.resize(mask, (mask.shape[1], HEIGHT)), np.uint8) if char in DIGITS else mask

    return str(font.getname()[0]), draw


def _normal(glyph: Glyph) -> Mask:
    x0, y0, x1, y1 = glyph.ink
    return np.asarray(cv2.resize(glyph.mask[y0:y1, x0:x1], (16, 24), interpolation=cv2.INTER_AREA), np.uint8)


def _sane(faces: list[Face]) -> list[Face]:
    """Without fonts whose digits are nearer to the median of another digit, or near none: symbols, other scripts."""
    if len(faces) < 5:
        return faces
    shapes = np.array([[_normal(face.glyph(d)).reshape(-1) for d in DIGITS] for face in faces], np.float32)
    for _ in range(2):
        median = np.median(shapes, axis=0)
        a = shapes - shapes.mean(axis=2, keepdims=True)
        b = median - median.mean(axis=1, keepdims=True)
        a /= np.linalg.norm(a, axis=2, keepdims=True) + 1e-6
        b /= np.linalg.norm(b, axis=1, keepdims=True) + 1e-6
        likeness = np.einsum("fdp,ep->fde", a, b)
        right = (likeness.argmax(axis=2) == np.arange(10)).sum(axis=1)
        good = (right >= 9) & (np.diagonal(likeness, axis1=1, axis2=2).mean(axis=1) > 0.5)
        faces, shapes = [f for f, ok in zip(faces, good) if ok], shapes[good]
    return faces


def faces(split: Split, fonts: bool = True) -> list[Face]:
    """The faces of one side of the split, fonts of this machine included if asked for.

    Fonts are held out by the first word of their family (``DejaVu Sans Mono`` goes with ``DejaVu Serif``), one in five;
    so are drawn faces, one by one.
    """
    found = [*drawn_faces(), *(font_faces(font_files()) if fonts else ())]
    return [face for face in found if split_of(face.family, 0.2) == split]
