"""What the refinement reads in every iteration (paper, section 3.4): windows of the aggregated volume and of the pair correlation.

Two implementations of the pair correlation give the same numbers: "reg" stores all pairs, "alt" stores none and computes what is
looked up. Both have one interface, `lookup(disparity)`. Everything here is float32 at least, also under autocast.
"""

from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from core.blocks import at_least_float32, float32_island

Implementation = Literal["reg", "alt"]


def halve(line: Tensor) -> Tensor:
    """Mean of neighbouring pairs along axis 2 of (B, C, S, h, w); an odd last one is dropped."""
    pairs = line[:, :, : line.shape[2] // 2 * 2].unflatten(2, (-1, 2))
    return pairs.mean(3)


def neighbours(position: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """The 2r + 2 whole positions around (B, h, w) from floor(p) - r on, as (B, 2r + 2, h, w), and the fraction (B, 1, h, w)."""
    floor = position.floor()
    offsets = torch.arange(-radius, radius + 2, device=position.device)
    return floor.long().unsqueeze(1) + offsets[:, None, None], (position - floor).unsqueeze(1)


def interpolate(values: Tensor, fraction: Tensor, axis: int) -> Tensor:
    """2r + 2 neighbouring values along `axis` to the 2r + 1 samples between them; one fraction serves all."""
    count = values.shape[axis] - 1
    return torch.lerp(values.narrow(axis, 0, count), values.narrow(axis, 1, count), fraction)


def sample_line(line: Tensor, position: Tensor, radius: int) -> Tensor:
    """Samples of (B, C, S, h, w) along S at `position` (B, h, w) + (-r..r), linearly interpolated, zero outside: (B, C, 2r + 1, h, w)."""
    index, fraction = neighbours(position, radius)
    size = line.shape[2]
    inside = (index >= 0) & (index < size)
    index = index.clamp(0, size - 1).unsqueeze(1).expand(-1, line.shape[1], -1, -1, -1)
    values = line.gather(2, index) * inside.unsqueeze(1)
    return interpolate(values, fraction.unsqueeze(1), 2)


class PairCorrelation(Protocol):
    """Correlation of left pixel x with right column x - disparity and its neighbours, one tensor (B, 2r + 1, h, w) per level."""

    def level(self, level: int, position: Tensor, radius: int) -> Tensor:
        """position: (B, h, w) column at that level's width."""
        ...


class StoredCorrelation:
    """All pairs of a row, (B, 1, w, h, w), and their means over pairs of right columns, one tensor per level."""

    def __init__(self, left: Tensor, right: Tensor, levels: int) -> None:
        self.pyramid = [torch.einsum("bchx,bchs->bshx", left, right).unsqueeze(1)]
        for _ in range(levels - 1):
            self.pyramid.append(halve(self.pyramid[-1]))

    def level(self, level: int, position: Tensor, radius: int) -> Tensor:
        return sample_line(self.pyramid[level], position, radius).squeeze(1)


class _ProductsAt(torch.autograd.Function):
    """Products of left features with right features at given columns. Backward gathers again, so that no gathered copy is kept."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, index: Tensor) -> Tensor:
        """left: (B, C, h, w); right: (B, C, h, s); index: (B, K, h, w) columns, any that lie outside give 0. Returns (B, K, h, w)."""
        ctx.save_for_backward(left, right, index)
        size = right.shape[-1]
        columns = index.clamp(0, size - 1)
        products = [(left * right.gather(3, columns[:, k : k + 1].expand(-1, left.shape[1], -1, -1))).sum(1) for k in range(index.shape[1])]
        return torch.stack(products, 1) * ((index >= 0) & (index < size))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right, index = ctx.saved_tensors
        size = right.shape[-1]
        gradient = gradients[0] * ((index >= 0) & (index < size))
        columns = index.clamp(0, size - 1)
        left_gradient, right_gradient = torch.zeros_like(left), torch.zeros_like(right)
        for k in range(index.shape[1]):
            column = columns[:, k : k + 1].expand(-1, left.shape[1], -1, -1)
            weight = gradient[:, k : k + 1]
            left_gradient.addcmul_(weight, right.gather(3, column))
            right_gradient.scatter_add_(3, column, weight * left)
        return left_gradient, right_gradient, None


class ComputedCorrelation:
    """The same numbers from the features alone: the mean of a product over right columns is the product with the mean right feature."""

    def __init__(self, left: Tensor, right: Tensor, levels: int) -> None:
        self.left = left
        self.right = [right]
        for _ in range(levels - 1):
            finest = self.right[-1]
            self.right.append(halve(finest.permute(0, 1, 3, 2).unsqueeze(-1)).squeeze(-1).permute(0, 1, 3, 2).contiguous())

    def level(self, level: int, position: Tensor, radius: int) -> Tensor:
        index, fraction = neighbours(position, radius)
        return interpolate(_ProductsAt.apply(self.left, self.right[level], index), fraction, 1)


PAIR_CORRELATIONS: dict[str, type[StoredCorrelation] | type[ComputedCorrelation]] = {"reg": StoredCorrelation, "alt": ComputedCorrelation}


def lookup_channels(*, volume: int, levels: int, radius: int) -> int:
    return levels * (2 * radius + 1) * (volume + 1)


class Lookup:
    """Built once per forward call from the features of both views and the aggregated volume."""

    def __init__(self, left: Tensor, right: Tensor, volume: Tensor, *, implementation: Implementation, levels: int, radius: int) -> None:
        """left, right: (B, C, h, w); volume: (B, V, D, h, w)."""
        self.radius = radius
        with float32_island(left):
            left, right = (F.normalize(at_least_float32(features), dim=1, eps=1e-12) for features in (left, right))
            self.pairs: PairCorrelation = PAIR_CORRELATIONS[implementation](left, right, levels)
            self.geometry = [at_least_float32(volume)]
            for _ in range(levels - 1):
                self.geometry.append(halve(self.geometry[-1]))
            self.columns = torch.arange(left.shape[-1], device=left.device, dtype=left.dtype)

    def __call__(self, disparity: Tensor) -> Tensor:
        """disparity: (B, 1, h, w) in working-size pixels, a constant. Returns (B, levels * (V + 1) * (2r + 1), h, w).

        Channels: level by level, first the volume's channels with their offsets -r..r each, then the pair correlation's offsets.
        """
        with float32_island(disparity):
            disparity = at_least_float32(disparity).detach().squeeze(1)
            samples = []
            for level, geometry in enumerate(self.geometry):
                samples.append(sample_line(geometry, disparity / 2**level, self.radius).flatten(1, 2))
                samples.append(self.pairs.level(level, (self.columns - disparity) / 2**level, self.radius))
            return torch.cat(samples, 1)
