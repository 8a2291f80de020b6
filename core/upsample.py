"""From quarter to full resolution (paper, section 3.4): every full-size pixel is a convex combination of nine quarter-size ones.

The features that decide the weights come half from the image, half from the refinement's state (`update.py`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.blocks import ConvNormAct, at_least_float32, float32_island


def convex_upsample(disparity: Tensor, weights: Tensor) -> Tensor:
    """(B, 1, h, w) in working-size pixels to (B, H, W) in full-size pixels, with weights (B, 9, H, W) that sum to 1; H / h is whole.

    Neighbours in row-major order. Outside the image they count as 0, as in the published network, so borders are drawn towards 0.
    """
    batch, _, height, width = disparity.shape
    factor = weights.shape[-1] // width
    patches = F.unfold(factor * disparity, 3, padding=1).view(batch, 9, height, 1, width, 1)
    weights = weights.view(batch, 9, height, factor, width, factor)
    return (patches * weights).sum(1).view(batch, factor * height, factor * width)


class Upsampler(nn.Module):
    """width: channels of either half of the features, 32 in the published network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image = nn.Sequential(
            ConvNormAct(3, width, stride=2, norm="instance"),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.InstanceNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.up = ConvNormAct(width, width, norm="none", transposed=True)
        self.join = ConvNormAct(2 * width, 2 * width, norm="none")
        self.weights = nn.ConvTranspose2d(2 * width, 9, 4, stride=2, padding=1)

    def forward(self, disparity: Tensor, mask_features: Tensor, image_features: Tensor) -> Tensor:
        """disparity: (B, 1, h, w); mask_features: (B, width, h, w); image_features: `self.image(left)`, (B, width, H/2, W/2)."""
        x = self.join(torch.cat([self.up(mask_features), image_features], 1))
        scores = self.weights(x)
        with float32_island(scores):
            return convex_upsample(at_least_float32(disparity), at_least_float32(scores).softmax(1))
