"""One refinement iteration (paper, section 3.4): motion features, selective GRUs from coarse to fine, and the heads on the finest state.

What it reads comes from `correlation.py` and `context.py`; how its disparity is brought to full size is in `upsample.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.blocks import add
from core.context import Context
from core.winograd import Conv3x3, same_size


class MotionEncoder(nn.Module):
    """The lookup and the disparity it was made at, as `hidden` channels; the last of them is the disparity itself."""

    def __init__(self, *, lookup: int, hidden: int) -> None:
        super().__init__()
        self.lookup1 = nn.Conv2d(lookup, 2 * hidden, 1)
        self.lookup2 = Conv3x3(2 * hidden, 2 * hidden)
        self.disparity1 = nn.Conv2d(1, hidden // 2, 7, padding=3)
        self.disparity2 = nn.Conv2d(hidden // 2, hidden // 2, 3, padding=1)
        self.join = Conv3x3(2 * hidden + hidden // 2, hidden - 1)

    def forward(self, lookup: Tensor, disparity: Tensor) -> Tensor:
        x = F.relu(self.lookup2(F.relu(self.lookup1(lookup))))
        y = F.relu(self.disparity2(F.relu(self.disparity1(disparity))))
        x = F.relu(self.join(torch.cat([x, y], 1)))
        return torch.cat([x, disparity.to(x.dtype)], 1)


class ConvGRU(nn.Module):
    """A GRU whose gates see one prepared tensor and whose candidate sees the state and the input. Update and reset gate in one."""

    def __init__(self, *, hidden: int, inputs: int, kernel: int) -> None:
        super().__init__()
        self.gates = same_size(hidden + inputs, 2 * hidden, kernel)
        self.candidate = same_size(hidden + inputs, hidden, kernel)

    def forward(self, state: Tensor, prepared: Tensor, inputs: Tensor) -> Tensor:
        update, reset = self.gates(prepared).sigmoid().chunk(2, 1)
        candidate = self.candidate(torch.cat([reset * state, inputs], 1)).tanh()
        return torch.lerp(state, candidate, update)


class SelectiveGRU(nn.Module):
    """A GRU with a small and one with a large kernel, mixed by a spatial attention map.

    inputs: channels of all inputs together. The first of them, the context, is the same in every iteration, and a convolution is linear:
    `prepare` computes its share of the first convolution once, and `forward` adds it.
    """

    def __init__(self, *, hidden: int, inputs: int) -> None:
        super().__init__()
        self.prepare_inputs = Conv3x3(inputs, inputs)
        self.prepare_gates = Conv3x3(inputs + hidden, inputs + hidden)
        self.small = ConvGRU(hidden=hidden, inputs=inputs, kernel=1)
        self.large = ConvGRU(hidden=hidden, inputs=inputs, kernel=3)

    def prepare(self, context: Tensor) -> Tensor:
        """(B, hidden, ., .) to what `forward` takes, (B, inputs, ., .)."""
        conv = self.prepare_inputs
        return conv.convolve(context, conv.weight[:, : context.shape[1]], conv.bias)

    def forward(self, state: Tensor, attention: Tensor, prepared: Tensor, *inputs: Tensor) -> Tensor:
        """attention: (B, 1, ., .), 1 where the small kernel decides. inputs: those after the context, concatenated."""
        x = torch.cat(inputs, 1) if len(inputs) > 1 else inputs[0]
        x = F.relu(add(self.prepare_inputs.convolve(x, self.prepare_inputs.weight[:, -x.shape[1] :]), prepared))
        gates = F.relu(self.prepare_gates(torch.cat([x, state], 1)))
        return torch.lerp(self.large(state, gates, x), self.small(state, gates, x), attention)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, then a two-layer perceptron per pixel scaled by a vector that starts near 0, plus the input. No norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.expand = nn.Linear(channels, 4 * channels)
        self.contract = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.scale * self.contract(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


def pool(x: Tensor) -> Tensor:
    """To the next coarser level; zeros outside count in the mean."""
    return F.avg_pool2d(x, 3, stride=2, padding=1)


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


class UpdateBlock(nn.Module):
    """States of 1/4, 1/8, 1/16 (the first `levels` of them) to the next ones, and the change of disparity."""

    def __init__(self, *, lookup: int, hidden: int, levels: int) -> None:
        super().__init__()
        self.motion = MotionEncoder(lookup=lookup, hidden=hidden)
        # Inputs of a level: context, then motion (finest) or the pooled finer state, then the coarser state where there is one.
        self.grus = nn.ModuleList(SelectiveGRU(hidden=hidden, inputs=hidden * (3 if level < levels - 1 else 2)) for level in range(levels))
        self.disparity_head = nn.Sequential(
            Conv3x3(hidden, hidden),
            nn.ReLU(),
            ConvNeXtBlock(hidden),
            ConvNeXtBlock(hidden),
            nn.Conv2d(hidden, 1, 3, padding=1),
        )
        self.mask_head = nn.Sequential(
            nn.Conv2d(hidden, hidden // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden // 2, hidden // 4, 3, padding=1),
            nn.ReLU(),
        )

    def prepare(self, context: Context) -> Context:
        """What `forward` takes: `context` with the share of the first convolutions that is the same in every iteration."""
        shares = [gru.prepare(level) for gru, level in zip(self.grus, context.context, strict=True)]
        return Context(context.hidden, shares, context.attention)

    def forward(self, states: list[Tensor], context: Context, lookup: Tensor, disparity: Tensor) -> tuple[list[Tensor], Tensor]:
        """context: from `prepare`. lookup made at `disparity` (B, 1, h, w). Returns the new states and the change of disparity."""
        states = list(states)
        for level in reversed(range(len(states))):  # the coarsest first; it still sees the old finer state
            inputs = [context.context[level], self.motion(lookup, disparity) if level == 0 else pool(states[level - 1])]
            if level + 1 < len(states):
                inputs.append(enlarge(states[level + 1], states[level]))
            states[level] = self.grus[level](states[level], context.attention[level], *inputs)
        return states, self.disparity_head(states[0])

    def mask_features(self, state: Tensor) -> Tensor:
        """What the upsampling reads: (B, hidden / 4, h, w)."""
        return 0.25 * self.mask_head(state)
