"""FoundationStereo (Wen et al., arXiv:2501.09898), assembled: `forward` is the paper's figure 2.

The parts live in the files they are imported from; pretrained weights of the backbone in `pretrained.py`, inference in `inference.py`.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from core import inference
from core.backbone import Backbone, MonocularPart
from core.blocks import BatchNormPolicy, Width, keep_batch_norm
from core.checkpointing import Level, by_level
from core.context import ContextNetwork
from core.correlation import Implementation, Lookup, lookup_channels, unit
from core.cost_volume import CostVolume, DisparityClassifier, soft_argmin
from core.disparity_transformer import Axis
from core.hourglass import Hourglass
from core.inputs import check_batch_statistics, check_iters, check_pair, check_start
from core.output import StereoOutput
from core.pretrained import freeze_request, load_pretrained
from core.update import UpdateBlock
from core.upsample import Upsampler
from utils.errors import UserError

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB
STD = (0.229, 0.224, 0.225)

Part = Literal["backbone", "context", "volume", "aggregation", "iterations", "upsampling"]
SAVING: dict[Part, Level] = {  # chosen by what each part keeps; README.md of this room says what was measured
    "backbone": "all",
    "context": "cheap",
    "volume": "all",
    "aggregation": "cheap",
    "iterations": "cheap",
    "upsampling": "all",
}


class FoundationStereo(nn.Module):
    """Stereo matching with a monocular prior. The defaults are the published widths; `vit_size` "vitl" is the larger released model.

    Smaller numbers make a smaller network of the same kind: the motion encoder, heads and upsampling follow `hidden_dims`, the
    concatenation part of the volume and the classifier follow `volume_dim`.
    """

    mean: Tensor
    std: Tensor
    multiple = 32  # H and W are multiples of this: the 1/4 volume is halved three times
    padding = 32  # what `infer` pads to
    stride = 4  # of the working grid
    offers = frozenset({"initial", "plane_scores", "plane_correlation"})  # what the output holds beside the disparities
    make_lookup: type = Lookup
    at_once = 4  # iterations that are brought to full size in one call

    def __init__(
        self,
        with_pretrained: bool = True,
        *,
        max_disp: Annotated[
            int, Field(gt=0, description="largest disparity of the initial volume, full-size pixels; multiple of 32")
        ] = 192,
        feature_type: Annotated[
            Literal["dinov2", "cnn"], Field(description="dinov2: side-tuned CNN and ViT; cnn: without the ViT")
        ] = "dinov2",
        vit_size: Annotated[
            Literal["vits", "vitb", "vitl"], Field(description="DINOv2 ViT; vits trains on one card, vitl is the most accurate")
        ] = "vits",
        cnn: Annotated[str, Field(description="timm network with feature maps of strides 4, 8, 16 and 32")] = "edgenext_small",
        correlation_implementation: Annotated[
            Implementation, Field(description="reg stores the correlation of all pairs; alt computes what is looked up")
        ] = "alt",
        corr_levels: Annotated[int, Field(ge=1, le=4, description="levels of the lookup pyramid")] = 2,
        corr_radius: Annotated[int, Field(ge=1, le=16, description="2 r + 1 samples per lookup and level")] = 4,
        corr_groups: Annotated[int, Field(gt=0, description="groups of the group-wise correlation")] = 8,
        n_gru_layers: Annotated[int, Field(ge=1, le=3, description="GRUs: at 1/4; 1/4 and 1/8; 1/4, 1/8 and 1/16")] = 3,
        hidden_dims: Annotated[Sequence[Width], Field(description="width of each GRU, fine to coarse; all equal, multiples of 4")] = (
            128,
            128,
            128,
        ),
        volume_dim: Annotated[int, Field(ge=4, le=1024, description="channels of the cost volume; multiple of 4")] = 28,
        context_dims: Annotated[
            Sequence[Width], Field(min_length=3, max_length=3, description="context network at full, half and quarter resolution")
        ] = (64, 96, 128),
        train_iters: Annotated[int, Field(ge=1, description="refinement iterations in training")] = 22,
        valid_iters: Annotated[int, Field(ge=1, description="refinement iterations in evaluation")] = 32,
        valid_scales: Annotated[
            Sequence[Annotated[float, Field(ge=0.25, le=4)]],
            Field(min_length=1, max_length=4, description="of the pair's size in the passes of `infer`, each started from the one before"),
        ] = (1.0,),
        valid_padding: Annotated[
            inference.Padding, Field(description="`infer` pads on both sides (even, as published), or right and below alone (far)")
        ] = "even",
        initial_reach: Annotated[
            int | None,
            Field(ge=1, description="initial disparity: the mean of so many planes on each side of the likeliest; null: of all planes"),
        ] = None,
        start_cost: Annotated[
            float | None,
            Field(ge=0, description="a given start: a plane's score is so much lower for each plane away from it; null: is not searched"),
        ] = None,
        disparity_attention: Annotated[
            Axis, Field(description="axis of the disparity transformer; heads: as the public code since June 2025")
        ] = "tokens",
        dropout: Annotated[float, Field(ge=0, lt=1, description="in the disparity transformer")] = 0.1,
        pretrained_backbone: Annotated[
            str, Field(description="none, timm, or a DINOv2 or Depth Anything V2 weight file: its path, or hf:owner/name[/file]")
        ] = "none",
        freeze_backbone: Annotated[
            bool | Annotated[Sequence[MonocularPart], Field(min_length=1)] | None,
            Field(description="freeze the monocular branch, or these parts of it; null: those that got pretrained weights"),
        ] = None,
        batch_norm: Annotated[
            BatchNormPolicy, Field(description="in training: train; frozen_statistics: running ones are used; frozen: weights too")
        ] = "train",
        sync_batchnorm: Annotated[bool, Field(description="share batch statistics between processes")] = False,
        checkpointing: Annotated[
            dict[Part, Level] | None,
            Field(description="what gradient checkpointing computes again of each part: none, cheap (all but convolutions), all"),
        ] = None,
    ) -> None:
        """with_pretrained: false when a state dict follows anyway, so that nothing is downloaded or read."""
        super().__init__()
        hidden = _check_widths(max_disp, hidden_dims, n_gru_layers, volume_dim)
        self.max_disp = max_disp
        self.train_iters, self.valid_iters = train_iters, valid_iters
        self.valid_scales, self.valid_padding = tuple(valid_scales), valid_padding
        self.correlation_implementation: Implementation = correlation_implementation
        self.corr_levels, self.corr_radius = corr_levels, corr_radius
        self.initial_reach, self.start_cost = initial_reach, start_cost
        self.sync_batchnorm = sync_batchnorm
        self.batch_norm: BatchNormPolicy = batch_norm

        self.backbone = Backbone(cnn=cnn, vit_size=vit_size if feature_type == "dinov2" else None)
        features = self.backbone.widths[0]
        if features % corr_groups:
            raise UserError(f"model.corr_groups: {corr_groups} does not divide the {features} feature channels of this backbone")
        full, half, quarter = context_dims
        self.context = ContextNetwork(
            dims=(full, half, quarter), monocular=self.backbone.monocular_width, hidden=hidden, levels=n_gru_layers
        )
        self.cost_volume = CostVolume(features=features, groups=corr_groups, concat=volume_dim * 3 // 7, volume=volume_dim)
        self.hourglass = Hourglass(volume_dim, widths=self.backbone.widths, dropout=dropout, axis=disparity_attention)
        self.classifier = DisparityClassifier(volume_dim)
        channels = lookup_channels(volume=volume_dim, levels=corr_levels, radius=corr_radius)
        self.update = UpdateBlock(lookup=channels, hidden=hidden, levels=n_gru_layers)
        self.upsample = Upsampler(hidden // 4)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

        self.saving = SAVING if checkpointing is None else checkpointing
        self.gradient_checkpointing = False
        self.loaded: dict[str, str] = {}  # part of the backbone -> where its pretrained weights came from
        if with_pretrained:
            self.loaded = load_pretrained(self.backbone, pretrained_backbone)
        self.freeze_backbone_(freeze_request(self.backbone, self.loaded, pretrained_backbone, freeze_backbone, with_pretrained))
        self.train()

    @property
    def gradient_checkpointing(self) -> bool:
        """Switchable at any time; no number and no key of the state dict depends on it. What it does to each part: `saving`."""
        return self._gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enabled: bool) -> None:
        self._gradient_checkpointing = enabled
        self.context.checkpointing = self._level("context")
        self.cost_volume.checkpointing = self._level("volume")
        self.hourglass.checkpointing = self.classifier.checkpointing = self._level("aggregation")
        self.backbone.checkpointing = self._level("backbone")
        if self.backbone.monocular is not None:
            self.backbone.monocular.checkpointing = self._level("backbone")

    def _level(self, part: Part) -> Level:
        return self.saving.get(part, "none") if self.gradient_checkpointing else "none"

    @property
    def frozen_parts(self) -> frozenset[str]:
        """Parts of the monocular branch ("vit", "decoder") that are frozen."""
        return self.backbone.monocular.frozen if self.backbone.monocular is not None else frozenset()

    @property
    def units(self) -> list[nn.Module]:
        """The large parts whose parameters nothing reads but their own forward: of a network in shards, whole one after another."""
        monocular = self.backbone.monocular
        return [] if monocular is None else [*monocular.vit.blocks, monocular.decoder]

    def freeze_backbone_(self, parts: frozenset[str] | None = None) -> Self:
        """Freeze these parts of the monocular branch and make its others trainable; both parts when not given.

        For weights that came from elsewhere than `pretrained_backbone`, such as a released checkpoint.
        """
        if self.backbone.monocular is not None:
            self.backbone.monocular.freeze_(frozenset({"vit", "decoder"}) if parts is None else parts)
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode, except where parts are frozen and where `batch_norm` says otherwise."""
        super().train(mode)
        keep_batch_norm(self, self.batch_norm)
        return self

    def forward(self, left: Tensor, right: Tensor, iters: int | None = None, init: Tensor | None = None) -> StereoOutput:
        """Disparity of `left`, refined `iters` times; all iterations in training mode, the last one otherwise.

        left, right: (B, 3, H, W) RGB in [0, 1], H and W multiples of `self.multiple`.
        iters: `train_iters` or `valid_iters` when absent.
        init: (B, 1, h, w) starting disparity in working-size pixels; from the cost volume when absent, and drawn to it with `start_cost`.
        """
        iters = self._check_input(left, right, iters, init)
        # Contiguous: with channels last, PyTorch 2.15's CPU convolutions write outside their memory in the backward pass.
        left, right = (((view - self.mean) / self.std).contiguous() for view in (left, right))

        features, monocular = self.backbone(torch.cat([left, right]))
        left_features = [level.chunk(2)[0] for level in features]
        right_finest = features[0].chunk(2)[1]
        context = self.context(left, None if monocular is None else monocular.chunk(2)[0])

        volume, correlation = self.cost_volume(left_features[0], right_finest, self.max_disp // 4)
        correlation = correlation.mean(1, dtype=torch.promote_types(correlation.dtype, torch.float32))
        volume = self.hourglass(volume, left_features)
        scores, initial = None, init
        if init is None or self.start_cost is not None:
            scores = self.classifier(volume)
            initial = soft_argmin(scores, self.initial_reach, init, self.start_cost)
        lookup = self.make_lookup(
            unit(left_features[0]),
            unit(right_finest),
            volume,
            implementation=self.correlation_implementation,
            levels=self.corr_levels,
            radius=self.corr_radius,
        )
        context = self.update.prepare(context)
        disparity, states = initial, context.hidden
        found: list[tuple[Tensor, Tensor]] = []
        for iteration in range(iters):
            disparity = disparity.detach()  # each iteration answers for its own step only
            states, change = self._checkpointed("iterations", lambda d, s: self.update(s, context, lookup(d), d), disparity, states)
            disparity = disparity + change
            if self.training or iteration == iters - 1:
                found.append((disparity, states[0]))
        disparities = self._to_full_size(found, self.upsample.prepare(left))
        return StereoOutput(disparities, initial, plane_scores=scores, plane_correlation=correlation)

    def infer(
        self, left: np.ndarray, right: np.ndarray, *, iters: int | None = None, hierarchical: bool = False, cascades: int = 1
    ) -> np.ndarray:
        """Disparity of one pair of any size, for people.

        left, right: uint8 (H, W, 3) RGB; torch uint8 (3, H, W) as well. Returns float32 (H, W), full-size pixels, >= 0.
        For large images and disparities, hierarchical: a pass at half size first, whose result the full pass starts from, as
        FoundationStereo's authors do it; cascades: so many passes, each at twice the size of the one before, as CREStereo's do it.
        Without either, at `valid_scales`.
        """
        return inference.infer(self, left, right, iters=iters, hierarchical=hierarchical, cascades=cascades)

    def _to_full_size(self, found: list[tuple[Tensor, Tensor]], prepared: Tensor) -> Tensor:
        """Disparities (B, 1, h, w) and finest states of T iterations to (B, T, H, W), several iterations in one call."""

        def enlarge(disparity: Tensor, state: Tensor) -> Tensor:
            return self.upsample(disparity, self.update.mask_features(state), prepared)

        full_size = []
        for start in range(0, len(found), self.at_once):
            disparity, state = (torch.cat(several) for several in zip(*found[start : start + self.at_once], strict=True))
            full_size.append(self._checkpointed("upsampling", enlarge, disparity, state))
        return torch.cat(full_size).unflatten(0, (len(found), -1)).transpose(0, 1)

    def _checkpointed(self, part: Part, function: Callable[..., Any], *args: Any) -> Any:
        return by_level(self._level(part), function, *args)

    def _check_input(self, left: Tensor, right: Tensor, iters: int | None, init: Tensor | None) -> int:
        check_pair(left, right, self.multiple)
        if self.training and self.batch_norm == "train":
            check_batch_statistics(left, self.multiple)
        check_start(init, left, self.stride)
        return check_iters(iters, self.train_iters if self.training else self.valid_iters)


def _check_widths(max_disp: int, hidden_dims: Sequence[int], n_gru_layers: int, volume_dim: int) -> int:
    """The width of the hidden states, after checks that involve more than one key or more than a range."""
    if max_disp % 32:
        below = max(32, max_disp // 32 * 32)
        raise UserError(f"model.max_disp: {max_disp} is no multiple of 32; nearest: {below}, {below + 32}")
    if len(hidden_dims) < n_gru_layers:
        raise UserError(f"model.hidden_dims: {len(hidden_dims)} widths for n_gru_layers {n_gru_layers}; give one per layer, fine to coarse")
    if len(set(hidden_dims)) > 1:
        raise UserError(
            f"model.hidden_dims: {list(hidden_dims)} differ; the layers share their attention modules, so all widths must be equal"
        )
    if hidden_dims[0] % 4:
        raise UserError(f"model.hidden_dims: {hidden_dims[0]} is no multiple of 4, as the heads and the upsampling need")
    if volume_dim % 4:
        raise UserError(f"model.volume_dim: {volume_dim} is no multiple of 4, the heads of the disparity transformer")
    return hidden_dims[0]
