"""Scenes of nothing in the world: a background and objects of any form before it. Those that a camera might see are in `places`."""

import cv2
import numpy as np

from train.datasets.synthetic.render import Lens, Scene, Surface
from train.datasets.synthetic.shapes import GROUNDS, RELIEFS, SOLID, THIN, frame
from train.datasets.synthetic.sheet import MAX_SLOPE, Sheet
from train.datasets.synthetic.skins import TEXELS, Skins
from train.datasets.synthetic.spread import Spread, draw

MARGIN = 2  # pixels around a thing's box, for the softened outline
LARGEST_TEXTURE = 448
THIN_SHARE, LARGE_SHARE = 0.3, 0.15  # of the things in a scene; the others are of medium size


def abstract(rng: np.random.Generator, size: tuple[int, int], spread: Spread, count: int, skins: Skins) -> Scene:
    """size: (width, height); count: of objects."""
    reach = size[0] + int(np.ceil(spread.near)) + 2  # the right eye looks past the left view's border
    things = (_object(rng, size, reach, spread, skins) for _ in range(count))
    objects = sorted((thing for thing in things if thing is not None), key=lambda thing: thing.nearness)
    surfaces: list[Surface] = [background(rng, (reach, size[1]), spread, skins), *objects]
    return Scene(surfaces, Lens(size[0], ((size[0] - 1) / 2, (size[1] - 1) / 2)))


def fit(relief: np.ndarray, centre: float, spread: float, limits: tuple[float, float]) -> np.ndarray:
    """float32 disparity around `centre` with the form of `relief`: `spread` pixels up and down, or less where that would leave the limits
    or be steeper than `MAX_SLOPE` along the row.
    """
    low, high = float(relief.min()), float(relief.max())
    half = (high - low) / 2
    if half < 1e-6:
        return np.full(relief.shape, centre, np.float32)
    steepest = float(np.abs(np.diff(relief, axis=1)).max(initial=0)) / half
    amplitude = min(spread, centre - limits[0], limits[1] - centre, MAX_SLOPE / max(steepest, 1e-6))
    fitted = centre + (relief - (low + half)) * np.float32(amplitude / half)
    return np.clip(fitted, *limits).astype(np.float32)


def background(rng: np.random.Generator, size: tuple[int, int], spread: Spread, skins: Skins) -> Sheet:
    """A wall, a floor, a cloth, hills, over `size` (width, height) of the left view."""
    width, height = size
    # Half of them rise towards the lower border, as a floor or a road does.
    angle = rng.normal(np.pi / 2, 0.15) if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi)
    at = frame((0, 0, width, height), (width / 2, height / 2), (width / 2, height / 2), angle)
    relief = list(GROUNDS.values())[int(rng.integers(len(GROUNDS)))](at, rng)
    far, near = spread.far, min(spread.draw(rng), 6 * spread.far)
    disparity = fit(relief, (far + near) / 2, (near - far) / 2, (spread.limits[0], spread.near))
    return _sheet(rng, (0, 0), disparity, None, skins)


def _object(rng: np.random.Generator, size: tuple[int, int], reach: int, spread: Spread, skins: Skins) -> Sheet | None:
    """One thing before the background; None where it falls outside of both views."""
    kind = rng.random()
    thin = kind < THIN_SHARE
    smallest, largest = (0.1, 0.6) if thin else (0.3, 0.7) if kind < THIN_SHARE + LARGE_SHARE else (0.04, 0.25)
    long = draw(rng, smallest, largest, "log_uniform") * min(size)
    half = (max(long, 4.0), max(long * rng.uniform(0.15 if thin else 0.35, 1), 4.0))
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.1) if rng.random() < 0.4 else rng.uniform(0, 2 * np.pi)
    centre = spread.draw(rng)
    middle = (rng.uniform(0, size[0] + centre), rng.uniform(0, size[1]))

    cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
    wide, high = half[0] * cos + half[1] * sin + MARGIN, half[0] * sin + half[1] * cos + MARGIN
    x0, x1 = max(int(middle[0] - wide), 0), min(int(middle[0] + wide) + 1, reach)
    y0, y1 = max(int(middle[1] - high), 0), min(int(middle[1] + high) + 1, size[1])
    if x1 - x0 < 4 or y1 - y0 < 4:
        return None
    at = frame((x0, y0, x1 - x0, y1 - y0), middle, half, angle)
    outlines = THIN if thin else SOLID
    inside = outlines[int(rng.integers(len(outlines)))](at, rng)
    relief = list(RELIEFS.values())[int(rng.integers(len(RELIEFS)))](at, rng)
    disparity = fit(relief, centre, centre * rng.uniform(0.02, 0.35), (spread.limits[0], spread.near))
    return _sheet(rng, (x0, y0), disparity, inside, skins, depth=centre if rng.random() < 0.5 else None)


def _sheet(
    rng: np.random.Generator,
    corner: tuple[int, int],
    disparity: np.ndarray,
    inside: np.ndarray | None,
    skins: Skins,
    depth: float | None = None,
) -> Sheet:
    height, width = disparity.shape
    texels = rng.uniform(*TEXELS)
    turn = rng.uniform(0, 2 * np.pi)
    diagonal = min(int(np.hypot(height, width) * texels) + 4, LARGEST_TEXTURE)
    skin = skins.picture(diagonal, diagonal)
    cos, sin = texels * np.cos(turn), texels * np.sin(turn)
    middle = np.array([corner[0] + width / 2, corner[1] + height / 2])
    linear = np.array([[cos, sin], [-sin, cos]])
    offset = np.array([diagonal / 2, diagonal / 2]) - linear @ middle
    return Sheet(corner, disparity, inside, _light(rng, disparity), skin, np.column_stack([linear, offset]), depth)


def _light(rng: np.random.Generator, disparity: np.ndarray) -> np.ndarray:
    """Brighter where the surface leans to one side, so that its form shows in its shade; and a slow change across it."""
    width = disparity.shape[1]
    direction = rng.uniform(0, 2 * np.pi)
    strength = rng.uniform(0, 1.2)
    across, down = cv2.Sobel(disparity, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(disparity, cv2.CV_32F, 0, 1, ksize=1)
    lean = np.float32(strength / 2 * np.cos(direction)) * across + np.float32(strength / 2 * np.sin(direction)) * down
    slow = np.linspace(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15), width, dtype=np.float32)
    return np.clip(np.float32(rng.uniform(0.7, 1.15)) + lean + slow, np.float32(0.35), np.float32(1.3)).astype(np.float32)
