"""Ground-truth files to disparity: each reader decodes one encoding. Which files belong together is the layouts' business.

Readers of disparity return `(disparity, valid)`: float32 (H, W) in pixels of the file, finite, 0 where not valid; bool (H, W). Readers of
depth return float32 (H, W) in metres, 0 where unknown. A file that cannot be decoded raises OSError or ValueError with its name.
"""

import zipfile
import zlib
from importlib import import_module
from pathlib import Path
from tokenize import TokenError
from types import ModuleType

import numpy as np

from utils.calibration import Calibration
from utils.errors import UserError
from utils.geometry import depth_to_disparity
from utils.images import read_raw
from utils.pfm import read_pfm

FSD_BASE = 255  # not 256: the encoding of FoundationStereo's data set
FSD_UNIT = 1000  # codes per pixel of disparity
FSD_MAX_CODE = 255 * FSD_BASE**2 + 255 * FSD_BASE + 255
# What NumPy and zipfile raise for a damaged NPY or NPZ; of memory there is too little where the header asks for terabytes.
UNREADABLE = (ValueError, EOFError, MemoryError, RuntimeError, TokenError, zipfile.BadZipFile, zlib.error)


def read_fsd_disparity(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """FoundationStereo's 8-bit RGB PNG, d = (R * 255^2 + G * 255 + B) / 1000; 0 is unknown (readme and scripts/vis_dataset.py there)."""
    code = _stored(path, np.uint8, 3, "an 8-bit RGB PNG with disparity coded in base 255")
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
    values = _stored(path, np.uint16, 1, "a 16-bit PNG with one channel")
    return known(values / np.float32(scale))


def read_sintel_disparity(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Sintel's 8-bit RGB PNG, d = 4 R + G / 64 + B / 16384; 0 is unknown. Multiplied as bytes, every disparity from 256 on would wrap."""
    code = _stored(path, np.uint8, 3, "an 8-bit RGB PNG with disparity coded as in Sintel")
    return known(code.astype(np.float32) @ np.array([4, 2**-6, 2**-14], np.float32))


def read_spring_disparity(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Spring's HDF5 (`.dsp5`), `disparity` at twice the width and height of the images, but in pixels of the images: every second value of
    every second row, as it is; NaN is unknown (spring_utils, dataloader.py).
    """
    h5py = need("h5py", "spring", path)
    path.open("rb").close()  # so that a missing file is named
    try:
        with h5py.File(path, "r") as file:
            stored = file["disparity"][()]  # whole: HDF5 is slower at picking every second value
    except (OSError, KeyError) as error:
        raise ValueError(f"{path}: expected HDF5 with 'disparity' ({error})") from None
    return known(stored[::2, ::2])


def read_grey8_disparity(path: Path, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """8-bit grey PNG or PGM, d = value / scale (Middlebury 2001 to 2006); 0 is unknown."""
    values = _stored(path, np.uint8, 1, "an 8-bit picture with one channel")
    return known(values / np.float32(scale))


def read_nocc_mask(path: Path) -> np.ndarray:
    """bool (H, W), where the right eye does not see: `mask0nocc.png` of Middlebury v3 and ETH3D has 255 both, 128 occluded, 0 unknown.

    Not to be read as a yes or no: 128 is no non-occluded pixel.
    """
    expected = "an 8-bit mask of 0, 128 and 255 with one channel"
    values = _stored(path, np.uint8, 1, expected)
    if not np.isin(values, (0, 128, 255)).all():
        raise ValueError(f"{path}: expected {expected}, found other values")
    return values == 128


def read_mask(path: Path) -> np.ndarray:
    """bool (H, W), where a picture (any of its channels but alpha) or an NPY array is not 0."""
    values = read_array(path) if path.suffix == ".npy" else read_raw(path)
    if values.ndim == 3:
        channels = values.shape[2]
        values = values[..., : channels - 1 if channels in (2, 4) else channels].max(axis=2)
    return values != 0


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an NPZ file. No pickled objects."""
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except UNREADABLE as error:
        raise ValueError(f"{path}: {error}") from None


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
    except UNREADABLE as error:
        raise ValueError(f"{path}: {error}") from None
    values = stored[0] if stored.ndim == 3 and len(stored) == 1 else stored[..., 0] if stored.ndim == 3 and stored.shape[2] == 1 else stored
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise ValueError(f"{path}: expected numbers (H, W), found {stored.dtype} {stored.shape}")
    return values


def read_png16_depth(path: Path, unit_m: float) -> np.ndarray:
    """Depth float32 (H, W) in metres, 16-bit grey PNG in units of `unit_m`; 0 where unknown, and where the encoding ends (65535).

    Virtual KITTI 2 has 65535 in the sky, Falling Things wherever it is further than 6.5535 m.
    """
    values = _stored(path, np.uint16, 1, "a 16-bit PNG with one channel")
    return np.where(values < 65535, values * np.float32(unit_m), np.float32(0))


def read_half_depth(path: Path) -> np.ndarray:
    """Depth float32 (H, W) in metres, a 16-bit grey PNG whose values are the bits of float16 (Dynamic Replica); 0 below 1e-5 m."""
    values = _stored(path, np.uint16, 1, "a 16-bit PNG with one channel")
    depth = values.view(np.float16).astype(np.float32)
    return np.where(depth >= 1e-5, depth, np.float32(0))


def read_headless(path: Path, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) RGB of a file of bare BGR bytes, row by row, as UnrealStereo4K has them. size: (width, height), not in the file."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if len(data) != 3 * size[0] * size[1]:
        raise ValueError(f"{path}: expected {size[0]}x{size[1]} pixels of three bytes, found {len(data)} bytes")
    return np.ascontiguousarray(data.reshape(size[1], size[0], 3)[..., ::-1])


def read_exr(path: Path, channel: str | None = None) -> np.ndarray:
    """float32 (H, W) of an OpenEXR file: its only channel, or the one called `channel`. OpenCV's wheels no longer read the format."""
    openexr = need("OpenEXR", "exr", path)
    path.open("rb").close()  # so that a missing file is an OSError like everywhere
    try:
        with openexr.File(str(path), separate_channels=True) as file:
            channels = {name: stored.pixels for name, stored in file.channels().items()}
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be decoded as EXR ({error})") from None
    if channel is None and len(channels) == 1:
        (channel,) = channels
    if channel not in channels:
        raise ValueError(f"{path}: holds the channels {', '.join(channels)}; expected {channel or 'one of them to be named'}")
    return channels[channel].astype(np.float32)


def looks_sparse(valid: np.ndarray) -> bool:
    """Whether what is known (bool (H, W)) are single points, as of a laser: of less than half of them all four neighbours are known.

    Of 18 real pairs the share is 0.12 to 0.25 with KITTI and 0.87 or more with Middlebury and ETH3D.
    """
    inner = valid[1:-1, 1:-1]
    surrounded = inner & valid[:-2, 1:-1] & valid[2:, 1:-1] & valid[1:-1, :-2] & valid[1:-1, 2:]
    return bool(2 * surrounded.sum() < inner.sum())


def read_number(path: Path) -> float:
    """The one number of a text file."""
    try:
        return float(path.read_text())
    except ValueError:
        raise ValueError(f"{path}: expected one number and nothing else") from None


def read_npy_disparity(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """An array of pixels (UnrealStereo4K, Booster); inf, NaN and values <= 0 are unknown."""
    return known(read_array(path))


def depth_disparity(depth_m: np.ndarray, calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Depth in metres as disparity in pixels of `calibration`; depth that is not finite or not positive is unknown."""
    return known(depth_to_disparity(depth_m, calibration.focal_px, calibration.baseline_m, calibration.doffs_px))


def need(package: str, extra: str, where: object) -> ModuleType:
    """A package that only some data sets need. UserError, beginning with `where`, where it is not installed.

    extra: its name in pyproject.toml. Called as well when such a data set is built, so that no run starts that cannot read it.
    """
    try:
        return import_module(package)
    except ImportError:
        raise UserError(f"{where}: needs a package that is not installed; pip install {package}, or uv run --extra {extra} ...") from None


def _stored(path: Path, dtype: type, channels: int, expected: str) -> np.ndarray:
    """`read_raw`, or ValueError that says what was `expected`."""
    values = read_raw(path)
    if values.dtype != dtype or values.shape[2:] != (() if channels == 1 else (channels,)):
        raise ValueError(f"{path}: expected {expected}, found {values.dtype} {values.shape}")
    return values


def known(disparity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The contract of every reader: float32 with 0 where unknown, and the mask of what is known, finite (as float32) and positive."""
    with np.errstate(over="ignore"):
        disparity = disparity.astype(np.float32, copy=False)
    valid = np.isfinite(disparity) & (disparity > 0)
    return np.where(valid, disparity, np.float32(0)), valid
