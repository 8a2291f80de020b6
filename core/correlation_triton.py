"""The lookup of `correlation.py` as a kernel for a GPU, by Triton: volume, products and interpolation of a level in one launch.

The same interface, which the vectorised forms there are twins of. Imported only where there is a GPU and Triton, by
`correlation.forms_for`. These kernels have been compiled for a GPU and run by Triton's interpreter, and on no GPU yet: that is why they are
believed only after they have given the numbers of their twins on the device at hand.
"""

from typing import Any

import triton
from torch import Tensor
from triton import language as tl

from core.correlation import Sources

BLOCK = 64  # pixels of one program


@triton.jit
def _pixels(height, width, BLOCK: tl.constexpr):  # pyright: ignore
    pixels, pixel = height * width, tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return tl.program_id(1).to(tl.int64), pixels, pixel, pixel < pixels


@triton.jit
def _around(position, batch, pixels, pixel, there, scale, size, RADIUS: tl.constexpr):  # pyright: ignore
    at = tl.load(position + batch * pixels + pixel, mask=there, other=0.0) * scale
    floor = tl.floor(at)
    whole = tl.minimum(tl.maximum(floor, -RADIUS - 2.0), size + RADIUS + 1.0)  # far outside is all the same
    return whole.to(tl.int32) - RADIUS, at - floor


