"""Changes of geometry: scale, crop, flips. Images, disparity, valid and the right view change together, or the pair is no pair.

How one map is resized is in `utils.geometry`; colours are in `photometric`.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from train.sample import StereoSample
from utils.errors import UserError
from utils.geometry import mirror, resize_disparity, resize_image, resize_mask
from utils.registry import explain

Probability = Annotated[float, Field(ge=0, le=1)]


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("the first exponent must not exceed the second")
    return limits


class SpatialOptions(BaseModel):
    """How strongly geometry is varied; the defaults are those of RAFT-Stereo's dense augmentor, and its flips."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Annotated[tuple[float, float], AfterValidator(_ascending)] = (-0.2, 0.5)
    """Exponents: both sides are multiplied by 2^U(first, second), and by more where the crop would not fit."""
    scale_probability: Probability = 0.8
    stretch: Annotated[float, Field(ge=0, le=2)] = 0.2
    """Each side is further multiplied by its own 2^U(-stretch, stretch)."""
    stretch_probability: Probability = 0.8
    horizontal_flip: Probability = 0.5
    """Mirrored with the eyes swapped; only where the sample has the right view's disparity."""
    vertical_flip: Probability = 0.1


def spatial_options(value: bool | Mapping[str, Any] | SpatialOptions, where: str) -> SpatialOptions | None:
    """The JSON's `stereo_augmentation`: true is the defaults, false is none (`None`), an object sets some of them."""
    if isinstance(value, SpatialOptions):
        return value
    if isinstance(value, bool):
        return SpatialOptions() if value else None
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: found {value!r}; expected true, false or an object of {', '.join(SpatialOptions.model_fields)}")
    try:
        return SpatialOptions(**value)
    except ValidationError as error:
        raise UserError(explain(error, SpatialOptions, where)) from None


def spatial(sample: StereoSample, size: tuple[int, int], rng: np.random.Generator, options: SpatialOptions | None) -> StereoSample:
    """The sample at exactly `size` (width, height).

    With options: scaled and cropped at random (one window for both eyes), then flipped. The window is cut out before it is resized, so
    its sides are whole pixels and the scale is `size / window`. Without: the centre, scaled up where the sample is too small; nothing
    is drawn from `rng`.
    """
    height, width = sample.disparity.shape
    if options is None:
        window = _window((width, height), size, scale=1.0, stretch=(1.0, 1.0))
        corner = ((width - window[0]) // 2, (height - window[1]) // 2)
        return resize(crop(sample, corner, window), size)

    scale = 2.0 ** rng.uniform(*options.scale) if rng.random() < options.scale_probability else 1.0
    stretch = (1.0, 1.0)
    if rng.random() < options.stretch_probability:
        stretch = (2.0 ** rng.uniform(-options.stretch, options.stretch), 2.0 ** rng.uniform(-options.stretch, options.stretch))
    window = _window((width, height), size, scale, stretch)
    corner = (int(rng.integers(width - window[0] + 1)), int(rng.integers(height - window[1] + 1)))
    swap, turn = rng.random() < options.horizontal_flip, rng.random() < options.vertical_flip

    sample = resize(crop(sample, corner, window), size)
    if swap and sample.disparity_right is not None:
        sample = flip_horizontally(sample)
    return flip_vertically(sample) if turn else sample


def crop(sample: StereoSample, corner: tuple[int, int], size: tuple[int, int]) -> StereoSample:
    """The window of `size` (width, height) whose first pixel is `corner` (x, y), the same in both eyes: disparity stays what it was."""
    (x, y), (width, height) = corner, size
    sample = _map(sample, lambda array: array[y : y + height, x : x + width])
    return sample.replace(occluded=_left_of_view(sample))


def resize(sample: StereoSample, size: tuple[int, int]) -> StereoSample:
    """The whole sample at `size` (width, height); disparity follows the width."""
    if sample.disparity.shape == (size[1], size[0]):
        return sample
    disparity, valid = resize_disparity(sample.disparity, sample.valid, size, sparse=sample.sparse)
    disparity_right = valid_right = None
    if sample.disparity_right is not None and sample.valid_right is not None:
        disparity_right, valid_right = resize_disparity(sample.disparity_right, sample.valid_right, size, sparse=sample.sparse)
    return sample.replace(
        left=resize_image(sample.left, size),
        right=resize_image(sample.right, size),
        disparity=disparity,
        valid=valid,
        disparity_right=disparity_right,
        valid_right=valid_right,
        occluded=None if sample.occluded is None else resize_mask(sample.occluded, size),
    )


def flip_horizontally(sample: StereoSample) -> StereoSample:
    """Mirrored, and the eyes swapped: the new left view is the mirrored right one, with the right view's disparity.

    Raises ValueError without that: mirroring the left view's would be wrong ground truth. Which pixels of the new left view are
    occluded is not known.
    """
    if sample.disparity_right is None or sample.valid_right is None:
        raise ValueError(f"{sample.key}: a horizontal flip needs the right view's disparity")
    return sample.replace(
        left=mirror(sample.right),
        right=mirror(sample.left),
        disparity=mirror(sample.disparity_right),
        valid=mirror(sample.valid_right),
        disparity_right=mirror(sample.disparity),
        valid_right=mirror(sample.valid),
        occluded=None,
    )


def flip_vertically(sample: StereoSample) -> StereoSample:
    """Top and bottom exchanged; disparity keeps its values."""
    return _map(sample, lambda array: np.ascontiguousarray(array[::-1]))


def _window(available: tuple[int, int], size: tuple[int, int], scale: float, stretch: tuple[float, float]) -> tuple[int, int]:
    """Sides of the source window that becomes `size` when scaled. The whole is scaled up until it covers, and then stretched."""
    scale = max(scale, size[0] / available[0], size[1] / available[1])
    sides = [round(out / (scale * factor)) for out, factor in zip(size, stretch, strict=True)]
    return min(max(sides[0], 1), available[0]), min(max(sides[1], 1), available[1])


def _map(sample: StereoSample, change) -> StereoSample:
    """`change` applied to every array that is there."""
    names = ("left", "right", "disparity", "valid", "disparity_right", "valid_right", "occluded")
    present = {name: array for name in names if (array := getattr(sample, name)) is not None}
    return sample.replace(**{name: change(array) for name, array in present.items()})


def _left_of_view(sample: StereoSample) -> np.ndarray | None:
    """`occluded`, with the pixels whose match the crop has cut off."""
    if sample.occluded is None:
        return None
    return sample.occluded | (sample.valid & (np.arange(sample.disparity.shape[1]) < sample.disparity))
