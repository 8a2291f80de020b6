"""Disparity functions and outlines over a window of pixels. How large, how near and how many is decided in `scene`.

All work on `Frame`s: coordinates (p, q) in pixels from the middle of a thing, along its own turned axes, with its half sides.
A relief is float32 (h, w) of any scale, which `scene` fits to its range; an outline is a distance in pixels, positive inside.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np


class Frame(NamedTuple):
    """p, q: float32 (h, w) pixels along the thing's axes; half: half its sides, so that the thing lies within |p| <= half[0], ..."""

    p: np.ndarray
    q: np.ndarray
    half: tuple[float, float]

    @property
    def unit(self) -> tuple[np.ndarray, np.ndarray]:
        return self.p * np.float32(1 / self.half[0]), self.q * np.float32(1 / self.half[1])


def frame(window: tuple[int, int, int, int], middle: tuple[float, float], half: tuple[float, float], angle: float) -> Frame:
    """The coordinates of window (x, y, width, height) around `middle`, turned by `angle` radians."""
    x = (np.arange(window[0], window[0] + window[2]) - middle[0]).astype(np.float32)
    y = (np.arange(window[1], window[1] + window[3]) - middle[1]).astype(np.float32)[:, None]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return Frame(cos * x + sin * y, cos * y - sin * x, half)


# Reliefs


def plane(at: Frame, rng: np.random.Generator) -> np.ndarray:
    return at.p + np.float32(0.1) * at.q


