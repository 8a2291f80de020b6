"""One pair of images to one disparity map: padding and the coarse-to-fine passes. The networks themselves live beside this file, how a
large pair is cut into tiles in `tiles`.

Works with any network of `core`: it asks for their `padding`, `stride` and `forward`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.output import StereoOutput
from core.tiles import Tiles, run_tiled
from utils.errors import UserError

Box = tuple[int, int, int, int]
Padding = Literal["even", "far"]
"""Where an image is enlarged to what the network takes: on both sides, as published networks are evaluated; or right and below alone, so
that the columns at the left border, whose partners lie outside, remain there, as they do in training."""


class Estimate(NamedTuple):
    """What is known of one pair, float32. disparity: (H, W) pixels, >= 0. log_variance: (H, W), pose: (6,), see `StereoOutput`; None of
    networks without them, and no pose in tiles, of which each would have its own."""

    disparity: np.ndarray
    log_variance: np.ndarray | None = None
    pose: np.ndarray | None = None


def padding_to(multiple: int, height: int, width: int, padding: Padding = "even") -> Box:
    """(left, right, top, bottom) to the next multiples; what is padded evenly has the odd pixel right and below."""
    horizontal, vertical = -width % multiple, -height % multiple
    left, top = (0, 0) if padding == "far" else (horizontal // 2, vertical // 2)
    return left, horizontal - left, top, vertical - top


def box_for(model: nn.Module, views: Tensor, passes: int = 1) -> Box:
    """What `views` (B, C, H, W) are padded by for `model`, in so many passes of which each has half the size of the next."""
    height, width = views.shape[-2:]
    multiple: int = model.padding  # pyright: ignore[reportAssignmentType]
    return padding_to(multiple * 2 ** (passes - 1), height, width, getattr(model, "valid_padding", "even"))


def pad(image: Tensor, box: Box) -> Tensor:
    """Border pixels repeated; (B, C, H, W)."""
    return F.pad(image, box, mode="replicate") if any(box) else image


def unpad(x: Tensor, box: Box) -> Tensor:
    left, right, top, bottom = box
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def run(
    model: nn.Module, left: Tensor, right: Tensor, *, iters: int | None = None, init: Tensor | None = None, tiles: Tiles | None = None
) -> StereoOutput:
    """One pass over a pair whose sides are multiples of `model.padding`, as a whole or in tiles."""
    if tiles is None:
        return model(left, right, iters=iters, init=init)
    return run_tiled(model, left, right, tiles, iters=iters, init=init)


def predict(
    model: nn.Module, left: Tensor, right: Tensor, *, iters: int | None = None, init: Tensor | None = None, tiles: Tiles | None = None
) -> StereoOutput:
    """(B, 3, H, W) in [0, 1] of any size to what was found at that size, in its pixels; `init` belongs to the padded size."""
    box = box_for(model, left)
    return _unpadded(run(model, pad(left, box), pad(right, box), iters=iters, init=init, tiles=tiles), box)


def _unpadded(output: StereoOutput, box: Box) -> StereoOutput:
    """Without `initial`, which is of a size of its own."""
    parts = {name: getattr(output, name) for name in ("vertical", "log_variance")}
    parts = {name: None if part is None else unpad(part, box) for name, part in parts.items()}
    return StereoOutput(unpad(output.disparities, box), pose=output.pose, **parts)


def cascade(
    model: nn.Module, left: Tensor, right: Tensor, *, iters: int | None = None, cascades: int, tiles: Tiles | None = None
) -> StereoOutput:
    """`model` at 1 / 2^(cascades - 1) of the size, ..., a half and the whole, each started from the one before, with the same iterations.

    CREStereo's stacked cascade (arXiv:2203.11483, section 3.4) as torchvision evaluates it, for any network.
    left, right: (B, 3, H, W) in [0, 1], H and W multiples of 2^(cascades - 1) * `model.multiple`.
    """
    stride: int = model.stride  # pyright: ignore[reportAssignmentType]
    height, width = left.shape[-2:]
    output = None
    for scale in (2**n for n in reversed(range(cascades))):
        views = left, right
        if scale > 1:
            size = (height // scale, width // scale)
            views = [F.interpolate(view, size=size, mode="bilinear", align_corners=True) for view in views]
        init = None if output is None else start_from(output, (height // scale // stride, width // scale // stride))
        output = run(model, *views, iters=iters, init=init, tiles=tiles)
    assert output is not None, f"{cascades} cascades"
    return output


def start_from(output: StereoOutput, size: tuple[int, int]) -> Tensor:
    """The last disparity, and what rows differ by where a network finds that, as the `init` of another size: (B, 1 or 2, *size)."""
    parts = [output.disparity] if output.vertical is None else [output.disparity, output.vertical[:, -1]]
    found = torch.stack(parts, 1)
    return size[1] / found.shape[-1] * F.interpolate(found, size=size, mode="bilinear", align_corners=True)


def predict_cascaded(
    model: nn.Module, left: Tensor, right: Tensor, *, iters: int | None = None, cascades: int, tiles: Tiles | None = None
) -> StereoOutput:
    """As `predict`, with `cascade`."""
    box = box_for(model, left, cascades)
    return _unpadded(cascade(model, pad(left, box), pad(right, box), iters=iters, cascades=cascades, tiles=tiles), box)


def predict_hierarchical(
    model: nn.Module, left: Tensor, right: Tensor, *, iters: int | None = None, ratio: float = 0.5, tiles: Tiles | None = None
) -> StereoOutput:
    """As `predict`, started from the disparity of a pass at `ratio` of the size, the same iterations in both.

    The published network adds the left padding to that disparity although both views are padded alike; it is kept because its
    numbers depend on it. It is 0 for widths that are multiples of `model.padding`, and at most 15 pixels of a start otherwise.
    """
    height, width = left.shape[-2:]
    if min(height, width) * ratio < 1:
        raise UserError(f"infer: {width} x {height} (width x height) leaves nothing at {ratio:g} of its size; leave out hierarchical")
    small = [F.interpolate(view, scale_factor=ratio, mode="bilinear", align_corners=False) for view in (left, right)]
    coarse = predict(model, small[0], small[1], iters=iters, tiles=tiles).disparity.unsqueeze(1)
    coarse = (F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True) / ratio).clamp(min=0)
    box = box_for(model, left)
    coarse = pad(coarse, box) + box[0]
    stride: int = model.stride  # pyright: ignore[reportAssignmentType]
    size = (coarse.shape[-2] // stride, coarse.shape[-1] // stride)
    init = F.interpolate(coarse, size=size, mode="bilinear", align_corners=True) / stride
    return predict(model, left, right, iters=iters, init=init, tiles=tiles)


def predict_scales(
    model: nn.Module, left: Tensor, right: Tensor, *, iters: int | None = None, scales: Sequence[float], tiles: Tiles | None = None
) -> StereoOutput:
    """As `predict`, on the pair at these multiples of its size, the smallest first, each started from the one before: a larger image shows
    more of what is fine to a network that matches on a grid of a fraction of the pixels, a smaller one more of what is large and has no
    texture. Ours. Where the last is not the whole size, the disparities alone.
    """
    height, width = left.shape[-2:]
    output, init = None, None
    for scale in sorted(scales):
        size = max(1, round(height * scale)), max(1, round(width * scale))
        views = [resized(view, size) for view in (left, right)]
        if output is not None:
            init = _start(model, resized(output.disparity[:, None].clamp(min=0), size) * (size[1] / width))
        output = predict(model, *views, iters=iters, init=init, tiles=tiles)
        if size != (height, width):
            output = StereoOutput(resized(output.disparity[:, None].clamp(min=0), (height, width)) * (width / size[1]))
    assert output is not None, "no scale"
    return output


def coarse_start(model: nn.Module, left: Tensor, right: Tensor, *, scale: float) -> Tensor:
    """The `init` of a training step, without gradients: what a pass over the pair at `scale` of its size finds in evaluation mode, as the
    passes of `predict_scales` hand it on."""
    with evaluating(model):
        return _start(model, predict_scales(model, left, right, scales=(scale,)).disparity[:, None].clamp(min=0))


def _start(model: nn.Module, disparity: Tensor) -> Tensor:
    """(B, 1, H, W) pixels, as the `init` of a pass of that size, padded: one pixel of each cell; the mean of a cell at an edge lies on
    neither side."""
    stride: int = model.stride  # pyright: ignore[reportAssignmentType]
    return pad(disparity, box_for(model, disparity))[..., ::stride, ::stride] / stride


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) to (B, C, *size), with the mean of what falls together where it gets smaller."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without a graph; the mode before is restored."""
    before = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(before)


