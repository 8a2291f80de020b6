"""Ground-truth files to disparity: each reader decodes one encoding. Which files belong together is the layouts' business.

Every reader returns `(disparity, valid)`: float32 (H, W) in pixels of the file, finite, 0 where not valid; bool (H, W). A file that
cannot be decoded raises OSError or ValueError with its name.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from utils.calibration import Calibration
from utils.errors import UserError
from utils.geometry import depth_to_disparity
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
    return known(disparity)


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


def read_pfm_disparity(path: Path, *, signed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """PFM in pixels (SceneFlow, Middlebury, ETH3D); inf, NaN and values <= 0 are unknown.

    signed: the sign says the direction and not that a value is unknown; SceneFlow has views with negative disparities.
    """
    values = read_pfm(path)
    if values.ndim != 2:
        raise ValueError(f"{path}: expected one channel ('Pf'), found three")
    return known(np.abs(values) if signed else values)


def read_png16_disparity(path: Path, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """16-bit grey PNG, d = value / scale (KITTI 256, CREStereo 32, InStereo2K 100); 0 is unknown."""
    values = read_raw(path)
    if values.dtype != np.uint16 or values.ndim != 2:
        raise ValueError(f"{path}: expected a 16-bit PNG with one channel, found {values.dtype} {values.shape}")
    return known(values / np.float32(scale))


def read_grey8_disparity(path: Path, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """8-bit grey PNG or PGM, d = value / scale (Middlebury 2001 to 2006); 0 is unknown."""
    values = read_raw(path)
    if values.dtype != np.uint8 or values.ndim != 2:
        raise ValueError(f"{path}: expected an 8-bit picture with one channel, found {values.dtype} {values.shape}")
    return known(values / np.float32(scale))


def read_nocc_mask(path: Path) -> np.ndarray:
    """bool (H, W), where the right eye does not see: `mask0nocc.png` of Middlebury v3 and ETH3D has 255 both, 128 occluded, 0 unknown.

    Not to be read as a yes or no: 128 is no non-occluded pixel.
    """
    values = read_raw(path)
    if values.dtype != np.uint8 or values.ndim != 2 or not np.isin(values, (0, 128, 255)).all():
        raise ValueError(f"{path}: expected an 8-bit mask of 0, 128 and 255 with one channel, found {values.dtype} {values.shape}")
    return values == 128


def read_mask(path: Path) -> np.ndarray:
    """bool (H, W), where a picture (any of its channels) or an NPY array is not 0."""
    values = read_array(path) if path.suffix == ".npy" else read_raw(path)
    return values.any(axis=2) if values.ndim == 3 else values != 0


def read_array(path: Path, entry: str | None = None) -> np.ndarray:
    """The numbers of an NPY file, or of `entry` in an NPZ file: (H, W), also stored as (1, H, W) or (H, W, 1). No pickled objects."""
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.lib.npyio.NpzFile):
            with stored:
                names = list(stored)
                if entry is None and len(names) > 1:
                    raise ValueError(f"holds {', '.join(names)}; say which of them")
                if entry is not None and entry not in names:
                    raise ValueError(f"has no '{entry}'; it holds {', '.join(names)}")
                stored = stored[names[0] if entry is None else entry]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: {error}") from None
    values = stored[0] if stored.ndim == 3 and len(stored) == 1 else stored[..., 0] if stored.ndim == 3 and stored.shape[2] == 1 else stored
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise ValueError(f"{path}: expected numbers (H, W), found {stored.dtype} {stored.shape}")
    return values


def read_exr(path: Path, channel: str | None = None) -> np.ndarray:
    """float32 (H, W) of an OpenEXR file: its only channel, or the one called `channel`. OpenCV's wheels no longer read the format."""
    try:
        import OpenEXR
    except ImportError:
        raise UserError(f"{path}: reading EXR needs a package that is not installed; pip install OpenEXR") from None
    path.open("rb").close()  # so that a missing file is an OSError like everywhere
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels = {name: stored.pixels for name, stored in file.channels().items()}
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be decoded as EXR ({error})") from None
    if channel is None and len(channels) == 1:
        (channel,) = channels
    if channel not in channels:
        raise ValueError(f"{path}: holds the channels {', '.join(channels)}; expected {channel or 'one of them to be named'}")
    return channels[channel].astype(np.float32)


def read_number(path: Path) -> float:
    """The one number of a text file."""
    try:
        return float(path.read_text())
    except ValueError:
        raise ValueError(f"{path}: expected one number and nothing else") from None


def depth_disparity(depth_m: np.ndarray, calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Depth in metres as disparity in pixels of `calibration`; depth that is not finite or not positive is unknown."""
    return known(depth_to_disparity(depth_m, calibration.focal_px, calibration.baseline_m, calibration.doffs_px))


def known(disparity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The contract of every reader: float32 with 0 where unknown, and the mask of what is known, finite and positive."""
    valid = np.isfinite(disparity) & (disparity > 0)
    return np.where(valid, disparity, 0).astype(np.float32), valid
