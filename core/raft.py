"""Parts of RAFT (Teed and Deng, arXiv:2003.12039) that two of its descendants here share, RAFT-Stereo and CREStereo.

How they are put together is in the networks' own files. Flow is (x, y) from the left to the right image, so x is minus the disparity.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.blocks import Norm, at_least_float32, conv_norm, float32_island, make_norm, two_blocks
from core.upsample import convex_upsample
from core.winograd import Conv3x3, same_size


class Trunk(nn.Module):
    """conv7, norm, ReLU, and three stages of two residual blocks.

    widths: of the stages; the convolution has the first. strides: of the convolution, then of the stages.
    project: a 1x1 convolution in every shortcut, also where the identity would do.
    """

    def __init__(self, *, widths: Sequence[int], strides: Sequence[int], norm: Norm, project: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, widths[0], 7, stride=strides[0], padding=3, bias=norm != "instance")
        self.norm = make_norm(norm, widths[0])
        inputs = (widths[0], *widths)
        self.stages = nn.ModuleList(two_blocks(inputs[n], widths[n], norm=norm, stride=strides[n + 1], project=project) for n in range(3))

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(conv_norm(image, self.conv, self.norm), inplace=True)
        for stage in self.stages:
            x = stage(x)
        return x


class MotionEncoder(nn.Module):
    """The lookup and the flow it was made at, as `outputs` channels; the last two of them are the flow itself."""

    def __init__(self, *, lookup: tuple[int, int, int], flow: tuple[int, int], outputs: int) -> None:
        """lookup: channels of the lookup, then widths of its two layers; flow: widths of the flow's two layers."""
        super().__init__()
        self.lookup1 = nn.Conv2d(lookup[0], lookup[1], 1)
        self.lookup2 = Conv3x3(lookup[1], lookup[2])
        self.flow1 = nn.Conv2d(2, flow[0], 7, padding=3)
        self.flow2 = nn.Conv2d(flow[0], flow[1], 3, padding=1)
        self.join = Conv3x3(lookup[2] + flow[1], outputs - 2)

    def forward(self, lookup: Tensor, flow: Tensor) -> Tensor:
        x = F.relu(self.lookup2(F.relu(self.lookup1(lookup), inplace=True)), inplace=True)
        y = F.relu(self.flow2(F.relu(self.flow1(flow), inplace=True)), inplace=True)
        x = F.relu(self.join(torch.cat([x, y], 1)), inplace=True)
        return torch.cat([x, flow.to(x.dtype)], 1)


class ConvGRU(nn.Module):
    """Gates and candidate see the state and the inputs; the update and the reset gate are one convolution."""

    def __init__(self, *, hidden: int, inputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.gates = same_size(hidden + inputs, 2 * hidden, kernel)
        self.candidate = same_size(hidden + inputs, hidden, kernel)

    def forward(self, state: Tensor, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """context: (B, 3 * hidden, ., .), added to the update gate, the reset gate and the candidate before their nonlinearities."""
        gates = self.gates(torch.cat([state, inputs], 1))
        for_gates, for_candidate = (0, 0) if context is None else context.split([gates.shape[1], state.shape[1]], 1)
        update, reset = (gates + for_gates).sigmoid().chunk(2, 1)
        candidate = (self.candidate(torch.cat([reset * state, inputs], 1)) + for_candidate).tanh()
        return (1 - update) * state + update * candidate


def head(hidden: int, outputs: int, kernel: int) -> nn.Sequential:
    """What is read from the state: the change of flow (kernel 3), or the scores of the upsampling (kernel 1)."""
    return nn.Sequential(Conv3x3(hidden, 2 * hidden), nn.ReLU(inplace=True), same_size(2 * hidden, outputs, kernel))


def upsample_flow(flow: Tensor, scores: Tensor, factor: int) -> Tensor:
    """(B, C, h, w) to (B, C, factor * h, factor * w), in pixels of its size; scores: (B, 9 * factor^2, h, w), a quarter of them is used.

    The factor 0.25, which RAFT multiplies its scores with, balances their gradients against those of the flow.
    """
    with float32_island(scores):
        weights = F.pixel_shuffle(0.25 * at_least_float32(scores), factor).softmax(1)
        return torch.stack([convex_upsample(component, weights) for component in at_least_float32(flow).split(1, 1)], 1)


def initialise(network: nn.Module) -> None:
    """Of the feature and context networks: Kaiming, fan-out. The rest of RAFT keeps PyTorch's own initialisation."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
