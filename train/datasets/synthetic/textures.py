"""Pictures for surfaces, rich and poor: noise, collages, speckle, repeated patterns, grain, nearly nothing. Where they go is `skins`'s.

Each maker returns uint8 (height, width, 3) RGB. They are sampled at a texel per pixel at most, and their finest detail
is two texels large, so that it stays below what either view can resolve.
"""

from collections.abc import Callable

import cv2
import numpy as np

PALETTE = 256


def texture(rng: np.random.Generator, height: int, width: int, poor: float = 0.12) -> np.ndarray:
    """One of `MAKERS`, or with probability `poor` one that stereo finds hard; often with fine detail over it."""
    if rng.random() < poor:
        return flat(rng, height, width)
    picture = MAKERS[int(rng.choice(len(MAKERS), p=WEIGHTS))](rng, height, width)
    if rng.random() < 0.6:
        detail = 1 + np.float32(rng.uniform(0.1, 0.5)) * (fractal(rng, height, width, 8, 1.0) - 0.5)
        picture = shaded(picture, detail)
    return picture


def shaded(picture: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) times float32 (h, w)."""
    return cv2.multiply(picture, cv2.merge([factor] * 3), dtype=cv2.CV_8U)


def colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 (count, 3) RGB: any brightness, mostly of little saturation, as things are."""
    grey = rng.uniform(15, 240, size=(count, 1))
    strength = rng.beta(1, 2.5, size=(count, 1))
    return np.clip(grey + strength * rng.uniform(-160, 160, size=(count, 3)), 5, 250).astype(np.float32)


