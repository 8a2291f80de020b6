"""What every stereo network returns. A NamedTuple, because DDP and autocast look for tensors inside tuples and not inside dataclasses."""

from typing import NamedTuple

import torch
from torch import Tensor


class StereoOutput(NamedTuple):
    """Disparity of the left view from one forward call.

    disparities: (B, T, H, W) pixels of the full image, one per refinement iteration, the last one best. T is 1 in evaluation mode.
    The others are None for networks that have none; a network's `offers` names those that it has.
    initial: (B, 1, h, w) the disparity before refinement, in pixels of its own (working) size.
    vertical: (B, T, H, W) what is left of a rectification error, per iteration: row in the left image - row in the right one, in pixels.
    log_variance: (B, H, W) natural logarithm of the variance that the network expects of the final disparity's error, in square pixels.
    pose: (B, 6) how far the right camera is from its rectified place, in the frame of that place (x right, y down, z ahead), all 0 for a
        rectified pair. First a rotation vector, axis times angle in radians, which turns the place's axes into the camera's: positive
        numbers look up, to the right, and roll clockwise. Then the camera's position in baselines: to the right, below, ahead.
    plane_scores: (B, D, h, w) whose softmax over working-size disparities 0..D-1 `initial` is the mean of, where it is not the given start.
    plane_correlation: (B, D, h, w) cosine of the left features and the right ones so many columns to the left.
    """

    disparities: Tensor
    initial: Tensor | None = None
    vertical: Tensor | None = None
    log_variance: Tensor | None = None
    pose: Tensor | None = None
    plane_scores: Tensor | None = None
    plane_correlation: Tensor | None = None

    @property
    def disparity(self) -> Tensor:
        """(B, H, W) the final disparity in pixels of the full image."""
        return self.disparities[:, -1]

    @property
    def confidence(self) -> Tensor | None:
        """(B, H, W) probability that the final disparity is less than a pixel off, for an error that is normal; None without a variance."""
        return None if self.log_variance is None else confidence_of(self.log_variance)


def confidence_of(log_variance: Tensor) -> Tensor:
    """Probability that an error is less than a pixel, for one that is normal with the variance exp(`log_variance`) in square pixels."""
    return torch.erf(torch.exp(-log_variance / 2) / 2**0.5)
