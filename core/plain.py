"""The published way to compute each part that `core` computes faster: slow, obvious, and the same numbers from the same state dict.

For equality tests and for the benchmark, which measures every win against its twin. No run uses this, and nothing here is fast.
What the published network does is known from descriptions of it; no line is theirs.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.backbone import DepthDecoder
from core.blocks import at_least_float32, float32_island
from core.context import Context
from core.correlation import Implementation
from core.cost_volume import CostVolume, DisparityClassifier, Stem
from core.foundation_stereo import FoundationStereo
from core.hourglass import AxialConv
from core.update import ConvGRU, SelectiveGRU, UpdateBlock
from core.upsample import Upsampler, convex_upsample
from core.winograd import Conv3x3


def group_correlation(left: Tensor, right: Tensor, *, groups: int, planes: int) -> Tensor:
    """As `cost_volume.group_correlation`: plane by plane, both sides normalised anew for each."""
    batch, channels, height, width = left.shape
    split = (batch, groups, channels // groups, height, -1)
    out = left.new_zeros(batch, groups, planes, height, width)
    with float32_island(left):
        for d in range(min(planes, width)):
            here = F.normalize(at_least_float32(left[..., d:]).reshape(split), dim=2, eps=1e-12)
            there = F.normalize(at_least_float32(right[..., : width - d]).reshape(split), dim=2, eps=1e-12)
            out[:, :, d, :, d:] = (here * there).sum(2)
    return out


def concatenation(left: Tensor, right: Tensor, planes: int) -> Tensor:
    """Two projected maps (B, C, h, w) to (B, 2 C, D, h, w), plane by plane."""
    batch, channels, height, width = left.shape
    out = left.new_zeros(batch, 2 * channels, planes, height, width)
    for d in range(planes):
        out[:, :channels, d] = left
        if d < width:
            out[:, channels:, d, :, d:] = right[..., : width - d]
    return out


def sample_rows(rows: Tensor, position: Tensor) -> Tensor:
    """(N, C, 1, S) read at (N, K) by a bilinear image sampler, a row being an image of height 1; zero outside: (N, C, K)."""
    size = rows.shape[-1]
    x = 2 * position / (size - 1) - 1
    grid = torch.stack([x, torch.zeros_like(x)], -1).unsqueeze(1)  # (N, 1, K, 2)
    assert torch.unique(grid[..., 1]).numel() == 1  # looked at on the host, as the published one does
    return F.grid_sample(rows, grid, mode="bilinear", padding_mode="zeros", align_corners=True).squeeze(2)


class PlainLookup:
    """As `correlation.Lookup`: pyramids of volume and of all pairs are stored, and sampled as images of one row."""

    def __init__(self, left: Tensor, right: Tensor, volume: Tensor, *, implementation: Implementation, levels: int, radius: int) -> None:
        """As the fast one; `implementation` makes no difference."""
        self.levels, self.offsets = levels, torch.arange(-radius, radius + 1, device=left.device)
        with float32_island(left):
            left, right, volume = at_least_float32(left), at_least_float32(right), at_least_float32(volume)
            pairs = torch.einsum("bchx,bchs->bhxs", left, right)
            geometry = volume.permute(0, 3, 4, 1, 2)  # (B, h, w, V, D)
            self.geometry = [geometry.reshape(-1, volume.shape[1], 1, volume.shape[2])]
            self.pairs = [pairs.reshape(-1, 1, 1, pairs.shape[-1])]
            for pyramid in (self.geometry, self.pairs):
                for _ in range(levels - 1):
                    pyramid.append(F.avg_pool2d(pyramid[-1], (1, 2), stride=(1, 2)))
            self.columns = torch.arange(left.shape[-1], device=left.device, dtype=left.dtype)

    def __call__(self, disparity: Tensor) -> Tensor:
        """As the fast one."""
        batch, _, height, width = disparity.shape
        with float32_island(disparity):
            disparity = at_least_float32(disparity).detach().squeeze(1)
            samples = []
            for level in range(self.levels):
                for rows, position in ((self.geometry[level], disparity), (self.pairs[level], self.columns - disparity)):
                    found = sample_rows(rows, position.reshape(-1, 1) / 2**level + self.offsets)
                    samples.append(found.reshape(batch, height, width, -1))
            return torch.cat(samples, -1).permute(0, 3, 1, 2).contiguous()


class PlainCostVolume(CostVolume):
    """Correlation and concatenation plane by plane, and the first layer as the three-dimensional convolution that it is."""

    def forward(self, left: Tensor, right: Tensor, planes: int) -> tuple[Tensor, Tensor]:
        correlation = group_correlation(left, right, groups=self.groups, planes=planes)
        sides = concatenation(self.project(left), self.project(right), planes)
        volume = nn.Sequential.forward(self.stem, torch.cat([correlation, sides.to(correlation.dtype)], 1))
        return self.gate(volume, left), correlation


class PlainAxialConv(AxialConv):
    """In three dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.Conv3d.forward(self, x)


