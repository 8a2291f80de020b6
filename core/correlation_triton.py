"""The two lookups of `correlation.py` as kernels for a GPU, by Triton; the same interface, which the vectorised forms there are twins of.

Imported only where there is a GPU and Triton, by `correlation.forms_for`. These kernels have been run by Triton's interpreter and on no
GPU yet: that is why they are believed only after they have given the numbers of their twins on the device at hand.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl

BLOCK = 64  # pixels of one program


@triton.jit
def _first_plane(position, batch, pixel, there, pixels, size, RADIUS: tl.constexpr):  # pyright: ignore
    at = tl.load(position + batch * pixels + pixel, mask=there, other=0.0)
    floor = tl.floor(at)
    whole = tl.minimum(tl.maximum(floor, -RADIUS - 2.0), size + RADIUS + 1.0)  # far outside is all the same
    return whole.to(tl.int32) - RADIUS, at - floor


@triton.jit
def _sample(rows, position, out, size, pixels, CHANNELS: tl.constexpr, PADDED: tl.constexpr, RADIUS: tl.constexpr, BLOCK: tl.constexpr):  # pyright: ignore
    batch = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = pixel < pixels
    channel = tl.arange(0, PADDED)
    real = there[:, None] & (channel < CHANNELS)[None, :]
    first, fraction = _first_plane(position, batch, pixel, there, pixels, size, RADIUS)
    low = tl.zeros((BLOCK, PADDED), tl.float32)
    for k in range(2 * RADIUS + 2):
        plane = first + k
        row = (batch * size + plane) * pixels + pixel
        inside = real & ((plane >= 0) & (plane < size))[:, None]
        high = tl.load(rows + row[:, None] * CHANNELS + channel[None, :], mask=inside, other=0.0)
        place = ((batch * CHANNELS + channel[None, :]) * (2 * RADIUS + 1) + k - 1) * pixels + pixel[:, None]
        tl.store(out + place, low + (high - low) * fraction[:, None], mask=real & (k > 0))
        low = high


@triton.jit
def _spread(
    shared, position, gradient, size, pixels, CHANNELS: tl.constexpr, PADDED: tl.constexpr, RADIUS: tl.constexpr, BLOCK: tl.constexpr
):  # pyright: ignore
    batch = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = pixel < pixels
    channel = tl.arange(0, PADDED)
    real = there[:, None] & (channel < CHANNELS)[None, :]
    first, fraction = _first_plane(position, batch, pixel, there, pixels, size, RADIUS)
    before = tl.zeros((BLOCK, PADDED), tl.float32)
    for k in range(2 * RADIUS + 2):
        place = ((batch * CHANNELS + channel[None, :]) * (2 * RADIUS + 1) + k) * pixels + pixel[:, None]
        here = tl.load(gradient + place, mask=real & (k < 2 * RADIUS + 1), other=0.0)
        plane = first + k
        row = (batch * size + plane) * pixels + pixel
        inside = real & ((plane >= 0) & (plane < size))[:, None]
        at = shared + row[:, None] * CHANNELS + channel[None, :]  # no other program writes there: a pixel reads its own line alone
        added = here * (1 - fraction)[:, None] + before * fraction[:, None]
        tl.store(at, tl.load(at, mask=inside, other=0.0) + added, mask=inside)
        before = here


@triton.jit
def _multiply(left, right, index, out, channels, height, width, size, COUNT: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr):  # pyright: ignore
    batch, y = (tl.program_id(1) // height).to(tl.int64), tl.program_id(1) % height
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, PADDED)
    real = (x < width)[:, None] & (k < COUNT)[None, :]
    place = ((batch * COUNT + k[None, :]) * height + y) * width + x[:, None]
    column = tl.load(index + place, mask=real, other=-1)
    inside = real & (column >= 0) & (column < size)
    total = tl.zeros((BLOCK, PADDED), tl.float32)
    for c in range(channels):
        line = (batch * channels + c) * height + y
        one = tl.load(left + line * width + x, mask=x < width, other=0.0)
        total += one[:, None] * tl.load(right + line * size + column, mask=inside, other=0.0)
    tl.store(out + place, total, mask=real)


@triton.jit
def _multiply_back(  # pyright: ignore
    left, right, index, gradient, to_left, to_right, channels, height, width, size,
    COUNT: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch, y = (tl.program_id(1) // height).to(tl.int64), tl.program_id(1) % height
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, PADDED)
    real = (x < width)[:, None] & (k < COUNT)[None, :]
    place = ((batch * COUNT + k[None, :]) * height + y) * width + x[:, None]
    column = tl.load(index + place, mask=real, other=-1)
    inside = real & (column >= 0) & (column < size)
    weight = tl.load(gradient + place, mask=inside, other=0.0)
    for c in range(channels):
        line = (batch * channels + c) * height + y
        one = tl.load(left + line * width + x, mask=x < width, other=0.0)
        other = tl.load(right + line * size + column, mask=inside, other=0.0)
        tl.store(to_left + line * width + x, tl.sum(weight * other, 1), mask=x < width)
        tl.atomic_add(to_right + line * size + column, weight * one[:, None], mask=inside)


def sample_rows(rows: Tensor, position: Tensor, radius: int) -> Tensor:
    """As `correlation.sample_rows`; rows float32 and contiguous."""
    batch, size, height, width, channels = rows.shape
    out = rows.new_empty(batch, channels * (2 * radius + 1), height, width)
    padded, grid = triton.next_power_of_2(channels), (triton.cdiv(height * width, BLOCK), batch)
    _sample[grid](rows, position.contiguous(), out, size, height * width, channels, padded, radius, BLOCK)
    return out


def spread_rows(shared: Tensor, position: Tensor, gradient: Tensor, radius: int) -> None:
    """As `correlation.spread_rows`: adds to `shared`."""
    batch, size, height, width, channels = shared.shape
    padded, grid = triton.next_power_of_2(channels), (triton.cdiv(height * width, BLOCK), batch)
    _spread[grid](shared, position.contiguous(), gradient.contiguous(), size, height * width, channels, padded, radius, BLOCK)


def products_at(left: Tensor, right: Tensor, index: Tensor) -> Tensor:
    """As `correlation.products_at`."""
    (batch, channels, height, width), size, count = left.shape, right.shape[-1], index.shape[1]
    out = left.new_empty(index.shape)
    grid = (triton.cdiv(width, BLOCK), batch * height)
    _multiply[grid](
        left.contiguous(), right.contiguous(), index.contiguous(), out, channels, height, width, size,
        count, triton.next_power_of_2(count), BLOCK,
    )  # fmt: skip
    return out


def products_at_backward(left: Tensor, right: Tensor, index: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """As `correlation.products_at_backward`. Sums of the right gradient come in any order."""
    (batch, channels, height, width), size, count = left.shape, right.shape[-1], index.shape[1]
    left, right = left.contiguous(), right.contiguous()
    to_left, to_right = torch.empty_like(left), torch.zeros_like(right)
    grid = (triton.cdiv(width, BLOCK), batch * height)
    _multiply_back[grid](
        left, right, index.contiguous(), gradient.contiguous(), to_left, to_right, channels, height, width, size,
        count, triton.next_power_of_2(count), BLOCK,
    )  # fmt: skip
    return to_left, to_right
