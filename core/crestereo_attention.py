"""Linear attention (Katharopoulos et al., arXiv:2006.16236) in the layer that LoFTR made of it, and its position code; for CREStereo.

The cost grows with the number of tokens and not with its square. Which tokens attend to which is the network's business.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.blocks import at_least_float32, float32_island


def position_encoding(channels: int, height: int, width: int, *, like: Tensor) -> Tensor:
    """(channels, height, width) in groups of four: sine and cosine of the column, then of the row, counted from 1.

    The frequencies are exp(-2 k), k = 0, 1, ...: an integer division in the published formula floors their exponent's factor, which was
    to be a small fraction, to -1. The released weights were trained so.
    """
    frequencies = torch.exp(-2.0 * torch.arange(channels // 4, device=like.device))[:, None]
    columns, rows = (frequencies * torch.arange(1.0, size + 1, device=like.device) for size in (width, height))
    parts = [
        *(wave(columns)[:, None, :].expand(-1, height, -1) for wave in (torch.sin, torch.cos)),
        *(wave(rows)[:, :, None].expand(-1, -1, width) for wave in (torch.sin, torch.cos)),
    ]
    return torch.stack(parts, 1).flatten(0, 1).to(like.dtype)


class LinearAttentionLayer(nn.Module):
    """A message from the source tokens, then two layers on token and message; norms come after, and the token is added last."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.merge = nn.Linear(channels, channels, bias=False)
        self.message_norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(2 * channels, 2 * channels, bias=False)
        self.contract = nn.Linear(2 * channels, channels, bias=False)
        self.output_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x: (B, N, C); source: (B, S, C)."""
        query, key, value = (
            projected.unflatten(2, (self.heads, -1)) for projected in (self.query(x), self.key(source), self.value(source))
        )
        message = self.message_norm(self.merge(linear_attention(query, key, value).flatten(2).to(x.dtype)))
        return x + self.output_norm(self.contract(F.relu(self.expand(torch.cat([x, message], 2)))))


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, N, heads, C), (B, S, heads, C) twice -> (B, N, heads, C). Float32 at least: sums over all tokens."""
    with float32_island(query):
        query, key, value = at_least_float32(query), at_least_float32(key), at_least_float32(value)
        query, key = positive(query), positive(key)
        summary = torch.einsum("bshc,bshd->bhcd", key, value)
        norm = torch.einsum("bnhc,bhc->bnh", query, key.sum(1)) + 1e-6
        return torch.einsum("bnhc,bhcd->bnhd", query, summary) / norm.unsqueeze(3)


def positive(x: Tensor) -> Tensor:
    """elu + 1. Not by torch's elu, of whose gradient torch.compile misjudges how it lies in memory."""
    above = x > 0
    return torch.where(above, x + 1, x.masked_fill(above, 0).exp())
