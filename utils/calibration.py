"""The geometry of a rectified pair in numbers, and files that hold it. What is computed from it (depth, points) is in `geometry`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from utils.errors import UserError

NO_SKEW = 1e-3  # what is taken for none, as part of the focal length: half a pixel at the edge of most images
SAME_FOCAL = 1e-3  # what the focal lengths of a rectified pair may differ by, as part of one: less than a thousandth of the depth


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


def checked_calibration(
    where: object,
    *,
    focal_px: float,
    baseline_m: float,
    size: tuple[float, float],
    doffs_px: float = 0.0,
    centre: tuple[float, float] | None = None,
    focal_y_px: float | None = None,
) -> Calibration:
    """A `Calibration` of numbers as they were read. Raises UserError, beginning with `where`, for those that no cameras have."""
    positive = {"the focal length": focal_px, "the baseline": baseline_m, "the width": size[0], "the height": size[1]}
    if focal_y_px is not None:
        positive["the focal length of the rows"] = focal_y_px
    finite = {"doffs": doffs_px} | ({} if centre is None else {"cx": centre[0], "cy": centre[1]})
    wrong = [f"{name} is {value:g}" for name, value in positive.items() if not (math.isfinite(value) and value > 0)]
    wrong += [f"{name} is {value:g}" for name, value in finite.items() if not math.isfinite(value)]
    if wrong or min(size) < 0.5:
        raise UserError(
            f"{where}: {', '.join(wrong) or 'the size is below a pixel'}; focal lengths, baseline, width and height must be positive, "
            "doffs and the principal point finite; correct the file"
        )
    whole = max(round(size[0]), 1), max(round(size[1]), 1)
    return Calibration(focal_px, baseline_m, whole, doffs_px=doffs_px, centre=centre, focal_y_px=focal_y_px)


def check_camera(matrix: np.ndarray, where: object, name: str) -> None:
    """Raises UserError, beginning with `where`, for a (3, 3) camera matrix that is not fx 0 cx, 0 fy cy, 0 0 1."""
    skew, last = np.abs((matrix[0, 1], matrix[1, 0])).max(), matrix[2]
    if not (skew <= NO_SKEW * abs(matrix[0, 0]) and np.allclose(last, (0, 0, 1), rtol=0, atol=1e-6)):
        found = "; ".join(" ".join(f"{value:g}" for value in row) for row in matrix)
        raise UserError(f"{where}: {name} is {found}; expected fx 0 cx; 0 fy cy; 0 0 1 row by row (MATLAB stores it transposed)")


def check_same_focal(left: Sequence[float], right: Sequence[float], where: object) -> None:
    """Raises UserError, beginning with `where`, for cameras of other focal lengths (fx, fy), whose pair is not rectified."""
    if not np.allclose(left, right, rtol=SAME_FOCAL, atol=0):
        shown = [" ".join(f"{value:g}" for value in side) for side in (left, right)]
        raise UserError(f"{where}: the focal lengths are {shown[0]} on the left, {shown[1]} on the right; a rectified pair has the same")
