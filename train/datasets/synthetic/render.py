"""A surface in either eye, painting a stack of them, and what a camera adds. What surfaces there are is decided in `scene`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np

MAX_SLOPE = 0.5  # largest |d disparity / dx|: between the eyes a surface is compressed or drawn out by half at most
OUTSIDE = np.float32(1e3)  # a distance to the outline that is beyond any softening


@dataclass(frozen=True)
class Surface:
    """Tables over a window of the left view, at pixel columns, linear between them along the row.

    corner: (x, y) of the window's first pixel in the left view; it may reach beyond the right border, where only the right eye looks.
    disparity: float32 (h, w) pixels, with |difference of neighbours in a row| < 1.
    inside: float32 (h, w), distance to the outline in pixels, positive inside; None for a surface without end.
    light: float32 (h, w), factor on the colour.
    texture: float32 (th, tw, 3) RGB in 0..255, mirrored beyond its border.
    mapping: (2, 3), from (x, y, 1) of the left view to (column, row) of the texture.
    """

    corner: tuple[int, int]
    disparity: np.ndarray
    inside: np.ndarray | None
    light: np.ndarray
    texture: np.ndarray
    mapping: np.ndarray


@dataclass(frozen=True)
class View:
    """What one eye sees. image: float32 (H, W, 3) 0..255; disparity: float32 (H, W); surface: int16 (H, W), index, -1 for none."""

    image: np.ndarray
    disparity: np.ndarray
    surface: np.ndarray


class Part(NamedTuple):
    """A surface as one eye sees it, at that eye's pixel centres: tables over a window, and each pixel's place x in the left view."""

    corner: tuple[int, int]
    x: np.ndarray
    disparity: np.ndarray
    inside: np.ndarray | None
    light: np.ndarray


def paint(surfaces: Sequence[Surface], size: tuple[int, int], eye: Literal["left", "right"]) -> View:
    """The stack as one eye sees it, `size` (width, height). Nearest wins at every pixel centre; outlines are softened over one pixel.

    Order matters only to the softening: give the farthest first.
    """
    width, height = size
    image = np.zeros((height, width, 3), np.float32)
    light = np.ones((height, width), np.float32)
    disparity = np.full((height, width), -1, np.float32)
    surface = np.full((height, width), -1, np.int16)
    look = left_part if eye == "left" else right_part
    for number, entry in enumerate(surfaces):
        part = look(entry, width)
        if part is None:
            continue
        y, x = (slice(start, start + length) for start, length in zip(part.corner[::-1], part.x.shape, strict=True))
        alpha = (part.disparity > disparity[y, x]).astype(np.float32)
        if part.inside is not None:
            alpha *= np.clip(part.inside + np.float32(0.5), 0, 1)
        if not alpha.any():
            continue
        cv2.blendLinear(_sample(entry, part), image[y, x], alpha, 1 - alpha, dst=image[y, x])
        light[y, x] += alpha * (part.light - light[y, x])
        solid = alpha > 0.5
        np.copyto(disparity[y, x], part.disparity, where=solid)
        np.copyto(surface[y, x], number, where=solid)
    return View(cv2.multiply(image, cv2.merge([light] * 3)), disparity, surface)


def left_part(surface: Surface, width: int) -> Part | None:
    """The tables themselves, up to the image's border."""
    x0, _ = surface.corner
    columns = min(surface.disparity.shape[1], width - x0)
    if columns <= 0:
        return None
    x = np.broadcast_to(np.arange(x0, x0 + columns, dtype=np.float32), (surface.disparity.shape[0], columns))
    inside = None if surface.inside is None else surface.inside[:, :columns]
    return Part(surface.corner, x, surface.disparity[:, :columns], inside, surface.light[:, :columns])


