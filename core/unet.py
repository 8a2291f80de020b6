"""An encoder-decoder that sees both images at once and says how sure it is: the fastest network here, and a baseline without matching.

A U-Net (Ronneberger et al., arXiv:1505.04597) with the two outputs of Kendall and Gal (arXiv:1703.04977, section 3): disparity and the
logarithm of its variance. Nothing is refined, so there are no iterations; its loss is `uncertainty_loss` of `train/losses.py`.
"""

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from core import inference
from core.blocks import BatchNormPolicy, ConvNormAct, Width, at_least_float32, keep_batch_norm
from core.checkpointing import checkpointed
from core.inputs import check_batch_statistics, check_iters, check_pair
from core.output import StereoOutput
from utils.errors import UserError

LOG_VARIANCE = (-10.0, 12.0)  # standard deviations from 0.007 to 400 pixels: the loss divides by the variance


def two_convs(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(inputs, outputs, stride=stride), ConvNormAct(outputs, outputs))


class UNet(nn.Module):
    """Disparity and its log-variance at full resolution from six channels. Matching has to be learned by plain convolutions."""

    multiple = 16  # H and W are multiples of this: four halvings
    padding = 16  # what `infer` pads to
    stride = 1  # what it predicts on
    offers = frozenset({"log_variance"})

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
        self.gradient_checkpointing = False
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode, except where `batch_norm` says otherwise."""
        super().train(mode)
        keep_batch_norm(self, self.batch_norm)
        return self

    def forward(self, left: Tensor, right: Tensor, iters: int | None = None, init: Tensor | None = None) -> StereoOutput:
        """Disparity of `left` and its log-variance.

        left, right: (B, 3, H, W) RGB in [0, 1], H and W multiples of `self.multiple`.
        iters: without effect, there being nothing to iterate. init: refused for the same reason.
        """
        self._check_input(left, right, iters, init)
        x, skips = 2 * torch.cat([left, right], 1) - 1, []
        for stage in self.encoder:
            x = self._checkpointed(stage, x)
            skips.append(x)
        for level in reversed(range(len(self.decoder))):
            skip = skips[level]
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = self._checkpointed(self.decoder[level], torch.cat([skip, x], 1))
        share, log_variance = at_least_float32(self.head(x)).split(1, 1)
        return StereoOutput(self.max_disp * share.sigmoid(), log_variance=log_variance[:, 0].clamp(*LOG_VARIANCE))

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
