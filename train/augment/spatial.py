"""Changes of geometry: scale, crop, flips, and rows that do not quite meet. Images, disparity, valid and the right view change together,
or the pair is no pair; the calibration of the stored pair is dropped. A `pose` says where cameras stand: scaling, stretching and cropping
change their focal lengths and centres and leave it true, turning over changes its signs, and what would move a camera by itself refuses it.

How one map is resized is in `utils.geometry`; what leaves pixels where they are is in `photometric`, `degrade` and `patches`.
"""

from collections.abc import Mapping
from math import ceil, radians, tan
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from train.augment.base import Limits, Probability
from train.sample import StereoSample
from utils.errors import UserError
from utils.geometry import mirror, resize_disparity, resize_image, resize_mask
from utils.registry import explain

TURNED_OVER = np.array([-1, 1, -1, 1, -1, 1], np.float32)  # a mirrored rotation turns the other way about the axes that stay


class SpatialOptions(BaseModel):
    """How strongly geometry is varied; the defaults are those of RAFT-Stereo's dense augmentor, with its flips and its y-jitter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Limits[Annotated[float, Field(ge=-4, le=4)]] = (-0.2, 0.5)
    """Exponents: both sides are multiplied by 2^U(first, second), and by more where the crop would not fit."""
    scale_probability: Probability = 0.8
    stretch: Annotated[float, Field(ge=0, le=2)] = 0.2
    """Each side is further multiplied by its own 2^U(-stretch, stretch)."""
    stretch_probability: Probability = 0.8
    horizontal_flip: Probability = 0.5
    """Mirrored with the eyes swapped; only where the sample has the right view's disparity, and no pose."""
    vertical_flip: Probability = 0.1
    y_jitter: Annotated[float, Field(ge=0, le=16)] = 2.0
    """The right image is shifted by U(-y_jitter, y_jitter) rows of the crop, as no rectification is exact; disparity is left alone. Not
    where the sample has a pose, by which it is out of place already."""
    y_jitter_probability: Probability = 1.0
    rotation_deg: Annotated[float, Field(ge=0, le=2)] = 0.1
    """Its rows are tilted by U(-rotation_deg, rotation_deg) about the middle of the crop (CREStereo, 0.1 with probability 0.5); not where
    the sample has a pose."""
    rotation_probability: Probability = 0.0


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

    With options: scaled and cropped at random (one window for both eyes), flipped, and the right eye's rows moved. The window is cut out
    before it is resized, so its sides are whole pixels and the scale is `size / window`. Without: the centre, scaled up where the sample
    is too small; nothing is drawn from `rng`.
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
    rows = rng.uniform(-options.y_jitter, options.y_jitter) if rng.random() < options.y_jitter_probability else 0.0
    tilt_deg = rng.uniform(-options.rotation_deg, options.rotation_deg) if rng.random() < options.rotation_probability else 0.0

    sample = resize(crop(sample, corner, window), size)
    if swap and sample.disparity_right is not None and sample.pose is None:
        sample = flip_horizontally(sample)
    if turn:
        sample = flip_vertically(sample)
    return sample if sample.pose is not None else misalign(sample, rows, tilt_deg)


def crop(sample: StereoSample, corner: tuple[int, int], size: tuple[int, int]) -> StereoSample:
    """The window of `size` (width, height) whose first pixel is `corner` (x, y), the same in both eyes: disparity stays what it was."""
    (x, y), (width, height) = corner, size
    return _unseen(_map(sample, lambda array: array[y : y + height, x : x + width]))


