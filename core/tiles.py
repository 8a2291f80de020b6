"""A pair too large for the device, one tile after the other: how it is cut, and how the maps are put together. Padding and passes of
several scales are in `inference`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.output import StereoOutput
from utils.errors import UserError

MAPS = ("disparities", "vertical", "log_variance")  # of a StereoOutput, those of the image's size


@dataclass(frozen=True)
class Tiles:
    """The same window of both views at a time. The device holds what the network needs for one of them, however large the image is.

    size: (width, height) of a tile, rounded down to what the network takes.
    range_px: how far the network looks, at any scale. So many columns at a tile's left edge may lack their partner, and come from the tile
    before.
    overlap_px: of two tiles beyond that. One half, at the edges, is not trusted because a network sees less around it; over the other
    half one tile passes into the next.
    """

    size: tuple[int, int]
    range_px: float
    overlap_px: int = 64

    def __post_init__(self) -> None:
        if self.range_px <= 0 or self.overlap_px < 2:
            raise UserError(
                f"tiles: range {self.range_px:g}, overlap {self.overlap_px}; expected a range above 0 and an overlap of 2 pixels or more"
            )


def run_tiled(
    model: nn.Module, left: Tensor, right: Tensor, tiles: Tiles, *, iters: int | None = None, init: Tensor | None = None
) -> StereoOutput:
    """`model(left, right, iters=iters, init=init)`, tile by tile, the maps of all tiles in place of the whole ones, on the images' device.

    left, right: (B, 3, H, W), H and W multiples of `model.padding`. Tiles lie on the network's own grid: where it sees no farther than
    half the overlap and matches within the range, the result is that of the whole pair.
    """
    grid, stride = int(model.padding), int(model.stride)  # pyright: ignore[reportArgumentType]
    device = next(model.parameters()).device
    height, width = left.shape[-2:]
    columns = windows(width, tiles.size[0], blind=tiles.range_px, overlap=tiles.overlap_px, grid=grid, what="width")
    rows = windows(height, tiles.size[1], blind=0, overlap=tiles.overlap_px, grid=grid, what="height")
    across = [trust(*window, width, blind=tiles.range_px, overlap=tiles.overlap_px) for window in columns]
    down = [trust(*window, height, blind=0, overlap=tiles.overlap_px) for window in rows]
    sums: dict[str, Tensor] = {}
    weights = left.new_zeros(height, width)
    for (top, bottom), row_weight in zip(rows, down, strict=True):
        for (start, end), column_weight in zip(columns, across, strict=True):
            weight = (row_weight[:, None] * column_weight).to(left)
            views = [view[..., top:bottom, start:end].to(device) for view in (left, right)]
            begin = None if init is None else init[..., top // stride : bottom // stride, start // stride : end // stride].to(device)
            output = model(*views, iters=iters, init=begin)
            for name in MAPS:
                if (found := getattr(output, name)) is not None:
                    total = sums.setdefault(name, left.new_zeros(*found.shape[:-2], height, width))
                    total[..., top:bottom, start:end] += weight * found.to(left)
            weights[top:bottom, start:end] += weight
    return StereoOutput(**{name: total / weights for name, total in sums.items()})


def windows(length: int, size: int, *, blind: float, overlap: int, grid: int, what: str) -> list[tuple[int, int]]:
    """(start, end) of the tiles along one side, multiples of `grid`, of one size, the last one at the end; `UserError` for too small ones.

    blind: pixels at the start of a tile that count for nothing. What two tiles share beside these is at least 1.5 times the overlap.
    """
    size = size // grid * grid
    if length <= size:
        return [(0, length)]
    step = int(size - blind - 1.5 * overlap) // grid * grid
    if step < grid:
        least = -(-int(blind + 1.5 * overlap + grid) // grid) * grid
        raise UserError(
            f"tiles: a {what} of {size} leaves nothing of a tile for overlap {overlap}{f' and range {blind:g}' if blind else ''}; "
            f"expected {least} or more, of which tiles twice as large waste half as much"
        )
    return [(start, start + size) for start in [*range(0, length - size, step), length - size]]


def trust(start: int, end: int, length: int, *, blind: float, overlap: int) -> Tensor:
    """(end - start,) how much each pixel of a tile counts, 0 to 1; fully at the image's own borders, where nothing is better."""
    position = torch.arange(end - start, dtype=torch.float64) + 0.5
    half = overlap / 2
    weight = torch.ones_like(position)
    if start > 0:
        weight *= ((position - blind - half) / half).clamp(0, 1)
    if end < length:
        weight *= ((end - start - position - half) / half).clamp(0, 1)
    return weight
