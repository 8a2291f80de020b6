"""The two currencies of the data path: a sample as NumPy arrays, a batch as tensors. How either is made or used lives elsewhere."""

from dataclasses import dataclass, field, fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from utils.calibration import Calibration


@dataclass(frozen=True, slots=True)
class StereoSample:
    """One rectified pair with ground truth.

    left, right: uint8 (H, W, 3) RGB.
    disparity: float32 (H, W), pixels of this image, of the left view, >= 0: x_right = x_left - disparity. Finite; 0 where not valid.
    valid: bool (H, W), where the ground truth is known.
    disparity_right, valid_right: the same for the right view (x_left = x_right + disparity_right), where the data set has it.
    occluded: bool (H, W), left pixels that the right eye does not see, where the data set knows.
    sparse: ground truth with holes between points (laser); never interpolated.
    calibration: of the stored pair, where the data set has it; augmentations drop it.
    pose: float32 (6,), how far the right camera is from its rectified place, as in `StereoOutput`, where the data set knows. The ground
        truth is then of the rectified pair.
    key: the sample's name inside its data set; stable when files are added.
    """

    left: np.ndarray
    right: np.ndarray
    disparity: np.ndarray
    valid: np.ndarray
    disparity_right: np.ndarray | None = None
    valid_right: np.ndarray | None = None
    occluded: np.ndarray | None = None
    sparse: bool = False
    calibration: Calibration | None = None
    pose: np.ndarray | None = None
    key: str = ""

    def replace(self, **changes: object) -> Self:
        return replace(self, **changes)

    def check(self) -> Self:
        """Itself, or an AssertionError that names what breaks the contract above."""
        height, width = self.disparity.shape
        for name in ("left", "right"):
            image = getattr(self, name)
            assert image.dtype == np.uint8 and image.shape == (height, width, 3), f"{self.key}: {name} {image.dtype} {image.shape}"
        for name in ("disparity", "disparity_right"):
            values = getattr(self, name)
            if values is not None:
                mask = self.valid if name == "disparity" else self.valid_right
                assert mask is not None and mask.dtype == bool and mask.shape == (height, width), f"{self.key}: mask of {name}"
                assert values.dtype == np.float32 and values.shape == (height, width), f"{self.key}: {name} {values.dtype}"
                assert np.isfinite(values).all() and (values >= 0).all() and not values[~mask].any(), f"{self.key}: {name} values"
        if self.pose is not None:
            assert self.pose.dtype == np.float32 and self.pose.shape == (6,) and np.isfinite(self.pose).all(), f"{self.key}: {self.pose}"
        return self


@dataclass(slots=True)
class StereoBatch:
    """A micro-batch. Images are uint8 until `to` has moved them: a quarter of the bytes cross the bus.

    left, right: (B, 3, H, W), uint8 before and float32 in [0, 1] after `to`.
    disparity: float32 (B, H, W) pixels; valid: bool (B, H, W).
    keys, datasets, label_types: one string per sample.
    broken: samples that could not be read and were replaced while this batch was made, and what is wrong with each.
    pose: float32 (B, 6), NaN for samples without that label; None where no sample has it.
    """

    left: Tensor
    right: Tensor
    disparity: Tensor
    valid: Tensor
    keys: list[str]
    datasets: list[str]
    label_types: list[str]
    broken: dict[str, str] = field(default_factory=dict)
    pose: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def pin_memory(self) -> Self:
        """Called by torch's loader on any batch that has it."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device | str) -> Self:
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=True))
        moved.left, moved.right = (image.float() / 255 if image.dtype == torch.uint8 else image for image in (moved.left, moved.right))
        return moved

    def select(self, rows: list[int]) -> Self:
        """The samples at `rows`, in that order."""
        index = torch.tensor(rows, device=self.disparity.device)
        values = {f.name: value for f in fields(self) if f.name != "broken" and (value := getattr(self, f.name)) is not None}
        return type(self)(**{k: v[index] if isinstance(v, Tensor) else [v[row] for row in rows] for k, v in values.items()})

    def _map(self, function) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{k: function(v) if isinstance(v, Tensor) else v for k, v in values.items()})
