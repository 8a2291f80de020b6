"""What looks wrong with a pair before and after inference: not rectified, eyes swapped, nearer than the network can see. Warnings only;
whether data agree with their ground truth is checked in `warp_check`.
"""

import cv2
import numpy as np

FEATURES = 2000
BITS = 40  # of 256 that descriptors of one point may differ in
FEWEST = 30  # matches, below which nothing is said
ROWS_PX = 1.0  # median row difference; 0 on every rectified pair of the development data, 1 when one eye is moved by a row
SWAPPED = 0.7  # share of matches with negative disparity; up to 0.13 on the development data, and 0.87 and more with swapped eyes
NEAR_LIMIT, LIMIT_SHARE = 0.95, 0.02  # disparities beyond this part of the range, and how many pixels may have such


def check_views(left: np.ndarray, right: np.ndarray) -> dict[str, str]:
    """Kind -> sentence, for uint8 (H, W, 3) RGB views of one size: `rows` that do not agree, `swapped` eyes.

    By ORB features (Rublee et al., ICCV 2011) that find each other in both views; scenes with few of them pass.
    """
    rows, columns = feature_offsets(left, right)
    if len(rows) < FEWEST:
        return {}
    found = {}
    if (offset := float(np.median(np.abs(rows)))) >= ROWS_PX:
        found["rows"] = (
            f"the pair looks unrectified: {len(rows)} features lie {offset:.1f} rows apart (median); rectify it, or pass a "
            "--calibration with K1, D1, K2, D2, R and T"
        )
    if (negative := float(np.mean(columns < 0))) >= SWAPPED:
        found["swapped"] = (
            f"the eyes look swapped: {100 * negative:.0f} % of {len(columns)} features lie further right in the right image, which gives "
            "negative disparities; exchange --left and --right"
        )
    return found


def feature_offsets(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of matched features in the left view minus those in the right one, (N,) each."""
    if min(left.shape[:2]) < 2:  # leaves nothing on ORB's coarser levels
        return np.empty(0), np.empty(0)
    orb = cv2.ORB.create(FEATURES)
    (points, codes), (others, other_codes) = (orb.detectAndCompute(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), None) for view in (left, right))
    if codes is None or other_codes is None:
        return np.empty(0), np.empty(0)
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(codes, other_codes)
    offsets = np.array(
        [np.subtract(points[m.queryIdx].pt, others[m.trainIdx].pt) for m in matches if m.distance <= BITS], np.float64
    ).reshape(-1, 2)
    return offsets[:, 1], offsets[:, 0]


def check_range(disparity: np.ndarray, limit_px: float | None) -> dict[str, str]:
    """Kind -> sentence: `range`, where many pixels are as near as the network can see. limit_px: in pixels of this map; None: no limit."""
    if limit_px is None:
        return {}
    share = float(np.mean(disparity >= NEAR_LIMIT * limit_px))
    if share <= LIMIT_SHARE:
        return {}
    return {
        "range": (
            f"{100 * share:.0f} % of the disparities reach the network's range of {limit_px:g} px: what is nearer is found wrong; use "
            "--scale 0.5, --hierarchical, or --set model.max_disp"
        )
    }
