"""Image features (paper, section 3.1): a monocular ViT with its depth decoder, and the convolutional network tuned at its side.

Where pretrained weights come from is in `pretrained.py`.
"""

from math import ceil
from typing import Any, Literal, NamedTuple

import timm
import torch
from timm.models.edgenext import PositionalEncodingFourier
from torch import Tensor, nn
from torch.nn import functional as F

from core.blocks import ConvNormAct, ResidualBlock, UpConcat, at_least_float32
from core.checkpointing import Level, by_level
from utils.errors import UserError, did_you_mean

STRIDES = [4, 8, 16, 32]
PATCH = 14
TABLE = 37  # patches per side for which DINOv2 stores its position embedding: 518 pixels
STEP = 112  # least common multiple of the patch and 16
LONGEST = 1344  # pixels; the ViT sees larger images reduced

MonocularPart = Literal["vit", "decoder"]


class ViTSettings(NamedTuple):
    """name: in timm; layers: blocks whose outputs are read; widths: of the four maps; fusion: width F of the decoder."""

    name: str
    dim: int
    layers: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    fusion: int


VITS = {
    "vits": ViTSettings("vit_small_patch14_dinov2", 384, (2, 5, 8, 11), (48, 96, 192, 384), 64),
    "vitb": ViTSettings("vit_base_patch14_dinov2", 768, (2, 5, 8, 11), (96, 192, 384, 768), 128),
    "vitl": ViTSettings("vit_large_patch14_dinov2", 1024, (4, 11, 17, 23), (256, 512, 1024, 1024), 256),
}


def vit_size_for(height: int, width: int) -> tuple[int, int]:
    """Image size given to the ViT: sides rounded up to 112, the longer at most 1344. Aspect ratio is kept only up to that rounding."""

    def up(side: float) -> int:
        return ceil(side / STEP) * STEP

    height, width = up(height), up(width)
    if max(height, width) <= LONGEST:
        return height, width
    if height > width:
        return LONGEST, up(width * LONGEST / height)
    return up(height * LONGEST / width), LONGEST


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners aligned, as everywhere in the depth decoder."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """ReLU, conv3, ReLU, conv3, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(F.relu(x)))) + x


class FusionBlock(nn.Module):
    """Adds one finer map to the coarse one and enlarges the sum; the coarsest has nothing to add, hence no `skip`."""

    def __init__(self, channels: int, *, has_skip: bool) -> None:
        super().__init__()
        self.skip = ResidualUnit(channels) if has_skip else None
        self.unit = ResidualUnit(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, finer: Tensor | None, size: tuple[int, int]) -> Tensor:
        if self.skip is not None and finer is not None:
            x = x + self.skip(finer)
        return resize(self.out(self.unit(x)), size)  # a 1x1 convolution commutes with interpolation and is cheaper before it


