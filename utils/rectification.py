"""From the pair that two cameras deliver to a rectified one: both images turned and undistorted so that rows agree. Reading the cameras'
calibration from files is in `calibration_opencv`.
"""

from dataclasses import dataclass, replace
from typing import Self

import cv2
import numpy as np

from utils.calibration import Calibration, check_camera, check_same_focal, checked_calibration
from utils.errors import UserError


@dataclass(frozen=True, eq=False)
class StereoRig:
    """Two cameras before rectification, in the words of cv2.stereoCalibrate.

    matrices: (3, 3) of the left and of the right camera, in pixels of `size`. distortions: OpenCV's 4 to 14 numbers of each.
    rotation (3, 3), translation_m (3,): a point x of the left camera is rotation @ x + translation_m in the right one; metres.
    size: (width, height) that the matrices belong to.
    """

    matrices: tuple[np.ndarray, np.ndarray]
    distortions: tuple[np.ndarray, np.ndarray]
    rotation: np.ndarray
    translation_m: np.ndarray
    size: tuple[int, int]

    def scaled(self, size: tuple[int, int]) -> Self:
        """The same cameras with images resized to `size`; pixel centres as in `Calibration.scaled`."""
        across, down = size[0] / self.size[0], size[1] / self.size[1]
        scale = np.array([[across, 0, across / 2 - 0.5], [0, down, down / 2 - 0.5], [0, 0, 1]])
        left, right = (scale @ matrix for matrix in self.matrices)
        return replace(self, matrices=(left, right), size=size)


class Rectification:
    """Makes rectified pairs of raw ones, both of `calibration.size`: `left, right = rectification(left, right)`."""

    def __init__(self, maps: tuple[tuple[np.ndarray, np.ndarray], ...], calibration: Calibration) -> None:
        """maps: of each eye the column and the row of the raw image, float32 (H, W), that a rectified pixel shows."""
        self.maps = maps
        self.calibration = calibration

    def __call__(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (H, W, 3) or (H, W), bilinear, black where the cameras saw nothing. UserError for images of another size."""
        width, height = self.calibration.size
        for image in (left, right):
            if image.shape[:2] != (height, width):
                raise UserError(f"rectification: found an image of {image.shape[1]} x {image.shape[0]}; expected {width} x {height}")
        first, second = (
            cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
            for image, maps in zip((left, right), self.maps, strict=True)
        )
        return first, second


def rectify(rig: StereoRig) -> Rectification:
    """Both cameras turned until their rows agree, with one focal length and no black borders (Bouguet's method, alpha 0, in OpenCV).

    Raises UserError where the second camera is not to the right of the first.
    """
    (left, right), (left_distortion, right_distortion) = rig.matrices, rig.distortions
    turn_left, turn_right, *projections = cv2.stereoRectify(
        left,
        left_distortion,
        right,
        right_distortion,
        rig.size,
        rig.rotation,
        rig.translation_m.reshape(3, 1),
        flags=cv2.CALIB_ZERO_DISPARITY,
        alpha=0,
    )[:4]
    calibration = of_projections(*projections, size=rig.size, where="rectification")
    maps = tuple(
        cv2.initUndistortRectifyMap(matrix, distortion, turn, projection[:, :3], rig.size, cv2.CV_32FC1)
        for matrix, distortion, turn, projection in zip(rig.matrices, rig.distortions, (turn_left, turn_right), projections, strict=True)
    )
    return Rectification(maps, calibration)


def of_projections(left: np.ndarray, right: np.ndarray, *, size: tuple[float, float], where: object, unit_m: float = 1.0) -> Calibration:
    """The geometry in a pair of (3, 4) projection matrices of rectified cameras, as stereoRectify and KITTI give them, in pixels of `size`.

    unit_m: metres per unit of their last column. Raises UserError, beginning with `where`, for matrices of no such pair.
    """
    focal_px, offset = float(right[0, 0]), left[:2, 3] - right[:2, 3]
    if not (np.isfinite(left).all() and np.isfinite(right).all()) or focal_px <= 0 or left[0, 0] <= 0 or left[1, 1] <= 0:
        raise UserError(f"{where}: the projections have no positive focal lengths; expected those of a rectified pair")
    for projection, name in ((left, "the left projection"), (right, "the right projection")):
        check_camera(projection[:, :3], where, name)
    check_same_focal((left[0, 0], left[1, 1]), (right[0, 0], right[1, 1]), where)
    if abs(offset[1]) > abs(offset[0]):
        raise UserError(f"{where}: the second camera is above or below the first; expected one beside it")
    if offset[0] <= 0:
        raise UserError(f"{where}: the second camera is to the left of the first, or in the same place; exchange the two")
    return checked_calibration(
        where,
        focal_px=float(left[0, 0]),
        focal_y_px=float(left[1, 1]),
        baseline_m=float(offset[0]) / focal_px * unit_m,
        doffs_px=float(right[0, 2] - left[0, 2]),
        centre=(float(left[0, 2]), float(left[1, 2])),
        size=size,
    )
