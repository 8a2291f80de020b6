"""From quarter to full resolution (paper, section 3.4): every full-size pixel is a convex combination of nine quarter-size ones.

The features that decide the weights come half from the image, half from the refinement's state (`update.py`).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from core.blocks import SLOPE, ConvNormAct, at_least_float32, float32_island


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
    """width: channels of either half of the features, 32 in the published network.

    The convolution that joins the halves is linear: the image's half goes through it once, in `prepare`, and not in every iteration.
    """

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

    def prepare(self, image: Tensor) -> Tensor:
        """The image's share of the features, (B, 3, H, W) to (B, 2 * width, H/2, W/2): the same in every iteration."""
        features = self.image(image)
        return F.conv2d(features, self.join.conv.weight[:, -features.shape[1] :], padding=1)

    def forward(self, disparity: Tensor, mask_features: Tensor, prepared: Tensor) -> Tensor:
        """disparity: (T B, 1, h, w), iteration by iteration; mask_features: (T B, width, h, w); prepared: of the B images. (T B, H, W)."""
        x = self.up(mask_features)
        x = F.conv2d(x, self.join.conv.weight[:, : x.shape[1]], padding=1)
        x = F.leaky_relu((x.unflatten(0, (-1, prepared.shape[0])) + prepared).flatten(0, 1), SLOPE)
        scores = self.weights(x)
        with float32_island(scores):
            return convex_upsample(at_least_float32(disparity), at_least_float32(scores).softmax(1))