def cylinder(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """Convex or hollow, bent along one axis and a little along the other."""
    u, v = at.unit
    return np.float32(rng.choice((-1, 1))) * (u * u + np.float32(rng.uniform(0, 0.5)) * v * v)


def saddle(at: Frame, rng: np.random.Generator) -> np.ndarray:
    u, v = at.unit
    return u * v + np.float32(rng.uniform(-0.5, 0.5)) * u


def sphere(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """The near side of an ellipsoid, cut before its rim, where it would turn away from the eye."""
    u, v = at.unit
    return cv2.sqrt(np.maximum(1 - np.float32(0.9) * (u * u + v * v), np.float32(0.04)))


def waves(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """Two crossing waves on a slope."""
    u, v = at.unit
    total = np.float32(rng.uniform(-1, 1)) * u
    for strength in (1.0, 0.5):
        a, b = rng.uniform(-4, 4, size=2).astype(np.float32)
        total = total + np.float32(strength) * np.sin(a * u + b * v + np.float32(rng.uniform(0, 6.3)))
    return total


def terrain(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """Smooth random heights."""
    height, width = at.p.shape
    coarse = rng.random((int(rng.integers(3, 7)), int(rng.integers(3, 9))), np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def polyhedron(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """A convex body seen from outside: of several planes the farthest one shows."""
    return _planes(at, rng, np.minimum)


def room(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """A convex body seen from within: of several planes the nearest one shows."""
    return _planes(at, rng, np.maximum)


def mesh(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """A net of triangles with random heights at its corners."""
    height, width = at.p.shape
    rows, columns = (int(n) for n in rng.integers(2, 7, size=2))
    heights = rng.random((rows + 1, columns + 1), np.float32)
    y, x = np.linspace(0, rows, height, endpoint=False), np.linspace(0, columns, width, endpoint=False)
    row, column = y.astype(np.int64), x.astype(np.int64)
    down, across = (y - row).astype(np.float32)[:, None], (x - column).astype(np.float32)
    west, east = heights[:, column], heights[:, column + 1]
    a, b, c, d = (side.take(line, axis=0) for line in (row, row + 1) for side in (west, east))
    upper = a + across * (b - a) + down * (c - a)
    lower = d + (1 - across) * (c - d) + (1 - down) * (b - d)
    return np.where(across + down < 1, upper, lower)


def _planes(at: Frame, rng: np.random.Generator, choose: Callable) -> np.ndarray:
    u, v = at.unit
    total = None
    count = int(rng.integers(2, 6))
    start = rng.uniform(0, 2 * np.pi)
    for number in range(count):
        angle = start + 2 * np.pi * (number + rng.uniform(-0.3, 0.3)) / count
        steep = rng.uniform(0.3, 1)
        one = np.float32(steep * np.cos(angle)) * u + np.float32(steep * np.sin(angle)) * v + np.float32(rng.uniform(-0.3, 0.3))
        total = one if total is None else choose(total, one)
    assert total is not None
    return total


RELIEFS: dict[str, Callable[[Frame, np.random.Generator], np.ndarray]] = {
    "plane": plane,
    "cylinder": cylinder,
    "saddle": saddle,
    "sphere": sphere,
    "waves": waves,
    "terrain": terrain,
    "polyhedron": polyhedron,
    "mesh": mesh,
}
GROUNDS: dict[str, Callable[[Frame, np.random.Generator], np.ndarray]] = {
    "plane": plane,
    "room": room,
    "waves": waves,
    "terrain": terrain,
    "mesh": mesh,
}


# Outlines


def ellipse(at: Frame, rng: np.random.Generator) -> np.ndarray:
    return (1 - cv2.magnitude(*at.unit)) * np.float32(min(at.half))


def rectangle(at: Frame, rng: np.random.Generator) -> np.ndarray:
    return np.minimum(np.float32(at.half[0]) - np.abs(at.p), np.float32(at.half[1]) - np.abs(at.q))


def polygon(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """Convex, of three to seven sides, around the inscribed circle of the shorter half side."""
    u, v = at.unit
    count = int(rng.integers(3, 8))
    inside = None
    for angle in 2 * np.pi * (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count:
        side = np.float32(rng.uniform(0.6, 0.9)) - np.float32(np.cos(angle)) * u - np.float32(np.sin(angle)) * v
        inside = side if inside is None else np.minimum(inside, side)
    assert inside is not None
    return np.minimum(inside * np.float32(min(at.half)), rectangle(at, rng))


def blob(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """A circle whose radius swings with the angle; with sharp swings a star or a leaf."""
    u, v = at.unit
    angle = cv2.phase(u, v)
    radius = np.float32(0.7)
    for swings in rng.choice(np.arange(2, 9), size=3, replace=False):
        wave = np.sin(np.float32(swings) * angle + np.float32(rng.uniform(0, 6.3)))
        radius = radius + np.float32(rng.uniform(0, 0.3) / np.sqrt(swings)) * (np.abs(wave) if rng.random() < 0.3 else wave)
    return (radius - cv2.magnitude(u, v)) * np.float32(0.8 * min(at.half))


def ring(at: Frame, rng: np.random.Generator) -> np.ndarray:
    width = rng.uniform(0.08, 0.4)
    return np.float32(width / 2 * min(at.half)) - np.abs(cv2.magnitude(*at.unit) - np.float32(1 - width / 2)) * np.float32(min(at.half))


def window(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """A frame with a bar or two, as of a window or a chair's back."""
    border = np.float32(max(1.5, rng.uniform(0.08, 0.25) * min(at.half)))
    outer = rectangle(at, rng)
    bars = np.maximum(border - outer, border / 2 - np.abs(at.p if rng.random() < 0.5 else at.q))
    return np.minimum(outer, np.where(outer < border, outer, bars) if rng.random() < 0.7 else border - outer)


def pole(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """Straight, one to eight pixels wide."""
    thick = np.float32(np.exp(rng.uniform(np.log(0.6), np.log(4))))
    return np.minimum(thick - np.abs(at.q), np.float32(at.half[0]) - np.abs(at.p))


def wire(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """Bent, one to four pixels wide."""
    thick = np.float32(np.exp(rng.uniform(np.log(0.6), np.log(2))))
    swings = rng.uniform(0.5, 3) * np.pi / at.half[0]
    height = np.float32(0.8 * at.half[1])
    phase = np.float32(swings) * at.p + np.float32(rng.uniform(0, 6.3))
    away = np.abs(at.q - height * np.sin(phase)) / cv2.sqrt(1 + (height * np.float32(swings) * np.cos(phase)) ** 2)
    return np.minimum(thick - away, np.float32(at.half[0]) - np.abs(at.p))


def grille(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """Parallel bars, crossed or not, as of a fence, within a rectangle."""
    thick = np.exp(rng.uniform(np.log(0.8), np.log(4)))
    period = np.float32(thick * rng.uniform(4, 12))

    def bars(along: np.ndarray) -> np.ndarray:
        return np.float32(thick) - np.abs(along - period * np.rint(along / period))

    both = bars(at.p) if rng.random() < 0.5 else np.maximum(bars(at.p), bars(at.q))
    return np.minimum(both, rectangle(at, rng))


def branches(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """A walk of thin straight pieces with twigs, as of a plant or a cable."""
    inside = np.full(at.p.shape, -1e3, np.float32)
    points = [np.array([-0.9 * at.half[0], 0.0])]
    for _ in range(int(rng.integers(4, 9))):
        start = points[int(rng.integers(len(points)))] if rng.random() < 0.4 else points[-1]
        end = start + np.array([rng.uniform(0.1, 0.6) * at.half[0], rng.uniform(-0.7, 0.7) * at.half[1]])
        end = np.clip(end, [-0.95 * s for s in at.half], [0.95 * s for s in at.half])
        thick = np.float32(np.exp(rng.uniform(np.log(0.6), np.log(2.5))))
        along = (end - start).astype(np.float32)
        share = ((at.p - start[0]) * along[0] + (at.q - start[1]) * along[1]) / max(float(along @ along), 1e-6)
        share = np.clip(share, 0, 1).astype(np.float32)
        away = cv2.magnitude((at.p - np.float32(start[0])) - share * along[0], (at.q - np.float32(start[1])) - share * along[1])
        inside = np.maximum(inside, thick - away)
        points.append(end)
    return inside


def leaves(at: Frame, rng: np.random.Generator) -> np.ndarray:
    """A cluster of small ellipses with gaps between them."""
    inside = np.full(at.p.shape, -1e3, np.float32)
    for _ in range(int(rng.integers(6, 16))):
        middle = rng.uniform(-0.8, 0.8, size=2) * at.half
        long, wide = rng.uniform(0.1, 0.3) * min(at.half), rng.uniform(0.3, 0.9)
        cos, sin = np.cos(turn := rng.uniform(0, np.pi)), np.sin(turn)
        p, q = at.p - np.float32(middle[0]), at.q - np.float32(middle[1])
        along = np.float32(cos / long) * p + np.float32(sin / long) * q
        aside = np.float32(cos / (wide * long)) * q - np.float32(sin / (wide * long)) * p
        inside = np.maximum(inside, (1 - cv2.magnitude(along, aside)) * np.float32(wide * long))
    return inside


SOLID: tuple[Callable[[Frame, np.random.Generator], np.ndarray], ...] = (ellipse, rectangle, polygon, blob, blob)
THIN: tuple[Callable[[Frame, np.random.Generator], np.ndarray], ...] = (pole, wire, grille, branches, ring, window, leaves)
