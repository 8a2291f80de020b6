"""3 x 3 convolutions of many channels by Winograd's minimal filtering (Lavin & Gray 2016, section 4.3), where a CPU infers in float32.

Four by four results come of six by six inputs with 36 products in place of 144, and of large matrices that is worth the transforms. Errors
are some four times those of the plain sum.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.blocks import infers_on_cpu

RESULTS, INPUTS = 4, 6  # side of a tile of results, and of the inputs that it is made of
POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5))  # and infinity: of those tried, the ones with the least error
PAYS = (2**14, 2**10)  # from so many channels in times channels out, and pixels, on
WORK = 2**22  # numbers that are transformed at a time: what glibc takes from its heap, not anew from the system


class Conv3x3(nn.Conv2d):
    """A 3 x 3 convolution with padding 1, computed by tiles where that pays."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, C, H, W) by any weight (K, C, 3, 3), such as a part of this convolution's: (B, K, H, W)."""
        return by_tiles(x, weight, bias) if self.pays(x, weight) else F.conv2d(x, weight, bias, padding=1)

    def pays(self, x: Tensor, weight: Tensor) -> bool:
        """Not with gradients, whose convolutions gain nothing, and in float32 alone."""
        large = weight[..., 0, 0].numel() >= PAYS[0] and x[0, 0].numel() >= PAYS[1]
        return large and infers_on_cpu(x) and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def same_size(inputs: int, outputs: int, kernel: int | tuple[int, int]) -> nn.Conv2d:
    """A convolution of any kernel, odd in both directions, with as much padding as keeps the size."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    if (height, width) == (3, 3):
        return Conv3x3(inputs, outputs)
    return nn.Conv2d(inputs, outputs, (height, width), padding=(height // 2, width // 2))


def by_tiles(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.conv2d(x, weight, bias, padding=1). x: (B, C, H, W); weight: (K, C, 3, 3); bias: (K)."""
    of_input, of_filter, back = (x.new_tensor(matrix) for matrix in transforms())
    batch, channels, height, width = x.shape
    rows, columns = -(-height // RESULTS), -(-width // RESULTS)
    x = F.pad(x, (1, 1 + RESULTS * columns - width, 1, 1 + RESULTS * rows - height))
    tiles = x.unfold(2, INPUTS, RESULTS).unfold(3, INPUTS, RESULTS).permute(0, 4, 5, 1, 2, 3)  # (B, 6, 6, C, rows, columns)
    filters = (of_filter @ weight.permute(2, 3, 0, 1).reshape(9, -1)).unflatten(1, weight.shape[:2])  # (36, K, C)
    out = x.new_empty(batch, len(weight), rows, RESULTS, columns, RESULTS)
    at_once = max(1, WORK // (INPUTS**2 * max(weight.shape[:2]) * columns))
    for image, result in zip(tiles, out, strict=True):
        for part, place in zip(image.split(at_once, -2), result.split(at_once, 1), strict=True):
            products = filters @ (of_input @ part.reshape(INPUTS**2, -1)).unflatten(1, (channels, -1))  # (36, K, tiles)
            sums = (back @ products.flatten(1)).view(RESULTS, RESULTS, -1, part.shape[-2], columns).permute(2, 3, 0, 4, 1)
            place.copy_(sums if bias is None else sums + bias.view(-1, 1, 1, 1, 1))
    return out.flatten(4, 5).flatten(2, 3)[..., :height, :width].contiguous()


@cache
def transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a tile of inputs (36, 36), of a filter (36, 9), and back to results (16, 36): Toom and Cook's algorithm in both directions."""
    inputs, filters, results = np.zeros((INPUTS, INPUTS)), np.zeros((INPUTS, 3)), np.zeros((RESULTS, INPUTS))
    for j, point in enumerate(POINTS):
        others = [other for other in POINTS if other != point]
        inputs[j, :-1] = np.poly(others)[::-1]
        filters[j] = point ** np.arange(3) / np.prod([point - other for other in others])
        results[:, j] = point ** np.arange(RESULTS)
    inputs[-1], filters[-1, -1], results[-1, -1] = np.poly(POINTS)[::-1], 1, 1
    return np.kron(inputs, inputs), np.kron(filters, filters), np.kron(results, results)
