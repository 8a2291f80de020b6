"""Aggregation of the cost volume (paper, section 3.2): a 3-D hourglass of axial-planar convolutions, gated by image features.

The transformer that runs beside it is in `disparity_transformer.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.blocks import ConvNormAct, FeatureGate, conv_norm
from core.checkpointing import Level, by_level
from core.disparity_transformer import Axis, DisparityTransformer

ALONG_DISPARITY = 17


class AxialConv(nn.Conv3d):
    """A convolution along disparity alone, computed in two dimensions, disparity and all pixels in a row: the same numbers.

    On a CPU this is three times faster; and in bf16 the three-dimensional kernel's backward pass reads and writes outside its memory
    where there are fewer planes than taps (PyTorch 2.15 with oneDNN): gradients of 1e37, NaN, or an abort.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, (ALONG_DISPARITY, 1, 1), padding=(ALONG_DISPARITY // 2, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, h, w) to the same."""
        flat = x.movedim(1, -1).flatten(2, 3).movedim(-1, 1)  # through channels last, so that a volume laid out so is seen as such
        flat = F.conv2d(flat, self.weight.squeeze(-1), self.bias, padding=(ALONG_DISPARITY // 2, 0))
        return flat.movedim(1, -1).unflatten(2, x.shape[3:]).movedim(-1, 1)


class AxialPlanar(nn.Module):
    """A 3x3 convolution over the image, then one of length 17 over disparity: the reach of a large kernel at a small price."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.planar = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))
        self.norm1 = nn.BatchNorm3d(channels)
        self.axial = AxialConv(channels)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(conv_norm(x, self.planar, self.norm1), inplace=True)
        return F.relu(conv_norm(x, self.axial, self.norm2), inplace=True)


def down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(inputs, outputs, dims=3, stride=2), AxialPlanar(outputs))


def up(inputs: int, outputs: int) -> ConvNormAct:
    return ConvNormAct(inputs, outputs, dims=3, transposed=True)


def merge(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(inputs, outputs, dims=3, kernel=1), AxialPlanar(outputs), AxialPlanar(outputs))


class Hourglass(nn.Module):
    """(B, V, D, h, w) to the same. Names say the image resolution that a layer works at or arrives at."""

    def __init__(self, volume: int, *, widths: tuple[int, int, int, int], dropout: float, axis: Axis) -> None:
        super().__init__()
        _, c8, c16, c32 = widths
        v4, v8, v16, v32 = volume, 2 * volume, 4 * volume, 6 * volume
        self.down8, self.gate8 = down(v4, v8), FeatureGate(c8, v8)
        self.down16, self.gate16 = down(v8, v16), FeatureGate(c16, v16)
        self.down32, self.gate32 = down(v16, v32), FeatureGate(c32, v32)
        self.up16, self.merge16, self.gate_merged16 = up(v32, v16), merge(2 * v16, v16), FeatureGate(c16, v16)
        self.up8, self.merge8, self.gate_merged8 = up(v16, v8), merge(2 * v8, v8), FeatureGate(c8, v8)
        self.up4 = up(v8, v4)
        self.transformer = DisparityTransformer(volume, dropout=dropout, axis=axis)
        self.out = nn.Sequential(AxialPlanar(v4), AxialPlanar(v4))
        self.checkpointing: Level = "none"

    def forward(self, volume: Tensor, features: list[Tensor]) -> Tensor:
        """features: of the left image at 1/4, 1/8, 1/16, 1/32."""
        _, f8, f16, f32 = features
        x8 = self._run(volume, self.down8, self.gate8, f8)
        x16 = self._run(x8, self.down16, self.gate16, f16)
        x32 = self._run(x16, self.down32, self.gate32, f32)
        x16 = self._run(torch.cat([self._run(x32, self.up16), x16], 1), self.merge16, self.gate_merged16, f16)
        x8 = self._run(torch.cat([self._run(x16, self.up8), x8], 1), self.merge8, self.gate_merged8, f8)
        x = self._run(x8, self.up4) + self._run(volume, self.transformer)
        for layer in self.out:
            x = self._run(x, layer)
        return x

    def _run(self, x: Tensor, layers: nn.Module, gate: FeatureGate | None = None, features: Tensor | None = None) -> Tensor:
        """Each call is computed again by itself, so that no more than one layer's intermediate results are there at once."""

        def run(x: Tensor) -> Tensor:
            x = layers(x)
            return x if gate is None else gate(x, features)

        return by_level(self.checkpointing, run, x, modules=(layers,) if gate is None else (layers, gate))
