"""What the refinement reads in every iteration (paper, section 3.4): windows of the aggregated volume and of the pair correlation.

Two implementations of the pair correlation give the same numbers: "reg" stores all pairs, "alt" stores none and computes what is
looked up. Everything here is float32 at least, also under autocast.
"""

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from core.blocks import at_least_float32, float32_island

Implementation = Literal["reg", "alt"]


def halve(line: Tensor, axis: int) -> Tensor:
    """Mean of neighbouring pairs along `axis`; an odd last one is dropped."""
    return line.narrow(axis, 0, line.shape[axis] // 2 * 2).unflatten(axis, (-1, 2)).mean(axis + 1)


def pyramid(line: Tensor, axis: int, levels: int) -> list[Tensor]:
    """`line`, its half along `axis`, the half of that."""
    lines = [line]
    for _ in range(levels - 1):
        lines.append(halve(lines[-1], axis))
    return lines


def neighbours(position: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """The 2r + 2 whole positions around (B, h, w) from floor(p) - r on, as (B, 2r + 2, h, w), and the fraction (B, 1, h, w)."""
    floor = position.floor()
    offsets = torch.arange(-radius, radius + 2, device=position.device)
    return floor.long().unsqueeze(1) + offsets[:, None, None], (position - floor).unsqueeze(1)


def interpolate(values: Tensor, fraction: Tensor) -> Tensor:
    """2r + 2 neighbouring values along axis 1 to the 2r + 1 samples between them; one fraction serves all."""
    return torch.lerp(values[:, :-1], values[:, 1:], fraction)


def share_out(gradient: Tensor, fraction: Tensor) -> Tensor:
    """The gradient of `interpolate`: of 2r + 1 samples along axis 1 to the 2r + 2 values around them."""
    upper = gradient * fraction
    out = torch.cat([gradient - upper, torch.zeros_like(gradient[:, :1])], 1)
    out[:, 1:] += upper
    return out


def _rows_around(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of (B S h w, C) that are read at `index` (B, K, h, w), as one list; which lie inside, (B, K, h, w, 1)."""
    batch, size, height, width, _ = rows.shape
    inside = (index >= 0) & (index < size)
    line = torch.arange(0, batch * size, size, device=index.device).view(-1, 1, 1, 1) + index.clamp(0, size - 1)
    pixel = torch.arange(height * width, device=index.device).view(height, width)
    return (line * (height * width) + pixel).flatten(), inside.unsqueeze(-1)


def rows_at(rows: Tensor, index: Tensor) -> Tensor:
    """rows: (B, S, h, w, C); index: (B, K, h, w) along S, any that lie outside give 0. Returns (B, K, h, w, C)."""
    around, inside = _rows_around(rows, index)
    return rows.reshape(-1, rows.shape[-1]).index_select(0, around).view(*index.shape, -1) * inside


def rows_at_backward(index: Tensor, gradient: Tensor, to_rows: Tensor) -> None:
    """The gradient of `rows_at`, added to `to_rows`."""
    around, inside = _rows_around(to_rows, index)
    to_rows.view(-1, to_rows.shape[-1]).index_add_(0, around, (gradient * inside).flatten(0, -2))


def products_at(left: Tensor, right: Tensor, index: Tensor) -> Tensor:
    """left: (B, C, h, w); right: (B, C, h, s); index: (B, K, h, w) columns, any that lie outside give 0. Returns (B, K, h, w)."""
    size = right.shape[-1]
    columns = index.clamp(0, size - 1)
    products = [(left * right.gather(3, columns[:, k : k + 1].expand(-1, left.shape[1], -1, -1))).sum(1) for k in range(index.shape[1])]
    return torch.stack(products, 1) * ((index >= 0) & (index < size))


def products_at_backward(left: Tensor, right: Tensor, index: Tensor, gradient: Tensor, to_left: Tensor, to_right: Tensor) -> None:
    """The gradients of left and right, added to `to_left` and `to_right`. Gathers again, so that no gathered copy is kept."""
    size = right.shape[-1]
    gradient = gradient * ((index >= 0) & (index < size))
    columns = index.clamp(0, size - 1)
    for k in range(index.shape[1]):
        column = columns[:, k : k + 1].expand(-1, left.shape[1], -1, -1)
        weight = gradient[:, k : k + 1]
        to_left.addcmul_(weight, right.gather(3, column))
        to_right.scatter_add_(3, column, weight * left)


class _ProductsAt(torch.autograd.Function):
    """`products_at`, differentiable, for what is traced."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, index)
        return products_at(left, right, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right, index = ctx.saved_tensors
        to_left, to_right = torch.zeros_like(left), torch.zeros_like(right)
        products_at_backward(left, right, index, gradients[0], to_left, to_right)
        return to_left, to_right, None


class Sources(NamedTuple):
    """What a lookup reads, a tensor per level: a volume, pairs of features, or both. Their gradients have the same form."""

    rows: list[Tensor]
    """(B, S, h, w, V) each, a `pyramid` over the planes of a volume with channels last; empty where there is none."""
    left: list[Tensor]
    """(B, C, h, w), one for all levels; empty where there are no features."""
    right: list[Tensor]
    """(B, C, h, s) each, a `pyramid` over the columns of the other view's features."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(*([function(tensor) for tensor in tensors] for tensors in self))

    def flat(self) -> list[Tensor]:
        return [*self.rows, *self.left, *self.right]

    @property
    def levels(self) -> int:
        return max(len(self.rows), len(self.right))


def look(sources: Sources, radius: int, plane: Tensor, column: Tensor) -> Tensor:
    """plane, column: (B, h, w), where the windows are centred at the finest level, of the volume and of the right features.

    Linearly interpolated, zero outside. Returns (B, levels (V + 1) (2r + 1), h, w): level by level, first the volume's channels with their
    offsets -r..r each, then the products'; V or 1 is 0 where the source is absent.
    """
    samples = []
    for level in range(sources.levels):
        if sources.rows:
            index, fraction = neighbours(plane / 2**level, radius)
            samples.append(interpolate(rows_at(sources.rows[level], index), fraction.unsqueeze(-1)).permute(0, 4, 1, 2, 3).flatten(1, 2))
        if sources.left:
            index, fraction = neighbours(column / 2**level, radius)
            samples.append(interpolate(_ProductsAt.apply(sources.left[0], sources.right[level], index), fraction))
    return torch.cat(samples, 1)


def look_backward(sources: Sources, radius: int, plane: Tensor, column: Tensor, gradient: Tensor, to: Sources) -> None:
    """The gradient of `look`, added to those of its sources."""
    volume, samples = to.rows[0].shape[-1] if to.rows else 0, 2 * radius + 1
    parts = gradient.split([volume * samples, len(to.left) * samples] * to.levels, 1)
    for level in range(to.levels):
        if to.rows:
            index, fraction = neighbours(plane / 2**level, radius)
            part = parts[2 * level].unflatten(1, (volume, samples)).permute(0, 2, 3, 4, 1)  # (B, 2r + 1, h, w, V)
            rows_at_backward(index, share_out(part, fraction.unsqueeze(-1)), to.rows[level])
        if to.left:
            index, fraction = neighbours(column / 2**level, radius)
            part = share_out(parts[2 * level + 1], fraction)
            products_at_backward(sources.left[0], sources.right[level], index, part, to.left[0], to.right[level])


class Forms(NamedTuple):
    """The same two functions, vectorised or as kernels."""

    look: Callable[[Sources, int, Tensor, Tensor], Tensor]
    look_backward: Callable[[Sources, int, Tensor, Tensor, Tensor, Sources], None]


VECTORISED = Forms(look, look_backward)


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

        forms = Forms(kernels.look, kernels.look_backward)
        check_forms(forms, device)
    except Exception as error:  # whatever its compiler, the driver or the comparison raises: there is another way
        warnings.warn(f"lookups are not done by Triton's kernels on {device} ({type(error).__name__}: {error})", stacklevel=2)
        return VECTORISED
    return forms


def check_forms(forms: Forms, device: torch.device) -> None:
    """`AssertionError` where `forms` do not give the vectorised numbers on a small example, with and without each source."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    height, width, planes, columns, radius = 3, 70, 9, 35, 2
    rows = pyramid(noise(2, planes, height, width, 5), 1, 3)
    left, right = [noise(2, 6, height, width)], pyramid(noise(2, 6, height, columns), 3, 3)
    plane, column = 16 * noise(2, height, width) - 4, 60 * noise(2, height, width) - 10
    for sources in (Sources(rows, left, right), Sources([], left, right), Sources(rows, [], [])):
        gradient, start, found = noise(*VECTORISED.look(sources, radius, plane, column).shape), sources.map(torch.rand_like), []
        for one in (forms, VECTORISED):
            to = start.map(torch.clone)
            one.look_backward(sources, radius, plane, column, gradient, to)
            found.append([one.look(sources, radius, plane, column), *to.flat()])
        torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


class _Token(torch.autograd.Function):
    """A number that lookups depend on in place of their sources. Autograd comes here after the last of them: the gradients are complete."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Sources], *sources: Tensor) -> Tensor:
        ctx.gradients, ctx.sources = gradients, len(sources)
        return sources[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(ctx.gradients.pop().flat() if ctx.gradients else [None] * ctx.sources)


class _Looked(torch.autograd.Function):
    """`look`, whose backward pass adds to gradients that all lookups share: autograd would make one of the sources' size for each. Nothing
    but the positions is kept. `token` stands for the sources in the graph, see `_Token`."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, reader: "Reader", plane: Tensor, column: Tensor) -> Tensor:
        ctx.save_for_backward(plane, column)
        ctx.reader = reader
        return forms_for(plane).look(reader.sources, reader.radius, plane, column)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (plane, column), reader = ctx.saved_tensors, ctx.reader
        if not reader.gradients:
            reader.gradients.append(reader.sources.map(torch.zeros_like))
        forms_for(plane).look_backward(reader.sources, reader.radius, plane, column, gradients[0], reader.gradients[0])
        return gradients[0].new_zeros(()), None, None, None


class Reader:
    """Sources that are looked up again and again."""

    def __init__(self, sources: Sources, radius: int) -> None:
        self.sources, self.radius = sources, radius
        self.gradients: list[Sources] = []  # those so far, while a backward pass is under way
        wanted = any(tensor.requires_grad for tensor in sources.flat())
        self.differentiable = wanted and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if self.differentiable:
            self.token = _Token.apply(self.gradients, *sources.flat())
            self.sources = sources.map(torch.Tensor.detach)

    def __call__(self, plane: Tensor, column: Tensor) -> Tensor:
        """As `look`. plane, column: constants."""
        if self.differentiable and torch.is_grad_enabled():
            return _Looked.apply(self.token, self, plane, column)
        return forms_for(plane).look(self.sources, self.radius, plane, column)


def lookup_channels(*, volume: int, levels: int, radius: int) -> int:
    return levels * (2 * radius + 1) * (volume + 1)


def unit(features: Tensor) -> Tensor:
    """Features (B, C, h, w) of length 1, whose products are cosines; float32 at least."""
    with float32_island(features):
        return F.normalize(at_least_float32(features), dim=1, eps=1e-12)


class Lookup:
    """Built once per forward call from the features of both views and the aggregated volume, where there is one."""

    def __init__(
        self, left: Tensor, right: Tensor, volume: Tensor | None = None, *, implementation: Implementation, levels: int, radius: int
    ) -> None:
        """left, right: (B, C, h, w), as they are to be multiplied; volume: (B, V, D, h, w)."""
        self.levels = levels
        with float32_island(left):
            left, right = at_least_float32(left).contiguous(), at_least_float32(right).contiguous()
            rows = [] if volume is None else pyramid(at_least_float32(volume).permute(0, 2, 3, 4, 1).contiguous(), 1, levels)
            self.pairs = None
            if implementation == "alt":
                self.reader = Reader(Sources(rows, [left], pyramid(right, 3, levels)), radius)
            else:  # all pairs are a volume over columns
                pairs = torch.einsum("bchx,bchs->bshx", left, right).unsqueeze(-1).contiguous()
                self.pairs = Reader(Sources(pyramid(pairs, 1, levels), [], []), radius)
                self.reader = Reader(Sources(rows, [], []), radius) if rows else None
            self.columns = torch.arange(left.shape[3], device=left.device, dtype=left.dtype)

    def __call__(self, disparity: Tensor) -> Tensor:
        """disparity: (B, 1, h, w) in working-size pixels, a constant. Returns (B, levels (V + 1) (2r + 1), h, w), see `look`."""
        with float32_island(disparity):
            disparity = at_least_float32(disparity).detach().squeeze(1)
            column = self.columns - disparity
            read = [] if self.reader is None else [self.reader(disparity, column)]
            if self.pairs is not None:
                read.append(self.pairs(column, column))
            return read[0] if len(read) == 1 else torch.cat([part.unflatten(1, (self.levels, -1)) for part in read], 2).flatten(1, 2)