def resize(sample: StereoSample, size: tuple[int, int]) -> StereoSample:
    """The whole sample at `size` (width, height); disparity follows the width."""
    if sample.disparity.shape == (size[1], size[0]):
        return sample
    disparity, valid = resize_disparity(sample.disparity, sample.valid, size, sparse=sample.sparse)
    disparity_right = valid_right = None
    if sample.disparity_right is not None and sample.valid_right is not None:
        disparity_right, valid_right = resize_disparity(sample.disparity_right, sample.valid_right, size, sparse=sample.sparse)
    return _moved(
        sample,
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

    Raises ValueError without that: mirroring the left view's would be wrong ground truth; and for a sample with a pose, which would be
    the left camera's. Which pixels of the new left view are occluded is not known.
    """
    if sample.pose is not None:
        raise ValueError(f"{sample.key}: a horizontal flip would make the pose that of the left camera")
    if sample.disparity_right is None or sample.valid_right is None:
        raise ValueError(f"{sample.key}: a horizontal flip needs the right view's disparity")
    return _moved(
        sample,
        left=mirror(sample.right),
        right=mirror(sample.left),
        disparity=mirror(sample.disparity_right),
        valid=mirror(sample.valid_right),
        disparity_right=mirror(sample.disparity),
        valid_right=mirror(sample.valid),
        occluded=None,
    )


def flip_vertically(sample: StereoSample) -> StereoSample:
    """Top and bottom exchanged; disparity keeps its values. A camera that looked up and rolled clockwise does the opposite, and one that
    stood below stands above."""
    turned = _map(sample, lambda array: np.ascontiguousarray(array[::-1]))
    return turned if sample.pose is None else turned.replace(pose=sample.pose * TURNED_OVER)


def misalign(sample: StereoSample, rows: float, tilt_deg: float) -> StereoSample:
    """The right image shifted down by `rows`, fractions included, and its rows tilted about the middle: what is at (x, y) moves to
    (x, y + rows + tan(tilt_deg) * (x - middle)).

    Of a rotation this is the part that leaves the rows. The other would move columns, up to half a pixel at 0.1 degrees and 540 rows, which
    no network can tell from disparity; so that ground truth stays exact, it is left out. Rows that come in repeat the border. The right
    view's disparity is dropped: its pixels have left their rows. Raises ValueError for a sample with a pose, which would become wrong.
    """
    if sample.pose is not None:
        raise ValueError(f"{sample.key}: the pose says how far the rows are apart; they cannot be moved further")
    if rows == 0 and tilt_deg == 0:
        return sample
    slope = tan(radians(tilt_deg))
    right = shift_rows(sample.right, rows) if slope == 0 else tilt_rows(sample.right, rows, slope)
    return _unseen(_moved(sample, right=right, disparity_right=None, valid_right=None), rows, slope)


def tilt_rows(image: np.ndarray, rows: float, slope: float) -> np.ndarray:
    """The image shifted down by `rows + slope * (x - middle)`, cubic between rows, which blurs less than linear."""
    height, width = image.shape[:2]
    move = np.array([[1, 0, 0], [slope, 1, rows - slope * (width - 1) / 2]])
    return cv2.warpAffine(image, move, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def shift_rows(image: np.ndarray, rows: float) -> np.ndarray:
    """`tilt_rows` without a slope, as a filter down the columns: ten times as fast."""
    reach = ceil(abs(rows)) + 2
    impulse = np.zeros((2 * reach + 1, 1), np.float32)
    impulse[reach] = 1
    return cv2.filter2D(image, -1, tilt_rows(impulse, rows, 0.0)[::-1], borderType=cv2.BORDER_REPLICATE)  # which correlates: turned over


def _window(available: tuple[int, int], size: tuple[int, int], scale: float, stretch: tuple[float, float]) -> tuple[int, int]:
    """Sides of the source window that becomes `size` when scaled. The whole is scaled up until it covers, and then stretched."""
    scale = max(scale, size[0] / available[0], size[1] / available[1])
    sides = [round(out / (scale * factor)) for out, factor in zip(size, stretch, strict=True)]
    return min(max(sides[0], 1), available[0]), min(max(sides[1], 1), available[1])


def _moved(sample: StereoSample, **changes: object) -> StereoSample:
    """The sample with arrays of another geometry. The one place where the calibration, which is of the stored pair, is dropped."""
    return sample.replace(calibration=None, **changes)


def _map(sample: StereoSample, change) -> StereoSample:
    """`change` applied to every array that is there."""
    names = ("left", "right", "disparity", "valid", "disparity_right", "valid_right", "occluded")
    present = {name: array for name in names if (array := getattr(sample, name)) is not None}
    return _moved(sample, **{name: change(array) for name, array in present.items()})


def _unseen(sample: StereoSample, rows: float = 0.0, slope: float = 0.0) -> StereoSample:
    """`occluded`, where it is known, gains the pixels whose match lies beyond the border, once it has moved as in `misalign`."""
    if sample.occluded is None:
        return sample
    height, width = sample.disparity.shape
    x = np.arange(width, dtype=np.float32) - sample.disparity
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(rows) + np.float32(slope) * (x - np.float32((width - 1) / 2))
    return sample.replace(occluded=sample.occluded | (sample.valid & ((x < 0) | (y < 0) | (y > height - 1))))