def fractal(rng: np.random.Generator, height: int, width: int, coarsest: int, roughness: float) -> np.ndarray:
    """Noise of all sizes from `coarsest` texels down to two, float32 in [0, 1]. Each halving of size is weaker by `roughness`."""
    octaves = max(int(np.log2(max(coarsest, 2))), 1)
    weight, total = 1.0, None
    for octave in range(octaves - 1, -1, -1):
        cell = 2 ** (octave + 1)
        rows, columns = -(-height // cell) + 1, -(-width // cell) + 1
        fresh = rng.random((rows, columns), np.float32) * np.float32(weight)
        if total is None:
            total = fresh
        else:
            grown = cv2.resize(total, (2 * total.shape[1], 2 * total.shape[0]), interpolation=cv2.INTER_CUBIC)
            total = grown[:rows, :columns] + fresh
        weight *= roughness
    assert total is not None
    total = cv2.resize(total, (2 * total.shape[1], 2 * total.shape[0]), interpolation=cv2.INTER_CUBIC)[:height, :width]
    return stretched(total)


def stretched(values: np.ndarray) -> np.ndarray:
    """`values` from their own range to [0, 1]; all 0 where they are all one."""
    low, high = float(values.min()), float(values.max())
    return (values - np.float32(low)) * np.float32(1 / max(high - low, 1e-6))


def painted(values: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """`values` in [0, 1] through a palette of a few colours (n, 3), blending into each other."""
    steps = np.linspace(0, 1, PALETTE)
    table = np.stack([np.interp(steps, np.linspace(0, 1, len(stops)), channel) for channel in stops.T], axis=1)
    codes = cv2.convertScaleAbs(values, alpha=PALETTE - 1)
    return cv2.LUT(cv2.merge([codes] * 3), np.rint(table).astype(np.uint8)[None])


def noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    values = fractal(rng, height, width, int(2 ** rng.integers(3, 8)), rng.uniform(0.55, 1.0))
    return painted(values, colours(rng, int(rng.integers(2, 5))))


def speckle(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Dots of a few texels, as of plaster, gravel or a projected pattern."""
    dots = cv2.GaussianBlur(rng.random((height, width), np.float32), (0, 0), rng.uniform(0.8, 2))
    dots = stretched(dots)
    return painted(np.clip((dots - 0.5) * np.float32(rng.uniform(1, 4)) + 0.5, 0, 1), colours(rng, 2))


def grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Bands bent by noise: wood, marble, cloth."""
    along = np.linspace(0, rng.uniform(5, 25), width, dtype=np.float32)
    bent = fractal(rng, height, width, 64, rng.uniform(0.4, 0.7)) * np.float32(rng.uniform(2, 12))
    return painted(0.5 + 0.5 * np.sin(along + bent), colours(rng, 3))


def collage(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Dead leaves: discs, boxes, lines and arcs of all sizes over each other, the statistics of natural pictures."""
    paints = colours(rng, int(rng.integers(4, 16)))
    picture = np.full((height, width, 3), paints[0], np.uint8)
    count = int(min(150, 30 + height * width / 800))
    sizes = np.clip(2.5 * rng.pareto(1.1, size=count) + 1.5, 1.5, max(height, width) / 4)
    places = rng.integers(0, (width, height), size=(count, 2))
    for size, (x, y) in zip(np.sort(sizes)[::-1], places.tolist(), strict=True):
        paint = tuple(paints[int(rng.integers(len(paints)))].tolist())
        kind = rng.random()
        if kind < 0.4:
            cv2.circle(picture, (x, y), int(size), paint, cv2.FILLED, cv2.LINE_AA)
        elif kind < 0.7:
            corners = (rng.uniform(-1, 1, size=(int(rng.integers(3, 6)), 2)) * size + (x, y)).astype(np.int32)
            cv2.fillConvexPoly(picture, cv2.convexHull(corners), paint, cv2.LINE_AA)
        elif kind < 0.9:
            end = (int(x + rng.uniform(-3, 3) * size), int(y + rng.uniform(-3, 3) * size))
            cv2.line(picture, (x, y), end, paint, int(rng.integers(1, 4)), cv2.LINE_AA)
        else:
            turn = rng.uniform(0, 360, size=3)
            axes = (int(size) + 1, int(size * rng.uniform(0.3, 1)) + 1)
            cv2.ellipse(picture, (x, y), axes, turn[0], turn[1], turn[1] + turn[2], paint, int(rng.integers(1, 5)), cv2.LINE_AA)
    return cv2.GaussianBlur(picture, (3, 3), 0.5)


def pattern(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Something repeated: stripes, a grating, checks, tiles, bricks, dots; some with a little dirt, most exactly alike."""
    period = np.float32(np.exp(rng.uniform(np.log(6), np.log(48))))
    x = np.arange(width, dtype=np.float32) / period
    y = np.arange(height, dtype=np.float32)[:, None] / period
    kind = ("stripes", "grating", "checks", "tiles", "bricks", "dots")[int(rng.integers(6))]
    sharp = period / 2  # one texel of softness at every border

    def wave(along: np.ndarray) -> np.ndarray:
        """Triangle of period 1 in [-1, 1]."""
        return 4 * np.abs(along - np.rint(along)) - 1

    if kind == "grating":
        values = 0.5 + 0.5 * np.cos(2 * np.pi * (x + 0 * y))
    elif kind == "stripes":
        values = 0.5 + sharp / 2 * (wave(x + 0 * y) - np.float32(rng.uniform(-0.6, 0.6)))
    elif kind == "checks":
        values = 0.5 + sharp * wave(x) * wave(y)
    elif kind == "dots":
        values = 0.5 + sharp * (np.float32(rng.uniform(0.2, 0.4)) - np.hypot(x - np.rint(x), y - np.rint(y)))
    else:
        row = np.floor(y * 2) if kind == "bricks" else y
        shifted = x + 0.5 * (row % 2) if kind == "bricks" else x
        high = y * 2 if kind == "bricks" else y
        joint = np.minimum(np.abs(shifted - np.rint(shifted)), np.abs(high - np.rint(high)) * (0.5 if kind == "bricks" else 1))
        values = sharp * 2 * (joint - np.float32(rng.uniform(0.02, 0.1)))
    picture = painted(np.clip(values, 0, 1).astype(np.float32), colours(rng, 2))
    if rng.random() < 0.4:
        dirt = 1 - np.float32(rng.uniform(0.1, 0.5)) * fractal(rng, height, width, 64, 0.7)
        picture = shaded(picture, dirt)
    return picture


def flat(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One colour, slowly changing, with noise of a few grey levels at most: what stereo finds hard."""
    faint = np.float32(rng.uniform(0, 6)) * (fractal(rng, height, width, 16, 0.9) - 0.5)
    slow = np.float32(rng.uniform(0, 40)) * (fractal(rng, height, width, 256, 0.3) - 0.5)
    return cv2.convertScaleAbs(np.maximum(cv2.merge([faint + slow + channel for channel in colours(rng, 1)[0]]), 0))


MAKERS: tuple[Callable[[np.random.Generator, int, int], np.ndarray], ...] = (noise, collage, speckle, grain, pattern)
WEIGHTS = (0.27, 0.3, 0.12, 0.11, 0.2)
