"""Operations on one disparity map or one image of a pair: resize, mirror, warp, depth, points. The only place that scales disparity.

Disparity is in pixels of the map that carries it: when the width is scaled by s, so is disparity; scaling the height leaves it alone.
Pixel centres follow OpenCV: (x + 0.5) * s - 0.5, the same in both eyes, so that no offset is left between them.
"""

import cv2
import numpy as np

from utils.calibration import Calibration

EDGE_PX = 1.0  # neighbours further apart than this lie on two surfaces (or on one that no camera sees: x - d would not increase)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) at `size` (width, height): averaged where it shrinks, bilinear where it grows."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    shrinks = size[0] * size[1] < width * height
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) at `size` (width, height), each pixel from the nearest one."""
    return _pick(mask, _nearest(mask.shape[0], size[1]), _nearest(mask.shape[1], size[0]))


def resize_disparity(
    disparity: np.ndarray, valid: np.ndarray, size: tuple[int, int], *, sparse: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Disparity float32 (H, W) and its mask at `size` (width, height), in pixels of the new width.

    Dense maps are interpolated where the four neighbours are valid and lie on one surface (within `EDGE_PX`), and take the nearest
    value elsewhere: no value is invented between a foreground and what lies behind it. Sparse maps are scattered point by point; where
    two points meet, the nearer surface stays.
    """
    height, width = disparity.shape
    if (width, height) == size:
        return disparity, valid
    factor = size[0] / width
    if sparse:
        return _scatter(disparity, valid, size, factor)
    rows, columns = _nearest(height, size[1]), _nearest(width, size[0])
    nearest, nearest_valid = _pick(disparity, rows, columns), _pick(valid, rows, columns)
    smooth = _pick(_smooth_cells(disparity, valid), _before(height, size[1]), _before(width, size[0]))
    bilinear = cv2.resize(disparity, size, interpolation=cv2.INTER_LINEAR)

    resized = np.where(smooth, bilinear, nearest) * np.float32(factor)
    resized_valid = smooth | nearest_valid
    return np.where(resized_valid, resized, np.float32(0)), resized_valid


def mirror(array: np.ndarray) -> np.ndarray:
    """Left and right exchanged, of a type that OpenCV knows, or bool. Alone it turns a pair into no pair: the eyes must be swapped too."""
    return cv2.flip(array.view(np.uint8) if array.dtype == bool else array, 1).view(array.dtype)