@triton.jit
def _look(  # pyright: ignore
    rows, left, right, plane, column, out, height, width, planes, columns, out_channels, scale,
    VOLUME: tl.constexpr, VOLUME_PADDED: tl.constexpr, CHANNELS: tl.constexpr,
    RADIUS: tl.constexpr, SAMPLES: tl.constexpr, SAMPLES_PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch, pixels, pixel, there = _pixels(height, width, BLOCK)
    out += batch * out_channels * pixels
    if VOLUME > 0:
        first, fraction = _around(plane, batch, pixels, pixel, there, scale, planes, RADIUS)
        channel = tl.arange(0, VOLUME_PADDED)
        real = there[:, None] & (channel < VOLUME)[None, :]
        low = tl.zeros((BLOCK, VOLUME_PADDED), tl.float32)
        for k in range(SAMPLES + 1):
            at = first + k
            inside = real & ((at >= 0) & (at < planes))[:, None]
            row = (batch * planes + at) * pixels + pixel
            high = tl.load(rows + row[:, None] * VOLUME + channel[None, :], mask=inside, other=0.0)
            place = (channel[None, :] * SAMPLES + k - 1) * pixels + pixel[:, None]
            tl.store(out + place, low + (high - low) * fraction[:, None], mask=real & (k > 0))
            low = high
        out += VOLUME * SAMPLES * pixels
    if CHANNELS > 0:
        first, fraction = _around(column, batch, pixels, pixel, there, scale, columns, RADIUS)
        sample, y = tl.arange(0, SAMPLES_PADDED), pixel // width
        real = there[:, None] & (sample < SAMPLES)[None, :]
        at = first[:, None] + sample[None, :]
        low_inside, high_inside = real & (at >= 0) & (at < columns), real & (at + 1 >= 0) & (at + 1 < columns)
        total = tl.zeros((BLOCK, SAMPLES_PADDED), tl.float32)
        for c in range(CHANNELS):
            one = tl.load(left + (batch * CHANNELS + c) * pixels + pixel, mask=there, other=0.0)
            line = right + ((batch * CHANNELS + c) * height + y[:, None]) * columns + at
            other, next_one = tl.load(line, mask=low_inside, other=0.0), tl.load(line + 1, mask=high_inside, other=0.0)
            total += one[:, None] * (other + (next_one - other) * fraction[:, None])
        tl.store(out + sample[None, :] * pixels + pixel[:, None], total, mask=real)


@triton.jit
def _look_backward(  # pyright: ignore
    left, right, plane, column, gradient, to_rows, to_left, to_right, height, width, planes, columns, out_channels, scale,
    VOLUME: tl.constexpr, VOLUME_PADDED: tl.constexpr, CHANNELS: tl.constexpr,
    RADIUS: tl.constexpr, SAMPLES: tl.constexpr, SAMPLES_PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch, pixels, pixel, there = _pixels(height, width, BLOCK)
    gradient += batch * out_channels * pixels
    if VOLUME > 0:
        first, fraction = _around(plane, batch, pixels, pixel, there, scale, planes, RADIUS)
        channel = tl.arange(0, VOLUME_PADDED)
        real = there[:, None] & (channel < VOLUME)[None, :]
        before = tl.zeros((BLOCK, VOLUME_PADDED), tl.float32)
        for k in range(SAMPLES + 1):
            place = (channel[None, :] * SAMPLES + k) * pixels + pixel[:, None]
            here = tl.load(gradient + place, mask=real & (k < SAMPLES), other=0.0)
            at = first + k
            inside = real & ((at >= 0) & (at < planes))[:, None]
            row = (batch * planes + at) * pixels + pixel
            to = to_rows + row[:, None] * VOLUME + channel[None, :]  # no other program writes there: a pixel reads its own line alone
            tl.store(to, tl.load(to, mask=inside, other=0.0) + here + (before - here) * fraction[:, None], mask=inside)
            before = here
        gradient += VOLUME * SAMPLES * pixels
    if CHANNELS > 0:
        first, fraction = _around(column, batch, pixels, pixel, there, scale, columns, RADIUS)
        value, y = tl.arange(0, SAMPLES_PADDED), pixel // width
        at = first[:, None] + value[None, :]
        inside = there[:, None] & (value <= SAMPLES)[None, :] & (at >= 0) & (at < columns)
        place = gradient + value[None, :] * pixels + pixel[:, None]
        here = tl.load(place, mask=inside & (value < SAMPLES)[None, :], other=0.0)
        before = tl.load(place - pixels, mask=inside & (value > 0)[None, :], other=0.0)
        weight = here + (before - here) * fraction[:, None]
        for c in range(CHANNELS):
            of_left = (batch * CHANNELS + c) * pixels + pixel
            of_right = ((batch * CHANNELS + c) * height + y[:, None]) * columns + at
            one = tl.load(left + of_left, mask=there, other=0.0)
            other = tl.load(right + of_right, mask=inside, other=0.0)
            tl.store(to_left + of_left, tl.load(to_left + of_left, mask=there, other=0.0) + tl.sum(weight * other, 1), mask=there)
            tl.atomic_add(to_right + of_right, weight * one[:, None], mask=inside)


def look(sources: Sources, radius: int, plane: Tensor, column: Tensor) -> Tensor:
    """As `correlation.look`; float32, sources contiguous."""
    plane, column, volume = plane.contiguous(), column.contiguous(), sources.rows[0].shape[-1] if sources.rows else 0
    channels = (volume + len(sources.left)) * (2 * radius + 1)
    out = plane.new_empty(plane.shape[0], sources.levels * channels, *plane.shape[1:])
    for level in range(sources.levels):
        _launch(_look, sources, level, radius, plane, [*_of_level(sources, level, plane), plane, column, out[:, level * channels :]])
    return out


def look_backward(sources: Sources, radius: int, plane: Tensor, column: Tensor, gradient: Tensor, to: Sources) -> None:
    """As `correlation.look_backward`. Sums of the right features' gradients come in any order."""
    plane, column, gradient = plane.contiguous(), column.contiguous(), gradient.contiguous()
    channels = gradient.shape[1] // to.levels
    for level in range(to.levels):
        _, left, right = _of_level(sources, level, plane)
        tensors = [left, right, plane, column, gradient[:, level * channels :], *_of_level(to, level, plane)]
        _launch(_look_backward, sources, level, radius, plane, tensors)


def _of_level(sources: Sources, level: int, absent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A kernel takes a tensor even where it reads none: `absent`."""
    rows, right = (side[level] if side else absent for side in (sources.rows, sources.right))
    return rows, sources.left[0] if sources.left else absent, right


def _launch(kernel: Any, sources: Sources, level: int, radius: int, plane: Tensor, tensors: list[Tensor]) -> None:
    (batch, height, width), samples = plane.shape, 2 * radius + 1
    planes, volume = (sources.rows[level].shape[1], sources.rows[level].shape[4]) if sources.rows else (0, 0)
    columns, channels = (sources.right[level].shape[3], sources.left[0].shape[1]) if sources.left else (0, 0)
    kernel[(triton.cdiv(height * width, BLOCK), batch)](
        *tensors, height, width, planes, columns, sources.levels * (volume + len(sources.left)) * samples, 0.5**level,
        volume, triton.next_power_of_2(max(volume, 1)), channels,
        radius, samples, triton.next_power_of_2(samples + 1), BLOCK,
    )  # fmt: skip
