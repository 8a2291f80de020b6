"""Pictures for surfaces, rich and poor: noise, collages, speckle, repeated patterns, grain, nearly nothing. Where they go is `scene`'s.

Each maker returns float32 (height, width, 3) RGB in 0..255. They are sampled at less than one texel per pixel, so that detail at the
texel's own size stays below what either view can resolve.
"""

from collections.abc import Callable

import cv2
import numpy as np

PALETTE = 256


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One of `MAKERS`, drawn by its weight."""
    names = list(MAKERS)
    weights = np.array([MAKERS[name][1] for name in names])
    name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    return MAKERS[name][0](rng, height, width)


def colour(rng: np.random.Generator) -> np.ndarray:
    """float32 (3,) RGB: any brightness, mostly of little saturation, as things are."""
    grey = rng.uniform(15, 240)
    strength = rng.beta(1, 2.5)
    return np.clip(grey + strength * rng.uniform(-160, 160, size=3), 5, 250).astype(np.float32)


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
    return cv2.normalize(total, None, 0, 1, cv2.NORM_MINMAX)


def painted(rng: np.random.Generator, values: np.ndarray, colours: int | None = None) -> np.ndarray:
    """`values` in [0, 1] through a random palette of a few colours, blending into each other."""
    stops = np.stack([colour(rng) for _ in range(colours or int(rng.integers(2, 5)))])
    places = np.linspace(0, 1, len(stops))
    table = np.stack([np.interp(np.linspace(0, 1, PALETTE), places, channel) for channel in stops.T], axis=1).astype(np.float32)
    return np.take(table, (values * (PALETTE - 1)).astype(np.uint8), axis=0)


def noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return painted(rng, fractal(rng, height, width, int(2 ** rng.integers(3, 8)), rng.uniform(0.5, 0.9)))


def speckle(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Dots of a few texels, as of plaster, gravel or a projected pattern."""
    dots = cv2.GaussianBlur(rng.random((height, width), np.float32), (0, 0), rng.uniform(0.8, 2))
    dots = cv2.normalize(dots, None, 0, 1, cv2.NORM_MINMAX)
    return painted(rng, np.clip((dots - 0.5) * np.float32(rng.uniform(1, 4)) + 0.5, 0, 1), 2)


def grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Bands bent by noise: wood, marble, cloth."""
    along = np.linspace(0, rng.uniform(5, 25), width, dtype=np.float32)
    bent = fractal(rng, height, width, 64, rng.uniform(0.4, 0.7)) * np.float32(rng.uniform(2, 12))
    return painted(rng, 0.5 + 0.5 * np.sin(along + bent), 3)


def collage(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Dead leaves: discs, boxes, lines and letters of all sizes over each other, the statistics of natural pictures."""
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = colour(rng)
    picture = cv2.convertScaleAbs(picture)
    sizes = np.clip(3 * rng.pareto(1.2, size=int(min(150, 30 + height * width / 1200))) + 2, 2, max(height, width) / 3)
    for size in sorted(sizes, reverse=True):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        paint = tuple(float(c) for c in colour(rng))
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
            letters = "".join(chr(int(c)) for c in rng.integers(65, 91, size=3))
            cv2.putText(
                picture, letters, (x, y), int(rng.integers(0, 4)), min(size / 15 + 0.3, 2), paint, int(rng.integers(1, 3)), cv2.LINE_AA
            )
    shade = 0.8 + 0.4 * fractal(rng, height, width, 64, 0.6)
    return cv2.multiply(picture, cv2.merge([shade] * 3), dtype=cv2.CV_32F)


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
    picture = painted(rng, np.clip(values, 0, 1).astype(np.float32), 2)
    if rng.random() < 0.4:
        dirt = 1 - np.float32(rng.uniform(0.1, 0.5)) * fractal(rng, height, width, 64, 0.7)
        picture = cv2.multiply(picture, cv2.merge([dirt] * 3))
    return picture


def flat(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One colour, slowly changing, with noise of a few grey levels at most: what stereo finds hard."""
    faint = np.float32(rng.uniform(0, 6)) * (fractal(rng, height, width, 16, 0.9) - 0.5)
    slow = np.float32(rng.uniform(0, 40)) * (fractal(rng, height, width, 256, 0.3) - 0.5)
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = colour(rng)
    return cv2.add(picture, cv2.merge([faint + slow] * 3))


MAKERS: dict[str, tuple[Callable[[np.random.Generator, int, int], np.ndarray], float]] = {
    "noise": (noise, 0.25),
    "collage": (collage, 0.25),
    "speckle": (speckle, 0.1),
    "grain": (grain, 0.1),
    "pattern": (pattern, 0.17),
    "flat": (flat, 0.13),
}
