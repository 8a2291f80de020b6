"""CREStereo (Li et al., arXiv:2203.11483) as torchvision publishes it, assembled: `forward` is the paper's figure 2.

What it shares with another descendant of RAFT is in `raft.py`, its attention in `crestereo_attention.py`, the names of its published
weights in `crestereo_names.py`. Its stacked cascade (section 3.4), which starts from a smaller image, is `inference.predict_cascaded`.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from core import inference
from core.blocks import Width, at_least_float32, float32_island
from core.checkpointing import checkpointed
from core.crestereo_attention import LinearAttentionLayer, position_encoding
from core.inputs import check_iters, check_pair, check_start
from core.output import StereoOutput
from core.raft import ConvGRU, MotionEncoder, Trunk, head, initialise, upsample_flow
from utils.errors import UserError

FACTOR = 4  # every level's prediction is convexly upsampled by this
LINE = [(0, dx) for dx in range(-4, 5)]  # windows as (dy, dx), in the order of their channels
SQUARE = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


def sample(features: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(B, C, h, w) at pixel positions x, y (B, h', w'), bilinear, zero outside."""
    height, width = features.shape[-2:]
    y = y if height > 1 else torch.zeros_like(y)  # as published: a single row is met from everywhere
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    return F.grid_sample(features, grid, align_corners=False)


class GroupCorrelation:
    """Group-wise correlation in a window around where the flow leads (section 3.2), built once per level; float32 at least.

    shifts: (B, 18, h, w), x and y of every position of the window, which is thereby deformed; without it the right features are warped by
    the flow as a whole, and the window is of the warped map, whose border is repeated.
    """

    def __init__(self, left: Tensor, right: Tensor, shifts: Tensor | None, groups: int) -> None:
        self.groups = groups
        self.left, self.right = at_least_float32(left), at_least_float32(right)
        self.shifts = None if shifts is None else at_least_float32(shifts)
        height, width = left.shape[-2:]
        self.x = torch.arange(width, device=left.device, dtype=self.left.dtype)
        self.y = torch.arange(height, device=left.device, dtype=self.left.dtype)[:, None]

    def __call__(self, flow: Tensor, window: list[tuple[int, int]]) -> Tensor:
        """flow: (B, 2, h, w), a constant. Returns (B, groups * 9, h, w), group by group, the mean over the channels of the group."""
        with float32_island(flow):
            x, y = self.x + flow[:, 0], self.y + flow[:, 1]
            read = self._warped(x, y, window) if self.shifts is None else self._deformed(x, y, self.shifts, window)
            products = [(self.left * read(k)).unflatten(1, (self.groups, -1)).mean(2) for k in range(len(window))]
            return torch.stack(products, 2).flatten(1, 2)

    def _deformed(self, x: Tensor, y: Tensor, shifts: Tensor, window: list[tuple[int, int]]) -> Callable[[int], Tensor]:
        return lambda k: sample(self.right, x + window[k][1] + shifts[:, 2 * k], y + window[k][0] + shifts[:, 2 * k + 1])

    def _warped(self, x: Tensor, y: Tensor, window: list[tuple[int, int]]) -> Callable[[int], Tensor]:
        margin_y, margin_x = window[-1]  # the last position is the farthest
        height, width = x.shape[-2:]
        # Their positions are repeated, which need no gradient: of a repeated map, torch.compile misjudges how it lies in memory.
        x, y = (F.pad(positions, (margin_x, margin_x, margin_y, margin_y), mode="replicate") for positions in (x, y))
        warped = sample(self.right, x, y)

        def read(k: int) -> Tensor:
            top, left = margin_y + window[k][0], margin_x + window[k][1]
            return warped[..., top : top + height, left : left + width]

        return read


class Level(NamedTuple):
    """What the refinement reads of one resolution, all (B, ., h, w). shifts: see `GroupCorrelation`; state: of its first iteration."""

    left: Tensor
    right: Tensor
    state: Tensor
    context: Tensor
    shifts: Tensor | None


