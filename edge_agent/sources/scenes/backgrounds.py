"""Backgrounds without photographs: noise of many octaves, walls, wood, cloth, foliage, clutter, light.

A background is a function of a random generator and a size; kinds are held out by a hash of their name.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.scenes.glyphs import Split, split_of

Image = NDArray[np.uint8]
Random = np.random.Generator


def _resized(small: NDArray[np.generic], height: int, width: int, how: int = cv2.INTER_CUBIC) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(small, (width, height), interpolation=how), np.float32)


def octaves(random: Random, height: int, width: int, decay: float, stretch: tuple[int, int] = (1, 1)) -> NDArray[np.float32]:
    """Noise of many scales around 0; ``stretch`` makes it coarser along rows or columns."""
    total = np.zeros((height, width), np.float32)
    amplitude, cells = 1.0, 3
    while cells <= max(height, width) // 2:
        rows, columns = max(cells * height // max(height, width) // stretch[0], 2), max(cells // stretch[1], 2)
        noise = random.standard_normal((rows, columns), np.float32) * np.float32(amplitude)
        total += _resized(noise, height, width, cv2.INTER_LINEAR)
        amplitude, cells = amplitude * decay, cells * 2
    return total


def colour(random: Random) -> NDArray[np.float32]:
    """An RGB colour, mostly pale: hue, saturation and value drawn apart."""
    hsv = np.array([[[random.integers(180), random.beta(1.2, 3) * 255, random.uniform(20, 245)]]], np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0], np.float32)


def _between(shade: NDArray[np.float32], a: NDArray[np.float32], b: NDArray[np.float32]) -> Image:
    """Colours from ``a`` (shade 0) to ``b`` (shade 1)."""
    table = np.clip(np.linspace(a, b, 256), 0, 255).astype(np.uint8)
    index = np.clip(shade * 255, 0, 255).astype(np.uint8)
    return np.asarray(table[index], np.uint8)


def _plaster(random: Random, height: int, width: int) -> Image:
    base = colour(random)
    noise = octaves(random, height, width, random.uniform(0.5, 0.95))
    return _between(0.5 + noise * random.uniform(0.05, 0.2), base - 50, base + 50)


def _clouds(random: Random, height: int, width: int) -> Image:
    return _between(0.5 + octaves(random, height, width, 0.55) * 0.25, colour(random), colour(random))


def _wood(random: Random, height: int, width: int) -> Image:
    stretch = (1, 12) if random.random() < 0.5 else (12, 1)
    grain = octaves(random, height, width, 0.8, stretch) * 0.18 + 0.5
    base = np.array([random.uniform(90, 200), random.uniform(60, 130), random.uniform(30, 90)], np.float32)
    return _between(grain, base * 0.5, base * 1.2)


def _metal(random: Random, height: int, width: int) -> Image:
    grey = random.uniform(60, 200)
    grain = 0.5 + octaves(random, height, width, 0.95, (1, 24)) * 0.08 + np.linspace(-0.3, 0.3, width, dtype=np.float32)
    return _between(grain, np.float32(grey - 50) * np.ones(3, np.float32), np.float32(grey + 40) * np.ones(3, np.float32))


def _tiles(random: Random, height: int, width: int, shift: bool = False) -> Image:
    image = np.full((height, width, 3), colour(random), np.uint8)
    base = colour(random)
    h = int(random.integers(16, 60))
    w, joint = int(h * random.uniform(1, 2.8)), int(random.integers(1, 5))
    for row, y in enumerate(range(-int(random.integers(h)), height, h)):
        for x in range(-(row % 2) * (w // 2 if shift else 0) - int(0.3 * w), width, w):
            tone = np.clip(base + random.normal(0, 12), 0, 255).tolist()
            cv2.rectangle(image, (x, y), (x + w - joint, y + h - joint), tone, -1)
    grain = octaves(random, height, width, 0.9) * random.uniform(2, 10)
    return np.asarray(np.clip(image + grain[..., None], 0, 255), np.uint8)


def _bricks(random: Random, height: int, width: int) -> Image:
    return _tiles(random, height, width, shift=True)


def _stripes(random: Random, height: int, width: int) -> Image:
    angle, period = random.uniform(0, np.pi), random.uniform(6, 60)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    wave = np.sin((x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) * np.float32(2 * np.pi / period))
    sharp = random.choice([0.5, 4.0])
    return _between(np.clip(0.5 + wave * sharp, 0, 1) * 0.6 + 0.2, colour(random), colour(random))


def _cloth(random: Random, height: int, width: int) -> Image:
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    a, b = random.uniform(0.4, 2.2, 2)
    weave = np.sin(x * np.float32(a)) * np.sin(y * np.float32(b)) * 0.2 + 0.5
    return _between(weave + octaves(random, height, width, 0.7) * 0.08, colour(random), colour(random))


def _foliage(random: Random, height: int, width: int) -> Image:
    image = _between(0.5 + octaves(random, height, width, 0.8) * 0.2, *_greens(random))
    for _ in range(int(random.integers(40, 120))):
        centre = (int(random.integers(width)), int(random.integers(height)))
        axes = (int(random.integers(3, 18)), int(random.integers(2, 7)))
        tone = np.clip(_greens(random)[1] * random.uniform(0.5, 1.2), 0, 255).tolist()
        cv2.ellipse(image, centre, axes, float(random.integers(360)), 0, 360, tone, -1, cv2.LINE_AA)
    return image


def _greens(random: Random) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    dark = np.array([random.uniform(10, 70), random.uniform(30, 90), random.uniform(5, 50)], np.float32)
    return dark, dark * np.float32(random.uniform(1.5, 2.8))


def _shapes(random: Random, height: int, width: int) -> Image:
    image = _clouds(random, height, width)
    for _ in range(int(random.integers(6, 30))):
        tone, size = colour(random).tolist(), int(random.integers(6, max(height, width) // 3))
        x, y = int(random.integers(width)), int(random.integers(height))
        kind = random.random()
        if kind < 0.35:
            cv2.rectangle(image, (x, y), (x + size, y + int(random.integers(4, 2 * size))), tone, -1)
        elif kind < 0.6:
            cv2.circle(image, (x, y), size // 2, tone, int(random.choice([-1, 2, 5])), cv2.LINE_AA)
        elif kind < 0.85:
            end = (x + int(random.integers(-150, 150)), y + int(random.integers(-150, 150)))
            cv2.line(image, (x, y), end, tone, int(random.integers(1, 9)), cv2.LINE_AA)
        else:
            points = np.add(random.integers(-size, size + 1, (4, 2)), (x, y))
            cv2.fillPoly(image, [points.astype(np.int32)], tone, cv2.LINE_AA)
    return image


def _pipes(random: Random, height: int, width: int) -> Image:
    """Round bars with highlights before a wall: cables, pipes, radiators."""
    image = _clouds(random, height, width)
    across = random.random() < 0.5
    place = int(random.integers(0, 30))
    length = height if across else width
    while place < length:
        thick = int(random.integers(5, 40))
        shade = np.sin(np.linspace(0.15, np.pi - 0.15, thick, dtype=np.float32))
        part = np.clip(shade[:, None] * colour(random) * 1.1, 0, 255)[: length - place]
        if across:
            image[place : place + thick] = part[:, None]
        else:
            image[:, place : place + thick] = part[None]
        place += thick + int(random.integers(4, 90))
    return image


def _bokeh(random: Random, height: int, width: int) -> Image:
    image = (_clouds(random, height, width) * np.float32(random.uniform(0.2, 0.8))).astype(np.uint8)
    layer = np.zeros_like(image)
    for _ in range(int(random.integers(8, 40))):
        centre = (int(random.integers(width)), int(random.integers(height)))
        cv2.circle(layer, centre, int(random.integers(3, 24)), colour(random).tolist(), -1, cv2.LINE_AA)
    layer = cv2.blur(layer, (5, 5))
    return np.asarray(cv2.addWeighted(image, 1.0, layer, random.uniform(0.3, 0.8), 0), np.uint8)


def _blobs(random: Random, height: int, width: int) -> Image:
    """Regions of colours with hard edges, as a photograph has: noise cut into levels."""
    noise = octaves(random, height, width, random.uniform(0.4, 0.7))
    levels = np.clip(noise * random.uniform(0.6, 1.4) + 2.5, 0, 5).astype(np.uint8)
    palette = np.stack([colour(random) for _ in range(6)])
    grain = octaves(random, height, width, 0.95) * random.uniform(2, 9)
    return np.asarray(np.clip(palette[levels] + grain[..., None], 0, 255), np.uint8)


def _gravel(random: Random, height: int, width: int) -> Image:
    cells = random.standard_normal((height // 4 + 1, width // 4 + 1), np.float32)
    fine = _resized(cells, height, width) * 0.16 + 0.5
    base = colour(random)
    return _between(fine + octaves(random, height, width, 0.6) * 0.06, base * 0.4, base * 1.3)


def _room(random: Random, height: int, width: int) -> Image:
    """Wall, floor and furniture: large quadrilaterals with gradients."""
    image = _between(np.linspace(0, 1, height, dtype=np.float32)[:, None].repeat(width, 1), colour(random), colour(random))
    for _ in range(int(random.integers(4, 12))):
        x, y = int(random.integers(-20, width)), int(random.integers(-20, height))
        w, h = int(random.integers(10, width // 2)), int(random.integers(10, height // 2))
        part = image[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)]
        if part.size:
            tone = _between(np.linspace(0, 1, part.shape[1], dtype=np.float32)[None], colour(random), colour(random))
            part[:] = tone
            edge = (max(x, 0), max(y, 0)), (x + w - 1, y + h - 1)
            cv2.rectangle(image, *edge, (colour(random) * 0.5).tolist(), int(random.integers(1, 3)))
    return image


KINDS: dict[str, Callable[[Random, int, int], Image]] = {
    "plaster": _plaster, "clouds": _clouds, "wood": _wood, "metal": _metal, "tiles": _tiles, "bricks": _bricks,
    "stripes": _stripes, "cloth": _cloth, "foliage": _foliage, "shapes": _shapes, "pipes": _pipes, "bokeh": _bokeh,
    "blobs": _blobs, "gravel": _gravel, "room": _room,
}  # fmt: skip


def kinds(split: Split) -> list[str]:
    """The kinds of background of one side of the split, four of fifteen held out."""
    return [name for name in KINDS if split_of(f"background {name}", 0.25) == split]