def warp_right(right: np.ndarray, disparity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the left eye would see if `disparity` were true: the right image at `x - disparity`, and where that lies inside it.

    right: (H, W) or (H, W, C), any number type; disparity: (H, W) pixels. Returns float32 like `right` and bool (H, W).
    Interpolated with the exact fraction; OpenCV's remap rounds it to 1/32 pixel.
    """
    height, width = disparity.shape
    position = np.arange(width, dtype=np.float64) - disparity
    inside = (position >= 0) & (position <= width - 1)
    position = np.clip(position, 0, width - 1)
    first = np.minimum(position.astype(np.int64), max(width - 2, 0))
    fraction = (position - first).astype(np.float32)
    if right.ndim == 3:
        fraction = fraction[..., None]
    rows = np.arange(height)[:, None]
    low = right[rows, first].astype(np.float32)
    high = right[rows, np.minimum(first + 1, width - 1)].astype(np.float32)
    return low + (high - low) * fraction, inside


def left_right_agree(disparity: np.ndarray, disparity_right: np.ndarray, threshold_px: float = 1.0) -> np.ndarray:
    """bool (H, W): the right view's disparity at `x - disparity` says the same, within the threshold.

    Where it does not, the right eye sees something nearer, or one of both views was matched wrongly; nor does it beyond the right image's
    border. disparity_right: (H, W) of the right view, x_left = x_right + disparity_right; its nearest pixel counts.
    """
    width = disparity.shape[1]
    position = np.rint(np.arange(width) - disparity.astype(np.float64)).astype(np.int64)
    inside = (position >= 0) & (position < width)
    seen = np.take_along_axis(disparity_right, np.clip(position, 0, width - 1), axis=1)
    return inside & (np.abs(seen - disparity) <= threshold_px)


def disparity_to_depth(disparity: np.ndarray, focal_px: float, baseline_m: float, doffs: float = 0.0) -> np.ndarray:
    """Depth in metres, float32: focal_px * baseline_m / (disparity + doffs). 0 where disparity is not positive, which means unknown.

    doffs: x difference of the two principal points in pixels (Middlebury's calib.txt). focal_px and doffs are those of this width.
    """
    return _reciprocal(disparity, focal_px * baseline_m, before=doffs, after=0.0)


def depth_to_disparity(depth: np.ndarray, focal_px: float, baseline_m: float, doffs: float = 0.0) -> np.ndarray:
    """The inverse of `disparity_to_depth`; 0 where depth is not positive, not finite, or gives no positive disparity."""
    return _reciprocal(depth, focal_px * baseline_m, before=0.0, after=doffs)


def depth_to_points(depth: np.ndarray, calibration: Calibration) -> np.ndarray:
    """float32 (H, W, 3): x to the right, y down, z forward from the left camera, metres; zeros where depth is 0.

    calibration: of this size; without a principal point it is the middle of the image.
    """
    height, width = depth.shape
    assert calibration.size == (width, height), f"a calibration of {calibration.size} for a map of {(width, height)}"
    x, y = calibration.centre or ((width - 1) / 2, (height - 1) / 2)
    across = (np.arange(width) - x) / calibration.focal_px
    down = (np.arange(height) - y) / (calibration.focal_y_px or calibration.focal_px)
    return np.stack([depth * across, depth * down[:, None], depth], -1).astype(np.float32)


def _reciprocal(values: np.ndarray, product: float, before: float, after: float) -> np.ndarray:
    known = np.isfinite(values) & (values > 0) & (values + before > 0)
    result = np.zeros(values.shape, np.float32)
    result[known] = product / (values[known].astype(np.float64) + before) - after
    return np.maximum(result, 0)


def _nearest(old: int, new: int) -> np.ndarray:
    """For each of `new` pixels the index of the old pixel whose area holds its centre."""
    return np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1)


def _before(old: int, new: int) -> np.ndarray:
    """For each of `new` pixel centres the first of the two old pixels that it lies between, clamped to the border."""
    return np.clip(((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.int64), 0, max(old - 2, 0))


def _pick(array: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The pixels of these rows and columns; twice as fast as one index for both."""
    return array[rows].take(columns, axis=1)


def _smooth_cells(disparity: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """bool (H, W): the pixel and its right, lower and diagonal neighbours are valid and within `EDGE_PX` of each other."""
    kernel = np.ones((2, 2), np.uint8)
    highest = cv2.dilate(disparity, kernel, anchor=(0, 0), borderType=cv2.BORDER_REPLICATE)
    lowest = cv2.erode(disparity, kernel, anchor=(0, 0), borderType=cv2.BORDER_REPLICATE)
    all_valid = cv2.erode(valid.astype(np.uint8), kernel, anchor=(0, 0), borderType=cv2.BORDER_REPLICATE)
    return (highest - lowest <= EDGE_PX) & (all_valid > 0)


def _scatter(disparity: np.ndarray, valid: np.ndarray, size: tuple[int, int], factor: float) -> tuple[np.ndarray, np.ndarray]:
    height, width = disparity.shape
    rows, columns = np.nonzero(valid)
    values = disparity[rows, columns]
    order = np.argsort(values, kind="stable")  # the last one written stays, and it is the nearest
    new_rows = np.minimum(((rows + 0.5) * (size[1] / height)).astype(np.int64), size[1] - 1)[order]
    new_columns = np.minimum(((columns + 0.5) * (size[0] / width)).astype(np.int64), size[0] - 1)[order]
    resized = np.zeros((size[1], size[0]), np.float32)
    resized_valid = np.zeros((size[1], size[0]), bool)
    resized[new_rows, new_columns] = values[order] * np.float32(factor)
    resized_valid[new_rows, new_columns] = True
    return resized, resized_valid