class UpdateBlock(nn.Module):
    """One state to the next, the same weights on every level (section 3.3): a GRU along rows, then one along columns."""

    def __init__(self, *, lookup: int, hidden: int) -> None:
        super().__init__()
        widths = (lookup, 2 * hidden, 3 * hidden // 2)
        self.motion = MotionEncoder(lookup=widths, flow=(hidden, hidden // 2), outputs=hidden)
        self.row = ConvGRU(hidden=hidden, inputs=2 * hidden, kernel=(1, 5))
        self.column = ConvGRU(hidden=hidden, inputs=2 * hidden, kernel=(5, 1))
        self.flow_head = head(hidden, 2, kernel=3)
        self.mask_head = head(hidden, 9 * FACTOR**2, kernel=1)

    def forward(self, state: Tensor, context: Tensor, lookup: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """lookup made at `flow` (B, 2, h, w). Returns the new state and the change of flow."""
        inputs = torch.cat([context, self.motion(lookup, flow)], 1)
        state = self.column(self.row(state, inputs), inputs)
        return state, self.flow_head(state)


class CREStereo(nn.Module):
    """Coarse-to-fine matching with deformed windows; finds small vertical shifts too. The defaults are torchvision's `crestereo_base`.

    Features and states follow `feature_dims` and `feature_dim`; smaller ones make a smaller network.
    """

    multiple = 16  # H and W are multiples of this: the coarsest level has 1/16 of them
    padding = 16  # what `infer` pads to
    stride = 4  # of the finest level
    offers = frozenset({"vertical"})

    def __init__(
        self,
        with_pretrained: bool = True,
        *,
        feature_dims: Annotated[
            Sequence[Width], Field(min_length=3, max_length=3, description="stages of the feature network, fine to coarse")
        ] = (64, 96, 128),
        feature_dim: Annotated[
            Width, Field(description="channels of the features; half of them start the hidden state; multiple of 4")
        ] = 256,
        corr_groups: Annotated[int, Field(gt=0, description="groups of the group-wise correlation")] = 4,
        attention_heads: Annotated[int, Field(gt=0, description="of the self and the cross attention at 1/16")] = 8,
        train_iters: Annotated[
            int, Field(ge=2, description="refinement iterations in training, at 1/4; half as many at 1/16 and at 1/8 before")
        ] = 10,
        valid_iters: Annotated[int, Field(ge=2, description="refinement iterations in evaluation")] = 10,
    ) -> None:
        """with_pretrained: nothing of this network comes pretrained."""
        super().__init__()
        for key, value in (("corr_groups", corr_groups), ("attention_heads", attention_heads)):
            if feature_dim % value:
                raise UserError(f"model.{key}: {value} does not divide model.feature_dim, {feature_dim}")
        if feature_dim % 4:
            raise UserError(f"model.feature_dim: {feature_dim} is no multiple of 4, as the hidden state and the position code need")
        self.train_iters, self.valid_iters = train_iters, valid_iters
        self.groups = corr_groups

        full, half, quarter = feature_dims
        self.trunk = Trunk(widths=(full, half, quarter), strides=(2, 1, 2, 1), norm="instance", project=True)
        self.features = nn.Conv2d(quarter, feature_dim, 1)
        initialise(self.trunk)
        initialise(self.features)
        self.offset = nn.ModuleList(nn.Conv2d(feature_dim, 2 * len(LINE), 3, padding=1) for _ in range(2))  # 1/16, 1/8
        self.self_attention = LinearAttentionLayer(feature_dim, attention_heads)
        self.cross_attention = LinearAttentionLayer(feature_dim, attention_heads)
        self.update = UpdateBlock(lookup=corr_groups * len(LINE), hidden=feature_dim // 2)
        self.gradient_checkpointing = False

    def forward(self, left: Tensor, right: Tensor, iters: int | None = None, init: Tensor | None = None) -> StereoOutput:
        """Disparity of `left`; in training mode of all iterations of all levels, 2 * (iters // 2) + iters, otherwise of the last one.

        left, right: (B, 3, H, W) RGB in [0, 1], H and W multiples of `self.multiple`.
        iters: at 1/4, half as many (rounded down) at 1/16 and at 1/8 before; `train_iters` or `valid_iters` when absent.
        init: (B, 1, h, w) starting disparity in working-size pixels: only the 1/4 level runs then. A second channel is what rows differ by
        (left - right).
        """
        iters = self._check_input(left, right, iters, init)
        left_features, right_features = self._checkpointed(self._extract, torch.cat([left, right])).chunk(2)
        state, context = left_features.chunk(2, 1)
        state, context = state.tanh(), F.relu(context)

        finest = Level(left_features, right_features, state, context, None)
        if init is None:
            predictions = self._coarse_levels(finest, iters // 2)
            flow = -resize_flow(predictions[-1], finest.left.shape[-2:])  # see `_coarse_levels`
        else:
            predictions = []
            flow = -F.pad(at_least_float32(init), (0, 0, 0, 0, 0, 2 - init.shape[1]))
        predictions += self._refine(flow, finest, iters)
        if not self.training:
            predictions = predictions[-1:]
        full_size = [resize_flow(prediction, left.shape[-2:]) for prediction in predictions]
        disparities, vertical = torch.stack(full_size, 2).neg().unbind(1)
        return StereoOutput(disparities, vertical=vertical)

    def infer(
        self, left: np.ndarray, right: np.ndarray, *, iters: int | None = None, hierarchical: bool = False, cascades: int = 1
    ) -> np.ndarray:
        """See `FoundationStereo.infer`."""
        return inference.infer(self, left, right, iters=iters, hierarchical=hierarchical, cascades=cascades)

    def _extract(self, both: Tensor) -> Tensor:
        return self.features(self.trunk(2 * both - 1))

    def _coarse_levels(self, finest: Level, iters: int) -> list[Tensor]:
        """What `_refine` returns at 1/16 and at 1/8.

        A level starts from the one before WITH THE SIGN REVERSED, as published: the original hands on predictions, whose sign is that of
        disparity, where flow is expected. All released weights were trained so.
        """
        predictions: list[Tensor] = []
        for scale, offset in zip((4, 2), self.offset, strict=True):
            fields = (finest.left, finest.right, finest.state, finest.context)
            left, right, state, context = (F.avg_pool2d(field, scale) for field in fields)
            shifts = 2 * offset(left).sigmoid() - 1  # less than a pixel of the level
            if predictions:
                flow = -resize_flow(predictions[-1], left.shape[-2:])
            else:
                left, right = self._checkpointed(self._attend, left, right)
                flow = at_least_float32(left).new_zeros(left.shape[0], 2, *left.shape[-2:])
            predictions += self._refine(flow, Level(left, right, state, context, shifts), iters)
        return predictions

    def _attend(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) at 1/16; the right image attends to what the left one has become."""
        code = position_encoding(*left.shape[1:], like=left)
        tokens = [(view + code).flatten(2).transpose(1, 2) for view in (left, right)]
        left_tokens, right_tokens = (self.self_attention(view, view) for view in tokens)
        left_tokens = self.cross_attention(left_tokens, right_tokens)
        right_tokens = self.cross_attention(right_tokens, left_tokens)
        left, right = (tokens.transpose(1, 2).view(left.shape) for tokens in (left_tokens, right_tokens))
        return left, right

    def _refine(self, flow: Tensor, level: Level, iters: int) -> list[Tensor]:
        """The flow after every iteration in training mode, otherwise after the last one, at `FACTOR` times the level's size."""
        lookup = GroupCorrelation(level.left, level.right, level.shifts, self.groups)
        state, upsampled = level.state, []
        for iteration in range(iters):
            flow = flow.detach()  # each iteration answers for its own step only
            window = SQUARE if iteration % 2 else LINE
            state, change = self._checkpointed(lambda f, s, w: self.update(s, level.context, lookup(f, w), f), flow, state, window)
            flow = flow + change
            if self.training or iteration == iters - 1:
                upsampled.append(self._checkpointed(lambda f, s: upsample_flow(f, self.update.mask_head(s), FACTOR), flow, state))
        return upsampled

    def _checkpointed(self, function, *args):
        return checkpointed(function, *args, enabled=self.gradient_checkpointing)

    def _check_input(self, left: Tensor, right: Tensor, iters: int | None, init: Tensor | None) -> int:
        check_pair(left, right, self.multiple)
        check_start(init, left, self.stride, channels=(1, 2))
        usual = self.train_iters if self.training else self.valid_iters
        return check_iters(iters, usual, least=2 if init is None else 1)  # the coarse levels take half as many


def resize_flow(flow: Tensor, size: Sequence[int]) -> Tensor:
    """(B, 2, h, w) in pixels of its size to those of another with the same aspect ratio."""
    if tuple(flow.shape[-2:]) == tuple(size):
        return flow
    return size[0] / flow.shape[-2] * F.interpolate(flow, size=tuple(size), mode="bilinear", align_corners=True)
