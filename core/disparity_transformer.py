"""The disparity transformer (paper, section 3.2): self-attention along the disparity axis of a coarse volume.

It is the second branch of the hourglass in `hourglass.py`, which adds its output.
"""

from math import log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.blocks import laid_out_like

HEADS = 4
PATCH = 4
LAYERS = 4

Axis = Literal["tokens", "heads"]


def position_code(length: int, like: Tensor) -> Tensor:
    """(length, C) sines in the even channels, cosines in the odd ones. Computed anew each time: nothing to be cast or saved."""
    channels = like.shape[-1]
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    frequency = torch.exp(torch.arange(0, channels, 2, device=like.device, dtype=dtype) * (-log(10000.0) / channels))
    angle = torch.arange(length, device=like.device, dtype=dtype)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).to(like.dtype)


class EncoderLayer(nn.Module):
    """Attention and a feed-forward of the same width, each added and then normalised.

    `axis` says over what is attended: "tokens", the disparity planes, as in the paper and in the public code until June 2025, when
    the released weights were trained; "heads", the heads inside each token, which is what the public code computes since then.
    """

    def __init__(self, channels: int, *, dropout: float, axis: Axis) -> None:
        super().__init__()
        self.axis = axis
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, channels)
        self.contract = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(S, D, C) to the same, S sequences of D tokens."""
        x = self.norm1(x + self.dropout(self._attend(x)))
        y = self.contract(self.dropout(F.gelu(self.expand(x))))
        return self.norm2(x + self.dropout(y))

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).unbind(2)  # each (S, D, heads, C / heads)
        if self.axis == "tokens":
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v)
        if self.axis == "tokens":
            y = y.transpose(1, 2)
        return self.out(y.flatten(2))


class DisparityTransformer(nn.Module):
    """Patches of 4 x 4 x 4, a sequence of D/4 tokens per coarse pixel, four layers, back to the volume's size."""

    def __init__(self, volume: int, *, dropout: float, axis: Axis) -> None:
        super().__init__()
        self.patch = nn.Conv3d(volume, volume, PATCH, stride=PATCH, groups=volume)
        self.norm = nn.BatchNorm3d(volume)
        self.layers = nn.ModuleList(EncoderLayer(volume, dropout=dropout, axis=axis) for _ in range(LAYERS))

    def patches(self, volume: Tensor) -> Tensor:
        """(B, V, D, h, w) to (B, V, D/4, h/4, w/4)."""
        return self.norm(self.patch(volume))

    def attend(self, patches: Tensor) -> Tensor:
        """The layers, on a volume of patches."""
        batch, _, length, height, width = patches.shape
        x = patches.permute(0, 3, 4, 2, 1).flatten(0, 2)  # (B h w, D, C)
        x = x + position_code(length, x)
        for layer in self.layers:
            x = layer(x)
        return x.unflatten(0, (batch, height, width)).permute(0, 4, 3, 1, 2)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, V, D, h, w) to the same."""
        patches = laid_out_like(self.attend(self.patches(volume)), volume)
        return F.interpolate(patches, size=volume.shape[-3:], mode="trilinear", align_corners=False)
