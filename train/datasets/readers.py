"""Ground-truth files to disparity: each reader decodes one encoding. Which files belong together is the layouts' business.

Every reader returns `(disparity, valid)`: float32 (H, W) in pixels of the file, finite, 0 where not valid; bool (H, W). A file that
cannot be decoded raises OSError or ValueError with its name.
"""

from pathlib import Path

import numpy as np

from utils.images import read_raw
from utils.pfm import read_pfm

FSD_BASE = 255  # not 256: the encoding of FoundationStereo's data set
FSD_UNIT = 1000  # codes per pixel of disparity
FSD_MAX_CODE = 255 * FSD_BASE**2 + 255 * FSD_BASE + 255


def read_fsd_disparity(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """FoundationStereo's 8-bit RGB PNG, d = (R * 255^2 + G * 255 + B) / 1000; 0 is unknown (readme and scripts/vis_dataset.py there)."""
    code = read_raw(path)
    if code.dtype != np.uint8 or code.ndim != 3 or code.shape[2] != 3:
        raise ValueError(f"{path}: expected an 8-bit RGB PNG with disparity coded in base 255, found {code.dtype} {code.shape}")
    red, green, blue = (code[..., channel].astype(np.int32) for channel in range(3))
    disparity = (red * FSD_BASE**2 + green * FSD_BASE + blue) / np.float32(FSD_UNIT)
    return _masked(disparity)


def encode_fsd(disparity: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) RGB for `read_fsd_disparity`, exact to half of 0.001 pixel; write it as PNG. Not finite or <= 0 becomes 0, unknown.

    ValueError above 16 646.7 pixels, the largest number of the encoding.
    """
    known = np.isfinite(disparity) & (disparity > 0)
    code = np.zeros(disparity.shape, np.int64)
    code[known] = np.rint(disparity[known].astype(np.float64) * FSD_UNIT)
    if code.max(initial=0) > FSD_MAX_CODE:
        raise ValueError(f"disparity {code.max() / FSD_UNIT:.1f} does not fit the FSD encoding, which ends at {FSD_MAX_CODE / FSD_UNIT}")
    red = np.minimum(code // FSD_BASE**2, 255)
    code -= red * FSD_BASE**2
    green = np.minimum(code // FSD_BASE, 255)
    return np.stack([red, green, code - green * FSD_BASE], axis=-1).astype(np.uint8)


def read_pfm_disparity(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """PFM in pixels (SceneFlow, Middlebury, ETH3D); inf, NaN and values <= 0 are unknown."""
    values = read_pfm(path)
    if values.ndim != 2:
        raise ValueError(f"{path}: expected one channel ('Pf'), found three")
    return _masked(values)


def read_png16_disparity(path: Path, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """16-bit grey PNG, d = value / scale (KITTI 256, CREStereo 32, InStereo2K 100); 0 is unknown."""
    values = read_raw(path)
    if values.dtype != np.uint16 or values.ndim != 2:
        raise ValueError(f"{path}: expected a 16-bit PNG with one channel, found {values.dtype} {values.shape}")
    return _masked(values / np.float32(scale))


def _masked(disparity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    valid = np.isfinite(disparity) & (disparity > 0)
    return np.where(valid, disparity, 0).astype(np.float32), valid
