"""Layers that two or more parts of the networks share, and the two helpers that decide precision.

Nothing here knows about disparity; a layer used in one place only lives in that place.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

Norm = Literal["batch", "instance", "none"]
BatchNormPolicy = Literal["train", "frozen_statistics", "frozen"]
Width = Annotated[int, Field(gt=0, le=4096)]  # channels that a configuration may ask for; beyond, one layer takes gigabytes

SLOPE = 0.01  # of LeakyReLU
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def float32_island(tensor: Tensor) -> torch.autocast:
    """Autocast off on the device of `tensor`: for arithmetic whose numbers need float32. Convert the inputs with `at_least_float32`."""
    return torch.autocast(tensor.device.type, enabled=False)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precisions become float32; float64 stays what it is, so that a model in float64 is one throughout."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def laid_out_like(x: Tensor, volume: Tensor) -> Tensor:
    """`x` (B, C, ., ., .) in memory as `volume` is, channels last or first: arithmetic on two layouts is several times as slow."""
    last = volume.is_contiguous(memory_format=torch.channels_last_3d)
    return x.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


def make_norm(norm: Norm, channels: int, dims: int = 2) -> nn.Module:
    """Instance norm has neither weights nor statistics: it adds nothing to a state dict and is the same in training and evaluation."""
    if norm == "batch":
        return BATCH[dims](channels)
    return INSTANCE[dims](channels) if norm == "instance" else nn.Identity()


def infers_on_cpu(x: Tensor) -> bool:
    """Where shortcuts without gradients are taken. A compiler and an exporter see the layers as they are, and join them as they like."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """norm(conv(x)). On a CPU, where nothing is differentiated, a batch norm that uses its running statistics is folded into the weights
    (Jacob et al. 2018, section 3.2): no pass over the result, which of a volume is a good part of what a convolution takes.

    On a GPU not tried.
    """
    if type(norm) not in BATCH.values() or norm.training or not infers_on_cpu(x):
        return norm(conv(x))
    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, transpose=conv.transposed)
    return functional_call(conv, {"weight": weight, "bias": bias}, (x,))


def add(x: Tensor, other: Tensor) -> Tensor:
    """x + other, in the memory of `x` where nothing is differentiated; `x` has no other reader."""
    return x + other if torch.is_grad_enabled() or x.dtype != other.dtype else x.add_(other)


def keep_batch_norm(model: nn.Module, policy: BatchNormPolicy) -> None:
    """After `model.train()`: what `policy` says of its batch norms. A network calls it in its own `train`."""
    if policy == "train":
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            if policy == "frozen":
                module.requires_grad_(False)


class ConvNormAct(nn.Module):
    """Convolution without bias, norm, LeakyReLU; `transposed` means kernel 4, stride 2: twice the size."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, dims: int = 2, norm: Norm = "batch", transposed: bool = False
    ) -> None:
        super().__init__()
        if transposed:
            self.conv: nn.Module = TRANSPOSED[dims](inputs, outputs, 4, stride=2, padding=1, bias=False)
        else:
            self.conv = CONV[dims](inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = make_norm(norm, outputs, dims)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(conv_norm(x, self.conv, self.norm), SLOPE, inplace=not isinstance(self.norm, nn.Identity))


class BasicBlock(nn.Module):
    """conv3, norm, ReLU, conv3, norm, plus the input, ReLU; widths and size do not change. 2-D or 3-D."""

    def __init__(self, channels: int, *, dims: int, norm: Norm = "batch") -> None:
        super().__init__()
        self.conv1 = CONV[dims](channels, channels, 3, padding=1, bias=False)
        self.norm1 = make_norm(norm, channels, dims)
        self.conv2 = CONV[dims](channels, channels, 3, padding=1, bias=False)
        self.norm2 = make_norm(norm, channels, dims)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(conv_norm(x, self.conv1, self.norm1), inplace=True)
        return F.relu(add(conv_norm(y, self.conv2, self.norm2), x), inplace=True)


class ResidualBlock(nn.Module):
    """RAFT's residual block: a ReLU before the sum and one after it; 1x1 shortcut where stride or width change, or always (`project`).

    Convolutions have a bias, except before an instance norm, which would cancel it.
    """

    def __init__(self, inputs: int, outputs: int, *, norm: Norm, stride: int = 1, project: bool = False) -> None:
        super().__init__()
        bias = norm != "instance"
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)
        self.norm1 = make_norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.norm2 = make_norm(norm, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if project or stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=bias), make_norm(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(conv_norm(x, self.conv1, self.norm1), inplace=True)
        y = F.relu(conv_norm(y, self.conv2, self.norm2), inplace=True)
        return F.relu(self.shortcut(x) + y, inplace=True)


def two_blocks(inputs: int, outputs: int, *, norm: Norm, stride: int = 1, project: bool = False) -> nn.Sequential:
    """A stage of RAFT's networks: the first block changes stride and width."""
    first = ResidualBlock(inputs, outputs, norm=norm, stride=stride, project=project)
    return nn.Sequential(first, ResidualBlock(outputs, outputs, norm=norm, project=project))


class UpConcat(nn.Module):
    """Twice the size (coarse -> skip width), the skip concatenated after it, one residual block: 2 * `skip` channels out."""

    def __init__(self, coarse: int, skip: int) -> None:
        super().__init__()
        self.up = ConvNormAct(coarse, skip, norm="instance", transposed=True)
        self.block = BasicBlock(2 * skip, dims=2, norm="instance")

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        return self.block(torch.cat([self.up(coarse), skip], 1))


class FeatureGate(nn.Module):
    """Scales the channels of a volume, pixel by pixel, with image features of the same resolution."""

    def __init__(self, features: int, volume: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(features, features // 2, kernel=1)
        self.expand = nn.Conv2d(features // 2, volume, 1)

    def forward(self, volume: Tensor, features: Tensor) -> Tensor:
        """volume: (B, V, D, h, w); features: (B, C, h, w)."""
        gate = self.expand(self.reduce(features)).sigmoid()
        return volume * laid_out_like(gate.unsqueeze(2), volume)  # the same for every disparity