class PlainClassifier(DisparityClassifier):
    """The last convolution in three dimensions."""

    def forward(self, volume: Tensor) -> Tensor:
        return at_least_float32(self.score(self.block(self.conv(volume))).squeeze(1))


class PlainDepthDecoder(DepthDecoder):
    """With the last layers of the depth head, whose result nobody reads. Their weights are not ours: any will do for the cost."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        features = super().forward(maps)
        x = F.relu(F.conv2d(features, features.new_zeros(32, features.shape[1], 3, 3), padding=1))
        F.relu(F.conv2d(x, x.new_zeros(1, 32, 1, 1)))
        return features


class PlainConvGRU(ConvGRU):
    """A convolution for each gate."""

    def forward(self, state: Tensor, prepared: Tensor, inputs: Tensor) -> Tensor:
        gates = zip(self.gates.weight.chunk(2), self.gates.bias.chunk(2), strict=True)
        update, reset = (F.conv2d(prepared, weight, bias, padding=weight.shape[-1] // 2).sigmoid() for weight, bias in gates)
        candidate = self.candidate(torch.cat([reset * state, inputs], 1)).tanh()
        return (1 - update) * state + update * candidate


class PlainSelectiveGRU(SelectiveGRU):
    """All inputs, the context among them, are concatenated in every iteration."""

    def prepare(self, context: Tensor) -> Tensor:
        return context

    def forward(self, state: Tensor, attention: Tensor, prepared: Tensor, *inputs: Tensor) -> Tensor:
        x = F.relu(self.prepare_inputs(torch.cat([prepared, *inputs], 1)))
        gates = F.relu(self.prepare_gates(torch.cat([x, state], 1)))
        return self.small(state, gates, x) * attention + self.large(state, gates, x) * (1 - attention)


class PlainUpsampler(Upsampler):
    """The image's features are concatenated in every iteration."""

    def prepare(self, image: Tensor) -> Tensor:
        return self.image(image)

    def forward(self, disparity: Tensor, mask_features: Tensor, prepared: Tensor) -> Tensor:
        scores = self.weights(self.join(torch.cat([self.up(mask_features), prepared], 1)))
        with float32_island(scores):
            return convex_upsample(at_least_float32(disparity), at_least_float32(scores).softmax(1))


class PlainUpdateBlock(UpdateBlock):
    """With the mask branch in evaluation too, where only that of the last iteration is read."""

    def forward(self, states: list[Tensor], context: Context, lookup: Tensor, disparity: Tensor) -> tuple[list[Tensor], Tensor]:
        states, change = super().forward(states, context, lookup, disparity)
        if not self.training:
            self.mask_features(states[0])
        return states, change


class PlainBatchNorm2d(nn.BatchNorm2d):
    """A pass of its own, which `blocks.conv_norm` folds into no convolution."""


class PlainBatchNorm3d(nn.BatchNorm3d):
    """As `PlainBatchNorm2d`."""


class PlainConv3x3(Conv3x3):
    """The sum of nine products."""

    def pays(self, x: Tensor, weight: Tensor) -> bool:
        return False


class ContiguousStem(Stem):
    """The volume with channels first in memory."""

    def join(self, correlation: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return super().join(correlation, left, right).contiguous()


TWINS: dict[str, dict[type[nn.Module], type[nn.Module]]] = {
    "layout": {Stem: ContiguousStem},
    "volume": {CostVolume: PlainCostVolume},
    "axial": {AxialConv: PlainAxialConv},
    "folding": {nn.BatchNorm2d: PlainBatchNorm2d, nn.BatchNorm3d: PlainBatchNorm3d},
    "classifier": {DisparityClassifier: PlainClassifier},
    "lookup": {},
    "gru": {ConvGRU: PlainConvGRU, SelectiveGRU: PlainSelectiveGRU},
    "winograd": {Conv3x3: PlainConv3x3},
    "upsampling": {Upsampler: PlainUpsampler},
    "unread": {DepthDecoder: PlainDepthDecoder, UpdateBlock: PlainUpdateBlock},
}
"""Part -> the class that computes it fast, and its plain twin."""


def make_plain(network: FoundationStereo, parts: Collection[str] = tuple(TWINS)) -> FoundationStereo:
    """`network` itself, with `parts` of it computed in the plain way from now on; its state dict stays what it is."""
    assert set(parts) <= TWINS.keys(), parts
    for part in parts:
        for module in network.modules():
            if type(module) in TWINS[part]:
                module.__class__ = TWINS[part][type(module)]
    if "lookup" in parts:
        network.make_lookup = PlainLookup
    if "upsampling" in parts:
        network.at_once = 1
    return network
