"""The geometry of a rectified pair in numbers, and files that hold it. What is computed from it (depth, points) is in `geometry`."""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Calibration:
    """A rectified pair at one image size: depth = focal_px * baseline_m / (disparity + doffs_px).

    focal_px: in pixels of `size`. doffs_px: x difference of the principal points, c_x of the right view minus that of the left.
    centre: principal point (c_x, c_y) of the left view, in pixels. size: (width, height) that all of this belongs to.
    `focal_px` is that of the columns, as disparity is a difference of columns; `focal_y_px` that of the rows, the same where absent.
    """

    focal_px: float
    baseline_m: float
    size: tuple[int, int]
    doffs_px: float = 0.0
    centre: tuple[float, float] | None = None
    focal_y_px: float | None = None

    def scaled(self, size: tuple[int, int]) -> Self:
        """The same cameras after the image was resized to `size`; pixel centres as in `geometry`: (x + 0.5) * s - 0.5."""
        across, down = size[0] / self.size[0], size[1] / self.size[1]
        centre = None if self.centre is None else ((self.centre[0] + 0.5) * across - 0.5, (self.centre[1] + 0.5) * down - 0.5)
        focal_y = (self.focal_px if self.focal_y_px is None else self.focal_y_px) * down
        return replace(self, focal_px=self.focal_px * across, focal_y_px=focal_y, doffs_px=self.doffs_px * across, centre=centre, size=size)