def right_part(surface: Surface, width: int) -> Part | None:
    """The tables seen at the right eye's pixel centres.

    Along a row, place x appears at t = x - d(x). For every whole t the two columns around it are found by counting how many columns
    appear at or before it, and t is interpolated between them: exact, since everything is linear between columns.
    """
    (x0, y0), (rows, columns) = surface.corner, surface.disparity.shape
    t = np.arange(x0, x0 + columns, dtype=np.float32) - surface.disparity
    first, last = max(int(np.ceil(t[:, 0].min())), 0), min(int(np.floor(t[:, -1].max())), width - 1)
    if first > last:
        return None
    wanted = last - first + 1
    slots = np.ceil(t)
    slots -= first
    np.clip(slots, 0, wanted, out=slots)
    slots = slots.astype(np.int32)
    slots += np.arange(0, rows * (wanted + 1), wanted + 1, dtype=np.int32)[:, None]
    counts = np.bincount(slots.ravel(), minlength=rows * (wanted + 1)).reshape(rows, wanted + 1)
    before = np.cumsum(counts[:, :wanted], axis=1)
    before -= 1
    column = np.clip(before, 0, columns - 2)
    covered = before == column

    index = column + np.arange(0, rows * columns, columns)[:, None]
    t0, t1 = t.take(index), t.ravel()[1:].take(index)
    shown = np.arange(first, last + 1, dtype=np.float32)
    fraction = (shown - t0) / (t1 - t0)
    place = column.astype(np.float32)  # in the window's columns, first the whole part: it is exact, and so is the next line
    disparity = place - (shown - x0)
    disparity += fraction
    place += fraction
    row = np.repeat(np.arange(rows, dtype=np.float32)[:, None], wanted, axis=1)

    light = cv2.remap(surface.light, place, row, cv2.INTER_LINEAR)
    inside = None if surface.inside is None else cv2.remap(surface.inside, place, row, cv2.INTER_LINEAR)
    if not covered.all():
        inside = np.where(covered, OUTSIDE if inside is None else inside, -OUTSIDE)
        disparity = np.where(covered, disparity, np.float32(0))  # finite where nothing is shown
    place += x0
    return Part((first, y0), place, disparity, inside, light)


def occlusion(left: View, right: View) -> np.ndarray:
    """bool (H, W), left pixels that the right eye does not see.

    Their match lies left of the right image, or the right pixel nearest to the match shows another, nearer surface. One surface never
    hides itself: it would have to be steeper than any that `scene` builds.
    """
    height, width = left.disparity.shape
    match = np.arange(width, dtype=np.float32) - left.disparity
    nearest = np.clip(np.rint(match), 0, width - 1).astype(np.int64) + np.arange(height)[:, None] * width
    hidden = (right.surface.take(nearest) != left.surface) & (right.disparity.take(nearest) > left.disparity)
    return hidden | (match < 0)


def photograph(left: View, right: View, rng: np.random.Generator, *, noise: float, eye_difference: float) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images of the two views: a gain that differs a little per eye and channel, sensor noise, rounding."""
    strength = float(rng.uniform(0, 1) * noise)
    images = []
    for view in (left, right):
        gain = 1 + eye_difference * (rng.uniform(-1, 1) + 0.3 * rng.uniform(-1, 1, size=3))
        image = cv2.transform(view.image, np.diag(gain))
        if strength:
            # The sum of two uniform numbers: near enough to normal for noise, and much faster to draw. Its deviation is 104.5.
            draws = np.frombuffer(rng.bytes(2 * image.size), np.uint8).reshape(2, *image.shape)
            scale = strength / 104.5
            image += cv2.addWeighted(draws[0], scale, draws[1], scale, -255 * scale, dtype=cv2.CV_32F)
        images.append(cv2.convertScaleAbs(np.maximum(image, 0, out=image)))
    return images[0], images[1]


def _sample(surface: Surface, part: Part) -> np.ndarray:
    """Colours of the part's pixels: the texture at the place in the left view that each of them shows.

    OpenCV before 5 rounds the place to 1/32 texel, here at most 0.05 pixel wide; ground truth is not touched by that.
    """
    (a, b, c), (d, e, f) = surface.mapping.astype(np.float32)
    y = np.arange(part.corner[1], part.corner[1] + part.x.shape[0], dtype=np.float32)[:, None]
    return cv2.remap(surface.texture, a * part.x + (b * y + c), d * part.x + (e * y + f), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
