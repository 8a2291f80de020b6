"""RAFT-Stereo (Lipson, Teed and Deng, arXiv:2109.07547) in all its published variants, assembled: `forward` is the paper's figure 1.

What it shares with another descendant of RAFT is in `raft.py`; the names of its published weights are in `raft_stereo_names.py`.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from core import inference
from core.blocks import BatchNormPolicy, Norm, ResidualBlock, Width, at_least_float32, keep_batch_norm, two_blocks
from core.checkpointing import checkpointed
from core.correlation import Implementation, Lookup, lookup_channels
from core.inputs import check_batch_statistics, check_iters, check_pair, check_start
from core.output import StereoOutput
from core.raft import ConvGRU, MotionEncoder, Trunk, head, initialise, upsample_flow
from core.update import enlarge, pool
from utils.errors import UserError


class Context(NamedTuple):
    """Lists over the levels, fine to coarse. hidden: (B, C, ., .) first states; gates: (B, 3 C, ., .), see `ConvGRU`."""

    hidden: list[Tensor]
    gates: list[Tensor]


class ContextNetwork(nn.Module):
    """First states of the GRUs, and what the left image adds to their gates in every iteration (section 3.3)."""

    def __init__(self, *, trunk: Trunk, width: int, hidden: int, levels: int, norm: Norm) -> None:
        super().__init__()
        self.trunk = trunk
        self.down = nn.ModuleList(two_blocks(width, width, norm=norm, stride=2) for _ in range(levels - 1))
        self.hidden = nn.ModuleList(self._head(width, hidden, level, norm) for level in range(levels))
        self.context = nn.ModuleList(self._head(width, hidden, level, norm) for level in range(levels))
        initialise(self)
        self.gates = nn.ModuleList(nn.Conv2d(hidden, 3 * hidden, 3, padding=1) for _ in range(levels))

    @staticmethod
    def _head(inputs: int, outputs: int, level: int, norm: Norm) -> nn.Sequential:
        """The two finest levels have a residual block of their own."""
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        return nn.Sequential(ResidualBlock(inputs, inputs, norm=norm), conv) if level < 2 else nn.Sequential(conv)

    def forward(self, finest: Tensor) -> Context:
        """finest: `self.trunk(left)`, apart from this call because the right image may share it."""
        levels = [finest]
        for down in self.down:
            levels.append(down(levels[-1]))
        hidden = [head(x).tanh() for head, x in zip(self.hidden, levels, strict=True)]
        context = [F.relu(head(x)) for head, x in zip(self.context, levels, strict=True)]
        return Context(hidden, [gate(x) for gate, x in zip(self.gates, context, strict=True)])


class UpdateBlock(nn.Module):
    """The states of all levels to the next ones, and the change of flow (section 3.3)."""

    def __init__(self, *, lookup: int, hidden: int, levels: int, factor: int, slow_fast: bool) -> None:
        super().__init__()
        half = hidden // 2
        self.motion = MotionEncoder(lookup=(lookup, half, half), flow=(half, half), outputs=hidden)
        # Inputs of a level: motion (finest) or the pooled finer state, then the coarser state where there is one.
        self.grus = nn.ModuleList(
            ConvGRU(hidden=hidden, inputs=hidden * (2 if level < levels - 1 else 1), kernel=(3, 3)) for level in range(levels)
        )
        self.flow_head = head(hidden, 2, kernel=3)
        self.mask_head = head(hidden, 9 * factor**2, kernel=1)
        self.slow_fast = slow_fast

    def forward(self, states: list[Tensor], gates: list[Tensor], lookup: Tensor, flow: Tensor) -> tuple[list[Tensor], Tensor]:
        """lookup made at `flow` (B, 2, h, w). Returns the new states and the change of flow, of which the y is to be ignored."""
        motion = self.motion(lookup, flow)
        for finest in reversed(range(len(states)) if self.slow_fast else range(1)):  # slow-fast: the coarser, the more steps
            states = self._advance(states, gates, motion, finest)
        return states, self.flow_head(states[0])

    def _advance(self, states: list[Tensor], gates: list[Tensor], motion: Tensor, finest: int) -> list[Tensor]:
        """One step of the levels from the coarsest, which still sees the old finer state, to `finest`."""
        states = list(states)
        for level in reversed(range(finest, len(states))):
            inputs = [motion if level == 0 else pool(states[level - 1])]
            if level + 1 < len(states):
                inputs.append(enlarge(states[level + 1], states[level]))
            states[level] = self.grus[level](states[level], torch.cat(inputs, 1), gates[level])
        return states


class RAFTStereo(nn.Module):
    """Iterative matching in a correlation of all pairs of a row. The defaults are the released sceneflow, middlebury and eth3d files.

    `raftstereo-realtime`: shared_backbone, n_downsample 3, n_gru_layers 2, slow_fast_gru, 7 iterations. `iraftstereo_rvc`: context_norm
    instance. Features and hidden states follow `feature_dims`, `feature_dim` and `hidden_dims`; smaller ones make a smaller network.
    """

    multiple = 8  # H and W are multiples of this, of the working grid for every `n_downsample`
    padding = 32  # what `infer` pads to, as the published evaluation
    offers: frozenset[str] = frozenset()

    def __init__(
        self,
        with_pretrained: bool = True,
        *,
        correlation_implementation: Annotated[
            Implementation, Field(description="reg stores the correlation of all pairs; alt computes what is looked up")
        ] = "reg",
        corr_levels: Annotated[int, Field(ge=1, le=6, description="levels of the lookup pyramid")] = 4,
        corr_radius: Annotated[int, Field(ge=1, le=16, description="2 r + 1 samples per lookup and level")] = 4,
        n_downsample: Annotated[int, Field(ge=1, le=3, description="the working grid has 1 / 2^n of the image's sides")] = 2,
        n_gru_layers: Annotated[int, Field(ge=1, le=3, description="GRUs: on the working grid, at half and a quarter of it")] = 3,
        hidden_dims: Annotated[Sequence[Width], Field(description="width of each GRU, fine to coarse; all equal, even")] = (128, 128, 128),
        feature_dims: Annotated[
            Sequence[Width], Field(min_length=3, max_length=3, description="stages of the feature and context networks, fine to coarse")
        ] = (64, 96, 128),
        feature_dim: Annotated[Width, Field(description="channels of the features that are correlated")] = 256,
        context_norm: Annotated[Literal["batch", "instance"], Field(description="norm of the context network")] = "batch",
        shared_backbone: Annotated[bool, Field(description="features and context from one trunk, the context network's")] = False,
        slow_fast_gru: Annotated[bool, Field(description="coarser GRUs take more steps per iteration")] = False,
        train_iters: Annotated[int, Field(ge=1, description="refinement iterations in training")] = 22,
        valid_iters: Annotated[int, Field(ge=1, description="refinement iterations in evaluation")] = 32,
        batch_norm: Annotated[
            BatchNormPolicy,
            Field(description="in training: train; frozen_statistics, as published: running ones are used; frozen: weights too"),
        ] = "frozen_statistics",
        sync_batchnorm: Annotated[bool, Field(description="share batch statistics between processes")] = False,
    ) -> None:
        """with_pretrained: nothing of this network comes pretrained."""
        super().__init__()
        hidden = _check_widths(hidden_dims, n_gru_layers)
        self.train_iters, self.valid_iters = train_iters, valid_iters
        self.correlation_implementation: Implementation = correlation_implementation
        self.corr_levels, self.corr_radius = corr_levels, corr_radius
        self.stride = 2**n_downsample
        self.sync_batchnorm = sync_batchnorm
        self.batch_norm: BatchNormPolicy = batch_norm

        full, half, quarter = feature_dims
        strides = tuple(2 if n_downsample > steps else 1 for steps in (2, 3, 1, 0))  # the first stage never halves
        trunk = Trunk(widths=(full, half, quarter), strides=strides, norm=context_norm)
        self.context = ContextNetwork(trunk=trunk, width=quarter, hidden=hidden, levels=n_gru_layers, norm=context_norm)
        if shared_backbone:
            self.features = nn.Sequential(ResidualBlock(quarter, quarter, norm="instance"), nn.Conv2d(quarter, feature_dim, 3, padding=1))
        else:
            own = Trunk(widths=(full, half, quarter), strides=strides, norm="instance")
            self.features = nn.Sequential(own, nn.Conv2d(quarter, feature_dim, 1))
            initialise(self.features)
        self.update = UpdateBlock(
            lookup=lookup_channels(volume=0, levels=corr_levels, radius=corr_radius),
            hidden=hidden,
            levels=n_gru_layers,
            factor=self.stride,
            slow_fast=slow_fast_gru,
        )
        self.shared_backbone = shared_backbone
        self.gradient_checkpointing = False
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode, except where `batch_norm` says otherwise."""
        super().train(mode)
        keep_batch_norm(self, self.batch_norm)
        return self

    def forward(self, left: Tensor, right: Tensor, iters: int | None = None, init: Tensor | None = None) -> StereoOutput:
        """Disparity of `left`, refined `iters` times; all iterations in training mode, the last one otherwise.

        left, right: (B, 3, H, W) RGB in [0, 1], H and W multiples of `self.multiple`.
        iters: `train_iters` or `valid_iters` when absent.
        init: (B, 1, h, w) starting disparity in working-size pixels, 0 when absent; a second channel is what rows differ by (left - right).
        """
        iters = self._check_input(left, right, iters, init)
        both = 2 * torch.cat([left, right]) - 1

        finest, features = self._checkpointed(self._extract, both)
        context = self._checkpointed(self.context, finest)
        left_features, right_features = features.chunk(2)
        lookup = Lookup(
            at_least_float32(left_features) / left_features.shape[1] ** 0.5,
            right_features,
            implementation=self.correlation_implementation,
            levels=self.corr_levels,
            radius=self.corr_radius,
        )
        flow, states, full_size = _starting_flow(init, lookup.columns, left_features), context.hidden, []
        for iteration in range(iters):
            flow = flow.detach()  # each iteration answers for its own step only
            states, change = self._checkpointed(lambda f, s: self.update(s, context.gates, lookup(-f[:, :1]), f), flow, states)
            flow = torch.cat([flow[:, :1] + change[:, :1], flow[:, 1:]], 1)  # along the row only
            if self.training or iteration == iters - 1:
                full_size.append(self._checkpointed(self._to_full_size, flow, states[0]))
        return StereoOutput(torch.stack(full_size, 1))

    def infer(
        self, left: np.ndarray, right: np.ndarray, *, iters: int | None = None, hierarchical: bool = False, cascades: int = 1
    ) -> np.ndarray:
        """See `FoundationStereo.infer`."""
        return inference.infer(self, left, right, iters=iters, hierarchical=hierarchical, cascades=cascades)

    def _extract(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """(2B, 3, H, W) to the context's trunk on the left half and the features of both."""
        if self.shared_backbone:
            shared = self.context.trunk(both)
            return shared.chunk(2)[0], self.features(shared)
        return self.context.trunk(both.chunk(2)[0]), self.features(both)

    def _to_full_size(self, flow: Tensor, state: Tensor) -> Tensor:
        return -upsample_flow(flow[:, :1], self.update.mask_head(state), self.stride)[:, 0]

    def _checkpointed(self, function, *args):
        return checkpointed(function, *args, enabled=self.gradient_checkpointing, modules=(self.context,))

    def _check_input(self, left: Tensor, right: Tensor, iters: int | None, init: Tensor | None) -> int:
        check_pair(left, right, self.multiple)
        if left.shape[-1] < (least := self.stride * 2 ** (self.corr_levels - 1)):
            levels = self.corr_levels
            raise UserError(
                f"model input: {left.shape[-1]} pixels wide; {levels} lookup levels need at least {least}: fewer leave none to read"
            )
        if self.training and self.batch_norm == "train":
            check_batch_statistics(left, self.stride * 2 ** (len(self.context.down)))
        check_start(init, left, self.stride, channels=(1, 2))
        return check_iters(iters, self.train_iters if self.training else self.valid_iters)


def _starting_flow(init: Tensor | None, columns: Tensor, features: Tensor) -> Tensor:
    """(B, 2, h, w) in the precision of the columns: the opposite of the disparity, nothing across rows that is not given."""
    if init is None:
        return columns.new_zeros(features.shape[0], 2, *features.shape[-2:])
    return -F.pad(init.to(columns.dtype), (0, 0, 0, 0, 0, 2 - init.shape[1]))


def _check_widths(hidden_dims: Sequence[int], n_gru_layers: int) -> int:
    """The width of the hidden states."""
    if len(hidden_dims) < n_gru_layers:
        raise UserError(f"model.hidden_dims: {len(hidden_dims)} widths for n_gru_layers {n_gru_layers}; give one per layer, fine to coarse")
    if len(set(hidden_dims)) > 1 or hidden_dims[0] % 2:
        raise UserError(f"model.hidden_dims: {list(hidden_dims)}; all widths must be equal and even, since the motion encoder is halved")
    return hidden_dims[0]
