"""A surface given by tables over the left view: any relief and any outline. Bodies with faces are `solid`'s."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from train.datasets.synthetic.render import Eye, Part, Skin

MAX_SLOPE = 0.5  # largest |d disparity / dx|: between the eyes a surface is compressed or drawn out by half at most
OUTSIDE = np.float32(1e3)  # a distance to the outline that is beyond any softening


class Tables(NamedTuple):
    """A sheet at one eye's pixel centres: each pixel's place x in the left view, and what the tables hold there."""

    corner: tuple[int, int]
    x: np.ndarray
    disparity: np.ndarray
    inside: np.ndarray | None
    light: np.ndarray


@dataclass(frozen=True)
class Sheet:
    """Tables over a window of the left view, at pixel columns, linear between them along the row.

    corner: (x, y) of the window's first pixel in the left view; it may reach beyond the right border, where only the right eye looks.
    disparity: float32 (h, w) pixels, with |difference of neighbours in a row| < 1.
    inside: float32 (h, w), distance to the outline in pixels, positive inside; None for a surface without end.
    light: float32 (h, w), factor on the colour.
    mapping: (2, 3), from (x, y, 1) of the left view to (column, row) of the skin's texture.
    depth: disparity at which the mapping holds, where the texture shrinks with the distance; None where it does not.
    """

    corner: tuple[int, int]
    disparity: np.ndarray
    inside: np.ndarray | None
    light: np.ndarray
    skin: Skin
    mapping: np.ndarray
    depth: float | None = None

    @property
    def nearness(self) -> float:
        return float(self.disparity.mean())

    def look(self, eye: Eye, size: tuple[int, int]) -> Part | None:
        tables = self.left(size[0]) if eye == "left" else self.right(size[0])
        if tables is None:
            return None
        corner, x, disparity, inside, light = tables
        y = np.arange(corner[1], corner[1] + x.shape[0], dtype=np.float32)[:, None]
        (a, b, c), (d, e, f) = self.mapping.astype(np.float32)
        u, v = a * x + (b * y + c), d * x + (e * y + f)
        if self.depth is not None:
            farther = np.float32(self.depth) / np.maximum(disparity, np.float32(1e-3))
            u, v = u * farther, v * farther
        mirrored = None
        if self.skin.gloss is not None:  # things at no disparity: either eye sees them in its own columns
            aside = np.arange(corner[0], corner[0] + x.shape[1], dtype=np.float32) - np.float32(size[0] / 2)
            down = np.broadcast_to(y - np.float32(size[1] / 2), x.shape)
            mirrored = self.skin.gloss.place(np.broadcast_to(aside, x.shape) * np.float32(1 / size[0]), down * np.float32(1 / size[0]))
        return Part(corner, disparity, inside, light, u, v, mirrored=mirrored)

    def left(self, width: int) -> Tables | None:
        """The tables themselves, up to the image's border."""
        x0, _ = self.corner
        columns = min(self.disparity.shape[1], width - x0)
        if columns <= 0:
            return None
        x = np.broadcast_to(np.arange(x0, x0 + columns, dtype=np.float32), (self.disparity.shape[0], columns))
        inside = None if self.inside is None else self.inside[:, :columns]
        disparity, light = (np.ascontiguousarray(table[:, :columns]) for table in (self.disparity, self.light))
        return Tables(self.corner, x, disparity, inside, light)

    def right(self, width: int) -> Tables | None:
        """The tables seen at the right eye's pixel centres.

        Along a row, place x appears at t = x - d(x). For every whole t the two columns around it are found by counting how many columns
        appear at or before it, and t is interpolated between them: exact, since everything is linear between columns.
        """
        (x0, y0), (rows, columns) = self.corner, self.disparity.shape
        t = np.arange(x0, x0 + columns, dtype=np.float32) - self.disparity
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
        before = np.cumsum(counts[:, :wanted], axis=1, dtype=np.int32)
        before -= 1
        column = np.clip(before, 0, columns - 2)
        covered = before == column

        index = column + np.arange(0, rows * columns, columns, dtype=np.int32)[:, None]
        t0, t1 = t.take(index), t.ravel()[1:].take(index)
        shown = np.arange(first, last + 1, dtype=np.float32)
        fraction = (shown - t0) / (t1 - t0)
        place = column.astype(np.float32)  # in the window's columns, first the whole part: it is exact, and so is the next line
        disparity = place - (shown - x0)
        disparity += fraction
        place += fraction
        row = np.repeat(np.arange(rows, dtype=np.float32)[:, None], wanted, axis=1)

        light = cv2.remap(self.light, place, row, cv2.INTER_LINEAR)
        inside = None if self.inside is None else cv2.remap(self.inside, place, row, cv2.INTER_LINEAR)
        if not covered.all():
            inside = np.where(covered, OUTSIDE if inside is None else inside, -OUTSIDE)
            disparity = np.where(covered, disparity, np.float32(0))  # finite where nothing is shown
        place += x0
        return Tables((first, y0), place, disparity, inside, light)
