"""An encoder-decoder that sees both images at once and says how sure it is: the fastest network here, and a baseline without matching.

A U-Net (Ronneberger et al., arXiv:1505.04597) with the two outputs of Kendall and Gal (arXiv:1703.04977, section 3): disparity and the
logarithm of its variance. Nothing is refined, so there are no iterations; its loss is `uncertainty_loss` of `train/losses.py`. Its coarsest
features can also say how far the right camera stands out of place; the loss of that is `pose_loss`.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from core import inference
from core.blocks import BatchNormPolicy, ConvNormAct, Width, at_least_float32, float32_island, keep_batch_norm
from core.checkpointing import checkpointed
from core.inputs import check_batch_statistics, check_iters, check_pair
from core.output import StereoOutput
from utils.errors import UserError

LOG_VARIANCE = (-10.0, 12.0)  # standard deviations from 0.007 to 400 pixels: the loss divides by the variance
POSE_SCALE = 0.01  # radians and baselines of an output of 1 (as Zhou et al., arXiv:1704.07813): what cameras move by after calibration


def two_convs(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(inputs, outputs, stride=stride), ConvNormAct(outputs, outputs))


class PoseHead(nn.Module):
    """One pose per pair from features of any size: their means over the image, and their means weighted with the place in it, since the
    rows of a rolled camera are off by more the farther they are from the middle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(width, width)
        self.linear = nn.Linear(3 * width, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> (B, 6), see `StereoOutput.pose`."""
        x = at_least_float32(self.conv(x))
        with float32_island(x):
            down, across = (_places(length, x) for length in x.shape[-2:])
            means = [part.mean((2, 3)) for part in (x, x * across, x * down[:, None])]
            return POSE_SCALE * self.linear(torch.cat(means, 1))


def _places(length: int, like: Tensor) -> Tensor:
    """(length,) the pixels' places from -1 to 1, 0 in the middle."""
    return (2 * torch.arange(length, device=like.device, dtype=like.dtype) + 1) / length - 1


class UNet(nn.Module):
    """Disparity and its log-variance at full resolution from six channels. Matching has to be learned by plain convolutions."""

    multiple = 16  # H and W are multiples of this: four halvings
    padding = 16  # what `infer` pads to
    stride = 1  # what it predicts on
    offers = frozenset({"log_variance"})
    switched: ClassVar[dict[str, str]] = {"pose": "predict_pose"}

    def __init__(
        self,
        with_pretrained: bool = True,
        *,
        max_disp: Annotated[int, Field(gt=0, description="largest disparity that the network can say, full-size pixels")] = 64,
        dims: Annotated[
            Sequence[Width], Field(min_length=5, max_length=5, description="widths at full, 1/2, 1/4, 1/8 and 1/16 resolution")
        ] = (32, 64, 128, 256, 256),
        batch_norm: Annotated[
            BatchNormPolicy, Field(description="in training: train; frozen_statistics: running ones are used; frozen: weights too")
        ] = "train",
        sync_batchnorm: Annotated[bool, Field(description="share batch statistics between processes")] = False,
        predict_pose: Annotated[
            bool, Field(description="also say how far the right camera is from its rectified place: six numbers, trained by pose_loss")
        ] = False,
    ) -> None:
        """with_pretrained: nothing of this network comes pretrained."""
        super().__init__()
        self.max_disp = max_disp
        self.sync_batchnorm = sync_batchnorm
        self.batch_norm: BatchNormPolicy = batch_norm
        self.encoder = nn.ModuleList(
            two_convs(inputs, outputs, stride=1 if level == 0 else 2)
            for level, (inputs, outputs) in enumerate(zip((6, *dims), dims, strict=False))
        )
        self.decoder = nn.ModuleList(two_convs(dims[level] + dims[level + 1], dims[level]) for level in range(len(dims) - 1))
        self.head = nn.Conv2d(dims[0], 2, 3, padding=1)
        self.pose_head = PoseHead(dims[-1]) if predict_pose else None
        if predict_pose:
            self.offers = self.offers | {"pose"}
        self.gradient_checkpointing = False
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode, except where `batch_norm` says otherwise."""
        super().train(mode)
        keep_batch_norm(self, self.batch_norm)
        return self

    def forward(self, left: Tensor, right: Tensor, iters: int | None = None, init: Tensor | None = None) -> StereoOutput:
        """Disparity of `left` and its log-variance, and with `predict_pose` the right camera's pose.

        left, right: (B, 3, H, W) RGB in [0, 1], H and W multiples of `self.multiple`.
        iters: without effect, there being nothing to iterate. init: refused for the same reason.
        """
        self._check_input(left, right, iters, init)
        x, skips = 2 * torch.cat([left, right], 1) - 1, []
        for stage in self.encoder:
            x = self._checkpointed(stage, x)
            skips.append(x)
        pose = None if self.pose_head is None else self._checkpointed(self.pose_head, x)
        for level in reversed(range(len(self.decoder))):
            skip = skips[level]
            # A GPU's autocast enlarges in float32, and would join and keep that; the convolution casts it back anyway.
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False).to(skip.dtype)
            x = self._checkpointed(self.decoder[level], torch.cat([skip, x], 1))
        share, log_variance = at_least_float32(self.head(x)).split(1, 1)
        return StereoOutput(self.max_disp * share.sigmoid(), log_variance=log_variance[:, 0].clamp(*LOG_VARIANCE), pose=pose)

    def infer(
        self, left: np.ndarray, right: np.ndarray, *, iters: int | None = None, hierarchical: bool = False, cascades: int = 1
    ) -> np.ndarray:
        """See `FoundationStereo.infer`; only whole images in one pass."""
        return inference.infer(self, left, right, iters=iters, hierarchical=hierarchical, cascades=cascades)

    def _checkpointed(self, stage: nn.Module, x: Tensor) -> Tensor:
        return checkpointed(stage, x, enabled=self.gradient_checkpointing, modules=(stage,))

    def _check_input(self, left: Tensor, right: Tensor, iters: int | None, init: Tensor | None) -> None:
        check_pair(left, right, self.multiple)
        if self.training and self.batch_norm == "train":
            check_batch_statistics(left, self.multiple)
        check_iters(iters, 1)
        if init is not None:
            raise UserError("model input: init was given, but unet does not refine a start; leave out hierarchical and cascades")
