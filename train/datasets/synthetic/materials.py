"""What things are made of, as pictures: paint, plaster, wood, brick, cloth, print, leaves. The abstract textures are next door.

Each maker returns uint8 (height, width, 3) RGB like those of `textures`, in colours as they are found together: one hue, light and dark.
"""

import colorsys
from collections.abc import Callable

import cv2
import numpy as np

from train.datasets.synthetic.textures import fractal, painted, shaded, stretched, texture

WARM, GREEN, ANY = (0.05, 0.12), (0.18, 0.38), (0.0, 1.0)  # hues, in turns of the colour circle


def shade(rng: np.random.Generator, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """float32 (3,) RGB, a colour within the limits."""
    return np.array(colorsys.hsv_to_rgb(rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)), np.float32) * np.float32(255)


def tones(colour: np.ndarray, contrast: float, count: int = 3) -> np.ndarray:
    """float32 (count, 3): the colour from darker to lighter, by factors of 1 -+ contrast."""
    return np.clip(np.linspace(1 - contrast, 1 + contrast, count)[:, None] * colour, 4, 251).astype(np.float32)


def paint(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One colour, with the faint marks that a roller, dust and hands leave, or none: walls, furniture, plastics."""
    colour = shade(rng, ANY, (0.0, 0.25), (0.4, 0.95)) if rng.random() < 0.7 else shade(rng, ANY, (0.1, 0.75), (0.1, 0.85))
    marks = fractal(rng, height, width, int(2 ** rng.integers(1, 5)), 1.0) + fractal(rng, height, width, 128, 0.5)
    return painted(stretched(marks), tones(colour, float(rng.choice((0.01, 0.03, 0.1)))))


def plaster(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Fine grain and larger stains: plaster, concrete, stone, sand."""
    colour = shade(rng, WARM, (0.02, 0.3), (0.35, 0.85))
    values = 0.6 * fractal(rng, height, width, 4, 1.0) + np.float32(rng.uniform(0.2, 1)) * fractal(rng, height, width, 128, 0.6)
    return painted(stretched(values), tones(colour, rng.uniform(0.15, 0.7)))


def asphalt(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Speckled dark grey with patches, seams and worn lines."""
    values = fractal(rng, height, width, 2, 1.0) + np.float32(rng.uniform(0.3, 1.2)) * fractal(rng, height, width, 64, 0.6)
    picture = painted(stretched(values), tones(shade(rng, WARM, (0.0, 0.12), (0.25, 0.6)), rng.uniform(0.25, 0.7)))
    for _ in range(int(rng.integers(0, 6))):
        x, y, bend = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(-1, 1, size=2) * (width, height)
        bright = float(rng.choice((25, 40, 210)))
        cv2.line(picture, (int(x), int(y)), (int(x + bend[0]), int(y + bend[1])), (bright,) * 3, int(rng.integers(1, 6)), cv2.LINE_AA)
    return picture


def wood(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Grain along boards of different tone, with their joints."""
    colour = shade(rng, (0.04, 0.11), (0.25, 0.7), (0.3, 0.85))
    values = cv2.resize(fractal(rng, height, max(width // 8, 8), 32, 0.8), (width, height), interpolation=cv2.INTER_LINEAR)
    values = 0.6 * values + 0.4 * np.sin(values * np.float32(rng.uniform(10, 50)))
    picture = painted(stretched(values), tones(colour, rng.uniform(0.1, 0.6)))
    if rng.random() < 0.7:
        board = int(rng.integers(16, 80))
        for top in range(0, height, board):
            picture[top : top + board] = cv2.convertScaleAbs(picture[top : top + board], alpha=rng.uniform(0.85, 1.12))
            picture[top] //= 2
    return picture


def masonry(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Bricks, tiles or paving, each of its own tone, in mortar."""
    colour = shade(rng, *((((0.0, 0.09), (0.2, 0.65), (0.35, 0.75))) if rng.random() < 0.5 else (ANY, (0.0, 0.3), (0.3, 0.95))))
    high, aspect, joint = int(rng.integers(8, 40)), rng.uniform(1, 3), int(rng.integers(1, 4))
    wide, staggered, vary = int(high * aspect), rng.random() < 0.6, rng.uniform(0.02, 0.25)
    rows, columns = height // high + 2, width // wide + 2
    tone = cv2.resize(
        (1 + vary * rng.standard_normal((rows, columns))).astype(np.float32), (columns * wide, rows * high), interpolation=cv2.INTER_NEAREST
    )
    tone[np.arange(rows * high) % high < joint] = -1
    lines = np.zeros((rows * high, columns * wide), bool)
    lines[:, np.arange(columns * wide) % wide < joint] = True
    tone[lines] = -1
    if staggered:
        for row in range(1, rows, 2):
            tone[row * high : (row + 1) * high] = np.roll(tone[row * high : (row + 1) * high], wide // 2, axis=1)
    tone = tone[:height, :width]
    mortar = np.float32(rng.uniform(0.4, 1.3))
    grain = 1 + np.float32(rng.uniform(0.1, 0.9)) * (fractal(rng, height, width, 16, 0.9) - 0.5)
    factor = cv2.GaussianBlur(np.where(tone < 0, mortar, tone), (3, 3), 0.6) * grain
    return cv2.convertScaleAbs(cv2.merge([factor * channel for channel in colour]))


def cloth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A printed motif repeated in rows, or stripes, or plain; with folds."""
    cell = int(rng.integers(12, 64))
    motif = np.empty((cell, cell, 3), np.uint8)
    motif[:] = shade(rng, ANY, (0.05, 0.5), (0.3, 0.95))
    for _ in range(int(rng.integers(1, 9))):
        x, y, size = *rng.integers(0, cell, size=2).tolist(), int(rng.integers(1, max(cell // 3, 2)))
        ink = shade(rng, ANY, (0.1, 0.8), (0.1, 0.95)).tolist()
        for across in (-cell, 0, cell):  # what leaves the cell comes in again
            if rng.random() < 0.1:
                cv2.rectangle(motif, (x + across, 0), (x + across + size // 2, cell), ink, cv2.FILLED)
            else:
                cv2.ellipse(
                    motif,
                    (x + across, y),
                    (size, int(size * rng.uniform(0.3, 1)) + 1),
                    rng.uniform(0, 180),
                    0,
                    360,
                    ink,
                    cv2.FILLED,
                    cv2.LINE_AA,
                )
    picture = np.tile(motif, (height // cell + 1, width // cell + 1, 1))[:height, :width]
    folds = 1 + np.float32(rng.uniform(0, 0.5)) * (fractal(rng, height, width, 128, 0.4) - 0.5)
    weave = folds + np.float32(rng.uniform(0, 0.4)) * (fractal(rng, height, width, 2, 1.0) - 0.5)
    return shaded(picture, weave)


def print_(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A sheet with lines of writing and pictures: poster, page, box, sign."""
    paper = shade(rng, ANY, (0.0, 0.5), (0.55, 1.0)) if rng.random() < 0.7 else shade(rng, ANY, (0.1, 0.7), (0.1, 0.6))
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = paper
    y = int(rng.integers(2, 20))
    while y < height:
        high = int(np.exp(rng.uniform(np.log(5), np.log(40))))
        if rng.random() < 0.4:
            high = 2 * high
            block = texture(rng, high, int(rng.integers(10, width)), poor=0)
        else:  # letters: five rows of strokes, a gap after every fourth column, and now and then a wider one
            columns = max(4 * width // (5 * high), 8)
            strokes = rng.random((5, columns)) < 0.55
            strokes[:, ::4] = False
            strokes[:, np.repeat(rng.random(columns // 4 + 1) < 0.2, 4)[:columns]] = False
            ink = shade(rng, ANY, (0.0, 0.9), (0.0, 0.35)) if paper.mean() > 110 else shade(rng, ANY, (0.0, 0.4), (0.7, 1.0))
            letters = np.where(strokes[..., None], ink, paper).astype(np.uint8)
            block = cv2.resize(letters, (columns * high // 5 + 1, high), interpolation=cv2.INTER_NEAREST)
        x = int(rng.integers(0, width // 2))
        part = picture[y : y + high, x : x + block.shape[1]]
        part[:] = block[: part.shape[0], : part.shape[1]]
        y += int(high * rng.uniform(1.0, 1.6))
    return cv2.GaussianBlur(picture, (3, 3), 0.6)


def leaves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Dense small leaves or grass in light and shadow."""
    canvas = painted(fractal(rng, height, width, 32, 0.9), tones(shade(rng, GREEN, (0.2, 0.7), (0.1, 0.35)), 0.6))
    inks = [shade(rng, GREEN, (0.2, 0.75), (0.1, 0.8)) for _ in range(6)]
    count, long = min(int(height * width / 90), 500), rng.uniform(3, 10)
    places = rng.uniform(0, (width, height), size=(count, 2))
    turns = rng.normal(np.pi / 2, rng.uniform(0.2, 3), size=count)
    along = long * rng.uniform(0.5, 1.2, size=(count, 1)) * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    aside = along[:, ::-1] * (-1, 1) * rng.uniform(0.1, 0.4)
    shapes = np.stack([places - along, places + aside, places + along, places - aside], axis=1)
    for number, shape in enumerate((shapes * 16).astype(np.int32)):
        cv2.fillConvexPoly(canvas, shape, inks[number % 6].tolist(), cv2.LINE_AA, 4)
    return canvas


def facade(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Storeys of windows, alike but not the same."""
    picture = (plaster if rng.random() < 0.6 else masonry)(rng, height, width)
    cell = rng.integers(24, 90, size=2)
    wide, high = (cell * rng.uniform(0.35, 0.7, size=2)).astype(int)
    frame = shade(rng, WARM, (0.0, 0.3), (0.3, 0.95)).tolist()
    bars = int(rng.integers(1, 4))
    for y in range(int(cell[1] - high) // 2, height, int(cell[1])):
        for x in range(int(cell[0] - wide) // 2, width, int(cell[0])):
            glass = shade(rng, (0.5, 0.65), (0.0, 0.3), (0.05, 0.25) if rng.random() < 0.7 else (0.3, 0.9)).tolist()
            cv2.rectangle(picture, (x - 1, y - 1), (x + wide + 1, y + high + 1), frame, cv2.FILLED)
            for bar in range(bars):
                cv2.rectangle(
                    picture, (x + 1 + bar * wide // bars, y + 1), (x - 1 + (bar + 1) * wide // bars, y + high - 1), glass, cv2.FILLED
                )
    return cv2.GaussianBlur(picture, (3, 3), 0.6)


def books(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Backs of books, drawers, planks: upright stripes of any width, with a mark or two."""
    picture = np.zeros((height, width, 3), np.uint8)
    x = 0
    while x < width:
        wide, top = int(rng.integers(4, 26)), int(rng.integers(0, max(height // 3, 2)))
        cover = shade(rng, ANY, (0.0, 0.8), (0.1, 0.9))
        cv2.rectangle(picture, (x, top), (x + wide - 2, height), cover.tolist(), cv2.FILLED)
        for y in rng.integers(top, height, size=2).tolist():
            cv2.rectangle(picture, (x, y), (x + wide - 2, y + int(rng.integers(1, 12))), (255 - cover).tolist(), cv2.FILLED)
        x += wide
    return cv2.GaussianBlur(picture, (3, 3), 0.6)


def sky(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Lighter towards the horizon, with or without clouds."""
    blue, haze = shade(rng, (0.52, 0.62), (0.05, 0.6), (0.6, 1.0)), shade(rng, (0.5, 0.65), (0.0, 0.15), (0.85, 1.0))
    clouds = np.clip(fractal(rng, height, width, 128, 0.55) * np.float32(rng.uniform(0, 3)) - 1, 0, 1)
    return painted(np.clip(np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.float32(0.8) + clouds, 0, 1), np.stack([blue, haze]))


MATERIALS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "paint": paint,
    "plaster": plaster,
    "asphalt": asphalt,
    "wood": wood,
    "masonry": masonry,
    "cloth": cloth,
    "print": print_,
    "leaves": leaves,
    "facade": facade,
    "books": books,
    "sky": sky,
}
