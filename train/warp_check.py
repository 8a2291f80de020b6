"""Does the ground truth of a pair explain its images? The right image is warped to the left by the disparity and compared, as the files
say and under each of the mistakes that data sets are made with; the reading that fits best is the finding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from train.sample import StereoSample

WINDOW = 9  # pixels; grey values are compared after the mean and contrast of such a square are taken out: exposure does not matter
CONTRAST = 2.0  # grey levels of 255; what varies less than that in a window tells nothing
MOST = 2.0  # a difference counts no more than this: occlusions and reflections are always there
CLEARLY = 0.92  # another reading is believed where it leaves less than this share of the difference
EXPLAINS = (
    0.8  # of the difference with shuffled disparities; above it the ground truth says nothing about the pair (right ones: up to 0.67)
)
FEWEST = 200  # compared pixels below which a pair is not judged

AS_GIVEN = "as given"
ONE_IMAGE = "both images the same"
UNRELATED = "unrelated"
Warp = Callable[[StereoSample], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Verdict:
    """reading: what fits best, `AS_GIVEN`, one of `READINGS`, `UNRELATED`, `ONE_IMAGE`, or None where too little can be compared.

    scores: mean absolute difference in standard deviations of a window, by reading, 0 to `MOST`.
    """

    reading: str | None
    scores: dict[str, float]


def check_pair(sample: StereoSample) -> Verdict:
    """The best reading of one pair."""
    left, right = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (sample.left, sample.right))
    valid = sample.valid if sample.occluded is None else sample.valid & ~sample.occluded
    scores = {}
    for name, reading in READINGS.items():
        score = reading(left, right, sample.disparity, valid)
        if score is None and name == AS_GIVEN:
            return Verdict(None, {})
        if score is not None:
            scores[name] = score
    if np.array_equal(sample.left, sample.right):
        return Verdict(ONE_IMAGE, scores)
    best = min((name for name in scores if name != UNRELATED), key=scores.__getitem__)
    if best != AS_GIVEN and scores[best] > CLEARLY * scores[AS_GIVEN]:
        best = AS_GIVEN
    if scores[best] > EXPLAINS * scores.get(UNRELATED, np.inf):
        best = UNRELATED
    return Verdict(best, scores)


def _scaled(factor: float):
    return lambda left, right, disparity, valid: _difference(left, right, factor * disparity, valid)


def _rows(shift: int):
    """The right image lies `shift` rows too low: what belongs to row y is found at y + shift."""
    return lambda left, right, disparity, valid: _difference(left, right, disparity, valid, rows=shift)


def _columns(offset: float):
    return lambda left, right, disparity, valid: _difference(left, right, disparity + offset, valid)


def _swapped(left, right, disparity, valid):
    return _difference(right, left, disparity, valid)


def _turned(axis: int):
    """The ground truth alone is turned over: rows read from the wrong end, as of a PFM, or columns."""
    return lambda left, right, disparity, valid: _difference(left, right, np.flip(disparity, axis), np.flip(valid, axis))


def _unrelated(left, right, disparity, valid):
    """Disparities of the right size in the wrong places: those of other rows and columns."""
    shuffled = disparity.copy()
    shuffled[valid] = np.random.default_rng(0).permutation(disparity[valid])
    return _difference(left, right, shuffled, valid)


READINGS = {
    AS_GIVEN: _scaled(1.0),
    "eyes swapped": _swapped,
    "disparity negated": _scaled(-1.0),
    **{f"disparity should be {factor:g} times as large": _scaled(factor) for factor in (0.25, 0.5, 2.0, 4.0)},
    **{f"right image {abs(n)} rows too {'low' if n > 0 else 'high'}": _rows(n) for n in (-3, -2, -1, 1, 2, 3)},
    **{f"disparity should be {abs(n)} px {'larger' if n > 0 else 'smaller'}": _columns(n) for n in (-2, -1, 1, 2)},
    "ground truth upside down": _turned(0),
    "ground truth mirrored": _turned(1),
    UNRELATED: _unrelated,
}


def _difference(left: np.ndarray, right: np.ndarray, disparity: np.ndarray, valid: np.ndarray, rows: int = 0) -> float | None:
    """Mean difference of `left` and what `right` shows at x - disparity; None where fewer than `FEWEST` pixels can be compared."""
    height, width = disparity.shape
    columns = np.arange(width, dtype=np.float32) - disparity.astype(np.float32)
    lines = np.broadcast_to(np.arange(height, dtype=np.float32)[:, None] + rows, columns.shape)
    warped = cv2.remap(right, columns, np.ascontiguousarray(lines), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = valid & (columns >= 0) & (columns <= width - 1) & (lines >= 0) & (lines <= height - 1)
    (first, contrast), (second, other) = _normalised(left), _normalised(warped)
    inside &= np.maximum(contrast, other) > CONTRAST
    if np.count_nonzero(inside) < FEWEST:
        return None
    return float(np.minimum(np.abs(first - second)[inside], MOST).mean())


def _normalised(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey values without the mean of their window, in its standard deviations; and these."""
    mean = cv2.blur(image, (WINDOW, WINDOW))
    deviation = np.sqrt(np.maximum(cv2.blur(image * image, (WINDOW, WINDOW)) - mean * mean, 0))
    return (image - mean) / (deviation + 1), deviation
