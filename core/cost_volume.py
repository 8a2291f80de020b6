"""The hybrid cost volume (paper, section 3.2): group-wise correlation and concatenation, its first layers, and the soft-argmin start.

Aggregation of the volume is in `hourglass.py`; the all-pairs correlation of the refinement is in `correlation.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.blocks import BasicBlock, ConvNormAct, FeatureGate, add, at_least_float32, float32_island
from core.checkpointing import Level, by_level

COLUMNS = 64  # columns per matrix product of the group correlation; trades wasted products against larger ones


def group_correlation(left: Tensor, right: Tensor, *, groups: int, planes: int) -> Tensor:
    """Cosine of left column x and right column x - d per group of channels; 0 where x < d. In [-1, 1].

    left, right: (B, C, h, w). Returns (B, G, D, h, w) in the features' dtype, computed in float32 at least.

    For a block of columns, all products with the right columns it can meet are one matrix; the band of it that is wanted is cut out
    by reshaping. No loop over planes, and no (C, D, h, w) intermediate.
    """
    dtype = left.dtype
    channels, width = left.shape[1], left.shape[3]
    blocks = -(-width // COLUMNS)
    extra = blocks * COLUMNS - width
    with float32_island(left):
        left = F.normalize(at_least_float32(left).unflatten(1, (groups, channels // groups)), dim=2, eps=1e-12)
        right = F.normalize(at_least_float32(right).unflatten(1, (groups, channels // groups)), dim=2, eps=1e-12)
        left = F.pad(left, (0, extra)).unflatten(-1, (blocks, COLUMNS)).permute(0, 1, 3, 4, 5, 2)  # (B, G, h, blocks, K, C/G)
        reach = COLUMNS + planes - 1
        right = F.pad(right, (planes - 1, extra)).unfold(-1, reach, COLUMNS).permute(0, 1, 3, 4, 2, 5)  # (B, G, h, blocks, C/G, reach)
        products = left @ right  # column k of a block meets right column k - d at index k + (planes - 1 - d)
        # Skew: with one more column per row, row k starts k entries later, and the band becomes a rectangle.
        band = F.pad(products.flatten(-2), (0, COLUMNS)).unflatten(-1, (COLUMNS, reach + 1))[..., :planes]
        band = band.flip(-1).flatten(3, 4)[..., :width, :]  # (B, G, h, w, D), nearest plane first
        return band.permute(0, 1, 4, 2, 3).to(dtype)


def shifted_planes(x: Tensor, planes: int) -> Tensor:
    """(B, C, h, w) to (B, C, D, h, w): plane d is `x` moved d columns to the right, 0 where nothing came from."""
    windows = F.pad(x, (planes - 1, 0)).unfold(-1, x.shape[-1], 1)  # (B, C, h, D, w), the last plane first
    return windows.flip(3).transpose(2, 3)


class Stem(nn.Sequential):
    """The first layers of the volume, on its three parts.

    The first layer is linear and looks at one position: the projections, which do not depend on the plane, go through it before they
    become planes, and the concatenated volume is never built. Returns (B, V, D, h, w), with channels last in memory on a CPU, whose
    three-dimensional convolutions are up to twice as fast so.
    """

    def __init__(self, *, groups: int, concat: int, volume: int) -> None:
        super().__init__(
            nn.Conv3d(groups + 2 * concat, volume, 1),
            ConvNormAct(volume, volume, dims=3),
            BasicBlock(volume, dims=3),
            BasicBlock(volume, dims=3),
        )
        self.sizes = (groups, concat, concat)

    def join(self, correlation: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """The first layer. correlation: (B, G, D, h, w); left, right: (B, concat, h, w)."""
        first = self[0]
        weight, *sides = first.weight.flatten(1).split(self.sizes, 1)
        left, right = (F.conv2d(x, side[..., None, None]) for x, side in zip((left, right), sides, strict=True))
        volume = (weight @ correlation.flatten(2)).unflatten(2, correlation.shape[2:])
        volume = add(volume, (left + first.bias[:, None, None]).unsqueeze(2))
        volume = add(volume, shifted_planes(right, correlation.shape[2]))
        return volume.contiguous(memory_format=torch.channels_last_3d) if volume.device.type == "cpu" else volume

    def forward(self, correlation: Tensor, left: Tensor, right: Tensor) -> Tensor:
        volume = self.join(correlation, left, right)
        for layer in list(self)[1:]:
            volume = layer(volume)
        return volume


class CostVolume(nn.Module):
    """From two feature maps to the volume that is aggregated."""

    def __init__(self, *, features: int, groups: int, concat: int, volume: int) -> None:
        super().__init__()
        self.groups = groups
        self.project = nn.Conv2d(features, concat, 1)
        self.stem = Stem(groups=groups, concat=concat, volume=volume)
        self.gate = FeatureGate(features, volume)
        self.checkpointing: Level = "none"

    def forward(self, left: Tensor, right: Tensor, planes: int) -> tuple[Tensor, Tensor]:
        """left, right: (B, C, h, w) of 1/4 resolution. Returns the volume, (B, V, D, h, w), and the `group_correlation` in it."""
        correlation = group_correlation(left, right, groups=self.groups, planes=planes)
        sides = self.project(left), self.project(right)
        volume = by_level(self.checkpointing, lambda *parts: self.gate(self.stem(*parts), left), correlation, *sides, modules=(self,))
        return volume, correlation


def score_volume(volume: Tensor, kernel: Tensor) -> Tensor:
    """The 3-D convolution of (B, C, D, h, w) with a single (1, C, k, k, k) kernel: (B, D, h, w), float32 at least.

    As k image convolutions in one, whose results are added with a shift over planes: libraries have no good kernel for one output
    channel, and this is several times as fast.
    """
    batch, _, planes = volume.shape[:3]
    size = kernel.shape[2]
    slices = F.conv2d(volume.transpose(1, 2).flatten(0, 1), kernel[0].transpose(0, 1), padding=size // 2)  # (B D, k, h, w)
    slices = at_least_float32(slices).unflatten(0, (batch, planes))
    slices = F.pad(slices, (0, 0, 0, 0, 0, 0, size // 2, size // 2))
    return torch.stack([slices[:, k : k + planes, k] for k in range(size)]).sum(0)


class DisparityClassifier(nn.Module):
    """One score per plane, for `soft_argmin`. No bias at the end: the softmax would cancel it."""

    def __init__(self, volume: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(volume, volume // 2, dims=3)
        self.block = BasicBlock(volume // 2, dims=3)
        self.score = nn.Conv3d(volume // 2, 1, 7, padding=3, bias=False)
        self.checkpointing: Level = "none"

    def forward(self, volume: Tensor) -> Tensor:
        """(B, V, D, h, w) to (B, D, h, w)."""
        volume = by_level(self.checkpointing, lambda x: self.block(self.conv(x)), volume, modules=(self.conv, self.block))
        return score_volume(volume, self.score.weight)


def soft_argmin(scores: Tensor, reach: int | None = None, start: Tensor | None = None, start_cost: float | None = None) -> Tensor:
    """(B, 1, h, w) the mean plane under the softmax of (B, D, h, w) scores: disparity in working-size pixels. Float32 at least.

    reach: only of the planes so near to the likeliest one, as the sub-pixel MAP of PDS (Tulyakov et al. 2018, section 3.4): where the
        scores have two peaks, as at the edge of a thing, the mean of all planes lies on neither.
    start: (B, 1, h, w) working-size pixels: each plane's score is lowered by `start_cost` for each plane that it lies away from it, a
        Laplace prior. Ours: the finer stages of a cascade (Gu et al. 2020, section 3.2) search a window, and do not leave what the coarse
        one got wrong. A start beyond the last plane, which no plane can be near, is returned as it is.
    """
    with float32_island(scores):
        scores = at_least_float32(scores)
        planes = torch.arange(scores.shape[1], device=scores.device, dtype=scores.dtype)
        at = planes.view(-1, 1, 1)
        if start is not None:
            assert start_cost is not None, "a start without start_cost"
            start = start.to(scores.dtype)
            scores = scores - start_cost * (at - start.clamp(0, scores.shape[1] - 1)).abs()
        if reach is not None:
            scores = scores.masked_fill((at - scores.argmax(1, keepdim=True)).abs() > reach, -torch.inf)
        probability = scores.softmax(1)
        found = torch.einsum("bdhw,d->bhw", probability, planes).unsqueeze(1)
        return found if start is None else torch.where(start > planes[-1], start, found)
