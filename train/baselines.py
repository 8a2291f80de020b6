"""What people use today, for comparison: OpenCV's semi-global matching (Hirschmueller 2008) as a predictor. Networks are in `core`."""

import math

import cv2
import numpy as np

from utils.errors import UserError

BLOCK = 5
STEP = 16  # disparity counts are multiples of this
NARROWEST = STEP + BLOCK // 2 + 1  # what the smallest search needs
UNKNOWN_RANGE_PX = 192.0


def sgbm(left: np.ndarray, right: np.ndarray, max_disparity: float | None = None) -> np.ndarray:
    """Disparity of one pair by `cv2.StereoSGBM`, holes filled: float32 (H, W), pixels.

    left, right: uint8 (H, W, 3) RGB. max_disparity: the largest of the scene, which the search covers; 192 where not known.
    Raises UserError for a pair that is too narrow to search in.
    Mode HH (all eight directions), block 5, P1 600, P2 2400, uniqueness 10 %, speckles of up to 100 pixels within 32 px removed.
    """
    height, width = left.shape[:2]
    if width < NARROWEST:
        raise UserError(f"sgbm: the images are {width} x {height} (width x height), narrower than {NARROWEST}; use a network")
    highest = UNKNOWN_RANGE_PX if max_disparity is None else max_disparity
    count = min(STEP * math.ceil((highest + 1) / STEP), (width - BLOCK) // STEP * STEP)
    matcher = cv2.StereoSGBM.create(
        minDisparity=0,
        numDisparities=max(count, STEP),
        blockSize=BLOCK,
        P1=600,
        P2=2400,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=32,
        mode=cv2.STEREO_SGBM_MODE_HH,
    )
    disparity = matcher.compute(left, right).astype(np.float32) / 16  # fixed point with four bits; negative where there is no match
    return fill_from_left(disparity, disparity >= 0)


def fill_from_left(disparity: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Unknown pixels from the nearest known one on their left in the row, which in the left view is most often the background; at the
    start of a row from the right. Rows without any stay 0.
    """
    width = disparity.shape[1]
    columns = np.where(known, np.arange(width), -1)
    before = np.maximum.accumulate(columns, axis=1)
    after = np.where(known, np.arange(width), width)[:, ::-1]
    after = np.minimum.accumulate(after, axis=1)[:, ::-1]
    source = np.where(before >= 0, before, after)
    filled = np.take_along_axis(disparity, np.minimum(source, width - 1), axis=1)
    return np.where(source < width, filled, np.float32(0))