class DepthDecoder(nn.Module):
    """Depth Anything's decoder (DPT) up to its last feature map; the depth head proper is left out because nobody reads it."""

    def __init__(self, *, dim: int, widths: tuple[int, int, int, int], fusion: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in widths)
        self.rescale = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        self.reduce = nn.ModuleList(nn.Conv2d(width, fusion, 3, padding=1, bias=False) for width in widths)
        self.fuse = nn.ModuleList(FusionBlock(fusion, has_skip=level < 3) for level in range(4))  # fine to coarse
        self.head = nn.Conv2d(fusion, fusion // 2, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """maps: four (B, dim, ph, pw), early to late block. Returns (B, F/2, 14 ph, 14 pw)."""
        height, width = maps[0].shape[-2:]
        fine_to_coarse = [
            reduce(rescale(project(x))) for x, project, rescale, reduce in zip(maps, self.project, self.rescale, self.reduce, strict=True)
        ]
        x = fine_to_coarse[3]
        for level in (3, 2, 1, 0):
            size = fine_to_coarse[level - 1].shape[-2:] if level else (8 * height, 8 * width)
            x = self.fuse[level](x, fine_to_coarse[level] if level < 3 else None, size)
        return resize(self.head(x), (PATCH * height, PATCH * width))


class MonocularBranch(nn.Module):
    """DINOv2, as timm builds it, and the depth decoder.

    Parts named in `frozen` run without a graph and in evaluation mode, and cost no activation memory.
    """

    def __init__(self, size: str) -> None:
        super().__init__()
        settings = VITS[size]
        self.size = size
        self.layers = settings.layers
        self.width = settings.fusion // 2
        self.vit: Any = timm.create_model(settings.name, pretrained=False, num_classes=0, img_size=PATCH * TABLE)
        self.decoder = DepthDecoder(dim=settings.dim, widths=settings.widths, fusion=settings.fusion)
        self.frozen: frozenset[str] = frozenset()
        self.checkpointing: Level = "none"

    def freeze_(self, parts: frozenset[str]) -> None:
        """Freeze exactly `parts` (of "vit", "decoder") and make the others trainable."""
        assert parts <= {"vit", "decoder"}, parts
        self.frozen = parts
        for name, part in self.named_children():
            part.requires_grad_(name not in parts)
        self.train(self.training)

    def train(self, mode: bool = True) -> "MonocularBranch":
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised, to (B, F/2, H/4, W/4)."""
        height, width = images.shape[-2:]
        size = vit_size_for(height, width)
        with torch.set_grad_enabled(torch.is_grad_enabled() and "vit" not in self.frozen):
            maps = self._tokens(F.interpolate(images, size=size, mode="bicubic", align_corners=False))
        with torch.set_grad_enabled(torch.is_grad_enabled() and "decoder" not in self.frozen):
            return resize(self.decoder(maps), (height // 4, width // 4))

    def _tokens(self, images: Tensor) -> list[Tensor]:
        """(B, 3, 14 ph, 14 pw) to the four read maps (B, dim, ph, pw)."""
        vit = self.vit
        x = vit.patch_embed.proj(images)
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([vit.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = x + self._position(height, width)
        maps = []
        for index, block in enumerate(vit.blocks):
            x = by_level(self.checkpointing, block, x, modules=(block,))
            if index in self.layers:
                maps.append(vit.norm(x)[:, 1:].transpose(1, 2).unflatten(2, (height, width)))
            if index == self.layers[-1]:
                break
        return maps

    def _position(self, height: int, width: int) -> Tensor:
        """The stored table resized to the patch grid, by DINOv2's rule.

        The sampling grid uses the scale (n + 0.1) / 37 and not n / 37; only a grid of exactly 37 x 37 is taken as stored.
        """
        table = self.vit.pos_embed
        if height == width == TABLE:
            return table
        patches = at_least_float32(table[:, 1:]).transpose(1, 2).unflatten(2, (TABLE, TABLE))
        scale = ((height + 0.1) / TABLE, (width + 0.1) / TABLE)
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic", align_corners=False, recompute_scale_factor=False)
        assert patches.shape[-2:] == (height, width)
        return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2).to(table.dtype)], 1)


def make_cnn(name: str) -> tuple[Any, list[int]]:
    """A timm network cut down to its feature maps of strides 4, 8, 16 and 32; classifier and all that follows the last map are absent.

    Returns it and the indices of those maps, by which timm builds it again.
    """
    if name not in timm.list_models():
        raise UserError(f"model.cnn: timm has no network '{name}'{did_you_mean(name, timm.list_models())[:200]}")
    try:
        cnn: Any = timm.create_model(name, pretrained=False, features_only=True)
        strides = cnn.feature_info.reduction()
        indices = [index for index, stride in enumerate(strides) if stride in STRIDES]
        if strides != STRIDES and [strides[index] for index in indices] == STRIDES:
            cnn = timm.create_model(name, pretrained=False, features_only=True, out_indices=indices)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise UserError(f"model.cnn: '{name}' gives no feature maps ({error}); take e.g. edgenext_small") from None
    if cnn.feature_info.reduction() != STRIDES or str(getattr(cnn, "output_fmt", "NCHW")).endswith("NHWC"):
        found = cnn.feature_info.reduction()
        raise UserError(f"model.cnn: '{name}' has maps of strides {found}; needed: 4, 8, 16, 32, channels first, as edgenext_small has")
    return cnn, indices


class PositionCode(PositionalEncodingFourier):
    """EdgeNeXt's, to the bit, made where it is read: timm makes a mask on the host, and every forward pass waits for its copy."""

    def forward(self, shape: tuple[int, int, int]) -> Tensor:
        """shape: (B, h, w). Returns (B, dim, h, w)."""
        weight = self.token_projection.weight
        rows, columns = (self._waves(size, weight.device) for size in shape[1:])
        waves = torch.cat([rows[:, None].expand(*shape, -1), columns.expand(*shape, -1)], 3)
        return self.token_projection(waves.permute(0, 3, 1, 2).to(weight.dtype))

    def _waves(self, size: int, device: torch.device) -> Tensor:
        """(size, hidden): sine and cosine of each frequency in turn."""
        period = self.temperature ** (2 * torch.arange(self.hidden_dim // 2, device=device) / self.hidden_dim)
        place = torch.arange(1.0, size + 1, device=device)
        angle = (place / (place[-1] + 1e-6) * self.scale)[:, None] / period
        return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


class Backbone(nn.Module):
    """Features of both views: (C4 at 1/4, 2 c8 at 1/8, 2 c16 at 1/16, c32 at 1/32), c being the widths of the CNN, C4 = 2 c4 + F/2."""

    def __init__(self, *, cnn: str, vit_size: str | None) -> None:
        super().__init__()
        self.monocular = MonocularBranch(vit_size) if vit_size else None
        self.cnn_name = cnn
        self.cnn, self.cnn_indices = make_cnn(cnn)
        for module in self.cnn.modules():
            if type(module) is PositionalEncodingFourier:
                module.__class__ = PositionCode
        c4, c8, c16, c32 = self.cnn.feature_info.channels()
        self.up16 = UpConcat(c32, c16)
        self.up8 = UpConcat(2 * c16, c8)
        self.up4 = UpConcat(2 * c8, c4)
        self.monocular_width = self.monocular.width if self.monocular else 0
        finest = 2 * c4 + self.monocular_width
        self.fuse = nn.Sequential(
            ConvNormAct(finest, finest, norm="instance"),
            ResidualBlock(finest, finest, norm="instance"),
            ResidualBlock(finest, finest, norm="instance"),
        )
        self.widths = (finest, 2 * c8, 2 * c16, c32)
        self.checkpointing: Level = "none"

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """(B, 3, H, W), normalised, to four maps fine to coarse and the monocular feature (B, F/2, h, w), None without a ViT."""
        x4, x8, x16, x32 = by_level(self.checkpointing, self.cnn, images, modules=(self.cnn,))
        x16 = self.up16(x32, x16)
        x8 = self.up8(x16, x8)
        x4 = self.up4(x8, x4)
        monocular = None
        if self.monocular is not None:
            monocular = self.monocular(images)
            x4 = torch.cat([x4, monocular.to(x4.dtype)], 1)
        return [by_level(self.checkpointing, self.fuse, x4), x8, x16, x32], monocular
