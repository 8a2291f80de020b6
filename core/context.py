"""Context of the left image (paper, section 3.4): the first hidden states of the refinement and what it reads in every iteration.

The refinement itself is in `update.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.blocks import ConvNormAct, ResidualBlock, conv_norm, two_blocks
from core.checkpointing import Level, by_level


class Context(NamedTuple):
    """Lists over the levels 1/4, 1/8, 1/16. hidden, context: (B, hidden, ., .); attention: (B, 1, ., .) weight of the small GRU."""

    hidden: list[Tensor]
    context: list[Tensor]
    attention: list[Tensor]


class ChannelAttention(nn.Module):
    """Weights per channel from the global average and the global maximum, both through the same two layers."""

    REDUCED = 8  # whatever the width: fewer units behind one ReLU can all die

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, self.REDUCED, 1, bias=False)
        self.expand = nn.Conv2d(self.REDUCED, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        average, highest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return (self.expand(F.relu(self.reduce(average))) + self.expand(F.relu(self.reduce(highest)))).sigmoid()


class SpatialAttention(nn.Module):
    """One weight per pixel from the mean and the maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


class ContextNetwork(nn.Module):
    """Residual network on the left image at full, half and quarter resolution; joined there by the monocular feature.

    dims: widths at those three resolutions; the coarser levels keep the last. hidden: width of every level's outputs; the two
    attentions are one module each for all levels, which is why all levels have the same width.
    """

    def __init__(self, *, dims: tuple[int, int, int], monocular: int, hidden: int, levels: int) -> None:
        super().__init__()
        full, half, quarter = dims
        self.conv = nn.Conv2d(3, full, 7, padding=3)
        self.norm = nn.BatchNorm2d(full)
        strides = ((full, full, 1), (full, half, 2), (half, quarter, 2))
        self.stages = nn.ModuleList(two_blocks(inputs, outputs, norm="batch", stride=stride) for inputs, outputs, stride in strides)
        self.fuse = ConvNormAct(quarter + monocular, quarter)
        self.down = nn.ModuleList(two_blocks(quarter, quarter, norm="batch", stride=2) for _ in range(levels - 1))
        self.hidden = nn.ModuleList(self._head(quarter, hidden, level) for level in range(levels))
        self.context = nn.ModuleList(self._head(quarter, hidden, level) for level in range(levels))
        self.channel_attention = ChannelAttention(hidden)
        self.spatial_attention = SpatialAttention()
        self.checkpointing: Level = "none"

    @staticmethod
    def _head(inputs: int, outputs: int, level: int) -> nn.Sequential:
        """Levels 1/4 and 1/8 have a residual block of their own, 1/16 has not."""
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        return nn.Sequential(ResidualBlock(inputs, inputs, norm="batch"), conv) if level < 2 else nn.Sequential(conv)

    def forward(self, image: Tensor, monocular: Tensor | None) -> Context:
        """image: (B, 3, H, W), normalised; monocular: (B, F/2, h, w) or None for a network without it."""
        x = self._run(lambda x: F.relu(conv_norm(x, self.conv, self.norm), inplace=True), image, self.norm)
        for block in (block for stage in self.stages for block in stage):
            x = self._run(block, x, block)
        if monocular is not None:
            x = torch.cat([x, monocular.to(x.dtype)], 1)
        levels = [self.fuse(x)]
        for down in self.down:
            levels.append(down(levels[-1]))
        hidden = [head(x).tanh() for head, x in zip(self.hidden, levels, strict=True)]
        context = [F.relu(head(x)) for head, x in zip(self.context, levels, strict=True)]
        context = [self.channel_attention(x) * x for x in context]
        return Context(hidden, context, [self.spatial_attention(x) for x in context])

    def _run(self, function: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module) -> Tensor:
        return by_level(self.checkpointing, function, x, modules=(module,))
