"""Whether a network knows where it errs: pixels are taken away in the order of its confidence, and the error of the rest should fall.

Ilg et al., arXiv:1802.07095, section 5: the sparsification curve, normalised to 1 where every pixel is left, the same for the best order
there is (the true errors'), and the area between the two, the area under the sparsification error (AUSE). 0 is a perfect order.
"""

import math
from typing import NamedTuple

import numpy as np

POINTS = 100  # of the curves that are kept for plots; the area is exact


class Sparsification(NamedTuple):
    """by_confidence, by_error: (POINTS,) mean error of what is left when the share k / POINTS of the pixels was taken away, least confident
    (largest error) first, as a share of the mean error of all. ause: mean difference of the two over every number of pixels."""

    by_confidence: np.ndarray
    by_error: np.ndarray
    ause: float


def sparsify(errors: np.ndarray, confidence: np.ndarray) -> Sparsification | None:
    """errors, confidence: (N,). None where there is nothing to order: no pixel, or a mean error that is zero or not finite.

    Pixels of one confidence are in no order: each counts with their mean error. One that is not a number is the least confident.
    """
    errors = errors.astype(np.float64)
    mean = errors.mean() if errors.size else math.nan
    if not (math.isfinite(mean) and mean > 0):
        return None
    _, group, counts = np.unique(np.nan_to_num(confidence, nan=-np.inf), return_inverse=True, return_counts=True)
    expected = np.bincount(group, weights=errors) / counts  # by rising confidence
    curves = _curve(np.repeat(expected, counts)), _curve(np.sort(errors)[::-1])
    shown = np.arange(POINTS) * errors.size // POINTS
    return Sparsification(curves[0][shown], curves[1][shown], float((curves[0] - curves[1]).mean()))


def _curve(errors: np.ndarray) -> np.ndarray:
    """Mean of the errors from each position to the last, as a share of the mean of all."""
    means = errors[::-1].cumsum()[::-1] / np.arange(errors.size, 0, -1)
    return means / means[0]
