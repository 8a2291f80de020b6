"""One pair to what is known of it, as people use a trained network: at any scale, in any precision, checked by the other eye. The passes
themselves are in `core.inference`; where pairs come from and what is written of them in the files `inference_*`.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from core.inference import Estimate, estimate, scales_for
from core.output import confidence_of
from core.tiles import Tiles
from train.baselines import sgbm
from train.failures import compiler_failed, out_of_memory, reason
from train.load import load_trained
from utils.errors import UserError
from utils.geometry import left_right_agree, mirror, resize_disparity, resize_image

Look = Callable[[np.ndarray, np.ndarray], Estimate]
"""uint8 (H, W, 3) RGB left and right to what is known of the left view, in pixels of these images."""

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[Precision, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SGBM = "sgbm"  # in place of a network, see `baselines`


@dataclass(frozen=True)
class Settings:
    """How pairs are looked at.

    iterations: the network's own number where None. hierarchical, cascades: see `FoundationStereo.infer`. scale: of the images before the
    network sees them; what comes out is at their own size. scales: of these, see `core.inference.predict_scales`; the network's own where
    None. tile: (width, height) that the network sees at once, at that scale, None for the whole; tile_overlap: see `core.tiles`.
    max_disparity: the largest that is expected, in pixels of the images; the network's own range where None. left_right: look from the
    right eye too, and say where both agree within `agree_px`.
    """

    iterations: int | None = None
    hierarchical: bool = False
    cascades: int = 1
    scale: float = 1.0
    scales: tuple[float, ...] | None = None
    tile: tuple[int, int] | None = None
    tile_overlap: int = 64
    max_disparity: float | None = None
    precision: Precision = "fp32"
    left_right: bool = False
    agree_px: float = 1.0


@dataclass(frozen=True, eq=False)
class Result:
    """Of one pair, all (H, W) at its own size. disparity: float32 pixels, >= 0. confidence: float32, see `StereoOutput.confidence`; None of
    networks without it. agree: bool, see `geometry.left_right_agree`; None where it was not asked for. pose: (6,), see `Estimate`.
    """

    disparity: np.ndarray
    confidence: np.ndarray | None = None
    agree: np.ndarray | None = None
    pose: np.ndarray | None = None

    @property
    def finite(self) -> np.ndarray:
        """(N,), the disparities that are neither nan nor inf."""
        return self.disparity[np.isfinite(self.disparity)]


class Estimator:
    """`result = estimator(left, right)` for uint8 (H, W, 3) RGB views of a rectified pair."""

    def __init__(self, look: Look, settings: Settings | None = None, *, range_px: float | None = None) -> None:
        """range_px: the largest disparity that `look` can find, in pixels of what it is shown; None where there is no limit."""
        self.settings = settings or Settings()
        self._look = look
        self.limit_px = None if range_px is None else range_px / self.settings.scale

    def __call__(self, left: np.ndarray, right: np.ndarray) -> Result:
        disparity, log_variance, pose = self._at_scale(left, right)
        confidence = None if log_variance is None else confidence_of(torch.from_numpy(log_variance)).numpy()
        if not self.settings.left_right:
            return Result(disparity, confidence, pose=pose)
        other = mirror(self._at_scale(mirror(right), mirror(left)).disparity)  # a mirrored pair is one whose left eye was the right one
        return Result(disparity, confidence, left_right_agree(disparity, other, self.settings.agree_px), pose)

    def _at_scale(self, left: np.ndarray, right: np.ndarray) -> Estimate:
        height, width = left.shape[:2]
        scale = self.settings.scale
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if size == (width, height):
            return self._look(left, right)
        disparity, log_variance, pose = self._look(resize_image(left, size), resize_image(right, size))
        disparity, _ = resize_disparity(disparity, np.ones(disparity.shape, bool), (width, height))
        if log_variance is not None:  # of an error that grows with the width, as disparity does
            log_variance = resize_image(log_variance, (width, height)) + np.float32(2 * math.log(width / size[0]))
        return Estimate(disparity, log_variance, pose)


def build_estimator(
    checkpoint: str,
    device: torch.device,
    settings: Settings | None = None,
    *,
    compiled: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Estimator:
    """checkpoint: "sgbm", or what `load.load_trained` takes. changes: keys of the model section that are to differ from the file's."""
    settings = settings or Settings()
    if checkpoint == SGBM:
        most = None if settings.max_disparity is None else settings.max_disparity * settings.scale
        return Estimator(lambda left, right: Estimate(sgbm(left, right, most)), settings)
    check_precision(settings.precision, device)
    return network_estimator(load_trained(checkpoint, changes).to(device), settings, compiled=compiled)


def network_estimator(model: nn.Module, settings: Settings | None = None, *, compiled: bool = False) -> Estimator:
    """Of a network that is loaded, on the device it is on. compiled: by torch.compile, once for each size of images."""
    settings = settings or Settings()
    device = next(model.parameters()).device
    check_precision(settings.precision, device)
    own_range: float | None = getattr(model, "max_disp", None)
    scales = scales_for(model, settings.scales)
    seen = _seen(settings, scales)
    tiles = _tiles(settings, own_range, seen)
    if compiled:
        model.compile()
    low = PRECISIONS[settings.precision]
    passes = partial(
        estimate,
        model,
        iters=settings.iterations,
        hierarchical=settings.hierarchical,
        cascades=settings.cascades,
        scales=scales,
        tiles=tiles,
    )

    def look(left: np.ndarray, right: np.ndarray) -> Estimate:
        try:
            with contextlib.nullcontext() if low is None else torch.autocast(device.type, low):
                return passes(left, right)
        except Exception as error:
            if compiled and compiler_failed(error):
                raise UserError(f"--compile: torch.compile failed ({reason(error)}); leave it out, or install a C++ compiler") from None
            if out_of_memory(error):
                raise UserError(
                    f"not enough memory on {device} for {left.shape[1]} x {left.shape[0]} at once; use --tile 1024 512, --scale 0.5 or "
                    "--precision bf16"
                ) from None
            raise

    if not settings.hierarchical and settings.cascades == 1:  # what was done is written beside the results
        settings = replace(settings, scales=tuple(scales))
    # What is too near at full size is in range where a pass is smaller.
    return Estimator(look, settings, range_px=None if own_range is None else own_range / min(seen))


def _seen(settings: Settings, scales: Sequence[float]) -> Sequence[float]:
    """The multiples of the pair's size of all passes: `scales`, unless others are asked for."""
    if settings.hierarchical:
        return 0.5, 1.0
    return [0.5**n for n in range(settings.cascades)] if settings.cascades > 1 else scales


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raises UserError for one that the device does not compute in."""
    if precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16: needs a GPU; on a CPU use fp32 or bf16")


def _tiles(settings: Settings, own_range: float | None, seen: Sequence[float]) -> Tiles | None:
    if settings.tile is None:
        return None
    if settings.max_disparity is None and own_range is None:
        raise UserError("--tile: this network has no range of its own; say with --max_disparity how near things come, in pixels")
    widest = own_range if settings.max_disparity is None else settings.max_disparity * settings.scale * max(seen)
    assert widest is not None
    return Tiles(settings.tile, widest, settings.tile_overlap)