def infer(
    model: nn.Module, left: Any, right: Any, *, iters: int | None = None, hierarchical: bool = False, cascades: int = 1
) -> np.ndarray:
    """See `FoundationStereo.infer`."""
    return estimate(model, left, right, iters=iters, hierarchical=hierarchical, cascades=cascades).disparity


def estimate(
    model: nn.Module,
    left: Any,
    right: Any,
    *,
    iters: int | None = None,
    hierarchical: bool = False,
    cascades: int = 1,
    scales: Sequence[float] | None = None,
    tiles: Tiles | None = None,
) -> Estimate:
    """Arguments as of `FoundationStereo.infer`; all that the network says of the pair, at its size.

    scales: see `predict_scales`; the network's own `valid_scales` where None. Hierarchical and cascaded passes have scales of their own.
    tiles: the network sees one tile at a time, in every pass; the images and the map then stay in the memory of the host.
    """
    views = [to_tensor(image, name) for image, name in ((left, "left"), (right, "right"))]
    if views[0].shape != views[1].shape:
        sizes = " and ".join(f"{view.shape[-1]} x {view.shape[-2]}" for view in views)
        raise UserError(f"infer: the two images have different sizes, {sizes} (width x height); a rectified pair has one size")
    if cascades < 1 or (hierarchical and cascades > 1):
        raise UserError(f"infer: cascades is {cascades}; expected 1 or more, and no more than 1 with hierarchical, which is another way")
    parameter = next(model.parameters())
    device = parameter.device if tiles is None else torch.device("cpu")
    views = [(view.to(device).to(parameter.dtype) / 255)[None] for view in views]
    if hierarchical:
        passes = predict_hierarchical
    elif cascades > 1:
        passes = partial(predict_cascaded, cascades=cascades)
    else:
        passes = partial(predict_scales, scales=scales_for(model, scales))
    with evaluating(model):
        output = passes(model, views[0], views[1], iters=iters, tiles=tiles)
    found = output.disparity.clamp(min=0), output.log_variance, output.pose
    return Estimate(*(None if part is None else part[0].float().cpu().numpy() for part in found))


def scales_for(model: nn.Module, asked: Sequence[float] | None) -> Sequence[float]:
    """The multiples of a pair's size that `model` looks at: those that are asked for, or its own."""
    return getattr(model, "valid_scales", (1.0,)) if asked is None else asked


def to_tensor(image: Any, name: str) -> Tensor:
    """uint8 (3, H, W) from a NumPy (H, W, 3) or a torch (3, H, W) image; `UserError` for anything else."""
    is_tensor = isinstance(image, Tensor)
    expected = "torch uint8 (3, H, W)" if is_tensor else "NumPy uint8 (H, W, 3), RGB"
    if not is_tensor and not isinstance(image, np.ndarray):
        raise UserError(f"infer: {name} is a {type(image).__name__}; expected {expected}")
    if image.dtype != (torch.uint8 if is_tensor else np.uint8):
        raise UserError(f"infer: {name} has dtype {image.dtype}; expected {expected}, values 0 to 255")
    if len(image.shape) != 3 or image.shape[0 if is_tensor else 2] != 3 or not all(image.shape):
        raise UserError(f"infer: {name} has shape {tuple(image.shape)}; expected {expected}")
    return image if is_tensor else torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
