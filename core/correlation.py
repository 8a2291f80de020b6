"""What the refinement reads in every iteration (paper, section 3.4): windows of the aggregated volume and of the pair correlation.

Two implementations of the pair correlation give the same numbers: "reg" stores all pairs, "alt" stores none and computes what is
looked up. Both have one interface, `lookup(disparity)`. Everything here is float32 at least, also under autocast.
"""

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from core.blocks import at_least_float32, float32_island

Implementation = Literal["reg", "alt"]


def halve(line: Tensor) -> Tensor:
    """Mean of neighbouring pairs along axis 2 of (B, C, S, ...); an odd last one is dropped."""
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


def sample_rows(rows: Tensor, position: Tensor, radius: int) -> Tensor:
    """As `sample_line`, of a volume with channels last, (B, S, h, w, C): (B, C (2r + 1), h, w)."""
    index, inside, fraction = _rows_around(rows.shape, position, radius)
    values = rows.reshape(-1, rows.shape[-1]).index_select(0, index).view(*inside.shape[:-1], -1) * inside
    return interpolate(values, fraction, 1).permute(0, 4, 1, 2, 3).flatten(1, 2)


def _rows_around(shape: torch.Size, position: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of (B S h w, C) that a lookup at (B, h, w) reads, as one list; which of them lie inside, (B, 2r + 2, h, w, 1); the fraction."""
    batch, size, height, width, _ = shape
    index, fraction = neighbours(position, radius)
    inside = (index >= 0) & (index < size)
    line = torch.arange(0, batch * size, size, device=position.device).view(-1, 1, 1, 1) + index.clamp(0, size - 1)
    pixel = torch.arange(height * width, device=position.device).view(height, width)
    return (line * (height * width) + pixel).flatten(), inside.unsqueeze(-1), fraction.unsqueeze(-1)


def spread_rows(shared: Tensor, position: Tensor, gradient: Tensor, radius: int) -> None:
    """The gradient (B, C (2r + 1), h, w) of `sample_rows` at `position`, added to that of its volume, (B, S, h, w, C)."""
    channels = shared.shape[-1]
    index, inside, fraction = _rows_around(shared.shape, position, radius)
    gradient = gradient.unflatten(1, (channels, -1)).permute(0, 2, 3, 4, 1)  # (B, 2r + 1, h, w, C)
    upper = gradient * fraction
    spread = gradient.new_zeros(*inside.shape[:-1], channels)
    spread[:, :-1] = gradient - upper
    spread[:, 1:] += upper
    shared.view(-1, channels).index_add_(0, index, spread.mul_(inside).view(-1, channels))


def products_at(left: Tensor, right: Tensor, index: Tensor) -> Tensor:
    """left: (B, C, h, w); right: (B, C, h, s); index: (B, K, h, w) columns, any that lie outside give 0. Returns (B, K, h, w)."""
    size = right.shape[-1]
    columns = index.clamp(0, size - 1)
    products = [(left * right.gather(3, columns[:, k : k + 1].expand(-1, left.shape[1], -1, -1))).sum(1) for k in range(index.shape[1])]
    return torch.stack(products, 1) * ((index >= 0) & (index < size))


def products_at_backward(left: Tensor, right: Tensor, index: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of left and right. Gathers again, so that no gathered copy is kept."""
    size = right.shape[-1]
    gradient = gradient * ((index >= 0) & (index < size))
    columns = index.clamp(0, size - 1)
    left_gradient, right_gradient = torch.zeros_like(left), torch.zeros_like(right)
    for k in range(index.shape[1]):
        column = columns[:, k : k + 1].expand(-1, left.shape[1], -1, -1)
        weight = gradient[:, k : k + 1]
        left_gradient.addcmul_(weight, right.gather(3, column))
        right_gradient.scatter_add_(3, column, weight * left)
    return left_gradient, right_gradient


class Forms(NamedTuple):
    """The same four functions, vectorised or as kernels."""

    sample_rows: Callable[[Tensor, Tensor, int], Tensor]
    spread_rows: Callable[[Tensor, Tensor, Tensor, int], None]
    products_at: Callable[[Tensor, Tensor, Tensor], Tensor]
    products_at_backward: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


VECTORISED = Forms(sample_rows, spread_rows, products_at, products_at_backward)


def forms_for(tensor: Tensor) -> Forms:
    """Kernels where there is a GPU that they have proved themselves on; otherwise, and in what is traced, the vectorised ones."""
    if tensor.device.type == "cuda" and tensor.dtype == torch.float32 and not torch.compiler.is_compiling():
        return _proven_kernels(tensor.device)
    return VECTORISED


@cache
def _proven_kernels(device: torch.device) -> Forms:
    if importlib.util.find_spec("triton") is None:
        return VECTORISED
    try:
        from core import correlation_triton as kernels

        forms = Forms(kernels.sample_rows, kernels.spread_rows, kernels.products_at, kernels.products_at_backward)
        check_forms(forms, device)
    except Exception as error:  # whatever its compiler, the driver or the comparison raises: there is another way
        warnings.warn(f"lookups are not done by Triton's kernels on {device} ({type(error).__name__}: {error})", stacklevel=2)
        return VECTORISED
    return forms


def check_forms(forms: Forms, device: torch.device) -> None:
    """`AssertionError` where `forms` do not give the vectorised numbers on a small example."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    height, width, radius = 3, 70, 2
    rows, position = noise(2, 9, height, width, 5), 16 * noise(2, height, width) - 4
    left, right = noise(2, 6, height, width), noise(2, 6, height, width // 2)
    index = (60 * noise(2, 4, height, width) - 10).long()
    gradient, weights = noise(2, 5 * (2 * radius + 1), height, width), noise(*index.shape)
    found = []
    for one in (forms, VECTORISED):
        shared = rows.clone()
        one.spread_rows(shared, position, gradient, radius)
        sides = one.products_at_backward(left, right, index, weights)
        found.append([one.sample_rows(rows, position, radius), shared, one.products_at(left, right, index), *sides])
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


class _Sampled(torch.autograd.Function):
    """`sample_rows`, whose backward pass adds to one gradient that all lookups share: autograd would make one of the volume's size for
    each. Nothing but the position is kept. `token` stands for the volume in the graph, see `_Token`."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, rows: Tensor, position: Tensor, radius: int, shared: list[Tensor]) -> Tensor:
        ctx.save_for_backward(position)
        ctx.shape, ctx.radius, ctx.shared = rows.shape, radius, shared
        return forms_for(rows).sample_rows(rows, position, radius)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (position,) = ctx.saved_tensors
        if not ctx.shared:
            ctx.shared.append(gradients[0].new_zeros(ctx.shape))
        forms_for(gradients[0]).spread_rows(ctx.shared[0], position, gradients[0], ctx.radius)
        return gradients[0].new_zeros(()), None, None, None, None


class _Token(torch.autograd.Function):
    """A number that lookups depend on in place of the volume. Autograd comes here after the last of them, and the gradient is complete."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, shared: list[Tensor]) -> Tensor:
        ctx.shape, ctx.shared = rows.shape, shared
        return rows.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.shared.pop() if ctx.shared else gradients[0].new_zeros(ctx.shape), None


class Geometry:
    """A volume that is looked up again and again."""

    def __init__(self, rows: Tensor) -> None:
        """rows: (B, S, h, w, C)."""
        self.rows = rows
        self.shared: list[Tensor] = []  # the gradient so far, while there is one
        self.differentiable = rows.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if self.differentiable:
            self.token = _Token.apply(rows, self.shared)

    def __call__(self, position: Tensor, radius: int) -> Tensor:
        """position: (B, h, w), a constant. Returns (B, C (2r + 1), h, w)."""
        if self.differentiable and torch.is_grad_enabled():
            return _Sampled.apply(self.token, self.rows.detach(), position, radius, self.shared)
        return forms_for(self.rows).sample_rows(self.rows, position, radius)


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
    """`products_at`, differentiable."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, index)
        return forms_for(left).products_at(left, right, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right, index = ctx.saved_tensors
        return *forms_for(left).products_at_backward(left, right, index, gradients[0]), None


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
            rows = [at_least_float32(volume).permute(0, 2, 3, 4, 1).contiguous()]
            for _ in range(levels - 1):
                rows.append(halve(rows[-1].unsqueeze(1)).squeeze(1))
            self.geometry = [Geometry(level) for level in rows]
            self.columns = torch.arange(left.shape[-1], device=left.device, dtype=left.dtype)

    def __call__(self, disparity: Tensor) -> Tensor:
        """disparity: (B, 1, h, w) in working-size pixels, a constant. Returns (B, levels * (V + 1) * (2r + 1), h, w).

        Channels: level by level, first the volume's channels with their offsets -r..r each, then the pair correlation's offsets.
        """
        with float32_island(disparity):
            disparity = at_least_float32(disparity).detach().squeeze(1)
            samples = []
            for level, geometry in enumerate(self.geometry):
                samples.append(geometry(disparity / 2**level, self.radius))
                samples.append(self.pairs.level(level, (self.columns - disparity) / 2**level, self.radius))
            return torch.cat(samples, 1)
